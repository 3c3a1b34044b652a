"""Whether a collate function keeps the order of its samples: positions are told by it."""

from __future__ import annotations

from typing import Any

from torch.utils.data import default_collate, default_convert

from lightning_flip.data.labels import label_of
from lightning_flip.steps.targets import find_target

__all__ = ["CollateOrder"]

_BATCHES, _AT_MOST = 4, 50  # per worker: conclusive batches, and batches in total


class CollateOrder:
    """Compares the labels of samples with the labels of their collated batch, in the first batches of each worker.

    Two batches with the same labels in another order are no coincidence. A batch with different labels is not
    conclusive: a collate function may rename, mix or replace them. torch's own collate functions are not checked, nor
    are samples or batches whose labels cannot be found.
    """

    def __init__(self, collate: Any) -> None:
        own = collate in (default_collate, default_convert)
        self._left, self._at_most = (0, 0) if own else (_BATCHES, _AT_MOST)
        self._moved = 0

    def labels(self, samples: list[Any]) -> list[int] | None:
        """The labels of samples before a collate function may remove them; None if they are not compared."""
        if not self._left or not self._at_most:
            return None
        try:
            return [label_of(sample) for sample in samples]
        except Exception:  # they have none in a usual place
            self._left = 0
            return None

    def compare(self, own: list[int], batch: Any) -> str:
        """What is wrong with the order of a batch, as its samples' labels show it; "" for nothing."""
        self._at_most -= 1
        if len(set(own)) < 2:
            return ""
        self._left -= 1
        try:
            found = find_target(batch)
        except Exception:  # what is wrong with a batch is said where its target is needed
            return ""
        there = found.tolist()
        if there == own:
            return ""
        if found.ndim != 1 or sorted(there) != sorted(own):
            self._left = 0  # other labels, or none
            return ""
        self._moved += 1
        self._left += 1
        if self._moved < 2:
            return ""
        place = next(place for place, (before, after) in enumerate(zip(own, there, strict=True)) if before != after)
        return (
            f"collate_fn gives the labels of a batch in another order than its samples have: sample {place} has the "
            f"label {own[place]}, row {place} of the batch has {there[place]}. Samples are identified by "
            "their place in the batch. Sort in the sampler or in the step and keep the samples' order in the batch; "
            "or put an id for each sample into the batch and pass index_from=; or name the labels: target_from=."
        )
