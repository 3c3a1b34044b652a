"""Predictions read from Parquet, CSV or NPZ files, of our own and of other tools' making."""

from __future__ import annotations

import dataclasses
import os
import zipfile
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from lightning_flip.stores.errors import PredictionError
from lightning_flip.stores.files import read_parquet
from lightning_flip.stores.predictions.columns import (
    find_columns,
    list_array,
    logit_blocks,
    parse_labels,
    shown,
    without_spelled_nulls,
)
from lightning_flip.stores.predictions.prediction_set import PredictionMetadata, PredictionSet

__all__ = ["read_logits", "read_predictions"]

_KINDS = "biufSUM"  # of numpy: booleans, numbers, text, times
_SCORES = ("logits", "top_classes", "top_probs")
_REMEDY = "It may be empty, cut off, or of another format: write or copy it again."
# What pyarrow and zipfile raise on damaged files and files of another format, also for names in an unknown encoding.
_DAMAGE = (OSError, pa.ArrowException, zipfile.BadZipFile, UnicodeDecodeError, NotImplementedError)


def read_predictions(
    path: str | os.PathLike[str],
    *,
    id_column: str | None = None,
    target_column: str | None = None,
    pred_column: str | None = None,
    confidence_column: str | None = None,
    columns: Collection[str] | None = None,
    scores: bool = False,
) -> PredictionSet:
    r"""Read predictions of `PredictionWriter`, or of any other tool, in the file's order.

    - `.parquet` is read in any types that mean the same (also dictionaries, large text, labels as floats).
    - `.csv` is UTF-8 with commas and a header. Ids stay text ("007" is not 7). Labels are integers if targets and
      predictions all are, else text; an empty target is not a label, and neither is `NA`, `NaN`, `null` or `None`
      unless it is predicted. Further columns are text as it is in the file.
      A file that was cut within its last cell looks whole.
    - `.npz` has one array [R] per column, without pickled objects; further ones of a type that Arrow lacks are ignored.

    Args:
        path: the file.
        id_column: name of the id column; `sample_id` if None, or else `index`.
        target_column: name of the column with the true label; `target` if None.
        pred_column: name of the column with the predicted label; `pred` if None.
        confidence_column: name of the column with the prediction's probability, in [0, 1]; `confidence` if None, which
            the file may lack.
        columns: which further columns to read; those that the file lacks are ignored. None: all with one value per row.
        scores: whether to read `logits`, `top_classes` and `top_probs` too, if the file has them.

    Raises:
        PredictionError: if the file is missing, damaged or of another kind; a column is missing or repeated; an id or
            a prediction is missing; labels are fractions, or integers in one column and text in the other;
            a confidence is outside [0, 1].

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder) / "other.csv"
        ...     _ = path.write_text("file,label,answer\n007,cat,dog\n008,dog,dog\n")
        ...     read = read_predictions(path, id_column="file", target_column="label", pred_column="answer")
        >>> read.rows.to_pydict()
        {'sample_id': ['007', '008'], 'target': ['cat', 'dog'], 'pred': ['dog', 'dog']}
    """
    path = Path(path)
    readers = {".parquet": _read_parquet, ".csv": _read_csv, ".npz": _read_npz}
    if path.suffix.lower() not in readers:
        raise PredictionError(f"{path} must end in .parquet, .csv or .npz, which says how to read it.")
    if not path.exists():
        raise PredictionError(f"{path} does not exist. Give the path of a file of predictions.")
    if path.is_dir():
        raise PredictionError(f"{path} is a folder. Give one file; if it is a table in parts, write them as one file.")
    roles = {
        "id_column": id_column,
        "target_column": target_column,
        "pred_column": pred_column,
        "confidence_column": confidence_column,
    }
    further = None if columns is None else {columns} if isinstance(columns, str) else set(columns)
    try:
        found = readers[path.suffix.lower()](path, _Choice(str(path), roles, further, scores))
    except _DAMAGE as error:
        raise _damaged(path, error) from error
    pa.default_memory_pool().release_unused()  # what decompression needed; a second file is likely to follow
    metadata = PredictionMetadata.from_footer(found.table.schema.metadata, str(path)) or PredictionMetadata()
    return PredictionSet.from_columns(
        found.table,
        str(path),
        found.roles,
        classes=metadata.classes,
        columns=tuple(found.names),
        model_parameters=metadata.model_parameters,
        dataset_size=metadata.num_samples,
        data=metadata.data,
    )


