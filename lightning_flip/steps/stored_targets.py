"""A teacher's soft targets beside the student that trains, compared with the data that it trains on."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from torch import Tensor

from lightning_flip.data.identity import data_difference, describe_data
from lightning_flip.data.labels import kept_labels
from lightning_flip.data.sample_names import lasting_ids
from lightning_flip.steps.sample_step import SampleStep
from lightning_flip.stores import SoftTargetError, dataset_fingerprint, read_soft_targets

__all__ = ["StoredTargets"]


class StoredTargets:
    """A file of soft targets on the device of a student.

    No buffer of a module: DistributedDataParallel would broadcast it, weight averaging average it, checkpoints hold it.

    Example:
        >>> import tempfile
        >>> from lightning_flip.stores import write_soft_targets
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = write_soft_targets(f"{folder}/a.safetensors", np.array([[0.7, 0.3], [0.0, 1.0]]))
        ...     stored = StoredTargets(path)
        >>> stored.rows(SampleStep(torch.tensor([1]), torch.zeros(1, 2), torch.tensor([0])))[0]
        tensor([[0., 1.]])
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.table = read_soft_targets(path)
        self._probs = torch.from_numpy(self.table.probs)
        self._visited = torch.from_numpy(self.table.visited)
        self._target = None if self.table.target is None else torch.from_numpy(self.table.target)
        self._other: Tensor | None = None
        self._by_step = False
        self._steps = 0
        self._every = 1

    def to(self, device: torch.device) -> None:
        """Move the table, once a fit, saying how much memory it takes there."""
        size = self._probs.nbytes / 1e6
        rank_zero_info(f"soft targets of {self.table.path}: {list(self._probs.shape)} = {size:.1f} MB to {device}")
        try:
            with torch.inference_mode(False):
                self._probs, self._visited = self._probs.to(device), self._visited.to(device)
                self._target = None if self._target is None else self._target.to(device)
        except RuntimeError as error:
            raise MemoryError(
                f"the soft targets of {self.table.path} take {size / 1e3:.1f} GB and do not fit on {device}."
            ) from error

    def require_visited(self) -> None:
        """Refuse a table with rows that its teacher knows nothing of."""
        missing = self.table.num_samples - self.table.num_visited
        if missing:
            first = int(np.flatnonzero(~self.table.visited)[0])
            raise SoftTargetError(
                f"{self.table.path} has soft targets for {self.table.num_visited} of {self.table.num_samples} samples; "
                f"its teacher never visited the other {missing}, sample {first} among them (limit_train_batches, a "
                'sampler, drop_last). Let the teacher visit all, or pass unvisited="cross_entropy".'
            )

    def compare(self, dataset: Any, num_samples: int | None, num_classes: int, *, every: int = 1) -> None:
        """Compare the table with the student's data, before the first step is taken.

        Where the data set keeps its labels, all of them are compared now; else the labels of each step are, in
        :meth:`rows`.
        """
        self._every = max(1, every)
        table, manifest = self.table, self.table.manifest
        if table.num_classes != num_classes:
            raise SoftTargetError(
                f"{table.path} is of {table.num_classes} classes, the student's logits have {num_classes}. Train the "
                "teacher on the same classes, or check what logits_from names."
            )
        if num_samples is not None and table.num_samples != num_samples:
            raise SoftTargetError(
                f"{table.path} is of {table.num_samples} training samples, the student has {num_samples}. Give the "
                "student the teacher's training data: the same split, in the same order."
            )
        facts = manifest.get("data")
        other = data_difference(facts, describe_data(dataset), labels=False) if facts and dataset is not None else ""
        if other:
            raise SoftTargetError(
                f"{table.path} was made of other training data: {other}. Its rows are found by position. Give the "
                "student the teacher's data: the same split, in the same order."
            )
        labels = None if dataset is None or manifest.get("labels") == "steps" else kept_labels(dataset)
        if labels is None or num_samples is None:
            self._by_step = table.target is not None
            if not self._by_step:
                rank_zero_warn(f"{table.path} holds no labels, so that it cannot be compared with this data.")
            return
        if table.target is not None:
            # A label that is not a class is that of a sample which the student's loss leaves out.
            known = (table.target >= 0) & (labels >= 0) & (labels < num_classes)
            wrong = int((known & (table.target != labels)).sum())
            if wrong:
                raise SoftTargetError(self._other_labels(f"{wrong} of {len(labels)} samples"))
        fingerprint = manifest.get("dataset_fingerprint")
        if fingerprint is None:
            if table.target is None:
                rank_zero_warn(f"{table.path} has no fingerprint, so that it cannot be compared with this data.")
            return
        names = lasting_ids(dataset) if manifest.get("sample_ids") else None
        if manifest.get("sample_ids") and names is None:
            return  # the labels agree, and the student's data set has no names to compare
        if dataset_fingerprint(labels, names) != fingerprint:
            what = "the names of samples (sample_id)" if table.target is not None else "labels or names of samples"
            raise SoftTargetError(
                f"{table.path} was made of other training data: {what} are not those of the student's data set, though "
                f"both have {table.num_samples} samples. Give the student the teacher's data in the same order."
            )

    def rows(self, step: SampleStep) -> tuple[Tensor, Tensor]:
        """The soft targets of a step's samples; nothing is read back from a device except every few steps.

        Returns probabilities ``[B, K]`` in the logits' type, at least float32, and bool ``[B]``, whether they are any.
        """
        step.require_below(self.table.num_samples)
        if self._by_step and self._target is not None and step.has_labels:
            known = self._target[step.index]
            other = (known >= 0) & (known != step.target)
            other = (other if step.valid is None else other & step.valid).sum()
            self._other = other if self._other is None else self._other + other
            if step.logits.device.type == "cpu" or self._steps % self._every == 0:
                self.check()
            self._steps += 1
        dtype = torch.promote_types(step.logits.dtype, torch.float32)
        return self._probs[step.index].to(dtype), self._visited[step.index]

    def check(self) -> None:
        """Raise errors that steps found; waits for the device."""
        count = 0 if self._other is None else int(self._other)
        self._other = None
        if count:
            raise SoftTargetError(self._other_labels(f"{count} samples of the last batches"))

    def _other_labels(self, where: str) -> str:
        return (
            f"{self.table.path} was made of other training data: the labels of {where} are not those that its teacher "
            "was trained with. Give the student the teacher's data: the same samples in the same order, with the same "
            "label noise (rate and seed)."
        )
