"""Distillation from a file of soft targets as a mixin."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import lightning.pytorch as pl
import torch
from torch import Tensor

from lightning_flip.functional.distillation import distillation_loss, student_cross_entropy
from lightning_flip.functional.losses import reduce_method_loss
from lightning_flip.mixins._options import check_choices
from lightning_flip.mixins._students import check_distillation, labels_alone, student_correction, treatment
from lightning_flip.mixins._transition_source import Transition
from lightning_flip.mixins.base import LossTerm, Reduced
from lightning_flip.steps import SampleStep
from lightning_flip.steps.options import check_numbers, check_paths
from lightning_flip.steps.stored_targets import StoredTargets

__all__ = ["SoftTargets"]


class TargetSource:
    """Path of a file, and its content while a fit runs; copies share it, and it is pickled without the content."""

    def __init__(self, path: str | None) -> None:
        self.path = path
        self.loaded: StoredTargets | None = None
        self.compared = False

    def __deepcopy__(self, memo: dict[int, Any]) -> TargetSource:
        return self

    def __reduce__(self) -> Any:
        return TargetSource, (self.path,)


class SoftTargets(LossTerm):
    """Trains a student on what a teacher said of each sample: KD, ESKD and Filter-KD are three files.

    The loss is beta t^2 H(q_t, softmax(z / t)) + (1 - beta) CE with q_t = softmax(log q / t), where q is the sample's
    row in the file; by default H(q, softmax(z)), the students of the Filter-KD paper. Such files are written by
    :class:`~lightning_flip.callbacks.PredictionFilter` and :func:`~lightning_flip.stores.write_soft_targets`. Where
    labels are noisy the student may be smoothed or forward-corrected, in both parts of the loss; see
    :func:`~lightning_flip.functional.distillation_loss`.

    Before the first step the file is compared with the student's data: number of samples and classes, and all labels
    where the data set keeps them (else those of each step). It is read when a fit begins, so that the student's
    checkpoint loads, validates and predicts where the file is gone.

    Our reading: the paper asks its teachers of KD and ESKD about each augmented batch; a file holds what they said of
    one view of each sample. For that variant see :class:`~lightning_flip.mixins.Distillation`.

    Args:
        *args: passed on to the module.
        targets: path of the file.
        kd_temperature: t > 0, of both.
        kd_weight: beta >= 0; 0 is training on the labels alone, and reads no file; above 1 the labels do not count, and
            2 is the factor of the Filter-KD authors' code, 2 t^2.
        kd_smoothing: a in [0, 1) of a smoothed student, H((1 - a) q_t + a u, p_t); 0 is no smoothing.
        kd_correction_alpha: a in [0, 1) of a student that is corrected for symmetric noise, H(q_t, p_t T) with
            T = (1 - a) I + (a/K) 1 1^T; None corrects nothing.
        kd_transition: T instead, row-stochastic ``[K, K]``, or the path of a file that holds it (.npz, .npy, .csv),
            which is read when a fit begins.
        unvisited: "error" refuses a file whose teacher never visited some samples; "cross_entropy" trains these with
            their labels alone.
        **kwargs: options of :class:`LossTerm`, and the module's.

    Raises:
        ValueError: if an option is out of range, T is not row-stochastic, or two of ``kd_smoothing``,
            ``kd_correction_alpha`` and ``kd_transition`` are given; when a fit begins, without ``targets``.
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
        kd_temperature: float = 1.0,
        kd_weight: float = 1.0,
        kd_smoothing: float = 0.0,
        kd_correction_alpha: float | None = None,
        kd_transition: Transition | None = None,
        unvisited: Literal["error", "cross_entropy"] = "error",
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        check_numbers(kd_temperature=kd_temperature, kd_weight=kd_weight)
        check_distillation(kd_temperature, kd_weight)
        check_paths("a file of soft targets", files=True, targets=targets)
        check_choices(unvisited=(unvisited, ("error", "cross_entropy")))
        self.mixin_options.take(
            targets=None if targets is None else str(targets),
            kd_temperature=kd_temperature,
            kd_weight=kd_weight,
            kd_smoothing=kd_smoothing,
        )
        self._mixin.kd_correction = student_correction(kd_smoothing, kd_correction_alpha, kd_transition)
        if self._mixin.kd_correction is not None:
            self.declare_correction(SoftTargets)
        self.mixin_options.take(unvisited=unvisited)
        self._mixin.soft_targets = TargetSource(self.mixin_options.targets)

    def begin_fit(self, trainer: pl.Trainer) -> None:
        """Read the transition's file, and that of the targets, if it counts, and put it where the module is."""
        options = self.mixin_options
        super().begin_fit(trainer)
        if self._mixin.kd_correction is not None:
            self._mixin.kd_correction.begin(trainer)
        if not options.kd_weight:
            return
        if self._mixin.soft_targets.path is None:
            raise ValueError(
                f"{type(self).__name__} trains on soft targets, and there are none. Pass targets=: the path of a file "
                "that PredictionFilter wrote while a teacher trained on the same data."
            )
        loaded = StoredTargets(self._mixin.soft_targets.path)
        if options.unvisited == "error":
            loaded.require_visited()
        loaded.to(trainer.strategy.root_device)
        self._mixin.soft_targets.loaded, self._mixin.soft_targets.compared = loaded, False

    def end_fit(self) -> None:
        """Release the table, so that its memory on the device is free."""
        super().end_fit()
        self._mixin.soft_targets.loaded = None

    def new_epoch(self, epoch: int) -> None:
        """Look at the labels of the epoch before, where the data set keeps none."""
        if self._mixin.soft_targets.loaded is not None:
            self._mixin.soft_targets.loaded.check()

    def method_loss(self, step: SampleStep, reduction: Reduced = "none") -> Tensor | None:
        """The distillation loss of every sample."""
        options = self.mixin_options
        treated = treatment(step.logits, options.kd_smoothing, self._mixin.kd_correction)
        if not options.kd_weight:
            return labels_alone(step, treated, reduction)
        stored = self._mixin.soft_targets.loaded
        assert stored is not None
        self.require_unmixed(f"{self._mixin.soft_targets.path} has soft targets")
        if not self._mixin.soft_targets.compared:
            attachment = self._term_loop.attachment
            record = None if attachment is None else attachment.running.arrival.record(self._mixin.source)
            known = record is not None and self._mixin.source.index_from is None
            dataset = record.dataset if record is not None and known and step.num_samples is not None else None
            num_samples = options.num_samples if options.num_samples is not None else step.num_samples
            every = getattr(self.trainer, "log_every_n_steps", 50)
            stored.compare(dataset, num_samples, step.num_classes, every=every)
            self._mixin.soft_targets.compared = True
        probs, visited = stored.rows(step)
        if options.unvisited != "error":
            # Any distribution will do: at another temperature an empty row gives NaN, which no mask takes out again.
            probs = torch.where(visited[:, None], probs, 1 / step.num_classes)
        everything = options.unvisited == "error"
        loss = distillation_loss(
            step.logits,
            probs,
            step.target,
            temperature=options.kd_temperature,
            weight=options.kd_weight,
            teacher_is="probs",
            **treated,
            reduction=reduction if everything else "none",
        )
        if everything:
            return loss
        alone = student_cross_entropy(step.logits, step.target, **treated, reduction="none")
        return reduce_method_loss(torch.where(visited, loss, alone), step.logits, step.target, reduction)
