"""Columns of any tool's file of predictions: found by what they mean, and brought to the few types we keep."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from lightning_flip.stores.errors import PredictionError

__all__ = [
    "align_labels",
    "arrow_table",
    "as_confidence",
    "as_ids",
    "as_labels",
    "as_text",
    "first_without_class",
    "list_array",
    "logit_blocks",
    "parse_labels",
    "parse_numbers",
    "shown",
    "stack_lists",
    "without_decimal_commas",
    "without_spelled_nulls",
]

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
# How programs write a label that is missing, where all that a file holds is text.
_NULLS = ("NA", "N/A", "#N/A", "<NA>", "nan", "NaN", "NAN", "null", "Null", "NULL", "None")
_INTEGER = r"^[+-]?[0-9]+$"
# Too many digits for a float to represent exactly.
_LONG = r"^[+-]?[0-9]{16,}"
_BLOCK = 32_768


def arrow_table(source: Any) -> pa.Table:
    """A table of pandas, polars or another library; polars' objects, such as UUIDs, are copied, not their pointers."""
    table = pa.table(source)
    if type(source).__module__.partition(".")[0] == "polars":
        for place, (name, kind) in enumerate(source.schema.items()):
            if str(kind) == "Object":
                table = table.set_column(place, name, pa.array(source[name].to_list()))
    return table


def as_ids(values: pa.ChunkedArray, where: str) -> pa.ChunkedArray:
    """Bring ids [R] to text: an integer to its decimal digits, a UUID to its usual form in lower case.

    Example:
        >>> from decimal import Decimal
        >>> from uuid import UUID
        >>> columns = [[2**64 - 1], [Decimal("7.00")], [UUID(int=10).bytes]]
        >>> types = [pa.uint64(), pa.decimal128(5, 2), pa.uuid()]
        >>> [as_ids(pa.chunked_array([one], kind), "ids")[0].as_py() for one, kind in zip(columns, types)]
        ['18446744073709551615', '7', '00000000-0000-0000-0000-00000000000a']
    """
    if _is_uuid(values.type):
        return _uuid_text(values, where)
    values = _plain(values, where)
    _refuse_nulls(values, where, "must name every sample")
    kind = values.type
    if pa.types.is_floating(kind):
        _refuse_inexact(values, where)
        values = whole_numbers(values, where)
    elif pa.types.is_decimal(kind):
        values = _whole_decimals(values, where)
    elif not (pa.types.is_integer(kind) or pa.types.is_null(kind) or pa.types.is_string(kind)):
        raise PredictionError(f"{where} must be text or integers, or UUIDs, got {kind}. Write the ids as text.")
    return values.cast(pa.string())


