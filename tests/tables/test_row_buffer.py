"""Rows of a pass: read in the order in which they came, whatever was moved, marked or kept by another rank."""

import os

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from lightning_flip.tables import RowBuffer


@pytest.mark.parametrize("chunk_bytes", [None, 1, 100])
def test_rows_are_read_in_order_without_those_that_are_marked(chunk_bytes):
    rows, index = RowBuffer(chunk_bytes), []
    assert rows.columns() == {}
    for n in range(20):
        piece = torch.tensor([3 * n, -1, 3 * n + 2])[: 1 + n % 3]
        rows.add(index=piece, probs=piece[:, None] / 2)
        index += piece.tolist()
        assert len(rows) == len(index)
        if n == 10:
            assert rows.columns(marked=True)["index"].tolist() == index
    found, kept = rows.columns(), [value for value in index if value >= 0]
    assert found["index"].tolist() == kept
    assert found["probs"][:, 0].tolist() == [value / 2 for value in kept]
    assert len(rows) == len(kept)
    assert rows.gathered(torch.device("cpu")) == [found]


def _gather(rank, folder):
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    rows, nothing = RowBuffer(), RowBuffer()
    if rank == 1:
        rows.add(index=torch.tensor([7, 5]), flag=torch.tensor([True, False]), probs=torch.ones(2, 3))
    first, second = rows.gathered(torch.device("cpu"))
    assert first["index"].tolist() == []
    assert first["probs"].shape == (0, 3)
    assert second["index"].tolist() == [7, 5]
    assert second["flag"].tolist() == [True, False]
    assert nothing.gathered(torch.device("cpu")) == [{}]
    dist.destroy_process_group()


def test_a_rank_without_rows_knows_the_columns(tmp_path):
    mp.start_processes(_gather, (str(tmp_path),), nprocs=2, start_method="fork")
