"""Spearman's rank correlation."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

__all__ = ["Correlation", "rank_correlation"]


class Correlation(NamedTuple):
    """Spearman's rank correlation; :func:`rank_correlation` returns it.

    Attributes:
        coefficient: in [-1, 1]; NaN if one of the two does not vary.
        p_value: probability of a coefficient at least as far from 0 without any relation (two-sided, by Student's t).
        pairs: how many pairs.

    Example:
        >>> rank_correlation([1.0, 2.0, 3.0, 4.0], [8.0, 7.0, 3.0, 1.0]).coefficient
        -1.0
    """

    coefficient: float
    p_value: float
    pairs: int


def rank_correlation(x: npt.ArrayLike, y: npt.ArrayLike) -> Correlation:
    """Compute Spearman's coefficient.

    Args:
        x: ``[N]``, finite.
        y: ``[N]``, finite.

    Raises:
        ValueError: if the two are not equally long rows of at least three finite numbers.
        ModuleNotFoundError: if scipy is not installed.

    Example:
        >>> found = rank_correlation(range(8), [0, 2, 1, 3, 4, 6, 5, 7])
        >>> round(found.coefficient, 3), found.pairs
        (0.952, 8)
    """
    try:
        from scipy import stats
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "Spearman's coefficient needs scipy, which is not installed; run pip install 'lightning-flip[report]'."
        ) from error
    first, second = np.asarray(x, np.float64), np.asarray(y, np.float64)
    if first.ndim != 1 or first.shape != second.shape or len(first) < 3:
        raise ValueError(
            f"x and y must be equally long, at least 3 pairs; got shapes {first.shape} and {second.shape}."
        )
    if not (np.isfinite(first).all() and np.isfinite(second).all()):
        raise ValueError("x and y must be finite; leave out what could not be measured.")
    if np.ptp(first) == 0 or np.ptp(second) == 0:
        return Correlation(float("nan"), float("nan"), len(first))
    found = stats.spearmanr(first, second)
    return Correlation(round(float(found.statistic), 12), float(found.pvalue), len(first))
