"""Bounds of the mean of bounded values that hold their level for any number of samples."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from lightning_flip.reports.intervals._checks import Floats, check_inside, check_limit

__all__ = ["mean_lower", "mean_p_above", "mean_p_below", "mean_upper"]

_BINS = 4096
_STEPS = 40  # of a bisection of [0, 1]


def mean_upper(
    values: npt.ArrayLike, low: float, high: float, error: float = 0.05, effective: float | None = None
) -> float:
    """One-sided upper bound of the true mean of values in a known range, with a level for any number of samples.

    The mean at which `mean_p_below` is `error`: whatever the distribution inside the range, the bound is below the true
    mean with a chance of at most `error`. The price is its width: over many samples it is about 3.3 standard errors
    above the average, where a normal bound without guarantee takes 1.64.

    Args:
        values: [N], at least one, in any order.
        low: the smallest value possible, whether or not it occurs.
        high: the largest value possible, above `low`.
        error: the chance to be wrong, between 0 and 0.5.
        effective: how many independent samples the N are worth, if they come in clusters (`effective_samples`); above 0
            and at most N. None: all are independent.

    Returns:
        The bound in [low, high].

    Raises:
        ValueError: if there are no values, some are outside [low, high] or not finite, `high` is not above `low`,
            `effective` is not above 0 and at most N, or `error` is not between 0 and 0.5.

    Example:
        >>> drops = np.repeat([-0.1, 0.0, 0.2], [100, 800, 100])
        >>> round(mean_lower(drops, -1, 1), 3), round(float(drops.mean()), 3), round(mean_upper(drops, -1, 1), 3)
        (0.004, 0.01, 0.017)
    """
    check_inside("error", error, 0.0, 0.5)
    points, weights = _weigh(values, low, high, effective)
    below, above = float(points @ weights / weights.sum()), 1.0
    for _ in range(_STEPS):
        middle = (below + above) / 2
        below, above = (middle, above) if _p_value(points, weights, middle) > error else (below, middle)
    return low + (high - low) * above


def mean_lower(
    values: npt.ArrayLike, low: float, high: float, error: float = 0.05, effective: float | None = None
) -> float:
    """One-sided lower bound of the true mean: `mean_upper` of the negative values, with its arguments and errors."""
    return -mean_upper(-np.asarray(values, np.float64), -high, -low, error, effective)


def mean_p_below(values: npt.ArrayLike, limit: float, low: float, high: float, effective: float | None = None) -> float:
    r"""One-sided p-value against "the true mean is at least `limit`", valid for any number of samples.

    With values x and limit m scaled to [0, 1], each product :math:`\prod_i (1 + \theta (m - x_i) / (1 - m))` with a
    fixed :math:`\theta \in [0, 1]` has an expectation of at most 1 if the mean is at least m: it is the wealth of a
    gambler who bets on smaller values (Waudby-Smith and Ramdas, 2024, "Estimating means of bounded random variables by
    betting", Section 4). So has a weighted average of them, here over :math:`\theta = 2^{-k}` with weights proportional
    to 1 / (k + 1), and its inverse is a p-value by Markov's inequality. Unlike bets that follow earlier samples, this
    does not depend on the order of rows, and samples have to be independent but not identically distributed.

    Values are first spread to the two nearest of 4,097 points such that their mean stays: the product only becomes
    smaller (each factor's logarithm is concave), and a million samples take no longer than a few thousand.

    Args:
        values: [N], at least one, in any order.
        limit: the mean that is claimed at least, in [low, high].
        low: the smallest value possible, whether or not it occurs.
        high: the largest value possible, above `low`.
        effective: see `mean_upper`; the product is taken to the power effective / N.

    Returns:
        The p-value in [0, 1].

    Raises:
        ValueError: as `mean_upper`, or if `limit` is not in [low, high].

    Example:
        >>> round(mean_p_below(np.zeros(500), 0.01, 0, 1), 4)
        0.0187
    """
    check_limit(limit, low, high)
    return _p_value(*_weigh(values, low, high, effective), (limit - low) / (high - low))


def mean_p_above(values: npt.ArrayLike, limit: float, low: float, high: float, effective: float | None = None) -> float:
    """One-sided p-value against "the true mean is at most `limit`": `mean_p_below` of the negative values.

    Example:
        >>> round(mean_p_above(np.repeat([0.0, 1.0], [450, 50]), 0.05, 0, 1), 4)
        0.0005
    """
    return mean_p_below(-np.asarray(values, np.float64), -limit, -high, -low, effective)


def _weigh(values: npt.ArrayLike, low: float, high: float, effective: float | None) -> tuple[Floats, Floats]:
    """Points in [0, 1], and how many samples each stands for."""
    x = np.asarray(values, np.float64).ravel()
    if not low < high:
        raise ValueError(f"high must be above low, got low = {low} and high = {high}.")
    if not len(x) or not ((x >= low) & (x <= high)).all():
        wrong = x[~((x >= low) & (x <= high))]
        found = f"got {len(wrong):,} that are not, e.g. {wrong[0]:g}" if len(x) else "got none"
        raise ValueError(f"values must be at least one number, all in [{low:g}, {high:g}], {found}.")
    if effective is not None and not 0 < effective <= len(x):
        raise ValueError(f"effective must be above 0 and at most the {len(x):,} samples, got {effective}.")
    scaled = (x - low) / (high - low) * _BINS
    left = np.minimum(np.floor(scaled).astype(np.int64), _BINS - 1)
    right = scaled - left
    counts = np.zeros(_BINS + 1)
    counts += np.bincount(left, 1 - right, _BINS + 1) + np.bincount(left + 1, right, _BINS + 1)
    points = np.flatnonzero(counts)
    weights: Floats = counts[points] * (1.0 if effective is None else effective / len(x))
    return points / _BINS, weights


def _p_value(points: Floats, weights: Floats, mean: float) -> float:
    """Of "the mean is at least `mean`", for points in [0, 1]."""
    if mean >= 1.0:
        return float(points[0] == 1.0)
    powers = np.arange(math.ceil(math.log2(weights.sum() + 1)) + 2)
    bets = 2.0**-powers
    share = 1 / (powers + 1)
    # 1 + theta (m - x) / (1 - m), written so that no large numbers cancel at theta = 1.
    with np.errstate(divide="ignore"):
        wealth = np.log((1 - bets)[:, None] + bets[:, None] * (1 - points) / (1 - mean)) @ weights
    return float(min(1.0, np.exp(-np.logaddexp.reduce(wealth + np.log(share / share.sum())))))
