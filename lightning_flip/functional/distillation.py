"""Distillation: the cross entropy against what a teacher says."""

from __future__ import annotations

from typing import Literal

from jaxtyping import Float, Int
from torch import Tensor

from lightning_flip.functional.cross_entropy import Reduction, cross_entropy, reduce_loss, soft_cross_entropy, widen

__all__ = ["distillation_loss", "soften"]


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


def distillation_loss(
    student_logits: Float[Tensor, "B K"],
    teacher: Float[Tensor, "B K"],
    target: Int[Tensor, " B"] | Float[Tensor, "B K"] | None = None,
    *,
    temperature: float = 1.0,
    weight: float = 1.0,
    teacher_is: Literal["logits", "probs"] = "logits",
    reduction: Reduction = "mean",
) -> Float[Tensor, ...]:
    """Beta t^2 H(teacher_t, softmax(z / t)) + (1 - beta) CE.

    With beta = 1 and t = 1, the default, it is H(q, softmax(z)), the loss of the Filter-KD paper's students. The cross
    entropy has the gradient of KL divergence; t^2 keeps that gradient's size when t changes (Hinton et al. 2015).

    Args:
        student_logits: ``[B, K]``.
        teacher: logits or probabilities ``[B, K]``; no gradient flows into them.
        target: labels ``[B]`` or distributions ``[B, K]``; needed where ``weight`` is not 1.
        temperature: t > 0, of both.
        weight: beta in [0, 1].
        teacher_is: "logits" or "probs".
        reduction: "mean", "none" or "sum".

    Returns:
        The loss in nats.

    Raises:
        ValueError: if ``weight`` is outside [0, 1], or there is no target for the rest of it.

    Example:
        >>> import torch
        >>> distillation_loss(torch.zeros(1, 2), torch.tensor([[0.5, 0.5]]), teacher_is="probs")
        tensor(0.6931)
    """
    if not 0 <= weight <= 1:
        raise ValueError(f"weight must be in [0, 1]; got {weight}.")
    if weight < 1 and target is None:
        raise ValueError(f"weight={weight} leaves {1 - weight:.3g} for the cross entropy, which needs target.")
    soft = soften(teacher.detach(), temperature=temperature, teacher_is=teacher_is)
    loss = soft_cross_entropy(soft, student_logits, temperature=temperature, reduction="none")
    loss = weight * temperature**2 * loss
    if target is not None and weight < 1:
        loss = loss + (1 - weight) * cross_entropy(student_logits, target, reduction="none")
    return reduce_loss(loss, reduction)
