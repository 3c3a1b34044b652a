"""What is known about a running loader: its dataset, and which rows a DistributedSampler repeats as padding."""

from __future__ import annotations

import weakref
from typing import Any

from torch.utils.data import DataLoader, DistributedSampler

from lightning_flip.data.indexed import unwrapped

__all__ = ["LoaderRecord"]


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
