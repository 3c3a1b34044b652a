"""Targets that follow the network's own predictions, visit by visit: early-learning regularization, SAT."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lightning_flip.functional.cross_entropy import Reduction, cross_entropy, reduce_loss, soft_cross_entropy, widen

__all__ = [
    "early_learning_loss",
    "early_learning_target",
    "self_adaptive_loss",
    "self_adaptive_target",
]

_SMALLEST = 1e-4


def early_learning_target(
    running: Float[Tensor, "B K"], logits: Float[Tensor, "B K"], *, momentum: float = 0.7
) -> Float[Tensor, "B K"]:
    """One more visit in ELR's target: r <- beta r + (1 - beta) p~ (Liu et al. 2020).

    p~ is p clamped to [1e-4, 1 - 1e-4] and divided by its sum. Starting at zeros, r has the mass 1 - beta^n after n
    visits.

    Args:
        running: r so far, ``[B, K]``.
        logits: of this visit, ``[B, K]``; no gradient flows into them.
        momentum: beta in [0, 1).

    Returns:
        The new r, ``[B, K]``.

    Example:
        >>> early_learning_target(torch.zeros(1, 2), torch.zeros(1, 2))
        tensor([[0.1500, 0.1500]])
    """
    clamped = _clamped(logits.detach())
    return momentum * running + (1 - momentum) * clamped / clamped.sum(dim=1, keepdim=True)


def early_learning_loss(
    logits: Float[Tensor, "B K"],
    target: Int[Tensor, " B"],
    running: Float[Tensor, "B K"],
    *,
    weight: float = 3.0,
    reduction: Reduction = "mean",
) -> Float[Tensor, ...]:
    """CE + lambda log(1 - <r, p>), p clamped to [1e-4, 1 - 1e-4], with gradient through p (Liu et al. 2020; ELR).

    Args:
        logits: ``[B, K]``.
        target: labels ``[B]``.
        running: r with this visit in it, ``[B, K]``; no gradient flows into it.
        weight: lambda.
        reduction: "mean", "none" or "sum".

    Returns:
        The loss in nats; it may be negative, not under -9.2 lambda.

    Example:
        >>> r = torch.tensor([[0.5, 0.5]])
        >>> early_learning_loss(torch.zeros(1, 2), torch.tensor([0]), r, weight=1.0)  # log 2 + log 1/2
        tensor(0.)
    """
    agreement = (running.detach() * _clamped(logits)).sum(dim=1)
    plain = cross_entropy(logits, target, reduction="none")
    return reduce_loss(plain + weight * torch.log1p(-agreement), reduction)


def self_adaptive_target(
    running: Float[Tensor, "B K"], logits: Float[Tensor, "B K"], *, momentum: float = 0.9
) -> Float[Tensor, "B K"]:
    """One more visit in SAT's target: r <- m r + (1 - m) p (Huang et al. 2020).

    Args:
        running: r so far, ``[B, K]``; one-hot at the start.
        logits: of this visit, ``[B, K]``; no gradient flows into them.
        momentum: m in [0, 1).

    Returns:
        The new r, ``[B, K]``.

    Example:
        >>> self_adaptive_target(torch.tensor([[1.0, 0.0]]), torch.zeros(1, 2))
        tensor([[0.9500, 0.0500]])
    """
    return momentum * running + (1 - momentum) * widen(logits.detach()).softmax(dim=1)


def self_adaptive_loss(
    logits: Float[Tensor, "B K"],
    running: Float[Tensor, "B K"],
    *,
    valid: Bool[Tensor, " B"] | None = None,
    reduction: Reduction = "mean",
) -> Float[Tensor, ...]:
    """W H(r, p) with the weights w = max r scaled to the batch's mean 1 (Huang et al. 2020; SAT).

    Args:
        logits: ``[B, K]``.
        running: r with this visit in it, ``[B, K]``, of mass above 0; no gradient flows into it.
        valid: rows whose weights the mean is over, ``[B]``; None: all.
        reduction: "mean", "none" or "sum".

    Returns:
        The loss in nats.

    Example:
        >>> r = torch.tensor([[1.0, 0.0], [0.5, 0.5]])  # weights 4/3 and 2/3
        >>> self_adaptive_loss(torch.tensor([[0.0, 0.0], [1.0, 1.0]]), r, reduction="none")
        tensor([0.9242, 0.4621])
        >>> self_adaptive_loss(torch.zeros(2, 2), r, valid=torch.tensor([False, True]), reduction="none")
        tensor([1.3863, 0.6931])
    """
    sure = running.detach().amax(dim=1)
    mean = sure.mean() if valid is None else sure.where(valid, 0).sum() / valid.sum().clamp(min=1)
    return reduce_loss(sure / mean * soft_cross_entropy(running, logits, reduction="none"), reduction)


def _clamped(logits: Float[Tensor, "B K"]) -> Float[Tensor, "B K"]:
    return widen(logits).softmax(dim=1).clamp(_SMALLEST, 1 - _SMALLEST)
