"""Ids, labels and confidences of any tool's making, brought to the few types that predictions are kept in."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc

from lightning_flip.stores.errors import PredictionError

__all__ = ["align_labels", "as_confidence", "as_ids", "as_labels", "as_text", "parse_labels", "shown"]

_INTEGER = r"^[+-]?[0-9]+$"
# Too many digits for a float to tell neighbors apart.
_LONG = r"^[+-]?[0-9]{16,}"
# Softmax in half precision, summed by another tool, may leave [0, 1] by this much.
_ROUNDING = 1e-3


def as_ids(values: pa.ChunkedArray, where: str) -> pa.ChunkedArray:
    """Bring ids to text; an integer id is its decimal text.

    Args:
        values: [R], text, bytes in UTF-8, integers, or floats that are whole numbers; also dictionary-encoded.
        where: what the column is, for messages.

    Returns:
        [R] string.

    Raises:
        PredictionError: when an id is missing, or of another type.

    Example:
        >>> as_ids(pa.chunked_array([[7, 12]]), "a.parquet, column 'index'").to_pylist()
        ['7', '12']
    """
    values = _plain(values, where)
    _refuse_nulls(values, where, "must name every sample")
    if pa.types.is_integer(values.type) or pa.types.is_floating(values.type):
        return _whole(values, where).cast(pa.string())
    if pa.types.is_null(values.type):
        return values.cast(pa.string())
    if pa.types.is_string(values.type):
        return values
    raise PredictionError(f"{where} must be text or integers, got {values.type}. Write the ids as text.")


def as_labels(values: pa.ChunkedArray, where: str, *, nullable: bool) -> pa.ChunkedArray:
    """Bring labels to int64 or to text.

    Args:
        values: [R], integers, booleans, floats that are whole numbers (NaN: no label), text, bytes in UTF-8; also
            dictionary-encoded.
        where: what the column is, for messages.
        nullable: whether a label may be missing.

    Returns:
        [R] int64 or string.

    Raises:
        PredictionError: when a label is missing where none may be, is a fraction, or of another type.

    Example:
        >>> as_labels(pa.chunked_array([[3.0, float("nan")]]), "a.csv, column 'target'", nullable=True).to_pylist()
        [3, None]
    """
    values = _plain(values, where)
    if pa.types.is_boolean(values.type) or pa.types.is_null(values.type):
        values = values.cast(pa.int64())
    if pa.types.is_integer(values.type) or pa.types.is_floating(values.type) or pa.types.is_decimal(values.type):
        values = _whole(values, where)
    elif not pa.types.is_string(values.type):
        raise PredictionError(f"{where} must be integer or text labels, got {values.type}.")
    if not nullable:
        _refuse_nulls(values, where, "must hold a label in every row")
    return values


def as_confidence(values: pa.ChunkedArray, where: str) -> pa.ChunkedArray:
    """Bring probabilities to float32.

    Args:
        values: [R], numbers in [0, 1], to within rounding of half precision; null or NaN where unknown.
        where: what the column is, for messages.

    Returns:
        [R] float32 in [0, 1]; null where unknown.

    Raises:
        PredictionError: when a number lies outside, or the column holds no numbers.

    Example:
        >>> as_confidence(pa.chunked_array([[0.5, None, float("nan"), 1.0001]]), "a.csv").to_pylist()
        [0.5, None, None, 1.0]
    """
    values = _plain(values, where)
    numeric = pa.types.is_integer(values.type) or pa.types.is_floating(values.type) or pa.types.is_decimal(values.type)
    if not (numeric or pa.types.is_null(values.type)):
        raise PredictionError(f"{where} must be probabilities in [0, 1], got {values.type}.")
    values = values.cast(pa.float64())
    values = pc.if_else(pc.is_nan(values), None, values)
    outside = pc.or_(pc.less(values, -_ROUNDING), pc.greater(values, 1 + _ROUNDING))
    count = pc.sum(outside).as_py()
    if count:
        raise PredictionError(
            f"{where} must be probabilities in [0, 1], but {count} of {len(values)} rows lie outside (the first:"
            f" {values.filter(outside)[0].as_py():.6g}). Divide percentages by 100; write softmax values, not logits."
        )
    return pc.max_element_wise(pc.min_element_wise(values, 1.0, skip_nulls=False), 0.0, skip_nulls=False).cast(
        pa.float32()
    )


def as_text(values: pa.ChunkedArray, where: str) -> pa.ChunkedArray:
    """Write the values of any plain column as text.

    Args:
        values: [R], of any type that is not nested.
        where: what the column is, for messages.

    Returns:
        [R] string; the empty text where a value is missing.

    Raises:
        PredictionError: when the column is nested.

    Example:
        >>> as_text(pa.chunked_array([[True, None]]), "a.parquet").to_pylist()
        ['true', '']
    """
    values = _plain(values, where)
    if pa.types.is_float16(values.type):
        values = values.cast(pa.float32())
    try:
        return pc.fill_null(values.cast(pa.string()), "")
    except pa.ArrowException as error:
        raise PredictionError(f"{where} must hold one value a row, got {values.type}.") from error


def parse_labels(columns: Sequence[tuple[str, pa.ChunkedArray]]) -> list[pa.ChunkedArray]:
    """Find out whether labels that came as text, as all of CSV does, are numbers.

    Args:
        columns: (what the column is, [R] string) of every label column of one file; the empty text is no label.

    Returns:
        The columns as int64 where all labels of all of them are whole numbers, else as the text they are.

    Raises:
        PredictionError: when all labels are numbers, and some of them fractions.

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
    return [_whole(column, where) for (where, _), column in zip(columns, numbers, strict=True)]


