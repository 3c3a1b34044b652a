"""What a loader gave: its dataset and padding, and the index of each batch."""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_map
from torch.utils.data import DataLoader, DistributedSampler

from lightning_flip.data.indexed import IndexedBatch, unwrapped
from lightning_flip.steps.source import StepSource
from lightning_flip.steps.targets import select

__all__ = ["LoadedBatch", "LoaderRecord", "NoIndexError"]


class LoaderRecord:
    """One loader that was wrapped, and how many of its batches arrived in this iteration.

    The loader itself is not kept alive: its workers end with it.

    Attributes:
        dataset: the dataset that the user gave to the loader.
        may_pad: whether its sampler makes ranks equally long by repeating samples, so that batches have to be counted.
        batches: how many batches were counted in this iteration.
    """

    def __init__(self, loader: DataLoader[Any]) -> None:
        self.dataset: Any = unwrapped(loader.dataset)
        self.may_pad = _padding_sampler(loader) is not None
        self.batches = 0
        self._loader = weakref.ref(loader)
        self._pass: int | None = None

    @property
    def loader(self) -> DataLoader[Any] | None:
        """The wrapped loader, or None after Lightning has dropped it."""
        return self._loader()

    @property
    def num_samples(self) -> int | None:
        """Length of that dataset, or None if it has none (a sampler of its own says what to draw)."""
        return len(self.dataset) if hasattr(self.dataset, "__len__") else None

    def arrive(self, ready: int, pass_number: int) -> int:
        """Count a batch in. Returns position of the batch in the loader's own order."""
        if self._pass is None and pass_number == 0:
            # Resumed inside an epoch: a stateful loader continues, any other one starts again.
            self.batches = ready if hasattr(self.loader, "load_state_dict") else 0
        elif pass_number != self._pass:
            self.batches = 0
        self._pass = pass_number
        position = self.batches
        self.batches += 1
        return position

    def padding(self, position: int, rows: int) -> int:
        """How many trailing rows of a batch a DistributedSampler added only to make the ranks equally long.

        They are identified by their place in the order and not by repetition: a sample that a sampler draws
        twice on purpose still counts twice.
        """
        loader = self.loader
        if loader is None:
            return 0
        sampler = _padding_sampler(loader)
        if sampler is None:
            return 0
        if (sampler.num_samples - 1) * sampler.num_replicas + sampler.rank < len(sampler.dataset):  # type: ignore[arg-type]
            return 0
        batch_size = getattr(loader.batch_sampler, "batch_size", None)
        if getattr(loader.batch_sampler, "drop_last", False) and batch_size and sampler.num_samples % batch_size:
            return 0  # the last place was in a batch that is dropped
        length = len(loader)
        if position % length != length - 1:
            return 0
        return rows if loader.batch_sampler is None else 1


def _padding_sampler(loader: DataLoader[Any]) -> DistributedSampler[Any] | None:
    sampler = getattr(loader.batch_sampler, "sampler", None)
    sampler = loader.sampler if sampler is None else sampler
    return sampler if isinstance(sampler, DistributedSampler) and not sampler.drop_last else None


class NoIndexError(TypeError):
    """The samples of a loader cannot be told apart."""


