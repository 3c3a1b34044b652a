"""Labels of several columns and files, brought to one type: integers where all of them are, else text."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc

from lightning_flip.stores.errors import PredictionError
from lightning_flip.stores.predictions.columns import shown, whole_numbers

__all__ = ["align_labels", "parse_labels"]

_INTEGER = r"^[+-]?[0-9]+$"
# Too many digits for a float to tell neighbors apart.
_LONG = r"^[+-]?[0-9]{16,}"


def parse_labels(columns: Sequence[tuple[str, pa.ChunkedArray]]) -> list[pa.ChunkedArray]:
    """Find out whether labels that came as text, as all of CSV does, are numbers.

    Returns the columns as int64 where all labels of all of them are whole numbers, else as the text they are.

    Example:
        >>> target, pred = pa.chunked_array([["007", ""]]), pa.chunked_array([["7", "3.0"]])
        >>> [column.to_pylist() for column in parse_labels([("target", target), ("pred", pred)])]
        [[7, None], [7, 3]]
    """
    texts = [pc.if_else(pc.equal(column, ""), None, column) for _, column in columns]
    trimmed = [pc.utf8_trim_whitespace(column) for column in texts]
    numbers = [_to_numbers(column) for column in trimmed]
    if any(column is None for column in numbers):
        return texts
    return [whole_numbers(column, where) for (where, _), column in zip(columns, numbers, strict=True)]


def align_labels(columns: Sequence[tuple[str, pa.ChunkedArray]]) -> list[pa.ChunkedArray]:
    """Bring label columns to one type, so that the same label is the same value in all of them.

    Returns the columns: as they are where all have one type, as int64 where all text among them is whole numbers. A
    column without a single label takes the others' type.

    Example:
        >>> columns = [("old", pa.chunked_array([[1, 2]])), ("new", pa.chunked_array([["1", "2"]]))]
        >>> [str(column.type) for column in align_labels(columns)]
        ['int64', 'int64']
    """
    labelled = [(where, column) for where, column in columns if column.null_count < len(column)]
    texts = [(where, column) for where, column in labelled if pa.types.is_string(column.type)]
    numbers = [(where, column) for where, column in labelled if not pa.types.is_string(column.type)]
    if not numbers:
        wanted = pa.string() if texts else pa.int64()
        empty = {where: pa.chunked_array([pa.nulls(len(column), wanted)]) for where, column in columns}
        return [column if column.type == wanted else empty[where] for where, column in columns]
    for where, column in texts:
        if _to_integers(column) is None:
            words = column.drop_null()
            word = pa.concat_arrays([*words.filter(_other(words)).chunks, *words.slice(0, 1).chunks])[0].as_py()
            number = numbers[0][1].drop_null()[0].as_py()
            raise PredictionError(
                f"Labels must be of one kind, but {numbers[0][0]} holds integers (such as {number}) and {where} text"
                f" (such as {shown(word)}). Write class numbers in both, or class names in both."
            )
    return [_to_integers(column) if pa.types.is_string(column.type) else column for _, column in columns]


def _other(values: pa.ChunkedArray) -> pa.ChunkedArray:
    """[R], which texts are not whole numbers."""
    return pc.invert(pc.match_substring_regex(values, _INTEGER))


def _to_integers(values: pa.ChunkedArray) -> pa.ChunkedArray | None:
    """Text as int64; None where some of it is not a whole number, or one beyond int64."""
    if pc.any(_other(values)).as_py():
        return None
    try:
        return pc.utf8_ltrim(values, "+").cast(pa.int64())
    except pa.ArrowInvalid:
        return None


def _to_numbers(values: pa.ChunkedArray) -> pa.ChunkedArray | None:
    """Text as int64, else as float64; None where it is neither."""
    integers = _to_integers(values)
    if integers is not None or pc.any(pc.match_substring_regex(values, _LONG)).as_py():
        return integers
    try:
        return values.cast(pa.float64())
    except pa.ArrowInvalid:
        return None
