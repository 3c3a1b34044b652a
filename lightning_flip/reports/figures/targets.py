"""Figure of training targets: what they give to the true classes, and to the largest others.

Paper: "Pairwise label smoothing" (PLS), Fig. 4.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from lightning_flip.reports.figures._checks import as_named
from lightning_flip.reports.figures.canvas import GREEN, RED, counted, legend_below, panel_grid, plain_axes, titled

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["TargetProfile", "plot_training_targets"]

_LEGEND = ("true classes", "largest other classes")
_ROUNDING = 1e-6  # of sums in float32


@dataclasses.dataclass(frozen=True)
class TargetProfile:
    """Mean training target of the true classes and of the largest other ones.

    In every sample the true classes are sorted by their target, and so are the others; means are taken rank by rank.
    The paper takes them over pairs with two different labels.

    Attributes:
        true: means of the true classes, largest first, in [0, 1]; at least one.
        others: means of the largest other classes, largest first, in [0, 1]. The paper shows five.
        samples: number of samples that the means are over, at least 1.

    Raises:
        ValueError: if that is not so.

    Example:
        >>> TargetProfile(true=(0.35, 0.3), others=(0.1, 0.05), samples=640).table()
        {'class': ['true', 'true', 'other', 'other'], 'rank': [1, 2, 1, 2], 'target': [0.35, 0.3, 0.1, 0.05]}
    """

    true: tuple[float, ...]
    others: tuple[float, ...]
    samples: int

    def __post_init__(self) -> None:
        if self.samples < 1:
            raise ValueError(
                f"samples must be at least 1, got {self.samples}; if no pair had two different labels, there is no"
                " profile."
            )
        if not self.true:
            raise ValueError("true must hold the mean target of at least one class, got none.")
        for name, means in (("true", self.true), ("others", self.others)):
            if not all(math.isfinite(mean) and -_ROUNDING <= mean <= 1 + _ROUNDING for mean in means):
                raise ValueError(f"{name} must be means of probabilities, in [0, 1]; got {means}.")
            if any(later > earlier + _ROUNDING for earlier, later in itertools.pairwise(means)):
                raise ValueError(f"{name} must be sorted, the largest first; got {means}.")

    def table(self) -> dict[str, list[str] | list[int] | list[float]]:
        """Return the columns class (true or other), rank (from 1) and target, one row per bar."""
        true, others = len(self.true), len(self.others)
        return {
            "class": ["true"] * true + ["other"] * others,
            "rank": [*range(1, true + 1), *range(1, others + 1)],
            "target": [*map(float, self.true), *map(float, self.others)],
        }


def plot_training_targets(named: TargetProfile | Mapping[str, TargetProfile], *, columns: int = 3) -> Figure:
    """Draw mean training targets as bars: plain green for the true classes, hatched red for others (PLS, Fig. 4).

    Args:
        named: one profile, or several by name, drawn on the same axes.
        columns: panels in a row, at most.

    Raises:
        ValueError: if there is none, or ``columns`` is under 1.

    Example:
        >>> profile = TargetProfile(true=(0.35, 0.3), others=(0.1, 0.05), samples=640)
        >>> [text.get_text() for text in plot_training_targets({"PLS": profile}).legends[0].get_texts()]
        ['true classes', 'largest other classes']
    """
    runs = as_named(named, TargetProfile)
    width = 2.8
    titles = [titled(name, counted(profile.samples), width) for name, profile in runs.items()]
    grid = panel_grid(titles, columns, (width, 2.2), legend=_LEGEND, share_y=True)
    most = max(len(profile.true) for profile in runs.values()), max(len(profile.others) for profile in runs.values())
    for place, profile in enumerate(runs.values()):
        (axes,) = grid.panels[place]
        handles = _draw_bars(axes, profile, *most)
        plain_axes(axes, x="rank" if grid.lowest[place] else "", y="mean target" if grid.first[place] else "")
    legend_below(grid.figure, handles, _LEGEND)
    return grid.figure


def _draw_bars(axes: Axes, profile: TargetProfile, true: int, others: int) -> list[Any]:
    handles = []
    ticks: list[float] = []
    looks = ((profile.true, 0.0, GREEN, None), (profile.others, true + 0.5, RED, "////"))
    for means, start, color, hatch in looks:
        places = [start + rank for rank in range(len(means))]
        handles.append(axes.bar(places, means, color=color, hatch=hatch, edgecolor="white", linewidth=0))
        for place, mean in zip(places, means, strict=True):
            text = f"{mean:.2f}" if mean >= 0.1 else f"{mean:.3f}"
            axes.annotate(text, (place, mean), (0, 2), textcoords="offset points", ha="center", fontsize="x-small")
        ticks += places
    axes.set_xticks(ticks, [str(rank) for rank in profile.table()["rank"]])
    axes.set_xlim(-0.6, true + others + 0.1)  # the same in all panels, so that bars of one kind stand below each other
    return handles
