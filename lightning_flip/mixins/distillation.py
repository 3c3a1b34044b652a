"""Distillation from a model that answers while the student trains, as a mixin."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
from torch import Tensor

from lightning_flip.functional.distillation import distillation_loss
from lightning_flip.mixins._students import check_distillation, labels_alone, student_correction, treatment
from lightning_flip.mixins._transition_source import Transition
from lightning_flip.mixins.base import Reduced
from lightning_flip.mixins.referenced import ReferencedLoss
from lightning_flip.steps import SampleStep
from lightning_flip.steps.options import check_numbers

__all__ = ["Distillation"]


class Distillation(ReferencedLoss):
    """Trains a student on what a teacher says of the same batch (Hinton et al. 2015; KD and ESKD).

    The loss is beta t^2 H(softmax(z_teacher / t), softmax(z / t)) + (1 - beta) CE; by default H alone at t = 1, as in
    the Filter-KD paper. The teacher is the ``reference``: the checkpoint of its last epoch is KD, that of its best
    validation epoch ESKD. It is in eval mode and sees each batch as the student does, augmentations included. Where
    labels are noisy the student may be smoothed or forward-corrected, in both parts of the loss; see
    :func:`~lightning_flip.functional.distillation_loss`.

    Args:
        *args: passed on to the module.
        kd_temperature: t > 0, of both.
        kd_weight: beta >= 0; 0 is training on the labels alone, and loads no teacher; above 1 the labels do not count,
            and 2 is the factor of the Filter-KD authors' code, 2 t^2.
        kd_smoothing: a in [0, 1) of a smoothed student, H((1 - a) q_t + a u, p_t); 0 is no smoothing.
        kd_correction_alpha: a in [0, 1) of a student that is corrected for symmetric noise, H(q_t, p_t T) with
            T = (1 - a) I + (a/K) 1 1^T; None corrects nothing.
        kd_transition: T instead, row-stochastic ``[K, K]``, or the path of a file that holds it (.npz, .npy, .csv),
            which is read when a fit begins.
        **kwargs: options of :class:`ReferencedLoss` (but those of old classes) and :class:`LossTerm`, and the module's.

    Raises:
        ValueError: if an option is out of range, T is not row-stochastic, two of ``kd_smoothing``,
            ``kd_correction_alpha`` and ``kd_transition`` are given, or the teacher has other classes.

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

    def __init__(
        self,
        *args: Any,
        kd_temperature: float = 1.0,
        kd_weight: float = 1.0,
        kd_smoothing: float = 0.0,
        kd_correction_alpha: float | None = None,
        kd_transition: Transition | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        check_numbers(kd_temperature=kd_temperature, kd_weight=kd_weight)
        check_distillation(kd_temperature, kd_weight)
        if self.mixin_options.old_classes is not None:
            raise ValueError(
                "old_classes: a teacher's distribution has to be over all of the student's classes. Train the teacher "
                "on the same ones, or draw a new model to an old one with FocalDistillation."
            )
        self.mixin_options.take(kd_temperature=kd_temperature, kd_weight=kd_weight, kd_smoothing=kd_smoothing)
        self._mixin.kd_correction = student_correction(kd_smoothing, kd_correction_alpha, kd_transition)
        if self._mixin.kd_correction is not None:
            self.declare_correction(Distillation)

    def begin_fit(self, trainer: pl.Trainer) -> None:
        """Read the transition's file, and load the teacher, if it counts."""
        super().begin_fit(trainer)
        if self._mixin.kd_correction is not None:
            self._mixin.kd_correction.begin(trainer)
        if self.mixin_options.kd_weight:
            self.load_reference(trainer)

    def method_loss(self, step: SampleStep, reduction: Reduced = "none") -> Tensor | None:
        """The distillation loss of every sample."""
        options = self.mixin_options
        treated = treatment(step.logits, options.kd_smoothing, self._mixin.kd_correction)
        if not options.kd_weight:
            return labels_alone(step, treated, reduction)
        teacher = self.reference_logits(step)
        if teacher.shape[1] != step.num_classes:
            raise ValueError(
                f"the teacher has {teacher.shape[1]} classes, the student's logits have {step.num_classes}. Train the "
                "teacher on the same classes, or look at what logits_from names."
            )
        return distillation_loss(
            step.logits,
            teacher,
            step.target,
            temperature=options.kd_temperature,
            weight=options.kd_weight,
            **treated,
            reduction=reduction,
        )
