"""Pairwise label smoothing as functions of tensors: averaged pairs, and a smoothing distribution that is learned."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lightning_flip.functional.cross_entropy import Reduction, cross_entropy, reduce_loss, widen

__all__ = ["learned_smoothing", "one_hot_targets", "pair_average", "pairwise_label_smoothing_loss"]


def pair_average(values: Float[Tensor, "B ..."], partner: Int[Tensor, " B"]) -> Float[Tensor, "B ..."]:
    """(x_i + x_j) / 2 of every sample i and its partner j: the input of a pair, or its target (PLS, Eq. 5).

    Args:
        values: inputs ``[B, ...]`` or distributions ``[B, K]``.
        partner: j of every sample, ``[B]``; where j = i the values stay as they are.

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


def one_hot_targets(
    target: Int[Tensor, " B"] | Float[Tensor, "B K"], num_classes: int, like: Float[Tensor, ...]
) -> Float[Tensor, "B K"]:
    """Labels as distributions e_y; distributions stay.

    Args:
        target: labels ``[B]`` in ``[0, K)``, or distributions ``[B, K]``. A label outside gives a row of NaN, for to
            refuse it would make the host wait for the device.
        num_classes: K.
        like: a tensor of the computation; the result has its type, and at least float32.

    Returns:
        ``[B, K]``.

    Raises:
        ValueError: if distributions have another number of classes.

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


def learned_smoothing(head_logits: Float[Tensor, "B K"]) -> Float[Tensor, "B K"]:
    """U' = softmax(sigmoid(a)), with a = W_t h + b_t of the second head (PLS, Eq. 12-13).

    The sigmoid keeps u' close to uniform: no class can have more than e times the mass of another.

    Args:
        head_logits: a, ``[B, K]``.

    Returns:
        Distributions ``[B, K]`` in at least float32, with gradient.

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
    """Refuse a weight outside [0, 1).

    Args:
        smoothing_weight: the value.

    Raises:
        ValueError: if it is outside.
    """
    if not 0 <= smoothing_weight < 1:
        raise ValueError(
            "smoothing_weight must be in [0, 1), the share of the target that is the smoothing distribution; got "
            f"{smoothing_weight}."
        )
