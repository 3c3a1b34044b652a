"""Predictions written to one Parquet file."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from lightning_flip.stores.errors import PredictionError
from lightning_flip.stores.files import parquet_schema, write_parquet
from lightning_flip.stores.predictions.columns import (
    as_confidence,
    as_ids,
    first_without_class,
    list_array,
)
from lightning_flip.stores.predictions.prediction_set import PredictionMetadata, PredictionSet

__all__ = ["stage_of", "write_predictions"]

_ORDER = ("index", "sample_id", "target", "pred", "confidence", "prob_label", "top_classes", "top_probs", "logits")
_REQUIRED = ("index", "sample_id", "pred", "confidence")
_WIDE = ("top_classes", "top_probs", "logits")
# Groups small enough that a wide one fits in memory many times, and that readers can share out among threads.
_ROW_GROUP = 131_072


def write_predictions(
    path: str | os.PathLike[str],
    columns: Mapping[str, Any],
    *,
    classes: Sequence[int | str] | None = None,
    model_parameters: int | None = None,
    num_samples: int | None = None,
    data: Mapping[str, Any] | None = None,
    stage: str | None = None,
    overwrite: bool = False,
) -> Path:
    """Write predictions to one Parquet file, which appears whole or not at all; returns its path.

    The rows are sorted by `index`. pandas, polars and DuckDB read the file as it is.

    Args:
        path: the file, ending in `.parquet`. Missing folders are made.
        columns: an array or list of R rows each, R may be 0:

            - `index` int from 0: position in the dataset that was predicted;
            - `sample_id` text or int: a lasting id; kept as text;
            - `target` int, text or None: the true label, None if there is none; may be left out;
            - `pred` int or text: the predicted label;
            - `confidence` float in [0, 1]: the largest softmax probability; NaN if unknown;
            - `prob_label` float, optional: the probability of the target;
            - `top_classes` [R, k] labels and `top_probs` [R, k] float, optional: the best classes, best first;
            - `logits` [R, K] float, optional: kept as float16 if given so, else as float32; minus infinity masks a
              class;
            - any further column [R] of numbers, booleans or text, by which reports can cut slices.
        classes: the label of each of the model's K outputs, so that another model's file can be compared on the classes
            that both know.
        model_parameters: the model's number of parameters, for tables.
        num_samples: the size of the dataset, if not all of it was predicted.
        data: the fingerprint of the dataset, anything that JSON can hold. If `data["ids_are"]` is "positions",
            `sample_id` does not outlast the dataset's order.
        stage: what was predicted: "validate", "test" or "predict".
        overwrite: replace a file that is there.

    Raises:
        FileExistsError: if the file is there and `overwrite` is False.
        ValueError: if a column is missing, differs in length, or has invalid values, such as scores that are NaN.

    Example:
        >>> import tempfile
        >>> from lightning_flip.stores import read_predictions
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = write_predictions(Path(folder) / "new.parquet", {
        ...         "index": [1, 0], "sample_id": ["b.png", "a.png"], "target": [1, None], "pred": [1, 0],
        ...         "confidence": [0.75, 0.5]}, classes=(0, 1))
        ...     read = read_predictions(path)
        >>> read.rows["sample_id"].to_pylist(), read.rows["target"].to_pylist(), read.classes
        (['a.png', 'b.png'], [None, 1], (0, 1))
    """
    path = Path(path)
    if path.suffix != ".parquet":
        raise ValueError(f"path must end in .parquet, got {str(path)!r}.")
    if path.exists() and not overwrite:
        raise FileExistsError(f"{path} is already there. Choose another path, or pass overwrite=True to replace it.")
    table = _as_table(columns)
    labels = None if classes is None else tuple(_plain_label(label) for label in classes)
    PredictionSet.from_table(table, "columns", classes=labels)  # what could not be read must not be written
    footer = PredictionMetadata(labels, model_parameters, num_samples, data, stage).to_footer()
    write_parquet(path, table.replace_schema_metadata(footer), replace=overwrite, row_group_size=_ROW_GROUP)
    return path


def stage_of(path: str | os.PathLike[str]) -> str | None:
    """The stage of the predictions in a file; None if it is missing, not one of ours, or does not say."""
    schema = parquet_schema(Path(path))
    try:
        found = None if schema is None else PredictionMetadata.from_footer(schema.metadata, str(path))
    except PredictionError:
        return None
    return None if found is None else found.stage


def _as_table(columns: Mapping[str, Any]) -> pa.Table:
    given = dict(columns)
    missing = [name for name in _REQUIRED if name not in given]
    if missing:
        raise ValueError(f"columns must hold {', '.join(_REQUIRED)}, but lacks {missing}; it has {list(given)}.")
    index = np.asarray(given["index"])
    if index.ndim != 1 or (index.size and index.dtype.kind not in "iu") or (index.size and index.min() < 0):
        raise ValueError(f"columns['index'] must be 1-D integers from 0, got {index.dtype} {index.shape}.")
    if given.get("target") is None:
        given["target"] = pa.nulls(len(index), pa.int64())
    if ("top_classes" in given) != ("top_probs" in given):
        raise ValueError("columns must hold both or neither of 'top_classes' and 'top_probs'.")
    names = [*(name for name in _ORDER if name in given), *(name for name in given if name not in _ORDER)]
    arrays = {name: _as_array(name, given[name], len(index)) for name in names}
    arrays["index"] = pa.array(index.astype(np.int64))
    arrays["sample_id"] = as_ids(arrays["sample_id"], "columns['sample_id']")
    table = pa.table(arrays)
    if np.all(index[1:] >= index[:-1]):
        return table
    return table.take(pa.array(np.argsort(index, kind="stable")))


def _as_array(name: str, values: Any, count: int) -> pa.Array | pa.ChunkedArray:
    try:
        if name in _WIDE:
            wide = np.asarray(values)
            if wide.ndim != 2 or not wide.shape[1] or len(wide) != count:
                raise ValueError(f"columns[{name!r}] must be [{count}, 1 or more], got {wide.shape}.")
            without = first_without_class(wide) if name != "top_classes" and wide.dtype.kind == "f" else None
            if without is not None:
                raise ValueError(
                    f"columns[{name!r}] must be numbers, but row {without}, counted from 0, has NaN in it, or minus "
                    "infinity for all classes, and so no prediction. Leave such rows out."
                )
            if name == "top_probs" or (name == "logits" and wide.dtype != np.float16):
                wide = wide.astype(np.float32)
            return list_array(wide)
        array = values if isinstance(values, pa.ChunkedArray) else pa.chunked_array([pa.array(values)])
        if name in ("confidence", "prob_label"):
            array = as_confidence(array, f"columns[{name!r}]")
    except (pa.ArrowException, TypeError, OverflowError) as error:
        raise ValueError(f"columns[{name!r}] must be an array that Parquet can hold: {error}.") from error
    if len(array) != count:
        raise ValueError(f"columns[{name!r}] must be as long as 'index' ({count}), got {len(array)}.")
    return array


def _plain_label(label: int | str) -> int | str:
    return label if isinstance(label, str) else int(label)