def read_logits(
    path: str | os.PathLike[str],
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.floating[Any]], dict[str, Any]]:
    """Read the logits that `PredictionWriter(logits=True)` recorded, e.g. to distil from them.

    Args:
        path: a Parquet file with the columns `index` and `logits`.

    Returns:
        index [R] as in the file, logits [R, K] in the type that they are stored in, and the metadata `classes` (tuple
        of K labels or None), `model_parameters`, `num_samples` (int or None) and `data`, the dataset's fingerprint.

    Raises:
        PredictionError: if the file is missing or damaged, has no logits, or an index is missing.

    Example:
        >>> import tempfile
        >>> from lightning_flip.stores import write_predictions
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = write_predictions(Path(folder) / "old.parquet", {
        ...         "index": [0], "sample_id": ["0"], "pred": [1], "confidence": [0.75],
        ...         "logits": np.array([[0.0, 1.0]], np.float16)})
        ...     index, logits, metadata = read_logits(path)
        >>> index.tolist(), logits.tolist(), logits.dtype.name
        ([0], [[0.0, 1.0]], 'float16')
    """
    path = Path(path)
    if not path.exists():
        raise PredictionError(
            f"{path} does not exist. Give the path of a file that PredictionWriter(logits=True) wrote."
        )

    def choose(schema: pa.Schema) -> list[str]:
        if not {"index", "logits"} <= set(schema.names):
            raise PredictionError(
                f"{path} must have the columns 'index' and 'logits', but has {schema.names}. Record it again with"
                " PredictionWriter(logits=True)."
            )
        return ["index", "logits"]

    table = read_parquet(path, choose, error=PredictionError, remedy=_REMEDY)
    metadata = PredictionMetadata.from_footer(table.schema.metadata, str(path)) or PredictionMetadata()
    if table["index"].null_count or not pa.types.is_integer(table["index"].type):
        raise PredictionError(f"{path}, column 'index' must be integers without a gap, got {table['index'].type}.")
    index = np.asarray(table["index"]).astype(np.int64)
    if not len(index):
        raise PredictionError(f"{path} has 0 rows, so it holds no logits. Was the run cut off?")
    logits: npt.NDArray[np.floating[Any]] | None = None
    for start, block in logit_blocks(table["logits"], f"{path}, column 'logits'"):
        if logits is None:
            logits = np.empty((len(index), block.shape[1]), block.dtype)
        logits[start : start + len(block)] = block
    assert logits is not None  # there is at least one row
    known = {"classes": metadata.classes, "model_parameters": metadata.model_parameters}
    return index, logits, known | {"num_samples": metadata.num_samples, "data": metadata.data}


@dataclasses.dataclass(frozen=True)
class _Choice:
    """Which columns of a file to read."""

    where: str
    roles: Mapping[str, str | None]
    further: Collection[str] | None
    scores: bool

    def find(self, names: Sequence[str]) -> dict[str, str]:
        """The columns that every file needs."""
        return find_columns(names, self.where, **self.roles)

    def takes(self, name: str, *, nested: bool = False) -> bool:
        """Whether to read a further column."""
        if nested and name in _SCORES and self.scores:
            return True
        return not nested if self.further is None else name in self.further


@dataclasses.dataclass(frozen=True)
class _Found:
    """The columns that were read, the names of all columns, and the names by role."""

    table: pa.Table
    names: list[str]
    roles: dict[str, str]


