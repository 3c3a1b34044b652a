"""Columns with several numbers a row, such as logits, to and from arrays [R, K]."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from lightning_flip.stores.errors import PredictionError

__all__ = ["first_without_class", "is_nested", "list_array", "logit_blocks", "stack_lists"]

_BLOCK = 32_768


def is_nested(kind: pa.DataType) -> bool:
    """Whether a column of this type holds several values a row.

    Example:
        >>> is_nested(pa.list_(pa.float32(), 3)), is_nested(pa.string())
        (True, False)
    """
    return bool(pa.types.is_nested(kind))


def list_array(values: npt.NDArray[Any]) -> pa.FixedSizeListArray:
    """Turn an array [R, K] into a column of R lists. Returns [R] lists of K.

    Example:
        >>> list_array(np.array([[1, 2], [3, 4]])).to_pylist()
        [[1, 2], [3, 4]]
    """
    return pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), values.shape[1])


def stack_lists(column: pa.ChunkedArray, where: str) -> tuple[pa.Array, int]:
    """Lay the lists of a column end to end. Returns the R K values, and K.

    Example:
        >>> values, width = stack_lists(pa.chunked_array([[[1, 2], [3, 4]]]), "a.parquet")
        >>> values.to_pylist(), width
        ([1, 2, 3, 4], 2)
    """
    kind = column.type
    if not (pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)):
        raise PredictionError(f"{where} must hold a list in every row, got {kind}.")
    lengths = pc.unique(pc.list_value_length(column)).to_pylist()
    if len(lengths) != 1 or not lengths[0]:
        raise PredictionError(f"{where} must hold lists of one length, got lengths {lengths[:5]}.")
    parts = [chunk.flatten() for chunk in column.chunks]
    values = pa.concat_arrays(parts) if len(parts) != 1 else parts[0]
    if values.null_count:
        raise PredictionError(f"{where} must have no missing values, got {values.null_count}.")
    return values, int(lengths[0])


def first_without_class(scores: npt.NDArray[np.floating[Any]]) -> int | None:
    """Find a row of scores that has no largest one: with NaN in it, or minus infinity for all classes.

    Returns number of the first such row; None where there is none.

    Example:
        >>> first_without_class(np.array([[0.0, -np.inf], [np.nan, 1.0]]))
        1
    """
    with np.errstate(invalid="ignore"):
        without = ~(scores.max(axis=1) > -np.inf)
    return int(without.argmax()) if without.any() else None


def logit_blocks(
    column: pa.ChunkedArray, where: str, numbers: npt.NDArray[np.int64] | None = None
) -> Iterator[tuple[int, npt.NDArray[np.floating[Any]]]]:
    """Give a column of logits block by block, so that a large one is never copied whole.

    Yields the first row's number, and the logits [rows, K] in the type that they are kept in.

    Example:
        >>> [(start, block.tolist()) for start, block in logit_blocks(pa.chunked_array([[[0.5, 1.0]]]), "a.parquet")]
        [(0, [[0.5, 1.0]])]
    """
    expected = None
    for start in range(0, len(column), _BLOCK):
        values, width = stack_lists(column.slice(start, _BLOCK), where)
        if not pa.types.is_floating(values.type):
            raise PredictionError(f"{where} must hold floating point numbers, got {values.type}.")
        if width != (expected or width):
            raise PredictionError(f"{where} must hold lists of one length, got lengths {[expected, width]}.")
        expected = width
        block = values.to_numpy(zero_copy_only=False).reshape(-1, width)
        without = first_without_class(block)
        if without is not None:
            row = start + without if numbers is None else int(numbers[start + without])
            raise PredictionError(
                f"{where} must hold numbers, of which one is the largest, but row {row}, counted from 0, has NaN in it"
                " or minus infinity for all classes. Such a row has no prediction: leave it out, or write it again."
            )
        yield start, block
