"""The difference of two models' accuracies on the same samples: score intervals and tests."""

from __future__ import annotations

from statistics import NormalDist

import numpy as np

from lightning_flip.reports.intervals._checks import (
    Floats,
    Numbers,
    check_counts,
    check_inside,
    check_limit,
    scale_counts,
    special_functions,
)
from lightning_flip.reports.intervals.proportions import (
    binomial_p_above,
    binomial_p_below,
    clopper_pearson_lower,
    clopper_pearson_upper,
)

__all__ = [
    "paired_difference_lower",
    "paired_difference_p_above",
    "paired_difference_p_below",
    "paired_difference_upper",
]

_STEPS = 60  # of a bisection: 2 / 2^60 is under the rounding error of the score


def paired_difference_lower(
    negative: Numbers, positive: Numbers, total: Numbers, error: float = 0.05, effective: Numbers | None = None
) -> Floats:
    r"""One-sided lower score bound of the drop in accuracy, from samples that both models predicted (Tango, 1998).

    The drop is (negative - positive) / total: accuracy of the old model less that of the new one. With q the most
    likely rate of positive flips if the true drop is d ("Equivalence test and confidence interval for the difference
    in proportions for the paired-sample design", Statistics in Medicine 17, Eqs. 6-8), the score of d is

    .. math:: z(d) = \frac{negative - positive - total \cdot d}{\sqrt{total (2 q + d (1 - d))}}

    and the bound is where it is the normal quantile of 1 - error. With few flips the normal approximation is too bold,
    and so the bound is the lower one of this and of Clopper and Pearson's, which is exact if models flip in one
    direction only. The level is approximate: see the simulations in `docs/gate_statistics.md`.

    Args:
        negative: samples that the old model has right and the new one wrong; a number or an array.
        positive: the reverse; broadcast against `negative`.
        total: all samples, at least `negative + positive`. Without samples nothing is known: the bound is -1.
        error: the chance to be wrong, between 0 and 0.5.
        effective: how many independent samples the `total` samples are worth, if they come in clusters
            (`effective_samples`). None: all are independent.

    Returns:
        The bound in [-1, 1], of the broadcast shape.

    Raises:
        ValueError: if a count is not a whole number, the flips are more than the total, `effective` is not above 0 and
            at most the total, or `error` is not between 0 and 0.5.
        ModuleNotFoundError: if scipy is not installed.

    Example:
        >>> [round(float(bound(30, 10, 1000)), 4) for bound in (paired_difference_lower, paired_difference_upper)]
        [0.01, 0.0312]
    """
    return -paired_difference_upper(positive, negative, total, error, effective)


def paired_difference_upper(
    negative: Numbers, positive: Numbers, total: Numbers, error: float = 0.05, effective: Numbers | None = None
) -> Floats:
    """One-sided upper score bound of the drop in accuracy: `paired_difference_lower` with the models swapped.

    Args:
        negative: samples that the old model has right and the new one wrong; a number or an array.
        positive: the reverse; broadcast against `negative`.
        total: all samples, at least `negative + positive`. Without samples nothing is known: the bound is 1.
        error: the chance to be wrong, between 0 and 0.5.
        effective: see `paired_difference_lower`.

    Returns:
        The bound in [-1, 1], of the broadcast shape.

    Raises:
        ValueError: as `paired_difference_lower`.

    Example:
        >>> round(float(paired_difference_upper(0, 0, 1000)), 4)
        0.003
    """
    check_inside("error", error, 0.0, 0.5)
    worse, better, samples = _scale_flips(negative, positive, total, effective)
    quantile = -NormalDist().inv_cdf(error)
    # The score falls with the drop: 0 at the observed one, and below any number at 1.
    low, high = (worse - better) / np.maximum(samples, 1e-300), np.ones_like(samples)
    for _ in range(_STEPS):
        middle = (low + high) / 2
        inside = _score(worse, better, samples, middle) > -quantile
        low, high = np.where(inside, middle, low), np.where(inside, high, middle)
    return np.where(samples == 0, 1.0, np.maximum(high, _one_way_upper(negative, positive, total, error, effective)))[
        ()
    ]


