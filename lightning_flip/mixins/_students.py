"""What the mixins of distillation share: their options' ranges, and how a student deals with label noise."""

from __future__ import annotations

import math
from typing import TypedDict

from torch import Tensor

from lightning_flip.functional.distillation import student_cross_entropy
from lightning_flip.functional.losses import reduce_method_loss
from lightning_flip.functional.smearing import check_share
from lightning_flip.mixins._transition_source import ESTIMATE, Transition, TransitionSource
from lightning_flip.mixins.base import Reduced
from lightning_flip.steps import SampleStep
from lightning_flip.steps.options import check_numbers

__all__ = ["Treatment", "check_distillation", "labels_alone", "student_correction", "treatment"]


class Treatment(TypedDict):
    """What a student's loss takes beside its targets."""

    smoothing: float
    transition: Tensor | None


def check_distillation(temperature: float, weight: float) -> None:
    """Refuse options that distillation does not have.

    Example:
        >>> check_distillation(2.0, 0.5)
    """
    if not 0 < temperature < math.inf:
        raise ValueError(f"kd_temperature must be greater than 0 and finite; got {temperature}.")
    if not 0 <= weight < math.inf:
        raise ValueError(f"kd_weight must be at least 0 and finite; got {weight}.")


def student_correction(
    smoothing: float, correction_alpha: float | None, transition: Transition | None
) -> TransitionSource | None:
    """Check how a student is to deal with label noise.

    Returns where the correction takes its transition from; None for a student that is not corrected.

    Example:
        >>> student_correction(0.1, None, None) is None, student_correction(0.0, 0.2, None).alpha
        (True, 0.2)
    """
    check_numbers(kd_smoothing=smoothing)
    check_share(smoothing, "kd_smoothing")
    if correction_alpha is not None:
        check_numbers(kd_correction_alpha=correction_alpha)
    if correction_alpha is None and transition is None:
        return None
    if smoothing:
        raise ValueError(
            f"a student is smoothed or corrected, not both; got kd_smoothing={smoothing} and "
            f"{'kd_transition' if correction_alpha is None else 'kd_correction_alpha'}. Leave one out."
        )
    if isinstance(transition, str) and transition == ESTIMATE:
        raise ValueError(
            f'kd_transition="{ESTIMATE}" is not for students: the noise is estimated while their teacher trains. Pass '
            "the file that TransitionEstimator wrote then."
        )
    return TransitionSource(transition, correction_alpha, _for_distributions, prefix="kd_")


def treatment(logits: Tensor, smoothing: float, correction: TransitionSource | None) -> Treatment:
    """How the student of a step deals with label noise, as its loss takes it.

    Args:
        logits: ``[B, K]`` of the step.
        smoothing: ``kd_smoothing``.
        correction: what :func:`student_correction` returned.
    """
    return {"smoothing": smoothing, "transition": None if correction is None else correction.prepared(logits)}


def labels_alone(step: SampleStep, treated: Treatment, reduction: Reduced = "none") -> Tensor | None:
    """The loss of a student without a teacher.

    Returns ``[B]``, or the mean of what is added to cross entropy; None for a plain student, whose loss is the module's
    own.
    """
    if not treated["smoothing"] and treated["transition"] is None:
        return None
    loss = student_cross_entropy(step.logits, step.target, **treated, reduction="none")
    return reduce_method_loss(loss, step.logits, step.target, reduction)


def _for_distributions(transition: Tensor) -> Tensor:
    never = (transition == 0).all(dim=0).nonzero().flatten().tolist()
    if never:
        raise ValueError(
            f"kd_transition labels no class {never[0]}: its column is 0, and whatever share a teacher gives that class "
            "would cost infinitely much. Leave a little of each class in every column."
        )
    # A step checks the rows again in float32, whose rounding may not be what tips one over the tolerance.
    return transition / transition.sum(dim=1, keepdim=True)
