"""Distillation: the cross entropy against what a teacher says, by a student that knows of label noise or does not."""

from __future__ import annotations

import math
from typing import Literal

from jaxtyping import Float, Int
from torch import Tensor

from lightning_flip.functional._closed_form import fuses, soft_excess
from lightning_flip.functional.loss_correction import forward_correction_loss
from lightning_flip.functional.losses import (
    MethodReduction,
    Reduction,
    cross_entropy,
    reduce_loss,
    reduce_method_loss,
    soft_cross_entropy,
    widen,
)
from lightning_flip.functional.smearing import label_smoothing_loss

__all__ = ["distillation_loss", "soften", "student_cross_entropy"]


def soften(
    teacher: Float[Tensor, "B K"], *, temperature: float = 1.0, teacher_is: Literal["logits", "probs"] = "logits"
) -> Float[Tensor, "B K"]:
    """A teacher's distributions at a temperature: softmax(z / t), or softmax(log q / t) of stored probabilities.

    Args:
        teacher: ``[B, K]`` logits, or probabilities (not negative; 0 stays 0).
        temperature: t > 0.
        teacher_is: which of the two.

    Returns:
        Distributions ``[B, K]`` in at least float32.

    Raises:
        ValueError: for a temperature that is not positive, or another word.

    Example:
        >>> import torch
        >>> soften(torch.tensor([[0.8, 0.2]]), temperature=2.0, teacher_is="probs")
        tensor([[0.6667, 0.3333]])
    """
    if not temperature > 0:
        raise ValueError(f"temperature must be greater than 0; got {temperature}.")
    if teacher_is not in ("logits", "probs"):
        raise ValueError(f'teacher_is must be "logits" or "probs"; got {teacher_is!r}.')
    teacher = widen(teacher)
    if teacher_is == "probs" and temperature == 1:
        return teacher
    return ((teacher.log() if teacher_is == "probs" else teacher) / temperature).softmax(dim=1)


def student_cross_entropy(
    student_logits: Float[Tensor, "B K"],
    target: Int[Tensor, " B"] | Float[Tensor, "B K"],
    *,
    smoothing: float = 0.0,
    transition: Float[Tensor, "R C"] | None = None,
    reduction: Reduction = "mean",
) -> Float[Tensor, ...]:
    """Cross entropy of a student that is plain, smoothed (H((1 - a) s + a u, p)) or forward-corrected (H(s, p T)).

    The transition T ``[true, noisy]`` is checked on the CPU only.

    Example:
        >>> import torch
        >>> student_cross_entropy(torch.tensor([[2.0, 0.0]]), torch.tensor([0]), smoothing=0.1)
        tensor(0.2269)
    """
    if transition is None:
        if not smoothing:
            return cross_entropy(student_logits, target, reduction=reduction)
        return label_smoothing_loss(student_logits, target, smoothing=smoothing, reduction=reduction)
    if smoothing:
        raise ValueError(
            f"a student is smoothed or corrected, not both; got smoothing={smoothing} and a transition. Leave one out."
        )
    classes = student_logits.shape[1]
    if tuple(transition.shape) != (classes, classes):
        raise ValueError(
            f"transition must be [K, K] with the logits' K = {classes}; got the shape {tuple(transition.shape)}."
        )
    return forward_correction_loss(student_logits, target, transition, reduction=reduction)


