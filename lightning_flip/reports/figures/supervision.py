"""Figure of accuracy and calibration error against the distance of a supervision from p*.

Paper: "Better supervisory signals by observing learning paths" (Filter-KD), Fig. 1.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from lightning_flip.reports.figures.canvas import COLORS, GRAY, panel_grid, plain_axes, plain_text
from lightning_flip.reports.figures.correlation import Correlation, rank_correlation

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["SupervisionRelation", "SupervisionRun", "plot_supervision", "supervision_relation"]

_MARKS = "osDv^hp8"


class SupervisionRun(NamedTuple):
    """One model: the supervision it learned from, and how well it does on held-out data.

    Attributes:
        name: the supervision's name; runs of one name are drawn alike, those without one ("") in gray.
        distance: of the supervision from p*.
        accuracy: in [0, 1].
        calibration_error: ECE in [0, 1].

    Example:
        >>> SupervisionRun("LS", 0.28, 0.827, 0.05).name
        'LS'
    """

    name: str
    distance: float
    accuracy: float
    calibration_error: float


@dataclasses.dataclass(frozen=True)
class SupervisionRelation:
    """Runs, and the rank correlations of accuracy and calibration error with the distance of the supervision.

    Attributes:
        runs: as given.
        accuracy: Spearman's coefficient of distance and accuracy; -1 if a nearer supervision is always better.
        calibration_error: the same of distance and ECE.
    """

    runs: tuple[SupervisionRun, ...]
    accuracy: Correlation
    calibration_error: Correlation

    def table(self) -> dict[str, list[str] | list[float]]:
        """Return the columns name, distance, accuracy and calibration_error, one row per run."""
        return {field: [getattr(run, field) for run in self.runs] for field in SupervisionRun._fields}


def supervision_relation(runs: Sequence[SupervisionRun]) -> SupervisionRelation:
    """Prepare the figure of accuracy and calibration against supervision distance (Fig. 1).

    Args:
        runs: at least three.

    Raises:
        ValueError: if there are fewer runs, or a number is not finite.
        ModuleNotFoundError: if scipy is not installed.

    Example:
        >>> runs = [SupervisionRun("", 0.1 * n, 0.9 - 0.01 * n, 0.02 * n) for n in range(5)]
        >>> relation = supervision_relation(runs)
        >>> relation.accuracy.coefficient, relation.calibration_error.coefficient
        (-1.0, 1.0)
    """
    distance = [run.distance for run in runs]
    return SupervisionRelation(
        tuple(runs),
        rank_correlation(distance, [run.accuracy for run in runs]),
        rank_correlation(distance, [run.calibration_error for run in runs]),
    )


def plot_supervision(relation: SupervisionRelation, *, distance: str = "distance of supervision and p*") -> Figure:
    """Draw accuracy and calibration error against supervision distance; named runs in color, the others in gray.

    Args:
        relation: a result of :func:`supervision_relation`.
        distance: label of the horizontal axis.

    Example:
        >>> runs = [SupervisionRun("LS" if n == 2 else "", 0.1 * n, 0.9 - 0.01 * n, 0.02 * n) for n in range(5)]
        >>> [axes.get_ylabel() for axes in plot_supervision(supervision_relation(runs)).axes]
        ['accuracy', 'calibration error']
    """
    names = list(dict.fromkeys(run.name for run in relation.runs if run.name))
    measures = (("accuracy", relation.accuracy), ("calibration_error", relation.calibration_error))
    titles = [f"Spearman {correlation.coefficient:.3f}, {correlation.pairs} runs" for _, correlation in measures]
    grid = panel_grid(titles, 2, (3.85, 3.13), margin=(0.5, 0.2))
    for (axes,), (field, _) in zip(grid.panels, measures, strict=True):
        marked: dict[str, Any] = {"s": 48, "linewidths": 0.5, "edgecolors": "white"}
        for place, name in enumerate(["", *names]):
            chosen = [run for run in relation.runs if run.name == name]
            points = [run.distance for run in chosen], [getattr(run, field) for run in chosen]
            if not name:
                axes.scatter(*points, s=14, color=GRAY, linewidths=0)
                continue
            color, mark = COLORS[(place - 1) % len(COLORS)], _MARKS[(place - 1) % len(_MARKS)]
            axes.scatter(*points, color=color, marker=mark, label=plain_text(name), **marked)
        plain_axes(axes, x=plain_text(distance), y=field.replace("_", " "))
    if names:
        handles = grid.panels[0][0].get_legend_handles_labels()
        grid.figure.legend(*handles, loc="outside right center", frameon=False, fontsize="small")
    return grid.figure
