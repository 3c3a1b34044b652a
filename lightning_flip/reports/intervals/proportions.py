"""Intervals and exact bounds of rates and ratios that were counted on some samples, and an exact test."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

from lightning_flip.reports.intervals._checks import (
    Floats,
    Numbers,
    check_counts,
    check_inside,
    check_limit,
    scale_counts,
    special_functions,
)

__all__ = [
    "binomial_p_above",
    "binomial_p_below",
    "bootstrap_interval",
    "clopper_pearson_lower",
    "clopper_pearson_upper",
    "mcnemar_exact",
    "stratified_count_lower",
    "wilson_interval",
]

_ROUNDING = 1e-9  # of sums of logarithms: a bound errs on the wide side


def wilson_interval(count: Numbers, total: Numbers, confidence: float = 0.95) -> tuple[Floats, Floats]:
    r"""Two-sided score interval of a rate (Wilson, 1927).

    The rates p at which the count is at most z standard deviations from its expectation:
    :math:`(count / total - p)^2 \le z^2 p (1 - p) / total`, z the normal quantile of (1 + confidence) / 2. It covers
    the true rate with a chance near `confidence` on average over rates, and stays inside [0, 1]. To decide on a limit,
    take the exact one-sided bounds.

    Args:
        count: how many of the samples have the property, from 0 to `total`; a number or an array.
        total: how many samples there are; broadcast against `count`. Without samples nothing is known: [0, 1].
        confidence: the chance to cover, between 0 and 1.

    Returns:
        Lower and upper ends in [0, 1], each of the broadcast shape of `count` and `total`.

    Raises:
        ValueError: if a count is not a whole number from 0 to its total, or `confidence` is not between 0 and 1.

    Example:
        >>> low, high = wilson_interval(5, 100)
        >>> round(float(low), 4), round(float(high), 4)
        (0.0215, 0.1118)
        >>> wilson_interval([0, 0], [0, 40])[1].round(3)
        array([1.   , 0.088])
    """
    check_inside("confidence", confidence, 0.0, 1.0)
    counts, totals = check_counts(count, total)
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    samples = np.maximum(totals, 1.0)
    center = counts + z * z / 2
    spread = z * np.sqrt(counts * (samples - counts) / samples + z * z / 4)
    # The ends are exactly 0 and 1 there; the subtraction would leave a rounding error beside them.
    low = np.where(counts == 0, 0.0, (center - spread) / (samples + z * z))
    high = np.where(counts == totals, 1.0, (center + spread) / (samples + z * z))
    return low[()], high[()]


def clopper_pearson_lower(
    count: Numbers, total: Numbers, error: Numbers = 0.05, effective: Numbers | None = None
) -> Floats:
    r"""Exact one-sided lower bound of a rate (Clopper and Pearson, 1934).

    The rate p at which `count` or more would be seen with probability `error`: :math:`P(X \ge count \mid p) = error`
    for X binomial. Whatever the true rate, the bound is above it with a chance of at most `error`.

    Args:
        count: how many of the samples have the property, from 0 to `total`; a number or an array.
        total: how many samples there are; broadcast against `count`.
        error: the chance to be wrong, between 0 and 0.5; broadcast against `count`.
        effective: how many independent samples the `total` samples are worth, if they come in clusters
            (`effective_samples`); above 0 and at most `total`. Both counts are scaled to it, and the bound becomes an
            approximation. None: all are independent.

    Returns:
        The bound in [0, 1], of the broadcast shape; 0 if the count is 0.

    Raises:
        ValueError: if a count is not a whole number from 0 to its total, `effective` is not above 0 and at most the
            total, or `error` is not between 0 and 0.5.
        ModuleNotFoundError: if scipy is not installed.

    Example:
        >>> round(float(clopper_pearson_lower(5, 100)), 4)
        0.0199
    """
    check_inside("error", error, 0.0, 0.5)
    counts, totals = scale_counts(count, total, effective)
    bound = special_functions().betaincinv(np.where(counts == 0, 1.0, counts), totals - counts + 1, error)
    return np.where(counts == 0, 0.0, bound)[()]


def clopper_pearson_upper(
    count: Numbers, total: Numbers, error: Numbers = 0.05, effective: Numbers | None = None
) -> Floats:
    r"""Exact one-sided upper bound of a rate (Clopper and Pearson, 1934).

    The rate p at which `count` or less would be seen with probability `error`: :math:`P(X \le count \mid p) = error`
    for X binomial. Whatever the true rate, the bound is below it with a chance of at most `error`. At a count of 0
    it is :math:`1 - error^{1 / total}`, about 3 / total at 5%.

    Args:
        count: how many of the samples have the property, from 0 to `total`; a number or an array.
        total: how many samples there are; broadcast against `count`.
        error: the chance to be wrong, between 0 and 0.5; broadcast against `count`.
        effective: how many independent samples the `total` samples are worth, if they come in clusters
            (`effective_samples`); above 0 and at most `total`. Both counts are scaled to it, and the bound becomes an
            approximation. None: all are independent.

    Returns:
        The bound in [0, 1], of the broadcast shape; 1 if the count is the total.

    Raises:
        ValueError: if a count is not a whole number from 0 to its total, `effective` is not above 0 and at most the
            total, or `error` is not between 0 and 0.5.
        ModuleNotFoundError: if scipy is not installed.

    Example:
        >>> round(float(clopper_pearson_upper(0, 60)), 4), round(float(clopper_pearson_upper(0, 500)), 4)
        (0.0487, 0.006)
    """
    check_inside("error", error, 0.0, 0.5)
    counts, totals = scale_counts(count, total, effective)
    # The complement of the inverse is inverted, so that a tiny error does not vanish in 1 - error.
    bound = special_functions().betainccinv(counts + 1, np.where(counts == totals, 1.0, totals - counts), error)
    return np.where(counts == totals, 1.0, bound)[()]


def binomial_p_above(count: Numbers, total: Numbers, limit: float, effective: Numbers | None = None) -> Floats:
    r"""Exact one-sided p-value against "the rate is at most `limit`": :math:`P(X \ge count \mid limit)`, X binomial.

    It is at most `error` if and only if `clopper_pearson_lower` at this `error` is at least the limit.

    Args:
        count: how many of the samples have the property, from 0 to `total`; a number or an array.
        total: how many samples there are; broadcast against `count`.
        limit: the rate that is claimed at most, in [0, 1].
        effective: see `clopper_pearson_lower`.

    Returns:
        p-values in [0, 1], of the broadcast shape; 1 if the count is 0.

    Raises:
        ValueError: as `clopper_pearson_lower`, or if `limit` is not in [0, 1].
        ModuleNotFoundError: if scipy is not installed.

    Example:
        >>> binomial_p_above([0, 5, 10], 200, 0.02).round(4)
        array([1.    , 0.3712, 0.0075])
    """
    check_limit(limit, 0.0, 1.0)
    counts, totals = scale_counts(count, total, effective)
    tail = special_functions().betainc(np.where(counts == 0, 1.0, counts), totals - counts + 1, limit)
    return np.where(counts == 0, 1.0, tail)[()]


def binomial_p_below(count: Numbers, total: Numbers, limit: float, effective: Numbers | None = None) -> Floats:
    r"""Exact one-sided p-value against "the rate is at least `limit`": :math:`P(X \le count \mid limit)`, X binomial.

    It is at most `error` if and only if `clopper_pearson_upper` at this `error` is at most the limit.

    Args:
        count: how many of the samples have the property, from 0 to `total`; a number or an array.
        total: how many samples there are; broadcast against `count`.
        limit: the rate that is claimed at least, in [0, 1].
        effective: see `clopper_pearson_lower`.

    Returns:
        p-values in [0, 1], of the broadcast shape; 1 if the count is the total.

    Raises:
        ValueError: as `clopper_pearson_lower`, or if `limit` is not in [0, 1].
        ModuleNotFoundError: if scipy is not installed.

    Example:
        >>> binomial_p_below(0, [298, 299], 0.01).round(4)
        array([0.05  , 0.0495])
    """
    check_limit(limit, 0.0, 1.0)
    counts, totals = scale_counts(count, total, effective)
    tail = special_functions().betaincc(counts + 1, np.where(counts == totals, 1.0, totals - counts), limit)
    return np.where(counts == totals, 1.0, tail)[()]


def mcnemar_exact(negative: Numbers, positive: Numbers) -> Floats:
    r"""Exact two-sided McNemar test: do two models on the same samples have the same accuracy?

    Only samples count that one model has right and the other wrong. If both are equally good, each of these is a
    negative flip with probability 1/2, so that :math:`p = \min(1, 2 P(X \le \min(negative, positive)))`, X binomial
    with that many trials.

    Args:
        negative: samples that the old model had right and the new one has wrong; a number or an array.
        positive: the reverse; broadcast against `negative`.

    Returns:
        p values in [0, 1], of the broadcast shape; 1 if no sample changed.

    Raises:
        ValueError: if a count is negative or no whole number.
        ModuleNotFoundError: if scipy is not installed.

    Example:
        >>> round(float(mcnemar_exact(1, 9)), 4), float(mcnemar_exact(0, 0))
        (0.0215, 1.0)
    """
    negatives, positives = np.asarray(negative, np.float64), np.asarray(positive, np.float64)
    fewer, _ = check_counts(np.minimum(negatives, positives), negatives + positives)
    more = np.maximum(negatives, positives)
    # P(X <= fewer) of `fewer + more` fair trials, as a beta integral.
    tail = special_functions().betainc(np.maximum(more, 1), fewer + 1, 0.5)
    return np.where(fewer == more, 1.0, np.minimum(1.0, 2 * tail))[()]


def bootstrap_interval(
    cells: npt.ArrayLike,
    ratio: Callable[[npt.NDArray[np.int64]], npt.ArrayLike],
    *,
    confidence: float = 0.95,
    draws: int = 10_000,
    seed: int = 0,
) -> tuple[float, float]:
    """Percentile bootstrap of a function of counts, such as the relative negative flip rate.

    Samples in the same cell (both right, negative flip, ...) are exchangeable, so that resampling all samples with
    replacement is one multinomial draw of the cells' counts, whatever the number of samples. For a plain rate use
    `wilson_interval`: at a count of 0 every draw is 0 again, and the bootstrap would claim to be certain.

    Args:
        cells: [C], how many samples are in each cell; at least one sample.
        ratio: turns counts [draws, C] into [draws] finite numbers.
        confidence: the nominal coverage, between 0 and 1.
        draws: how often to draw, at least 1.
        seed: seed of the draws.

    Returns:
        Lower and upper end: the (1 -+ confidence) / 2 quantiles over the draws.

    Raises:
        ValueError: if `cells` is not a list of counts with a sample, `ratio` does not return one finite number per
            draw, `draws` is under 1, or `confidence` is not between 0 and 1.

    Example:
        Negative flips / errors of the new model, from (negative flips, wrong in both):

        >>> low, high = bootstrap_interval([30, 70], lambda cells: cells[:, 0] / cells.sum(-1))
        >>> 0.2 < low < 0.3 < high < 0.4
        True
    """
    check_inside("confidence", confidence, 0.0, 1.0)
    counts = np.asarray(cells)
    if counts.ndim != 1 or not np.issubdtype(counts.dtype, np.integer) or (counts < 0).any() or not counts.any():
        raise ValueError(f"cells must be a list of counts, at least one of them above 0, got {cells!r}.")
    if draws < 1:
        raise ValueError(f"draws must be at least 1, got {draws}.")
    total = int(counts.sum())
    drawn = np.random.default_rng(seed).multinomial(total, counts / total, size=draws)
    values = np.asarray(ratio(drawn), np.float64)
    if values.shape != (draws,) or not np.isfinite(values).all():
        raise ValueError(
            f"ratio must return one finite number per draw, shape ({draws},), got shape {values.shape} with "
            f"{int((~np.isfinite(values)).sum())} numbers that are not finite; define it where it divides by 0."
        )
    low, high = np.quantile(values, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def stratified_count_lower(
    count: Sequence[int] | npt.NDArray[np.integer],
    looks: Sequence[int] | npt.NDArray[np.integer],
    size: Sequence[int] | npt.NDArray[np.integer],
    error: float = 0.025,
) -> int:
    r"""Exact one-sided lower bound of a count in a finite population that was sampled by strata, without replacement.

    Let stratum h hold :math:`M_h` marked samples of :math:`N_h`, and let :math:`x_h` of :math:`n_h` looks find one.
    :math:`p_h(M_h) = P(X_h \ge x_h \mid M_h)`, X hypergeometric, is the p value of the claim that at most :math:`M_h`
    are marked. Strata are sampled independently, so that :math:`-\sum_h \log p_h` of the true counts exceeds the
    quantile c of a sum of H standard exponentials with probability `error` at most (Fisher's combination; the p values
    are discrete, which only helps). The bound is the smallest :math:`\sum_h M_h` with :math:`-\sum_h \log p_h(M_h)
    \le c`: whatever the true counts, it is above their sum with a chance of at most `error`. With one stratum it is
    the bound of Clopper and Pearson for finite populations. Strata that were looked at completely are counts, and no
    part of H.

    The upper bound of the marked samples is the number of samples less the lower bound of the others.

    Args:
        count: [H], marked samples found in each stratum.
        looks: [H], samples drawn from each.
        size: [H], samples in each.
        error: the chance to be wrong, between 0 and 0.5.

    Returns:
        The bound, at least the number of marked samples found.

    Raises:
        ValueError: if a count is not a whole number from 0 to its looks, looks are more than the stratum has, or
            `error` is not between 0 and 0.5.
        ModuleNotFoundError: if scipy is not installed.

    Example:
        2 of 10 looks at 1000 samples and 9 of 10 at 100:

        >>> stratified_count_lower([2, 9], [10, 10], [1000, 100])
        96
        >>> stratified_count_lower([40], [100], [100])
        40
    """
    check_inside("error", error, 0.0, 0.5)
    counts, totals = check_counts(np.atleast_1d(np.asarray(count)), np.atleast_1d(np.asarray(looks)))
    totals, sizes = check_counts(totals, np.atleast_1d(np.asarray(size)))
    open_strata = totals < sizes
    found = int(counts.sum())
    gains, reached = [np.zeros(0)], 0.0
    told = open_strata & (counts > 0)  # no find says nothing about how many there are at least
    for x, n, N in np.stack([counts, totals, sizes], axis=1)[told].astype(int).tolist():
        tail = _log_hypergeometric_tail(x, n, N)
        reached += tail[0]
        gains.append(np.diff(tail))
    if not open_strata.any():
        return found
    needed = -float(special_functions().gammainccinv(int(open_strata.sum()), error)) - _ROUNDING
    if reached >= needed:
        return found
    # Each tail is concave in M: the steps that gain most come first in their stratum, too.
    best = np.sort(np.concatenate(gains))[::-1]
    return found + 1 + int(np.searchsorted(reached + np.cumsum(best), needed))


def _log_hypergeometric_tail(count: int, looks: int, size: int) -> Floats:
    """Logarithm of P(X >= count | M marked of `size` samples, `looks` drawn), for M from `count` to where it is 0.

    X reaches the count if the count-th smallest of the drawn positions is among the first M ones.
    """
    place = np.arange(count, size - looks + count, dtype=np.float64)
    growth = np.log(place / (place - count + 1)) + np.log((size - place - looks + count) / (size - place))
    log_chance = np.concatenate([[0.0], np.cumsum(growth)])
    tail: Floats = np.logaddexp.accumulate(log_chance)
    tail -= tail[-1]
    return tail