def _read_parquet(path: Path, choice: _Choice) -> _Found:
    names: list[str] = []
    roles: dict[str, str] = {}

    def choose(schema: pa.Schema) -> list[str]:
        names.extend(schema.names)
        roles.update(choice.find(names))
        used = set(roles.values())
        nested = {field.name: pa.types.is_nested(field.type) for field in schema}
        return [name for name in names if name in used or choice.takes(name, nested=nested[name])]

    return _Found(read_parquet(path, choose, error=PredictionError, remedy=_REMEDY), names, roles)


def _read_csv(path: Path, choice: _Choice) -> _Found:
    parsing = pa.csv.ParseOptions(newlines_in_values=True)
    with pa.csv.open_csv(path, parse_options=parsing) as reader:
        names = reader.schema.names
    for separator in ";\t|":
        if len(names) == 1 and separator in names[0]:
            raise PredictionError(
                f"{path} must have commas between its columns, got the header {shown(names[0])}. Write it again with"
                f" commas instead of {separator!r}."
            )
    roles = choice.find(names)
    used = set(roles.values())
    converting = pa.csv.ConvertOptions(
        column_types={name: pa.string() for name in names if name != roles.get("confidence")},
        include_columns=[name for name in names if name in used or choice.takes(name)],
    )
    table = pa.csv.read_csv(path, parse_options=parsing, convert_options=converting)
    ids = table[roles["sample_id"]]
    empty = pc.sum(pc.equal(ids, "")).as_py()
    if empty:
        raise PredictionError(
            f"{path}, column {roles['sample_id']!r} must name every sample, but {empty} of {len(ids)} rows have none."
        )
    labels = [roles["target"], roles["pred"]]
    place = table.column_names.index(roles["target"])
    table = table.set_column(place, roles["target"], without_spelled_nulls(*(table[name] for name in labels)))
    parsed = parse_labels([(f"{path}, column {name!r}", table[name]) for name in labels])
    for name, column in zip(labels, parsed, strict=True):
        table = table.set_column(table.column_names.index(name), name, column)
    return _Found(table, names, roles)


def _read_npz(path: Path, choice: _Choice) -> _Found:
    with zipfile.ZipFile(path) as archive:  # numpy would ignore a repeated name
        names = [name.removesuffix(".npy") for name in archive.namelist()]
    roles = choice.find(names)
    used = set(roles.values())
    chosen = [name for name in names if name in used or choice.takes(name, nested=name in _SCORES)]
    try:
        with np.load(path, allow_pickle=False) as arrays:
            columns = {name: arrays[name] for name in chosen}
    except Exception as error:  # numpy reads headers as Python literals: damage shows as almost any exception
        raise _damaged(path, error) from error
    ids = columns[roles["sample_id"]]
    rows = {}
    for name, values in columns.items():
        fits = values.ndim == (2 if name in _SCORES else 1) and len(values) == ids.size
        if name in used and values.dtype.kind not in _KINDS:
            raise PredictionError(f"{path} must hold arrays of numbers or text, but {name!r} is {values.dtype}.")
        if name in used and not fits:
            raise PredictionError(
                f"{path} must hold 1-D arrays of one length, but {name!r} is {values.shape} and"
                f" {roles['sample_id']!r} {ids.shape}."
            )
        if fits and values.dtype.kind in _KINDS:
            native = values.astype(values.dtype.newbyteorder("="), copy=False)
            try:
                rows[name] = list_array(native) if values.ndim == 2 else pa.array(native)
            except (pa.ArrowException, UnicodeError) as error:
                if name in used:
                    raise PredictionError(
                        f"{path}, column {name!r}, must be numbers or text that Arrow knows, got {values.dtype}:"
                        f" {error}."
                    ) from error
    return _Found(pa.table(rows), [name for name in names if name in rows or name not in columns], roles)


def _damaged(path: Path, error: Exception) -> PredictionError:
    reason = (str(error).splitlines() or [""])[0][:300]
    remedy = "Store text as arrays of dtype str, not object." if "allow_pickle" in reason else _REMEDY
    kind = path.suffix[1:].upper()
    return PredictionError(f"{path} cannot be read as {kind} ({type(error).__name__}: {reason}). {remedy}")
