"""Figures of distances to p*, sample by sample, at some stages of a training, and of wrong labels recovered.

Paper: "Better supervisory signals by observing learning paths" (Filter-KD), Fig. 2, 6, 17.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from lightning_flip.reports.figures._checks import Floats, check_finite
from lightning_flip.reports.figures.canvas import (
    BLUE,
    COLORS,
    GRAY,
    RED,
    folded_text,
    new_figure,
    note,
    panel_grid,
    plain_axes,
    plain_text,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["DistanceStages", "distance_stages", "plot_distance_stages", "plot_label_recovery", "recovery_curve"]


@dataclasses.dataclass(frozen=True)
class DistanceStages:
    """How far predictions are from p* at some stages of a training, sample by sample.

    Attributes:
        difficulty: ||e_y - p*||_2, ``[N]``.
        stages: ||q - p*||_2 by the stage's name, ``[N]`` each, in the order of time.
        supervision: ||p_tar - p*||_2, ``[N]``, or None.
    """

    difficulty: Floats
    stages: Mapping[str, Floats]
    supervision: Floats | None

    def table(self) -> dict[str, Floats]:
        """Return the columns difficulty, supervision if known, and one for each stage; each ``[N]``."""
        known = {} if self.supervision is None else {"supervision": self.supervision}
        return {"difficulty": self.difficulty, **known, **self.stages}

    def means(self) -> dict[str, float]:
        """Return the mean distance of every stage: E ||q - p*||_2 of Hypothesis 1."""
        return {name: float(distance.mean()) for name, distance in self.stages.items()}


def distance_stages(
    true_probs: npt.ArrayLike,
    target: npt.ArrayLike,
    stages: Mapping[str, npt.ArrayLike],
    *,
    supervision: npt.ArrayLike | None = None,
) -> DistanceStages:
    """Prepare the figure of distances to p* at some stages of a training (Fig. 2, 17).

    Args:
        true_probs: p*, ``[N, K]``.
        target: labels that were drawn, ``[N]``; they give the base difficulty.
        stages: predictions ``[N, K]`` by name, in the order of time.
        supervision: what the model was trained with, ``[N, K]``.

    Raises:
        ValueError: if a shape does not fit, or a value is not finite.

    Example:
        >>> rows = distance_stages([[0.6, 0.4]], [0], {"start": [[0.5, 0.5]], "end": [[1.0, 0.0]]})
        >>> {name: round(mean, 3) for name, mean in rows.means().items()}
        {'start': 0.141, 'end': 0.566}
    """
    truth = check_finite("true_probs", true_probs, (None, None))
    labels = np.asarray(target)
    if labels.shape != truth.shape[:1] or labels.dtype.kind not in "iu":
        raise ValueError(f"target must be {len(truth)} integer labels; got shape {labels.shape} of {labels.dtype}.")
    if not 0 <= labels.min() <= labels.max() < truth.shape[1]:
        raise ValueError(f"target must be in [0, {truth.shape[1]}); got {labels.min()} to {labels.max()}.")

    def from_truth(name: str, probs: npt.ArrayLike) -> Floats:
        distance: Floats = np.linalg.norm(check_finite(name, probs, truth.shape) - truth, axis=1)
        return distance

    return DistanceStages(
        difficulty=from_truth("labels", np.eye(truth.shape[1])[labels]),
        stages={name: from_truth(name, probs) for name, probs in stages.items()},
        supervision=None if supervision is None else from_truth("supervision", supervision),
    )


def plot_distance_stages(rows: Mapping[str, DistanceStages]) -> Figure:
    """Draw distances to p* against base difficulty: a row per supervision, a column per stage; the supervision in red.

    Distances and difficulty are divided by sqrt(2), the largest there can be, as in the paper's Fig. 2.

    Args:
        rows: results of :func:`distance_stages`, by the supervision's name; all with the same stages.

    Raises:
        ValueError: if there is no row, or the stages differ.

    Example:
        >>> row = distance_stages([[0.6, 0.4]], [0], {"start": [[0.5, 0.5]], "end": [[1.0, 0.0]]})
        >>> [axes.get_title() for axes in plot_distance_stages({"one-hot": row}).axes]
        ['start', 'end']
    """
    stages = {tuple(row.stages) for row in rows.values()}
    if len(stages) != 1 or stages == {()}:
        raise ValueError("rows must hold at least one supervision, all with the same stages.")
    names = stages.pop()
    titles = [folded_text(stage, 2.3) for stage in names] + [""] * (len(rows) - 1) * len(names)
    grid = panel_grid(titles, len(names), (2.5, 2.1), margin=(0.5, 0.33), share_x=True, share_y=True)
    shown = [(folded_text(name, 1.9), row, row.stages[stage]) for name, row in rows.items() for stage in names]
    for place, (name, row, distance) in enumerate(shown):
        (axes,) = grid.panels[place]
        _draw_distances(axes, row, distance)
        plain_axes(axes, x="base difficulty / √2" if grid.lowest[place] else "", y=name if grid.first[place] else "")
    grid.figure.supylabel("distance to p* / √2", fontsize="medium")
    return grid.figure


def recovery_curve(pred: npt.ArrayLike, true_target: npt.ArrayLike, given_target: npt.ArrayLike) -> Floats:
    """Share of the samples with a wrong label whose prediction is the true one, over time (Fig. 6).

    Args:
        pred: predicted classes ``[T, N]``, or probabilities ``[T, N, K]``, raw or filtered.
        true_target: right labels ``[N]``.
        given_target: labels that the model was trained with ``[N]``.

    Returns:
        Shares ``[T]`` in [0, 1].

    Raises:
        ValueError: if the shapes do not fit, no label is wrong, or a probability is NaN.

    Example:
        >>> recovery_curve([[0, 1, 0], [0, 0, 1]], true_target=[0, 0, 0], given_target=[0, 1, 1])
        array([0.5, 0.5])
    """
    classes, truth, given = np.asarray(pred), np.asarray(true_target), np.asarray(given_target)
    if classes.ndim == 3:
        without = np.argwhere(np.isnan(classes).any(axis=2))
        if len(without):
            time, sample = without[0].tolist()
            raise ValueError(
                f"pred must be probabilities, of which one is the largest; those of sample {sample} at time {time}, "
                f"counted from 0, have NaN in them ({len(without)} such rows). Leave such samples out."
            )
        classes = classes.argmax(axis=2)
    if truth.ndim != 1 or truth.shape != given.shape or classes.ndim != 2 or classes.shape[1:] != truth.shape:
        raise ValueError(
            "pred must be [T, N] or [T, N, K] and the targets [N]; got the shapes "
            f"{list(np.shape(pred))}, {list(truth.shape)} and {list(given.shape)}."
        )
    wrong = truth != given
    if not wrong.any():
        raise ValueError("given_target and true_target are the same: there is no wrong label to recover.")
    shares: Floats = (classes[:, wrong] == truth[wrong]).mean(axis=1)
    return shares


def plot_label_recovery(
    curves: Mapping[str, npt.ArrayLike], *, chance: float | None = None, marks: Mapping[str, int] | None = None
) -> Figure:
    """Draw label-recovery curves.

    Args:
        curves: shares ``[T]`` by name (raw path, filtered path), one value per epoch.
        chance: share that guessing reaches, drawn as a dashed line: 1 / K.
        marks: epochs to mark by name (early stop, end), counted from 0.

    Raises:
        ValueError: if there is no curve.

    Example:
        >>> plot_label_recovery({"raw": [0.1, 0.7, 0.2], "filtered": [0.1, 0.6, 0.8]}).axes[0].get_ylabel()
        'wrong labels recovered'
    """
    if not curves:
        raise ValueError("curves must hold at least one curve.")
    figure = new_figure(5.0, 3.2)
    axes = figure.subplots()
    colors = itertools.cycle((BLUE, RED, *COLORS[2:]))  # raw paths in blue, filtered ones in red, as in other figures
    for color, (name, shares) in zip(colors, curves.items(), strict=False):
        axes.plot(check_finite(name, shares, (None,)), color=color, label=plain_text(name))
    if chance is not None:
        axes.axhline(chance, color=GRAY, linestyle="--", linewidth=1, label="chance")
    for name, epoch in (marks or {}).items():
        axes.axvline(epoch, color=GRAY, linestyle=":", linewidth=1)
        axes.annotate(plain_text(name), (epoch, 1), xycoords=("data", "axes fraction"), fontsize="small", ha="center")
    axes.set_ylim(bottom=0)
    plain_axes(axes, x="epoch", y="wrong labels recovered")
    axes.legend(frameon=False, fontsize="small")
    return figure


def _draw_distances(axes: Axes, row: DistanceStages, distance: Floats) -> None:
    largest = np.sqrt(2)
    dots: dict[str, Any] = {"s": 4, "linewidths": 0, "rasterized": True}
    axes.scatter(row.difficulty / largest, distance / largest, color=BLUE, alpha=0.3, **dots)
    if row.supervision is not None:
        axes.scatter(row.difficulty / largest, row.supervision / largest, color=RED, alpha=0.15, **dots)
    note(axes, f"mean {distance.mean() / largest:.3f}")
    axes.set_xlim(-0.02, 1.02)
    axes.set_ylim(-0.02, 1.08)
