"""Is the true value within a limit? Bounds decide on each group of samples."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from lightning_flip.reports.gating._advice import advised_samples
from lightning_flip.reports.gating.measures import Tally
from lightning_flip.reports.intervals import holm

__all__ = ["GroupOutcome", "Status", "judge_groups", "worst_status"]

Status = Literal["pass", "fail", "inconclusive"]
Floats = npt.NDArray[np.float64]


@dataclasses.dataclass(frozen=True)
class GroupOutcome:
    """The decision on one group of samples: all of them, a class, or a slice.

    Attributes:
        name: the class, or the value in the slice column.
        count: what was counted, such as negative flips; the sum of a value whose mean is limited.
        among: what it is counted among, such as samples.
        status: `"pass"`, `"fail"` or `"inconclusive"`.
        lower: one-sided lower bound of the true value.
        upper: one-sided upper bound, which has to be within the limit to pass.
        p_value: p-value against "the true value is within the limit", adjusted for the number of groups (Holm); a group
            fails if it is at most the error. None if the limit is not decided on it.
        samples_needed: a number of fresh samples that would decide with a chance of 80% if the true rate were
            `assumed_rate`; None if it is decided, or if no number up to a billion would.
        assumed_rate: the rate halfway between the limit and the bound; None if it is decided.
        column: the slice column; None for classes and for all samples.
        could_flip: how many of its samples could have counted: for flips, those that the old model has right.
        samples: how many samples it has, at least 1.
    """

    name: str
    count: float
    among: float
    status: Status
    lower: float
    upper: float
    p_value: float | None = None
    samples_needed: int | None = None
    assumed_rate: float | None = None
    column: str | None = None
    could_flip: int | None = None
    samples: int | None = None

    @property
    def estimate(self) -> float | None:
        """Count / among, the observed value; None if there was nothing to count among."""
        return self.count / self.among if self.among else None

    @property
    def title(self) -> str:
        """The name; of a slice `column=value`, or `column=(missing)` for a missing value."""
        return self.name if self.column is None else f"{self.column}={self.name or '(missing)'}"

    def to_dict(self) -> dict[str, Any]:
        """The outcome in the types of JSON; a bound that does not exist is None."""
        values = vars(self) | {"estimate": self.estimate}
        for bound in ("lower", "upper"):
            values[bound] = values[bound] if math.isfinite(values[bound]) else None
        return values


def worst_status(statuses: Sequence[Status]) -> Status:
    """One limit that fails fails them all, else one that is inconclusive leaves all inconclusive."""
    if "fail" in statuses:
        return "fail"
    return "inconclusive" if "inconclusive" in statuses else "pass"


def judge_groups(
    names: Sequence[str],
    tally: Tally,
    limit: float,
    error: float = 0.05,
    *,
    columns: Sequence[str | None] | None = None,
    side: Literal["most", "least"] = "most",
    fixed: bool = False,
    advise: bool = True,
) -> tuple[GroupOutcome, ...]:
    """Compare the value of each group with one limit.

    A group passes if its upper bound at `error` is at most the limit, and fails if its p-value, adjusted by Holm's
    step-down procedure, is at most `error`. So each of the two mistakes has a chance of at most `error` for the groups
    together, as far as the bounds hold theirs:

    - All pass although one is over the limit: that one had to pass, which has a chance of at most `error`; no
      correction is needed (intersection-union test).
    - One fails although all are within the limit: Holm's procedure bounds the chance that any does.

    A group in which nothing could count is inconclusive. With `side="least"` the limit is the smallest value that is
    accepted, and there is one group. With `fixed` the observed values decide. `advise` tells how many samples would
    decide on a group that is inconclusive.

    Example:
        >>> from lightning_flip.reports.gating.measures import Shares
        >>> tally = Shares.of(np.array([0, 0]), np.array([60, 500]))
        >>> small, large = judge_groups(["cat", "dog"], tally, 0.01)
        >>> small.status, small.samples_needed, large.status
        ('inconclusive', 2185, 'pass')
    """
    seen = tally.estimate()
    possible = (tally.could > 0) & ~np.isnan(seen)
    adjusted: Floats | None = None
    if fixed:
        lower = upper = seen
        within = seen <= limit if side == "most" else seen >= limit
        passed, failed = within & possible, ~within & possible
    else:
        lower, upper = tally.bounds(error)
        if side == "most":
            adjusted = holm(tally.p_above(limit))
            passed, failed = (upper <= limit) & possible, adjusted <= error
        else:
            passed, failed = lower >= limit, upper < limit
    needed, rate = np.full(len(names), np.nan), np.full(len(names), np.nan)
    open_ = ~passed & ~failed & possible
    if advise and side == "most" and not fixed and open_.any() and limit < 1:
        rate[open_], needed[open_] = advised_samples(
            tally.count[open_], tally.among[open_], limit, error, error / len(names)
        )
    return tuple(
        GroupOutcome(
            name,
            _number(tally.count[place]),
            _number(tally.among[place]),
            "pass" if passed[place] else "fail" if failed[place] else "inconclusive",
            float(lower[place]),
            float(upper[place]),
            None if adjusted is None else float(adjusted[place]),
            int(needed[place]) if np.isfinite(needed[place]) else None,
            None if np.isnan(rate[place]) else float(rate[place]),
            None if columns is None else columns[place],
            int(tally.could[place]),
            int(tally.samples[place]),
        )
        for place, name in enumerate(names)
    )


def _number(value: float) -> float:
    """A count without a decimal point."""
    return int(value) if float(value).is_integer() else float(value)
