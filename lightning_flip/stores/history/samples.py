"""What does not change while a model trains: the samples' labels, ids and origins, once a run in `samples.parquet`."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from lightning_flip.stores.errors import HistoryError
from lightning_flip.stores.files import orphan_name, parquet_schema, read_parquet, write_parquet
from lightning_flip.stores.history.parts import last_rows

__all__ = [
    "SAMPLES_FILE",
    "SAMPLES_SCHEMA",
    "is_samples_file",
    "labels_of",
    "read_samples",
    "set_samples_aside",
    "write_samples",
]

SAMPLES_FILE = "samples.parquet"
SAMPLES_SCHEMA = pa.schema(
    [
        pa.field("split", pa.string(), nullable=False),
        pa.field("loader", pa.int16(), nullable=False),
        pa.field("index", pa.int64(), nullable=False),
        pa.field("source_index", pa.int64(), nullable=False),
        pa.field("source", pa.int32(), nullable=False),
        pa.field("sample_id", pa.string()),
        pa.field("target", pa.int32()),
        pa.field("true_target", pa.int32()),
    ],
    metadata={"lightning_flip": "samples"},  # marks our file, as other programs may use its name
)
# Version 0.1 listed only samples that training had seen.
_OLD_SCHEMA = SAMPLES_SCHEMA.set(
    SAMPLES_SCHEMA.get_field_index("target"), pa.field("target", pa.int32(), nullable=False)
)
_DEFAULTS: dict[str, object] = {"loader": 0, "source": 0, "sample_id": None, "true_target": None}


def write_samples(dirpath: str | os.PathLike[str], rows: pa.Table | Mapping[str, object]) -> Path:
    """Add samples to a run's `samples.parquet`, or replace what is known of them; returns its path.

    A sample is known by split, loader and index; of two rows the newer one wins whole. The file is replaced atomically
    and stays sorted by split, loader and index.

    Args:
        dirpath: the run's folder; made if missing.
        rows: a table, or an array or list [R] for each column; a single value stands for the whole column:

            - `split` str;
            - `loader` int, 0 if left out;
            - `index` int from 0: position in the dataset that the DataLoader was given;
            - `source_index` int: position in the innermost dataset, `index` if left out;
            - `source` int: number of the innermost dataset, if several were concatenated; 0 if left out;
            - `sample_id` str or null: a lasting name;
            - `target` int or null: the label that training sees, null if unknown;
            - `true_target` int or null: the label before noise was added.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = write_samples(folder, {"split": "train", "index": [1, 0], "target": [4, 7]})
        ...     _ = write_samples(folder, {"split": "train", "index": [1], "target": [5], "sample_id": ["b.png"]})
        ...     read_samples(folder).select(["index", "target", "sample_id"]).to_pydict()
        {'index': [0, 1], 'target': [7, 5], 'sample_id': [None, 'b.png']}
    """
    added = _as_table(rows)
    path = Path(dirpath) / SAMPLES_FILE
    known = read_samples(dirpath) if path.exists() else added.slice(0, 0)
    write_parquet(path, _merge(known, added))
    return path


def read_samples(dirpath: str | os.PathLike[str]) -> pa.Table:
    """Read the `samples.parquet` of a run's folder: one row per sample, sorted by split, loader and index.

    Columns are `split`, `loader`, `index`, `source_index`, `source`, `sample_id`, `target` and `true_target`.

    Raises:
        HistoryError: if the file is missing, damaged, or of another program.
    """
    path = Path(dirpath) / SAMPLES_FILE
    if not path.exists():
        raise HistoryError(
            f"{path} does not exist, so the labels of the recorded samples are unknown. Copy it from where the"
            " run was recorded, or resume the run: the recording callback writes it when it starts."
        )
    remedy = "Restore it from a copy; or remove it and resume the run: the recording callback writes it when it starts."
    table = read_parquet(path, remedy=remedy)
    if table.schema.equals(_OLD_SCHEMA, check_metadata=True):
        table = table.cast(SAMPLES_SCHEMA)
    if not table.schema.equals(SAMPLES_SCHEMA, check_metadata=True):
        raise HistoryError(
            f"{path} was not written by lightning-flip (its columns: {table.schema.names}). Move it away, or record"
            " into another folder."
        )
    return table


def set_samples_aside(dirpath: str | os.PathLike[str], split: str) -> None:
    """Take a split's samples out of `samples.parquet`; the file as it was stays as `samples.parquet.orphan`."""
    path = Path(dirpath) / SAMPLES_FILE
    if not path.exists():
        return
    samples = read_samples(dirpath)
    write_parquet(orphan_name(path), samples)
    write_parquet(path, samples.filter(pc.not_equal(samples["split"], split)))


def is_samples_file(path: Path) -> bool:
    """Whether a path is a file that `write_samples` made."""
    schema = parquet_schema(path)
    return schema is not None and any(
        schema.equals(known, check_metadata=True) for known in (SAMPLES_SCHEMA, _OLD_SCHEMA)
    )


def labels_of(samples: pa.Table) -> npt.NDArray[np.int32]:
    """The labels [N] of samples, -1 if unknown."""
    return np.asarray(pc.fill_null(samples["target"], -1)).astype(np.int32)


def _as_table(rows: pa.Table | Mapping[str, object]) -> pa.Table:
    given = rows.column_names if isinstance(rows, pa.Table) else rows
    columns: dict[str, object] = _DEFAULTS | {name: rows[name] for name in given}
    if "index" in columns:
        columns.setdefault("source_index", columns["index"])
    names = SAMPLES_SCHEMA.names
    missing, unknown = [name for name in names if name not in columns], sorted(set(columns) - set(names))
    if missing or unknown:
        raise ValueError(
            f"rows must hold split, index and target; missing: {missing}, unknown: {unknown}; known: {names}."
        )
    count = len(columns["index"])  # type: ignore[arg-type]
    arrays = [_as_array(field, columns[field.name], count) for field in SAMPLES_SCHEMA]
    return pa.table(arrays, schema=SAMPLES_SCHEMA)


def _as_array(field: pa.Field, values: object, count: int) -> pa.Array:
    try:
        if values is None or isinstance(values, str | int | np.integer):
            array = pa.repeat(pa.scalar(values, field.type), count)
        elif isinstance(values, pa.ChunkedArray | pa.Array):
            array = values.cast(field.type)
            array = array.combine_chunks() if isinstance(array, pa.ChunkedArray) else array
        else:
            array = pa.array(values, field.type)
    except (pa.ArrowException, TypeError, OverflowError) as error:
        raise ValueError(f"rows[{field.name!r}] must be {field.type}: {error}.") from error
    if len(array) != count:
        raise ValueError(f"rows[{field.name!r}] must be as long as 'index' ({count}), got {len(array)}.")
    if array.null_count and not field.nullable:
        raise ValueError(f"rows[{field.name!r}] must have no missing values, got {array.null_count}.")
    return array


def _merge(old: pa.Table, new: pa.Table) -> pa.Table:
    """Keep the last row of each split, loader and index, sorted."""
    rows = pa.concat_tables([old, new])
    names = sorted(rows["split"].unique().to_pylist())
    split = np.asarray(pc.index_in(rows["split"], value_set=pa.array(names, pa.string())))
    loader, index = np.asarray(rows["loader"]), np.asarray(rows["index"])
    if len(index) and index.min() < 0:
        raise ValueError(f"rows['index'] must be 0 or more, got {index.min()}.")
    order = np.lexsort((index, loader, split))  # stable: newer rows come after older ones
    return rows.take(pa.array(order[last_rows(split[order], loader[order], index[order])]))
