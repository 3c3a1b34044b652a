"""How many fresh samples would decide on a group that is inconclusive?"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from lightning_flip.reports.gating._power import Verdict, lasting_samples
from lightning_flip.reports.intervals import special_functions

__all__ = ["SampleAdvice", "advice_sentence", "advised_samples"]

Floats = npt.NDArray[np.float64]


class SampleAdvice(NamedTuple):
    """How many fresh samples decide on each group, and the true rate that this rests on.

    Attributes:
        rate: [G], the assumed true rates, in [0, 1].
        samples: [G], whole numbers; infinity if no number up to a billion is enough.
    """

    rate: Floats
    samples: Floats


def advised_samples(
    count: npt.ArrayLike,
    total: npt.ArrayLike,
    limit: float,
    error: float = 0.05,
    fail_error: float | None = None,
    power: float = 0.8,
) -> SampleAdvice:
    """Number of fresh samples that decide on a limit with a given power, at a plausible true rate.

    A rate that was observed on few samples is a poor guide: of 0 flips among 60 samples it says that 299 are enough,
    although most rates that fit these 60 need more. So the true rate is assumed halfway between the limit and the
    one-sided bound on the side of the limit where the observed rate is, in two digits. From the returned number of
    samples on, the exact power to pass at `error`, or to fail at `fail_error`, stays at least `power` at this rate.

    Args:
        count: flips of each group, [G] or one number; they need not be whole (an effective sample size).
        total: samples of each group, over 0.
        limit: the limit on the rate, from 0 to below 1. A limit of 0 cannot be passed.
        error: level of the bound that passes, between 0 and 0.5.
        fail_error: level of the bound that fails, such as `error` divided by the number of groups; None for `error`.
        power: the chance of a decision, between 0 and 1.

    Example:
        >>> advised_samples([0, 8, 15], [60, 1000, 1000], 0.01)
        SampleAdvice(rate=array([0.005, 0.007, 0.017]), samples=array([2185., 6434., 1836.]))
    """
    beta = special_functions()
    counts, totals = np.broadcast_arrays(np.atleast_1d(count).astype(float), np.atleast_1d(total).astype(float))
    under = counts <= limit * totals
    # Clopper and Pearson's bounds; each where it applies.
    lower = np.where(counts > 0, beta.betaincinv(np.where(counts > 0, counts, 1), totals - counts + 1, error), 0.0)
    rest = totals - counts
    upper = np.where(rest > 0, beta.betainccinv(counts + 1, np.where(rest > 0, rest, 1), error), 1.0)
    rate = (limit + np.where(under, lower, upper)) / 2
    rounded = _two_digits(rate)
    rate = np.where(np.where(under, rounded < limit, rounded > limit), rounded, rate)
    samples = np.full_like(rate, np.inf)
    sides: tuple[tuple[Verdict, npt.NDArray[np.bool_], float], ...] = (
        ("pass", under, error),
        ("fail", ~under, error if fail_error is None else fail_error),
    )
    for verdict, side, level in sides:
        rates, place = np.unique(rate[side], return_inverse=True)
        samples[side] = np.array([_needed(one, limit, level, power, verdict) for one in rates.tolist()])[place]
    return SampleAdvice(rate, samples)


def advice_sentence(rate: float, samples: float, limit: float, power: float = 0.8) -> str:
    """What to do about a limit that is inconclusive, for a report.

    Example:
        >>> print(advice_sentence(0.005, 2185, 0.01))
        A fresh test set of 2,185 samples would pass with a chance of 80% if the true rate is 0.5%.
    """
    if not np.isfinite(samples):
        return "The true rate seems so close to the limit that no number of samples up to a billion would decide."
    verdict = "pass" if rate < limit else "fail"
    return (
        f"A fresh test set of {int(samples):,} samples would {verdict} with a chance of {100 * power:.3g}% if the true"
        f" rate is {100 * rate:.3g}%."
    )


def _needed(rate: float, limit: float, error: float, power: float, verdict: Verdict) -> float:
    if limit == 0 or rate == limit:
        return np.inf
    samples = lasting_samples(rate, limit, error, power, verdict)
    return np.inf if samples is None else float(samples)


def _two_digits(rate: Floats) -> Floats:
    step = 10.0 ** (np.floor(np.log10(np.maximum(rate, 1e-12))) - 1)
    # The division by a whole number gives 0.007, not 0.0070000000000000001 and some.
    return np.round(rate / step) / np.round(1 / step)
