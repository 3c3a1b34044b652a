"""A teacher's soft targets on disk, and what their manifests say of the data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor

from lightning_flip.callbacks._filtered_tables import FilteredTables
from lightning_flip.callbacks.run_folder import RunFolder
from lightning_flip.data.identity import describe_data
from lightning_flip.data.labels import kept_labels
from lightning_flip.data.sample_names import lasting_ids
from lightning_flip.stores import SoftTargetError, dataset_fingerprint, read_soft_targets, write_soft_targets
from lightning_flip.stores.files import temporary_files
from lightning_flip.tables import append_rows

__all__ = ["SoftTargetFolder", "against", "clear", "describe_labels"]


def against(folder: Path, run_id: str | None) -> str:
    """Why a run's soft targets must not be written into a folder, or "".

    Example:
        >>> against(Path("no/such/folder"), None)
        ''
    """
    others = _others(folder, run_id)
    if not others:
        return ""
    return (
        f"{folder} holds soft targets of another run, or damaged ones ({', '.join(path.name for path in others)}). "
        "Choose another dirpath=, resume that run, or pass overwrite=True to remove them."
    )


def clear(folder: Path, run_id: str | None, *, overwrite: bool) -> None:
    """Remove what a killed process left half-written and, with ``overwrite``, another run's files.

    Example:
        >>> clear(Path("no/such/folder"), None, overwrite=True)
    """
    for path in _others(folder, run_id) if overwrite else ():
        path.unlink()
        path.with_suffix(".json").unlink(missing_ok=True)
    for stale in temporary_files(folder):
        stale.unlink()


def _others(folder: Path, run_id: str | None) -> list[Path]:
    return [path for path in sorted(folder.glob("*.safetensors")) if run_id is None or not _is_of_run(path, run_id)]


def _is_of_run(path: Path, run_id: str) -> bool:
    try:
        return read_soft_targets(path).manifest.get("run") == run_id
    except SoftTargetError:
        return False


def describe_labels(dataset: Any, seen: npt.NDArray[np.int64]) -> dict[str, Any]:
    """What a manifest says of the data: the fingerprint of the labels as training saw them.

    Labels that no step saw, -1 in ``seen`` ``[N]``, are filled in from those that the dataset keeps, if the two agree
    elsewhere. If they disagree (something between dataset and loss maps labels), or the dataset keeps none, only what
    steps saw counts.

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
    """Writes one run's tables, each file only when what it says is new."""

    def __init__(self, place: RunFolder, part: Path, facts: dict[str, Any]) -> None:
        self.folder = place.path / part
        self._place = place
        self.facts = facts
        self._written: dict[str, dict[str, Any]] = {}
        self._described: tuple[Tensor, dict[str, Any]] | None = None

    def write(
        self, tables: FilteredTables, dataset: Any, moment: dict[str, Any], evaluated_last: Tensor | None = None
    ) -> None:
        """Write what there is; ``evaluated_last`` ``[N, K]`` is what the model predicts in eval mode now, if wanted."""
        self._place.check(*(self.folder / f"{name}.safetensors" for name in self._written))
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
