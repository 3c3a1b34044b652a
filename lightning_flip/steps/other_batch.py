"""A second batch beside the running one: other samples of the same dataset, through the same forward."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_map

from lightning_flip.data.indexed import IndexedCollate
from lightning_flip.steps.loaded_batch import LoaderRecord

__all__ = ["inputs_of", "load_samples"]


def load_samples(record: LoaderRecord, positions: Tensor) -> Any:
    """Load samples as the loader's own workers do: the user's dataset, and the user's collate function.

    Returns a batch on the CPU.

    Args:
        record: the loader.
        positions: of the samples, int64 ``[B]``.
    """
    loader, dataset = record.loader, record.dataset
    if loader is None or loader.batch_sampler is None:
        raise TypeError(
            f"the loader of {type(dataset).__name__} has batch_size=None: its dataset makes the batches, so that "
            "single samples cannot be drawn from it. Give the DataLoader a batch_size or a batch_sampler."
        )
    indices = positions.tolist()
    fetch = getattr(dataset, "__getitems__", None)
    samples = fetch(indices) if fetch is not None else [dataset[index] for index in indices]
    collate = loader.collate_fn
    return (collate.collate if isinstance(collate, IndexedCollate) else collate)(samples)


def inputs_of(
    other: Any, batch: Any, inputs: tuple[tuple[Any, ...], dict[str, Any]]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """What a forward is given for another batch, when it is known what it was given for this one.

    Example:
        >>> import torch
        >>> x, y, other = torch.zeros(2, 3), torch.tensor([0, 1]), (torch.ones(4, 3), torch.tensor([1, 1, 0, 0]))
        >>> args, kwargs = inputs_of(other, (x, y), ((x,), {"scale": 2.0}))
        >>> args[0].shape, kwargs
        (torch.Size([4, 3]), {'scale': 2.0})
    """
    parts, form = tree_flatten(batch)
    others, other_form = tree_flatten(other)
    if form != other_form:
        raise ValueError(
            f"the batch of the partners has {other_form}, the step's batch {form}. The collate function must give "
            "every batch the same form."
        )
    rows = {part.shape[0] for part in parts if isinstance(part, Tensor) and part.ndim}

    def partner(value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        found = next((place for place, part in enumerate(parts) if part is value), None)
        if found is not None:
            return others[found]
        if value.ndim == 0 or value.shape[0] not in rows:
            return value  # a constant
        raise ValueError(
            f"training_step gave the network a tensor of shape {tuple(value.shape)} that is not part of the batch but "
            "was made from it, so that the same cannot be made from the partners' batch. Do what it does in forward(), "
            "in on_after_batch_transfer() or in the dataset."
        )

    args, kwargs = inputs
    if not any(isinstance(value, Tensor) for value in tree_flatten((args, kwargs))[0]):
        raise ValueError(
            "the inputs of the module's forward are not known, so that it cannot be run on other samples. logits_from "
            "must be a submodule path that is called with tensors of the batch."
        )
    changed: tuple[tuple[Any, ...], dict[str, Any]] = tree_map(partner, (args, kwargs))
    return changed
