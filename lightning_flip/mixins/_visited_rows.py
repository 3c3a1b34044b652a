"""Rows of a table that a step moves and reads at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from lightning_flip.steps import SampleStep

__all__ = ["VisitedRows", "rows_after_visits"]

Move = Callable[[Tensor, Tensor], Tensor]


class VisitedRows:
    """The rows that a batch's samples have after it, made once: a closure that runs again for a batch finds the same.

    Copied or pickled it is empty.

    Example:
        >>> from lightning_flip.tables import SampleTable
        >>> step, batch = SampleStep(torch.tensor([1]), torch.ones(1, 2), torch.tensor([0])), object()
        >>> table, rows = SampleTable(3, 2), VisitedRows()
        >>> def make():
        ...     return table.pending(step.index)[0] + 0.5
        >>> rows.after(step, batch, make)
        tensor([[0.5000, 0.5000]])
        >>> table.update(step.index, rows.of(step))
        >>> rows.after(step, batch, make).equal(rows.of(step)), rows.after(step, object(), make)[0, 0].item()
        (True, 1.0)
    """

    def __init__(self) -> None:
        self._batch: object = None
        self._rows: Tensor | None = None
        self._repeats = False

    def __deepcopy__(self, memo: dict[int, Any]) -> VisitedRows:
        return VisitedRows()

    def __reduce__(self) -> Any:
        return VisitedRows, ()

    def after(self, step: SampleStep, batch: object, make: Callable[[], Tensor]) -> Tensor:
        """Rows of a step's samples after the running batch. Returns ``[B, W]``."""
        if self._rows is None or self._batch is not batch:
            self._batch, self._rows, self._repeats = batch, make(), step.rounds is not None
        return self._rows

    def of(self, step: SampleStep) -> Tensor | None:
        """The rows as they are to be written.

        Returns ``[B, W]``; None where a sample comes twice, whose visits are written one by one.
        """
        if self._rows is None or self._repeats:
            return None
        count = len(step.index)
        return self._rows if count == len(self._rows) else self._rows[:count]

    def clear(self) -> None:
        """Release the batch."""
        self._batch = self._rows = None


def rows_after_visits(step: SampleStep, rows: Tensor, move: Move, said: Tensor | None = None) -> Tensor:
    """Each sample's row after its visit; a sample that the batch has twice goes on from where its first visit left it.

    A visit that is not valid moves nothing, as in the table.

    Returns ``[B, W]``, without gradient.

    Args:
        step: the step as a whole, padding included.
        rows: ``[B, W]``, before the batch.
        move: ``move(rows, said)``, one visit of some samples.
        said: ``[B, W]``, what a visit goes by; None: the logits, without gradient.

    Example:
        >>> from lightning_flip.steps.sample_step import rounds_of
        >>> index = torch.tensor([4, 2, 4])
        >>> step = SampleStep(index, torch.tensor([[1.0, 0], [2, 0], [3, 0]]), torch.zeros(3), rounds=rounds_of(index))
        >>> rows_after_visits(step, torch.zeros(3, 2), lambda rows, logits: rows + logits)[:, 0]
        tensor([1., 2., 4.])
    """
    said, valid = step.logits.detach() if said is None else said, step.valid
    moved = _moved(move, rows, said, valid)
    if step.rounds is None:
        return moved
    count = torch.arange(len(step.index), device=step.index.device)
    same = step.index[:, None] == step.index[None, :]
    before = torch.where(same & (count[None, :] < count[:, None]), count, 0).amax(dim=1)
    for again in step.rounds[1:]:
        places = again.to(before.device, non_blocking=True)
        moved[places] = _moved(move, moved[before[places]], said[places], None if valid is None else valid[places])
    return moved


def _moved(move: Move, rows: Tensor, said: Tensor, valid: Tensor | None) -> Tensor:
    moved = move(rows, said)
    return moved if valid is None else torch.where(valid[:, None], moved, rows)
