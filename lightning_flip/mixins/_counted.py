"""Samples that count in a loss, where it leaves others out (``ignore_index``)."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from lightning_flip.steps import SampleStep

__all__ = ["holds", "mean_over", "with_any_label"]


def mean_over(values: Tensor, counted: Tensor | None) -> Tensor:
    """The mean over some samples, as ``ignore_index`` has it in torch; 0 of none.

    Args:
        values: ``[B]``.
        counted: bool ``[B]``; None for all.

    Example:
        >>> mean_over(torch.tensor([1.0, 5.0, 3.0]), torch.tensor([True, False, True]))
        tensor(2.)
    """
    if counted is None:
        return values.mean()
    return values.masked_fill(~counted, 0.0).sum() / counted.sum().clamp(min=1)


def with_any_label(step: SampleStep, counted: Tensor) -> SampleStep:
    """A step whose samples that do not count have the predicted class for a label, and are not valid."""
    target = torch.where(counted, step.target, step.logits.detach().argmax(dim=1))
    return replace(step, target=target, valid=counted if step.valid is None else step.valid & counted)


def holds(labels: Tensor, label: int) -> bool:
    """Whether labels on the CPU hold one, without an operation of torch."""
    values = labels.numpy()
    return bool((label >= 0 or values.min() < 0) and label in values)
