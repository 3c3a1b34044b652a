"""The relative negative flip rate, a ratio of two rates: bounds and p-values."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from lightning_flip.reports.intervals._checks import Floats, Numbers, check_limit
from lightning_flip.reports.intervals.proportions import clopper_pearson_lower, clopper_pearson_upper

__all__ = ["relative_nfr_lower", "relative_nfr_p_above", "relative_nfr_p_below", "relative_nfr_upper"]

_LOWEST = -1000.0  # log2 of the smallest p-value
_STEPS = 60  # of a bisection


def relative_nfr_upper(
    negative: Numbers,
    new_wrong: Numbers,
    old_right: Numbers,
    total: Numbers,
    error: Numbers = 0.05,
    effective_wrong: Numbers | None = None,
    effective: Numbers | None = None,
) -> Floats:
    r"""One-sided upper bound of the relative NFR, :math:`\frac{negative / new\_wrong}{old\_right / total}`.

    Negative flips are a share of the new model's errors (NFI); that of independent models is the old accuracy. The
    bound is the upper Clopper-Pearson bound of the first over the lower one of the second, each at `error / 2`, so that
    it is below the true ratio with a chance of at most `error`.

    Args:
        negative: samples that the old model has right and the new one wrong; a number or an array.
        new_wrong: samples that the new model has wrong, at least `negative`.
        old_right: samples that the old model has right.
        total: all samples.
        error: the chance to be wrong, between 0 and 1.
        effective_wrong: how many independent samples the `new_wrong` are worth, if they come in clusters
            (`effective_samples` of these samples). None: all are independent.
        effective: the same for all samples.

    Returns:
        The bound, 0 or larger, of the broadcast shape; infinity if the old model may have an accuracy of 0.

    Raises:
        ValueError: if a count is not a whole number from 0 to its total, an effective number is not above 0 and at most
            its total, or `error` is not between 0 and 1.
        ModuleNotFoundError: if scipy is not installed.

    Example:
        >>> [round(float(bound(30, 100, 900, 1000)), 4) for bound in (relative_nfr_lower, relative_nfr_upper)]
        [0.2314, 0.4545]
    """
    half = np.asarray(error, np.float64) / 2
    top = clopper_pearson_upper(negative, new_wrong, half, effective_wrong)
    with np.errstate(divide="ignore"):
        return np.divide(top, clopper_pearson_lower(old_right, total, half, effective))[()]


def relative_nfr_lower(
    negative: Numbers,
    new_wrong: Numbers,
    old_right: Numbers,
    total: Numbers,
    error: Numbers = 0.05,
    effective_wrong: Numbers | None = None,
    effective: Numbers | None = None,
) -> Floats:
    """One-sided lower bound of the relative NFR, with the arguments, errors and form of `relative_nfr_upper`."""
    half = np.asarray(error, np.float64) / 2
    top = clopper_pearson_lower(negative, new_wrong, half, effective_wrong)
    return np.divide(top, clopper_pearson_upper(old_right, total, half, effective))[()]


def relative_nfr_p_above(
    negative: Numbers,
    new_wrong: Numbers,
    old_right: Numbers,
    total: Numbers,
    limit: float,
    effective_wrong: Numbers | None = None,
    effective: Numbers | None = None,
) -> Floats:
    """One-sided p-value against "the relative NFR is at most `limit`": the error at which the lower bound reaches it.

    Example:
        >>> round(float(relative_nfr_p_above(30, 100, 900, 1000, 0.2)), 4)
        0.0071
    """
    check_limit(limit, 0.0, np.inf)

    def rejects(error: Floats) -> npt.NDArray[np.bool_]:
        return relative_nfr_lower(negative, new_wrong, old_right, total, error, effective_wrong, effective) > limit

    return _smallest_error(rejects, np.broadcast(negative, new_wrong, old_right, total).shape)


def relative_nfr_p_below(
    negative: Numbers,
    new_wrong: Numbers,
    old_right: Numbers,
    total: Numbers,
    limit: float,
    effective_wrong: Numbers | None = None,
    effective: Numbers | None = None,
) -> Floats:
    """One-sided p-value against "the relative NFR is at least `limit`": the error at which the upper bound reaches it.

    Example:
        >>> round(float(relative_nfr_p_below(30, 100, 900, 1000, 0.5)), 4)
        0.0073
    """
    check_limit(limit, 0.0, np.inf)

    def rejects(error: Floats) -> npt.NDArray[np.bool_]:
        return relative_nfr_upper(negative, new_wrong, old_right, total, error, effective_wrong, effective) <= limit

    return _smallest_error(rejects, np.broadcast(negative, new_wrong, old_right, total).shape)


def _smallest_error(rejects: Callable[[Floats], npt.NDArray[np.bool_]], shape: tuple[int, ...]) -> Floats:
    """Bisect the logarithm of the error; 1 if none under 1 rejects."""
    low, high = np.full(shape, _LOWEST), np.zeros(shape)
    for _ in range(_STEPS):
        middle = (low + high) / 2
        enough = rejects(np.exp2(middle))
        low, high = np.where(enough, low, middle), np.where(enough, middle, high)
    return np.exp2(high)[()]
