"""Figure of learning paths: on the simplex, with time as color.

Paper: "Better supervisory signals by observing learning paths" (Filter-KD), Fig. 3, 5, 15.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from lightning_flip.reports.figures._checks import Floats, check_finite
from lightning_flip.reports.figures.canvas import GRAY, RED, folded_text, legend_below, panel_grid, plain_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "SimplexPath",
    "plot_simplex_paths",
    "samples_by_difficulty",
    "simplex_path",
    "simplex_points",
]

_HEIGHT = math.sqrt(3) / 2


@dataclasses.dataclass(frozen=True)
class SimplexPath:
    """One sample's path on the plane of :func:`simplex_points`.

    Attributes:
        points: ``[T, 2]``.
        filtered: ``[T, 2]``, or None.
        truth: p*, ``[2]``, or None.
        stop: position in time of the best epoch or an early stop, or None.
        corners: what the three corners are: left, right, top.

    Example:
        >>> simplex_path([[1, 0, 0], [0, 1, 0]], alpha=0.5).filtered
        array([[0. , 0. ],
               [0.5, 0. ]])
    """

    points: Floats
    filtered: Floats | None
    truth: Floats | None
    stop: int | None
    corners: tuple[str, str, str]

    def table(self) -> dict[str, npt.NDArray[Any]]:
        """Return the columns time, x, y and, if there is a filtered path, filtered_x and filtered_y; each ``[T]``."""
        time, (x, y) = np.arange(len(self.points)), self.points.T
        columns: dict[str, npt.NDArray[Any]] = {"time": time, "x": x, "y": y}
        if self.filtered is not None:
            columns |= {"filtered_x": self.filtered[:, 0], "filtered_y": self.filtered[:, 1]}
        return columns


def simplex_points(probs: npt.ArrayLike) -> Floats:
    """Points of an equilateral triangle (appendix A), as :func:`lightning_flip.functional.barycentric`.

    Args:
        probs: ``[..., 3]``.

    Returns:
        ``[..., 2]``: class 0 at (0, 0), class 1 at (1, 0), class 2 at (1/2, sqrt(3)/2).

    Raises:
        ValueError: if the last axis does not have three entries.

    Example:
        >>> simplex_points([0.0, 1.0, 0.0])
        array([1., 0.])
    """
    array = np.asarray(probs, np.float64)
    if array.ndim < 1 or array.shape[-1] != 3:
        raise ValueError(
            f"probs must be [..., 3]; got {list(array.shape)}. Of more classes, functional.three_axes makes three."
        )
    points: Floats = array @ np.array([[0.0, 0.0], [1.0, 0.0], [0.5, _HEIGHT]])
    return points


def simplex_path(
    path: npt.ArrayLike,
    *,
    alpha: float | None = 0.05,
    filtered: npt.ArrayLike | None = None,
    truth: npt.ArrayLike | None = None,
    stop: int | None = None,
    corners: Sequence[str] = ("label", "other", "rest"),
) -> SimplexPath:
    """Prepare one sample's path for :func:`plot_simplex_paths`.

    Args:
        path: predictions ``[T, 3]``; of more classes, what ``functional.three_axes`` gives for the sample.
        alpha: weight of the new prediction in the running average that is drawn over the path, q_0 = p_0; None draws
            none.
        filtered: an existing filtered path ``[T, 3]``, instead of ``alpha``.
        truth: p*, ``[3]``.
        stop: position in time of the best epoch.
        corners: names of the three classes.

    Raises:
        ValueError: if a shape or number does not fit.

    Example:
        >>> prepared = simplex_path([[0.2, 0.4, 0.4], [0.9, 0.1, 0.0]], truth=[0.8, 0.1, 0.1], stop=1)
        >>> prepared.points.shape, prepared.filtered.shape, prepared.stop
        ((2, 2), (2, 2), 1)
    """
    raw = check_finite("path", path, (None, 3))
    if len(corners) != 3:
        raise ValueError(f"corners must be three names; got {len(corners)}.")
    if stop is not None and not 0 <= stop < len(raw):
        raise ValueError(f"stop must be a position in the path, 0 to {len(raw) - 1}; got {stop}.")
    smooth = None
    if filtered is not None:
        smooth = check_finite("filtered", filtered, raw.shape)
    elif alpha is not None:
        if not 0 < alpha <= 1:
            raise ValueError(f"alpha must be in (0, 1]; got {alpha}.")
        smooth = raw.copy()
        for time in range(1, len(raw)):
            smooth[time] = (1 - alpha) * smooth[time - 1] + alpha * raw[time]
    return SimplexPath(
        points=simplex_points(raw),
        filtered=None if smooth is None else simplex_points(smooth),
        truth=None if truth is None else simplex_points(check_finite("truth", truth, (3,))),
        stop=stop,
        corners=(plain_text(corners[0]), plain_text(corners[1]), plain_text(corners[2])),
    )


def samples_by_difficulty(difficulty: npt.ArrayLike, levels: Mapping[str, float] | None = None) -> dict[str, int]:
    """Choose a sample for each level of base difficulty (or zig-zag score).

    Args:
        difficulty: ``[N]``, finite.
        levels: quantiles in [0, 1] by name; None takes easy 0.1, medium 0.75, hard 0.97.

    Returns:
        For each name the position of the sample whose difficulty is nearest to that quantile.

    Raises:
        ValueError: if a quantile or the difficulty is not as expected.

    Example:
        >>> samples_by_difficulty([0.3, 0.0, 1.2, 0.7, 0.1], {"easy": 0.0, "hard": 1.0})
        {'easy': 1, 'hard': 2}
    """
    values = check_finite("difficulty", difficulty, (None,))
    levels = {"easy": 0.1, "medium": 0.75, "hard": 0.97} if levels is None else levels
    if not all(0 <= level <= 1 for level in levels.values()):
        raise ValueError(f"levels are quantiles in [0, 1]; got {dict(levels)}.")
    return {name: int(np.abs(values - np.quantile(values, level)).argmin()) for name, level in levels.items()}


def plot_simplex_paths(paths: Mapping[str, SimplexPath], *, columns: int = 3, time: str = "training") -> Figure:
    """Draw learning paths, a panel each: raw points from light to dark with time, the filtered path over them.

    A cross is p*, a circle the early stop, a square the end.

    Args:
        paths: prepared paths by title.
        columns: panels in a row.
        time: label of the color scale.

    Raises:
        ValueError: if there is no path.

    Example:
        >>> easy, hard = simplex_path([[0.3, 0.3, 0.4], [1, 0, 0]]), simplex_path([[0.3, 0.3, 0.4], [0, 1, 0]])
        >>> [axes.get_title() for axes in plot_simplex_paths({"easy": easy, "hard": hard}).axes[:2]]
        ['easy', 'hard']
    """
    if not paths:
        raise ValueError("paths must hold at least one path, got none.")
    grid = panel_grid([folded_text(title, 2.9) for title in paths], columns, (3.1, 2.83), margin=(0.6, 0.3))
    named: dict[str, Any] = {}
    for (axes,), path in zip(grid.panels, paths.values(), strict=True):
        _draw_path(axes, path)
        handles, labels = axes.get_legend_handles_labels()
        named |= dict(zip(labels, handles, strict=True))
    from matplotlib.cm import ScalarMappable

    mappable = ScalarMappable(cmap=_times())
    bar = grid.figure.colorbar(mappable, ax=grid.figure.axes, shrink=0.6, pad=0.01, ticks=[0, 1])
    bar.ax.set_yticklabels(["start", "end"])
    bar.set_label(plain_text(time), labelpad=-12)
    legend_below(grid.figure, list(named.values()), list(named))
    return grid.figure


def _draw_path(axes: Axes, path: SimplexPath) -> None:
    triangle = simplex_points(np.eye(3))
    axes.plot(triangle[[0, 1, 2, 0], 0], triangle[[0, 1, 2, 0], 1], color=GRAY, linewidth=1, zorder=1)
    shade = np.linspace(0, 1, len(path.points))
    axes.scatter(path.points[:, 0], path.points[:, 1], c=_times()(shade), s=9, linewidths=0, zorder=2)
    if path.filtered is not None:
        axes.plot(path.filtered[:, 0], path.filtered[:, 1], color=RED, linewidth=1.6, label="filtered", zorder=3)
    axes.plot(*path.points[-1], "s", color=_times()(1.0), markersize=6, label="end", zorder=4)
    if path.truth is not None:
        axes.plot(*path.truth, "X", color="black", markeredgecolor="white", markersize=8, label="p*", zorder=5)
    if path.stop is not None:  # a ring, because it is often on p*
        stop = path.points[path.stop]
        axes.plot(*stop, "o", color="none", markeredgecolor="black", markersize=12, label="early stop", zorder=6)
    offsets = ((0, -5, "top"), (0, -5, "top"), (0, 4, "bottom"))
    for place, name, (right, up, side) in zip(triangle, path.corners, offsets, strict=True):
        axes.annotate(
            name, place, xytext=(right, up), textcoords="offset points", fontsize="small", ha="center", va=side
        )
    axes.set_aspect("equal")
    axes.set_xlim(-0.14, 1.14)
    axes.set_ylim(-0.12, 1.02)
    axes.set_axis_off()


def _times() -> Any:
    from matplotlib import colormaps
    from matplotlib.colors import ListedColormap

    # The lightest fifth of the scale could not be seen on white.
    return ListedColormap(colormaps["Blues"](np.linspace(0.22, 1, 256)))
