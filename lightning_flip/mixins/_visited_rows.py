"""Rows of a table that a step changes and reads at once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from lightning_flip.mixins._holder import Holder
from lightning_flip.steps import SampleStep

__all__ = ["VisitedRows", "rows_after_visits"]

Move = Callable[[Tensor, Tensor], Tensor]


@dataclass(eq=False)
class VisitedRows(Holder):
    """The rows of a batch's samples after it, made once: a closure that runs again for a batch finds the same.

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

    _batch: object = field(default=None, init=False)
    _rows: Tensor | None = field(default=None, init=False)
    _repeats: bool = field(default=False, init=False)

    def after(self, step: SampleStep, batch: object, make: Callable[[], Tensor]) -> Tensor:
        """Rows ``[B, W]`` of a step's samples after the running batch."""
        if self._rows is None or self._batch is not batch:
            self._batch, self._rows, self._repeats = batch, make(), step.rounds is not None
        return self._rows

    def of(self, step: SampleStep) -> Tensor | None:
        """The rows to be written ``[B, W]``; None if a sample comes twice, as its visits are written one by one."""
        if self._rows is None or self._repeats:
            return None
        count = len(step.index)
        return self._rows if count == len(self._rows) else self._rows[:count]

    def clear(self) -> None:
        """Release the batch."""
        self._batch = self._rows = None


def rows_after_visits(step: SampleStep, rows: Tensor, move: Move, given: Tensor | None = None) -> Tensor:
    """Each sample's row ``[B, W]`` after its visit; a sample's second visit in a batch starts from its first.

    A visit that is not valid changes nothing, as in the table. ``step`` is the whole step, with padding; ``rows``
    ``[B, W]`` are those before the batch; ``move(rows, given)`` is one visit of some samples, and ``given`` ``[B, W]``
    what it uses, by default the logits without gradient.

    Example:
        >>> from lightning_flip.steps.sample_step import rounds_of
        >>> index = torch.tensor([4, 2, 4])
        >>> step = SampleStep(index, torch.tensor([[1.0, 0], [2, 0], [3, 0]]), torch.zeros(3), rounds=rounds_of(index))
        >>> rows_after_visits(step, torch.zeros(3, 2), lambda rows, logits: rows + logits)[:, 0]
        tensor([1., 2., 4.])
    """
    given, valid = step.logits.detach() if given is None else given, step.valid
    moved = _moved(move, rows, given, valid)
    if step.rounds is None:
        return moved
    count = torch.arange(len(step.index), device=step.index.device)
    same = step.index[:, None] == step.index[None, :]
    before = torch.where(same & (count[None, :] < count[:, None]), count, 0).amax(dim=1)
    for again in step.rounds[1:]:
        places = again.to(before.device, non_blocking=True)
        moved[places] = _moved(move, moved[before[places]], given[places], None if valid is None else valid[places])
    return moved


def _moved(move: Move, rows: Tensor, given: Tensor, valid: Tensor | None) -> Tensor:
    moved = move(rows, given)
    return moved if valid is None else torch.where(valid[:, None], moved, rows)
