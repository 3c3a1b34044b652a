"""Histograms of the uncertainty of samples that an update flips, and of the others."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from lightning_flip._deprecate import renamed_keywords
from lightning_flip.reports.figures._checks import as_named, check_bins, check_finite, check_flags
from lightning_flip.reports.figures.canvas import (
    COLORS,
    RED,
    folded_text,
    line_look,
    panel_grid,
    plain_axes,
    plain_text,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["UncertaintyHistogram", "plot_uncertainty_histogram", "uncertainty_histogram"]

_OTHER = "#b9c0c8"
_NARROW = 4.5  # inches
_BASELINE = 0.5  # on a logarithmic axis, so that a single sample has a height


@dataclass(frozen=True)
class UncertaintyHistogram:
    """Samples counted by uncertainty; returned by :func:`uncertainty_histogram`.

    Attributes:
        edges: the ``n_bins + 1`` edges, ascending. Bin ``i`` holds ``edges[i] <= value < edges[i + 1]``, the last one
            its upper edge too.
        flipped: samples that flipped, in each bin.
        other: samples that did not.

    Example:
        >>> histogram = UncertaintyHistogram((0.0, 0.5, 1.0), flipped=(1, 3), other=(99, 7))
        >>> histogram.num_flipped, histogram.num_samples, histogram.flip_rates()
        (4, 110, [0.01, 0.3])
    """

    edges: tuple[float, ...]
    flipped: tuple[int, ...]
    other: tuple[int, ...]

    @property
    def num_flipped(self) -> int:
        """Number of samples that flipped."""
        return sum(self.flipped)

    @property
    def num_samples(self) -> int:
        """Number of all samples."""
        return sum(self.flipped) + sum(self.other)

    def flip_rates(self) -> list[float | None]:
        """Share of each bin's samples that flipped, in [0, 1]; None if a bin is empty."""
        pairs = zip(self.flipped, self.other, strict=True)
        return [flipped / (flipped + other) if flipped + other else None for flipped, other in pairs]


@renamed_keywords(bins="n_bins", highest="high")
def uncertainty_histogram(
    uncertainty: npt.ArrayLike, flipped: npt.ArrayLike, *, n_bins: int = 20, high: float | None = None
) -> UncertaintyHistogram:
    """Count flipped and other samples by uncertainty, in bins of equal width from 0.

    Yan et al. (2021), Fig. 4, with any measure: of an ensemble's logits ``predictive_entropy``,
    ``predictive_disagreement`` and ``predictive_std`` in :mod:`lightning_flip.functional`. The paper does not say which
    ensemble it takes; any one can be given here, or the old model's own predictions.

    Args:
        uncertainty: ``[N]``, not negative.
        flipped: bool ``[N]``, e.g. the negative flips between an old model and a new one.
        n_bins: number of bins.
        high: upper edge of the last bin; None takes the largest uncertainty. Give it to compare histograms.

    Raises:
        TypeError: if ``flipped`` is not bool.
        ValueError: if the lengths differ, there is no sample, a value is not finite, negative or above ``high``, or
            ``n_bins`` is below 1.

    Example:
        >>> uncertainty_histogram([0.0, 0.1, 0.6, 1.0], [False, False, True, False], n_bins=2)
        UncertaintyHistogram(edges=(0.0, 0.5, 1.0), flipped=(0, 1), other=(2, 1))
    """
    values = check_finite("uncertainty", uncertainty, (None,))
    flags = check_flags("flipped", flipped, len(values))
    if values.min() < 0:
        odd = values[values < 0]
        raise ValueError(f"uncertainty must not be negative, got {odd[0]:g} ({len(odd)} such samples).")
    check_bins(n_bins)
    top = float(values.max()) if high is None else float(high)
    if not np.isfinite(top) or top < values.max():
        raise ValueError(f"high={top:g} is below the largest uncertainty {values.max():g}; raise it.")
    edges = np.linspace(0.0, top or 1.0, n_bins + 1)  # samples that are all sure need a bin of some width
    counts = [np.histogram(values[mask], edges)[0] for mask in (flags, ~flags)]
    return UncertaintyHistogram(
        tuple(edges.tolist()), flipped=tuple(counts[0].tolist()), other=tuple(counts[1].tolist())
    )


