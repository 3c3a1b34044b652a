"""How unsure a model was of the samples that an update flips, and of the others: counts in bins."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from textwrap import fill
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from lightning_flip.reports.text import printable

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["UncertaintyHistogram", "plot_uncertainty_histogram", "uncertainty_histogram"]

_OTHER, _FLIPPED = "#b9c0c8", "#c8442c"
_LINES = ("#c8442c", "#1f6fb2", "#2f8f5b", "#8a5bb0", "#b0862a")  # flipped samples keep their color in both panels
_NARROW = 4.5  # inches
_BASELINE = 0.5  # on a logarithmic axis, so that a single sample has a height


@dataclass(frozen=True)
class UncertaintyHistogram:
    """Samples counted by uncertainty; :func:`uncertainty_histogram` makes it.

    Attributes:
        edges: the ``bins + 1`` edges, ascending. Bin ``i`` holds ``edges[i] <= value < edges[i + 1]``, the last one its
            upper edge too.
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
        """Share of each bin's samples that flipped, in [0, 1]; None where a bin is empty."""
        pairs = zip(self.flipped, self.other, strict=True)
        return [flipped / (flipped + other) if flipped + other else None for flipped, other in pairs]


def uncertainty_histogram(
    uncertainty: npt.ArrayLike, flipped: npt.ArrayLike, *, bins: int = 20, highest: float | None = None
) -> UncertaintyHistogram:
    """Count flipped and other samples by uncertainty, in bins of equal width from 0.

    Yan et al. (2021), Fig. 4, with any measure: of an ensemble's logits ``predictive_entropy``,
    ``predictive_disagreement`` and ``predictive_std`` in :mod:`lightning_flip.functional`. Which ensemble the paper
    asks is not said; ours is free to choose, and the old model's own answers before the update.

    Args:
        uncertainty: ``[N]``, not negative.
        flipped: bool ``[N]``, e.g. the negative flips between an old model and a new one.
        bins: number of bins.
        highest: upper edge of the last bin; None takes the largest uncertainty. Give it to compare histograms.

    Returns:
        The counts.

    Raises:
        TypeError: if ``flipped`` is not bool.
        ValueError: if the lengths differ, there is no sample, a value is not finite, negative or above ``highest``, or
            ``bins`` is below 1.

    Example:
        >>> uncertainty_histogram([0.0, 0.1, 0.6, 1.0], [False, False, True, False], bins=2)
        UncertaintyHistogram(edges=(0.0, 0.5, 1.0), flipped=(0, 1), other=(2, 1))
    """
    values, flags = np.asarray(uncertainty, dtype=np.float64), np.asarray(flipped)
    if flags.dtype != np.bool_:
        raise TypeError(f"flipped must be bool [N], got {flags.dtype}; compare predictions and targets first.")
    if values.ndim != 1 or values.shape != flags.shape:
        raise ValueError(
            f"uncertainty and flipped must be [N] of one length, got {list(values.shape)} and {list(flags.shape)}."
        )
    if not len(values):
        raise ValueError("uncertainty must have at least one sample, got none.")
    if not np.isfinite(values).all() or values.min() < 0:
        odd = values[~np.isfinite(values) | (values < 0)]
        raise ValueError(f"uncertainty must be finite and not negative, got {odd[0]:g} ({len(odd)} such samples).")
    if bins < 1:
        raise ValueError(f"bins must be at least 1, got {bins}.")
    top = float(values.max()) if highest is None else float(highest)
    if not np.isfinite(top) or top < values.max():
        raise ValueError(f"highest={top:g} is below the largest uncertainty {values.max():g}; raise it.")
    edges = np.linspace(0.0, top or 1.0, bins + 1)  # samples that are all sure need a bin of some width
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
    """Draw how unsure a model was of flipped and of other samples, with logarithmic counts.

    Yan et al. (2021), Fig. 4: the upper panel has flipped and other samples of the (first) update; where several
    are given, a second panel has the flipped samples of each, by the same uncertainty.

    Args:
        histograms: one histogram, or one for each named update of the same old model.
        measure: what the uncertainty is: the label of the horizontal axis.
        size: width and height in inches; None takes 5 x 3 for a panel.

    Returns:
        A figure of its own, outside pyplot: ``figure.savefig(path)`` writes it, a notebook shows it.

    Raises:
        ValueError: if there is no histogram, or the edges of several differ.
        ModuleNotFoundError: if matplotlib is not installed.

    Example:
        >>> histogram = uncertainty_histogram([0.1, 0.2, 0.9], [False, False, True], bins=10)
        >>> figure = plot_uncertainty_histogram({"no treatment": histogram, "treated": histogram})
        >>> [axes.get_yscale() for axes in figure.axes]
        ['log', 'log']
    """
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "figures need matplotlib, which is not installed; run pip install 'lightning-flip[report]'."
        ) from error
    named = {"": histograms} if isinstance(histograms, UncertaintyHistogram) else dict(histograms)
    if not named:
        raise ValueError("histograms must hold at least one histogram, got none.")
    edges = next(iter(named.values())).edges
    if any(histogram.edges != edges for histogram in named.values()):
        raise ValueError("histograms must have the same edges; make all of them with the same bins= and highest=.")
    panels = 2 if len(named) > 1 else 1
    figure = Figure(figsize=size or (5.0, 3.0 * panels), layout="constrained")
    axes = figure.subplots(panels, 1, sharex=True, squeeze=False)[:, 0]
    name, first = next(iter(named.items()))
    width = figure.get_figwidth()
    _draw_both(axes[0], width, name, first)
    if panels == 2:
        for color, (label, histogram) in zip(_colors(len(named)), named.items(), strict=True):
            legend = f"{_plain(label)} ({_count(histogram.num_flipped)})"
            axes[1].stairs(histogram.flipped, edges, baseline=_BASELINE, color=color, linewidth=1.8, label=legend)
        _finish(axes[1], width, "negative flips", edges, across=1)
    axes[-1].set_xlabel(_folded(_plain(measure), width))
    return figure


