"""Pairwise label smoothing: averaged pairs, a smoothing distribution that is learned, and what targets look like."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lightning_flip.functional.losses import Reduction, cross_entropy, reduce_loss, widen

__all__ = [
    "TargetParts",
    "learned_smoothing",
    "pair_average",
    "pairwise_label_smoothing_loss",
    "target_parts",
]


def pair_average(values: Float[Tensor, "B ..."], partner: Int[Tensor, " B"]) -> Float[Tensor, "B ..."]:
    """(x_i + x_j) / 2 of every sample i and its partner j: the input of a pair, or its target (PLS, Eq. 5).

    Args:
        values: inputs ``[B, ...]`` or distributions ``[B, K]``.
        partner: j of every sample, ``[B]``; if j = i the values stay as they are.

    Returns:
        The averages, of the same shape and type.

    Example:
        >>> pair_average(torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0]]), torch.tensor([1, 0, 2]))
        tensor([[0.5000, 0.5000],
                [0.5000, 0.5000],
                [0.0000, 1.0000]])
    """
    halves = values / 2  # halved before they are added: the sum of two large numbers may not fit into float16
    return halves + halves[partner]


def learned_smoothing(head_logits: Float[Tensor, "B K"]) -> Float[Tensor, "B K"]:
    """U' = softmax(sigmoid(a)), with a = W_t h + b_t of the second head (PLS, Eq. 12-13), with gradient.

    The sigmoid keeps u' close to uniform: no class can have more than e times the mass of another.

    Example:
        >>> learned_smoothing(torch.tensor([[100.0, -100.0]]))
        tensor([[0.7311, 0.2689]])
    """
    return widen(head_logits).sigmoid().softmax(dim=1)


def pairwise_label_smoothing_loss(
    logits: Float[Tensor, "B K"],
    target: Int[Tensor, " B"] | Float[Tensor, "B K"],
    head_logits: Float[Tensor, "B K"],
    *,
    smoothing_weight: float = 0.5,
    reduction: Reduction = "mean",
) -> Float[Tensor, ...]:
    """(1 - w) H(q, p) + w H(u', p) with u' = softmax(sigmoid(a)) learned beside p (PLS, Eq. 14-15).

    Gradient flows through u' as well as through p. The minus signs inside the sum of Eq. 15 are read as misprints.

    Args:
        logits: z with p = softmax(z), ``[B, K]``.
        target: q: the pairs' distributions ``[B, K]``, or labels ``[B]``.
        head_logits: a, the second head's outputs before the sigmoid, ``[B, K]``.
        smoothing_weight: w in [0, 1).
        reduction: "mean", "none" or "sum".

    Returns:
        The loss in nats; a scalar, or ``[B]`` for "none".

    Raises:
        ValueError: if ``smoothing_weight`` is outside [0, 1).

    Example:
        >>> pairwise_label_smoothing_loss(torch.tensor([[2.0, 0.0]]), torch.tensor([[0.5, 0.5]]), torch.zeros(1, 2))
        tensor(1.1269)
    """
    check_smoothing_weight(smoothing_weight)
    smoothing = learned_smoothing(head_logits)
    learned = -(smoothing * widen(logits).log_softmax(dim=1)).sum(dim=1)
    plain = cross_entropy(logits, target, reduction="none")
    return reduce_loss((1 - smoothing_weight) * plain + smoothing_weight * learned, reduction)


def check_smoothing_weight(smoothing_weight: Any) -> None:
    """Refuse a weight outside [0, 1)."""
    if not 0 <= smoothing_weight < 1:
        raise ValueError(
            "smoothing_weight must be in [0, 1), the share of the target that is the smoothing distribution; got "
            f"{smoothing_weight}."
        )


class TargetParts(NamedTuple):
    """Targets of a batch, sorted.

    Attributes:
        true: mass of the true classes, the largest first, ``[B, 2]``; NaN in the second place if there is one.
        others: mass of the largest other classes, the largest first, ``[B, m]``; NaN if there are fewer.
        num_true: number of true classes, int64 ``[B]``.

    Example:
        >>> parts = target_parts(torch.tensor([[0.9, 0.1]]), torch.tensor([[1.0, 0.0]]))
        >>> parts.true.tolist(), parts.others.tolist(), parts.num_true.tolist()
        ([[0.8999999761581421, nan]], [[0.10000000149011612]], [1])
    """

    true: Float[Tensor, "B 2"]
    others: Float[Tensor, "B m"]
    num_true: Int[Tensor, " B"]


def target_parts(target: Float[Tensor, "B K"], labels: Float[Tensor, "B K"], *, others: int = 5) -> TargetParts:
    """Sort the mass that training targets give to the true classes and to the others (PLS, Fig. 4).

    Args:
        target: what the loss pulls the prediction towards, ``[B, K]``.
        labels: the true classes: one-hot, or a mixture of labels, ``[B, K]``; classes with mass are true. Of more than
            two the two with the largest target count.
        others: how many of the other classes, at most K - 1.

    Returns:
        The parts; nothing is read back from the device.

    Raises:
        ValueError: if the shapes differ, or ``others`` is under 1.

    Example:
        >>> soft = torch.tensor([[0.35, 0.05, 0.3, 0.2, 0.1]])
        >>> pair = torch.tensor([[0.5, 0.0, 0.5, 0.0, 0.0]])
        >>> true, rest, count = target_parts(soft, pair, others=2)
        >>> true.round(decimals=2).tolist(), rest.round(decimals=2).tolist(), count.tolist()
        ([[0.3499999940395355, 0.30000001192092896]], [[0.20000000298023224, 0.10000000149011612]], [2])
    """
    if target.shape != labels.shape:
        raise ValueError(f"target and labels must have one shape; got {tuple(target.shape)} and {tuple(labels.shape)}.")
    if others < 1:
        raise ValueError(f"others must be at least 1; got {others}.")
    is_true = labels > 0
    lowest = torch.full_like(target, -torch.inf)
    true = torch.where(is_true, target, lowest).topk(2, dim=1).values
    rest = torch.where(is_true, lowest, target).topk(min(others, target.shape[1] - 1), dim=1).values
    return TargetParts(_or_nan(true), _or_nan(rest), is_true.sum(dim=1))


def _or_nan(values: Tensor) -> Tensor:
    return values.masked_fill(values == -torch.inf, torch.nan)
