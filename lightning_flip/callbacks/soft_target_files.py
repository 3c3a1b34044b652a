"""Where a teacher's soft targets lie, and what their manifests say of the data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import numpy.typing as npt
import torch
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor

from lightning_flip.callbacks.clean_pass import find_training_loader
from lightning_flip.callbacks.filtered_tables import FilteredTables
from lightning_flip.callbacks.run_folder import overwrite_ignored
from lightning_flip.data.identity import describe_data, kept_labels
from lightning_flip.data.indexed import IndexedDataset
from lightning_flip.data.sample_names import lasting_ids
from lightning_flip.steps import StepSource
from lightning_flip.stores import SoftTargetError, dataset_fingerprint, read_soft_targets, write_soft_targets
from lightning_flip.stores.atomic import temporary_files
from lightning_flip.tables import append_rows

__all__ = ["SoftTargetFolder", "claim_folder", "describe_labels", "training_data"]


def claim_folder(trainer: pl.Trainer, folder: Path, run_id: str, *, overwrite: bool, known: bool) -> None:
    """Begin or go on in a folder of soft targets; all ranks hear of a refusal, so that none waits for the others.

    Args:
        trainer: the running Trainer; every rank has to come here.
        folder: where the files will lie.
        run_id: this run's id, which its files hold.
        overwrite: remove another run's files instead of refusing.
        known: whether a checkpoint knew the run.

    Raises:
        FileExistsError: if there are files of another run, or such as cannot be read.
    """
    problem: str | None = None
    if trainer.is_global_zero:
        others = [path for path in sorted(folder.glob("*.safetensors")) if not _is_of_run(path, run_id)]
        ignored = overwrite_ignored(trainer, known=known, overwrite=overwrite)
        if others and (ignored or not overwrite):
            names = ", ".join(path.name for path in others)
            problem = (
                f"{folder} holds soft targets of another run, or damaged ones ({names}). Choose another "
                f"dirpath=, resume that run, or pass overwrite=True to remove them.{ignored}"
            )
        else:
            for path in others:
                path.unlink()
                path.with_suffix(".json").unlink(missing_ok=True)
            for stale in temporary_files(folder):
                stale.unlink()
    problem = trainer.strategy.broadcast(problem)
    if problem is not None:
        raise FileExistsError(problem)


def _is_of_run(path: Path, run_id: str) -> bool:
    try:
        return read_soft_targets(path).manifest.get("run") == run_id
    except SoftTargetError:
        return False


def training_data(trainer: pl.Trainer, source: StepSource) -> Any:
    """The data set whose samples a source follows.

    Args:
        trainer: the running Trainer.
        source: names the loader.

    Returns:
        What the user gave to the DataLoader; None where positions in it are not the samples' indices.
    """
    loader = find_training_loader(trainer, source)
    dataset = getattr(loader, "dataset", None)
    dataset = dataset._dataset if isinstance(dataset, IndexedDataset) else dataset
    return dataset if source.index_from is None and hasattr(dataset, "__len__") else None


def describe_labels(dataset: Any, seen: npt.NDArray[np.int64]) -> dict[str, Any]:
    """What a manifest says of the data: the fingerprint of the labels as training saw them.

    Labels that no step saw are filled in from those that the data set keeps, if the two agree elsewhere. Where they
    disagree (something between data set and loss maps labels), or the data set keeps none, only what steps saw counts.

    Args:
        dataset: the training data; None where it is not known.
        seen: ``[N]``, the labels that steps saw, -1 where none did.

    Returns:
        ``dataset_fingerprint`` (None where some labels are not known), ``sample_ids``, whether names are in it, and
        ``labels``, "dataset" or "steps", where such labels are found; ``data``, the dataset's own fingerprint.

    Example:
        >>> import torch
        >>> from torch.utils.data import TensorDataset
        >>> data = TensorDataset(torch.zeros(2, 3), torch.tensor([1, 0]))
        >>> described = describe_labels(data, np.array([1, -1]))
        >>> described["labels"], described["sample_ids"], described["dataset_fingerprint"] is None
        ('dataset', False, False)
        >>> describe_labels(data, np.array([0, -1]))["dataset_fingerprint"] is None
        True
    """
    labels = None if dataset is None else kept_labels(dataset)
    if labels is not None and (len(labels) != len(seen) or (labels != seen)[seen >= 0].any()):
        labels = None
    known = "steps" if labels is None else "dataset"
    if labels is None and (seen >= 0).all():
        labels = seen
    names = None if dataset is None or labels is None else lasting_ids(dataset)
    if names is not None and len(names) != len(seen):
        names = None
    fingerprint = None if labels is None else dataset_fingerprint(labels, names)
    facts = None if dataset is None else describe_data(dataset)
    return {"dataset_fingerprint": fingerprint, "sample_ids": names is not None, "labels": known, "data": facts}


class SoftTargetFolder:
    """Writes one run's tables, each file only when what it says is new.

    Args:
        folder: where the files lie.
        facts: what all manifests of the run say.
    """

    def __init__(self, folder: Path, facts: dict[str, Any]) -> None:
        self.folder = folder
        self.facts = facts
        self._written: dict[str, dict[str, Any]] = {}
        self._described: tuple[Tensor, dict[str, Any]] | None = None

    def write(
        self, tables: FilteredTables, dataset: Any, moment: dict[str, Any], evaluated_last: Tensor | None = None
    ) -> None:
        """Write what there is.

        Args:
            tables: the tables.
            dataset: the training data; None where it is not known.
            moment: epoch and step of now; the best moment has its own.
            evaluated_last: ``[N, K]``, what the model says in eval mode now, if asked.
        """
        labels = tables.labels().cpu()
        if self._described is None or not torch.equal(self._described[0], labels):
            self._described = labels, describe_labels(dataset, labels.numpy())
        everywhere = torch.ones(len(labels), dtype=torch.bool)
        self._write_one("filtered_last", *tables.average.latest(), labels, moment)
        if evaluated_last is not None:
            self._write_one("eval_last", evaluated_last, everywhere, labels, moment)
        if tables.best is not None:
            self._write_one("filtered_best", *tables.average.kept(), labels, tables.best)
            if tables.best_eval is not None:  # the data may have grown since then
                known = torch.arange(len(labels)) < len(tables.best_eval)
                rows = append_rows(tables.best_eval, len(labels))
                self._write_one("eval_best", rows, known, labels, tables.best)

    def _write_one(self, name: str, probs: Tensor, visited: Tensor, labels: Tensor, moment: dict[str, Any]) -> None:
        assert self._described is not None
        kind, _, which = name.partition("_")
        manifest = {**self.facts, **self._described[1], "kind": kind, "which": which, **moment}
        if kind == "eval":
            manifest["alpha"] = None  # no average: the same whatever it is
        if self._written.get(name) == manifest:
            return
        path = self.folder / f"{name}.safetensors"
        arrays = probs.cpu().numpy(), visited.cpu().numpy()
        write_soft_targets(path, *arrays, manifest, target=labels.numpy(), overwrite=True)
        if name not in self._written:
            rank_zero_info(f"PredictionFilter: writing {path}")
        self._written[name] = manifest
