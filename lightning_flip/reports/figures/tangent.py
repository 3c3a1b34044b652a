"""Figures of the decomposition lr A K (p_tar - q) of a step's change of predictions: traces of A and of K.

Paper: "Better supervisory signals by observing learning paths" (Filter-KD), appendix G, Fig. 18.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from lightning_flip.reports.figures._checks import Floats, check_finite
from lightning_flip.reports.figures.canvas import BLUE, COLORS, folded_text, legend_below, note, panel_grid, plain_axes
from lightning_flip.reports.figures.correlation import Correlation, rank_correlation

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["KernelSimilarity", "kernel_similarity", "plot_decomposition", "softmax_traces"]


@dataclasses.dataclass(frozen=True)
class KernelSimilarity:
    """Similarity of one observed input to others, and the trace of the kernel between them.

    Attributes:
        similarity: cosine of the angle between the inputs, ``[N]`` in [-1, 1].
        trace: tr K(x_o, x_u), ``[N]``.
        group: what the dots are colored by (the label of x_u), ``[N]``, or None.
        correlation: Spearman's.
    """

    similarity: Floats
    trace: Floats
    group: npt.NDArray[np.integer] | None
    correlation: Correlation

    def table(self) -> dict[str, npt.NDArray[np.generic]]:
        """Return the columns similarity, trace and, if known, group; each ``[N]``."""
        known = {} if self.group is None else {"group": self.group}
        return {"similarity": self.similarity, "trace": self.trace, **known}


def softmax_traces(path: npt.ArrayLike) -> Floats:
    """Tr A = 1 - sum q^2 along paths, as :func:`lightning_flip.functional.softmax_jacobian_trace`.

    Args:
        path: probabilities ``[T, N, K]``.

    Returns:
        ``[T, N]`` in [0, 1 - 1/K].

    Raises:
        ValueError: if the shape is another one, or a value is not finite.

    Example:
        >>> softmax_traces([[[0.5, 0.5]], [[1.0, 0.0]]])[:, 0]
        array([0.5, 0. ])
    """
    traces: Floats = 1 - (check_finite("path", path, (None, None, None)) ** 2).sum(axis=2)
    return traces


def kernel_similarity(
    x_o: npt.ArrayLike, x_u: npt.ArrayLike, kernel: npt.ArrayLike, *, group: npt.ArrayLike | None = None
) -> KernelSimilarity:
    """Prepare the figure of the kernel's trace against the similarity of inputs.

    Args:
        x_o: one observed input ``[...]``.
        x_u: other inputs ``[N, ...]``, at least 3.
        kernel: K(x_o, x_u), ``[N, K, K]``, of :func:`lightning_flip.functional.empirical_kernel`.
        group: labels of ``x_u``, ``[N]``, to color by.

    Raises:
        ValueError: if the shapes do not fit, or an input is zero everywhere.
        ModuleNotFoundError: if scipy is not installed.

    Example:
        >>> others = [[1.0, 0.0], [1.0, 1.0], [0.0, 1.0]]
        >>> found = kernel_similarity([1.0, 0.0], others, [np.eye(2) * 3, np.eye(2) * 2, np.eye(2)])
        >>> found.trace, found.correlation.coefficient
        (array([6., 4., 2.]), 1.0)
    """
    observed = np.asarray(x_o, np.float64).reshape(-1)
    others = np.asarray(x_u, np.float64)
    others = others.reshape(len(others), -1)
    if others.shape[1:] != observed.shape:
        raise ValueError(f"x_u must be inputs of the size of x_o, {observed.size}; got {others.shape[1]} each.")
    matrices = check_finite("kernel", kernel, (len(others), None, None))
    labels = None if group is None else np.asarray(group)
    if labels is not None and labels.shape != (len(others),):
        raise ValueError(f"group must be {len(others)} labels; got shape {labels.shape}.")
    lengths = np.linalg.norm(others, axis=1) * np.linalg.norm(observed)
    if not (lengths > 0).all():
        raise ValueError("inputs must not be zero everywhere: such a one has no direction to compare.")
    cosine, trace = others @ observed / lengths, np.trace(matrices, axis1=1, axis2=2)
    return KernelSimilarity(cosine, trace, labels, rank_correlation(cosine, trace))


def plot_decomposition(
    time: npt.ArrayLike,
    traces: Mapping[str, npt.ArrayLike],
    kernels: Mapping[str, KernelSimilarity],
    *,
    time_label: str = "epoch",
) -> Figure:
    """Draw tr A over training (above) and tr K against the similarity of inputs (below), one panel per sample.

    Args:
        time: ``[T]``.
        traces: tr A of each observed sample by title, ``[T]``.
        kernels: results of :func:`kernel_similarity` for the same samples, by the same titles.
        time_label: label of the time axis.

    Raises:
        ValueError: if there is no sample, or the titles differ.

    Example:
        >>> found = kernel_similarity([1.0, 0.0], [[1, 0], [1, 1], [0, 1]], [np.eye(2) * n for n in (3, 2, 1)])
        >>> len(plot_decomposition([0, 1], {"easy": [0.6, 0.1]}, {"easy": found}).axes)
        2
    """
    if not traces or list(traces) != list(kernels):
        raise ValueError("traces and kernels must hold the same samples, at least one, in the same order.")
    titles = [folded_text(title, 2.5) for title in traces]
    grid = panel_grid(titles, len(traces), (2.7, 4.43), margin=(0.4, 0.2), heights=(1, 1), share_y="row")
    moments = np.asarray(time)
    for (above, below), first, (title, trace) in zip(grid.panels, grid.first, traces.items(), strict=True):
        above.plot(moments, check_finite(title, trace, moments.shape), color=BLUE, linewidth=1.2)
        above.set_ylim(bottom=0)
        plain_axes(above, x=time_label, y="tr A" if first else "")
        found = kernels[title]
        groups = np.zeros(len(found.trace), int) if found.group is None else found.group
        for place, group in enumerate(np.unique(groups)):
            chosen = groups == group
            dots: dict[str, Any] = {"s": 6, "alpha": 0.5, "linewidths": 0, "rasterized": True}
            name = None if found.group is None else f"class {group}"
            color = COLORS[place % len(COLORS)]
            below.scatter(found.similarity[chosen], found.trace[chosen], color=color, label=name, **dots)
        note(below, f"Spearman {found.correlation.coefficient:.2f}")
        plain_axes(below, x="cosine of x_o and x_u", y="tr K" if first else "")
    handles, labels = grid.panels[0][1].get_legend_handles_labels()
    if labels:
        legend_below(grid.figure, handles, labels, markerscale=2)
    return grid.figure
