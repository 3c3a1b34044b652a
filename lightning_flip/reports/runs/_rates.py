"""Rates over recorded predictions: arrays in, numbers out."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

__all__ = ["area_under_roc", "confidence_bins", "expected_calibration_error", "flipping_errors"]

Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]


def flipping_errors(right_before: Bools, right_now: Bools) -> tuple[float, float]:
    """Share of samples that were right once and are wrong now.

    With WFS the samples that the selected epoch gets wrong and some earlier one had right: flipping error FE = WFS /
    all samples, relative flipping error RFE = WFS / all wrong samples. A model without errors has an RFE of 0.

    Returns FE and RFE, both in [0, 1].

    Example:
        >>> flipping_errors(np.array([True, True, False, False]), np.array([True, False, False, True]))
        (0.25, 0.5)
    """
    flipped = int((right_before & ~right_now).sum())
    wrong = int((~right_now).sum())
    return flipped / len(right_now), flipped / wrong if wrong else 0.0


def confidence_bins(confidence: Floats, bins: int) -> tuple[Floats, npt.NDArray[np.intp]]:
    """Sort confidences into M bins of equal width: bin m holds ((m - 1)/M, m/M], and the first one 0 as well.

    Returns the M + 1 edges, and the position of every sample's bin, [N] in [0, M).

    Example:
        >>> confidence_bins(np.array([0.0, 0.5, 0.6, 1.0]), 2)
        (array([0. , 0.5, 1. ]), array([0, 0, 1, 1]))
    """
    if bins < 1:
        raise ValueError(f"bins must be at least 1, got {bins}.")
    edges = np.linspace(0.0, 1.0, bins + 1)
    return edges, np.clip(np.searchsorted(edges, confidence, side="left") - 1, 0, bins - 1)


def expected_calibration_error(confidence: Floats, correct: Bools, bins: int = 15) -> float:
    """Mean gap between how sure a model is and how often it is right, over bins of equal width.

    ECE = sum over bins of (share of samples in the bin) |accuracy - mean confidence|, as in Guo et al. (2017), over the
    bins of :func:`confidence_bins`. :func:`lightning_flip.reports.figures.reliability` has the bins one by one.

    Returns a number in [0, 1]; NaN when a confidence is NaN.

    Example:
        >>> round(expected_calibration_error(np.array([0.9, 0.9, 0.6, 0.6]), np.array([True, True, True, False])), 6)
        0.1
    """
    if bins < 1:
        raise ValueError(f"bins must be at least 1, got {bins}.")
    if np.isnan(confidence).any():
        return float("nan")
    place = confidence_bins(confidence, bins)[1]
    gap = np.bincount(place, weights=correct - confidence, minlength=bins)
    return float(np.abs(gap).sum() / len(confidence))


def area_under_roc(score: Floats, positive: Bools) -> float | None:
    """Chance that a positive scores higher than a negative; ties count half.

    Returns the area under the ROC curve in [0, 1]; None where there are no positives or no negatives.

    Example:
        >>> area_under_roc(np.array([3.0, 2.0, 1.0, 2.0]), np.array([True, True, False, False]))
        0.875
    """
    positives = int(positive.sum())
    negatives = len(positive) - positives
    if not positives or not negatives:
        return None
    _, group, size = np.unique(score, return_inverse=True, return_counts=True)
    mean_rank = np.cumsum(size) - (size - 1) / 2
    below = mean_rank[group][positive].sum() - positives * (positives + 1) / 2
    return float(below / (positives * negatives))