def paired_difference_p_above(
    negative: Numbers, positive: Numbers, total: Numbers, limit: float, effective: Numbers | None = None
) -> Floats:
    """One-sided p-value against "accuracy drops by at most `limit`" (Tango, 1998), the inverse of the lower bound.

    Args:
        negative: samples that the old model has right and the new one wrong; a number or an array.
        positive: the reverse; broadcast against `negative`.
        total: all samples, at least `negative + positive`.
        limit: the drop that is claimed at most, in [-1, 1]; at 0 this is McNemar's test without correction.
        effective: see `paired_difference_lower`.

    Returns:
        p-values in [0, 1], of the broadcast shape; 1 if the samples say nothing.

    Raises:
        ValueError: as `paired_difference_lower`, or if `limit` is not in [-1, 1].
        ModuleNotFoundError: if scipy is not installed.

    Example:
        >>> paired_difference_p_above([30, 60], 10, 1000, 0.01).round(4)
        array([0.0508, 0.    ])
    """
    check_limit(limit, -1.0, 1.0)
    worse, better, samples = _scale_flips(negative, positive, total, effective)
    score = _score(worse, better, samples, np.full_like(samples, limit))
    tail = np.where(np.isnan(score), 1.0, special_functions().ndtr(-score))
    return np.maximum(tail, _one_way_p(negative, positive, total, limit, effective))[()]


def paired_difference_p_below(
    negative: Numbers, positive: Numbers, total: Numbers, limit: float, effective: Numbers | None = None
) -> Floats:
    """One-sided p-value against "accuracy drops by at least `limit`" (Tango, 1998), the inverse of the upper bound.

    Args:
        negative: samples that the old model has right and the new one wrong; a number or an array.
        positive: the reverse; broadcast against `negative`.
        total: all samples, at least `negative + positive`.
        limit: the drop that is claimed at least, in [-1, 1].
        effective: see `paired_difference_lower`.

    Returns:
        p-values in [0, 1], of the broadcast shape; 1 if the samples say nothing.

    Raises:
        ValueError: as `paired_difference_lower`, or if `limit` is not in [-1, 1].
        ModuleNotFoundError: if scipy is not installed.

    Example:
        >>> paired_difference_p_below([0, 5], [0, 5], 1000, 0.005).round(4)
        array([0.0125, 0.0747])
    """
    return paired_difference_p_above(positive, negative, total, -limit, effective)


def _scale_flips(
    negative: Numbers, positive: Numbers, total: Numbers, effective: Numbers | None
) -> tuple[Floats, Floats, Floats]:
    changed, _ = check_counts(np.add(negative, positive), total)
    check_counts(negative, changed)
    worse, samples = scale_counts(negative, total, effective)
    better, _ = scale_counts(positive, total, effective)
    worse, better, samples = np.broadcast_arrays(worse, better, samples)
    return worse, better, samples


def _one_way_upper(
    negative: Numbers, positive: Numbers, total: Numbers, error: float, effective: Numbers | None
) -> Floats:
    """Exact upper bound of the drop if models flip in one direction only."""
    drop = np.subtract(negative, positive)
    loss = clopper_pearson_upper(np.maximum(drop, 0), total, error, effective)
    return np.where(drop >= 0, loss, -clopper_pearson_lower(np.maximum(-drop, 0), total, error, effective))


def _one_way_p(negative: Numbers, positive: Numbers, total: Numbers, limit: float, effective: Numbers | None) -> Floats:
    """Exact p-value of a drop of at most `limit` if models flip in one direction only."""
    drop = np.subtract(negative, positive)
    if limit >= 0:
        return binomial_p_above(np.maximum(drop, 0), total, limit, effective)
    return np.where(drop > 0, 0.0, binomial_p_below(np.maximum(-drop, 0), total, -limit, effective))


def _score(worse: Floats, better: Floats, samples: Floats, drop: Floats) -> Floats:
    """z(drop); NaN if the samples are as expected without any variance, or there are none."""
    # A negative drop is a positive one with the models swapped; the solution below is stable for those.
    swap = drop < 0
    size = np.abs(drop)
    more, fewer = np.where(swap, better, worse), np.where(swap, worse, better)
    # The rate of flips of the rarer kind: the root of a q^2 + b q - c = 0 that is not negative.
    a, b, c = 2 * samples, 2 * samples * size - more * (1 + size) - fewer * (1 - size), fewer * size * (1 - size)
    root = np.sqrt(b * b + 4 * a * c)
    with np.errstate(invalid="ignore", divide="ignore"):
        rarer = np.where(b > 0, 2 * c / (b + root), (root - b) / (2 * a))
        score = (more - fewer - samples * size) / np.sqrt(samples * (2 * rarer + size * (1 - size)))
    signed: Floats = np.where(swap, -score, score)
    return signed
