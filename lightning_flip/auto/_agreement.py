"""What all ranks agree on before they do something together."""

from __future__ import annotations

from typing import NamedTuple

import lightning.pytorch as pl
import torch
import torch.distributed as dist

from lightning_flip.tables import is_distributed

__all__ = ["Agreement", "agree"]


class Agreement(NamedTuple):
    """What the ranks said.

    Attributes:
        failed: the first rank that has failed, or -1.
        same: whether all said the same.
        ready: whether all are ready.
    """

    failed: int
    same: bool
    ready: bool


def agree(trainer: pl.Trainer, *, failed: bool, ready: bool, count: int = 0) -> Agreement:
    """Hear what every rank says; a collective that every rank has to reach, also one that has failed."""
    if not is_distributed():
        return Agreement(0 if failed else -1, True, ready)
    world, rank = dist.get_world_size(), dist.get_rank()
    said = torch.tensor(
        [rank if failed else world, int(ready), -int(ready), count, -count], device=trainer.strategy.root_device
    )
    dist.all_reduce(said, op=dist.ReduceOp.MIN)
    first, least, most, fewest, largest = said.tolist()
    return Agreement(-1 if first == world else first, least == -most and fewest == -largest, bool(least))
