"""Writing recorded learning paths: one Parquet file a mode, epoch, pass and rank, under `history/`."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from lightning_flip.stores.atomic import atomic_write, make_directory
from lightning_flip.stores.history.part_key import PartKey
from lightning_flip.stores.history.parts import HISTORY_FOLDER

__all__ = ["PATH_MARK", "PATH_MODES", "path_bytes", "write_path_part"]

PATH_MODES = ("visits", "eval")
PATH_MARK = {"lightning_flip": "learning paths"}  # tells our files from other parts
_INTEGERS = {"index": np.int64, "target": np.int32, "global_step": np.int64}
_ROW_BYTES = 28  # index, target, global_step and epoch, and the offset of a constant
_FILE_BYTES = 4096  # footer and headers of one small file


def write_path_part(
    dirpath: str | os.PathLike[str], key: PartKey, columns: Mapping[str, npt.NDArray[np.generic]]
) -> Path:
    """Write the predictions on chosen samples that one rank recorded in one epoch.

    The file appears whole or not at all, and replaces an earlier one of the same key. Its columns are `index, target,
    epoch, global_step, mode, probs`; its rows are sorted by sample, then step. `probs` is a list of K float32, which
    pandas, polars and DuckDB read.

    Args:
        dirpath: the recording's folder.
        key: what the rows belong to; its split is the mode, "visits" or "eval".
        columns: V rows: `index` int (position in the dataset), `target` int (-1 where a sample has no single label),
            `global_step` int (updates taken before the prediction), each [V]; `probs` float [V, K].

    Returns:
        The path of the file.

    Raises:
        ValueError: when the mode is unknown, or a column is missing, unknown, of a wrong shape or type.

    Example:
        >>> import tempfile
        >>> rows = {"index": np.array([7, 2]), "target": np.array([0, 1]), "global_step": np.array([5, 5])}
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = write_path_part(folder, PartKey("visits", 0, 0, 0), {**rows, "probs": np.eye(2, 3)})
        ...     pq.read_table(path, columns=["index", "probs"]).to_pylist()[0]
        {'index': 2, 'probs': [0.0, 1.0, 0.0]}
    """
    if key.split not in PATH_MODES:
        raise ValueError(f"key.split must be one of {PATH_MODES}; got {key.split!r}.")
    rows = _checked(columns)
    order = np.lexsort((rows["global_step"], rows["index"]))  # stable: equal steps stay as they came
    rows = {name: values[order] for name, values in rows.items()}
    count, width = rows["probs"].shape
    arrays = {
        **{name: pa.array(rows[name]) for name in ("index", "target")},
        "epoch": pa.repeat(pa.scalar(key.epoch, pa.int32()), count),
        "global_step": pa.array(rows["global_step"]),
        "mode": pa.repeat(pa.scalar(key.split), count),
        "probs": pa.FixedSizeListArray.from_arrays(pa.array(rows["probs"].reshape(-1)), width),
    }
    schema = pa.schema([pa.field(name, array.type, nullable=False) for name, array in arrays.items()], PATH_MARK)
    path = Path(dirpath) / HISTORY_FOLDER / key.filename
    make_directory(path.parent)
    with atomic_write(path) as temporary:
        pq.write_table(
            pa.table(list(arrays.values()), schema=schema),
            temporary,
            compression="zstd",
            compression_level=3,
            use_dictionary=["target", "epoch", "mode"],
            write_page_checksum=True,
        )
    return path


def path_bytes(samples: int, classes: int, times: int, files: int = 0) -> int:
    """Bytes that recorded paths take, to be said before they are recorded.

    Args:
        samples: number of chosen samples.
        classes: number of classes K.
        times: predictions recorded of each sample.
        files: number of Parquet files; 0 for what rows take in memory.

    Returns:
        An upper bound: 4 bytes a probability, 28 bytes a row, 4 KiB a file.

    Example:
        >>> path_bytes(samples=100, classes=10, times=200, files=200) / 1e6
        2.1792
    """
    return samples * times * (4 * classes + _ROW_BYTES) + files * _FILE_BYTES


def _checked(columns: Mapping[str, npt.NDArray[np.generic]]) -> dict[str, npt.NDArray[np.generic]]:
    names = (*_INTEGERS, "probs")
    if set(columns) != set(names):
        raise ValueError(f"columns must be {', '.join(names)}; got {', '.join(sorted(columns))}.")
    given = {name: np.asarray(columns[name]) for name in names}
    probs = given["probs"]
    if probs.ndim != 2 or probs.shape[1] < 1 or probs.dtype.kind != "f":
        raise ValueError(f"columns['probs'] must be float [V, K]; got {probs.dtype} {list(probs.shape)}.")
    rows: dict[str, npt.NDArray[np.generic]] = {"probs": np.ascontiguousarray(probs, np.float32)}
    for name, wanted in _INTEGERS.items():
        values = given[name]
        if values.shape != (len(probs),) or values.dtype.kind not in "iu":
            raise ValueError(
                f"columns[{name!r}] must be integers [{len(probs)}], one for each row of 'probs'; got {values.dtype} "
                f"{list(values.shape)}."
            )
        rows[name] = values.astype(wanted)
    return rows
