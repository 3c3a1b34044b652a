"""The rows of a pass, collected in pieces and read together when it is over."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor

from lightning_flip.tables.merging import gather_rows, is_distributed

__all__ = ["RowBuffer"]


class RowBuffer:
    """Columns of rows, each on the device where it was added until it is read.

    Args:
        chunk_bytes: rows on a device move to the host when they take more; None keeps them there.

    Example:
        >>> rows = RowBuffer()
        >>> rows.add(index=torch.tensor([4, -1]), pred=torch.tensor([0, 2]))
        >>> rows.add(index=torch.tensor([1]), pred=torch.tensor([1]))
        >>> len(rows), rows.columns()
        (3, {'index': tensor([4, 1]), 'pred': tensor([0, 1])})
    """

    def __init__(self, chunk_bytes: int | None = None) -> None:
        self.chunk_bytes = chunk_bytes
        self._waiting: list[dict[str, Tensor]] = []
        self._moved: list[dict[str, Tensor]] = []
        self._waiting_bytes = 0
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def add(self, /, **columns: Tensor) -> None:
        """Append rows; reads nothing from the device.

        Args:
            columns: one tensor ``[n, ...]`` per column, ``index`` among them; they are not copied. A negative index
                marks a row that is dropped when rows are read.
        """
        self._waiting.append(columns)
        self._count += len(columns["index"])
        if self.chunk_bytes is not None:
            self._waiting_bytes += sum(tensor.nbytes for tensor in columns.values())
            if self._waiting_bytes > self.chunk_bytes:
                self._move()

    def columns(self, *, marked: bool = False) -> dict[str, Tensor]:
        """All rows on the CPU, in the order in which they were added; waits for the device.

        Args:
            marked: also rows with a negative index.

        Returns:
            One tensor ``[n, ...]`` per column, as the buffer holds it; none if no rows were added.
        """
        self._move()
        if len(self._moved) > 1:
            self._moved = [_joined(self._moved)]
        rows = self._moved[0] if self._moved else {}
        if rows and not marked and (rows["index"] < 0).any():
            counted = rows["index"] >= 0
            self._moved = [{name: column[counted] for name, column in rows.items()}]
            self._count = int(counted.sum())
        return self._moved[0] if self._moved else {}

    def gathered(self, device: torch.device) -> list[dict[str, Tensor]]:
        """The rows of all ranks on the CPU, one dictionary per rank; a collective that every rank has to reach."""
        own = self.columns()
        if not is_distributed():
            return [own]
        # A rank without rows has to know the columns before tensors are exchanged.
        layouts: list[dict[str, Tensor]] = [{} for _ in range(dist.get_world_size())]
        dist.all_gather_object(layouts, {name: column[:0].clone() for name, column in own.items()})
        own = own or next((layout for layout in layouts if layout), {})
        if not own:
            return [own]
        ranks = gather_rows(*(column.to(device) for column in own.values()))
        return [dict(zip(own, (column.cpu() for column in columns), strict=True)) for columns in ranks]

    def _move(self) -> None:
        if self._waiting:
            self._moved.append({name: column.cpu() for name, column in _joined(self._waiting).items()})
        self._waiting, self._waiting_bytes = [], 0


def _joined(pieces: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """One piece; its columns are on the devices of the last one's, for those of a checkpoint are on the CPU."""
    last = pieces[-1]
    return {name: torch.cat([piece[name].to(column.device) for piece in pieces]) for name, column in last.items()}
