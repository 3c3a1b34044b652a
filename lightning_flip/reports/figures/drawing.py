"""What figures share: a canvas outside pyplot, colors, and arrays that were checked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from lightning_flip.reports.text import printable

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["Correlation", "checked_probs", "new_figure", "plain_axes", "plain_text", "rank_correlation"]

Floats = npt.NDArray[np.floating]

BLUE, RED, GREEN, VIOLET, OCHER, GRAY = "#1f6fb2", "#c8442c", "#2f8f5b", "#8a5bb0", "#b0862a", "#9aa3ad"
COLORS = (RED, BLUE, GREEN, VIOLET, OCHER, "#3b8ea5", "#7a4b3a", "#4c566a")


class Correlation(NamedTuple):
    """Spearman's rank correlation.

    Attributes:
        coefficient: in [-1, 1]; NaN where one of the two does not vary.
        p_value: probability of a coefficient at least as far from 0 without any relation (two-sided, by Student's t).
        pairs: how many pairs.

    Example:
        >>> rank_correlation([1.0, 2.0, 3.0, 4.0], [8.0, 7.0, 3.0, 1.0]).coefficient
        -1.0
    """

    coefficient: float
    p_value: float
    pairs: int


def rank_correlation(x: npt.ArrayLike, y: npt.ArrayLike) -> Correlation:
    """Compute Spearman's coefficient.

    Args:
        x: ``[N]``, finite.
        y: ``[N]``, finite.

    Returns:
        The coefficient with its p-value.

    Raises:
        ValueError: if the two are not equally long rows of at least three finite numbers.
        ModuleNotFoundError: if scipy is not installed.

    Example:
        >>> found = rank_correlation(range(8), [0, 2, 1, 3, 4, 6, 5, 7])
        >>> round(found.coefficient, 3), found.pairs
        (0.952, 8)
    """
    try:
        from scipy import stats
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "Spearman's coefficient needs scipy, which is not installed; run pip install 'lightning-flip[report]'."
        ) from error
    first, second = np.asarray(x, np.float64), np.asarray(y, np.float64)
    if first.ndim != 1 or first.shape != second.shape or len(first) < 3:
        raise ValueError(
            f"x and y must be equally long, at least 3 pairs; got shapes {first.shape} and {second.shape}."
        )
    if not (np.isfinite(first).all() and np.isfinite(second).all()):
        raise ValueError("x and y must be finite; leave out what could not be measured.")
    if np.ptp(first) == 0 or np.ptp(second) == 0:
        return Correlation(float("nan"), float("nan"), len(first))
    found = stats.spearmanr(first, second)
    return Correlation(round(float(found.statistic), 12), float(found.pvalue), len(first))


def checked_probs(name: str, probs: npt.ArrayLike, shape: Sequence[int | None]) -> Floats:
    """See to it that an array has the form that a figure needs.

    Args:
        name: what messages call it.
        probs: the array.
        shape: expected lengths, None where any will do.

    Returns:
        The array.

    Raises:
        ValueError: if the shape is another one, or a value is not finite.

    Example:
        >>> checked_probs("path", [[0.5, 0.5]], (None, 2)).shape
        (1, 2)
    """
    array = np.asarray(probs, dtype=np.float64)
    fits = array.ndim == len(shape) and all(
        want is None or want == length for want, length in zip(shape, array.shape, strict=True)
    )
    if not fits or array.size == 0:
        expected = ", ".join("any" if want is None else str(want) for want in shape)
        raise ValueError(f"{name} must have the shape [{expected}]; got {list(array.shape)}.")
    if not np.isfinite(array).all():
        raise ValueError(f"{name} must be finite; leave out rows that were never visited, or diverged.")
    return array


def new_figure(width: float, height: float) -> Figure:
    """Make a figure of its own, outside pyplot: no window opens, and nothing has to be closed.

    Args:
        width: inches.
        height: inches.

    Returns:
        An empty figure.

    Raises:
        ModuleNotFoundError: if matplotlib is not installed.

    Example:
        >>> new_figure(4, 3).axes
        []
    """
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "figures need matplotlib, which is not installed; run pip install 'lightning-flip[report]'."
        ) from error
    return Figure(figsize=(width, height), layout="constrained")


def plain_axes(axes: Axes, *, x: str = "", y: str = "", title: str = "") -> None:
    """Label axes, and take off the lines that carry nothing.

    Args:
        axes: where.
        x: label of the horizontal axis.
        y: label of the vertical axis.
        title: shown above.
    """
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    if title:
        axes.set_title(title, fontsize="medium")
    axes.spines[["top", "right"]].set_visible(False)


def plain_text(label: Any) -> str:
    r"""Text that people chose, as a figure shows it: a pair of dollar signs would be read as a formula.

    Args:
        label: any text.

    Returns:
        One printable line.

    Example:
        >>> plain_text("cost in $")
        'cost in \\$'
    """
    return printable(str(label)).replace("$", r"\$")
