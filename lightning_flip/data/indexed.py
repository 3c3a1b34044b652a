"""Samples that carry their position: the dataset and the collate function are wrapped, never the sampler."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

__all__ = [
    "IndexedBatch",
    "IndexedCollate",
    "IndexedDataset",
    "unwrap_loader",
    "unwrapped",
    "wrap_loader",
]

Sample = TypeVar("Sample")


@dataclass(frozen=True, slots=True)
class _Item(Generic[Sample]):
    """A sample with its position; never a tuple, so that no collate function can mistake it for data."""

    sample: Sample
    index: int | list[int]


@dataclass(slots=True)
class IndexedBatch:
    """A batch as the user's collate function made it, with the positions of its samples.

    The positions stay a list, which a worker sends faster than a small tensor. Code that iterates over
    ``trainer.train_dataloader`` gets these objects, and may use them as the batch itself: they unpack, and have its
    keys and attributes.

    Attributes:
        batch: what the loader would have yielded without the index.
        positions: B positions in the dataset given to the DataLoader.
        loader: the number under which the loader was registered.
        problem: why positions and rows do not belong together; "" if they may.

    Example:
        >>> arrived = IndexedBatch({"x": torch.zeros(2, 3)}, [5, 0], loader=0)
        >>> arrived.index, list(arrived.batch), arrived["x"].shape
        (tensor([5, 0]), ['x'], torch.Size([2, 3]))
    """

    batch: Any
    positions: list[int]
    loader: int
    problem: str = ""
    _index: Tensor | None = field(default=None, repr=False, compare=False)

    @property
    def located(self) -> bool:
        """Whether all of them are positions: -1 stands for a key that was not an integer."""
        return min(self.positions, default=0) >= 0

    @property
    def index(self) -> Tensor:
        """The positions as int64 ``[B]`` on the CPU, made at first use."""
        if self._index is None:
            self._index = torch.tensor(self.positions, dtype=torch.int64)
        return self._index

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name in IndexedBatch.__slots__:  # while it is copied or unpickled
            raise AttributeError(name)
        return getattr(self.batch, name)

    def __getitem__(self, key: Any) -> Any:
        return self.batch[key]

    def __iter__(self) -> Any:
        return iter(self.batch)

    def __len__(self) -> int:
        return len(self.batch)

    def pin_memory(self, device: Any = None) -> IndexedBatch:
        """Pin the batch and its index; ``DataLoader(pin_memory=True)`` calls this."""
        from torch.utils.data._utils.pin_memory import pin_memory

        pin: Callable[..., Any] = pin_memory
        return IndexedBatch(pin(self.batch, device), self.positions, self.loader, self.problem, pin(self.index, device))


class IndexedDataset(Dataset[Any]):
    """Hands out the samples of a map-style dataset together with their positions.

    Everything else (length, attributes, ``__getitems__``) is the wrapped dataset's: attributes are read and written
    there. A key that is not an integer has the position -1: the samples of such a dataset cannot be told apart by
    position.

    Example:
        >>> data = IndexedDataset(["a", "b", "c"])
        >>> len(data), data[1].sample, data[1].index
        (3, 'b', 1)
    """

    _own = frozenset({"_dataset"})

    def __init__(self, dataset: Any) -> None:
        object.__setattr__(self, "_dataset", dataset)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, (list, tuple)) or getattr(index, "ndim", 0) == 1:
            # batch_size=None with a batch sampler: the dataset itself assembles the batch.
            return _Item(self._dataset[index], _positions(index, self._dataset))
        return _Item(self._dataset[index], _position(index, self._dataset))

    def __getitems__(self, indices: Sequence[Any]) -> _Item[Any]:
        dataset = self._dataset
        fetch = getattr(dataset, "__getitems__", None)
        # The dataset's own answer may be a finished batch: the collate function gets it as it is.
        samples = fetch(indices) if fetch is not None else [dataset[index] for index in indices]
        if type(indices) is list and set(map(type, indices)) == {int} and min(indices) >= 0:
            return _Item(samples, list(indices))  # nearly always; a sampler may use its list again
        return _Item(samples, _positions(indices, dataset))

    def __len__(self) -> int:
        return len(self._dataset)

    def __iter__(self) -> Iterator[Any]:
        return iter(self[position] for position in range(len(self)))

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name in IndexedDataset._own:  # copy and pickle look before __init__ ran
            raise AttributeError(name)
        return getattr(self._dataset, name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._dataset, name, value)

    def __getstate__(self) -> Any:
        return self._dataset

    def __setstate__(self, state: Any) -> None:
        object.__setattr__(self, "_dataset", state)


def unwrapped(dataset: Any) -> Any:
    """The dataset inside an :class:`IndexedDataset`; any other dataset as it is."""
    while isinstance(dataset, IndexedDataset):
        dataset = dataset._dataset
    return dataset


class _StatefulIndexedDataset(IndexedDataset):
    """For datasets with a state of their own: loaders look for these methods on the class, not through attributes."""

    def state_dict(self) -> Any:
        return self._dataset.state_dict()

    def load_state_dict(self, state: Any) -> None:
        self._dataset.load_state_dict(state)


class _FetchedDataset(IndexedDataset):
    """For loaders with a batch sampler, which fetch many samples at once; a single sample comes plain."""

    def __getitem__(self, index: Any) -> Any:
        return self._dataset[index]


class _StatefulFetchedDataset(_StatefulIndexedDataset, _FetchedDataset):
    """Both."""


class KeepsOrder(Protocol):
    """Checks whether a collate function keeps the order of its samples."""

    def labels(self, samples: list[Any]) -> list[int] | None:
        """What to compare with the batch; None to stop checking, in this batch and all later ones."""

    def compare(self, own: list[int], batch: Any) -> str:
        """What is wrong with the order of the batch; "" for nothing."""


class IndexedCollate:
    """Calls the user's collate function on the samples and keeps their positions beside the result.

    A TypeError if something other than this package's items arrives.
    """

    def __init__(
        self,
        collate: Callable[[Any], Any],
        loader: int,
        order: KeepsOrder | None = None,
    ) -> None:
        self.collate = collate
        self.loader = loader
        self.order = order

    def __call__(self, items: Any) -> IndexedBatch:
        """Collate items, or the one item that ``batch_size=None`` or a dataset's own ``__getitems__`` gives."""
        if isinstance(items, _Item):
            samples, positions = items.sample, items.index if isinstance(items.index, list) else [items.index]
        elif isinstance(items, list) and all(isinstance(item, _Item) for item in items):
            samples, positions = [item.sample for item in items], [item.index for item in items]
        else:
            raise TypeError(
                "collate_fn was given samples without their index. Expected the items of IndexedDataset, got "
                f"{type(items).__name__}: something between dataset and collate_fn (a custom fetcher or loader class) "
                "unpacks samples. Let the batch carry the index and pass index_from= instead."
            )
        if self.order is None:
            return IndexedBatch(self.collate(samples), positions, self.loader)
        labels = self.order.labels(samples) if isinstance(samples, list) else None
        batch = self.collate(samples)
        if labels is None:
            self.order = None  # nothing to compare, now or later
            return IndexedBatch(batch, positions, self.loader)
        return IndexedBatch(batch, positions, self.loader, self.order.compare(labels, batch))


