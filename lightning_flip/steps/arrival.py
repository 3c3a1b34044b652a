"""What came out of a loader for the running step: the plain batch, and which samples are in it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_map

from lightning_flip.data.indexed import IndexedBatch
from lightning_flip.steps.loaders import LoaderRecord
from lightning_flip.steps.source import StepSource
from lightning_flip.steps.targets import select

__all__ = ["Arrival"]


class Arrival:
    """One item of the loop's loader, before any transfer hook.

    Args:
        data: what the loader gave: an :class:`IndexedBatch`, a collection of them where training draws from
            several loaders, or anything else from a loader without positions.
        loaders: the loaders by number.
        ready: batches that the running loop had before this one, as Lightning counts them.
        pass_number: passes that the running loop has begun, this one included.

    Attributes:
        plain: the same without index, as the user's hooks and steps see it.
    """

    def __init__(self, data: Any, loaders: Mapping[int, LoaderRecord], ready: int, pass_number: int) -> None:
        self._loaders = loaders
        self._single = True
        self._indices: dict[StepSource, tuple[Tensor, int, int | None]] = {}
        self._listed: dict[StepSource, list[int]] = {}
        self._parts: dict[Any, IndexedBatch | None] = {}  # by key in the collection; None: that loader has ended
        self.plain = data
        if isinstance(data, IndexedBatch):
            self._parts = {None: data}
            self.plain = data.batch
        elif isinstance(data, (list, tuple, dict)) and _holds_indexed(data):
            # Only the collection of CombinedLoader is looked into, never a batch of the user's own type.
            self._single = False
            pairs = data.items() if isinstance(data, dict) else enumerate(data)
            self._parts = {key: part for key, part in pairs if part is None or isinstance(part, IndexedBatch)}
            self.plain = tree_map(_plain, data, is_leaf=_is_indexed)
        arrived = {key: part for key, part in self._parts.items() if part is not None}
        self._positions = {key: loaders[part.loader].arrive(ready, pass_number) for key, part in arrived.items()}

    def followed(self, batch: Any, source: StepSource) -> Any:
        """The part of a batch that a source follows.

        Args:
            batch: the collection, or the batch itself where there is one loader.
            source: names the loader, where training draws from several.

        Returns:
            The part; None where that loader ended before the others (``CombinedLoader(mode="max_size")``).

        Raises:
            ValueError: if there are several loaders and the source names none, or one that is not there.
        """
        return batch if self._single else batch[self._key(source)]

    def replaced(self, batch: Any, source: StepSource, part: Any) -> Any:
        """A batch with another part where a source looks.

        Args:
            batch: the collection, or the batch itself where there is one loader; it is left as it is.
            source: names the loader, where training draws from several.
            part: what takes the place of :meth:`followed`.

        Returns:
            The part itself where there is one loader.

        Raises:
            ValueError: if there are several loaders and the source names none, or one that is not there.
        """
        if self._single:
            return part
        key = self._key(source)
        if isinstance(batch, dict):
            return {**batch, key: part}
        return type(batch)(part if number == key else other for number, other in enumerate(batch))

    def positions(self, source: StepSource) -> Tensor | None:
        """The samples' positions in the loader's dataset, whatever ids the batch carries itself.

        Args:
            source: names the loader, where training draws from several.

        Returns:
            int64 ``[B]`` on the CPU, or None for loaders without positions.
        """
        part = self._parts.get(self._key(source))
        return None if part is None or bool((part.index < 0).any()) else part.index

    def record(self, source: StepSource) -> LoaderRecord | None:
        """What is known of the loader that a source follows.

        Args:
            source: names the loader.

        Returns:
            The record, or None for loaders without positions.
        """
        part = self._parts.get(self._key(source))
        return None if part is None else self._loaders[part.loader]

    def index(self, source: StepSource) -> tuple[Tensor, int, int | None]:
        """The samples of the batch.

        Args:
            source: where to take the index from.

        Returns:
            int64 ``[B]`` on the CPU, the number of trailing rows that are a DistributedSampler's padding, and
            the length of the dataset that the index points into (None where it has none).

        Raises:
            TypeError: if there is no index, or none of integers.
            ValueError: if it is negative.
        """
        if source not in self._indices:  # asked for when the step begins and when it is built
            self._indices[source] = self._find_index(source)
        return self._indices[source]

    def listed(self, source: StepSource) -> list[int]:
        """The samples of the batch, as :meth:`index` has them, in a list; the one list that there is.

        Args:
            source: where to take the index from.

        Returns:
            B integers.
        """
        index = self.index(source)[0]
        if source not in self._listed:
            self._listed[source] = index.tolist()
        return self._listed[source]

    def _find_index(self, source: StepSource) -> tuple[Tensor, int, int | None]:
        record = self.record(source)
        if source.index_from is not None:
            index = _carried_index(self.followed(self.plain, source), source)
            num_samples = None
        elif record is None:
            raise TypeError(
                "the samples of this loader have no index: its dataset is iterable, or it is not a torch DataLoader. "
                'Let every batch carry an integer id for each sample and name it: index_from="id".'
            )
        else:
            part = self._parts[self._key(source)]
            assert part is not None
            index, num_samples = part.index, record.num_samples
            # A list is read faster than a small tensor is searched, and others ask for it, too.
            self._listed[source] = listed = index.tolist()
            if listed and min(listed) < 0:
                raise TypeError(
                    f"the sampler of this loader asks {type(record.dataset).__name__} for keys that are not integers; "
                    "a sample's index is its integer position in the dataset. Use integer positions, or let every "
                    'batch carry an integer id for each sample and name it: index_from="id".'
                )
        padding = 0 if record is None else record.padding(self._positions[self._key(source)], len(index))
        return index, padding, num_samples

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
            raise ValueError(f"loader={source.loader!r} is none of the training loaders {keys}.")
        return keys[0] if source.loader is None else source.loader


def _carried_index(batch: Any, source: StepSource) -> Tensor:
    assert source.index_from is not None
    ids = select(batch, source.index_from, "index_from")
    try:
        index = torch.as_tensor(ids)
    except (TypeError, ValueError, RuntimeError):
        raise TypeError(
            f"index_from={source.index_from!r} gave a {type(ids).__name__} that is no tensor of numbers; "
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