def distillation_loss(
    student_logits: Float[Tensor, "B K"],
    teacher: Float[Tensor, "B K"],
    target: Int[Tensor, " B"] | Float[Tensor, "B K"] | None = None,
    *,
    temperature: float = 1.0,
    weight: float = 1.0,
    teacher_is: Literal["logits", "probs"] = "logits",
    smoothing: float = 0.0,
    transition: Float[Tensor, "R C"] | None = None,
    reduction: MethodReduction = "mean",
) -> Float[Tensor, ...]:
    """Beta t^2 H(teacher_t, softmax(z / t)) + (1 - beta) CE, smoothed or forward-corrected if labels are noisy.

    A beta above 1 leaves no CE: beta = 2 is the loss of the Filter-KD authors' code, which multiplies by 2 t^2.

    With beta = 1 and t = 1, the default, it is H(q, softmax(z)), the loss of the Filter-KD paper's students. The cross
    entropy has the gradient of KL divergence; t^2 keeps that gradient's size when t changes (Hinton et al. 2015).

    A student under label noise (Lukasik et al. 2020, section 5) has another H in both parts, with q_t and p_t for the
    teacher's and the student's distribution at the temperature, and in the labels' part e_y and p:

    - smoothed, H((1 - a) q_t + a u, p_t), with u uniform;
    - corrected, H(q_t, p_t T) = -sum_j q_t[j] log (p_t T)_j: the teacher is compared with what noise makes of the
      student's answer.

    Our reading, as the paper does not say: the temperature comes first. What is smoothed, or changed by T, is the
    distribution at that temperature, so that a and T mean the same at every t; and the labels' part, which has no
    temperature, is treated like the teacher's. A teacher with a one-hot answer at t = 1 makes the smoothed student
    :func:`~lightning_flip.functional.label_smoothing_loss` and the corrected one
    :func:`~lightning_flip.functional.forward_correction_loss`.

    Args:
        student_logits: ``[B, K]``.
        teacher: logits or probabilities ``[B, K]``; no gradient flows into them.
        target: labels ``[B]`` or distributions ``[B, K]``; needed if ``weight`` is not 1, and for "excess".
        temperature: t > 0, of both.
        weight: beta >= 0.
        teacher_is: "logits" or "probs".
        smoothing: a in [0, 1); 0 is no smoothing.
        transition: T ``[K, K]``, row-stochastic, ``transition[true, noisy]``; no gradient flows into it, it is checked
            on the CPU only, and ``[B, K, K]`` numbers are taken on the way. Where no class becomes j, a teacher's
            probability of j makes the loss infinite.
        reduction: "mean", "none", "sum", or "excess": the mean of the loss minus CE, which a mixin adds.

    Returns:
        The loss in nats.

    Raises:
        ValueError: if ``weight`` or ``smoothing`` is out of range, there is no target for the rest of ``weight`` or for
            "excess", ``transition`` is of other classes or not row-stochastic, or the student is to be smoothed and
            corrected.

    Example:
        >>> import torch
        >>> distillation_loss(torch.zeros(1, 2), torch.tensor([[0.5, 0.5]]), teacher_is="probs")
        tensor(0.6931)
        >>> T = torch.tensor([[0.9, 0.1], [0.1, 0.9]])
        >>> distillation_loss(torch.tensor([[50.0, -50.0]]), T[:1], teacher_is="probs", transition=T)  # its entropy
        tensor(0.3251)
    """
    if not 0 <= weight < math.inf:
        raise ValueError(f"weight must be at least 0 and finite; got {weight}.")
    if weight < 1 and target is None:
        raise ValueError(f"weight={weight} leaves {1 - weight:.3g} for the cross entropy, which needs target.")
    if reduction == "excess" and target is None:
        raise ValueError('reduction="excess" is the mean of the loss minus cross entropy, which needs target.')
    teacher = teacher.detach() if teacher.requires_grad else teacher
    soft = soften(teacher, temperature=temperature, teacher_is=teacher_is)
    plain = not smoothing and transition is None
    if reduction == "excess" and plain and target is not None and fuses(student_logits, target):
        z, factor = widen(student_logits), weight * temperature**2
        return soft_excess(z, target, soft, labels=-min(weight, 1.0), soft=factor, temperature=temperature)
    if smoothing or transition is not None:
        tempered = widen(student_logits) / temperature
        loss = student_cross_entropy(tempered, soft, smoothing=smoothing, transition=transition, reduction="none")
    else:
        loss = soft_cross_entropy(soft, student_logits, temperature=temperature, reduction="none")
    loss = weight * temperature**2 * loss
    if target is not None and weight < 1:
        loss = loss + (1 - weight) * student_cross_entropy(
            student_logits, target, smoothing=smoothing, transition=transition, reduction="none"
        )
    if reduction == "excess":
        assert target is not None
        return reduce_method_loss(loss, student_logits, target, reduction)
    return reduce_loss(loss, reduction)
