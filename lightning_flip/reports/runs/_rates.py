"""Rates of recorded predictions: arrays in, numbers out."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

__all__ = ["area_under_roc", "confidence_bins", "expected_calibration_error", "flipping_errors"]

Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]


def flipping_errors(right_before: Bools, right_now: Bools) -> tuple[float, float]:
    """Flipping error FE = WFS / all samples and relative flipping error RFE = WFS / all wrong samples, in [0, 1].

    WFS are the samples that the selected epoch gets wrong and some earlier one had right. Without errors RFE is 0.
    """
    flipped = int((right_before & ~right_now).sum())
    wrong = int((~right_now).sum())
    return flipped / len(right_now), flipped / wrong if wrong else 0.0


def confidence_bins(confidence: Floats, n_bins: int) -> tuple[Floats, npt.NDArray[np.intp]]:
    """The M + 1 edges of bins of equal width, and each sample's bin, [N] in [0, M).

    Bin m holds ((m - 1)/M, m/M], and the first one 0 as well.
    """
    if n_bins < 1:
        raise ValueError(f"n_bins must be at least 1, got {n_bins}.")
    edges = np.linspace(0.0, 1.0, n_bins + 1)
    return edges, np.clip(np.searchsorted(edges, confidence, side="left") - 1, 0, n_bins - 1)


def expected_calibration_error(confidence: Floats, correct: Bools, n_bins: int = 15) -> float:
    """ECE = sum over bins of (share of samples in the bin) |accuracy - mean confidence|, as in Guo et al. (2017).

    Over the bins of :func:`confidence_bins`; in [0, 1], or NaN if a confidence is NaN.
    """
    if n_bins < 1:
        raise ValueError(f"n_bins must be at least 1, got {n_bins}.")
    if np.isnan(confidence).any():
        return float("nan")
    place = confidence_bins(confidence, n_bins)[1]
    gap = np.bincount(place, weights=correct - confidence, minlength=n_bins)
    return float(np.abs(gap).sum() / len(confidence))


def area_under_roc(score: Floats, positive: Bools) -> float | None:
    """Chance in [0, 1] that a positive scores higher than a negative, ties half; None without both kinds."""
    positives = int(positive.sum())
    negatives = len(positive) - positives
    if not positives or not negatives:
        return None
    _, group, size = np.unique(score, return_inverse=True, return_counts=True)
    mean_rank = np.cumsum(size) - (size - 1) / 2
    below = mean_rank[group][positive].sum() - positives * (positives + 1) / 2
    return float(below / (positives * negatives))
