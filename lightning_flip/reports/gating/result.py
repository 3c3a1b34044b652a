"""The decision on an update, as numbers, words and an exit code."""

from __future__ import annotations

import dataclasses
from typing import Any

from lightning_flip.reports.gating._limits import GroupOutcome, Status, worst_status

__all__ = ["GateResult", "LimitOutcome"]

_EXIT_CODES: dict[Status, int] = {"pass": 0, "fail": 1, "inconclusive": 3}


@dataclasses.dataclass(frozen=True)
class LimitOutcome:
    """What one limit says about an update.

    Attributes:
        name: `"max_nfr"`, `"max_nfr_per_class"`, `"max_nfr_per_slice"` or `"must_not_flip"`.
        status: `"pass"`, `"fail"` or `"inconclusive"`.
        reason: why, in a sentence or two; labels and ids in it are shortened and free of control characters.
        limit: the rate that is accepted at most; None for `must_not_flip`.
        groups: the groups that were compared with the limit: all samples, each class, or each value of each slice
            column; empty for `must_not_flip`.
        watched: how many samples must not flip; None for the other limits.
        already_wrong: how many of these the old model had wrong; None for the other limits.
        flipped: ids of those that are negative flips.

    Example:
        >>> outcome = LimitOutcome("must_not_flip", "fail", "...", watched=2, already_wrong=0, flipped=("7",))
        >>> outcome.to_dict()
        {'name': 'must_not_flip', 'status': 'fail', 'reason': '...', 'watched': 2, 'already_wrong': 0, 'flipped': ['7']}
    """

    name: str
    status: Status
    reason: str
    limit: float | None = None
    groups: tuple[GroupOutcome, ...] = ()
    watched: int | None = None
    already_wrong: int | None = None
    flipped: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """The outcome in the types of JSON; a rate's limit and groups, or the counts and ids of `must_not_flip`."""
        numbers: dict[str, Any] = {"name": self.name, "status": self.status, "reason": self.reason}
        if self.limit is None:
            return numbers | {
                "watched": self.watched,
                "already_wrong": self.already_wrong,
                "flipped": list(self.flipped),
            }
        groups = [dataclasses.asdict(group) | {"rate": group.rate} for group in self.groups]
        return numbers | {"limit": self.limit, "groups": groups}


@dataclasses.dataclass(frozen=True)
class GateResult:
    """What all limits say about an update; `gate` makes it.

    Attributes:
        outcomes: one a limit, at least one.
        error: the chance of each of the two mistakes that each limit's bounds allow.
        samples: how many samples were compared.
        flips: how many of them are negative flips.
        left_out: how many rows joining left out, by why (`only_old`, `only_new`, `outside_classes`); empty when it left
            out none.
        old_name: where the old model's predictions came from.
        new_name: where the new model's predictions came from.

    Example:
        >>> outcome = LimitOutcome("must_not_flip", "pass", "...", watched=2, already_wrong=0)
        >>> result = GateResult((outcome,), 0.05, 100, 3)
        >>> result.status, result.exit_code
        ('pass', 0)
    """

    outcomes: tuple[LimitOutcome, ...]
    error: float
    samples: int
    flips: int
    left_out: dict[str, int] = dataclasses.field(default_factory=dict)
    old_name: str = "old"
    new_name: str = "new"

    @property
    def status(self) -> Status:
        """`"fail"` when any limit fails, else `"inconclusive"` when any is open, else `"pass"`."""
        return worst_status([outcome.status for outcome in self.outcomes])

    @property
    def exit_code(self) -> int:
        """What a command line ends with: 0 pass, 1 fail, 3 inconclusive (2 is left to wrong usage)."""
        return _EXIT_CODES[self.status]

    def to_dict(self) -> dict[str, Any]:
        """Everything in the types of JSON: lists, dicts, text, numbers and None."""
        return {
            "status": self.status,
            "exit_code": self.exit_code,
            "old": self.old_name,
            "new": self.new_name,
            "error": self.error,
            "samples": self.samples,
            "negative_flips": self.flips,
            "negative_flip_rate": self.flips / self.samples,
            "left_out": dict(self.left_out),
            "limits": [outcome.to_dict() for outcome in self.outcomes],
        }
