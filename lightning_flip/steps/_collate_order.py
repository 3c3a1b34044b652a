"""Whether a collate function keeps the order of its samples: positions are told by it."""

from __future__ import annotations

from typing import Any

from torch.utils.data import default_collate, default_convert

from lightning_flip.data.labels import label_of
from lightning_flip.steps.targets import find_target

__all__ = ["CollateOrder"]

_BATCHES, _RENAMED = 4, 50  # batches of a worker that are looked at; of them, those whose labels are renamed


class CollateOrder:
    """Compares the labels of samples with those of the batch that is made of them, in a worker's first batches.

    A collate function may rename labels, so that only this is asked for: equal labels stay equal. One of torch's own
    is not looked at, and neither are samples or batches whose labels are not found.
    """

    def __init__(self, collate: Any) -> None:
        own = collate in (default_collate, default_convert)
        self._left, self._renamed = (0, 0) if own else (_BATCHES, _RENAMED)
        self._names: dict[int, int] = {}

    def labels(self, samples: list[Any]) -> list[int] | None:
        """The labels of samples before they are collated, which may take them out; None where nobody looks."""
        if not self._left:
            return None
        try:
            return [label_of(sample) for sample in samples]
        except Exception:  # they have none in a usual place
            self._left = 0
            return None

    def compare(self, own: list[int], batch: Any) -> str:
        """What is wrong with the order of a batch, as its samples' labels show it; "" for nothing."""
        self._left -= 1
        try:
            found = find_target(batch)
        except Exception:  # what is wrong with a batch is said where its target is needed
            return ""
        there = found.tolist()
        if found.ndim != 1 or len(there) != len(own) or there == own:
            return ""
        if self._renamed:  # longer, until there is a contradiction
            self._renamed, self._left = self._renamed - 1, self._left + 1
        for place, (before, after) in enumerate(zip(own, there, strict=True)):
            first = self._names.setdefault(before, after)
            if first != after:
                return (
                    f"collate_fn gives sample {place} of a batch the label {after}, and another sample with the same "
                    f"label {before} got {first}: it reorders samples, or changes labels. Which sample a row of the "
                    "batch is, is told by its place. Sort in the sampler or in the step, and have the batch keep the "
                    "order of the samples; let it carry an id for each and pass index_from=; or, where labels are "
                    'meant to change, pass labels="may_change".'
                )
        return ""
