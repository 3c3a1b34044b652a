"""Whether a collate function keeps the order of its samples: positions are told by it."""

from __future__ import annotations

from typing import Any

from torch.utils.data import default_collate, default_convert

from lightning_flip.data.labels import label_of
from lightning_flip.steps.targets import find_target

__all__ = ["CollateOrder"]

_BATCHES, _AT_MOST = 4, 50  # batches of a worker that can tell, and that are looked at in all


class CollateOrder:
    """Compares the labels of samples with those of the batch that is made of them, in a worker's first batches.

    Two batches that have the labels of their samples in another order are not by chance. A batch that has other labels
    tells nothing: a collate function may rename them, mix them, or give something else in their place. One of torch's
    own is not looked at, and neither are samples or batches whose labels are not found.
    """

    def __init__(self, collate: Any) -> None:
        own = collate in (default_collate, default_convert)
        self._left, self._at_most = (0, 0) if own else (_BATCHES, _AT_MOST)
        self._moved = 0

    def labels(self, samples: list[Any]) -> list[int] | None:
        """The labels of samples before they are collated, which may take them out; None where nobody looks."""
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
            f"label {own[place]}, row {place} of the batch has {there[place]}. Which sample a row is, is told by its "
            "place. Sort in the sampler or in the step, and have the batch keep the order of the samples; let it carry "
            "an id for each and pass index_from=; or say where the labels are: target_from=."
        )
