from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_flip.tables import SampleTable

VISITS = st.lists(
    st.lists(st.tuples(st.integers(0, 6), st.booleans(), st.floats(-5, 5)), max_size=8, unique_by=lambda v: v[0]),
    min_size=1,
    max_size=5,
)


@given(rounds=VISITS)
@settings(max_examples=60, deadline=None)
def test_rows_of_a_round_count_from_the_next_one(rounds):
    """Oracle: a dictionary per round, copied at its end."""
    table = SampleTable(7, 2, dtype=torch.float64)
    readable: dict[int, list[float]] = {}
    running: dict[int, list[float]] = {}
    everything = torch.arange(7)
    for visits in rounds:
        index = torch.tensor([v[0] for v in visits], dtype=torch.int64)
        rows = torch.tensor([[v[2], -v[2]] for v in visits], dtype=torch.float64).reshape(-1, 2)
        where = torch.tensor([v[1] for v in visits], dtype=torch.bool)
        table.update(index, rows, where)
        running.update({v[0]: [v[2], -v[2]] for v in visits if v[1]})
        expected = np.array([readable.get(i, [0.0, 0.0]) for i in range(7)])
        np.testing.assert_array_equal(table.rows(everything).numpy(), expected)
        assert table.seen(everything).tolist() == [i in readable for i in range(7)]
        pending, known = table.pending(everything)
        np.testing.assert_array_equal(pending.numpy(), [running.get(i, [0.0, 0.0]) for i in range(7)])
        assert known.tolist() == [i in running for i in range(7)]
        table.commit()
        readable = dict(running)


def test_state_goes_on_in_the_middle_of_a_round():
    first, second = SampleTable(3, 1), SampleTable(3, 1)
    first.update(torch.tensor([0]), torch.tensor([[1.0]]))
    first.commit()
    first.update(torch.tensor([0, 2]), torch.tensor([[5.0], [6.0]]))
    state = first.state_dict()
    assert set(state) == {"rows", "seen", "pending", "pending_seen"}
    second.load_state_dict(state)
    for table in (first, second):
        assert table.rows(torch.arange(3)).flatten().tolist() == [1.0, 0.0, 0.0]
        table.commit()
        assert table.rows(torch.arange(3)).flatten().tolist() == [5.0, 0.0, 6.0]
        assert set(table.state_dict()) == {"rows", "seen"}


def test_a_saved_state_is_a_copy():
    table = SampleTable(2, 1)
    state = table.state_dict()
    table.update(torch.tensor([0]), torch.tensor([[9.0]]))
    table.commit()
    assert state["rows"].tolist() == [[0.0], [0.0]]


def test_a_table_of_another_size_is_refused_and_nothing_changes():
    table = SampleTable(3, 2)
    table.update(torch.tensor([1]), torch.tensor([[1.0, 2.0]]))
    table.commit()
    with pytest.raises(ValueError, match=r"4 samples x 2 columns, this run needs 3 x 2"):
        table.load_state_dict(SampleTable(4, 2).state_dict())
    assert table.rows(torch.tensor([1])).tolist() == [[1.0, 2.0]]


@pytest.mark.parametrize(("size", "width"), [(0, 3), (3, 0), (-1, 1)])
def test_empty_tables_are_refused(size, width):
    with pytest.raises(ValueError, match="at least one row and one column"):
        SampleTable(size, width)


def test_wrong_rows_name_what_was_expected():
    with pytest.raises(ValueError, match=r"rows must be \[2, 3\].*got \[2, 4\]"):
        SampleTable(5, 3).update(torch.tensor([0, 1]), torch.zeros(2, 4))


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_the_bytes_that_are_said_are_the_bytes_that_are_taken(dtype):
    table = SampleTable(100, 7, dtype=dtype)
    tensors = [value for value in vars(table).values() if isinstance(value, torch.Tensor)]
    assert table.nbytes == sum(tensor.nbytes for tensor in tensors) == SampleTable.bytes_needed(100, 7, dtype)


def test_a_table_made_under_inference_mode_can_be_trained_on():
    with torch.inference_mode():
        table = SampleTable(2, 1)
        table.update(torch.tensor([0]), torch.tensor([[1.0]]))
    table.update(torch.tensor([1]), torch.tensor([[2.0]]))
    table.commit()
    weight = torch.ones(1, requires_grad=True)
    (table.rows(torch.tensor([1])) * weight).sum().backward()
    assert weight.grad.item() == 2.0
