"""Samples that come in clusters (patients, videos, documents): how many independent samples they are worth."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from lightning_flip.reports.intervals._checks import Floats, check_inside, special_functions

__all__ = ["MIN_HIT_CLUSTERS", "design_effect_samples", "effective_samples"]

MIN_HIT_CLUSTERS = 40
"""The least effective number of clusters with a hit from which on `design_effect_samples` holds its level: the worst
false pass in `make simulate` (docs/gate_statistics.md, "Design effect")."""


def effective_samples(
    clusters: npt.NDArray[np.integer], groups: npt.NDArray[np.integer] | None = None, count: int = 1
) -> Floats:
    r"""How many independent samples the samples of each group are worth if clusters answer as one (Kish, 1965).

    :math:`N^2 / \sum_c N_c^2` for clusters of :math:`N_c` samples: their number if all are equally large, and less
    otherwise. The variance of a rate cannot be larger than that of as many independent samples, so that
    bounds with this `effective` number are conservative.

    Args:
        clusters: [N], the cluster of each sample, as whole numbers from 0.
        groups: [N], the group of each sample from 0 to `count` - 1; negative for none. None: all are in group 0.
        count: G, the number of groups.

    Returns:
        [G], from 1 to the samples of the group; 0 for a group without samples.

    Raises:
        ValueError: if `clusters` is not a list of whole numbers from 0, or `groups` not one of the same length.

    Example:
        >>> effective_samples(np.array([0, 0, 1, 1])), effective_samples(np.array([0, 0, 0, 1]))
        (array([2.]), array([1.6]))
    """
    sizes, _, group = _tables(clusters, None, groups, count)
    squares = np.bincount(group, sizes**2, count)
    return np.bincount(group, sizes, count) ** 2 / np.maximum(squares, 1)


def design_effect_samples(
    hits: npt.NDArray[np.bool_],
    clusters: npt.NDArray[np.integer],
    groups: npt.NDArray[np.integer] | None = None,
    count: int = 1,
    error: float = 0.05,
) -> tuple[Floats, Floats]:
    r"""How many independent samples each group is worth by the observed variance between clusters; an approximation.

    Korn and Graubard (1998, "Confidence intervals for proportions with small expected number of positive counts
    estimated from survey data", Survey Methodology 24): :math:`n = p (1 - p) / \widehat{var}(p) \cdot (t_{N - 1} /
    t_{C - 1})^2` with the observed rate p, the variance of p between the C clusters (of a ratio, since clusters differ
    in size), and Student's quantiles at 1 - `error`; at most N. With few hits the variance is estimated from too
    little: use it only from `MIN_HIT_CLUSTERS` effective clusters with a hit on, and `effective_samples` below.

    Args:
        hits: [N], whether a sample has the property whose rate is bounded.
        clusters: [N], the cluster of each sample, as whole numbers from 0.
        groups: [N], the group of each sample from 0 to `count` - 1; negative for none. None: all are in group 0.
        count: G, the number of groups.
        error: the error of the bound, between 0 and 0.5.

    Returns:
        [G], effective samples; those of `effective_samples` if a group has one cluster, no hit or only hits. And [G],
        the effective number of clusters with a hit: :math:`(\sum_c h_c)^2 / \sum_c h_c^2` for :math:`h_c` hits in
        cluster c, their number if all have equally many.

    Raises:
        ValueError: as `effective_samples`, or if `error` is not between 0 and 0.5.
        ModuleNotFoundError: if scipy is not installed.

    Example:
        Independent samples all count.

        >>> hits = np.random.default_rng(0).random(10_000) < 0.1
        >>> effective, hit_clusters = design_effect_samples(hits, np.arange(10_000) // 10)
        >>> effective.round(), hit_clusters.round()
        (array([10000.]), array([548.]))
    """
    check_inside("error", error, 0.0, 0.5)
    sizes, hit, group = _tables(clusters, hits, groups, count)
    total, sums, number = (np.bincount(group, weight, count) for weight in (sizes, hit, np.ones_like(sizes)))
    hit_clusters = sums**2 / np.maximum(np.bincount(group, hit**2, count), 1)
    rate = sums / np.maximum(total, 1)
    spread = np.bincount(group, (hit - rate[group] * sizes) ** 2, count)
    known = (number > 1) & (rate > 0) & (rate < 1)
    quantile = special_functions().stdtrit
    with np.errstate(divide="ignore", invalid="ignore"):
        worth = rate * (1 - rate) * total**2 / (number / (number - 1) * spread)
        worth *= (quantile(total - 1, 1 - error) / quantile(number - 1, 1 - error)) ** 2
    # Rates may be equal in all clusters: no variance between them, and no more than all samples.
    worth = np.where(known, np.minimum(worth, total), effective_samples(clusters, groups, count))
    return worth, hit_clusters


def _tables(
    clusters: npt.NDArray[np.integer],
    hits: npt.NDArray[np.bool_] | None,
    groups: npt.NDArray[np.integer] | None,
    count: int,
) -> tuple[Floats, Floats, npt.NDArray[np.int64]]:
    """Samples, hits and group of each cluster within each group."""
    codes = np.asarray(clusters)
    within = np.zeros(len(codes), np.int64) if groups is None else np.asarray(groups)
    marks = np.zeros(len(codes), bool) if hits is None else np.asarray(hits, bool)
    if codes.ndim != 1 or not np.issubdtype(codes.dtype, np.integer) or (codes < 0).any():
        raise ValueError(f"clusters must be a list of whole numbers from 0, got {clusters!r}.")
    if within.shape != codes.shape or marks.shape != codes.shape:
        raise ValueError(
            f"groups and hits must be as long as clusters, {len(codes):,}, got {within.shape} and {marks.shape}."
        )
    used = within >= 0
    if not used.any():
        return np.zeros(0), np.zeros(0), np.zeros(0, np.int64)
    width = int(codes.max()) + 1
    pairs, place = np.unique(within[used].astype(np.int64) * width + codes[used], return_inverse=True)
    if pairs[-1] // width >= count:
        raise ValueError(f"groups must be below count = {count:,}, got {pairs[-1] // width}.")
    return np.bincount(place).astype(np.float64), np.bincount(place, marks[used]).astype(np.float64), pairs // width
