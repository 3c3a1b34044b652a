"""Which groups of samples an update harms: classes, slices, and pairs of right and wrong class."""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt

from lightning_flip.reports.intervals import wilson_interval
from lightning_flip.reports.update._flip_cells import FlipCells, count_cells
from lightning_flip.reports.update.joining import JoinedPredictions

__all__ = ["FlipGroups", "FlipMatrix", "flip_matrix", "flips_by_class", "flips_by_slice"]

Integers = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Label = int | str


@dataclasses.dataclass(frozen=True)
class FlipGroups:
    """Accuracies and flips of groups of samples; `flips_by_class` and `flips_by_slice` make it.

    Attributes:
        names: the G groups, sorted: labels, or values of a slice column. Each has at least one sample.
        cells: counts of shape [G].
        low: [G], lower end of Wilson's interval of the negative flip rate among the group's samples.
        high: [G], upper end.

    Example:
        >>> groups = FlipGroups(("cat",), FlipCells(*np.array([[6], [1], [2], [1]])), np.array([0.02]), np.array([0.4]))
        >>> groups.to_list()[0]["negative_flips"], groups.to_list()[0]["old_accuracy"]
        (1, 0.7)
    """

    names: tuple[Label, ...]
    cells: FlipCells
    low: Floats
    high: Floats

    def worst_first(self) -> Integers:
        """[G], positions of the groups from the highest lower end down; then more flips, then fewer samples first.

        The lower end of the interval, and not the rate, so that a group of a few samples does not lead the list by
        chance.
        """
        return np.lexsort((np.arange(len(self.names)), self.cells.total, -self.cells.negative, -self.low))

    def to_list(self) -> list[dict[str, Label | float]]:
        """One dict a group, in the order of `names`."""
        rates = {name: self.cells.rate(name) for name in ("old_accuracy", "new_accuracy", "negative_flip_rate")}
        columns = {
            "samples": self.cells.total,
            **rates,
            "negative_flip_rate_low": self.low,
            "negative_flip_rate_high": self.high,
            "negative_flips": self.cells.negative,
            "positive_flips": self.cells.positive,
        }
        rows = zip(self.names, *(column.tolist() for column in columns.values()), strict=True)
        return [dict(zip(("name", *columns), row, strict=True)) for row in rows]


@dataclasses.dataclass(frozen=True)
class FlipMatrix:
    """From which class to which class negative flips went: the entries of the matrix that are not 0.

    Attributes:
        labels: the K labels behind the codes.
        right: [P], code of the right class, which the old model predicted.
        wrong: [P], code of the class that the new model predicts instead.
        flips: [P], number of samples, at least 1; falling, equal ones by right and by wrong class.

    Example:
        >>> matrix = FlipMatrix(("cat", "dog"), np.array([0]), np.array([1]), np.array([5]))
        >>> matrix.to_list(), matrix.dense().tolist()
        ([{'right': 'cat', 'wrong': 'dog', 'flips': 5}], [[0, 5], [0, 0]])
    """

    labels: tuple[Label, ...]
    right: Integers
    wrong: Integers
    flips: Integers

    def to_list(self) -> list[dict[str, Label]]:
        """One dict an entry: `right`, `wrong` and `flips`."""
        rows = zip(self.right.tolist(), self.wrong.tolist(), self.flips.tolist(), strict=True)
        return [
            {"right": self.labels[right], "wrong": self.labels[wrong], "flips": flips} for right, wrong, flips in rows
        ]

    def dense(self) -> Integers:
        """[K, K], rows are right classes, columns wrong ones."""
        matrix = np.zeros((len(self.labels), len(self.labels)), np.int64)
        matrix[self.right, self.wrong] = self.flips
        return matrix


def flips_by_class(joined: JoinedPredictions, confidence: float = 0.95) -> FlipGroups:
    """Count flips by right class; classes without samples are left out. Returns the classes that occur, sorted.

    Example:
        >>> import pyarrow as pa
        >>> joined = JoinedPredictions(pa.array(["a", "b", "c"]), (3, 7), *np.array([[0, 1, 1], [0, 1, 1], [0, 0, 1]]))
        >>> groups = flips_by_class(joined)
        >>> groups.names, groups.cells.negative.tolist()
        ((3, 7), [0, 1])
    """
    return _by_group(joined, joined.labels, joined.target, confidence)


def flips_by_slice(joined: JoinedPredictions, column: str, confidence: float = 0.95) -> FlipGroups:
    """Count flips by the values of a slice column.

    Returns the values that occur, sorted; the empty text where a value is missing.

    Example:
        >>> import pyarrow as pa
        >>> codes = np.array([[0, 1, 1], [0, 1, 1], [0, 0, 1]])
        >>> sites = {"site": np.array(["x", "y", "y"], object)}
        >>> joined = JoinedPredictions(pa.array(["a", "b", "c"]), (3, 7), *codes, slices=sites)
        >>> flips_by_slice(joined, "site").cells.negative.tolist()
        [0, 1]
    """
    values, codes = joined.slice_codes(column)
    return _by_group(joined, values, codes, confidence)


def flip_matrix(joined: JoinedPredictions) -> FlipMatrix:
    """Count negative flips by right class and the class that is predicted instead.

    Returns the pairs that occur, most flips first.

    Example:
        >>> import pyarrow as pa
        >>> joined = JoinedPredictions(pa.array(["a", "b", "c"]), (3, 7), *np.array([[0, 1, 1], [0, 1, 1], [0, 0, 0]]))
        >>> flip_matrix(joined).to_list()
        [{'right': 7, 'wrong': 3, 'flips': 2}]
    """
    flipped = joined.negative_flips
    classes = len(joined.labels)
    pair, flips = np.unique(joined.target[flipped] * classes + joined.new_pred[flipped], return_counts=True)
    order = np.argsort(-flips, kind="stable")
    return FlipMatrix(joined.labels, pair[order] // classes, pair[order] % classes, flips[order])


def _by_group(joined: JoinedPredictions, names: tuple[Label, ...], codes: Integers, confidence: float) -> FlipGroups:
    cells = count_cells(joined.old_right, joined.new_right, codes, len(names))
    there = np.flatnonzero(cells.total)
    cells = FlipCells(*(count[there] for count in cells))
    low, high = wilson_interval(cells.negative, cells.total, confidence)
    return FlipGroups(tuple(names[place] for place in there), cells, low, high)
