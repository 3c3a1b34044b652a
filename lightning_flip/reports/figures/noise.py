"""Accuracies on right and on wrong training labels, and densities of logit gaps.

Paper: "Does label smoothing mitigate label noise?", Table 3, Fig. 3 and 7.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from lightning_flip._deprecate import renamed_keywords
from lightning_flip.reports.figures._checks import Floats, as_named, check_bins, check_finite, check_flags, check_labels
from lightning_flip.reports.figures.canvas import folded_text, legend_below, line_look, panel_grid, plain_axes

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["LogitGaps", "NoiseAccuracies", "logit_gaps", "noise_accuracies", "plot_logit_gaps"]

_SAME = 1e-100  # a bin narrower than this has no density that is a number

_TITLES = {
    "noisy_true": "wrong labels: true class",
    "noisy_label": "wrong labels: given class",
    "clean_true": "right labels: true class",
    "all_top": "all samples: largest logit",
}


@dataclasses.dataclass(frozen=True)
class NoiseAccuracies:
    """Accuracies on parts of a training set with wrong labels; returned by :func:`noise_accuracies`.

    Attributes:
        all_true: of all samples, against the true labels; this and the others in [0, 1], None if a part is empty.
        clean_true: of those whose label is right.
        noisy_true: of those whose label is wrong, against the true labels: wrong labels undone.
        noisy_label: of the same, against the given labels: wrong labels learned.
        all_label: of all samples, against the given labels: what training sees.
        clean: number of samples whose label is right.
        noisy: number of samples whose label is wrong.

    Example:
        >>> noise_accuracies(pred=[0, 1, 1], label=[0, 1, 2], true_label=[0, 0, 1]).table()["accuracy"]
        [0.6666666666666666, 1.0, 0.5, 0.5, 0.6666666666666666]
    """

    all_true: float | None
    clean_true: float | None
    noisy_true: float | None
    noisy_label: float | None
    all_label: float | None
    clean: int
    noisy: int

    def table(self) -> dict[str, list[str] | list[float] | list[int]]:
        """Return the columns part, against, accuracy (NaN if the part is empty) and samples, five rows."""
        count = {"all": self.clean + self.noisy, "clean": self.clean, "noisy": self.noisy}
        rows = (
            ("all", "true label", self.all_true),
            ("clean", "true label", self.clean_true),
            ("noisy", "true label", self.noisy_true),
            ("noisy", "given label", self.noisy_label),
            ("all", "given label", self.all_label),
        )
        return {
            "part": [part for part, _, _ in rows],
            "against": [against for _, against, _ in rows],
            "accuracy": [float("nan") if accuracy is None else accuracy for _, _, accuracy in rows],
            "samples": [count[part] for part, _, _ in rows],
        }


def noise_accuracies(pred: npt.ArrayLike, label: npt.ArrayLike, true_label: npt.ArrayLike) -> NoiseAccuracies:
    """Measure what a model predicts for right and for wrong labels (Table 3).

    Args:
        pred: predicted classes ``[N]``.
        label: given labels ``[N]``, some of them wrong.
        true_label: true labels ``[N]``.

    Returns:
        The accuracies. Of the wrong labels some are undone, some learned, and the rest is taken for a third class.

    Raises:
        ValueError: if the shapes do not fit, there is no sample, or a class is not an integer, or negative.

    Example:
        >>> found = noise_accuracies(pred=[0, 1, 1, 2], label=[0, 1, 2, 2], true_label=[0, 1, 1, 0])
        >>> found.clean_true, found.noisy_true, found.noisy_label
        (1.0, 0.5, 0.5)
    """
    found = check_labels("pred", pred)
    given = check_labels("label", label, len(found))
    truth = check_labels("true_label", true_label, len(found))
    noisy = given != truth

    def share(right: npt.NDArray[np.bool_]) -> float | None:
        return float(right.mean()) if len(right) else None

    return NoiseAccuracies(
        all_true=share(found == truth),
        clean_true=share((found == truth)[~noisy]),
        noisy_true=share((found == truth)[noisy]),
        noisy_label=share((found == given)[noisy]),
        all_label=share(found == given),
        clean=int((~noisy).sum()),
        noisy=int(noisy.sum()),
    )


@dataclasses.dataclass(frozen=True)
class LogitGaps:
    """Densities of how far a logit stands above the mean logit of its sample; returned by :func:`logit_gaps`.

    Attributes:
        edges: the ``n_bins + 1`` edges, ascending, the same for all curves. A bin holds its lower edge, the last one
            its upper edge too.
        density: for each curve a density in each bin; area 1. A part without samples has no curve. ``noisy_true`` and
            ``noisy_label`` are the gaps of the true and of the given class where the label is wrong (Fig. 3),
            ``all_top`` that of the largest logit on all samples and ``clean_true`` that of the true class where the
            label is right (Fig. 7).
        samples: for each curve the number of its samples.

    Example:
        >>> found = logit_gaps([2.0, 4.0], [2.0, 0.0], [2.0, 4.0], [False, True], n_bins=2)
        >>> found.table()
        {'low': [0.0, 2.0], 'high': [2.0, 4.0], 'noisy_true': [0.5, 0.0], 'noisy_label': [0.0, 0.5],
         'clean_true': [0.0, 0.5], 'all_top': [0.0, 0.5]}
    """

    edges: tuple[float, ...]
    density: Mapping[str, tuple[float, ...]]
    samples: Mapping[str, int]

    def table(self) -> dict[str, list[float]]:
        """Return the columns low, high and one for each curve, one row per bin."""
        curves = {name: list(curve) for name, curve in self.density.items()}
        return {"low": list(self.edges[:-1]), "high": list(self.edges[1:]), **curves}


@renamed_keywords(bins="n_bins")
def logit_gaps(
    label_gap: npt.ArrayLike,
    true_gap: npt.ArrayLike,
    top_gap: npt.ArrayLike,
    is_noisy: npt.ArrayLike,
    *,
    n_bins: int = 40,
) -> LogitGaps:
    """Prepare the figure of logits that stand out, on the parts with right and with wrong labels (Fig. 3, 7).

    Args:
        label_gap: logit of the given label less the mean logit of the sample, ``[N]``.
        true_gap: logit of the true label less the mean logit, ``[N]``.
        top_gap: largest logit less the mean logit, ``[N]``.
        is_noisy: whether the given label is wrong, bool ``[N]``.
        n_bins: bins from the smallest to the largest gap of all curves.

    Raises:
        TypeError: if ``is_noisy`` is not bool.
        ValueError: if the shapes do not fit, there is no sample, a gap is not finite, or ``n_bins`` is under 1.

    Example:
        >>> found = logit_gaps([1.0, 3.0], [1.0, 0.0], [2.0, 3.0], [False, True], n_bins=3)
        >>> found.samples
        {'noisy_true': 1, 'noisy_label': 1, 'clean_true': 1, 'all_top': 2}
    """
    top = check_finite("top_gap", top_gap, (None,))
    given, true = check_finite("label_gap", label_gap, top.shape), check_finite("true_gap", true_gap, top.shape)
    noisy = check_flags("is_noisy", is_noisy, len(top))
    check_bins(n_bins)
    values = {"noisy_true": true[noisy], "noisy_label": given[noisy], "clean_true": true[~noisy], "all_top": top}
    values = {name: gaps for name, gaps in values.items() if len(gaps)}
    edges = _edges(np.concatenate(list(values.values())), n_bins)
    density = {name: np.histogram(gaps, edges, density=True)[0] for name, gaps in values.items()}
    return LogitGaps(
        edges=tuple(edges.tolist()),
        density={name: tuple(curve.tolist()) for name, curve in density.items()},
        samples={name: len(gaps) for name, gaps in values.items()},
    )


def plot_logit_gaps(named: LogitGaps | Mapping[str, LogitGaps], *, columns: int = 2) -> Figure:
    """Draw densities of logit gaps, a panel for each kind and a line for each run (Fig. 3, 7).

    A kind that no run has gets no panel. A line goes through the middles of a run's bins, so that the area below it is
    1 as well. A panel shows at least the middle 99% of each run's samples; a few may be outside, and are in the table.

    Args:
        named: a result of :func:`logit_gaps`, or several by name.
        columns: panels in a row, at most.

    Raises:
        ValueError: if there is none, or ``columns`` is under 1.

    Example:
        >>> found = logit_gaps([1.0, 3.0], [1.0, 0.0], [2.0, 3.0], [False, True])
        >>> [axes.get_title() for axes in plot_logit_gaps({"standard": found}).axes[:2]]
        ['wrong labels: true class', 'wrong labels: given class']
    """
    runs = as_named(named, LogitGaps)
    kinds = [kind for kind in _TITLES if any(kind in found.density for found in runs.values())]
    width = 3.0
    legend = {name: folded_text(name, min(columns, len(kinds)) * width) for name in runs if name}
    grid = panel_grid([_TITLES[kind] for kind in kinds], columns, (width, 2.1), legend=list(legend.values()))
    lines = {}
    for place, kind in enumerate(kinds):
        (axes,) = grid.panels[place]
        shown: list[float] = []
        for number, (name, found) in enumerate(runs.items()):
            if kind in found.density:
                x, y, middle = _line(found, kind)
                color, dashes = line_look(number)
                (lines[name],) = axes.plot(x, y, color=color, linestyle=dashes, linewidth=1.5)
                shown += middle
        axes.set_xlim(min(shown), max(shown))
        axes.set_ylim(bottom=0)
        plain_axes(axes, x="logit - mean logit" if grid.lowest[place] else "", y="density" if grid.first[place] else "")
    if legend:
        legend_below(grid.figure, [lines[name] for name in legend], list(legend.values()))
    return grid.figure


def _line(found: LogitGaps, kind: str) -> tuple[Floats, Floats, tuple[float, float]]:
    edges = np.asarray(found.edges)
    width = edges[1] - edges[0]
    x = np.concatenate([edges[:1] - width / 2, edges[:-1] + width / 2, edges[-1:] + width / 2])
    y = np.concatenate([[0.0], found.density[kind], [0.0]])
    first, last = np.searchsorted(np.cumsum(y) * width, [0.005, 0.995])
    return x, y, (float(x[first - 1]), float(x[last + 1]))


def _edges(values: Floats, n_bins: int) -> Floats:
    low, high = float(values.min()), float(values.max())
    edges = np.linspace(low, high, n_bins + 1)
    if (np.diff(edges) > _SAME).all():
        return edges
    half = max(0.5, 1e-6 * abs(low))  # gaps that are all the same need bins of some width
    return np.linspace(low - half, high + half, n_bins + 1)
