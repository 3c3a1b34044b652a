"""The recorded rows: one Parquet file a split, epoch, pass and rank, under `history/`."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from lightning_flip.stores.atomic import atomic_write, make_directory, sync_directory, temporary_files
from lightning_flip.stores.history.part_key import PartKey

__all__ = [
    "HISTORY_FOLDER",
    "MEASURES",
    "PART_SCHEMA",
    "TARGET",
    "list_parts",
    "remove_parts",
    "set_aside",
    "write_part",
]

HISTORY_FOLDER = "history"
MEASURES = ("prob_label", "prob_pred", "logit_margin", "cross_entropy")
PART_SCHEMA = pa.schema(
    [
        ("split", pa.string()),
        ("loader", pa.int16()),
        ("epoch", pa.int32()),
        ("pass", pa.int32()),
        ("global_step", pa.int64()),
        ("index", pa.int64()),
        ("pred", pa.int32()),
        *((name, pa.float32()) for name in MEASURES),
        ("visit", pa.int32()),
    ]
)
TARGET = "target"  # a column of its own only where labels may change
_GIVEN = ("loader", "global_step", "index", "pred", *MEASURES)
_FEW_VALUES = ["split", "loader", "epoch", "pass", "pred", "visit", TARGET]
# Sorted or slowly rising integers: differences cost next to nothing, and every reader knows this encoding.
_RISING = {"global_step": "DELTA_BINARY_PACKED", "index": "DELTA_BINARY_PACKED"}
_ORPHAN = ".orphan"


def write_part(dirpath: str | os.PathLike[str], key: PartKey, columns: Mapping[str, npt.NDArray[np.generic]]) -> Path:
    """Write what one rank saw in one pass over one split.

    The file appears whole or not at all, and replaces an earlier file of the same key. Its columns are
    `split, loader, epoch, pass, global_step, index, pred, prob_label, prob_pred, logit_margin, cross_entropy, visit`;
    its rows are sorted by loader, index and visit. `visit` counts the earlier rows of the same sample in this part.

    The four measures are kept as float32, bit for bit what the module saw. Given as float16 they stay float16: half
    the size, three significant digits, and margins beyond 65504 become infinite. pandas, polars and DuckDB read both.
    50,000 samples x 100 epochs took 65 to 81 MB as float32 and 35 to 43 MB as float16; the surer the model, the less.

    Args:
        dirpath: the run's folder.
        key: what the rows belong to.
        columns: one array [V] each, V visits in the order in which they happened:
            `global_step`, `index` (from 0), `pred` int; `prob_label`, `prob_pred` in [0, 1], `logit_margin`,
            `cross_entropy` in nats, float; and `loader` int, which may be left out for loader 0. V may be 0. `target`
            int, the label at each visit, only where labels may change; else they are in `samples.parquet`.

    Returns:
        The path of the file.

    Raises:
        ValueError: when a column is missing or unknown, is not 1-D, differs in length, has a wrong type or holds a
            number that its type cannot.

    Example:
        >>> import tempfile
        >>> half = np.full(3, 0.5, np.float32)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = write_part(folder, PartKey("val", 0, 0, 0), {
        ...         "global_step": np.array([10, 10, 10]), "index": np.array([7, 2, 7]), "pred": np.array([1, 0, 1]),
        ...         "prob_label": half, "prob_pred": half, "logit_margin": half, "cross_entropy": half})
        ...     pq.read_table(path, columns=["index", "visit"]).to_pydict()
        {'index': [2, 7, 7], 'visit': [0, 0, 1]}
    """
    rows = _checked(columns)
    count = len(rows["index"])
    order = np.lexsort((rows["index"], rows["loader"]))  # stable: visits of one sample stay in the order of time
    rows = {name: values[order] for name, values in rows.items()}
    rows["visit"] = _count_earlier(rows["loader"], rows["index"])
    constants = {"split": key.split, "epoch": key.epoch, "pass": key.pass_}
    fields, arrays = [], []
    schema = PART_SCHEMA.append(pa.field(TARGET, pa.int32())) if TARGET in rows else PART_SCHEMA
    for field in schema:
        if field.name in constants:
            arrays.append(pa.repeat(pa.scalar(constants[field.name], field.type), count))
        else:
            arrays.append(pa.array(rows[field.name]))
        fields.append(pa.field(field.name, arrays[-1].type, nullable=False))
    path = Path(dirpath) / HISTORY_FOLDER / key.filename
    make_directory(path.parent)
    with atomic_write(path) as temporary:
        pq.write_table(
            pa.table(arrays, schema=pa.schema(fields)),
            temporary,
            compression="zstd",
            compression_level=3,
            use_dictionary=_FEW_VALUES,
            column_encoding=_RISING,
            write_page_checksum=True,
        )
    return path


def list_parts(dirpath: str | os.PathLike[str]) -> dict[PartKey, Path]:
    """List the parts that a folder holds; orphans, temporary and other files are not among them.

    Args:
        dirpath: the run's folder. It need not exist.

    Returns:
        Path by key, sorted by split, epoch, pass and rank.

    Example:
        >>> list_parts("no/such/folder")
        {}
    """
    history = Path(dirpath) / HISTORY_FOLDER
    found = {}
    for path in history.glob("*/epoch-*.parquet"):
        try:
            found[PartKey.parse(path.relative_to(history).as_posix())] = path
        except ValueError:  # somebody else's file
            continue
    return dict(sorted(found.items()))


def set_aside(dirpath: str | os.PathLike[str], finished: Collection[tuple[str, int, int]]) -> list[Path]:
    """Take parts out of the history that a resumed run is going to write again.

    They are renamed to `*.orphan` (`*.1.orphan`, ... where that name is taken), never deleted. Temporary files of a
    killed process, which nobody can read, are removed. One process calls this (rank 0), before any rank writes.

    Args:
        dirpath: the run's folder.
        finished: `(split, epoch, pass)` of every pass that the checkpoint knows as finished; all ranks' parts of these
            stay, also when the run goes on with fewer ranks.

    Returns:
        The new paths of the parts set aside.

    Example:
        >>> import tempfile
        >>> empty = {name: np.zeros(0, np.int64) for name in ("global_step", "index", "pred")}
        >>> empty |= {name: np.zeros(0, np.float32) for name in MEASURES}
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     for epoch in (0, 1):
        ...         _ = write_part(folder, PartKey("train", epoch, 0, 0), empty)
        ...     [path.name for path in set_aside(folder, {("train", 0, 0)})]
        ['epoch-0001-pass-0-rank-00000.parquet.orphan']
    """
    keep = set(finished)
    moved = []
    for key, path in list_parts(dirpath).items():
        if (key.split, key.epoch, key.pass_) not in keep:
            moved.append(path.rename(_free_orphan_name(path)))
    _remove_temporary_files(dirpath)
    for folder in sorted({path.parent for path in moved}):
        sync_directory(folder)
    return moved


def remove_parts(dirpath: str | os.PathLike[str]) -> None:
    """Remove every part, orphan and temporary file of a folder's history, and the subfolders that are empty then.

    Args:
        dirpath: the run's folder. Files that the store did not make stay.

    Example:
        >>> remove_parts("no/such/folder")
    """
    history = Path(dirpath) / HISTORY_FOLDER
    paths = list(list_parts(dirpath).values())
    for orphan in history.glob(f"*/epoch-*{_ORPHAN}"):
        try:
            PartKey.parse(orphan.relative_to(history).as_posix().partition(".parquet")[0] + ".parquet")
        except ValueError:  # somebody else's file
            continue
        paths.append(orphan)
    for path in paths:
        path.unlink()
    _remove_temporary_files(dirpath)
    for folder in (*sorted({path.parent for path in paths}), history):
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()


def _checked(columns: Mapping[str, npt.NDArray[np.generic]]) -> dict[str, npt.NDArray[np.generic]]:
    given = {name: np.asarray(values) for name, values in columns.items()}
    if "index" in given:
        given.setdefault("loader", np.zeros(given["index"].shape, np.int16))
    missing, unknown = [name for name in _GIVEN if name not in given], sorted(set(given) - {*_GIVEN, TARGET})
    if missing or unknown:
        raise ValueError(f"columns must hold {', '.join(_GIVEN)}; missing: {missing}, unknown: {unknown}.")
    rows = {}
    for name in (*_GIVEN, TARGET) if TARGET in given else _GIVEN:
        values = given[name]
        if values.shape != (len(given["index"]) if given["index"].ndim else 0,):
            raise ValueError(
                f"columns[{name!r}] must be 1-D and as long as 'index' {given['index'].shape}, got {values.shape}."
            )
        rows[name] = _as_measure(name, values) if name in MEASURES else _as_integer(name, values)
    return rows


def _as_integer(name: str, values: npt.NDArray[np.generic]) -> npt.NDArray[np.generic]:
    if values.dtype.kind not in "iu":
        raise ValueError(f"columns[{name!r}] must be integers, got {values.dtype}.")
    wanted = np.dtype(np.int32 if name == TARGET else PART_SCHEMA.field(name).type.to_pandas_dtype())
    lowest, highest = 0, np.iinfo(wanted).max
    if values.size and (int(values.min()) < lowest or int(values.max()) > highest):
        raise ValueError(f"columns[{name!r}] must lie in [{lowest}, {highest}], got {values.min()} to {values.max()}.")
    return values.astype(wanted)


def _as_measure(name: str, values: npt.NDArray[np.generic]) -> npt.NDArray[np.generic]:
    if values.dtype.kind != "f":
        raise ValueError(f"columns[{name!r}] must be floating point, got {values.dtype}.")
    return values if values.dtype == np.float16 else values.astype(np.float32)


def _count_earlier(loader: npt.NDArray[np.generic], index: npt.NDArray[np.generic]) -> npt.NDArray[np.int32]:
    """Position of each row among the neighboring rows of its sample; rows sorted by loader and index."""
    position = np.arange(len(index))
    starts = np.ones(len(index), bool)
    starts[1:] = (index[1:] != index[:-1]) | (loader[1:] != loader[:-1])
    return (position - np.maximum.accumulate(np.where(starts, position, 0))).astype(np.int32)


def _free_orphan_name(path: Path) -> Path:
    candidate, number = path.with_name(path.name + _ORPHAN), 0
    while candidate.exists():
        number += 1
        candidate = path.with_name(f"{path.name}.{number}{_ORPHAN}")
    return candidate


def _remove_temporary_files(dirpath: str | os.PathLike[str]) -> None:
    history = Path(dirpath) / HISTORY_FOLDER
    for folder in (path for path in history.glob("*") if path.is_dir()):
        for stale in temporary_files(folder, "epoch-*.parquet"):
            stale.unlink()