def plot_uncertainty_histogram(
    histograms: UncertaintyHistogram | Mapping[str, UncertaintyHistogram],
    *,
    measure: str = "predictive entropy (nats)",
    size: tuple[float, float] | None = None,
) -> Figure:
    """Draw the uncertainty of flipped and of other samples, with logarithmic counts.

    Yan et al. (2021), Fig. 4: the upper panel has flipped and other samples of the (first) update. With several
    updates, a second panel has the flipped samples of each, by the same uncertainty.

    Args:
        histograms: one histogram, or one for each named update of the same old model.
        measure: label of the horizontal axis.
        size: width and height in inches; None takes 5 x 3 for a panel.

    Raises:
        ValueError: if there is no histogram, or the edges of several differ.

    Example:
        >>> histogram = uncertainty_histogram([0.1, 0.2, 0.9], [False, False, True], n_bins=10)
        >>> figure = plot_uncertainty_histogram({"no treatment": histogram, "treated": histogram})
        >>> [axes.get_yscale() for axes in figure.axes]
        ['log', 'log']
    """
    named = as_named(histograms, UncertaintyHistogram, "histograms")
    name, first = next(iter(named.items()))
    edges = first.edges
    if any(histogram.edges != edges for histogram in named.values()):
        raise ValueError("histograms must have the same edges; make all of them with the same n_bins= and high=.")
    grid = panel_grid([""] * min(2, len(named)), 1, (5.0, 3.0), margin=(0.0, 0.0), share_x=True)
    if size is not None:
        grid.figure.set_size_inches(size)
    width = grid.figure.get_figwidth()
    upper, lower = grid.panels[0][0], grid.panels[-1][0]
    kinds = (("other samples", first.other, _OTHER, 1.0), ("negative flips", first.flipped, RED, 0.85))
    labels = [f"{label} ({sum(counts):,})" for label, counts, _, _ in kinds]
    for text, (_, counts, color, alpha) in zip(labels, kinds, strict=True):
        upper.stairs(counts, edges, baseline=_BASELINE, fill=True, color=color, alpha=alpha, label=text)
    _finish(upper, width, "samples", edges, labels, title=name)
    if len(named) > 1:
        labels = [f"{label} ({histogram.num_flipped:,})" for label, histogram in named.items()]
        for place, (text, histogram) in enumerate(zip(labels, named.values(), strict=True)):
            color, dashes = line_look(place)
            look: dict[str, Any] = {"color": color, "linestyle": dashes if len(named) > len(COLORS) else "-"}
            lower.stairs(histogram.flipped, edges, baseline=_BASELINE, linewidth=1.8, label=plain_text(text), **look)
        _finish(lower, width, "negative flips", edges, labels, across=1)
    lower.set_xlabel(folded_text(measure, 0.7 * width))
    return grid.figure


def _finish(
    axes: Axes, width: float, label: str, edges: tuple[float, ...], legend: list[str], across: int = 2, title: str = ""
) -> None:
    axes.set_yscale("log")
    axes.set_ylim(bottom=_BASELINE)
    margin = 0.005 * (edges[-1] - edges[0])  # for the width of a line
    axes.set_xlim(edges[0] - margin, edges[-1] + margin)
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}" if value >= 1 else "")
    plain_axes(axes, y=label)
    axes.legend(  # above the panel, so that it hides no count
        axes.get_legend_handles_labels()[0],
        [folded_text(text, 0.7 * width) for text in legend],
        title=folded_text(title, 0.7 * width),
        loc="lower left",
        bbox_to_anchor=(0.0, 1.0),
        borderaxespad=0.2,
        borderpad=0.0,
        ncols=across if width >= _NARROW else 1,
        alignment="left",
        frameon=False,
        fontsize="small",
    )