def as_labels(values: pa.ChunkedArray, where: str, *, nullable: bool) -> pa.ChunkedArray:
    """Bring labels [R] to int64 or to text.

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
    """Bring probabilities [R] to float32 in [0, 1]; null if unknown.

    Example:
        >>> as_confidence(pa.chunked_array([[0.5, None, float("nan"), 1.0001]]), "a.csv").to_pylist()
        [0.5, None, None, 1.0]
    """
    values = _plain(values, where)
    numeric = pa.types.is_integer(values.type) or pa.types.is_floating(values.type) or pa.types.is_decimal(values.type)
    if not (numeric or pa.types.is_null(values.type)):
        raise PredictionError(f"{where} must be probabilities in [0, 1], got {values.type}.")
    if pa.types.is_float32(values.type) and not values.null_count:
        plain = np.asarray(values)
        if not len(plain) or (plain.min() >= 0 and plain.max() <= 1):  # not so if there is a NaN
            return values
    values = values.cast(pa.float64(), safe=False)  # an integer too long for a float is outside [0, 1] anyway
    values = pc.if_else(pc.is_nan(values), None, values)
    outside = pc.or_(pc.less(values, -_ROUNDING), pc.greater(values, 1 + _ROUNDING))
    count = pc.sum(outside).as_py()
    if count:
        raise PredictionError(
            f"{where} must be probabilities in [0, 1], but {count} of {len(values)} rows are outside (the first:"
            f" {values.filter(outside)[0].as_py():.6g}). Divide percentages by 100; write softmax values, not logits."
        )
    return pc.max_element_wise(pc.min_element_wise(values, 1.0, skip_nulls=False), 0.0, skip_nulls=False).cast(
        pa.float32()
    )


def as_text(values: pa.ChunkedArray, where: str) -> pa.ChunkedArray:
    """Write the values [R] of any plain column as text; a missing value is the empty text."""
    values = _plain(values, where)
    if pa.types.is_float16(values.type):
        values = values.cast(pa.float32())
    try:
        return pc.fill_null(values.cast(pa.string()), "")
    except pa.ArrowException as error:
        raise PredictionError(f"{where} must hold one value per row, got {values.type}.") from error


def whole_numbers(values: pa.ChunkedArray, where: str) -> pa.ChunkedArray:
    """Bring whole numbers [R] to int64; null if there is no number."""
    if pa.types.is_float16(values.type):
        values = values.cast(pa.float32())
    if pa.types.is_floating(values.type):
        values = pc.if_else(pc.is_nan(values), None, values)
    try:
        return values.cast(pa.int64())
    except pa.ArrowInvalid as error:
        raise PredictionError(f"{where} must be whole numbers within int64, got {values.type}: {error}.") from error


def _refuse_inexact(values: pa.ChunkedArray, where: str) -> None:
    """Refuse floats so large that neighbouring ids are one number."""
    largest = pc.max(pc.abs(values)).as_py()
    if largest is not None and largest > 2.0**53 and np.isfinite(largest):
        raise PredictionError(
            f"{where} must be ids that a float can tell apart, up to 2**53, got {values.type} up to {largest:.6g}."
            " Write the ids as integers or text."
        )


def _whole_decimals(values: pa.ChunkedArray, where: str) -> pa.ChunkedArray:
    """Decimals without a fraction, as such of scale 0."""
    whole = pa.decimal256(76, 0) if pa.types.is_decimal256(values.type) else pa.decimal128(38, 0)
    try:
        return values.cast(whole)
    except pa.ArrowInvalid as error:
        raise PredictionError(f"{where} must be whole numbers, got {values.type}: {error}.") from error


def _is_uuid(kind: pa.DataType) -> bool:
    return isinstance(kind, pa.BaseExtensionType) and kind.extension_name == "arrow.uuid"


def _uuid_text(values: pa.ChunkedArray, where: str) -> pa.ChunkedArray:
    """UUIDs as 8-4-4-4-12 hexadecimal digits."""
    _refuse_nulls(values, where, "must name every sample")
    texts = []
    for chunk in values.chunks:
        digits = b"".join(chunk.storage.to_pylist()).hex().encode()
        letters = np.full((len(chunk), 36), ord("-"), np.uint8)
        letters[:, [*range(8), *range(9, 13), *range(14, 18), *range(19, 23), *range(24, 36)]] = np.frombuffer(
            digits, np.uint8
        ).reshape(-1, 32)
        text = pa.FixedSizeBinaryArray.from_buffers(pa.binary(36), len(chunk), [None, pa.py_buffer(letters)])
        texts.append(text.cast(pa.binary()).cast(pa.string()))
    return pa.chunked_array(texts, pa.string())


def shown(value: object) -> str:
    """Show an id or a label in a message: its `ascii`, on one line, cut if it is long."""
    text = ascii(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _plain(values: pa.ChunkedArray, where: str) -> pa.ChunkedArray:
    """The column without dictionary, and with one type of text, which is valid Unicode."""
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


def parse_labels(columns: Sequence[tuple[str, pa.ChunkedArray]]) -> list[pa.ChunkedArray]:
    """Labels read as text, as all of CSV is: int64 if all labels of all (where, column) are whole numbers, else text.

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


