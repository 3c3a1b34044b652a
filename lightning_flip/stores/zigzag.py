"""The zig-zag scores of a training set as a plain table, `zigzag.parquet`."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from lightning_flip.stores.errors import HistoryError
from lightning_flip.stores.files import parquet_schema, read_parquet, write_parquet

__all__ = ["ZIGZAG_FILE", "read_zigzag", "write_zigzag"]

ZIGZAG_FILE = "zigzag.parquet"
_SCHEMA = pa.schema(
    [
        pa.field("index", pa.int64(), nullable=False),
        pa.field("sample_id", pa.string()),
        pa.field("target", pa.int32()),
        pa.field("other", pa.int32()),
        pa.field("visits", pa.int64(), nullable=False),
        pa.field("zigzag", pa.float64()),
        pa.field("base_difficulty", pa.float64()),
    ]
)
_RUN = b"lightning_flip_run"


def write_zigzag(dirpath: str | os.PathLike[str], columns: Mapping[str, Any], *, run_id: str = "") -> Path:
    """Write the scores of all samples; the file appears whole or not at all, and replaces an earlier one.

    Args:
        dirpath: the folder; made if missing.
        columns: an array or list [N] for each of `index`; `sample_id` (None: no names); `target`, `other` (the class
            that the path strays to), -1 if a sample was never visited; `visits`; `zigzag`; `base_difficulty` (None:
            not known). -1 and NaN are written as missing.
        run_id: the run that the scores belong to.

    Returns:
        The path of the file.

    Raises:
        ValueError: if a column is missing, unknown or of another length.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = write_zigzag(folder, {"index": [0, 1], "sample_id": None, "target": [2, -1], "other": [0, -1],
        ...         "visits": [3, 0], "zigzag": [1.5, float("nan")], "base_difficulty": None})
        ...     read_zigzag(folder).select(["target", "zigzag"]).to_pydict()
        {'target': [2, None], 'zigzag': [1.5, None]}
    """
    if set(columns) != set(_SCHEMA.names):
        raise ValueError(f"columns must be {', '.join(_SCHEMA.names)}; got {', '.join(sorted(columns))}.")
    count = len(columns["index"])
    arrays = []
    for field in _SCHEMA:
        values = columns[field.name]
        if values is None:
            arrays.append(pa.nulls(count, field.type))
            continue
        if len(values) != count:
            raise ValueError(f"columns[{field.name!r}] must be as long as 'index' ({count}), got {len(values)}.")
        if field.name in ("target", "other"):
            values = np.ma.masked_less(np.asarray(values), 0)
            arrays.append(pa.array(values.data, field.type, mask=np.ma.getmaskarray(values)))
        else:
            arrays.append(pa.array(values, field.type, from_pandas=True))
    path = Path(dirpath) / ZIGZAG_FILE
    write_parquet(path, pa.table(arrays, schema=_SCHEMA.with_metadata({_RUN: run_id.encode()})))
    return path


def read_zigzag(dirpath: str | os.PathLike[str]) -> pa.Table:
    """Read the scores of a run.

    Args:
        dirpath: the run's folder, or the file itself.

    Returns:
        One row per sample, sorted by index: `index, sample_id, target, other, visits, zigzag, base_difficulty`.

    Raises:
        HistoryError: if there is no such file, or it cannot be read.
    """
    path = Path(dirpath)
    path = path if path.suffix == ".parquet" else path / ZIGZAG_FILE
    if not path.exists():
        raise HistoryError(
            f"{path} does not exist. Train with the callback ZigZag, which writes it at each epoch's end."
        )
    table = read_parquet(path, remedy="Restore it from a copy, or train again.")
    if table.schema.names != _SCHEMA.names:
        raise HistoryError(f"{path} holds no zig-zag scores (its columns: {table.schema.names}). Move it away.")
    return table


def zigzag_run(path: Path) -> str | None:
    """The run that a table of scores belongs to; None without a file, "" if it is not one of ours."""
    if not path.exists():
        return None
    schema = parquet_schema(path)
    return "" if schema is None else (schema.metadata or {}).get(_RUN, b"").decode()
