"""The running average equals loops, visit by visit."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_flip.functional import filter_path
from lightning_flip.tables import RunningAverage
from tests.callbacks.helpers import run_ranks
from tests.oracles.filter_kd import filtered

N, K = 9, 3


def some_probs(count, seed):
    return torch.randn(count, K, generator=torch.Generator().manual_seed(seed)).softmax(dim=1)


@settings(max_examples=30, deadline=None)
@given(st.floats(0.01, 1.0), st.booleans(), st.lists(st.sets(st.integers(0, N - 1), min_size=1), max_size=8))
def test_the_table_is_the_loop(alpha, begun, batches):
    table, visits = RunningAverage(N, K, alpha=alpha), []
    initial = some_probs(N, 1234) if begun else None
    if initial is not None:
        table.begin(initial)
    for seed, batch in enumerate(batches):
        index, probs = torch.tensor(sorted(batch)), some_probs(len(batch), seed)
        table.visit(index, probs)
        visits += list(zip(sorted(batch), probs.tolist(), strict=True))
    expected, visited = filtered(visits, N, K, alpha, initial)
    rows, seen = table.latest()
    np.testing.assert_allclose(rows.numpy(), expected, atol=2e-6)
    assert seen.tolist() == visited.tolist()
    assert rows.dtype == torch.float32


def test_a_sample_visited_every_time_is_the_filtered_path_bit_by_bit():
    path = torch.stack([some_probs(N, seed) for seed in range(20)])
    table, every = RunningAverage(N, K, alpha=0.05), torch.arange(N)
    for probs in path:
        table.visit(every, probs)
    assert torch.equal(table.latest()[0], filter_path(path, 0.05)[-1])


def test_rows_that_do_not_count_are_left_as_they_are():
    table = RunningAverage(N, K, alpha=0.5)
    table.visit(torch.tensor([2, 3]), some_probs(2, 0), torch.tensor([True, False]))
    nan = torch.full((2, K), torch.nan)
    table.visit(torch.tensor([2, 4]), nan, torch.tensor([False, False]))
    rows, seen = table.latest()
    assert torch.equal(rows[2], some_probs(2, 0)[0])
    assert seen.tolist() == [i == 2 for i in range(N)]
    assert not rows[[3, 4]].any()


def test_what_is_kept_does_not_move_and_comes_back_from_a_state():
    table = RunningAverage(N, K, alpha=0.3)
    table.begin(some_probs(N, 9))
    table.visit(torch.arange(4), some_probs(4, 0))
    table.commit()
    kept = table.kept()[0].clone()
    table.visit(torch.arange(6), some_probs(6, 1))
    assert torch.equal(table.kept()[0], kept)
    assert table.kept()[1].sum() == 4
    again = RunningAverage(N, K, alpha=0.3)
    again.load_state_dict(table.state_dict())
    for one in (table, again):
        one.visit(torch.tensor([8]), some_probs(1, 2))  # begun is in the state: no copy
    assert torch.equal(table.latest()[0], again.latest()[0])
    assert torch.equal(table.latest()[1], again.latest()[1])
    assert torch.equal(again.kept()[0], kept)


@pytest.mark.parametrize("alpha", [0.0, -0.1, 1.5, float("nan")])
def test_alpha(alpha):
    with pytest.raises(ValueError, match=r"alpha must be in \(0, 1\]"):
        RunningAverage(N, K, alpha=alpha)


def merge_two_ranks(path):
    import torch.distributed as dist

    from tests.tables.test_running_average import K, N, some_probs

    dist.init_process_group("gloo", rank=int(__import__("os").environ["LOCAL_RANK"]), world_size=2)
    table = RunningAverage(N, K, alpha=0.25)
    for epoch in range(3):
        mine = torch.arange(N)[dist.get_rank() ^ (epoch & 1) :: 2]  # samples change ranks
        table.visit(mine, some_probs(N, epoch)[mine])
        table.sync()
    torch.save(table.latest(), f"{path}-{dist.get_rank()}.pt")


def test_two_ranks_are_one(tmp_path):
    assert run_ranks(2, merge_two_ranks, str(tmp_path / "table")) == [0, 0]
    whole = filter_path(torch.stack([some_probs(N, epoch) for epoch in range(3)]), 0.25)[-1]
    for rank in range(2):
        rows, seen = torch.load(tmp_path / f"table-{rank}.pt")
        assert torch.equal(rows, whole)
        assert seen.all()
