"""Learning paths: what a network predicted on chosen samples over time, one Parquet file per mode, epoch and rank."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from lightning_flip.stores.errors import HistoryError
from lightning_flip.stores.files import read_parquet, write_parquet
from lightning_flip.stores.history.parts import HISTORY_FOLDER, PartKey, count_earlier, list_parts
from lightning_flip.stores.history.runs import RUN_FILE, RunInfo, read_run

__all__ = ["LearningPaths", "path_bytes", "read_paths", "write_path_part"]

_FOLDER = "paths"
_MODES = ("visits", "eval")
_MARK = {"lightning_flip": "learning paths"}  # marks our files among other parts
_INTEGERS = {"index": np.int64, "target": np.int32, "global_step": np.int64}
_ROW_BYTES = 28  # index, target, global_step and epoch, and the offset of a constant
_FILE_BYTES = 4096  # footer and headers of one small file


@dataclasses.dataclass(frozen=True)
class LearningPaths:
    """Predictions on N samples at T times.

    With mode "eval" a time is one evaluation pass. With mode "visits" it is the first, second, ... visit within an
    epoch: one time per epoch, unless a sampler draws a sample more than once.

    Attributes:
        path: float32 [T, N, K]; NaN if a sample was not recorded (not visited, or not yet chosen).
        index: int64 [N], positions in the training dataset, rising.
        steps: int64 [T], updates taken before the first prediction of that time.
        epochs: int64 [T].
        sample_steps: int64 [T, N], updates taken before each prediction, -1 if there is none.
        target: int64 [N], labels as training saw them last; -1 if there is no single label.
        mode: "visits" or "eval".
        run: the content of `run.json`.
    """

    path: npt.NDArray[np.float32]
    index: npt.NDArray[np.int64]
    steps: npt.NDArray[np.int64]
    epochs: npt.NDArray[np.int64]
    sample_steps: npt.NDArray[np.int64]
    target: npt.NDArray[np.int64]
    mode: str
    run: RunInfo

    @property
    def recorded(self) -> npt.NDArray[np.bool_]:
        """Bool [T, N], whether a sample was recorded at a time."""
        return self.sample_steps >= 0

    def of(self, sample: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
        """The path of one sample without gaps: steps [t] and probabilities [t, K].

        Raises:
            KeyError: if the sample was not recorded.
        """
        places = np.flatnonzero(self.index == sample)
        if not len(places):
            shown = ", ".join(map(str, self.index[:8].tolist())) + (", ..." if len(self.index) > 8 else "")
            raise KeyError(f"sample {sample} was not recorded; there are {len(self.index)}: {shown}.")
        there = self.recorded[:, places[0]]
        return self.sample_steps[there, places[0]], self.path[there, places[0]]


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
        columns: V rows: `index` int (position in the dataset), `target` int (-1 if a sample has no single label),
            `global_step` int (updates taken before the prediction), each [V]; `probs` float [V, K].
    """
    if key.split not in _MODES:
        raise ValueError(f"key.split must be one of {_MODES}; got {key.split!r}.")
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
    schema = pa.schema([pa.field(name, array.type, nullable=False) for name, array in arrays.items()], _MARK)
    path = Path(dirpath) / HISTORY_FOLDER / key.filename
    table = pa.table(list(arrays.values()), schema=schema)
    write_parquet(path, table, use_dictionary=["target", "epoch", "mode"])
    return path


def path_bytes(samples: int, classes: int, times: int, files: int = 0) -> int:
    """An upper bound of the bytes that recorded paths take: 4 per probability, 28 per row, 4 KiB per Parquet file.

    Without `files` it is what the rows take in memory; `times` counts the predictions recorded per sample.
    """
    return samples * times * (4 * classes + _ROW_BYTES) + files * _FILE_BYTES


