"""Every sample that an update flips, one per row, as a table and in files."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from lightning_flip.reports.text import json_text, without_commands
from lightning_flip.reports.update.join import JoinedPredictions
from lightning_flip.stores.spreadsheets import csv_rows

__all__ = ["FLIP_FORMATS", "flip_format", "flip_table", "flip_writer"]

#: Endings of the files that `flip_writer` writes.
FLIP_FORMATS = (".csv", ".parquet", ".jsonl")
_ROWS_AT_A_TIME = 10_000


def flip_table(joined: JoinedPredictions) -> pa.Table:
    """List every negative flip, then every positive one, each in the order of the old model's file.

    Returns:
        A row per flip: `sample_id` (text), `flip` (`"negative"`: the old model is right and the new one wrong;
        `"positive"`: the reverse), `target`, `old_pred`, `new_pred` (labels, integers or text), `old_confidence`,
        `new_confidence` (of the predicted class, in [0, 1], null if unknown), and the slice columns as text (null if
        missing). A slice column with one of these names gets `slice_` in front.

    Example:
        >>> target, new = np.array([0, 1, 1]), np.array([1, 1, 0])
        >>> joined = JoinedPredictions(pa.array(["a", "b", "c"]), ("cat", "dog"), target, np.array([0, 0, 1]), new)
        >>> flip_table(joined).select(["sample_id", "flip", "target", "new_pred"]).to_pydict()["sample_id"]
        ['a', 'c', 'b']
        >>> flip_table(joined)["flip"].to_pylist(), flip_table(joined)["new_pred"].to_pylist()
        (['negative', 'negative', 'positive'], ['dog', 'cat', 'dog'])
    """
    negative, positive = np.flatnonzero(joined.negative_flips), np.flatnonzero(joined.positive_flips)
    rows = np.concatenate([negative, positive])
    labels = pa.array(joined.labels, None if joined.labels else pa.string())
    columns: dict[str, pa.Array | pa.ChunkedArray] = {
        "sample_id": joined.ids.take(pa.array(rows)),
        "flip": pa.array(np.repeat(["negative", "positive"], [len(negative), len(positive)]), pa.string()),
        "target": labels.take(pa.array(joined.target[rows])),
        "old_pred": labels.take(pa.array(joined.old_pred[rows])),
        "new_pred": labels.take(pa.array(joined.new_pred[rows])),
        "old_confidence": _confidence(joined.old_confidence, rows),
        "new_confidence": _confidence(joined.new_confidence, rows),
    }
    for column in joined.slices:
        values, codes = joined.slice_codes(column)
        known = pa.array([value or None for value in values], pa.string())
        columns[f"slice_{column}" if column in columns else column] = known.take(pa.array(codes[rows]))
    return pa.table(columns)


def flip_format(path: str) -> str:
    """The ending of a file of flips, in lower case; a ValueError if it is not one of `FLIP_FORMATS`."""
    for ending in FLIP_FORMATS:
        if path.lower().endswith(ending):
            return ending
    raise ValueError(f"the name must end in {', '.join(FLIP_FORMATS[:-1])} or {FLIP_FORMATS[-1]}, got {path!r}.")


def flip_writer(joined: JoinedPredictions, ending: str) -> Callable[[BinaryIO], None]:
    """A function that writes `flip_table` into a stream, as one of `FLIP_FORMATS`.

    Parquet and JSON Lines hold the exact values. In CSV, text that a spreadsheet would run as a formula gets a quote
    in front, and what a runner of continuous integration would take for a command an invisible word joiner.
    """

    def write(stream: BinaryIO) -> None:
        table = flip_table(joined)
        if ending == ".parquet":
            pq.write_table(table, stream, compression="zstd")
            return
        if ending == ".csv":
            stream.write(_csv([table.column_names]).encode("utf-8", "backslashreplace"))
        for batch in table.to_batches(max_chunksize=_ROWS_AT_A_TIME):
            rows = batch.to_pylist()
            if ending == ".csv":
                text = _csv([list(row.values()) for row in rows])
            else:
                text = "".join(f"{json_text(row, indent=None)}\n" for row in rows)
            stream.write(text.encode("utf-8", "backslashreplace"))

    return write


def _csv(rows: list[list[Any]]) -> str:
    return csv_rows([without_commands(cell) if isinstance(cell, str) else cell for cell in row] for row in rows)


def _confidence(values: npt.NDArray[np.float64] | None, rows: npt.NDArray[np.int64]) -> pa.Array:
    if values is None:
        return pa.nulls(len(rows), pa.float64())
    return pa.array(values[rows], pa.float64(), from_pandas=True)  # NaN becomes null
