"""The gate's limits as a table, and what they rest on in sentences."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

from lightning_flip.reports.gating._limits import Status
from lightning_flip.reports.gating._reasons import percent, shown_limit
from lightning_flip.reports.text import PlainTable, printable
from lightning_flip.reports.update.counts import FlipRate

__all__ = ["MARKS", "evidence", "flips_sentence", "limit_text", "limits_table"]

MARKS: dict[Status, str] = {"pass": "✅", "fail": "❌", "inconclusive": "❓"}
_LEFT_OUT = {
    "only_old": "only the old model has",
    "only_new": "only the new model has",
    "outside_classes": "of classes that only one model knows",
    "unlabelled": "without a target",
}


class Outcome(Protocol):
    """What the tables read of a `LimitOutcome`."""

    @property
    def name(self) -> str: ...
    @property
    def status(self) -> Status: ...
    @property
    def reason(self) -> str: ...
    @property
    def limit(self) -> float | None: ...
    @property
    def tier(self) -> str: ...
    @property
    def measure(self) -> str | None: ...


def limits_table(outcomes: Iterable[Outcome]) -> PlainTable:
    """Name, limit, status and reason of each outcome."""
    rows = [
        (
            outcome.name if outcome.tier == "block" else f"{outcome.name} (only warns)",
            limit_text(outcome),
            f"{MARKS[outcome.status]} {outcome.status}",
            outcome.reason,
        )
        for outcome in outcomes
    ]
    return PlainTable("", ("limit", "at most", "result", "why"), tuple(rows), words=(0, 2, 3))


def flips_sentence(flips: int, samples: int, left_out: Mapping[str, int]) -> str:
    """How many samples flipped, and which were left out."""
    text = f"{flips:,} of {samples:,} samples are negative flips ({percent(flips / samples)})."
    reasons = [f"{count:,} {_LEFT_OUT.get(why, why)}" for why, count in left_out.items()]
    return f"{text} Samples left out: {', '.join(reasons)}." if reasons else text


def evidence(rates: Mapping[str, FlipRate], samples: int, warnings: Sequence[str]) -> list[str]:
    """How accurate both models are, how many samples could flip, and what makes the verdict doubtful."""
    lines = []
    if rates:
        old, new = (rates[name] for name in ("old_accuracy", "new_accuracy"))
        lines.append(
            f"Accuracy: old {_rate(old)}, new {_rate(new)}. {old.count:,} of {samples:,} samples could flip: the"
            " old model has them right."
        )
    return lines + [f"Warning: {printable(text)}" for text in warnings]


def limit_text(outcome: Outcome) -> str:
    """A limit for a cell."""
    if outcome.limit is None:
        return "-"
    return f"{outcome.limit:.10g}" if outcome.measure is None else shown_limit(outcome.measure, outcome.limit)


def _rate(rate: FlipRate) -> str:
    between = "" if rate.low is None or rate.high is None else f" ({percent(rate.low)} to {percent(rate.high)})"
    return f"{percent(rate.value)}{between}"