def align_labels(columns: Sequence[tuple[str, pa.ChunkedArray]]) -> list[pa.ChunkedArray]:
    """Bring label columns to one type, so that the same label is the same value in all of them.

    Args:
        columns: (what the column is, [R] int64 or string) of every column.

    Returns:
        The columns: as they are where all have one type, as int64 where all text among them is whole numbers. A column
        without a single label takes the others' type.

    Raises:
        PredictionError: when some are integers and others text that is no number.

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


def shown(value: object) -> str:
    r"""Show an id or a label in a message: on one line, not too long, whatever it holds.

    Args:
        value: the id or label.

    Returns:
        Its `ascii`, cut.

    Example:
        >>> shown("a\nb")
        "'a\\nb'"
    """
    text = ascii(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _plain(values: pa.ChunkedArray, where: str) -> pa.ChunkedArray:
    """Without dictionary, and one type of text."""
    kind = values.type
    if pa.types.is_dictionary(kind):
        return _plain(values.cast(kind.value_type), where)
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_fixed_size_binary(kind):
        kind = pa.large_string()
    if pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        try:
            return values.cast(pa.string())
        except pa.ArrowException as error:
            raise PredictionError(f"{where} must be text in UTF-8, got {values.type}: {error}.") from error
    return values


def _whole(values: pa.ChunkedArray, where: str) -> pa.ChunkedArray:
    if pa.types.is_float16(values.type):
        values = values.cast(pa.float32())
    if pa.types.is_floating(values.type):
        values = pc.if_else(pc.is_nan(values), None, values)
    try:
        return values.cast(pa.int64())
    except pa.ArrowInvalid as error:
        raise PredictionError(f"{where} must be whole numbers within int64, got {values.type}: {error}.") from error


def _other(values: pa.ChunkedArray) -> pa.ChunkedArray:
    """[R], which texts are no whole numbers."""
    return pc.invert(pc.match_substring_regex(values, _INTEGER))


def _to_integers(values: pa.ChunkedArray) -> pa.ChunkedArray | None:
    """Text as int64; None where some of it is no whole number, or one beyond int64."""
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


def _refuse_nulls(values: pa.ChunkedArray, where: str, expected: str) -> None:
    missing = pc.is_null(values, nan_is_null=True)
    count = pc.sum(missing).as_py()
    if count:
        raise PredictionError(
            f"{where} {expected}, but {count} of {len(values)} rows have none (the first: row"
            f" {pc.index(missing, True).as_py()}, counted from 0)."
        )
