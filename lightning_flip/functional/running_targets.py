"""Targets that follow the network's own predictions, visit by visit: early-learning regularization, SAT."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lightning_flip.functional._closed_form import closed_form, fuses, soft_excess
from lightning_flip.functional.losses import (
    MethodReduction,
    cross_entropy,
    reduce_loss,
    reduce_method_loss,
    soft_cross_entropy,
    widen,
)

__all__ = [
    "early_learning_loss",
    "early_learning_target",
    "self_adaptive_loss",
    "self_adaptive_target",
]

_SMALLEST = 1e-4
_softmax_backward = torch.ops.aten._softmax_backward_data.default


def early_learning_target(
    running: Float[Tensor, "B K"],
    logits: Float[Tensor, "B K"],
    *,
    momentum: float = 0.7,
    probs: Float[Tensor, "B K"] | None = None,
) -> Float[Tensor, "B K"]:
    """One more visit in ELR's target: r <- beta r + (1 - beta) p~ (Liu et al. 2020).

    p~ is p clamped to [1e-4, 1 - 1e-4] and divided by its sum. Starting at zeros, r has the mass 1 - beta^n after n
    visits.

    Args:
        running: r so far.
        logits: of this visit; no gradient flows into them.
        momentum: beta in [0, 1).
        probs: softmax of the logits in at least float32, if it is known already.

    Example:
        >>> early_learning_target(torch.zeros(1, 2), torch.zeros(1, 2))
        tensor([[0.1500, 0.1500]])
    """
    clamped = _clamped(logits.detach()) if probs is None else probs.clamp(_SMALLEST, 1 - _SMALLEST)
    return torch.add(momentum * running, clamped / clamped.sum(dim=1, keepdim=True), alpha=1 - momentum)


def early_learning_loss(
    logits: Float[Tensor, "B K"],
    target: Int[Tensor, " B"],
    running: Float[Tensor, "B K"],
    *,
    weight: float = 3.0,
    probs: Float[Tensor, "B K"] | None = None,
    reduction: MethodReduction = "mean",
) -> Float[Tensor, ...]:
    """CE + lambda log(1 - <r, p>), p clamped to [1e-4, 1 - 1e-4], with gradient through p (Liu et al. 2020; ELR).

    Args:
        logits: ``[B, K]``.
        target: labels ``[B]``.
        running: r with this visit in it, ``[B, K]``; no gradient flows into it.
        weight: lambda.
        probs: softmax of the logits in at least float32, if it is known already; for "excess" alone, without gradient.
        reduction: "mean", "none", "sum", or "excess": the mean of the loss minus CE, which a mixin adds.

    Returns:
        The loss in nats; it may be negative, not under -9.2 lambda.

    Example:
        >>> r = torch.tensor([[0.5, 0.5]])
        >>> early_learning_loss(torch.zeros(1, 2), torch.tensor([0]), r, weight=1.0)  # log 2 + log 1/2
        tensor(0.)
    """
    if reduction == "excess" and weight and fuses(logits, target):
        z = widen(logits)
        return closed_form(_agreement_rule, z, running.to(z.dtype), probs, weight=weight)
    agreement = (running.detach() * _clamped(logits)).sum(dim=1)
    plain = cross_entropy(logits, target, reduction="none")
    return reduce_method_loss(plain + weight * torch.log1p(-agreement), logits, target, reduction)


def self_adaptive_target(
    running: Float[Tensor, "B K"], logits: Float[Tensor, "B K"], *, momentum: float = 0.9
) -> Float[Tensor, "B K"]:
    """One more visit in SAT's target: r <- m r + (1 - m) p (Huang et al. 2020).

    Args:
        running: r so far; one-hot at the start.
        logits: of this visit; no gradient flows into them.
        momentum: m in [0, 1).

    Example:
        >>> self_adaptive_target(torch.tensor([[1.0, 0.0]]), torch.zeros(1, 2))
        tensor([[0.9500, 0.0500]])
    """
    z = widen(logits.detach() if logits.requires_grad else logits)
    return torch.add(momentum * running, z.softmax(dim=1), alpha=1 - momentum)


def self_adaptive_loss(
    logits: Float[Tensor, "B K"],
    running: Float[Tensor, "B K"],
    *,
    valid: Bool[Tensor, " B"] | None = None,
    target: Int[Tensor, " B"] | None = None,
    reduction: MethodReduction = "mean",
) -> Float[Tensor, ...]:
    """W H(r, p) with the weights w = max r scaled to the batch's mean 1 (Huang et al. 2020; SAT).

    Args:
        logits: ``[B, K]``.
        running: r with this visit in it, of mass above 0; no gradient flows into it.
        valid: rows whose weights the mean is over, ``[B]``; None: all.
        target: labels ``[B]``, for "excess" alone.
        reduction: "mean", "none", "sum", or "excess": the mean of the loss minus CE, which a mixin adds.

    Returns:
        The loss in nats.

    Raises:
        ValueError: if "excess" has no target.

    Example:
        >>> r = torch.tensor([[1.0, 0.0], [0.5, 0.5]])  # weights 4/3 and 2/3
        >>> self_adaptive_loss(torch.tensor([[0.0, 0.0], [1.0, 1.0]]), r, reduction="none")
        tensor([0.9242, 0.4621])
    """
    running = running.detach() if running.requires_grad else running
    sure = running.amax(dim=1, keepdim=True)
    mean = sure.mean()
    if valid is not None:
        count = valid.sum()
        mean = torch.where(count > 0, sure[:, 0].where(valid, 0).sum() / count, 1.0)
    weights = sure / mean
    if reduction == "excess":
        if target is None:
            raise ValueError('reduction="excess" is the mean of the loss minus cross entropy, which needs target.')
        if fuses(logits, target):
            return soft_excess(widen(logits), target, running * weights, labels=-1.0, soft=1.0)
    loss = weights[:, 0] * soft_cross_entropy(running, logits, reduction="none")
    if reduction == "excess":
        assert target is not None
        return reduce_method_loss(loss, logits, target, reduction)
    return reduce_loss(loss, reduction)


def _clamped(logits: Float[Tensor, "B K"]) -> Float[Tensor, "B K"]:
    return widen(logits).softmax(dim=1).clamp(_SMALLEST, 1 - _SMALLEST)


def _agreement_rule(z: Tensor, running: Tensor, probs: Tensor | None, *, weight: float) -> tuple[Tensor, Tensor]:
    """The mean over the batch of lambda log(1 - <r, p>), and its gradient, which is 0 through a clamped entry."""
    p = z.softmax(dim=1) if probs is None or torch.is_grad_enabled() else probs
    clamped = p.clamp(_SMALLEST, 1 - _SMALLEST)
    agreement = (running * clamped).sum(dim=1, keepdim=True)
    scale = z.shape[0] / weight
    by_p = running / torch.sub(scale * agreement, scale) * (clamped == p)
    return torch.log1p(-agreement).sum() / scale, _softmax_backward(by_p, p, 1, z.dtype)