def _position(index: Any, dataset: Any) -> int:
    try:
        position = int(index.__index__())
    except (AttributeError, TypeError):
        return -1
    return position + len(dataset) if position < 0 else position


def _positions(indices: Any, dataset: Any) -> list[int]:
    # Samplers give plain integers; these need no call each.
    return [index if type(index) is int and index >= 0 else _position(index, dataset) for index in indices]


def wrap_loader(loader: DataLoader[Any], number: int, order: KeepsOrder | None = None) -> DataLoader[Any]:
    """A shallow copy of a DataLoader over a map-style dataset that yields :class:`IndexedBatch` under a number.

    Its dataset and collate function are wrapped; sampler and batch sampler are shared.
    """
    wrapped = copy.copy(loader)
    # DataLoader refuses to have these set after __init__; it is the copy that is changed, before first use.
    stateful = hasattr(loader.dataset, "state_dict") and hasattr(loader.dataset, "load_state_dict")
    kind: type[IndexedDataset]
    if loader.batch_sampler is not None:
        kind = _StatefulFetchedDataset if stateful else _FetchedDataset
    else:
        kind = _StatefulIndexedDataset if stateful else IndexedDataset
    wrapped.__dict__["dataset"] = kind(loader.dataset)
    wrapped.__dict__["collate_fn"] = IndexedCollate(loader.collate_fn, number, order)
    wrapped.__dict__["_iterator"] = None  # workers that already run belong to the user's loader
    return wrapped


def unwrap_loader(loader: DataLoader[Any]) -> None:
    """Make a loader of :func:`wrap_loader` yield plain batches again, in place; others are left alone."""
    loader.__dict__["dataset"] = unwrapped(loader.dataset)
    if isinstance(loader.collate_fn, IndexedCollate):
        loader.__dict__["collate_fn"] = loader.collate_fn.collate
    loader.__dict__["_iterator"] = None