def parse_numbers(values: pa.ChunkedArray, where: str) -> pa.ChunkedArray:
    """Text [R] as float64, also with decimal commas; null where a cell is empty or spells that.

    Example:
        >>> parse_numbers(pa.chunked_array([["0,25", "1.5e-1", "NA"]]), "a.csv").to_pylist()
        [0.25, 0.15, None]
    """
    text = pc.utf8_trim_whitespace(values)
    text = pc.if_else(pc.is_in(text, value_set=pa.array(["", *_NULLS])), None, text)
    try:
        return _with_points(text).cast(pa.float64())
    except pa.ArrowInvalid as error:
        raise PredictionError(f"{where} must be numbers: {error}.") from error


def without_decimal_commas(labels: Sequence[pa.ChunkedArray]) -> list[pa.ChunkedArray]:
    """Columns of labels as text with "." for a decimal comma if all of them are numbers then, else as they are."""
    pointed = [_with_points(column) for column in labels]
    cells = (pc.utf8_trim_whitespace(pc.if_else(pc.equal(column, ""), None, column)) for column in pointed)
    return list(labels) if any(_to_numbers(column) is None for column in cells) else pointed


def _with_points(values: pa.ChunkedArray) -> pa.ChunkedArray:
    return pc.replace_substring_regex(values, r"^([+-]?[0-9]*),([0-9]+(?:[eE][+-]?[0-9]+)?)$", r"\1.\2")


def without_spelled_nulls(
    target: pa.ChunkedArray, pred: pa.ChunkedArray, classes: Sequence[int | str] | None = None
) -> pa.ChunkedArray:
    """Targets [R] in which NA, NaN, null and the like are missing, unless they are the name of a class.

    They are one if `classes` has it, or any prediction is it.

    Example:
        >>> target, pred = pa.chunked_array([["cat", "NA", "null"]]), pa.chunked_array([["cat", "cat", "null"]])
        >>> without_spelled_nulls(target, pred).to_pylist()
        ['cat', None, 'null']
    """
    if not pa.types.is_string(target.type):
        return target
    known = {*map(str, classes or ()), *(pc.unique(pred).to_pylist() if pa.types.is_string(pred.type) else ())}
    nulls = pa.array([text for text in _NULLS if text not in known], pa.string())
    return pc.if_else(pc.is_in(pc.utf8_trim_whitespace(target), value_set=nulls), None, target)


def align_labels(columns: Sequence[tuple[str, pa.ChunkedArray]]) -> list[pa.ChunkedArray]:
    """Bring (where, column) of labels to one type, so that equal labels are equal values in all of them.

    They stay as they are if all have one type, and become int64 if all text among them is whole numbers. A column
    without a single label takes the others' type.

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
    """Text as int64; None if some of it is not a whole number within int64."""
    if pc.any(_other(values)).as_py():
        return None
    try:
        return pc.utf8_ltrim(values, "+").cast(pa.int64())
    except pa.ArrowInvalid:
        return None


def _to_numbers(values: pa.ChunkedArray) -> pa.ChunkedArray | None:
    """Text as int64, else as float64; None if it is neither."""
    integers = _to_integers(values)
    if integers is not None or pc.any(pc.match_substring_regex(values, _LONG)).as_py():
        return integers
    try:
        return values.cast(pa.float64())
    except pa.ArrowInvalid:
        return None


def list_array(values: npt.NDArray[Any]) -> pa.FixedSizeListArray:
    """An array [R, K] as a column of R lists of K."""
    return pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), values.shape[1])


def stack_lists(column: pa.ChunkedArray, where: str) -> tuple[pa.Array, int]:
    """The R K values of a column of R lists of K, and K."""
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
    """Number of the first row of scores [R, K] with NaN in it, or minus infinity for all classes; else None.

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
    """Iterate over a column of logits as (number of the first row, block [rows, K]) without copying it whole."""
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
