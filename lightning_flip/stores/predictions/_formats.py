"""One file of predictions, read from each format: only the columns that are needed, in the types of the file."""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import io
import itertools
import re
import zipfile
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.ipc
import pyarrow.json

from lightning_flip.stores.errors import PredictionError
from lightning_flip.stores.files import open_parquet
from lightning_flip.stores.predictions._roles import Choice, Plan
from lightning_flip.stores.predictions.columns import list_array, parse_numbers, shown, without_decimal_commas
from lightning_flip.stores.predictions.prediction_set import PredictionMetadata
from lightning_flip.stores.predictions.sources import Part

__all__ = ["FoundColumns", "read_part"]

_KINDS = "biufSUM"  # of numpy: booleans, numbers, text, times
_LISTS = ("logits", "probs", "probabilities", "top_classes", "top_probs")  # of NPZ: arrays [R, K]
_HEAD = 65_536
# A JSON row must fit into one; a row of 1000 classes has 20 kB.
_JSON_BLOCK = 2**24
_END_OF_STREAM = b"\xff\xff\xff\xff\0\0\0\0"


@dataclasses.dataclass(frozen=True)
class FoundColumns:
    """The columns that were read from a file, and what they are.

    Attributes:
        table: the columns, with the file's metadata.
        where: the file, for messages.
        plan: which columns these are; a derived prediction is the column `pred`.
        text: whether labels are text that may stand for integers, as in CSV.
    """

    table: pa.Table
    where: str
    plan: Plan
    text: bool = False


def read_part(part: Part, choice: Choice) -> FoundColumns:
    """Read one file."""
    reader = {
        "Parquet": _read_parquet,
        "Arrow": _read_arrow,
        "CSV": _read_csv,
        "TSV": _read_csv,
        "JSONL": _read_json,
        "NPZ": _read_npz,
    }[part.kind]
    return reader(part, choice)


def _plan(part: Part, choice: Choice, schema: pa.Schema) -> tuple[Plan, list[str]]:
    """What to read, and the columns of these that are in the file itself and not in its folder's name."""
    inside = set(schema.names)
    for name in part.partition:
        if name not in inside:
            schema = schema.append(pa.field(name, pa.string()))
    plan = choice.plan(schema, part.name)
    return plan, [name for name in plan.columns if name in inside]


def _complete(part: Part, plan: Plan, pieces: Iterable[pa.Table], metadata: Mapping[bytes, bytes] | None) -> pa.Table:
    """The table of its pieces, with the columns that the folders stand for and what is derived."""
    found = PredictionMetadata.from_footer(metadata, part.name)
    table = plan.derive(
        (_with_partition(part, plan, piece) for piece in pieces), part.name, found.classes if found else None
    )
    return table.replace_schema_metadata(metadata)


def _with_partition(part: Part, plan: Plan, rows: pa.Table) -> pa.Table:
    for name, value in part.partition.items():
        if name in plan.columns and name not in rows.column_names:
            rows = rows.append_column(name, pa.repeat(pa.scalar(value, pa.string()), len(rows)))
    return rows


def _empty(schema: pa.Schema, columns: Iterable[str]) -> pa.Table:
    """The columns without a row, for files that have none."""
    return pa.schema([schema.field(name) for name in columns]).empty_table()


def _read_parquet(part: Part, choice: Choice) -> FoundColumns:
    with part.open() as source, open_parquet(source) as file:
        schema = file.schema_arrow
        plan, columns = _plan(part, choice, schema)
        if plan.derivation is None:
            pieces: Iterable[pa.Table] = [file.read(columns)]
        else:  # scores may be larger than memory, and Arrow reads ahead all that it is told to read
            groups = (file.iter_batches(row_groups=[one], columns=columns) for one in range(file.num_row_groups))
            batches = (pa.Table.from_batches([batch]) for group in groups for batch in group)
            pieces = itertools.chain([_empty(schema, columns)], batches)
        return FoundColumns(_complete(part, plan, pieces, schema.metadata), part.name, plan)


