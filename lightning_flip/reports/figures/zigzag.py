"""Figure of zig-zag scores: they grow with base difficulty.

Paper: "Better supervisory signals by observing learning paths" (Filter-KD), Fig. 14.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from lightning_flip.reports.figures.drawing import (
    BLUE,
    Correlation,
    Floats,
    new_figure,
    plain_axes,
    plain_text,
    rank_correlation,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["ZigzagRelation", "plot_zigzag_relation", "zigzag_relation"]


@dataclasses.dataclass(frozen=True)
class ZigzagRelation:
    """Base difficulty and zig-zag score of every sample, and how the two go together.

    Attributes:
        difficulty: ``[N]``.
        zigzag: ``[N]``.
        correlation: Spearman's.

    Example:
        >>> relation = zigzag_relation([0.1, 0.5, 1.0, 1.2], [1.0, 4.0, 3.0, 9.0])
        >>> round(relation.correlation.coefficient, 2), sorted(relation.table())
        (0.8, ['difficulty', 'zigzag'])
    """

    difficulty: Floats
    zigzag: Floats
    correlation: Correlation

    def table(self) -> dict[str, Floats]:
        """Return the columns difficulty and zigzag, each ``[N]``."""
        return {"difficulty": self.difficulty, "zigzag": self.zigzag}


def zigzag_relation(difficulty: npt.ArrayLike, zigzag: npt.ArrayLike) -> ZigzagRelation:
    """Prepare the figure of zig-zag scores against base difficulty (Fig. 14).

    Args:
        difficulty: ||e_y - p*||_2 of every sample, ``[N]``.
        zigzag: zig-zag scores ``[N]``.

    Returns:
        Both, with Spearman's coefficient.

    Raises:
        ValueError: if the two are not equally long rows of at least three finite numbers.
        ModuleNotFoundError: if scipy is not installed.

    Example:
        >>> zigzag_relation([0.0, 0.5, 1.0], [1.0, 2.0, 3.0]).correlation.coefficient
        1.0
    """
    correlation = rank_correlation(difficulty, zigzag)
    return ZigzagRelation(np.asarray(difficulty, np.float64), np.asarray(zigzag, np.float64), correlation)


def plot_zigzag_relation(relations: Mapping[str, ZigzagRelation], *, columns: int = 4) -> Figure:
    """Draw zig-zag scores against base difficulty, a panel for each run.

    Args:
        relations: what :func:`zigzag_relation` prepared, by title.
        columns: panels in a row.

    Returns:
        A figure; ``figure.savefig(path)`` writes it.

    Raises:
        ValueError: if there is no relation.
        ModuleNotFoundError: if matplotlib is not installed.

    Example:
        >>> relation = zigzag_relation([0.0, 0.5, 1.0], [1.0, 2.0, 3.0])
        >>> plot_zigzag_relation({"d = 1": relation}).axes[0].get_xlabel()
        'base difficulty'
    """
    if not relations or columns < 1:
        raise ValueError("relations must hold at least one run, and columns be at least 1.")
    columns = min(columns, len(relations))
    rows = -(-len(relations) // columns)
    figure = new_figure(2.6 * columns + 0.3, 2.5 * rows + 0.2)
    panels = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axes, (title, relation) in zip(panels, relations.items(), strict=False):
        axes.scatter(relation.difficulty, relation.zigzag, s=4, alpha=0.25, color=BLUE, linewidths=0, rasterized=True)
        coefficient = f"Spearman {relation.correlation.coefficient:.2f}"
        axes.text(0.04, 0.97, coefficient, transform=axes.transAxes, va="top", fontsize="small")
        axes.set_xlim(-0.05, math.sqrt(2) + 0.05)  # the same everywhere: easy data have their samples on the left
        axes.margins(y=0.15)
        plain_axes(axes, x="base difficulty", title=plain_text(title))
    for axes in panels[::columns]:
        axes.set_ylabel("zig-zag score")
    for axes in panels[len(relations) :]:
        axes.set_axis_off()
    return figure
