"""Regularizers of the label: confidence penalty, teacher-free regularization, snapshot distillation."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lightning_flip.functional._closed_form import closed_form, fuses, soft_excess
from lightning_flip.functional.losses import (
    MethodReduction,
    cross_entropy,
    reduce_method_loss,
    soft_cross_entropy,
    widen,
)

__all__ = [
    "confidence_penalty_loss",
    "snapshot_distillation_loss",
    "teacher_free_loss",
    "teacher_free_target",
]


def confidence_penalty_loss(
    logits: Float[Tensor, "B K"],
    target: Int[Tensor, " B"] | Float[Tensor, "B K"],
    *,
    weight: float = 0.1,
    reduction: MethodReduction = "mean",
) -> Float[Tensor, ...]:
    """CE - w H(p, p), which rewards the entropy of the prediction (Pereyra et al. 2017; "Max-Entropy").

    Args:
        logits: ``[B, K]``.
        target: labels ``[B]``, or distributions ``[B, K]``.
        weight: w.
        reduction: "mean", "none", "sum", or "excess": the mean of the loss minus CE, which a mixin adds.

    Returns:
        The loss in nats; it may be negative, not under -w log K.

    Example:
        >>> confidence_penalty_loss(torch.zeros(1, 2), torch.tensor([0]))  # 0.9 log 2
        tensor(0.6238)
    """
    if reduction == "excess" and fuses(logits, target):
        return closed_form(_entropy_rule, widen(logits), weight=weight)
    log_p = widen(logits).log_softmax(dim=1)
    entropy = -(log_p.exp() * _finite(log_p)).sum(dim=1)
    loss = cross_entropy(logits, target, reduction="none") - weight * entropy
    return reduce_method_loss(loss, logits, target, reduction)


def teacher_free_target(
    target: Int[Tensor, " B"],
    num_classes: int,
    *,
    confidence: float = 0.99,
    temperature: float = 20.0,
    dtype: torch.dtype = torch.float32,
) -> Float[Tensor, "B K"]:
    """Q = softmax(v / t), v = c on the label and (1 - c) / (K - 1) elsewhere: the probabilities are divided by t.

    Args:
        target: labels ``[B]``; those outside ``[0, K)`` count as the nearest class.
        num_classes: K >= 2.
        confidence: c in [0, 1].
        temperature: t > 0.
        dtype: of the result.

    Returns:
        Distributions ``[B, K]``: nearly uniform for the temperatures of the paper.

    Raises:
        ValueError: if an option is out of range.

    Example:
        >>> teacher_free_target(torch.tensor([0]), 3, temperature=1.0)
        tensor([[0.5724, 0.2138, 0.2138]])
    """
    if num_classes < 2:
        raise ValueError(f"num_classes must be at least 2; got {num_classes}.")
    check_teacher_free(confidence=confidence, temperature=temperature)
    v = torch.full((len(target), num_classes), (1 - confidence) / (num_classes - 1), dtype=dtype, device=target.device)
    v = v.scatter(1, target.clamp(0, num_classes - 1)[:, None].to(torch.int64), confidence)
    return (v / temperature).softmax(dim=1)


def teacher_free_loss(
    logits: Float[Tensor, "B K"],
    target: Int[Tensor, " B"],
    *,
    weight: float = 0.1,
    temperature: float = 20.0,
    multiplier: float = 100.0,
    confidence: float = 0.99,
    reduction: MethodReduction = "mean",
) -> Float[Tensor, ...]:
    """(1 - a) CE + a m mean_K[q (log q - log p)] with the q of :func:`teacher_free_target` (Yuan et al. 2020; TF-Reg).

    The divergence is averaged over the K classes, not summed, which is why m is near K; p has no temperature, and there
    is no t^2. It is infinite if a class is masked (a logit of minus infinity), for q has mass on it.

    Args:
        logits: ``[B, K]``.
        target: labels ``[B]``.
        weight: a in [0, 1].
        temperature: t > 0, which divides the teacher's probabilities.
        multiplier: m >= 0.
        confidence: the teacher's probability of the label.
        reduction: "mean", "none", "sum", or "excess": the mean of the loss minus CE, which a mixin adds.

    Returns:
        The loss in nats.

    Raises:
        ValueError: if an option is out of range.

    Example:
        >>> teacher_free_loss(torch.zeros(1, 2), torch.tensor([1]), weight=0.5, temperature=1.0, multiplier=2.0)
        tensor(0.4001)
    """
    check_teacher_free(weight=weight, temperature=temperature, multiplier=multiplier, confidence=confidence)
    if reduction == "excess" and fuses(logits, target):
        return _teacher_free_excess(widen(logits), target, weight, temperature, multiplier, confidence)
    log_p = widen(logits).log_softmax(dim=1)
    q = teacher_free_target(target, logits.shape[1], confidence=confidence, temperature=temperature, dtype=log_p.dtype)
    divergence = (q * (q.log() - log_p)).mean(dim=1)
    loss = (1 - weight) * cross_entropy(logits, target, reduction="none")
    if weight * multiplier:  # the divergence is infinite if a class is masked
        loss = loss + weight * multiplier * divergence
    return reduce_method_loss(loss, logits, target, reduction)


def snapshot_distillation_loss(
    logits: Float[Tensor, "B K"],
    target: Int[Tensor, " B"] | Float[Tensor, "B K"],
    teacher_logits: Float[Tensor, "B K"],
    *,
    temperature: float = 3.0,
    reduction: MethodReduction = "mean",
) -> Float[Tensor, ...]:
    """(1 + 1/t) CE + H(softmax(z_teacher / t), p): the student has no temperature (Yang et al. 2019; SD).

    Args:
        logits: ``[B, K]``.
        target: labels ``[B]``, or distributions ``[B, K]``.
        teacher_logits: z_teacher ``[B, K]``; no gradient flows into them.
        temperature: t > 0, of the teacher.
        reduction: "mean", "none", "sum", or "excess": the mean of the loss minus CE, which a mixin adds.

    Returns:
        The loss in nats.

    Raises:
        ValueError: if ``temperature`` is not positive.

    Example:
        >>> z = torch.zeros(1, 2)
        >>> snapshot_distillation_loss(z, torch.tensor([0]), z, temperature=1.0)  # 3 log 2
        tensor(2.0794)
    """
    if not temperature > 0:
        raise ValueError(f"temperature must be greater than 0; got {temperature}.")
    soft = (widen(teacher_logits.detach()) / temperature).softmax(dim=1)
    if reduction == "excess" and fuses(logits, target):
        return soft_excess(widen(logits), target, soft, labels=1 / temperature, soft=1.0)
    plain = cross_entropy(logits, target, reduction="none")
    loss = (1 + 1 / temperature) * plain + soft_cross_entropy(soft, logits, reduction="none")
    return reduce_method_loss(loss, logits, target, reduction)


def check_teacher_free(
    *, weight: float = 0.0, temperature: float = 1.0, multiplier: float = 0.0, confidence: float = 0.0
) -> None:
    """Refuse options out of their range."""
    for name, value in (("weight", weight), ("confidence", confidence)):
        if not 0 <= value <= 1:
            raise ValueError(f"{name} must be in [0, 1]; got {value}.")
    if not 0 < temperature < float("inf"):
        raise ValueError(f"temperature must be greater than 0 and finite; got {temperature}.")
    if not 0 <= multiplier < float("inf"):
        raise ValueError(f"multiplier must be at least 0 and finite; got {multiplier}.")


def _finite(log_p: Tensor) -> Tensor:
    """Log-probabilities without minus infinity, which times a probability of 0 is NaN; e^-10000 is 0 in any type."""
    return log_p.clamp(min=-1e4)


def _entropy_rule(z: Tensor, *, weight: float) -> tuple[Tensor, Tensor]:
    """-w H(p, p), the mean over the batch, and its gradient w p (log p + H)."""
    log_p = z.log_softmax(dim=1)
    p = log_p.exp()
    if torch.is_grad_enabled():  # entr has no second derivative at 0
        parts = p * (weight / z.shape[0]) * _finite(log_p)
    else:
        parts = torch.special.entr(p) * (-weight / z.shape[0])
    return parts.sum(), torch.addcmul(parts, p, parts.sum(dim=1, keepdim=True), value=-1)


def _teacher_free_excess(
    z: Tensor, target: Tensor, weight: float, temperature: float, multiplier: float, confidence: float
) -> Tensor:
    """The teacher's q has two values: H(q, p) is a sum of CE and of the cross entropy against the uniform one."""
    classes = z.shape[1]
    if classes < 2:
        raise ValueError(f"num_classes must be at least 2; got {classes}.")
    apart = math.exp(((1 - confidence) / (classes - 1) - confidence) / temperature)  # another class over the label
    label, other = 1 / (1 + (classes - 1) * apart), apart / (1 + (classes - 1) * apart)
    entropy = -sum(count * q * math.log(q) for count, q in ((1, label), (classes - 1, other)) if q > 0)
    factor = weight * multiplier / classes
    labels = factor * (label - other) - weight
    return soft_excess(z, target, None, labels=labels, soft=factor * other * classes) - factor * entropy
