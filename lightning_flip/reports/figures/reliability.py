"""Reliability diagrams: accuracy in bins of confidence.

Guo et al. (2017); samples and gap of every bin are Fig. 7 of "Pairwise label smoothing" (PLS).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from lightning_flip._deprecate import renamed_keywords
from lightning_flip.reports.figures._checks import as_named, check_flags, check_shares
from lightning_flip.reports.figures.canvas import BLUE, GRAY, RED, counted, legend_below, panel_grid, plain_axes, titled
from lightning_flip.reports.runs._rates import confidence_bins

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["Reliability", "plot_reliability", "reliability"]

_WIDTH = 2.6  # inches of a panel
_LEGEND = ("accuracy", "gap to the mean confidence", "calibrated", "samples", "|accuracy - confidence|")


@dataclasses.dataclass(frozen=True)
class Reliability:
    """Accuracy and mean confidence in bins of confidence; returned by :func:`reliability`.

    Attributes:
        edges: the M + 1 edges, ascending from 0 to 1. Bin m holds ``edges[m] < confidence <= edges[m + 1]``, the first
            one its lower edge too.
        count: samples in each bin.
        accuracy: share of a bin's samples that are right, in [0, 1]; NaN if the bin is empty.
        confidence: mean confidence of a bin's samples, in [0, 1]; NaN if the bin is empty.

    Example:
        >>> reliability([0.9, 0.9, 0.6, 0.6], [True, True, True, False], n_bins=2).accuracy
        (nan, 0.75)
    """

    edges: tuple[float, ...]
    count: tuple[int, ...]
    accuracy: tuple[float, ...]
    confidence: tuple[float, ...]

    @property
    def samples(self) -> int:
        """Number of all samples."""
        return sum(self.count)

    @property
    def gap(self) -> tuple[float, ...]:
        """Distance of accuracy and mean confidence in each bin, in [0, 1]; NaN if the bin is empty."""
        return tuple(abs(right - sure) for right, sure in zip(self.accuracy, self.confidence, strict=True))

    @property
    def calibration_error(self) -> float:
        """ECE in [0, 1]: the mean of the bins' gaps, each weighted by its share of the samples."""
        filled = [(count, gap) for count, gap in zip(self.count, self.gap, strict=True) if count]
        return sum(count * gap for count, gap in filled) / self.samples

    def table(self) -> dict[str, list[float] | list[int]]:
        """Return the columns low, high, count, accuracy, confidence and gap, one row per bin."""
        return {
            "low": list(self.edges[:-1]),
            "high": list(self.edges[1:]),
            "count": list(self.count),
            "accuracy": list(self.accuracy),
            "confidence": list(self.confidence),
            "gap": list(self.gap),
        }


@renamed_keywords(bins="n_bins")
def reliability(confidence: npt.ArrayLike, correct: npt.ArrayLike, n_bins: int = 15) -> Reliability:
    """Compute accuracy and mean confidence in bins of confidence of equal width.

    Args:
        confidence: probability of the predicted class, ``[N]`` in [0, 1].
        correct: whether the prediction is right, bool ``[N]``.
        n_bins: M; the PLS and label smoothing papers take 15, Filter-KD 10.

    Returns:
        The bins; their ``calibration_error`` is that of
        :func:`lightning_flip.reports.runs._rates.expected_calibration_error`.

    Raises:
        TypeError: if ``correct`` is not bool.
        ValueError: if the shapes do not fit, there is no sample, a confidence is not a probability, or ``n_bins`` is
            under 1.

    Example:
        >>> found = reliability([0.9, 0.9, 0.6, 0.6], [True, True, True, False], n_bins=5)
        >>> found.count, round(found.calibration_error, 6)
        ((0, 0, 2, 0, 2), 0.1)
    """
    sure = check_shares("confidence", confidence)
    right = check_flags("correct", correct, len(sure))
    edges, place = confidence_bins(sure, n_bins)
    count = np.bincount(place, minlength=n_bins)
    sums = [np.bincount(place, weights=weights, minlength=n_bins) for weights in (right, sure)]
    accuracy, mean = (np.divide(each, count, out=np.full(n_bins, np.nan), where=count > 0) for each in sums)
    return Reliability(
        edges=tuple(edges.tolist()),
        count=tuple(count.tolist()),
        accuracy=tuple(accuracy.tolist()),
        confidence=tuple(mean.tolist()),
    )