def read_paths(
    dirpath: str | os.PathLike[str], *, mode: str | None = None, samples: Sequence[int] | None = None
) -> LearningPaths:
    """Read the paths that `LearningPath` recorded.

    Args:
        dirpath: the recording's folder, or the run's folder that holds it as `paths`.
        mode: "visits" or "eval", if a folder holds both.
        samples: read only these; None: all. Memory is T x N x K x 4 bytes, also for samples recorded briefly.

    Raises:
        HistoryError: if files are missing or damaged, belong to something else, or hold none of the requested rows.

    Example:
        >>> import tempfile
        >>> from lightning_flip.stores.claims import claim
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = claim(folder)
        ...     for epoch, probs in enumerate([[[0.5, 0.5]], [[0.8, 0.2]]]):
        ...         _ = write_path_part(folder, PartKey("visits", epoch, 0, 0), {"index": np.array([4]),
        ...             "target": np.array([0]), "global_step": np.array([10 * epoch]), "probs": np.array(probs)})
        ...     paths = read_paths(folder)
        >>> paths.path.shape, paths.index.tolist(), paths.steps.tolist(), paths.target.tolist()
        ((2, 1, 2), [4], [0, 10], [0])
    """
    folder = Path(dirpath)
    if (folder / _FOLDER / RUN_FILE).exists():
        folder = folder / _FOLDER
    run = read_run(folder)
    parts = {key: path for key, path in list_parts(folder).items() if key.split in _MODES}
    found = sorted({key.split for key in parts} if mode is None else {key.split for key in parts} & {mode})
    if len(found) != 1:
        there = f"it holds {' and '.join(found)}; pass mode=" if found else "nothing was recorded there"
        raise HistoryError(
            f"{folder / HISTORY_FOLDER} has no paths of one mode{'' if mode is None else f' {mode!r}'}: {there}. A "
            "part is written at the end of each epoch."
        )
    rows = _read_rows({key: path for key, path in parts.items() if key.split == found[0]}, samples)
    if not len(rows["index"]):
        raise HistoryError(f"{folder / HISTORY_FOLDER} holds no rows of the samples {samples}; record these samples.")
    return _arrange(rows, found[0], run)


def _read_rows(parts: dict[PartKey, Path], samples: Sequence[int] | None) -> dict[str, npt.NDArray[Any]]:
    read: list[dict[str, npt.NDArray[Any]]] = []
    width = -1
    for path in parts.values():
        table = _read_part(path)
        probs = table["probs"].combine_chunks()
        if width not in (-1, probs.type.list_size):
            raise HistoryError(
                f"{path} has {probs.type.list_size} classes, earlier parts have {width}: they are of different "
                "networks. Move the parts of one of them away, or record into a folder of its own."
            )
        width = probs.type.list_size
        rows = {name: np.asarray(table[name]) for name in ("index", "target", "epoch", "global_step")}
        rows["probs"] = np.asarray(probs.flatten()).reshape(-1, width)
        if samples is not None:
            wanted = np.isin(rows["index"], np.asarray(samples, np.int64))
            rows = {name: values[wanted] for name, values in rows.items()}
        read.append(rows)
    joined = {name: np.concatenate([rows[name] for rows in read]) for name in read[0]}
    # Time first; ranks that drew the same sample at the same step keep their order.
    order = np.lexsort((joined["global_step"], joined["epoch"], joined["index"]))
    return {name: values[order] for name, values in joined.items()}


def _read_part(path: Path) -> pa.Table:
    remedy = f"Restore it from a copy, or rename it to {path.name}.orphan to read the paths without it."
    table = read_parquet(path, remedy=remedy, threads=False)
    marks = table.schema.metadata or {}
    if any(marks.get(name.encode()) != value.encode() for name, value in _MARK.items()):
        raise HistoryError(f"{path} holds no learning paths (its columns: {table.schema.names}). Move it away.")
    return table


def _arrange(rows: dict[str, npt.NDArray[Any]], mode: str, run: RunInfo) -> LearningPaths:
    index, place = np.unique(rows["index"], return_inverse=True)
    within = rows["global_step"] if mode == "eval" else count_earlier(rows["index"], rows["epoch"])
    moments, time = np.unique(np.stack([rows["epoch"], within], axis=1), axis=0, return_inverse=True)
    time = time.reshape(-1)
    path = np.full((len(moments), len(index), rows["probs"].shape[1]), np.nan, np.float32)
    sample_steps = np.full(path.shape[:2], -1, np.int64)
    path[time, place] = rows["probs"]
    sample_steps[time, place] = rows["global_step"]
    target = np.empty(len(index), np.int64)
    target[place] = rows["target"]  # the latest of a sample is written last
    later = np.where(sample_steps < 0, np.iinfo(np.int64).max, sample_steps)
    return LearningPaths(path, index, later.min(axis=1), moments[:, 0], sample_steps, target, mode, run)


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