def _read_arrow(part: Part, choice: Choice) -> FoundColumns:
    with part.open() as source:
        whole = source.read(6) == b"ARROW1"
        source.seek(0)
        if not whole:
            source.seek(max(source.size() - len(_END_OF_STREAM), 0))
            if source.read() != _END_OF_STREAM:
                raise PredictionError(f"{part.name} is cut off: it has no end of an Arrow stream. Write it again.")
            source.seek(0)
        open_source = pa.ipc.open_file if whole else pa.ipc.open_stream
        schema = open_source(source).schema
        plan, columns = _plan(part, choice, schema)
        source.seek(0)
        options = pa.ipc.IpcReadOptions(included_fields=[schema.names.index(name) for name in columns])
        with open_source(source, options=options) as reader:
            count = reader.num_record_batches if whole else None
            batches = iter(reader) if count is None else map(reader.get_batch, range(count))
            pieces = (_validated(batch) for batch in batches)
            table = _complete(part, plan, itertools.chain([_empty(schema, columns)], pieces), schema.metadata)
    return FoundColumns(table, part.name, plan)


def _validated(batch: pa.RecordBatch) -> pa.Table:
    """Check offsets and text, which Arrow takes from the file as they are."""
    batch.validate(full=True)
    return pa.Table.from_batches([batch])


def _read_json(part: Part, choice: Choice) -> FoundColumns:
    table = _parse_json(part)
    plan, columns = _plan(part, choice, table.schema)
    # Arrow takes some text for times, and integers above int64 for floats.
    times = {name: pa.string() for name in columns if pa.types.is_temporal(table.schema.field(name).type)}
    if times:
        table = _parse_json(part, times)
    ids = plan.roles["sample_id"]
    if ids in columns and pa.types.is_floating(table.schema.field(ids).type):
        with contextlib.suppress(pa.ArrowInvalid):
            table = _parse_json(part, times | {ids: pa.uint64()})
    return FoundColumns(_complete(part, plan, [table.select(columns)], None), part.name, plan)


def _parse_json(part: Part, types: Mapping[str, pa.DataType] | None = None) -> pa.Table:
    parsing = pa.json.ParseOptions(explicit_schema=pa.schema(types.items()) if types else None)
    with part.open() as source:
        return pa.json.read_json(source, pa.json.ReadOptions(block_size=_JSON_BLOCK), parsing)


def _read_csv(part: Part, choice: Choice) -> FoundColumns:
    """Read text with commas, or with the semicolons or tabs and the decimal commas that spreadsheets write."""
    delimiter, skipped = _dialect(part)
    reading = pa.csv.ReadOptions(skip_rows=skipped)
    parsing = pa.csv.ParseOptions(delimiter=delimiter, newlines_in_values=True)
    with part.open() as source, pa.csv.open_csv(source, reading, parsing) as reader:
        names = reader.schema.names
    if len(names) == 1 and "|" in names[0]:
        raise PredictionError(
            f"{part.name} must have commas, semicolons or tabs between its columns, got the header {shown(names[0])}."
            " Write it again with one of these instead of '|'."
        )
    plan, columns = _plan(part, choice, pa.schema([(name, pa.string()) for name in names]))
    scores = [name for name in (plan.derivation.columns if plan.derivation else ()) if name in columns]
    numbers = [*scores, *(name for name in [plan.roles.get("confidence")] if name in columns)]
    commas = delimiter != ","  # then numbers may have decimal commas
    types = {name: pa.string() for name in columns if commas or name not in numbers}
    types |= {name: pa.float64() for name in scores if not commas}
    converting = pa.csv.ConvertOptions(column_types=types, include_columns=columns)
    with part.open() as source:
        if plan.derivation is None:
            pieces: Iterable[pa.Table] = [pa.csv.read_csv(source, reading, parsing, converting)]
        else:  # scores may be larger than memory
            reader = pa.csv.open_csv(source, reading, parsing, converting)
            pieces = itertools.chain([reader.schema.empty_table()], (pa.Table.from_batches([one]) for one in reader))
        if commas:
            pieces = (_with_numbers(part, piece, numbers) for piece in pieces)
        table = _complete(part, plan, pieces, None)
    ids = table[plan.roles["sample_id"]]
    empty = pc.sum(pc.equal(ids, "")).as_py()
    if empty:
        raise PredictionError(
            f"{part.name}, column {plan.roles['sample_id']!r} must name every sample, but {empty} of {len(ids)} rows"
            " have none."
        )
    if commas:
        labels = [plan.roles["target"], plan.roles["pred"]]
        for name, column in zip(labels, without_decimal_commas([table[name] for name in labels]), strict=True):
            table = _with_column(table, name, column)
    return FoundColumns(table, part.name, plan, text=True)


