"""How a training target shares its mass between the true classes and the others."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

__all__ = ["TargetParts", "target_parts"]


class TargetParts(NamedTuple):
    """Targets of a batch, sorted.

    Attributes:
        true: mass of the true classes, the largest first, ``[B, 2]``; NaN in the second place where there is one.
        others: mass of the largest other classes, the largest first, ``[B, m]``; NaN where there are fewer.
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
