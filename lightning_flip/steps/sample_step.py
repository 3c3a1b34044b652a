"""What happened to every sample of a batch, or of the batches of a block."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from lightning_flip.functional.losses import widen
from lightning_flip.functional.predictions import Predictions, describe_predictions

__all__ = ["SampleStep", "rounds_of"]

_PIECE_BYTES = 640_000  # of logits: what fits into a core's cache is worked through two to three times as fast


@dataclass(frozen=True)
class SampleStep:
    """One batch, or several consecutive batches of one epoch, as every part of this package sees them.

    Attributes:
        index: int64 ``[B]``, each sample's position in the dataset given to the DataLoader.
        logits: float ``[B, K]`` as the network gave them (in training with their graph); a module with one
            logit ``z`` counts as ``[0, z]``.
        target: int64 labels ``[B]`` in ``[0, K)``, or float ``[B, K]`` distributions (MixUp, CutMix).
        features: float ``[B, D]`` that entered the classifier layer, if requested.
        inputs: positional and keyword arguments of the forward whose logits these are.
        valid: bool ``[B]``, False where logits are not finite, a label is outside ``[0, K)``, or the loss leaves the
            sample out (``ignore_index``); None when all rows are valid. Others are never stored, nor counted.
        num_padding: trailing rows that a DistributedSampler added to make the ranks equally long.
        rounds: row positions split so that no index repeats within a round; None when none repeats at all.
        num_samples: length of the dataset that the index points into; None where it has none.
        largest_index: the largest index, known on the host; None for a single step that ``num_samples`` bounds.
        has_target: False for data to predict that have no labels; ``target`` is 0 for all of them.
        dataset: the dataset that the index points into; None if the batches carry their samples' ids themselves.
        epoch: the Trainer's ``current_epoch``; -1 for a step that no Trainer ran.
        batch: number of the batch in its epoch; -1 for the rows of several, and for a step that is running.
        global_step: int64 ``[B]`` on the CPU, optimizer steps taken before each prediction; None for a single batch.
        samples: the index as a list on the host; None for a single batch.
        choice: how the logits were found; None for the rows of a block.
        data: what is known of the dataset while a Trainer runs.

    Example:
        >>> step = SampleStep(torch.tensor([7, 2]), torch.tensor([[2.0, 0.0], [1.0, 3.0]]), torch.tensor([0, 0]))
        >>> step.num_classes, step.predictions.pred.tolist(), step.predictions.logit_margin.tolist()
        (2, [0, 1], [2.0, -2.0])
    """

    index: Tensor
    logits: Tensor
    target: Tensor
    features: Tensor | None = None
    inputs: tuple[tuple[Any, ...], dict[str, Any]] = ((), {})
    valid: Tensor | None = None
    num_padding: int = 0
    rounds: tuple[Tensor, ...] | None = None
    num_samples: int | None = None
    largest_index: int | None = None
    has_target: bool = True
    dataset: Any = None
    epoch: int = -1
    batch: int = -1
    global_step: Tensor | None = None
    samples: Sequence[int] | None = None
    choice: Any = None
    data: Any = None

    @property
    def num_classes(self) -> int:
        """Number of classes K."""
        return int(self.logits.shape[1])

    @property
    def has_labels(self) -> bool:
        """Whether the targets are class labels (and not distributions)."""
        return self.target.ndim == 1

    @property
    def index_of_valid(self) -> Tensor:
        """The index, -1 for rows that are not valid: they are dropped when the host has them."""
        return self.index if self.valid is None else torch.where(self.valid, self.index, -1)

    def require_below(self, num_samples: int) -> None:
        """Refuse ids without a row in a table, before a device would write there.

        Args:
            num_samples: rows of the table.

        Raises:
            ValueError: if an id is as large or larger.
        """
        if self.largest_index is None or self.largest_index < num_samples:
            return
        if self.num_samples == num_samples:
            raise ValueError(
                f"a batch has the sample {self.largest_index} of a dataset of {num_samples} samples: its sampler and "
                "its length do not agree. Give the dataset the length of what the sampler draws from."
            )
        if self.num_samples is not None:
            raise ValueError(
                f"a batch has the sample {self.largest_index}, and num_samples={num_samples} has room for those below "
                "it. Leave num_samples= out: the dataset's length is known."
            )
        raise ValueError(
            f"the batch carries the id {self.largest_index}, and num_samples={num_samples} has room for ids below "
            "it. Pass num_samples=, one more than the largest id of the whole data."
        )

    def table_size(self, num_samples: int | None) -> int:
        """How many rows a table of all samples has.

        Args:
            num_samples: the user's option; None: the dataset's length.

        Returns:
            N.

        Raises:
            ValueError: if the number is unknown, or a sample has no row.
        """
        size = self.num_samples if num_samples is None else num_samples
        if size is None:
            raise ValueError(
                "the batches carry their index themselves, so that the number of samples is unknown. "
                "Pass num_samples=, one more than the largest index."
            )
        self.require_below(size)
        return size

    def detached(self) -> SampleStep:
        """The same step with logits outside the graph, in at least float32, and features outside of it.

        Half precision logits are widened before any arithmetic: at a temperature of 100, bfloat16 gives a
        divergence that is wrong by a factor of 2.5.
        """
        logits = self.logits.detach()
        features = None if self.features is None else self.features.detach()
        return replace(self, logits=widen(logits), features=features)

    @cached_property
    def observed(self) -> SampleStep:
        """The step as everything that stores something sees it: detached, in float32, without padding."""
        return self.detached().recorded()

    @cached_property
    def predictions(self) -> Predictions:
        """Predicted classes, probabilities, margins and cross entropies, computed once for all that look."""
        pieces = [describe_predictions(logits, target) for logits, target in self._split()]
        return pieces[0] if len(pieces) == 1 else Predictions(*map(torch.cat, zip(*pieces, strict=True)))

    @property
    def cross_entropy(self) -> Tensor:
        """-log p_y of every row in nats, computed alone unless :attr:`predictions` are known already."""
        if "predictions" in vars(self):
            return self.predictions.cross_entropy
        last = self.num_classes - 1
        return torch.cat([cross_entropy(z, y.clamp(0, last), reduction="none") for z, y in self._split()])

    def _split(self) -> Iterator[tuple[Tensor, Tensor]]:
        rows = self._rows_of_a_piece
        return zip(torch.split(self.logits, rows), torch.split(self.target, rows), strict=True)

    @property
    def _rows_of_a_piece(self) -> int:
        width = self.num_classes * self.logits.element_size()
        return max(1, _PIECE_BYTES // width if self.logits.device.type == "cpu" else len(self.logits))

    def recorded(self) -> SampleStep:
        """The rows that count: without those that a DistributedSampler only repeats as padding."""
        return replace(self.until(len(self.index) - self.num_padding), num_padding=0) if self.num_padding else self

    def once(self) -> Iterator[SampleStep]:
        """The step in pieces in which every index is unique, in order of appearance.

        A sample that a sampler draws twice into one batch was visited twice; a scatter of both rows at
        once would keep an arbitrary one.
        """
        if self.rounds is None:
            yield self
            return
        for rows in self.rounds:
            if rows.numel():
                yield replace(self._take(rows.to(self.index.device, non_blocking=True), rows), rounds=None)

    def pieces(self) -> Iterator[SampleStep]:
        """The parts of :meth:`once`, cut small enough for ``[B, K]`` work to stay in a CPU's cache."""
        for part in self.once():
            rows = part._rows_of_a_piece
            if len(part.index) <= rows:
                yield part
            else:
                for start in range(0, len(part.index), rows):
                    yield part._take(slice(start, start + rows))

    def rows_at(self, places: np.ndarray) -> SampleStep:
        """Some of the rows, in their order.

        Args:
            places: of the rows, ascending.
        """
        on_host = torch.from_numpy(places)
        taken = self._take(on_host.to(self.index.device), on_host)
        samples = None if self.samples is None else [self.samples[place] for place in places]
        return replace(taken, samples=samples, rounds=self.rounds and rounds_of(taken.index.cpu()))

    def until(self, row: int) -> SampleStep:
        """The rows before one."""
        rounds = self.rounds and tuple(rows[rows < row] for rows in self.rounds)
        return replace(self._take(slice(0, row)), rounds=rounds)

    def _take(self, rows: Any, on_host: Any = None) -> SampleStep:
        """Some rows, by a slice or by a tensor on the device, which is given on the host as well."""
        on_host = rows if on_host is None else on_host
        taken = replace(
            self,
            index=self.index[rows],
            logits=self.logits[rows],
            target=self.target[rows],
            features=None if self.features is None else self.features[rows],
            valid=None if self.valid is None else self.valid[rows],
            global_step=None if self.global_step is None else self.global_step[on_host],
            samples=self.samples[rows] if self.samples is not None and isinstance(rows, slice) else None,
        )
        if "predictions" in vars(self):  # computed already, and a cached property is not a field
            vars(taken)["predictions"] = Predictions(*(fact[rows] for fact in self.predictions))
        return taken


def rounds_of(index: Tensor | Sequence[int]) -> tuple[Tensor, ...] | None:
    """Split row positions so that no index repeats within a part.

    Args:
        index: B samples, in a list or int64 ``[B]`` on the CPU.

    Returns:
        None when all are different (the usual case), else the first visits, the second visits, and so on.

    Example:
        >>> rounds_of([3, 1, 2]) is None
        True
        >>> [rows.tolist() for rows in rounds_of([3, 1, 3, 3])]
        [[0, 1], [2], [3]]
    """
    positions = index.tolist() if isinstance(index, Tensor) else index
    if len(set(positions)) == len(positions):
        return None
    seen: dict[int, int] = {}
    rounds: list[list[int]] = []
    for row, position in enumerate(positions):
        visit = seen.get(position, 0)
        seen[position] = visit + 1
        if visit == len(rounds):
            rounds.append([])
        rounds[visit].append(row)
    return tuple(torch.tensor(rows) for rows in rounds)
