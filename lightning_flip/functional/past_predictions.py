"""Flipping error reduction and learning with retrospection as functions of tensors.

FER: "Flipping error reduction", Eq. 2-6 of its paper. LWR: "Learning with retrospection" (Deng and Zhang 2021).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lightning_flip.functional._closed_form import fuses, soft_excess
from lightning_flip.functional.losses import (
    MethodReduction,
    cross_entropy,
    reduce_method_loss,
    soft_cross_entropy,
    weighted_sum,
    widen,
)

__all__ = [
    "average_behavior",
    "behavior",
    "flipping_error_reduction_loss",
    "learning_with_retrospection_loss",
    "restriction_weights",
]


def behavior(logits: Float[Tensor, "B K"], *, temperature: float = 5.0) -> Float[Tensor, "B K"]:
    """b(x) = softmax(f(x) / t), Eq. 2; distributions ``[B, K]`` in at least float32. The paper has t = 5.

    Example:
        >>> behavior(torch.tensor([[5.0, 0.0]]))
        tensor([[0.7311, 0.2689]])
    """
    return (widen(logits) / temperature).softmax(dim=1)


def average_behavior(
    average: Float[Tensor, "B K"],
    new: Float[Tensor, "B K"],
    confidence: Float[Tensor, " B"],
    *,
    mu: float = 1.0,
    copy: Bool[Tensor, " B"] | None = None,
) -> Float[Tensor, "B K"]:
    """One more behavior in the weighted average: b^ <- exp(-mu c) b^ + (1 - exp(-mu c)) b, Eq. 3.

    Starting at zeros (the authors' code), b^ has the mass 1 - exp(-mu sum c), so that a sample with little
    history is pulled less.

    Args:
        average: b^ so far.
        new: b.
        confidence: c in [0, 1].
        mu: how much a confident behavior counts, > 0.
        copy: rows whose behavior is taken over as it is (``initial="copy"``, our option).

    Returns:
        The new b^, ``[B, K]``.

    Example:
        >>> average_behavior(torch.zeros(1, 2), torch.tensor([[0.5, 0.5]]), torch.tensor([1.0])).sum()
        tensor(0.6321)
    """
    keep = torch.exp(-mu * confidence)[:, None]
    blended = keep * average + (1 - keep) * new
    return blended if copy is None else torch.where(copy[:, None], new, blended)


def restriction_weights(
    epoch: int,
    total_epochs: int,
    *,
    alpha_range: tuple[float, float] = (1.0, 0.1),
    beta_range: tuple[float, float] = (0.0, 0.9),
) -> tuple[float, float]:
    """Alpha = 1 - 0.9 k / M and beta = 0.9 k / M, or two other lines.

    Args:
        epoch: k, counted from 1 as in the paper.
        total_epochs: M.
        alpha_range: alpha at k = 0 and at k = M.
        beta_range: beta at k = 0 and at k = M.

    Returns:
        Alpha and beta; beyond M those of M.

    Example:
        >>> restriction_weights(5, 10)
        (0.55, 0.45)
        >>> restriction_weights(5, 10, alpha_range=(1.0, 1.0), beta_range=(0.0, 2.0))
        (1.0, 1.0)
    """
    done = min(epoch, total_epochs)
    alpha, beta = (first + (last - first) * done / total_epochs for first, last in (alpha_range, beta_range))
    return alpha, beta


def flipping_error_reduction_loss(
    logits: Float[Tensor, "B K"],
    target: Int[Tensor, " B"],
    average: Float[Tensor, "B K"],
    restricted: Bool[Tensor, " B"],
    *,
    alpha: float,
    beta: float,
    temperature: float = 5.0,
    temperature_squared: bool = True,
    zeros_elsewhere: bool = False,
    reduction: MethodReduction = "mean",
) -> Float[Tensor, ...]:
    """Alpha CE + beta t^2 H(b^, softmax(z / t)) on restricted samples, CE on the others, Eq. 4-5.

    The paper prints KL divergence; H(b^, .) has the same gradient and also serves a b^ with a mass under
    one. The factor t^2 is in the authors' code, not in print.

    Args:
        logits: ``[B, K]``.
        target: labels ``[B]``.
        average: b^, without gradient.
        restricted: T(x), ``[B]``: was right in some epoch before this one.
        alpha: weight of CE on restricted samples.
        beta: weight of the regularizer on them.
        temperature: t > 0.
        temperature_squared: whether the factor t^2 is there.
        zeros_elsewhere: ``average`` is known to be 0 on the other samples, as in a mixin's table, so that it need not
            be masked.
        reduction: "mean", "none", "sum", or "excess": the mean of the loss minus CE, which a mixin adds.

    Returns:
        The loss.

    Example:
        >>> logits, target = torch.tensor([[2.0, 0.0]]), torch.tensor([0])
        >>> uniform = torch.full((1, 2), 0.5)
        >>> loss = flipping_error_reduction_loss(
        ...     logits, target, uniform, torch.tensor([True]), alpha=0.9, beta=0.1, temperature=1.0
        ... )
        >>> smoothed = torch.nn.functional.cross_entropy(logits, target, label_smoothing=0.1)
        >>> torch.allclose(loss, smoothed)  # Eq. 6: label smoothing is FER with a uniform behavior on all samples
        True
    """
    factor = beta * (temperature**2 if temperature_squared else 1.0)
    if reduction == "excess" and fuses(logits, target):
        q = average if zeros_elsewhere else average.masked_fill(~restricted[:, None], 0.0)
        return soft_excess(
            widen(logits), target, q, labels=alpha - 1, soft=factor, temperature=temperature, rows=restricted
        )
    plain = cross_entropy(logits, target, reduction="none")
    behaved = soft_cross_entropy(average, logits, temperature=temperature, reduction="none")
    loss = torch.where(restricted, alpha * plain + factor * behaved, plain)
    return reduce_method_loss(loss, logits, target, reduction)


def learning_with_retrospection_loss(
    logits: Float[Tensor, "B K"],
    target: Int[Tensor, " B"],
    past_logits: Float[Tensor, "B K"],
    known: Bool[Tensor, " B"],
    *,
    alpha: float,
    beta: float,
    temperature: float = 5.0,
    reduction: MethodReduction = "mean",
) -> Float[Tensor, ...]:
    """Alpha CE + beta t^2 KL(softmax(row / t) || softmax(z / t)) if a row is known, otherwise CE.

    Args:
        logits: ``[B, K]``.
        target: labels ``[B]``.
        past_logits: the logits of the round before, ``[B, K]``, finite but for masked classes (minus infinity); no
            gradient flows into them.
        known: ``[B]``, whether there is a row.
        alpha: weight of CE on known rows.
        beta: weight of the divergence on them.
        temperature: t > 0.
        reduction: "mean", "none", "sum", or "excess": the mean of the loss minus CE, which a mixin adds.

    Returns:
        The loss.

    Example:
        >>> z, y = torch.tensor([[1.0, 0.0]]), torch.tensor([0])
        >>> learning_with_retrospection_loss(z, y, z, torch.tensor([True]), alpha=0.0, beta=1.0)
        tensor(0.)
    """
    log_past = F.log_softmax(widen(past_logits.detach()) / temperature, dim=1)
    if reduction == "excess" and fuses(logits, target):
        q, z = log_past.exp() * known[:, None], widen(logits)
        options = {"labels": alpha - 1, "soft": beta * temperature**2, "temperature": temperature}
        return soft_excess(z, target, q, rows=known, log_q=log_past.to(z.dtype), **options)
    plain = cross_entropy(logits, target, reduction="none")
    log_now = F.log_softmax(widen(logits) / temperature, dim=1)
    divergence = weighted_sum(log_past.exp(), log_past - log_now)
    drawn = alpha * plain + beta * temperature**2 * divergence
    return reduce_method_loss(torch.where(known, drawn, plain), logits, target, reduction)
