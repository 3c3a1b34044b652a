"""A dense table with one row per sample, whose rows of the running epoch count from the next one."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lightning_flip.tables.merging import append_rows, gather_rows, is_distributed

__all__ = ["SampleTable"]

_TENSORS = ("_rows", "_seen", "_pending", "_pending_seen", "_unmerged")


class SampleTable:
    """One row of ``width`` numbers for every sample, kept across epochs.

    Two copies are held: the committed rows, which :meth:`rows` reads, and the pending rows of the running
    round, which :meth:`update` writes. :meth:`commit` makes the pending rows the committed ones, so that
    what an epoch stores is used from the next one on.

    The table is neither parameter nor buffer of a module: DDP would broadcast the buffers of rank 0 over
    the rows of the other ranks, weight averaging would average them, ``bf16-true`` would cast them.

    Args:
        num_samples: number of rows N.
        width: number of columns W.
        dtype: storage type; arithmetic is the caller's, in at least float32.
        device: device of the rows.

    Raises:
        ValueError: if a size is not positive.

    Example:
        >>> table = SampleTable(4, 2)
        >>> table.update(torch.tensor([1]), torch.tensor([[0.25, 0.75]]))
        >>> table.rows(torch.tensor([1])), table.seen(torch.tensor([1]))
        (tensor([[0., 0.]]), tensor([False]))
        >>> table.commit()
        >>> table.rows(torch.tensor([1])), table.seen(torch.tensor([1]))
        (tensor([[0.2500, 0.7500]]), tensor([True]))
        >>> table.nbytes
        76
    """

    def __init__(
        self, num_samples: int, width: int, *, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu"
    ) -> None:
        if num_samples < 1 or width < 1:
            raise ValueError(f"a table needs at least one row and one column; got {num_samples} x {width}.")
        self.num_samples = num_samples
        self.width = width
        self.dtype = dtype
        # A table made in a validation loop must not become an inference tensor, which training cannot write.
        with torch.inference_mode(False):
            self._rows = torch.zeros(num_samples, width, dtype=dtype, device=device)
            self._seen = torch.zeros(num_samples, dtype=torch.bool, device=device)
            self._pending = self._rows.clone()
            self._pending_seen = self._seen.clone()
            self._unmerged = self._seen.clone()
        self._clean = True

    @staticmethod
    def bytes_needed(num_samples: int, width: int, dtype: torch.dtype = torch.float32) -> int:
        """Bytes of both copies and their masks.

        Example:
            >>> SampleTable.bytes_needed(50_000, 100) / 1e6
            40.15
        """
        return num_samples * (2 * width * dtype.itemsize + 3)

    @property
    def nbytes(self) -> int:
        """Bytes that the table takes."""
        return self.bytes_needed(self.num_samples, self.width, self.dtype)

    @property
    def device(self) -> torch.device:
        """The device of the rows."""
        return self._rows.device

    def rows(self, index: Tensor) -> Tensor:
        """Committed rows ``[B, W]`` in the storage type."""
        return self._rows.index_select(0, index)

    def seen(self, index: Tensor) -> Tensor:
        """Whether a sample had a row when the last round ended, bool ``[B]``."""
        return self._seen.index_select(0, index)

    def pending(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """Rows ``[B, W]`` as they will be committed, and whether a sample has one, bool ``[B]``."""
        return self._pending.index_select(0, index), self._pending_seen.index_select(0, index)

    def pending_rows(self, index: Tensor) -> Tensor:
        """The rows of :meth:`pending`; zeros for a sample that has none."""
        return self._pending.index_select(0, index)

    def update(
        self,
        index: Tensor,
        rows: Tensor,
        where: Tensor | None = None,
        *,
        before: tuple[Tensor, Tensor] | None = None,
    ) -> None:
        """Write pending rows; no host synchronization.

        Args:
            index: int64 ``[B]`` without repeats (see ``SampleStep.once``).
            rows: ``[B, W]``.
            where: bool ``[B]``; rows where it is False are left as they are.
            before: what :meth:`pending` gave for the index, if it was asked; it is not read again then.

        Raises:
            ValueError: if the shapes do not fit.
        """
        if rows.shape != (index.shape[0], self.width):
            raise ValueError(
                f"rows must be [{index.shape[0]}, {self.width}] for {index.shape[0]} indices and a table of width "
                f"{self.width}; got {list(rows.shape)}."
            )
        rows = rows.to(self.dtype)
        merges = is_distributed()  # a process that is alone has nothing to merge
        if where is None:
            self._pending.index_copy_(0, index, rows)
            self._pending_seen.index_fill_(0, index, True)
            if merges:
                self._unmerged.index_fill_(0, index, True)
        else:
            old, seen = self.pending(index) if before is None else before
            self._pending.index_copy_(0, index, torch.where(where[:, None], rows, old))
            self._pending_seen.index_copy_(0, index, seen | where)
            if merges:
                self._unmerged.index_copy_(0, index, self._unmerged.index_select(0, index) | where)
        self._clean = False

    def commit(self) -> None:
        """End a round: pending rows become the ones that are read. A local operation."""
        if not self._clean:
            self._rows.copy_(self._pending)
            self._seen.copy_(self._pending_seen)
            self._clean = True

    @property
    def merged(self) -> bool:
        """Whether no row was written since the last :meth:`sync`; waits for the device."""
        return not bool(self._unmerged.any())

    def sync(self) -> None:
        """Merge the rows that the ranks wrote since the last call; a collective that every rank has to reach.

        A sample belongs to one rank in an epoch, so its row is copied bit by bit. Where a sampler gave it to
        several ranks (sampling with replacement), the highest of them wins.
        """
        if not is_distributed():
            self._unmerged.zero_()
            return
        index = self._unmerged.nonzero()[:, 0]
        for positions, rows in gather_rows(index, self._pending[index]):
            self._pending[positions] = rows
            self._pending_seen[positions] = True
            if len(positions):
                self._clean = False
        self._unmerged.zero_()

    def to(self, device: torch.device | str) -> SampleTable:
        """Move the table, and return it."""
        with torch.inference_mode(False):
            for name in _TENSORS:
                setattr(self, name, getattr(self, name).to(device))
        return self

    def grow(self, num_samples: int) -> None:
        """Append empty rows for a dataset that has grown to N."""
        if num_samples > self.num_samples:
            for name in _TENSORS:
                setattr(self, name, append_rows(getattr(self, name), num_samples))
            self.num_samples = num_samples

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to continue, tensors on the CPU; the pending copy only if it differs."""
        state = {"rows": self._rows, "seen": self._seen}
        if not self._clean:
            state |= {"pending": self._pending, "pending_seen": self._pending_seen}
        return {name: tensor.detach().cpu().clone() for name, tensor in state.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a saved state; one of another size is a ValueError, and changes nothing."""
        rows = state["rows"]
        if tuple(rows.shape) != (self.num_samples, self.width):
            raise ValueError(
                f"the saved table has {rows.shape[0]} samples x {rows.shape[1]} columns, this run needs "
                f"{self.num_samples} x {self.width}: the checkpoint is of another dataset or number of classes. "
                "Resume with the data it was made with, or start a new run."
            )
        self._rows.copy_(rows)
        self._seen.copy_(state["seen"])
        self._pending.copy_(state.get("pending", rows))
        self._pending_seen.copy_(state.get("pending_seen", state["seen"]))
        self._unmerged.zero_()
        self._clean = "pending" not in state
