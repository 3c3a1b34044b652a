"""Where a sample comes from: through wrappers, subsets and concatenations to the innermost dataset."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch.utils.data import ConcatDataset, Subset

from lightning_flip.data.indexed import IndexedDataset

__all__ = ["ask_dataset", "first_attribute", "resolve_source"]


def resolve_source(dataset: Any, index: int) -> tuple[Any, int, int]:
    """Follow a position through Subset, ClassSubset and ConcatDataset to the innermost dataset.

    Returns the innermost dataset, its number among the concatenated ones (0 without ConcatDataset), and the position in
    it.

    Example:
        >>> from torch.utils.data import ConcatDataset, Subset
        >>> both = ConcatDataset([["a", "b"], ["c", "d", "e"]])
        >>> resolve_source(Subset(both, [4, 0]), 0)
        (['c', 'd', 'e'], 1, 2)
    """
    *_, innermost = _walk(dataset, index)
    return innermost


def ask_dataset(dataset: Any, index: int, method: str) -> Any:
    """Ask the first dataset on the way to the innermost one that has a method about a sample.

    ``sample_id(index)`` gives a lasting name such as a file path, ``true_target(index)`` the label before
    noise was added.

    Returns its answer, or None where no dataset has the method.

    Example:
        >>> from torch.utils.data import Subset
        >>> class Named(list):
        ...     def sample_id(self, index):
        ...         return f"image-{index}.png"
        >>> ask_dataset(Subset(Named("abc"), [2]), 0, "sample_id")
        'image-2.png'
    """
    for source, _, position in _walk(dataset, index):
        answer = getattr(source, method, None)
        if callable(answer):
            return answer(position)
    return None


def first_attribute(dataset: Any, name: str) -> Any:
    """Read an attribute of the first dataset on the way to the innermost one that has it.

    Returns its value, or None where no dataset has it.

    Example:
        >>> from torch.utils.data import Subset
        >>> class Animals(list):
        ...     classes = ["cat", "dog"]
        >>> first_attribute(Subset(Animals("ab"), [1]), "classes")
        ['cat', 'dog']
    """
    for source, _, _ in _walk(dataset, 0):
        value = getattr(source, name, None)
        if value is not None:
            return value
    return None


def _walk(dataset: Any, index: int) -> Iterator[tuple[Any, int, int]]:
    number = 0
    while True:
        if index < 0:  # Subset and ConcatDataset count from the end as well
            index += len(dataset)
        yield dataset, number, index
        if isinstance(dataset, IndexedDataset):
            dataset = dataset._dataset
        elif isinstance(dataset, Subset):
            dataset, index = dataset.dataset, int(dataset.indices[index])
        elif isinstance(dataset, ConcatDataset):
            chosen = next(place for place, end in enumerate(dataset.cumulative_sizes) if index < end)
            index -= dataset.cumulative_sizes[chosen - 1] if chosen else 0
            dataset, number = dataset.datasets[chosen], number + chosen
        elif getattr(type(dataset), "same_positions", False):  # wrappers that change samples, not their order
            dataset = dataset.dataset
        else:
            return
