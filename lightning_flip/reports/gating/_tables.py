"""The gate's limits as a table, and its flips in a sentence."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from lightning_flip.reports.gating._limits import Status
from lightning_flip.reports.gating._reasons import percent
from lightning_flip.reports.text import PlainTable, quote

__all__ = ["MARKS", "flips_sentence", "limits_table", "most_text", "names_text"]

MARKS: dict[Status, str] = {"pass": "✅", "fail": "❌", "inconclusive": "❓"}
_LEFT_OUT = {
    "only_old": "only the old model has",
    "only_new": "only the new model has",
    "outside_classes": "of classes that only one model knows",
}


def limits_table(limits: Iterable[tuple[str, float | None, Status, str]]) -> PlainTable:
    """Name, limit, status and reason of each outcome."""
    rows = tuple(
        (name, most_text(limit), f"{MARKS[status]} {status}", reason) for name, limit, status, reason in limits
    )
    return PlainTable("", ("limit", "at most", "result", "why"), rows, words=(0, 2, 3))


def flips_sentence(flips: int, samples: int, left_out: Mapping[str, int]) -> str:
    """How many samples flipped, and which were left out."""
    text = f"{flips:,} of {samples:,} samples are negative flips ({percent(flips / samples)})."
    reasons = [f"{count:,} {_LEFT_OUT.get(why, why)}" for why, count in left_out.items()]
    return f"{text} Samples left out: {', '.join(reasons)}." if reasons else text


def names_text(old: str, new: str, arrow: str) -> str:
    """Where the two models' predictions came from."""
    return f"{quote(old)} {arrow} {quote(new)}"


def most_text(limit: float | None) -> str:
    """A limit for a cell."""
    return "-" if limit is None else percent(limit, 10)
