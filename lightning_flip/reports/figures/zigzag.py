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

from lightning_flip.reports.figures._checks import Floats
from lightning_flip.reports.figures.canvas import BLUE, folded_text, note, panel_grid, plain_axes
from lightning_flip.reports.figures.correlation import Correlation, rank_correlation

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["ZigzagRelation", "plot_zigzag_relation", "zigzag_relation"]


@dataclasses.dataclass(frozen=True)
class ZigzagRelation:
    """Base difficulty and zig-zag score of every sample, and their correlation.

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
        relations: results of :func:`zigzag_relation`, by title.
        columns: panels in a row.

    Raises:
        ValueError: if there is no relation.

    Example:
        >>> relation = zigzag_relation([0.0, 0.5, 1.0], [1.0, 2.0, 3.0])
        >>> plot_zigzag_relation({"d = 1": relation}).axes[0].get_xlabel()
        'base difficulty'
    """
    if not relations:
        raise ValueError("relations must hold at least one run, got none.")
    grid = panel_grid([folded_text(title, 2.4) for title in relations], columns, (2.6, 2.33), margin=(0.3, 0.2))
    for (axes,), first, relation in zip(grid.panels, grid.first, relations.values(), strict=True):
        axes.scatter(relation.difficulty, relation.zigzag, s=4, alpha=0.25, color=BLUE, linewidths=0, rasterized=True)
        note(axes, f"Spearman {relation.correlation.coefficient:.2f}")
        axes.set_xlim(-0.05, math.sqrt(2) + 0.05)  # the same everywhere: easy data have their samples on the left
        axes.margins(y=0.15)
        plain_axes(axes, x="base difficulty", y="zig-zag score" if first else "")
    return grid.figure
