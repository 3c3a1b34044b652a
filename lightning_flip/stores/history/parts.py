"""The recorded rows: one Parquet file per split, epoch, pass and rank, under `history/`."""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from lightning_flip.stores.errors import HistoryError
from lightning_flip.stores.files import (
    orphan_name,
    parquet_errors,
    read_parquet,
    sync_directory,
    temporary_files,
    write_parquet,
)

__all__ = [
    "HISTORY_FOLDER",
    "MEASURES",
    "ROW_SCHEMA",
    "TARGET",
    "UNKNOWN",
    "PartKey",
    "check_part",
    "count_earlier",
    "first_rows",
    "last_rows",
    "list_parts",
    "other_probability",
    "read_part",
    "remove_parts",
    "set_aside",
    "write_part",
]

HISTORY_FOLDER = "history"
MEASURES = ("prob_label", "logit_margin", "cross_entropy")
_KEYS = (
    ("split", pa.string()),
    ("loader", pa.int16()),
    ("epoch", pa.int32()),
    ("pass", pa.int32()),
    ("global_step", pa.int64()),
    ("index", pa.int64()),
    ("pred", pa.int32()),
)
_FLOATS = {name: pa.float32() for name in ("prob_label", "prob_pred", "logit_margin", "cross_entropy")}
_OTHER, _SURE = "best_other", "prob_pred"
PART_SCHEMA = pa.schema(
    [*_KEYS, (_OTHER, pa.int32()), *((name, pa.float32()) for name in MEASURES), ("visit", pa.int32())]
)
# Version 0.1 kept the largest probability, which the other measures tell, and no best other class.
_OLD_SCHEMA = pa.schema([*_KEYS, *_FLOATS.items(), ("visit", pa.int32())])
#: What readers are given, whichever version wrote the part.
ROW_SCHEMA = pa.schema([*_KEYS, (_OTHER, pa.int32()), *_FLOATS.items(), ("visit", pa.int32())])
UNKNOWN = -1  # the best other class of a visit that an older version recorded
TARGET = "target"  # a column of its own only if labels may change
_INTEGERS = ("loader", "global_step", "index", "pred")
_GIVEN = (*_INTEGERS, _OTHER, *MEASURES)
_OLD_GIVEN = (*_INTEGERS, *_FLOATS)
_FEW_VALUES = ["split", "loader", "epoch", "pass", "pred", _OTHER, "visit", TARGET]
# Sorted or slowly rising integers: differences need almost no space, and every reader supports this encoding.
_RISING = {"global_step": "DELTA_BINARY_PACKED", "index": "DELTA_BINARY_PACKED"}
_SPLIT = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.\-]*")
_NAME = re.compile(
    rf"(?P<split>{_SPLIT.pattern})/epoch-(?P<epoch>\d{{4,}})-pass-(?P<pass_>\d+)-rank-(?P<rank>\d{{5,}})\.parquet",
    re.ASCII,
)


