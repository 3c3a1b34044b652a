"""Class-wise self-distillation as a function of tensors."""

from __future__ import annotations

import math

import torch.nn.functional as F  # noqa: N812 - torch's own convention
from jaxtyping import Float, Int
from torch import Tensor

from lightning_flip.functional._closed_form import fuses, soft_excess
from lightning_flip.functional.losses import (
    MethodReduction,
    cross_entropy,
    reduce_method_loss,
    weighted_sum,
    widen,
)

__all__ = ["class_wise_self_distillation_loss"]


def class_wise_self_distillation_loss(
    logits: Float[Tensor, "B K"],
    target: Int[Tensor, " B"],
    partner_logits: Float[Tensor, "B K"],
    *,
    temperature: float = 4.0,
    weight: float = 1.0,
    reduction: MethodReduction = "mean",
) -> Float[Tensor, ...]:
    """CE + w t^2 KL(softmax(z_partner / t) || softmax(z / t)): a sample held to another one of its class (CS-KD).

    Args:
        logits: z, ``[B, K]``.
        target: labels ``[B]``.
        partner_logits: what the same network says to each sample's partner, ``[B, K]``; no gradient flows into them.
        temperature: t > 0 and finite.
        weight: w >= 0 and finite; the paper takes 1, and 3 on CUB.
        reduction: "mean", "none", "sum", or "excess": the mean of the loss minus CE, which a mixin adds.

    Returns:
        The loss in nats; a scalar, or ``[B]`` for "none".

    Raises:
        ValueError: if ``temperature`` or ``weight`` is out of range.

    Example:
        >>> import torch
        >>> z, y = torch.tensor([[2.0, 0.0]]), torch.tensor([0])
        >>> class_wise_self_distillation_loss(z, y, z)  # its own partner: cross entropy
        tensor(0.1269)
        >>> class_wise_self_distillation_loss(z, y, torch.zeros(1, 2))
        tensor(0.6218)
    """
    check_class_wise(temperature, weight)
    z = widen(logits)
    log_q = F.log_softmax(widen(partner_logits.detach()).to(z.dtype) / temperature, dim=1)
    if reduction == "excess" and fuses(logits, target):
        factor = weight * temperature**2
        return soft_excess(z, target, log_q.exp(), labels=0.0, soft=factor, temperature=temperature, log_q=log_q)
    log_p = F.log_softmax(z / temperature, dim=1)
    divergence = weighted_sum(log_q.exp(), log_q - log_p)
    loss = cross_entropy(logits, target, reduction="none") + weight * temperature**2 * divergence
    return reduce_method_loss(loss, logits, target, reduction)


def check_class_wise(temperature: float, weight: float) -> None:
    """Refuse a temperature that is not positive, and a negative weight."""
    if not (temperature > 0 and math.isfinite(temperature)):
        raise ValueError(f"temperature must be greater than 0 and finite; got {temperature}.")
    if not (weight >= 0 and math.isfinite(weight)):
        raise ValueError(f"weight must be at least 0 and finite; got {weight}.")
