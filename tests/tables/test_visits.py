from __future__ import annotations

import itertools
import math
import statistics

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_flip.tables import VisitStatistics

N = 5
VISIT = st.tuples(st.integers(0, N - 1), st.booleans(), st.floats(-9, 9), st.floats(0, 1), st.booleans())
EPOCHS = st.lists(st.lists(VISIT, max_size=N, unique_by=lambda visit: visit[0]), min_size=1, max_size=6)


@given(epochs=EPOCHS)
@settings(max_examples=80, deadline=None)
def test_statistics_equal_lists_of_visits(epochs):
    """Oracle: every sample's visits in a list, summed up at the end."""
    stats = VisitStatistics(N)
    seen: dict[int, list[tuple[int, bool, float, float]]] = {sample: [] for sample in range(N)}
    for epoch, visits in enumerate(epochs):
        columns = list(zip(*visits, strict=True)) or [(), (), (), (), ()]
        stats.update(
            torch.tensor(columns[0], dtype=torch.int64),
            torch.tensor(columns[1], dtype=torch.bool),
            torch.tensor(columns[2], dtype=torch.float64),
            torch.tensor(columns[3], dtype=torch.float64),
            epoch=epoch,
            where=torch.tensor(columns[4], dtype=torch.bool),
        )
        for sample, right, margin, prob, counted in visits:
            if counted:
                seen[sample].append((epoch, right, margin, prob))
    for sample, visits in seen.items():
        rights = [visit[1] for visit in visits]
        assert stats.visits[sample] == len(visits)
        assert stats.times_right[sample] == sum(rights)
        assert bool(stats.ever_right[sample]) == any(rights)
        forgotten = sum(before and not after for before, after in itertools.pairwise(rights))
        assert stats.forgetting_events[sample] == forgotten
        learned = next((visit[0] for visit in visits if visit[1]), -1)
        assert stats.first_learned[sample] == learned
        if visits:
            probs = [visit[3] for visit in visits]
            assert math.isclose(stats.aum[sample], statistics.fmean(v[2] for v in visits), abs_tol=1e-12)
            assert math.isclose(stats.confidence[sample], statistics.fmean(probs), abs_tol=1e-12)
            assert math.isclose(stats.variability[sample], statistics.pstdev(probs), abs_tol=1e-7)
            assert math.isclose(stats.correctness[sample], sum(rights) / len(rights), abs_tol=1e-12)
        else:
            assert stats.aum[sample].isnan()
            assert stats.confidence[sample].isnan()


def test_a_visit_that_is_not_valid_cannot_poison_the_sums():
    stats = VisitStatistics(2)
    nan = torch.tensor([math.nan])
    stats.update(torch.tensor([0]), torch.tensor([True]), nan, nan, epoch=0, where=torch.tensor([False]))
    stats.update(torch.tensor([0]), torch.tensor([True]), torch.tensor([2.0]), torch.tensor([0.5]), epoch=1)
    assert stats.aum[0] == 2.0
    assert stats.visits[0] == 1


def test_state_goes_on():
    first, second = VisitStatistics(3), VisitStatistics(3)
    index = torch.tensor([0, 2])
    first.update(index, torch.tensor([True, False]), torch.ones(2), torch.ones(2), epoch=0, pred=torch.tensor([4, 1]))
    second.load_state_dict(first.state_dict())
    for stats in (first, second):
        stats.update(index, torch.tensor([False, True]), torch.zeros(2), torch.zeros(2), epoch=1)
    for name, value in first.state_dict().items():
        assert torch.equal(value, second.state_dict()[name]), name
    assert first.forgetting_events.tolist() == [1, 0, 0]
    assert first.last_pred.tolist() == [4, -1, 1]


def test_statistics_of_other_data_are_refused():
    with pytest.raises(ValueError, match="are of 4 samples, this run has 3"):
        VisitStatistics(3).load_state_dict(VisitStatistics(4).state_dict())
    with pytest.raises(ValueError, match="num_samples must be at least 1"):
        VisitStatistics(0)
