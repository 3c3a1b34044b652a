"""Scores of training samples: base difficulty, and the sums that zig-zag scores come from."""

from __future__ import annotations

from typing import Any

import torch
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor

from lightning_flip.data.origins import ask_dataset
from lightning_flip.functional.paths import base_difficulty
from lightning_flip.steps import SampleStep
from lightning_flip.tables import PredictionSums

__all__ = ["add_predictions", "difficulty_of", "highest", "loaded_sums", "sums_for", "true_distributions"]


def true_distributions(dataset: Any) -> Tensor | None:
    """``true_distribution(index)`` of every sample of a map-style dataset.

    Returns float64 ``[N, K]``, NaN where it is not known; None if the dataset has no such method.

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
    """The base difficulty ||e_y - p*||_2 of all samples, float64 ``[N]``; NaN if label or distribution is not known.

    ``true_probs`` are float64 ``[N, K]``, ``target`` the labels int64 ``[N]``, -1 where one is not known.

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
    """The k samples of the highest scores ``[N]``, of which NaN is none; of equal ones those of the lower index.

    Example:
        >>> highest(torch.tensor([0.5, float("nan"), 2.0, 0.5]), 2)
        [0, 2]
    """
    known = (~scores.isnan()).nonzero()[:, 0]
    order = torch.sort(scores[known], descending=True, stable=True).indices
    return sorted(known[order[:k]].tolist())


def sums_for(owner: str, sums: PredictionSums | None, step: SampleStep, num_samples: int | None) -> PredictionSums:
    """The sums with room for a step, made if there are none; a table of other data is refused."""
    size = step.table_size(num_samples)
    if sums is None:
        needed = PredictionSums.bytes_needed(size, step.num_classes) / 1e6
        rank_zero_info(f"{owner}: sums of {size} samples x {step.num_classes} classes = {needed:.1f} MB")
        sums = PredictionSums(size, step.num_classes, device=step.logits.device)
    if size > sums.num_samples:
        sums.grow(size)
    if size != sums.num_samples or step.num_classes != sums.num_classes:
        raise ValueError(
            f"the sums are of {sums.num_samples} samples x {sums.num_classes} classes, this step is of {size} x "
            f"{step.num_classes}. Resume with the data the checkpoint was made with, look at what logits_from names, "
            "or start a new run."
        )
    return sums


def add_predictions(sums: PredictionSums, step: SampleStep) -> None:
    """Add a step's predictions up; nothing is read back from the device."""
    for part in step.pieces():
        sums.add(part.index, part.logits.softmax(dim=1), part.target, part.valid)


def loaded_sums(state: dict[str, Any], device: torch.device) -> PredictionSums:
    """The sums of a checkpoint, on the device at once: ranks may have to merge before the first step comes."""
    sums = PredictionSums(*state["sums"].shape, device=device)
    sums.load_state_dict(state)
    return sums