def _dialect(part: Part) -> tuple[str, int]:
    """What is between the columns, and how many lines precede the header."""
    with part.open() as source:
        head = source.read(_HEAD)
    if head[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise PredictionError(f"{part.name} cannot be read as {part.kind}: it is UTF-16. Save it as UTF-8.")
    text = head.decode("utf-8-sig", "replace")
    announced = re.match(r"sep=([,;\t])\r?\n", text)  # for Excel
    if announced:
        return announced[1], 1
    if part.kind == "TSV":
        return "\t", 0
    for delimiter in ",;\t":
        header = next((row for row in csv.reader(io.StringIO(text), delimiter=delimiter) if row), [])
        if len(header) > 1:
            return delimiter, 0
    return ",", 0


def _with_numbers(part: Part, rows: pa.Table, names: Iterable[str]) -> pa.Table:
    for name in names:
        rows = _with_column(rows, name, parse_numbers(rows[name], f"{part.name}, column {name!r}"))
    return rows


def _with_column(rows: pa.Table, name: str, values: pa.ChunkedArray) -> pa.Table:
    return rows.set_column(rows.column_names.index(name), name, values)


def _read_npz(part: Part, choice: Choice) -> FoundColumns:
    with part.open() as source:
        with zipfile.ZipFile(source) as archive:  # numpy would ignore a repeated name
            names = [name.removesuffix(".npy") for name in archive.namelist()]
        kinds = [(name, pa.list_(pa.float32()) if name in _LISTS else pa.string()) for name in names]
        plan, columns = _plan(part, choice, pa.schema(kinds))
        source.seek(0)
        try:
            with np.load(source, allow_pickle=False) as arrays:
                found = {name: arrays[name] for name in columns}
        except Exception as error:  # numpy reads headers as Python literals: damage shows as almost any exception
            raise OSError(str(error)) from error
    needed = {*plan.roles.values(), *(plan.derivation.columns if plan.derivation else ())}
    ids = next((name for name in (plan.roles["sample_id"], *found) if name in found), "")
    rows = {}
    for name, values in found.items():
        column = _as_column(part, name, values, (ids, found[ids].shape), needed=name in needed)
        if column is not None:
            rows[name] = column
    names = [name for name in plan.names if name in rows or name not in columns]
    plan = dataclasses.replace(plan, names=names)
    return FoundColumns(_complete(part, plan, [pa.table(rows)], None), part.name, plan)


def _as_column(
    part: Part, name: str, values: npt.NDArray[Any], ids: tuple[str, tuple[int, ...]], *, needed: bool
) -> pa.Array | None:
    """An array of NPZ as a column that is as long as the ids; None if it cannot be one, and is not needed."""
    fits = values.ndim == (2 if name in _LISTS else 1) and values.shape[:1] == ids[1][:1]
    if needed and values.dtype.kind not in _KINDS:
        raise PredictionError(f"{part.name} must hold arrays of numbers or text, but {name!r} is {values.dtype}.")
    if needed and not fits:
        raise PredictionError(
            f"{part.name} must hold 1-D arrays of one length, or 2-D ones of scores, but {name!r} is {values.shape} and"
            f" {ids[0]!r} is {ids[1]}."
        )
    if not fits or values.dtype.kind not in _KINDS:
        return None
    native = values.astype(values.dtype.newbyteorder("="), copy=False)
    try:
        return list_array(native) if values.ndim == 2 else pa.array(native)
    except (pa.ArrowException, UnicodeError) as error:
        if not needed:
            return None
        raise PredictionError(
            f"{part.name}, column {name!r}, must be numbers or text that Arrow knows, got {values.dtype}: {error}."
        ) from error
