"""Ids, labels and confidences of any tool's making, brought to the few types that predictions are kept in."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

from lightning_flip.stores.errors import PredictionError

__all__ = ["as_confidence", "as_ids", "as_labels", "as_text", "shown", "whole_numbers"]

_TEXT = (
    pa.types.is_string,
    pa.types.is_large_string,
    pa.types.is_string_view,
    pa.types.is_binary,
    pa.types.is_large_binary,
    pa.types.is_binary_view,
    pa.types.is_fixed_size_binary,
)
# Softmax in half precision, summed by another tool, may leave [0, 1] by this much.
_ROUNDING = 1e-3


def as_ids(values: pa.ChunkedArray, where: str) -> pa.ChunkedArray:
    """Bring ids to text; an integer id is its decimal text. Returns [R] string.

    Example:
        >>> as_ids(pa.chunked_array([[7, 12]]), "a.parquet, column 'index'").to_pylist()
        ['7', '12']
    """
    values = _plain(values, where)
    _refuse_nulls(values, where, "must name every sample")
    if pa.types.is_integer(values.type) or pa.types.is_floating(values.type):
        return whole_numbers(values, where).cast(pa.string())
    if pa.types.is_null(values.type):
        return values.cast(pa.string())
    if pa.types.is_string(values.type):
        return values
    raise PredictionError(f"{where} must be text or integers, got {values.type}. Write the ids as text.")


def as_labels(values: pa.ChunkedArray, where: str, *, nullable: bool) -> pa.ChunkedArray:
    """Bring labels to int64 or to text. Returns [R] int64 or string.

    Example:
        >>> as_labels(pa.chunked_array([[3.0, float("nan")]]), "a.csv, column 'target'", nullable=True).to_pylist()
        [3, None]
    """
    values = _plain(values, where)
    if pa.types.is_boolean(values.type) or pa.types.is_null(values.type):
        values = values.cast(pa.int64())
    if pa.types.is_integer(values.type) or pa.types.is_floating(values.type) or pa.types.is_decimal(values.type):
        values = whole_numbers(values, where)
    elif not pa.types.is_string(values.type):
        raise PredictionError(f"{where} must be integer or text labels, got {values.type}.")
    if not nullable:
        _refuse_nulls(values, where, "must hold a label in every row")
    return values


def as_confidence(values: pa.ChunkedArray, where: str) -> pa.ChunkedArray:
    """Bring probabilities to float32. Returns [R] float32 in [0, 1]; null where unknown.

    Example:
        >>> as_confidence(pa.chunked_array([[0.5, None, float("nan"), 1.0001]]), "a.csv").to_pylist()
        [0.5, None, None, 1.0]
    """
    values = _plain(values, where)
    numeric = pa.types.is_integer(values.type) or pa.types.is_floating(values.type) or pa.types.is_decimal(values.type)
    if not (numeric or pa.types.is_null(values.type)):
        raise PredictionError(f"{where} must be probabilities in [0, 1], got {values.type}.")
    values = values.cast(pa.float64(), safe=False)  # an integer too long for a float lies outside [0, 1] all the same
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
    """Write the values of any plain column as text. Returns [R] string; the empty text where a value is missing.

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


def whole_numbers(values: pa.ChunkedArray, where: str) -> pa.ChunkedArray:
    """Bring numbers that are whole to int64. Returns [R] int64, null where there is no number.

    Example:
        >>> whole_numbers(pa.chunked_array([[3.0, float("nan")]]), "a.csv, column 'target'").to_pylist()
        [3, None]
    """
    if pa.types.is_float16(values.type):
        values = values.cast(pa.float32())
    if pa.types.is_floating(values.type):
        values = pc.if_else(pc.is_nan(values), None, values)
    try:
        return values.cast(pa.int64())
    except pa.ArrowInvalid as error:
        raise PredictionError(f"{where} must be whole numbers within int64, got {values.type}: {error}.") from error


def shown(value: object) -> str:
    r"""Show an id or a label in a message: on one line, not too long, whatever it holds. Returns its `ascii`, cut.

    Example:
        >>> shown("a\nb")
        "'a\\nb'"
    """
    text = ascii(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _plain(values: pa.ChunkedArray, where: str) -> pa.ChunkedArray:
    """Without dictionary, and one type of text, which is Unicode indeed."""
    kind = values.type
    if pa.types.is_dictionary(kind):
        return _plain(values.cast(kind.value_type), where)
    if not any(is_text(kind) for is_text in _TEXT):
        return values
    try:
        text = values.cast(pa.string())
        text.validate(full=True)  # Parquet files are not checked when they are read
    except pa.ArrowException as error:
        raise PredictionError(f"{where} must be text in UTF-8, got {kind}: {error}.") from error
    return text


def _refuse_nulls(values: pa.ChunkedArray, where: str, expected: str) -> None:
    missing = pc.is_null(values, nan_is_null=True)
    count = pc.sum(missing).as_py()
    if count:
        raise PredictionError(
            f"{where} {expected}, but {count} of {len(values)} rows have none (the first: row"
            f" {pc.index(missing, True).as_py()}, counted from 0)."
        )
