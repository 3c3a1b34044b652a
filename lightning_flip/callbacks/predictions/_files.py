"""The files of a pass: where they are, and writing them on one rank."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import lightning.pytorch as pl
import numpy as np
from lightning.pytorch.utilities import rank_zero_warn

from lightning_flip.callbacks.predictions._rows import HALF_COLUMN, LARGEST_HALF, GatheredRows
from lightning_flip.data.labels import kept_labels
from lightning_flip.data.sample_names import sample_names
from lightning_flip.steps import SampleStep
from lightning_flip.steps.checks import first_false
from lightning_flip.steps.identity import ChangedDataError, LoaderData, changed_labels
from lightning_flip.stores import write_predictions

__all__ = [
    "RowNote",
    "named_rows",
    "prediction_paths",
    "refuse_changed",
    "refuse_collections",
    "refuse_paths",
    "write_rows",
]

Label = int | str


class RowNote(NamedTuple):
    """What holds for all rows of a loader.

    Attributes:
        labels: one label per output.
        num_samples: length of the dataset, None if it has none.
        positional: whether the index is a position in the dataset, and not carried by the batches.
        listed: whether the targets have to be those that the dataset lists, up to one renaming.
    """

    labels: tuple[Label, ...]
    num_samples: int | None
    positional: bool
    listed: bool = False


def prediction_paths(
    trainer: pl.Trainer, path: str | Path | None, loaders: int, *, stage: str, later: bool = False
) -> list[Path]:
    """One path per loader; every rank has to come here. ``later``: ``path`` is another stage's file already."""
    if path is None:
        path, later = Path(trainer.log_dir or trainer.default_root_dir, "predictions.parquet"), True
    first = Path(path)
    if later:
        first = first.with_name(f"{first.stem}-{stage}{first.suffix}")
    return [first, *(first.with_name(f"{first.stem}-{loader}{first.suffix}") for loader in range(1, loaders))]


def refuse_collections(trainer: pl.Trainer) -> None:
    """Refuse a pass whose batches are collections, one part from each loader."""
    mode = getattr(getattr(trainer._active_loop, "_combined_loader", None), "_mode", "sequential")
    if mode != "sequential":
        raise ValueError(
            f"the loaders of this pass are drawn from at once, CombinedLoader(mode={mode!r}), and PredictionWriter "
            "writes a file for each of them in turn. Pass them as a list, which goes through one after another."
        )


def refuse_paths(paths: Sequence[Path], *, overwrite: bool) -> None:
    """Find out before a pass what would only fail after it.

    Example:
        >>> refuse_paths([Path("not/there/new.parquet")], overwrite=False)
    """
    there = [str(path) for path in paths if path.exists()]
    if there and not overwrite:
        raise FileExistsError(
            f"{', '.join(there)} is already there. Choose another path=, or pass overwrite=True to replace it."
        )
    parent = next(parent for parent in paths[0].absolute().parents if parent.exists())
    if not parent.is_dir() or not os.access(parent, os.W_OK):
        raise PermissionError(f"{paths[0]} cannot be written: {parent} is not a folder that files can be made in.")


