"""Figures of distances to p*, sample by sample, at some stages of a training, and of wrong labels recovered.

Paper: "Better supervisory signals by observing learning paths" (Filter-KD), Fig. 2, 6, 17. Every figure has a
function that makes its data, plain arrays, and one that draws them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from lightning_flip.reports.figures.drawing import (
    BLUE,
    COLORS,
    GRAY,
    RED,
    Floats,
    checked_probs,
    new_figure,
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
        """Return the columns difficulty, supervision where known, and one for each stage; each ``[N]``."""
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

    Returns:
        Distances, sample by sample.

    Raises:
        ValueError: if a shape does not fit, or a value is not finite.

    Example:
        >>> rows = distance_stages([[0.6, 0.4]], [0], {"start": [[0.5, 0.5]], "end": [[1.0, 0.0]]})
        >>> {name: round(mean, 3) for name, mean in rows.means().items()}
        {'start': 0.141, 'end': 0.566}
    """
    truth = checked_probs("true_probs", true_probs, (None, None))
    labels = np.asarray(target)
    if labels.shape != truth.shape[:1] or labels.dtype.kind not in "iu":
        raise ValueError(f"target must be {len(truth)} integer labels; got shape {labels.shape} of {labels.dtype}.")
    if not 0 <= labels.min() <= labels.max() < truth.shape[1]:
        raise ValueError(f"target must be in [0, {truth.shape[1]}); got {labels.min()} to {labels.max()}.")

    def from_truth(name: str, probs: npt.ArrayLike) -> Floats:
        distance: Floats = np.linalg.norm(checked_probs(name, probs, truth.shape) - truth, axis=1)
        return distance

    return DistanceStages(
        difficulty=from_truth("labels", np.eye(truth.shape[1])[labels]),
        stages={name: from_truth(name, probs) for name, probs in stages.items()},
        supervision=None if supervision is None else from_truth("supervision", supervision),
    )


def plot_distance_stages(rows: Mapping[str, DistanceStages]) -> Figure:
    """Draw distances to p* against base difficulty: a row a supervision, a column a stage; red is the supervision.

    Distances and difficulty are divided by sqrt(2), the largest there can be, as in the paper's Fig. 2.

    Args:
        rows: what :func:`distance_stages` prepared, by the supervision's name; all with the same stages.

    Returns:
        A figure; ``figure.savefig(path)`` writes it.

    Raises:
        ValueError: if there is no row, or the stages differ.
        ModuleNotFoundError: if matplotlib is not installed.

    Example:
        >>> row = distance_stages([[0.6, 0.4]], [0], {"start": [[0.5, 0.5]], "end": [[1.0, 0.0]]})
        >>> [axes.get_title() for axes in plot_distance_stages({"one-hot": row}).axes]
        ['start', 'end']
    """
    stages = {tuple(row.stages) for row in rows.values()}
    if len(stages) != 1 or stages == {()}:
        raise ValueError("rows must hold at least one supervision, all with the same stages.")
    names = stages.pop()
    figure = new_figure(2.5 * len(names) + 0.5, 2.1 * len(rows) + 0.5)
    panels = figure.subplots(len(rows), len(names), squeeze=False, sharex=True, sharey=True)
    for line, (supervision, row) in zip(panels, rows.items(), strict=True):
        for axes, stage in zip(line, names, strict=True):
            _draw_distances(axes, row, row.stages[stage])
        line[0].set_ylabel(plain_text(supervision))
    for above, below, stage in zip(panels[0], panels[-1], names, strict=True):
        above.set_title(plain_text(stage), fontsize="medium")
        below.set_xlabel("base difficulty / √2")
    figure.supylabel("distance to p* / √2", fontsize="medium")
    return figure


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
        curves: shares ``[T]`` by name (raw path, filtered path), one value an epoch.
        chance: share that guessing reaches, drawn as a dashed line: 1 / K.
        marks: epochs to mark by name (early stop, end), counted from 0.

    Returns:
        A figure; ``figure.savefig(path)`` writes it.

    Raises:
        ValueError: if there is no curve.
        ModuleNotFoundError: if matplotlib is not installed.

    Example:
        >>> plot_label_recovery({"raw": [0.1, 0.7, 0.2], "filtered": [0.1, 0.6, 0.8]}).axes[0].get_ylabel()
        'wrong labels recovered'
    """
    if not curves:
        raise ValueError("curves must hold at least one curve.")
    figure = new_figure(5.0, 3.2)
    axes = figure.subplots()
    for color, (name, shares) in zip(_cycle(len(curves)), curves.items(), strict=True):
        axes.plot(checked_probs(name, shares, (None,)), color=color, label=plain_text(name))
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
    mean = distance.mean() / largest
    axes.text(0.04, 0.97, f"mean {mean:.3f}", transform=axes.transAxes, va="top", fontsize="small")
    axes.set_xlim(-0.02, 1.02)
    axes.set_ylim(-0.02, 1.08)
    axes.spines[["top", "right"]].set_visible(False)


def _cycle(count: int) -> list[str]:
    return [(BLUE, RED, *COLORS[2:])[place % len(COLORS)] for place in range(count)]
