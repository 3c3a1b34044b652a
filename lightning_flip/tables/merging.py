"""Bringing the rows that each rank wrote together on every rank."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor

__all__ = ["append_rows", "gather_rows", "is_distributed", "sum_over_ranks"]


def is_distributed() -> bool:
    """Whether this is an initialized process group of more than one rank.

    Example:
        >>> is_distributed()
        False
    """
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def sum_over_ranks(counts: Tensor) -> Tensor:
    """Add tensors of one shape up over all ranks, in place; a collective that every rank has to reach.

    Example:
        >>> sum_over_ranks(torch.tensor([3, 1]))
        tensor([3, 1])
    """
    if is_distributed():
        dist.all_reduce(counts)
    return counts


def gather_rows(index: Tensor, *columns: Tensor) -> list[tuple[Tensor, ...]]:
    """Exchange rows between all ranks; a collective that every rank has to reach.

    Args:
        index: int64 ``[n]`` positions of this rank's rows; n may differ between ranks and may be 0.
        columns: tensors ``[n, ...]`` with the same leading size.

    Returns:
        One tuple ``(index, *columns)`` per rank, in rank order; without a process group just this rank's.

    Example:
        >>> gather_rows(torch.tensor([2]), torch.tensor([0.5]))
        [(tensor([2]), tensor([0.5000]))]
    """
    if not is_distributed():
        return [(index, *columns)]
    world = dist.get_world_size()
    count = torch.tensor([index.shape[0]], device=index.device)
    counts = [torch.zeros_like(count) for _ in range(world)]
    dist.all_gather(counts, count)
    sizes = [int(size) for size in counts]
    longest = max(sizes)
    per_column = []
    for column in (index, *columns):
        wire = column.to(torch.uint8) if column.dtype == torch.bool else column
        padded = wire.new_zeros((longest, *wire.shape[1:]))
        padded[: wire.shape[0]] = wire
        received = [torch.empty_like(padded) for _ in range(world)]
        if longest:
            dist.all_gather(received, padded)
        per_column.append([rows[:size].to(column.dtype) for rows, size in zip(received, sizes, strict=True)])
    return [tuple(column[rank] for column in per_column) for rank in range(world)]


def append_rows(rows: Tensor, num_samples: int, fill: float = 0) -> Tensor:
    """Make a table ``[n, ...]`` N >= n rows long; new rows hold ``fill``.

    Example:
        >>> append_rows(torch.tensor([5]), 3, fill=-1)
        tensor([ 5, -1, -1])
    """
    with torch.inference_mode(False):
        return torch.cat([rows, rows.new_full((num_samples - len(rows), *rows.shape[1:]), fill)])
