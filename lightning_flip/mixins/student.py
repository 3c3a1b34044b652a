"""The base of the methods that train a student on a teacher's predictions."""

from __future__ import annotations

from typing import Any, Literal, TypedDict

import lightning.pytorch as pl
from torch import Tensor

from lightning_flip.functional.distillation import distillation_loss, student_cross_entropy
from lightning_flip.functional.losses import reduce_method_loss
from lightning_flip.mixins._definition import owners_of, refuse_several
from lightning_flip.mixins.base import LossTerm, Reduced
from lightning_flip.mixins.corrected import ESTIMATE, Transition, TransitionSource
from lightning_flip.steps import SampleStep
from lightning_flip.steps.options import check_fractions, check_not_negative, check_positive

__all__ = ["StudentLoss"]


class Treatment(TypedDict):
    """How the student of a step deals with label noise, as its loss takes it."""

    smoothing: float
    transition: Tensor | None


class StudentLoss(LossTerm):
    """Base of the methods that train a student on a teacher's predictions.

    The loss is beta t^2 H(q_t, softmax(z / t)) + (1 - beta) CE, where q_t is the teacher's prediction at temperature t;
    by default H alone at t = 1, as in the Filter-KD paper. If labels are noisy, the student may be smoothed or
    forward-corrected, in both parts of the loss; see :func:`~lightning_flip.functional.distillation_loss`.

    Args:
        kd_temperature: t > 0, of teacher and student.
        kd_weight: beta >= 0; 0 is training on the labels alone, without a teacher; above 1 the labels do not count, and
            2 is the factor of the Filter-KD authors' code, 2 t^2.
        kd_smoothing: a in [0, 1) of a smoothed student, H((1 - a) q_t + a u, p_t); 0 is no smoothing.
        kd_correction_alpha: a in [0, 1) of a student that is corrected for symmetric noise, H(q_t, p_t T) with
            T = (1 - a) I + (a/K) 1 1^T; None is no correction.
        kd_transition: T instead, row-stochastic ``[K, K]``, or the path of a file that holds it (.npz, .npy, .csv),
            which is read when a fit begins.

    Raises:
        TypeError: at class definition, if a class has two teachers.
        ValueError: if T is not row-stochastic, or two of ``kd_smoothing``, ``kd_correction_alpha`` and
            ``kd_transition`` are given.
    """

    @classmethod
    def _define(cls) -> None:
        super()._define()
        students = [part.__name__ for part in _students_in(cls)]
        refuse_several(cls, students, "both bring a teacher, and share their options")

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
        self.mixin_options.take(
            **check_positive(kd_temperature=kd_temperature),
            **check_not_negative(kd_weight=kd_weight),
            **check_fractions(kd_smoothing=kd_smoothing),
        )
        self._mixin.kd_correction = None
        if kd_correction_alpha is not None or kd_transition is not None:
            self._mixin.kd_correction = _student_correction(kd_smoothing, kd_correction_alpha, kd_transition)
            self.declare_correction(_students_in(type(self))[0])

    def begin_fit(self, trainer: pl.Trainer) -> None:
        """Read the transition's file."""
        super().begin_fit(trainer)
        if self._mixin.kd_correction is not None:
            self._mixin.kd_correction.begin(trainer)

    def _treatment(self, step: SampleStep) -> Treatment:
        correction = self._mixin.kd_correction
        transition = None if correction is None else correction.prepared(step.logits)
        return {"smoothing": self.mixin_options.kd_smoothing, "transition": transition}

    def _taught_loss(
        self,
        step: SampleStep,
        teacher: Tensor,
        treatment: Treatment,
        reduction: Reduced,
        teacher_is: Literal["logits", "probs"] = "logits",
    ) -> Tensor:
        """The loss with a teacher's logits or probabilities ``[B, K]``."""
        options = self.mixin_options
        return distillation_loss(
            step.logits,
            teacher,
            step.target,
            temperature=options.kd_temperature,
            weight=options.kd_weight,
            teacher_is=teacher_is,
            **treatment,
            reduction=reduction,
        )

    def _untaught_loss(self, step: SampleStep, treatment: Treatment, reduction: Reduced) -> Tensor | None:
        """The loss without a teacher; None for a plain student, whose loss is the module's own."""
        if not treatment["smoothing"] and treatment["transition"] is None:
            return None
        loss = student_cross_entropy(step.logits, step.target, **treatment, reduction="none")
        return reduce_method_loss(loss, step.logits, step.target, reduction)


def _students_in(cls: type) -> list[type]:
    """The methods in a class that are students."""
    return owners_of(cls, "method_loss", StudentLoss)


def _student_correction(smoothing: float, alpha: float | None, transition: Transition | None) -> TransitionSource:
    if smoothing:
        raise ValueError(
            f"a student is smoothed or corrected, not both; got kd_smoothing={smoothing} and "
            f"{'kd_transition' if alpha is None else 'kd_correction_alpha'}. Leave one out."
        )
    if isinstance(transition, str) and transition == ESTIMATE:
        raise ValueError(
            f'kd_transition="{ESTIMATE}" is not for students: the noise is estimated while their teacher trains. Pass '
            "the file that TransitionEstimator wrote then."
        )
    return TransitionSource(transition, alpha, _for_distributions, prefix="kd_")


def _for_distributions(transition: Tensor) -> Tensor:
    """T ``[K, K]`` for targets with mass on every class."""
    never = (transition == 0).all(dim=0).nonzero().flatten().tolist()
    if never:
        raise ValueError(
            f"kd_transition labels no class {never[0]}: its column is 0, so any probability that the teacher gives "
            "that class would cost infinitely much. Make every column positive somewhere."
        )
    # A step checks the rows again in float32, whose rounding must not exceed the tolerance.
    return transition / transition.sum(dim=1, keepdim=True)