def plot_reliability(named: Reliability | Mapping[str, Reliability], *, columns: int = 3) -> Figure:
    """Draw reliability diagrams, and below each the number of samples and the gap of every bin (PLS, Fig. 7).

    In a calibrated model the bars end on the diagonal. The hatched part of a bin goes from its accuracy to its mean
    confidence: above the bar a model is overconfident, inside it underconfident.

    Args:
        named: a result of :func:`reliability`, or several by name, such as before and after temperature
            scaling. All are drawn on the same axes.
        columns: diagrams in a row, at most.

    Raises:
        ValueError: if there is none, or ``columns`` is under 1.

    Example:
        >>> before = reliability([0.9, 0.9, 0.6, 0.6], [True, True, True, False])
        >>> print(plot_reliability({"before": before}).axes[0].get_title())
        before
        ECE 10.0%, 4 samples
    """
    runs = as_named(named, Reliability)
    titles = [
        titled(name, f"ECE {found.calibration_error:.1%}, {counted(found.samples)}", _WIDTH)
        for name, found in runs.items()
    ]
    labels = list(_LEGEND)
    grid = panel_grid(titles, columns, (_WIDTH, 3.6), margin=(1.0, 0.2), heights=(2, 1), legend=labels)
    most = max(max(found.count) for found in runs.values())
    largest = max(gap for found in runs.values() for gap in found.gap if gap == gap)
    handles: dict[str, object] = {}
    for place, found in enumerate(runs.values()):
        upper, lower = grid.panels[place]
        _draw_diagram(upper, found)
        right = _draw_bins(lower, found)
        lower.set_ylim(0, 1.08 * most)
        right.set_ylim(0, 1.15 * (largest or 1))
        plain_axes(lower, x="confidence" if grid.lowest[place] else "")
        if grid.first[place]:
            upper.set_ylabel("accuracy")
            lower.set_ylabel("samples")
        else:
            upper.tick_params(labelleft=False)
            lower.tick_params(labelleft=False)
        if grid.last[place]:
            right.set_ylabel("gap", color=RED)
            right.set_in_layout(grid.full[place])  # else there is a blank place beside it, and all columns would widen
        else:
            right.tick_params(labelright=False)
        for axes in (upper, lower, right):
            handles |= {str(label): one for one, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    legend_below(grid.figure, [handles[label] for label in labels], labels)
    return grid.figure


def _draw_diagram(axes: Axes, found: Reliability) -> None:
    edges = np.asarray(found.edges)
    accuracy, confidence = np.asarray(found.accuracy), np.asarray(found.confidence)
    filled = np.asarray(found.count) > 0
    left, width = edges[:-1][filled], np.diff(edges)[filled]
    accuracy, confidence = accuracy[filled], confidence[filled]
    axes.bar(left, accuracy, width, align="edge", color=BLUE, alpha=0.45, edgecolor="white", label=_LEGEND[0])
    axes.bar(
        left,
        confidence - accuracy,
        width,
        bottom=accuracy,
        align="edge",
        facecolor="none",
        edgecolor=RED,
        hatch="////",
        linewidth=0.8,
        label=_LEGEND[1],
    )
    axes.plot([0, 1], [0, 1], color="black", linestyle="--", linewidth=1, label=_LEGEND[2])
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1.02)
    plain_axes(axes)


def _draw_bins(axes: Axes, found: Reliability) -> Axes:
    edges = np.asarray(found.edges)
    axes.bar(edges[:-1], found.count, np.diff(edges), align="edge", color=GRAY, edgecolor="white", label=_LEGEND[3])
    axes.set_xlim(0, 1)
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    right = axes.twinx()
    centers = (edges[:-1] + edges[1:]) / 2
    right.plot(centers, found.gap, color=RED, marker="o", markersize=3.5, linewidth=1.2, label=_LEGEND[4])
    right.tick_params(axis="y", labelcolor=RED)
    right.spines[["top", "left"]].set_visible(False)
    return right
