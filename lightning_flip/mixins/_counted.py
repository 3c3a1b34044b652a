"""Samples that count in a loss that leaves others out (``ignore_index``)."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from lightning_flip.steps import SampleStep

__all__ = ["holds", "mean_over", "with_any_label"]


def mean_over(values: Tensor, counted: Tensor | None) -> Tensor:
    """The mean of values ``[B]`` over the counted samples, bool ``[B]``; None counts all, and the mean of none is 0."""
    if counted is None:
        return values.mean()
    return values.masked_fill(~counted, 0.0).sum() / counted.sum().clamp(min=1)


def with_any_label(step: SampleStep, counted: Tensor) -> SampleStep:
    """A step whose samples that do not count have their predicted class as label, and are not valid."""
    target = torch.where(counted, step.target, step.logits.detach().argmax(dim=1))
    return replace(step, target=target, valid=counted if step.valid is None else step.valid & counted)


def holds(labels: Tensor, label: int) -> bool:
    """Whether a label is among labels on the CPU, without an operation of torch."""
    values = labels.numpy()
    return bool((label >= 0 or values.min() < 0) and label in values)
