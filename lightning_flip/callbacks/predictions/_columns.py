"""The columns of a file of predictions that come from one step, and what the outputs stand for."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lightning_flip.data.origins import first_attribute
from lightning_flip.functional.losses import widen
from lightning_flip.steps import SampleStep
from lightning_flip.steps.targets import select

__all__ = ["labels_of_outputs", "slice_columns", "step_columns"]

Label = int | str


def step_columns(step: SampleStep, *, top_k: int, logits: bool) -> dict[str, Tensor]:
    """One row for every sample of a step, classes as numbers of outputs; nothing is read back from the device.

    Returns ``index``, ``target`` and ``pred`` int64 ``[B]``, ``labelled`` bool ``[B]``, ``confidence`` and
    ``prob_label`` float32 ``[B]`` in [0, 1], ``top_classes`` int64 and ``top_probs`` float32 ``[B, k]``, ``logits``
    ``[B, K]``.

    Example:
        >>> step = SampleStep(torch.tensor([7]), torch.tensor([[0.0, 2.0, 2.0]]), torch.tensor([0]))
        >>> columns = step_columns(step, top_k=2, logits=False)
        >>> columns["pred"].tolist(), columns["top_classes"].tolist(), round(columns["confidence"].item(), 4)
        ([1], [[1, 2]], 0.4683)
    """
    probs = widen(step.logits).softmax(dim=1).to(torch.float32)
    labelled = torch.full_like(step.target, step.has_target, dtype=torch.bool)
    if step.valid is not None:
        labelled &= step.valid
    columns = {
        "index": step.index,
        "target": step.target,
        "labelled": labelled,
        "pred": step.logits.argmax(dim=1),
        "confidence": probs.amax(dim=1),
        # A label outside the classes is an error, which a device reports when the pass is over.
        "prob_label": probs.gather(1, step.target.clamp(0, step.num_classes - 1)[:, None])[:, 0],
    }
    if top_k:
        # Stable, so that the first of several equal classes is the predicted one; topk promises no order.
        best = step.logits.sort(dim=1, descending=True, stable=True).indices[:, :top_k]
        columns |= {"top_classes": best, "top_probs": probs.gather(1, best)}
    if logits:
        columns["logits"] = step.logits.to(torch.float32)
    return columns


def slice_columns(
    batch: Any, slices: Mapping[str, str | int | Callable[[Any], Any]], rows: int, padding: int
) -> tuple[dict[str, Tensor], dict[str, list[str]]]:
    """Extra columns that a batch carries. Returns columns of numbers, and columns of words.

    Example:
        >>> slice_columns({"camera": ["a", "b"], "night": torch.tensor([True, False])}, {"camera": "camera"}, 2, 0)
        ({}, {'camera': ['a', 'b']})
    """
    numbers: dict[str, Tensor] = {}
    texts: dict[str, list[str]] = {}
    for name, where in slices.items():
        values = select(batch, where, f"slices[{name!r}]")
        if isinstance(values, (str, bytes)) or not hasattr(values, "__len__"):
            values = [values]  # DataLoader(batch_size=None) gives single samples
        listed = isinstance(values, (list, tuple)) and any(isinstance(value, str) for value in values)
        if listed or (isinstance(values, np.ndarray) and values.dtype.kind == "U"):
            words = [str(value) for value in values]
            found = [len(words)]
            texts[name] = words[: rows - padding]
        else:
            column = _numbers(name, values)
            found = list(column.shape)
            numbers[name] = column[: rows - padding]
        if found != [rows]:
            raise ValueError(
                f"slices[{name!r}] gave {found} values for a batch of {rows} samples; expected one number or one word "
                "per sample, [B]. Name another part of the batch, or give a function of it."
            )
    return numbers, texts


def labels_of_outputs(dataset: Any, given: Sequence[Label] | None, num_classes: int) -> tuple[Label, ...]:
    """The label that each output of a network stands for.

    Example:
        >>> labels_of_outputs(None, None, 3), labels_of_outputs(None, ["cat", "dog"], 2)
        ((0, 1, 2), ('cat', 'dog'))
    """
    found = given
    if found is None and dataset is not None and (not hasattr(dataset, "__len__") or len(dataset)):
        found = first_attribute(dataset, "class_labels")
    if found is None:
        return tuple(range(num_classes))
    labels = tuple(label if isinstance(label, str) else int(label) for label in found)
    if len(labels) != num_classes or len(set(labels)) != len(labels) or len({type(label) for label in labels}) > 1:
        raise ValueError(
            f"class_labels must be {num_classes} different labels, one for each of the network's outputs, all integers "
            f"or all words; got {len(labels)}: {', '.join(map(repr, labels[:8]))}{', ...' if len(labels) > 8 else ''}."
        )
    return labels


def _numbers(name: str, values: Any) -> Tensor:
    try:
        column = torch.as_tensor(values)
    except (TypeError, ValueError, RuntimeError):
        raise TypeError(
            f"slices[{name!r}] gave a {type(values).__name__} that holds neither numbers nor words; expected one "
            "number or one word per sample. Name another part of the batch, or give a function of it."
        ) from None
    if column.is_complex():
        raise TypeError(f"slices[{name!r}] gave {column.dtype}; expected real numbers or words.")
    if column.is_floating_point():
        column = column.to(torch.promote_types(column.dtype, torch.float32))  # numpy knows no bfloat16
    return column[None] if column.ndim == 0 else column
