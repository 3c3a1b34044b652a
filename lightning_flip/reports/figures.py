"""Figures of reports; matplotlib is imported when one is drawn."""

from __future__ import annotations

from collections.abc import Mapping
from textwrap import fill
from typing import TYPE_CHECKING, Any

from lightning_flip.reports.text import printable
from lightning_flip.reports.uncertainty import UncertaintyHistogram

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["plot_uncertainty_histogram"]

_OTHER, _FLIPPED = "#b9c0c8", "#c8442c"
_LINES = ("#c8442c", "#1f6fb2", "#2f8f5b", "#8a5bb0", "#b0862a")  # flipped samples keep their color in both panels
_NARROW = 4.5  # inches
_BASELINE = 0.5  # on a logarithmic axis, so that a single sample has a height


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
        >>> from lightning_flip.reports.uncertainty import uncertainty_histogram
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
