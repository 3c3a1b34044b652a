"""Tables of 2 and 3 ranks against one process, in one process group per world size."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from lightning_flip.tables import SampleTable, VisitStatistics, gather_rows

N, EPOCHS = 7, 3


def _visits(epoch: int) -> list[tuple[int, bool, float, float]]:
    generator = torch.Generator().manual_seed(epoch)
    order = torch.randperm(N, generator=generator).tolist()
    values = torch.rand(N, 3, generator=generator, dtype=torch.float64)
    return [(s, bool(values[s, 0] > 0.5), float(values[s, 1] * 4 - 2), float(values[s, 2])) for s in order]


def _run(rank: int, world: int) -> tuple[SampleTable, VisitStatistics]:
    table, stats = SampleTable(N, 2, dtype=torch.float64), VisitStatistics(N)
    for epoch in range(EPOCHS):
        for sample, right, margin, prob in _visits(epoch)[rank::world]:
            index = torch.tensor([sample])
            old, _ = table.pending(index)
            table.update(index, old / 3 + torch.tensor([[prob, margin]], dtype=torch.float64), torch.tensor([right]))
            stats.update(index, torch.tensor([right]), torch.tensor([margin]), torch.tensor([prob]), epoch=epoch)
        if epoch == 1:
            table.sync()  # a checkpoint in between must not change what comes out
            stats.sync()
        table.sync()
        stats.sync()
        table.commit()
    return table, stats


def _rank(rank: int, world: int, folder: str) -> None:
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=world)
    table, stats = _run(rank, world)
    shared = VisitStatistics(2)  # every rank visits sample 0 in the same epoch
    for epoch in range(2):
        shared.update(
            torch.tensor([0]), torch.tensor([rank == 1]), torch.tensor([1.0]), torch.tensor([0.5]), epoch=epoch
        )
        shared.sync()
    ragged = gather_rows(torch.arange(rank), torch.full((rank, 2), rank > 0))
    torch.save(
        {"table": table.state_dict(), "stats": stats.state_dict(), "shared": shared.state_dict(), "ragged": ragged},
        f"{folder}/rank-{rank}.pt",
    )
    dist.destroy_process_group()


@pytest.mark.parametrize("world", [2, 3])
def test_ranks_merge_to_what_one_process_has(world: int, tmp_path: Path):
    mp.start_processes(_rank, (world, str(tmp_path)), nprocs=world, start_method="fork")
    table, stats = _run(0, 1)
    for rank in range(world):
        saved = torch.load(tmp_path / f"rank-{rank}.pt", weights_only=True)
        for name, value in table.state_dict().items():
            assert torch.equal(saved["table"][name], value), (rank, name)
        for name, value in stats.state_dict().items():
            assert torch.equal(saved["stats"][name], value), (rank, name)
        shared = VisitStatistics(2)
        shared.load_state_dict(saved["shared"])
        assert shared.visits.tolist() == [2 * world, 0]
        assert shared.times_right.tolist() == [2, 0]
        assert shared.first_learned.tolist() == [0, -1]
        assert shared.aum[0] == 1.0
        assert [part[0].tolist() for part in saved["ragged"]] == [list(range(r)) for r in range(world)]
        assert [part[1].dtype for part in saved["ragged"]] == [torch.bool] * world
