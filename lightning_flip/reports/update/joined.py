"""What an old and a new model said about the same samples."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

__all__ = ["JoinedPredictions"]

Bools = npt.NDArray[np.bool_]
Integers = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


@dataclasses.dataclass(frozen=True)
class JoinedPredictions:
    """What an old and a new model said about the same N samples; `join_predictions` makes it.

    Attributes:
        ids: [N] text, each once, in the order of the old model's file.
        labels: the label behind each code, sorted; integers or text.
        target: [N], codes.
        old_pred: [N], codes.
        new_pred: [N], codes.
        old_confidence: [N] in [0, 1], NaN where unknown; None where the file has none.
        new_confidence: the same of the new model.
        slices: [N] values as text (dtype object) by column; the empty text where a value is missing.
        only_old: number of samples left out since only the old model's file has them.
        only_new: number of samples left out since only the new model's file has them.
        outside_classes: number of samples left out since one of the models does not know their class.
        old_name: where the old model's predictions came from.
        new_name: where the new model's predictions came from.
        old_parameters: the old model's number of parameters; None where its file does not say.
        new_parameters: the same of the new model.

    Example:
        >>> code = np.array([0, 1, 1])
        >>> joined = JoinedPredictions(pa.array(["a", "b", "c"]), (3, 7), code, code, np.array([1, 1, 0]))
        >>> joined.negative_flips.tolist(), joined.positive_flips.tolist()
        ([True, False, True], [False, False, False])
    """

    ids: pa.Array | pa.ChunkedArray
    labels: tuple[int | str, ...]
    target: Integers
    old_pred: Integers
    new_pred: Integers
    old_confidence: Floats | None = None
    new_confidence: Floats | None = None
    slices: dict[str, npt.NDArray[Any]] = dataclasses.field(default_factory=dict)
    only_old: int = 0
    only_new: int = 0
    outside_classes: int = 0
    old_name: str = "old"
    new_name: str = "new"
    old_parameters: int | None = None
    new_parameters: int | None = None

    @property
    def num_samples(self) -> int:
        """N."""
        return len(self.target)

    @property
    def old_right(self) -> Bools:
        """[N], whether the old model was right."""
        return np.asarray(self.old_pred == self.target)

    @property
    def new_right(self) -> Bools:
        """[N], whether the new model is right."""
        return np.asarray(self.new_pred == self.target)

    @property
    def negative_flips(self) -> Bools:
        """[N], whether the old model was right and the new one is wrong."""
        return self.old_right & ~self.new_right

    @property
    def positive_flips(self) -> Bools:
        """[N], whether the old model was wrong and the new one is right."""
        return ~self.old_right & self.new_right

    def slice_codes(self, column: str) -> tuple[tuple[str, ...], Integers]:
        """Number the values of a slice column, quickly also for millions of samples.

        Args:
            column: one of `slices`.

        Returns:
            The distinct values, sorted, and the position of each sample's value among them, [N].

        Example:
            >>> code, slices = np.zeros(3, np.int64), {"camera": np.array(["b", "a", "b"], object)}
            >>> joined = JoinedPredictions(pa.array(["x", "y", "z"]), (0,), code, code, code, slices=slices)
            >>> values, codes = joined.slice_codes("camera")
            >>> values, codes.tolist()
            (('a', 'b'), [1, 0, 1])
        """
        values = pa.array(self.slices[column], pa.string())
        names = sorted(pc.unique(values).to_pylist())
        codes = pc.index_in(values, value_set=pa.array(names, pa.string()))
        return tuple(names), np.asarray(codes).astype(np.int64)
