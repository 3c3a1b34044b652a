"""Distillation from a model that runs beside the student, as a mixin."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
from torch import Tensor

from lightning_flip.mixins.base import Reduced
from lightning_flip.mixins.referenced import ReferencedLoss
from lightning_flip.mixins.student import StudentLoss
from lightning_flip.steps import SampleStep

__all__ = ["Distillation"]


class Distillation(StudentLoss, ReferencedLoss):
    """Trains a student on a teacher's predictions for the same batch (Hinton et al. 2015; KD and ESKD).

    The loss is that of :class:`StudentLoss` with q_t = softmax(z_teacher / t). The teacher is the ``reference``: the
    checkpoint of its last epoch is KD, that of its best validation epoch ESKD. It is in eval mode and sees the same
    batch as the student, augmentations included.

    Options are those of :class:`StudentLoss` and :class:`ReferencedLoss`, without ``old_classes``.

    Raises:
        ValueError: in the first step, if the teacher has other classes.

    Example:
        >>> from lightning_flip.models import MLP, Classifier
        >>> class Student(Distillation, Classifier): ...
        >>> teacher = MLP(4, 3, hidden=(256, 256))
        >>> model = Student(network=MLP(4, 3), num_classes=3, reference=teacher, kd_temperature=2.0)
        >>> model.mixin_options.kd_temperature
        2.0
    """

    softens_target = True
    replaces_cross_entropy = True

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.mixin_options.old_classes is not None:
            raise ValueError(
                "old_classes: a teacher's distribution has to be over all of the student's classes. Train the teacher "
                "on the same ones, or use FocalDistillation to pull a new model towards an old one."
            )

    def begin_fit(self, trainer: pl.Trainer) -> None:
        """Load the teacher, unless its weight is 0."""
        super().begin_fit(trainer)
        if self.mixin_options.kd_weight:
            self.load_reference(trainer)

    def method_loss(self, step: SampleStep, reduction: Reduced = "none") -> Tensor | None:
        """(1 - beta) CE + beta t^2 H(softmax(z_teacher / t), softmax(z / t)) per sample."""
        treatment = self._treatment(step)
        if not self.mixin_options.kd_weight:
            return self._untaught_loss(step, treatment, reduction)
        teacher = self.reference_logits(step)
        if teacher.shape[1] != step.num_classes:
            raise ValueError(
                f"the teacher has {teacher.shape[1]} classes, the student's logits have {step.num_classes}. Train the "
                "teacher on the same classes, or check what logits_from names."
            )
        return self._taught_loss(step, teacher, treatment, reduction)
