"""Smeared labels (the family of Lukasik et al. 2020): losses against them, and the matrices that smear."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lightning_flip.functional._closed_form import fuses, soft_excess
from lightning_flip.functional.losses import (
    MethodReduction,
    Reduction,
    cross_entropy,
    one_hot_targets,
    reduce_loss,
    reduce_method_loss,
    weighted_sum,
    widen,
)
from lightning_flip.functional.transitions import check_rate

__all__ = [
    "backward_matrix",
    "label_smoothing_loss",
    "smeared_loss",
    "smoothed_target",
    "smoothing_matrix",
    "symmetric_transition",
]


def smeared_loss(
    logits: Float[Tensor, "B K"],
    target: Int[Tensor, " B"] | Float[Tensor, "B K"],
    matrix: Float[Tensor, "K K"],
    *,
    eps: float = 0.0,
    reduction: Reduction = "mean",
) -> Float[Tensor, ...]:
    """sum_j M[y, j] (-log p_j): every class's loss, weighted by the label's row of a matrix.

    M = I is cross entropy, :func:`~lightning_flip.functional.smoothing_matrix` label smoothing, and the inverse of a
    transition backward correction. For a target that is a distribution s the weights are M^T s.

    Args:
        logits: ``[B, K]``.
        target: labels ``[B]``, or distributions ``[B, K]``.
        matrix: M ``[K, K]``, taken as it is; entries may be negative, no gradient flows into it.
        eps: log p is clipped at log eps, in [0, 1); negative entries make the loss unbounded below without it. No
            gradient flows where it is clipped.
        reduction: "mean", "none" or "sum".

    Returns:
        The loss in nats.

    Raises:
        ValueError: if ``eps`` is outside [0, 1).

    Example:
        >>> smeared_loss(torch.tensor([[2.0, 0.0]]), torch.tensor([0]), torch.tensor([[0.95, 0.05], [0.05, 0.95]]))
        tensor(0.2269)
    """
    check_share(eps, "eps")
    log_p = widen(logits).log_softmax(dim=1)
    if eps:
        log_p = log_p.clamp(min=math.log(eps))
    rows = matrix.detach().to(log_p.dtype).to(log_p.device)
    weights = target.to(log_p.dtype) @ rows if target.is_floating_point() else rows[target]
    return reduce_loss(-weighted_sum(weights, log_p), reduction)


def label_smoothing_loss(
    logits: Float[Tensor, "B K"],
    target: Int[Tensor, " B"] | Float[Tensor, "B K"],
    *,
    smoothing: float = 0.1,
    reduction: MethodReduction = "mean",
) -> Float[Tensor, ...]:
    """(1 - a) CE + a H(u, p): cross entropy against (1 - a) e_y + a u, with u uniform over the K classes.

    It is infinite if a class is masked (a logit of minus infinity), for u has mass on it.

    Args:
        logits: ``[B, K]``.
        target: labels ``[B]``, or distributions ``[B, K]`` that are smoothed further.
        smoothing: a in [0, 1).
        reduction: "mean", "none", "sum", or "excess": the mean of the loss minus CE, which a mixin adds.

    Returns:
        The loss in nats.

    Raises:
        ValueError: if ``smoothing`` is outside [0, 1).

    Example:
        >>> label_smoothing_loss(torch.tensor([[2.0, 0.0]]), torch.tensor([0]), smoothing=0.1)
        tensor(0.2269)
    """
    check_smoothing(smoothing)
    if reduction == "excess" and fuses(logits, target):
        return soft_excess(widen(logits), target, None, labels=-smoothing, soft=smoothing)
    loss = cross_entropy(logits, target, reduction="none")
    if smoothing:  # H(u, p) is infinite if a class is masked
        loss = (1 - smoothing) * loss - smoothing * widen(logits).log_softmax(dim=1).mean(dim=1)
    return reduce_method_loss(loss, logits, target, reduction)


def smoothed_target(
    target: Int[Tensor, " B"] | Float[Tensor, "B K"],
    num_classes: int,
    like: Float[Tensor, "B K"],
    *,
    smoothing: float = 0.1,
) -> Float[Tensor, "B K"]:
    """(1 - a) e_y + a u, what label smoothing pulls the prediction towards, in the type of ``like``.

    Args:
        target: labels ``[B]``, or distributions ``[B, K]``.
        num_classes: K.
        like: a tensor of the computation; the result has its type, and at least float32.
        smoothing: a in [0, 1).

    Raises:
        ValueError: if ``smoothing`` is outside [0, 1).

    Example:
        >>> smoothed_target(torch.tensor([1]), 2, torch.zeros(1, 2), smoothing=0.5)
        tensor([[0.2500, 0.7500]])
    """
    check_smoothing(smoothing)
    return (1 - smoothing) * one_hot_targets(target, num_classes, like) + smoothing / num_classes


def symmetric_transition(num_classes: int, rate: float) -> Float[Tensor, "K K"]:
    """T of symmetric noise: a label changes with probability r, uniformly to one of the other K - 1 classes.

    It is :func:`smoothing_matrix` with a = r K / (K - 1).

    Args:
        num_classes: K, at least 2.
        rate: r in [0, 1].

    Returns:
        Row-stochastic, float64 ``[K, K]``.

    Raises:
        ValueError: if an argument is out of range.

    Example:
        >>> symmetric_transition(3, 0.5)[0]
        tensor([0.5000, 0.2500, 0.2500], dtype=torch.float64)
    """
    _check_classes(num_classes)
    check_rate(rate)
    transition = torch.full((num_classes, num_classes), rate / (num_classes - 1), dtype=torch.float64)
    return transition.fill_diagonal_(1 - rate)


def smoothing_matrix(num_classes: int, alpha: float) -> Float[Tensor, "K K"]:
    """M = (1 - a) I + (a/K) 1 1^T: label smoothing as a smearing, and T of symmetric noise for forward correction.

    Args:
        num_classes: K, at least 2.
        alpha: a in [0, 1).

    Returns:
        Row-stochastic, float64 ``[K, K]``.

    Raises:
        ValueError: if an argument is out of range.

    Example:
        >>> smoothing_matrix(2, 0.5)
        tensor([[0.7500, 0.2500],
                [0.2500, 0.7500]], dtype=torch.float64)
    """
    _check_classes(num_classes)
    check_share(alpha, "alpha")
    identity = torch.eye(num_classes, dtype=torch.float64)
    return (1 - alpha) * identity + alpha / num_classes


def backward_matrix(num_classes: int, alpha: float) -> Float[Tensor, "K K"]:
    """M = (I - (a/K) 1 1^T) / (1 - a), the inverse of :func:`smoothing_matrix`: backward correction as a smearing.

    Arguments and errors are those of :func:`smoothing_matrix`; rows sum to 1, entries off the diagonal are negative.

    Example:
        >>> backward_matrix(2, 0.5)
        tensor([[ 1.5000, -0.5000],
                [-0.5000,  1.5000]], dtype=torch.float64)
    """
    _check_classes(num_classes)
    check_share(alpha, "alpha")
    identity = torch.eye(num_classes, dtype=torch.float64)
    return (identity - alpha / num_classes) / (1 - alpha)


def _check_classes(num_classes: int) -> None:
    if num_classes < 2:
        raise ValueError(f"num_classes must be at least 2, so that there is another class; got {num_classes}.")


def check_smoothing(smoothing: float) -> None:
    """Refuse a smoothing outside [0, 1)."""
    if not 0 <= smoothing < 1:
        raise ValueError(f"smoothing must be in [0, 1), the share of a label spread over all classes; got {smoothing}.")


def check_share(value: float, name: str) -> None:
    """Refuse a number outside [0, 1)."""
    if not 0 <= value < 1:
        raise ValueError(f"{name} must be in [0, 1); got {value}.")
