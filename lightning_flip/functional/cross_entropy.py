"""Cross entropy against labels and distributions, per sample and in at least float32."""

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

    Args:
        tensor: any floating point tensor.

    Returns:
        The tensor in at least float32.

    Example:
        >>> widen(torch.zeros(1, dtype=torch.bfloat16)).dtype
        torch.float32
    """
    if tensor.dtype in (torch.float32, torch.float64):
        return tensor
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def weighted_sum(weights: Float[Tensor, "B K"], values: Float[Tensor, "B K"]) -> Float[Tensor, " B"]:
    """sum_j w_j v_j, where a class of weight 0 adds nothing, whatever its value is.

    The log-probability of a class that is masked (a logit of minus infinity) is minus infinity, and 0 * inf is NaN.

    Args:
        weights: ``[B, K]``.
        values: ``[B, K]``; infinities count where the weight is not 0.

    Returns:
        ``[B]``.

    Example:
        >>> weighted_sum(torch.tensor([[0.5, 0.0]]), torch.tensor([[2.0, -torch.inf]]))
        tensor([1.])
    """
    return (weights * values.masked_fill(weights == 0, 0.0)).sum(dim=1)


def reduce_loss(loss: Float[Tensor, ...], reduction: Reduction) -> Float[Tensor, ...]:
    """Average, add up, or leave alone.

    Args:
        loss: per-sample losses ``[B]``.
        reduction: "mean", "sum" or "none".

    Returns:
        A scalar, or ``[B]`` for "none".

    Raises:
        ValueError: for another name.

    Example:
        >>> reduce_loss(torch.tensor([1.0, 3.0]), "mean")
        tensor(2.)
    """
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
    """CE = -log p_y, or H(q, p) where the target is a distribution q.

    Args:
        logits: ``[B, K]``; minus infinity masks a class, which adds nothing where the target has no mass on it.
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

    Args:
        loss: per-sample losses ``[B]`` of a method.
        logits: ``[B, K]``.
        target: labels ``[B]``, or distributions ``[B, K]``.
        reduction: "mean", "sum", "none" or "excess".

    Returns:
        A scalar, or ``[B]`` for "none".

    Raises:
        ValueError: for another name.

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
    of minus infinity) adds nothing where q is 0, and makes the loss infinite where it is not.

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
