"""Distillation from a file of soft targets as a mixin."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import lightning.pytorch as pl
import torch
from torch import Tensor

from lightning_flip.functional.distillation import student_cross_entropy
from lightning_flip.functional.losses import reduce_method_loss
from lightning_flip.mixins._holder import SharedHolder
from lightning_flip.mixins.base import Reduced
from lightning_flip.mixins.student import StudentLoss
from lightning_flip.steps import SampleStep
from lightning_flip.steps.options import check_choices, check_paths
from lightning_flip.steps.stored_targets import StoredTargets

__all__ = ["SoftTargets"]


@dataclass(eq=False)
class TargetSource(SharedHolder):
    """Path of a file, and its content during a fit."""

    path: str | None
    loaded: StoredTargets | None = field(default=None, init=False)
    compared: bool = field(default=False, init=False)


class SoftTargets(StudentLoss):
    """Trains a student on a teacher's stored predictions: KD, ESKD and Filter-KD are three files.

    The loss is that of :class:`StudentLoss` with q_t = softmax(log q / t), where q is the sample's row in the file.
    :class:`~lightning_flip.callbacks.PredictionFilter` and :func:`~lightning_flip.stores.write_soft_targets` write such
    files.

    Before the first step the file is compared with the student's data: number of samples and classes, and all labels
    if the dataset keeps them (otherwise those of each step). It is read when a fit begins, so the student's checkpoint
    also loads, validates and predicts without the file.

    Our reading: the paper evaluates its teachers of KD and ESKD on each augmented batch; a file holds their predictions
    for one view of each sample. For that variant see :class:`~lightning_flip.mixins.Distillation`.

    Args:
        targets: path of the file.
        unvisited: "error" refuses a file whose teacher never visited some samples; "cross_entropy" trains these with
            their labels alone.

    Raises:
        ValueError: when a fit begins, without ``targets``.
        SoftTargetError: (a ValueError) when a fit begins, if the file is missing, damaged or incomplete; before the
            first step, if it is of other data or classes.
        TypeError: in the first mixed batch, beside a method that mixes samples.

    Example:
        >>> from lightning_flip.models import MLP, Classifier
        >>> class Student(SoftTargets, Classifier): ...
        >>> model = Student(network=MLP(4, 3), num_classes=3, targets="teacher/filtered_best.safetensors")
        >>> model.mixin_options.kd_weight
        1.0
    """

    finds_by_position = True
    softens_target = True
    replaces_cross_entropy = True

    def __init__(
        self,
        *args: Any,
        targets: str | Path | None = None,
        unvisited: Literal["error", "cross_entropy"] = "error",
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        check_paths("a file of soft targets", files=True, targets=targets)
        path = None if targets is None else str(targets)
        self.mixin_options.take(targets=path, **check_choices(unvisited=(unvisited, ("error", "cross_entropy"))))
        self._mixin.soft_targets = TargetSource(path)

    def begin_fit(self, trainer: pl.Trainer) -> None:
        """Read the file onto the module's device, unless its weight is 0."""
        super().begin_fit(trainer)
        options, source = self.mixin_options, self._mixin.soft_targets
        if not options.kd_weight:
            return
        if source.path is None:
            raise ValueError(
                f"{type(self).__name__} trains on soft targets, and there are none. Pass targets=: the path of a file "
                "that PredictionFilter wrote while a teacher trained on the same data."
            )
        loaded = StoredTargets(source.path)
        if options.unvisited == "error":
            loaded.require_visited()
        loaded.to(trainer.strategy.root_device)
        source.loaded, source.compared = loaded, False

    def end_fit(self) -> None:
        """Release the table and its memory on the device."""
        super().end_fit()
        self._mixin.soft_targets.loaded = None

    def new_epoch(self, epoch: int) -> None:
        """Check the labels of the previous epoch, if the dataset keeps none."""
        if self._mixin.soft_targets.loaded is not None:
            self._mixin.soft_targets.loaded.check()

    def method_loss(self, step: SampleStep, reduction: Reduced = "none") -> Tensor | None:
        """(1 - beta) CE + beta t^2 H(q_t, softmax(z / t)) per sample; CE if the file has no row of it."""
        options = self.mixin_options
        treatment = self._treatment(step)
        if not options.kd_weight:
            return self._untaught_loss(step, treatment, reduction)
        probs, visited = self._soft_target_file(step).rows(step)
        if options.unvisited == "error":
            return self._taught_loss(step, probs, treatment, reduction, "probs")
        # Any distribution will do: at another temperature an empty row gives NaN, which no mask removes again.
        probs = torch.where(visited[:, None], probs, 1 / step.num_classes)
        taught = self._taught_loss(step, probs, treatment, "none", "probs")
        alone = student_cross_entropy(step.logits, step.target, **treatment, reduction="none")
        return reduce_method_loss(torch.where(visited, taught, alone), step.logits, step.target, reduction)

    def _soft_target_file(self, step: SampleStep) -> StoredTargets:
        """The file's content, compared with the data once per fit."""
        source = self._mixin.soft_targets
        stored: StoredTargets | None = source.loaded
        assert stored is not None
        self.require_unmixed(f"{source.path} has soft targets")
        if not source.compared:
            attachment, options = self._term_loop.attachment, self.mixin_options
            record = None if attachment is None else attachment.running.loaded.record(self._mixin.source)
            known = record is not None and self._mixin.source.index_from is None
            dataset = record.dataset if record is not None and known and step.num_samples is not None else None
            num_samples = options.num_samples if options.num_samples is not None else step.num_samples
            every = getattr(self.trainer, "log_every_n_steps", 50)
            stored.compare(dataset, num_samples, step.num_classes, every=every)
            source.compared = True
        return stored
