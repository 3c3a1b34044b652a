"""How hard each training sample is, where its data set knows the true distribution over the classes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lightning_flip.data.origins import ask_dataset
from lightning_flip.functional.paths import base_difficulty

__all__ = ["difficulty_of", "highest", "true_distributions"]


def true_distributions(dataset: Any) -> Tensor | None:
    """What a data set knows of the true distributions of its samples.

    Returns float64 ``[N, K]``, NaN where one is not known; None where the data set has no such method.

    Args:
        dataset: map-style; asked for ``true_distribution(index)``, ``[K]``, of every sample.

    Example:
        >>> class Toy(list):
        ...     def true_distribution(self, index):
        ...         return torch.tensor([0.5, 0.5])
        >>> true_distributions(Toy("ab")).shape, true_distributions(["a"])
        (torch.Size([2, 2]), None)
    """
    if dataset is None or not len(dataset) or ask_dataset(dataset, 0, "true_distribution") is None:
        return None
    found = [ask_dataset(dataset, place, "true_distribution") for place in range(len(dataset))]
    width = len(found[0])
    rows = [torch.full((width,), torch.nan) if row is None else torch.as_tensor(row) for row in found]
    return torch.stack([row.double() for row in rows])


def difficulty_of(true_probs: Tensor, target: Tensor) -> Tensor:
    """The base difficulty of all samples, ||e_y - p*||_2.

    Returns float64 ``[N]``, NaN where label or distribution is not known.

    Args:
        true_probs: float64 ``[N, K]``.
        target: int64 ``[N]`` labels; -1 where one is not known.

    Example:
        >>> difficulty_of(torch.tensor([[0.5, 0.5], [0.5, 0.5]]).double(), torch.tensor([0, -1]))
        tensor([0.7071,    nan], dtype=torch.float64)
    """
    if int(target.max()) >= true_probs.shape[1]:
        raise ValueError(
            f"true_distribution gives {true_probs.shape[1]} classes, and a sample has the label {int(target.max())}; "
            "give distributions over all classes."
        )
    return torch.where(target >= 0, base_difficulty(true_probs, target.clamp(min=0)), torch.nan)


def highest(scores: Tensor, k: int) -> list[int]:
    """The samples of the highest scores; of equal ones those of the lower index.

    Args:
        scores: ``[N]``; NaN is not a score.
        k: how many.

    Example:
        >>> highest(torch.tensor([0.5, float("nan"), 2.0, 0.5]), 2)
        [0, 2]
    """
    known = (~scores.isnan()).nonzero()[:, 0]
    order = torch.sort(scores[known], descending=True, stable=True).indices
    return sorted(known[order[:k]].tolist())