@dataclasses.dataclass(frozen=True, order=True)
class PartKey:
    """One split, epoch, pass and rank: what one Parquet file of the history holds.

    Keys sort by split, then in the order of time, then by rank.

    Attributes:
        split: `"train"`, `"val"`, ...; it names a folder.
        epoch: counted from 0.
        pass_: which pass over the split within the epoch, from 0; `val_check_interval` gives several.
        rank: global rank of the process that wrote it.

    Example:
        >>> key = PartKey("train", epoch=3, pass_=0, rank=0)
        >>> key.filename
        'train/epoch-0003-pass-0-rank-00000.parquet'
        >>> PartKey.parse(key.filename) == key
        True
    """

    split: str
    epoch: int
    pass_: int
    rank: int

    def __post_init__(self) -> None:
        if not _SPLIT.fullmatch(self.split):
            raise ValueError(
                f"split must be made of letters, digits, '_', '-' and '.', and begin with a letter, digit or '_',"
                f" since it names a folder; got {self.split!r}."
            )
        for name in ("epoch", "pass_", "rank"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must be 0 or more, got {getattr(self, name)}.")

    @property
    def filename(self) -> str:
        """Path of the part's file inside the folder `history`, with `/`."""
        return f"{self.split}/epoch-{self.epoch:04d}-pass-{self.pass_}-rank-{self.rank:05d}.parquet"

    @classmethod
    def parse(cls, filename: str) -> PartKey:
        """Read a key back from its file name; a ValueError if no key has it."""
        match = _NAME.fullmatch(filename)
        if match:
            key = cls(match["split"], int(match["epoch"]), int(match["pass_"]), int(match["rank"]))
            if key.filename == filename:  # 'epoch-00003' would be a second file for one key
                return key
        raise ValueError(f"filename must look like 'train/epoch-0003-pass-0-rank-00000.parquet', got {filename!r}.")


def write_part(dirpath: str | os.PathLike[str], key: PartKey, columns: Mapping[str, npt.NDArray[np.generic]]) -> Path:
    """Write what one rank saw in one pass over one split.

    The file appears whole or not at all, and replaces an earlier file of the same key. Its columns are
    `split, loader, epoch, pass, global_step, index, pred, best_other, prob_label, logit_margin, cross_entropy, visit`;
    its rows are sorted by loader, index and visit. `visit` counts the earlier rows of the same sample in this part.

    The three measures are kept as float32, bit for bit what the module saw. Given as float16 they stay float16: half
    the size, three significant digits, and margins beyond 65504 become infinite. pandas, polars and DuckDB read both.
    50,000 samples x 100 epochs took 70 MB as float32 and 42 MB as float16; the surer the model, the less.

    Args:
        dirpath: the run's folder.
        key: what the rows belong to.
        columns: one array [V] each, V visits in the order in which they happened:
            `global_step`, `index` (from 0), `pred`, `best_other` (the most probable class that is not the label, -1 if
            unknown) int; `prob_label` in [0, 1], `logit_margin`, `cross_entropy` in nats, float; and `loader` int, 0
            if left out. V may be 0. `target` int, the label at each visit, only if labels may change; else they are in
            `samples.parquet`. With `prob_pred` in the place of `best_other` the file is one of version 0.1.

    Example:
        >>> import tempfile
        >>> half = np.full(3, 0.5, np.float32)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = write_part(folder, PartKey("val", 0, 0, 0), {
        ...         "global_step": np.array([10, 10, 10]), "index": np.array([7, 2, 7]), "pred": np.array([1, 0, 1]),
        ...         "best_other": np.array([0, 1, 0]), "prob_label": half, "logit_margin": half, "cross_entropy": half})
        ...     pq.read_table(path, columns=["index", "visit"]).to_pydict()
        {'index': [2, 7, 7], 'visit': [0, 0, 1]}
    """
    rows = _checked(columns)
    count = len(rows["index"])
    order = np.lexsort((rows["index"], rows["loader"]))  # stable: visits of one sample stay in the order of time
    rows = {name: values[order] for name, values in rows.items()}
    rows["visit"] = count_earlier(rows["loader"], rows["index"]).astype(np.int32)
    constants = {"split": key.split, "epoch": key.epoch, "pass": key.pass_}
    fields, arrays = [], []
    schema = PART_SCHEMA if _OTHER in rows else _OLD_SCHEMA
    schema = schema.append(pa.field(TARGET, pa.int32())) if TARGET in rows else schema
    for field in schema:
        if field.name in constants:
            arrays.append(pa.repeat(pa.scalar(constants[field.name], field.type), count))
        else:
            arrays.append(pa.array(rows[field.name]))
        fields.append(pa.field(field.name, arrays[-1].type, nullable=False))
    path = Path(dirpath) / HISTORY_FOLDER / key.filename
    table = pa.table(arrays, schema=pa.schema(fields))
    write_parquet(path, table, use_dictionary=_FEW_VALUES, column_encoding=_RISING)
    return path


def check_part(path: Path) -> None:
    """Read a part's footer; most damage (a file cut short, an empty file, another format) shows there."""
    with parquet_errors(path, _remedy(path)):
        names = pq.read_schema(path).names
    if not any(names in (known, [*known, TARGET]) for known in (PART_SCHEMA.names, _OLD_SCHEMA.names)):
        raise HistoryError(
            f"{path} is not a part of a history: its columns are {names}, not {PART_SCHEMA.names}. Move it out of"
            " the folder."
        )


def read_part(path: Path, columns: Sequence[str] | None = None) -> pa.Table:
    """Read some columns of a part, one row per visit, and `target` if the part has it; measures become float32.

    `best_other` and `prob_pred` are there for parts of every version: see :func:`_other_class` and :func:`_sure_of`.
    """
    names = ROW_SCHEMA.names if columns is None else list(columns)

    def needed(schema: pa.Schema) -> list[str]:
        derived = {name for name in names if name in _SOURCES and name not in schema.names}
        sources = [name for missing in sorted(derived) for name in _SOURCES[missing]]
        wanted = dict.fromkeys([*(name for name in names if name not in derived), *sources])
        return [*wanted, TARGET] if TARGET in schema.names else list(wanted)

    table = read_parquet(path, needed, remedy=_remedy(path), threads=False)
    for name in _FLOATS:
        if name in table.column_names and table.schema.field(name).type != pa.float32():
            table = table.set_column(table.column_names.index(name), name, table[name].cast(pa.float32()))
    for name, derive in ((_OTHER, _other_class), (_SURE, _sure_of)):
        if name in names and name not in table.column_names:
            table = table.append_column(name, pa.array(derive(table)))
    return table.select([*names, TARGET] if TARGET in table.column_names else names)


# What an absent column is made of.
_SOURCES = {_OTHER: ("pred", "logit_margin"), _SURE: ("prob_label", "logit_margin", "cross_entropy")}


def _other_class(table: pa.Table) -> npt.NDArray[np.int32]:
    """The best other class where an old part tells it: that is the prediction of a visit that went wrong."""
    wrong = np.asarray(table["logit_margin"]) < 0
    return np.where(wrong, np.asarray(table["pred"]), UNKNOWN).astype(np.int32)


def _sure_of(table: pa.Table) -> npt.NDArray[np.float32]:
    """The largest probability: that of the label, or of the best other class where that one wins."""
    label, margin, entropy = (np.asarray(table[name]) for name in _SOURCES[_SURE])
    return np.where(margin < 0, other_probability(margin, entropy), label).astype(np.float32)


def other_probability(
    logit_margin: npt.NDArray[np.floating[Any]], cross_entropy: npt.NDArray[np.floating[Any]]
) -> npt.NDArray[np.float64]:
    """The probability of the best class that is not the label, [V] each: exp(-(cross entropy + margin)), at most 1.

    The product p_label exp(-margin) is the same on paper, and 0 times infinity for large margins. Where a float16 file
    holds infinities for both, the other class has all there is.

    Example:
        >>> other_probability(np.array([-100.0, np.log(3), -np.inf]), np.array([100.0, np.log(4 / 3), np.inf])).round(4)
        array([1.  , 0.25, 1.  ])
    """
    margin, entropy = np.asarray(logit_margin, np.float64), np.asarray(cross_entropy, np.float64)
    with np.errstate(invalid="ignore"):
        surprise = np.where(np.isneginf(margin) & np.isposinf(entropy), 0.0, entropy + margin)
    probability: npt.NDArray[np.float64] = np.exp(-np.maximum(surprise, 0.0))  # rounding may leave it below 0
    return probability


def _remedy(path: Path) -> str:
    return (
        f"Restore it from a copy; or rename it to {path.name}.orphan to read the history without it, or resume the run"
        " from a checkpoint of an earlier epoch to record it again."
    )


def list_parts(dirpath: str | os.PathLike[str]) -> dict[PartKey, Path]:
    """The path of every part that a folder holds by key, sorted; without orphans, temporary and other files."""
    history = Path(dirpath) / HISTORY_FOLDER
    found = {}
    for path in history.glob("*/epoch-*.parquet"):
        try:
            found[PartKey.parse(path.relative_to(history).as_posix())] = path
        except ValueError:  # not one of ours
            continue
    return dict(sorted(found.items()))


def set_aside(dirpath: str | os.PathLike[str], finished: Collection[tuple[str, int, int]]) -> list[Path]:
    """Rename parts that a resumed run will write again to `*.orphan`, or `*.1.orphan`, ...; returns their new paths.

    Parts of the `finished` (split, epoch, pass) stay, from all ranks, also if the run resumes with fewer. Temporary
    files of a killed process are removed. One process calls this (rank 0), before any rank writes.
    """
    keep = set(finished)
    moved = []
    for key, path in list_parts(dirpath).items():
        if (key.split, key.epoch, key.pass_) not in keep:
            moved.append(path.rename(orphan_name(path)))
    _remove_temporary_files(dirpath)
    for folder in sorted({path.parent for path in moved}):
        sync_directory(folder)
    return moved


def remove_parts(dirpath: str | os.PathLike[str]) -> None:
    """Remove every part, orphan and temporary file of a folder's history, and the subfolders that are empty then."""
    history = Path(dirpath) / HISTORY_FOLDER
    paths = list(list_parts(dirpath).values())
    for orphan in history.glob("*/epoch-*.orphan"):
        try:
            PartKey.parse(orphan.relative_to(history).as_posix().partition(".parquet")[0] + ".parquet")
        except ValueError:  # not one of ours
            continue
        paths.append(orphan)
    for path in paths:
        path.unlink()
    _remove_temporary_files(dirpath)
    for folder in (*sorted({path.parent for path in paths}), history):
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()


def count_earlier(*keys: npt.NDArray[np.generic]) -> npt.NDArray[np.int64]:
    """Position of each row among its neighbors with the same keys, each [V]; rows sorted by these."""
    position = np.arange(len(keys[0]))
    return position - np.maximum.accumulate(np.where(first_rows(*keys), position, 0))


def first_rows(*keys: npt.NDArray[np.generic]) -> npt.NDArray[np.bool_]:
    """[V], whether a row is the first of those with the same keys, each [V]; rows sorted by these."""
    first = np.ones(len(keys[0]), bool)
    first[1:] = np.any([key[1:] != key[:-1] for key in keys], axis=0)
    return first


def last_rows(*keys: npt.NDArray[np.generic]) -> npt.NDArray[np.bool_]:
    """[V], whether a row is the last of those with the same keys, each [V]; rows sorted by these."""
    last = np.ones(len(keys[0]), bool)
    last[:-1] = first_rows(*keys)[1:]
    return last


def _checked(columns: Mapping[str, npt.NDArray[np.generic]]) -> dict[str, npt.NDArray[np.generic]]:
    given = {name: np.asarray(values) for name, values in columns.items()}
    if "index" in given:
        given.setdefault("loader", np.zeros(given["index"].shape, np.int16))
    names = _OLD_GIVEN if _SURE in given and _OTHER not in given else _GIVEN
    missing, unknown = [name for name in names if name not in given], sorted(set(given) - {*names, TARGET})
    if missing or unknown:
        raise ValueError(f"columns must hold {', '.join(names)}; missing: {missing}, unknown: {unknown}.")
    rows = {}
    for name in (*names, TARGET) if TARGET in given else names:
        values = given[name]
        if values.shape != (len(given["index"]) if given["index"].ndim else 0,):
            raise ValueError(
                f"columns[{name!r}] must be 1-D and as long as 'index' {given['index'].shape}, got {values.shape}."
            )
        rows[name] = _as_measure(name, values) if name in _FLOATS else _as_integer(name, values)
    return rows


def _as_integer(name: str, values: npt.NDArray[np.generic]) -> npt.NDArray[np.generic]:
    if values.dtype.kind not in "iu":
        raise ValueError(f"columns[{name!r}] must be integers, got {values.dtype}.")
    wanted = np.dtype(np.int32 if name == TARGET else PART_SCHEMA.field(name).type.to_pandas_dtype())
    lowest, highest = UNKNOWN if name == _OTHER else 0, np.iinfo(wanted).max
    if values.size and (int(values.min()) < lowest or int(values.max()) > highest):
        raise ValueError(f"columns[{name!r}] must be in [{lowest}, {highest}], got {values.min()} to {values.max()}.")
    return values.astype(wanted)


def _as_measure(name: str, values: npt.NDArray[np.generic]) -> npt.NDArray[np.generic]:
    if values.dtype.kind != "f":
        raise ValueError(f"columns[{name!r}] must be floating point, got {values.dtype}.")
    return values if values.dtype == np.float16 else values.astype(np.float32)


def _remove_temporary_files(dirpath: str | os.PathLike[str]) -> None:
    history = Path(dirpath) / HISTORY_FOLDER
    for folder in (path for path in history.glob("*") if path.is_dir()):
        for stale in temporary_files(folder, "epoch-*.parquet"):
            stale.unlink()