class LoadedBatch:
    """One item of the loop's loader, before any transfer hook.

    Attributes:
        plain: the same without index, as the user's hooks and steps see it.
        problem: why rows and positions do not belong together; "" where nothing speaks against it.
    """

    def __init__(self, data: Any, loaders: Mapping[int, LoaderRecord]) -> None:
        self._loaders = loaders
        self._single = True
        self._carried: dict[StepSource, tuple[Tensor, list[int]]] = {}
        self._places: dict[Any, int] = {}
        self._parts: dict[Any, IndexedBatch | None] = {}  # by key in the collection; None: that loader has ended
        self._located: list[int] | None = None  # the positions of a single loader's batch: nearly always
        self.plain = data
        self.problem = ""
        if isinstance(data, IndexedBatch):
            self._parts = {None: data}
            self.plain = data.batch
            self._located = data.positions if min(data.positions, default=0) >= 0 else None
            self.problem = data.problem
        elif isinstance(data, (list, tuple, dict)) and _holds_indexed(data):
            # Only the collection of CombinedLoader is looked into, never a batch of the user's own type.
            self._single = False
            pairs = data.items() if isinstance(data, dict) else enumerate(data)
            self._parts = {key: part for key, part in pairs if part is None or isinstance(part, IndexedBatch)}
            self.plain = tree_map(_plain, data, is_leaf=_is_indexed)
            self.problem = next(
                (part.problem for part in self._parts.values() if part is not None and part.problem), ""
            )

    @property
    def loader(self) -> int | None:
        """The number of the loader, where the batch comes from one."""
        part = self._parts.get(None) if self._single else None
        return None if part is None else part.loader

    @property
    def single(self) -> bool:
        """Whether the batch is of one loader, and not a collection of several loaders' batches."""
        return self._single

    @property
    def num_rows(self) -> int | None:
        """Number of samples B of a single loader's batch; None if a source has to say which."""
        return None if self._located is None else len(self._located)

    def count(self, ready: int, pass_number: int) -> None:
        """Count the batch in with its loaders; nothing but padding is told by the number of a batch."""
        arrived = {key: part for key, part in self._parts.items() if part is not None}
        self._places = {key: self._loaders[part.loader].arrive(ready, pass_number) for key, part in arrived.items()}

    def followed(self, batch: Any, source: StepSource) -> Any:
        """The part of a batch that a source follows."""
        return batch if self._single else batch[self._key(source)]

    def replaced(self, batch: Any, source: StepSource, part: Any) -> Any:
        """A batch with another part where a source looks."""
        if self._single:
            return part
        key = self._key(source)
        if isinstance(batch, dict):
            return {**batch, key: part}
        return type(batch)(part if number == key else other for number, other in enumerate(batch))

    def positions(self, source: StepSource) -> Tensor | None:
        """The samples' positions in the loader's dataset, whatever ids the batch carries itself.

        Returns int64 ``[B]`` on the CPU, or None for loaders without positions.
        """
        part = self._parts.get(self._key(source))
        return part.index if part is not None and part.located else None

    def record(self, source: StepSource) -> LoaderRecord | None:
        """What is known of the loader that a source follows."""
        part = self._parts.get(self._key(source))
        return None if part is None else self._loaders[part.loader]

    def rows(self, source: StepSource) -> int:
        """Number of samples B, whether or not they have an index."""
        if source.index_from is not None:
            return len(self._ids(source)[1])
        part = self._parts.get(None if self._single else self._key(source))
        return len(self.listed(source) if part is None else part.positions)

    def samples(self, source: StepSource) -> list[int]:
        """The samples of the batch that count."""
        if self._located is not None and not self._places and source.index_from is None:
            return self._located
        if not self._single and self.followed(self.plain, source) is None:
            return []
        listed = self.listed(source)
        return listed[: len(listed) - self.padding(source)] if self._places else listed

    def listed(self, source: StepSource) -> list[int]:
        """The samples of the batch, padding included; the one list that there is."""
        if source.index_from is not None:
            return self._ids(source)[1]
        if self._located is not None:
            return self._located
        part = self._parts.get(None if self._single else self._key(source))
        if part is None:
            raise NoIndexError(
                "the samples of this loader have no index: its dataset is iterable, or it is not a torch DataLoader. "
                'Let every batch carry an integer id for each sample and name it: index_from="id".'
            )
        if not part.located:
            raise NoIndexError(
                f"the sampler of this loader asks {type(self._loaders[part.loader].dataset).__name__} for keys that "
                "are not integers; a sample's index is its integer position in the dataset. Use integer positions, or "
                'let every batch carry an integer id for each sample and name it: index_from="id".'
            )
        return part.positions

    def index(self, source: StepSource) -> Tensor:
        """The samples of the batch, as :meth:`listed` has them. Returns int64 ``[B]`` on the CPU."""
        self.listed(source)
        part = self._parts.get(self._key(source))
        return self._ids(source)[0] if part is None or source.index_from is not None else part.index

    def num_samples(self, source: StepSource) -> int | None:
        """Length of the dataset that the index points into. Returns None where there is none, or it has no length."""
        record = None if source.index_from is not None else self.record(source)
        return None if record is None else record.num_samples

    def dataset(self, source: StepSource) -> Any:
        """The dataset that the index points into."""
        if source.index_from is not None:
            return None
        part = self._parts.get(None if self._single else self._key(source))
        dataset = None if part is None else self._loaders[part.loader].dataset
        return dataset if hasattr(dataset, "__len__") else None

    def padding(self, source: StepSource) -> int:
        """How many trailing rows a DistributedSampler added to make the ranks equally long."""
        place, record = self._places.get(self._key(source)), self.record(source)
        return 0 if place is None or record is None else record.padding(place, self.rows(source))

    def _ids(self, source: StepSource) -> tuple[Tensor, list[int]]:
        if source not in self._carried:
            index = _carried_index(self.followed(self.plain, source), source)
            self._carried[source] = index, index.tolist()
        return self._carried[source]

    def _key(self, source: StepSource) -> Any:
        if self._single:
            return None
        keys = list(self._parts)
        if source.loader is None and len(keys) > 1:
            raise ValueError(
                f"training draws from {len(keys)} loaders, each with an index space of its own. "
                f"Say which one to follow: loader= one of {keys}."
            )
        if source.loader is not None and source.loader not in keys:
            raise ValueError(f"loader={source.loader!r} is not one of the training loaders {keys}.")
        return keys[0] if source.loader is None else source.loader


def _carried_index(batch: Any, source: StepSource) -> Tensor:
    assert source.index_from is not None
    ids = select(batch, source.index_from, "index_from")
    try:
        index = torch.as_tensor(ids)
    except (TypeError, ValueError, RuntimeError):
        raise TypeError(
            f"index_from={source.index_from!r} gave a {type(ids).__name__} that is not a tensor of numbers; "
            "expected one integer per sample, [B]."
        ) from None
    if index.ndim != 1 or index.is_floating_point() or index.dtype == torch.bool:
        raise TypeError(
            f"index_from={source.index_from!r} gave {index.dtype} of shape {tuple(index.shape)}; "
            "expected one integer per sample, [B]."
        )
    if bool((index < 0).any()):
        raise ValueError(f"index_from={source.index_from!r} gave a negative index; ids count from 0.")
    return index.to(torch.int64)


def _is_indexed(part: Any) -> bool:
    return isinstance(part, IndexedBatch)


def _plain(part: Any) -> Any:
    return part.batch if isinstance(part, IndexedBatch) else part


def _holds_indexed(data: Any) -> bool:
    return any(_is_indexed(leaf) for leaf in tree_flatten(data, is_leaf=_is_indexed)[0])