def _draw_both(axes: Axes, width: float, name: str, histogram: UncertaintyHistogram) -> None:
    kinds = (
        ("other samples", histogram.other, _OTHER, 1.0),
        ("negative flips", histogram.flipped, _FLIPPED, 0.85),
    )
    for label, counts, color, alpha in kinds:
        legend = f"{label} ({_count(sum(counts))})"
        axes.stairs(counts, histogram.edges, baseline=_BASELINE, fill=True, color=color, alpha=alpha, label=legend)
    _finish(axes, width, "samples", histogram.edges, title=_plain(name))


def _finish(
    axes: Axes, width: float, label: str, edges: tuple[float, ...], *, across: int = 2, title: str = ""
) -> None:
    axes.set_yscale("log")
    axes.set_ylim(bottom=_BASELINE)
    margin = 0.005 * (edges[-1] - edges[0])  # for the width of a line
    axes.set_xlim(edges[0] - margin, edges[-1] + margin)
    axes.set_ylabel(label)
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}" if value >= 1 else "")
    handles, labels = axes.get_legend_handles_labels()
    axes.legend(  # above the panel, where it hides no count
        handles,
        [_folded(label, width) for label in labels],
        title=_folded(title, width),
        loc="lower left",
        bbox_to_anchor=(0.0, 1.0),
        borderaxespad=0.2,
        borderpad=0.0,
        ncols=across if width >= _NARROW else 1,
        alignment="left",
        frameon=False,
        fontsize="small",
    )
    axes.spines[["top", "right"]].set_visible(False)


def _folded(text: str, width: float) -> str:
    return fill(text, max(16, int(width * 9)))  # so many letters fit into that many inches beside the axis


def _colors(number: int) -> list[Any]:
    if number <= len(_LINES):
        return list(_LINES[:number])
    from matplotlib import colormaps

    return [colormaps["viridis"](place / (number - 1)) for place in range(number)]


def _count(number: int) -> str:
    return f"{number:,}"


def _plain(text: str) -> str:
    return printable(text).replace("$", r"\$")  # a pair of them would be read as a formula
