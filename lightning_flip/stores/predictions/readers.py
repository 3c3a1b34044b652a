"""Predictions read from files of our own and of other tools' making."""

from __future__ import annotations

import os
import re
import zipfile
from collections.abc import Callable, Collection, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from lightning_flip.stores.errors import PredictionError
from lightning_flip.stores.files import read_parquet
from lightning_flip.stores.predictions._formats import FoundColumns, read_part
from lightning_flip.stores.predictions._roles import Choice
from lightning_flip.stores.predictions.columns import (
    align_labels,
    as_confidence,
    as_ids,
    as_labels,
    as_text,
    logit_blocks,
    parse_labels,
    without_spelled_nulls,
)
from lightning_flip.stores.predictions.prediction_set import PredictionMetadata, PredictionSet
from lightning_flip.stores.predictions.sources import Part, find_parts

__all__ = ["read_logits", "read_predictions"]

_REMEDY = "It may be empty, cut off, or of another format: write or copy it again."
# The user, password and query of a URL in the message of a driver.
_SECRETS = re.compile(r"(://)[^/\s]*@|\?[^\s'\")>]*")
# What pyarrow and zipfile raise on damaged files and files of another format, also for names in an unknown encoding.
_DAMAGE = (OSError, EOFError, pa.ArrowException, zipfile.BadZipFile, UnicodeDecodeError, NotImplementedError)


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

    - `.parquet`, `.arrow` and `.feather` (Arrow IPC files and streams) are read in any types that mean the same: also
      dictionaries, large text, labels as floats, ids that are unsigned, decimals or UUIDs.
    - `.csv` is UTF-8 with a header and commas, semicolons or tabs, `.tsv` with tabs; without commas between the columns
      numbers may have decimal commas. Ids stay text ("007" is not 7). Labels are integers if targets and predictions
      all are, else text; an empty target is not a label, and neither is `NA`, `NaN`, `null` or `None` unless it is
      predicted. Further columns are text as it is in the file. A file that was cut within its last cell looks whole.
    - `.jsonl` and `.ndjson` have one JSON object per row. These and CSV may be compressed (`.csv.gz`).
    - `.npz` has one array [R] per column, without pickled objects; further ones of a type that Arrow lacks are ignored.

    A folder or a glob (`preds/*.parquet`) is one table in files of one format, sorted by name, without those whose name
    begins with `.` or `_`; a folder `site=A` adds a column. A URL is opened by fsspec, with the driver that it has to
    have installed (s3fs for `s3://`). `-` is standard input, whose format its first bytes tell.

    Predictions that are not a column are derived from the first of these: lists `logits`, `probs` or `probabilities`;
    lists `top_classes`, with `top_probs` if they are there; columns `logit_...` or `prob_...`, one per class and named
    after it. So is the confidence, if no column has it. `PredictionSet.notes` tells.

    Args:
        path: a file, a folder, a glob, a URL or `-`.
        id_column: name of the id column; `sample_id` if None, or else `index`.
        target_column: name of the column with the true label; `target` if None.
        pred_column: name of the column with the predicted label; `pred` if None.
        confidence_column: name of the column with the prediction's probability, in [0, 1]; `confidence` if None, which
            the file may lack.
        columns: which further columns to read; those that the file lacks are ignored. None: all with one value per row.
        scores: whether to read `logits`, `top_classes` and `top_probs` too, if the file has them.

    Raises:
        PredictionError: if the file is missing, damaged or of another kind; a package that a URL needs is missing;
            the files of a folder do not fit together; a column is missing or repeated; an id or a prediction is
            missing; labels are fractions, or integers in one column and text in the other; a confidence is outside
            [0, 1]; scores are NaN, or not the probabilities of one class.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder) / "other.csv"
        ...     _ = path.write_text("file,label,answer\n007,cat,dog\n008,dog,dog\n")
        ...     read = read_predictions(path, id_column="file", target_column="label", pred_column="answer")
        >>> read.rows.to_pydict()
        {'sample_id': ['007', '008'], 'target': ['cat', 'dog'], 'pred': ['dog', 'dog']}
    """
    name, parts = find_parts(os.fspath(path))
    given = {
        "id_column": id_column,
        "target_column": target_column,
        "pred_column": pred_column,
        "confidence_column": confidence_column,
    }
    further = None if columns is None else {columns} if isinstance(columns, str) else set(columns)
    choice = Choice(given, further, scores)
    found = _put_together(name, [_read(part, choice) for part in parts])
    pa.default_memory_pool().release_unused()  # what decompression needed; a second file is likely to follow
    metadata = PredictionMetadata.from_footer(found.table.schema.metadata, name) or PredictionMetadata()
    return PredictionSet.from_plan(
        _with_parsed_labels(found, name) if found.text else found.table,
        name,
        found.plan,
        classes=metadata.classes,
        columns=tuple(found.plan.names),
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


def _read(part: Part, choice: Choice) -> FoundColumns:
    """Read one file; what its format or its driver raises becomes a PredictionError."""
    try:
        return read_part(part, choice)
    except PredictionError:
        raise
    except Exception as error:
        if not (part.remote or isinstance(error, _DAMAGE)):
            raise
        reason = (str((part.remote and error.__cause__) or error).splitlines() or [""])[0]
        if part.remote:
            reason = _SECRETS.sub(r"\1", reason)
        remedy = "Store text as arrays of dtype str, not object." if "allow_pickle" in reason else _REMEDY
        raise PredictionError(
            f"{part.name} cannot be read as {part.kind} ({type(error).__name__}: {reason[:300]}). {remedy}"
        ) from error


def _put_together(name: str, parts: Sequence[FoundColumns]) -> FoundColumns:
    """Join the rows of several files, which have the same columns and are of one model."""
    first = parts[0]
    if len(parts) == 1:
        return first
    metadata = []
    for part in parts:
        differing = sorted({*part.plan.names} ^ {*first.plan.names})
        if differing:
            raise PredictionError(
                f"{name} must have files with the same columns, but {part.where} and {first.where} do not both have"
                f" {differing}. Select the files of one table, by a glob."
            )
        metadata.append(PredictionMetadata.from_footer(part.table.schema.metadata, part.where) or PredictionMetadata())
    first_model, *others = ((one.classes, one.model_parameters) for one in metadata)
    if any(model != first_model for model in others):
        raise PredictionError(
            f"{name} must have files of one model, but they tell of different classes or numbers of parameters. Select"
            " the files of one model, by a glob."
        )
    columns = {column: _one_column(first, column, parts) for column in first.table.column_names}
    same = all(one == metadata[0] for one in metadata)
    footer = metadata[0] if same else PredictionMetadata(metadata[0].classes, metadata[0].model_parameters)
    table = pa.table(columns).replace_schema_metadata(footer.to_footer())
    return FoundColumns(table, first.where, first.plan, first.text)


def _one_column(first: FoundColumns, name: str, parts: Sequence[FoundColumns]) -> pa.ChunkedArray:
    """A column of all files; types that differ are brought to the one that its meaning asks for."""
    columns = [(f"{part.where}, column {name!r}", part.table[name]) for part in parts]
    if len({column.type for _, column in columns}) > 1:
        convert: dict[str, Callable[[pa.ChunkedArray, str], pa.ChunkedArray]] = {
            "sample_id": as_ids,
            "target": partial(as_labels, nullable=True),
            "pred": partial(as_labels, nullable=False),
            "confidence": as_confidence,
        }
        role = next((role for role, column in first.plan.roles.items() if column == name), "")
        columns = [(where, convert.get(role, as_text)(values, where)) for where, values in columns]
        if role in ("target", "pred"):
            columns = [(name, values) for values in align_labels(columns)]
    return pa.chunked_array([chunk for _, column in columns for chunk in column.chunks], columns[0][1].type)


def _with_parsed_labels(found: FoundColumns, name: str) -> pa.Table:
    """The table with the labels that are text as integers, if all of them are."""
    table, labels = found.table, (found.plan.roles["target"], found.plan.roles["pred"])
    target, pred = (table[label] for label in labels)
    target = without_spelled_nulls(target, pred)
    parsed = parse_labels([(f"{name}, column {label!r}", v) for label, v in zip(labels, (target, pred), strict=True)])
    for label, values in zip(labels, parsed, strict=True):
        table = table.set_column(table.column_names.index(label), label, values)
    return table
