"""Which training samples a recording of learning paths follows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from lightning_flip.callbacks._scores import (
    add_predictions,
    difficulty_of,
    highest,
    loaded_sums,
    sums_for,
    true_distributions,
)
from lightning_flip.data.labels import kept_labels
from lightning_flip.steps import SampleStep
from lightning_flip.tables import PredictionSums

__all__ = ["PathChoice", "check_samples"]

SELECTIONS = ("zigzag", "difficulty")


def check_samples(samples: Sequence[int] | None, k: int | None, select: str) -> list[int]:
    """Check which samples a recording follows; returns their indices, none if they are chosen later.

    Example:
        >>> check_samples([4, 0], None, "zigzag")
        [4, 0]
    """
    if (samples is None) == (k is None):
        raise ValueError("say which samples to record: either samples=[...] or k=, not both and not neither.")
    if select not in SELECTIONS:
        raise ValueError(f"select must be one of {', '.join(map(repr, SELECTIONS))}; got {select!r}.")
    if samples is None:
        if k is None or k < 1:
            raise ValueError(f"k must be at least 1; got {k}.")
        return []
    indices = [int(sample) for sample in samples]
    if not indices or min(indices) < 0 or len(set(indices)) != len(indices):
        raise ValueError(f"samples must be one or more different indices from 0; got {list(samples)}.")
    return indices


class PathChoice:
    """The chosen samples: given ones, or the k of the highest zig-zag or base difficulty.

    Attributes:
        chosen: indices that are recorded now.
        counting: whether every step of training has to be added up.
        sums: the table of all samples that zig-zag scores come from; None until the first step, or not needed.
    """

    def __init__(self, samples: list[int], k: int | None, select: str, num_samples: int | None) -> None:
        self.k = k
        self.select = select
        self.num_samples = num_samples
        self.counting = k is not None and select == "zigzag"
        self.sums: PredictionSums | None = None
        self.choose(samples)

    @property
    def size(self) -> int:
        """How many samples are recorded at a time, at most."""
        return len(self.chosen) if self.k is None else self.k

    def choose(self, samples: list[int]) -> None:
        """Record these from now on."""
        self.chosen = samples
        self._members = frozenset(samples)

    def rows_in(self, index: Sequence[int]) -> list[int]:
        """Where chosen samples are in a batch.

        Example:
            >>> PathChoice([4, 0], None, "zigzag", None).rows_in([3, 4, 9, 0])
            [1, 3]
        """
        if self._members.isdisjoint(index):
            return []
        return [row for row, sample in enumerate(index) if sample in self._members]

    def start(self, dataset: Any) -> None:
        """Check given samples, and choose the difficult ones, before training."""
        size = self.num_samples if dataset is None else len(dataset)
        if self.k is None:
            if size is not None and max(self.chosen) >= size:
                raise ValueError(
                    f"samples= names {max(self.chosen)}, and there are {size} training samples; indices count from 0 "
                    "in the dataset given to the DataLoader."
                )
            return
        if self.select == "difficulty" and not self.chosen:
            labels = None if dataset is None else kept_labels(dataset)
            true_probs = None if labels is None else true_distributions(dataset)
            if labels is None or true_probs is None:
                raise ValueError(
                    'select="difficulty" needs a dataset that keeps its labels (targets, labels, or a TensorDataset) '
                    "and has a method true_distribution(index), such as LabelDistributions(dataset, probs). Give it "
                    'one, or use select="zigzag" or samples=.'
                )
            self.choose(highest(difficulty_of(true_probs, torch.from_numpy(labels)), self.k))

    def prepare(self, step: SampleStep) -> None:
        """Make the table of sums, if it is needed and there is none yet."""
        if self.counting:
            self.sums = sums_for("LearningPath", self.sums, step, self.num_samples)

    def see(self, step: SampleStep) -> None:
        """Add a step's predictions up."""
        self.prepare(step)
        if self.sums is not None:
            add_predictions(self.sums, step)

    def end_epoch(self) -> bool:
        """Merge the ranks' sums and choose anew, a collective; whether other samples are recorded from now on."""
        if not self.counting or self.sums is None:
            return False
        assert self.k is not None
        self.sums.sync()
        chosen = highest(self.sums.zigzag(), self.k)
        changed = chosen != self.chosen
        self.choose(chosen)
        return changed

    def state_dict(self, *, merge: bool) -> dict[str, Any]:
        """Everything needed to continue: tensors and numbers."""
        if merge and self.sums is not None:
            self.sums.sync()
        return {"chosen": list(self.chosen), "sums": None if self.sums is None else self.sums.state_dict()}

    def load_state_dict(self, state: dict[str, Any], device: torch.device) -> None:
        """Continue from a saved state."""
        if self.k is not None:
            self.choose(list(state["chosen"])[: self.k])
            self.sums = None if state["sums"] is None else loaded_sums(state["sums"], device)
