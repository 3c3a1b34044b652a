"""Figure of features of three classes on the plane of their class vectors, mislabelled samples in black.

Paper: "Does label smoothing mitigate label noise?", Fig. 4, 8 and 9, by the procedure of Müller et al. (2019), "When
does label smoothing help?".
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from lightning_flip.reports.figures._checks import Floats, as_named, check_finite, check_labels
from lightning_flip.reports.figures.canvas import (
    BLUE,
    GRAY,
    GREEN,
    RED,
    folded_text,
    legend_below,
    panel_grid,
    plain_axes,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["ClassProjection", "class_plane", "class_projection", "plot_class_projection", "project_features"]

_LOOKS = ((RED, "o"), (BLUE, "s"), (GREEN, "^"))
_WIDTH = 2.9  # inches of a panel
_FLAT = 1e-6  # height of the triangle, in lengths of its longest side, below which it is a line
_OTHER = "another class"


@dataclasses.dataclass(frozen=True)
class ClassProjection:
    """Features of samples with one of three labels, on their plane; returned by :func:`class_projection`.

    Attributes:
        points: ``[n, 2]``, in the length unit of the features.
        label: given label, as position in ``names``, ``[n]`` in 0 to 2.
        true_label: true label, as position in ``names``, ``[n]``; -1 for a class that is none of the three.
        names: the three classes.
        vectors: places of the class vectors, ``[3, 2]``; their mean is (0, 0).

    Example:
        >>> vectors = [[3.0, 0.0, 0.0], [0.0, 3.0, 0.0], [0.0, 0.0, 3.0]]
        >>> found = class_projection([[9.0, 1.0, 1.0], [1.0, 9.0, 1.0]], vectors, [4, 4], [4, 9], classes=(4, 5, 9))
        >>> found.is_noisy, found.table()["true_label"]
        (array([False,  True]), ['4', '9'])
    """

    points: Floats
    label: npt.NDArray[np.int64]
    true_label: npt.NDArray[np.int64]
    names: tuple[str, str, str]
    vectors: Floats

    @property
    def is_noisy(self) -> npt.NDArray[np.bool_]:
        """Whether the given label is wrong, ``[n]``."""
        noisy: npt.NDArray[np.bool_] = self.label != self.true_label
        return noisy

    def table(self) -> dict[str, list[float] | list[str] | list[bool]]:
        """Return the columns x, y, label, true_label and noisy, one row per sample; labels by name."""
        names = [*self.names, _OTHER]  # position -1 is the last one
        return {
            "x": self.points[:, 0].tolist(),
            "y": self.points[:, 1].tolist(),
            "label": [names[place] for place in self.label],
            "true_label": [names[place] for place in self.true_label],
            "noisy": self.is_noisy.tolist(),
        }


def class_plane(class_vectors: npt.ArrayLike) -> Floats:
    """Find an orthonormal basis of the plane through three class vectors.

    The first axis points from the first vector to the second one, and the third vector is on the positive side of
    the other axis, so that the picture does not depend on a rotation of the feature space.

    Args:
        class_vectors: rows of the last layer's weight that belong to the classes, ``[3, D]``.

    Returns:
        ``[2, D]``, orthonormal rows.

    Raises:
        ValueError: if the shape is another one, a value is not finite, or the three are on one line.

    Example:
        >>> class_plane([[0.0, 0.0, 1.0], [2.0, 0.0, 1.0], [1.0, 5.0, 1.0]])
        array([[1., 0., 0.],
               [0., 1., 0.]])
    """
    first, second, third = check_finite("class_vectors", class_vectors, (3, None))
    along, across = second - first, third - first
    longest = max(np.linalg.norm(side) for side in (along, across, third - second))
    length = np.linalg.norm(along)
    if length > _FLAT * longest:
        axis = along / length
        across = across - (across @ axis) * axis
        across = across - (across @ axis) * axis  # once more, for what rounding left
        height = np.linalg.norm(across)
        if height > _FLAT * longest:
            return np.stack([axis, across / height])
    raise ValueError(
        "class_vectors must span a plane, but the three are on one line; in a space of one dimension they always do,"
        " and two classes have only a line. Choose three other classes."
    )


def project_features(features: npt.ArrayLike, class_vectors: npt.ArrayLike) -> Floats:
    """Project features on the plane through three class vectors.

    The origin is the mean of the three class vectors: our choice, the papers name none; another origin moves all points
    alike. ``project_features(class_vectors, class_vectors)`` are the places of the class vectors themselves.

    Args:
        features: what enters the last layer, ``[n, D]``.
        class_vectors: rows of the last layer's weight that belong to the classes, ``[3, D]``.

    Returns:
        ``[n, 2]``. Distances within the plane are kept.

    Raises:
        ValueError: if the shapes do not fit, a value is not finite, or the three class vectors are on one line.

    Example:
        >>> vectors = [[0.0, 0.0, 1.0], [2.0, 0.0, 1.0], [1.0, 6.0, 1.0]]
        >>> project_features([[1.0, 2.0, 7.0], [2.0, 3.0, 0.0]], vectors)
        array([[0., 0.],
               [1., 1.]])
    """
    vectors = check_finite("class_vectors", class_vectors, (3, None))
    basis = class_plane(vectors)
    points: Floats = (check_finite("features", features, (None, basis.shape[1])) - vectors.mean(axis=0)) @ basis.T
    return points


def class_projection(
    features: npt.ArrayLike,
    class_vectors: npt.ArrayLike,
    label: npt.ArrayLike,
    true_label: npt.ArrayLike | None = None,
    *,
    classes: Sequence[int] = (0, 1, 2),
    names: Sequence[str] | None = None,
) -> ClassProjection:
    """Prepare the figure of features on the plane of three classes (Fig. 4, 8, 9).

    Args:
        features: what enters the last layer, ``[n, D]``, of samples whose given label is one of the three.
        class_vectors: the last layer's weight of the three classes, ``[3, D]``, in the order of ``classes``.
        label: given labels ``[n]``, all in ``classes``.
        true_label: true labels ``[n]``, of any class; None if all given ones are right.
        classes: numbers of the three classes.
        names: what figure and table call them; None takes the numbers.

    Raises:
        ValueError: if the shapes do not fit, a value is not finite, the class vectors are on one line, a label is not
            one of the three, or these are not three different ones.

    Example:
        >>> found = class_projection([[9.0, 1.0], [0.0, 1.0]], [[1.0, 0.0], [0.0, 1.0], [-1.0, -1.0]], [7, 8],
        ...     classes=(7, 8, 9), names=("cat", "dog", "owl"))
        >>> found.points.shape, found.table()["label"]
        ((2, 2), ['cat', 'dog'])
    """
    called = [str(name) for name in (classes if names is None else names)]
    if not len(classes) == len(set(classes)) == len(called) == 3:
        raise ValueError(f"classes must be three different numbers, and names three; got {list(classes)} and {called}.")
    points = project_features(features, class_vectors)
    given = check_labels("label", label, len(points))
    truth = given if true_label is None else check_labels("true_label", true_label, len(points))
    place, true_place = (_place(labels, classes) for labels in (given, truth))
    if (place < 0).any():
        odd = given[place < 0][0]
        raise ValueError(f"label must be one of {list(classes)}, got {odd}; leave out the samples of other classes.")
    vectors = project_features(class_vectors, class_vectors)
    return ClassProjection(points, place, true_place, (called[0], called[1], called[2]), vectors)


def plot_class_projection(named: ClassProjection | Mapping[str, ClassProjection], *, columns: int = 3) -> Figure:
    """Draw features on the plane of three classes: the color is the given label, black are wrong labels.

    The shape of a marker is the given label as well, for black ones too. Dashed lines go from the mean of the class
    vectors in the direction of each.

    Args:
        named: a result of :func:`class_projection`, or several by name, such as several treatments. Each has
            axes of its own, since treatments change the length of features.
        columns: panels in a row, at most.

    Raises:
        ValueError: if there is none, they have different classes, or ``columns`` is under 1.

    Example:
        >>> vectors = [[3.0, 0.0, 0.0], [0.0, 3.0, 0.0], [0.0, 0.0, 3.0]]
        >>> found = class_projection([[9.0, 1.0, 1.0], [1.0, 9.0, 1.0]], vectors, [0, 1], [0, 2])
        >>> [text.get_text() for text in plot_class_projection({"standard": found}).legends[0].get_texts()]
        ['0', '1', '2', 'direction of a class vector', 'wrong label']
    """
    runs = as_named(named, ClassProjection)
    names = next(iter(runs.values())).names
    if any(found.names != names for found in runs.values()):
        raise ValueError(
            f"named must all show the same three classes, {', '.join(names)}; draw others in a figure of their own."
        )
    inches = _WIDTH * min(columns, len(runs))
    legend = [*(folded_text(name, inches) for name in names), "direction of a class vector"]
    if any(found.is_noisy.any() for found in runs.values()):
        legend.append("wrong label")
    titles = [folded_text(name, _WIDTH) for name in runs]
    grid = panel_grid(titles, columns, (_WIDTH, 2.8), legend=legend)
    for panel, found in zip(grid.panels, runs.values(), strict=True):
        _draw_points(panel[0], found)
    legend_below(grid.figure, _handles()[: len(legend)], legend)
    return grid.figure


def _handles() -> list[Any]:
    from matplotlib.lines import Line2D

    def mark(color: str, shape: str) -> Line2D:
        return Line2D([], [], color=color, marker=shape, linestyle="none", markersize=5)

    direction = Line2D([], [], color=GRAY, linestyle="--", linewidth=1)
    return [*(mark(*look) for look in _LOOKS), direction, tuple(mark("black", shape) for _, shape in _LOOKS)]


def _draw_points(axes: Axes, found: ClassProjection) -> None:
    size = min(14.0, max(3.0, 8000 / len(found.points)))
    for place, (color, mark) in enumerate(_LOOKS):
        for noisy, shade in ((False, color), (True, "black")):
            x, y = found.points[(found.label == place) & (found.is_noisy == noisy)].T
            dots: dict[str, Any] = {"s": size, "linewidths": 0, "alpha": 0.7, "rasterized": True, "zorder": 2 + noisy}
            axes.scatter(x, y, color=shade, marker=mark, **dots)
    for (color, _), vector in zip(_LOOKS, found.vectors, strict=True):
        length = np.linalg.norm(found.points, axis=1).max() / np.linalg.norm(vector)
        axes.plot(*np.stack([0 * vector, length * vector]).T, color=color, linestyle="--", linewidth=1, zorder=1)
    axes.set_aspect("equal", adjustable="datalim")
    plain_axes(axes)


def _place(labels: npt.NDArray[np.int64], classes: Sequence[int]) -> npt.NDArray[np.int64]:
    hit = labels[:, None] == np.asarray(classes)
    return np.where(hit.any(axis=1), hit.argmax(axis=1), -1)
