"""What losses are made of: cross entropy against labels and distributions, reductions, at least float32."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention
from jaxtyping import Float, Int
from torch import Tensor

__all__ = [
    "MethodReduction",
    "Reduction",
    "cross_entropy",
    "one_hot_targets",
    "reduce_loss",
    "reduce_method_loss",
    "soft_cross_entropy",
    "weighted_sum",
    "widen",
]

Reduction = Literal["mean", "none", "sum"]
#: "excess" is the mean over the batch of a method's loss minus cross entropy: what a mixin adds to a module's loss.
MethodReduction = Literal["mean", "none", "sum", "excess"]


def widen(tensor: Float[Tensor, ...]) -> Float[Tensor, ...]:
    """Raise half precision to float32; float32 and float64 stay.

    At a temperature of 100, bfloat16 logits give a divergence that is wrong by a factor of 2.5.

    Example:
        >>> widen(torch.zeros(1, dtype=torch.bfloat16)).dtype
        torch.float32
    """
    if tensor.dtype in (torch.float32, torch.float64):
        return tensor
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def weighted_sum(weights: Float[Tensor, "B K"], values: Float[Tensor, "B K"]) -> Float[Tensor, " B"]:
    """sum_j w_j v_j, without classes of weight 0, whose value may be infinite (the log-probability of a masked class).

    Example:
        >>> weighted_sum(torch.tensor([[0.5, 0.0]]), torch.tensor([[2.0, -torch.inf]]))
        tensor([1.])
    """
    return (weights * values.masked_fill(weights == 0, 0.0)).sum(dim=1)


def reduce_loss(loss: Float[Tensor, ...], reduction: Reduction) -> Float[Tensor, ...]:
    """Reduce per-sample losses to a scalar ("mean" or "sum"), or leave them alone ("none")."""
    if reduction == "mean":
        return loss.mean()
    if reduction == "sum":
        return loss.sum()
    if reduction == "none":
        return loss
    raise ValueError(f'reduction must be "mean", "none" or "sum"; got {reduction!r}.')


def cross_entropy(
    logits: Float[Tensor, "B K"], target: Int[Tensor, " B"] | Float[Tensor, "B K"], *, reduction: Reduction = "mean"
) -> Float[Tensor, ...]:
    """CE = -log p_y, or H(q, p) if the target is a distribution q.

    Args:
        logits: ``[B, K]``; minus infinity masks a class, which adds nothing if the target has no mass on it.
        target: labels ``[B]``, or distributions ``[B, K]``.
        reduction: "mean", "none" or "sum".

    Returns:
        The loss in nats.

    Example:
        >>> cross_entropy(torch.zeros(2, 4), torch.tensor([0, 3]))
        tensor(1.3863)
    """
    if target.is_floating_point():
        log_p = widen(logits).log_softmax(dim=1)
        q = target.to(log_p.dtype)
        log_p = log_p.masked_fill((q == 0) & (log_p == -torch.inf), 0.0)  # not all of q == 0: q may have a gradient
        return reduce_loss(-(q * log_p).sum(dim=1), reduction)
    return F.cross_entropy(widen(logits), target, reduction=reduction)


def reduce_method_loss(
    loss: Float[Tensor, " B"],
    logits: Float[Tensor, "B K"],
    target: Int[Tensor, " B"] | Float[Tensor, "B K"],
    reduction: MethodReduction,
) -> Float[Tensor, ...]:
    """As :func:`reduce_loss`, and "excess": the mean of a method's loss minus cross entropy.

    Example:
        >>> z, y = torch.zeros(2, 4), torch.tensor([0, 3])
        >>> reduce_method_loss(cross_entropy(z, y, reduction="none") + 0.5, z, y, "excess")
        tensor(0.5000)
    """
    if reduction == "excess":
        return (loss - cross_entropy(logits, target, reduction="none")).mean()
    return reduce_loss(loss, reduction)


def soft_cross_entropy(
    q: Float[Tensor, "B K"], logits: Float[Tensor, "B K"], *, temperature: float = 1.0, reduction: Reduction = "mean"
) -> Float[Tensor, ...]:
    """H(q, softmax(z / t)) = -sum_j q_j log softmax(z / t)_j.

    It has the gradient of KL(q || softmax(z / t)) and also serves a q whose mass is under one. A masked class (a logit
    of minus infinity) adds nothing if q is 0, and otherwise makes the loss infinite.

    Args:
        q: non-negative weights ``[B, K]``; no gradient flows into them.
        logits: ``[B, K]``.
        temperature: t > 0.
        reduction: "mean", "none" or "sum".

    Returns:
        The loss in nats.

    Example:
        >>> soft_cross_entropy(torch.tensor([[0.5, 0.5]]), torch.zeros(1, 2))
        tensor(0.6931)
    """
    log_p = F.log_softmax(widen(logits) / temperature, dim=1)
    return reduce_loss(-weighted_sum(q.detach().to(log_p.dtype), log_p), reduction)


def one_hot_targets(
    target: Int[Tensor, " B"] | Float[Tensor, "B K"], num_classes: int, like: Float[Tensor, ...]
) -> Float[Tensor, "B K"]:
    """Labels as distributions e_y ``[B, K]`` in the type of ``like``, and at least float32; distributions stay.

    A label outside ``[0, K)`` gives a row of NaN: to refuse it would wait for the device.

    Example:
        >>> one_hot_targets(torch.tensor([1]), 3, torch.zeros(1, dtype=torch.bfloat16))
        tensor([[0., 1., 0.]])
    """
    if target.is_floating_point() and target.shape[1] != num_classes:
        raise ValueError(f"targets have {target.shape[1]} classes, expected {num_classes}.")
    dtype = widen(like).dtype
    if target.is_floating_point():
        return target.to(dtype)
    rows = (target[:, None] == torch.arange(num_classes, device=target.device)).to(dtype)
    return rows.masked_fill(((target < 0) | (target >= num_classes))[:, None], torch.nan)
