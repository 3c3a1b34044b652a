"""Is the true rate within a limit? Exact bounds decide, or tell how many samples would."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt

from lightning_flip.reports.intervals import clopper_pearson_lower, clopper_pearson_upper, special_functions

__all__ = ["GroupOutcome", "Status", "judge_groups", "samples_to_decide", "worst_status"]

Status = Literal["pass", "fail", "inconclusive"]
Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

_MOST_SAMPLES = 10**9


@dataclasses.dataclass(frozen=True)
class GroupOutcome:
    """The decision on one group of samples: all of them, a class, or a slice.

    Attributes:
        name: the class, or the value in the slice column.
        flips: how many of its samples are negative flips.
        samples: how many samples it has, at least 1.
        status: `"pass"`, `"fail"` or `"inconclusive"`.
        lower: the lower bound that was compared with the limit to fail it, in [0, 1].
        upper: the upper bound that was compared with the limit to pass it, in [0, 1].
        samples_needed: the smallest number of samples that decides at the observed rate; None if it is decided, or if
            no number up to a billion decides.
        column: the slice column; None for classes and for all samples.
        could_flip: how many of its samples the old model has right; no other sample can be a negative flip. None if
            unknown.
    """

    name: str
    flips: int
    samples: int
    status: Status
    lower: float
    upper: float
    samples_needed: int | None = None
    column: str | None = None
    could_flip: int | None = None

    @property
    def rate(self) -> float:
        """Flips / samples."""
        return self.flips / self.samples

    @property
    def title(self) -> str:
        """The name; of a slice `column=value`, or `column=(missing)` for a missing value."""
        return self.name if self.column is None else f"{self.column}={self.name or '(missing)'}"


def worst_status(statuses: Sequence[Status]) -> Status:
    """One limit that fails fails them all, else one that is inconclusive leaves all inconclusive."""
    if "fail" in statuses:
        return "fail"
    return "inconclusive" if "inconclusive" in statuses else "pass"


def judge_groups(
    names: Sequence[str],
    flips: Ints,
    samples: Ints,
    limit: float,
    error: float = 0.05,
    columns: Sequence[str | None] | None = None,
    could_flip: Ints | None = None,
) -> tuple[GroupOutcome, ...]:
    """Compare the flip rate of each group with one limit.

    A group passes when its upper Clopper-Pearson bound at `error` is at most the limit, and fails when its lower bound
    at `error / G` is over it. So each of the two mistakes has a chance of at most `error` for the groups together:

    - All pass although one is over the limit: that one had to pass, which has a chance of at most `error`; no
      correction is needed (intersection-union test).
    - One fails although all are within the limit: any of G may, each with a chance of at most `error / G` (Bonferroni).

    `error` is between 0 and 0.5; `columns` are the slice columns of the groups, `could_flip` the samples that the old
    model has right. A group without any is inconclusive: it could not flip. Outcomes come in the groups' order.

    Example:
        >>> small, large = judge_groups(["cat", "dog"], np.array([0, 0]), np.array([60, 500]), 0.01)
        >>> small.status, small.samples_needed, large.status
        ('inconclusive', 299, 'pass')
    """
    upper = clopper_pearson_upper(flips, samples, error)
    lower = clopper_pearson_lower(flips, samples, error / len(names))
    possible = np.ones(len(names), bool) if could_flip is None else could_flip > 0
    passed, failed = (upper <= limit) & possible, lower > limit
    needed = np.full(len(names), np.inf)
    open_ = ~passed & ~failed & possible
    needed[open_] = samples_to_decide(flips[open_] / samples[open_], limit, error, error / len(names))
    # At the edge the bounds and the search may round differently; these samples did not decide.
    needed[open_] = np.maximum(needed[open_], samples[open_] + 1)
    return tuple(
        GroupOutcome(
            name,
            int(flips[place]),
            int(samples[place]),
            "pass" if passed[place] else "fail" if failed[place] else "inconclusive",
            float(lower[place]),
            float(upper[place]),
            int(needed[place]) if np.isfinite(needed[place]) else None,
            None if columns is None else columns[place],
            None if could_flip is None else int(could_flip[place]),
        )
        for place, name in enumerate(names)
    )


def samples_to_decide(rate: Floats, limit: float, error: float = 0.05, fail_error: float | None = None) -> Floats:
    r"""Find the smallest number of samples n at which a rate can be told from a limit.

    With x = rate n flips among n samples (x need not be whole: the binomial tails are continued as beta integrals), a
    rate under the limit passes once :math:`P(X \le x \mid limit) \le error`, one over it fails once
    :math:`P(X \ge x \mid limit) \le fail\_error`. The next samples will not have the observed rate exactly, so take
    the number as a guide.

    Returns [G], whole numbers; infinity if no n up to a billion decides: the rate is the limit, or almost. A
    limit of 0 cannot be passed.

    Example:
        >>> samples_to_decide(np.array([0.0, 0.005, 0.01, 0.02]), 0.01)
        array([ 299., 1146.,   inf,  401.])
    """
    beta = special_functions()
    fail_error = error if fail_error is None else fail_error
    under = (rate < limit) | (limit == 1.0)

    def decides(number: Floats) -> npt.NDArray[np.bool_]:
        flips, rest = rate * number, (1 - rate) * number
        # The arguments that do not apply to a rate are replaced by 1, for which the integrals are defined.
        high = beta.betaincc(np.where(under, flips + 1, 1.0), np.where(under & (rest > 0), rest, 1.0), limit)
        low = beta.betainc(np.where(~under & (flips > 0), flips, 1.0), rest + 1, limit)
        known: npt.NDArray[np.bool_] = np.where(under, high <= error, (low <= fail_error) & (flips > 0))
        return known

    few = np.zeros_like(rate, dtype=np.float64)
    many = np.full_like(few, _MOST_SAMPLES)
    never = ~decides(many)
    while (many - few > 1).any():
        middle = np.floor((few + many) / 2)
        enough = decides(middle)
        many, few = np.where(enough, middle, many), np.where(enough, few, middle)
    return np.where(never, np.inf, many)