def write_rows(
    path: Path,
    rows: GatheredRows | None,
    *,
    data: LoaderData | None,
    model_parameters: int,
    stage: str,
    overwrite: bool,
) -> int | None:
    """Name the samples and write their rows; returns their number, None if there were none."""
    if rows is None:
        return None
    note: RowNote = rows.note
    if note.positional and (data is None or data.dataset is None):
        raise RuntimeError(
            f"the first rank had no batch of the loader of {path}, and does not know its dataset. Give every rank a "
            "share of the data, or run on one."
        )
    index = rows.columns["index"].tolist()
    names, facts = [str(place) for place in index], None
    if note.positional and data is not None:
        named = sample_names(data.dataset, data.ids_from).names
        names, facts = [named[place] for place in index], data.facts
        if note.listed:
            _refuse_other_labels(path, rows.columns, data.dataset)
    if rows.repeated:
        rank_zero_warn(
            f"PredictionWriter: {rows.repeated} of {len(names)} samples were visited more than once in this pass; "
            f"{path} keeps the last visit."
        )
    if len(set(names)) < len(names):
        rank_zero_warn(
            f"PredictionWriter: {len(names)} samples have only {len(set(names))} different sample ids, so that {path} "
            "cannot be joined with other predictions. Let the dataset's sample_id(index) name every sample differently."
        )
    if HALF_COLUMN in rows.columns and rows.columns[HALF_COLUMN].dtype != np.float16:
        rank_zero_warn(
            f"PredictionWriter: a logit beyond {LARGEST_HALF:.0f} does not fit into float16; {path} keeps all of them "
            "as float32."
        )
    write_predictions(
        path,
        {"sample_id": names, **named_rows(rows.columns, note.labels)},
        classes=note.labels,
        model_parameters=model_parameters,
        num_samples=note.num_samples,
        data=facts,
        stage=stage,
        overwrite=overwrite,
    )
    return len(names)


def refuse_changed(step: SampleStep, data: LoaderData | None) -> None:
    """Refuse rows whose targets are not the dataset's labels, up to one renaming; waits for the device."""
    if data is None or data.labels is None:
        return
    for found in data.labels.compare(step.index, step.target, step.valid, listed=True):
        row = first_false(found.same)
        if row is not None:
            where = f"sample {int(step.index[row])}"
            raise ChangedDataError(changed_labels(found, step, row, data.split, data.loader, where))


def _refuse_other_labels(path: Path, columns: dict[str, Any], dataset: Any) -> None:
    """Refuse rows whose targets are not the dataset's labels, up to one renaming: they are of other samples."""
    listed, labelled = kept_labels(dataset), columns["labelled"]
    if listed is None or not labelled.any():
        return
    index, target = columns["index"][labelled], columns["target"][labelled]
    classes, first = np.unique(listed[index], return_index=True)
    expected = target[first][np.searchsorted(classes, listed[index])]
    wrong = np.flatnonzero(target != expected)
    if len(wrong):
        raise ChangedDataError(
            f"{len(wrong)} of {len(target)} rows of {path} have other labels than the dataset lists, sample "
            f"{index[wrong[0]]} for one: it has the label {target[wrong[0]]}, and samples that have the same label as "
            f"this one in the list had {expected[wrong[0]]}. Usual causes: a collate_fn that reorders samples, a "
            "dataset that gives others than it is asked for, a list that is not what samples have. Keep the order, let "
            'batches carry ids (index_from=), or, if the list is wrong, pass labels="may_change".'
        )


def named_rows(columns: dict[str, Any], labels: Sequence[Label]) -> dict[str, Any]:
    """Columns as they are stored: labels instead of numbers of outputs, and none if there was no target.

    Returns the columns for :func:`lightning_flip.stores.write_predictions`, all but ``sample_id``.

    Example:
        >>> columns = {"index": np.array([4, 6]), "target": np.array([0, 1]), "labelled": np.array([False, True]),
        ...     "pred": np.array([1, 1]), "prob_label": np.ones(2)}
        >>> rows = named_rows(columns, ("cat", "dog"))
        >>> rows["target"], rows["pred"].tolist(), rows["prob_label"].tolist()
        ([None, 'dog'], ['dog', 'dog'], [nan, 1.0])
    """
    rows = dict(columns)
    names = np.array(labels)
    labelled = rows.pop("labelled")
    if labelled.any():
        target = names[np.where(labelled, rows["target"], 0)].tolist()
        rows["target"] = [label if known else None for label, known in zip(target, labelled.tolist(), strict=True)]
        rows["prob_label"] = np.where(labelled, rows["prob_label"], np.nan)
    else:
        del rows["target"], rows["prob_label"]
    for name in ("pred", "top_classes"):
        if name in rows:
            rows[name] = names[rows[name]]
    return rows
