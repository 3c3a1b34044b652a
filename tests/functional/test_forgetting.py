from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torch import Tensor

from lightning_flip.functional.forgetting import (
    flipping_error,
    forgetting_events,
    never_learned,
    relative_flipping_error,
    wrongly_flipped,
)
from tests.oracles import flips as oracle

histories = arrays(np.bool_, st.tuples(st.integers(1, 6), st.integers(0, 8)))


@settings(deadline=None)
@given(histories)
def test_every_selected_epoch_matches_the_loop(history: np.ndarray) -> None:
    correct = torch.from_numpy(history)
    epochs = len(history)
    for row in range(epochs):
        fe, rfe = oracle.flipping_errors(history, row)
        for selected in (row, row - epochs):
            assert wrongly_flipped(correct, selected).tolist() == oracle.wrongly_flipped(history, row)
            assert flipping_error(correct, selected).item() == pytest.approx(fe)
            assert relative_flipping_error(correct, selected).item() == pytest.approx(rfe)
    assert torch.equal(wrongly_flipped(correct), wrongly_flipped(correct, epochs - 1))


@settings(deadline=None)
@given(histories)
def test_forgetting_events_match_the_loop(history: np.ndarray) -> None:
    events = forgetting_events(torch.from_numpy(history))
    assert events.dtype == torch.int64
    assert events.tolist() == oracle.forgetting_events(history)


@settings(deadline=None)
@given(histories)
def test_what_holds_between_them(history: np.ndarray) -> None:
    correct = torch.from_numpy(history)
    flipped, events, never = wrongly_flipped(correct), forgetting_events(correct), never_learned(correct)
    assert not (never & (flipped | (events > 0))).any()
    assert (events[flipped] >= 1).all()  # somewhere between the right epoch and the wrong end it was lost
    assert (events <= len(history) // 2).all()
    error_rate = (~correct[-1]).float().mean().item() if correct.shape[1] else 0.0
    assert flipping_error(correct).item() == pytest.approx(relative_flipping_error(correct).item() * error_rate)


def test_a_worked_history() -> None:
    correct = torch.tensor(
        [
            # kept   lost  regained  never  late
            [True, True, True, False, False],
            [True, False, False, False, False],
            [True, True, True, False, False],
            [True, False, True, False, True],
        ]
    )
    assert wrongly_flipped(correct).tolist() == [False, True, False, False, False]
    assert wrongly_flipped(correct, 1).tolist() == [False, True, True, False, False]
    assert forgetting_events(correct).tolist() == [0, 2, 1, 0, 0]
    assert never_learned(correct).tolist() == [False, False, False, True, False]
    assert (flipping_error(correct), relative_flipping_error(correct)) == (pytest.approx(0.2), 0.5)


@pytest.mark.parametrize("right", [True, False])
def test_all_right_and_all_wrong(right: bool) -> None:
    correct = torch.full((3, 4), right)
    assert flipping_error(correct) == 0
    assert relative_flipping_error(correct) == 0
    assert forgetting_events(correct).tolist() == [0] * 4
    assert never_learned(correct).all().item() is not right


def test_no_samples_and_no_epochs() -> None:
    nobody = torch.zeros(3, 0, dtype=torch.bool)
    assert flipping_error(nobody) == 0
    assert relative_flipping_error(nobody) == 0
    assert forgetting_events(nobody).shape == (0,)
    unvisited = torch.zeros(0, 3, dtype=torch.bool)
    assert forgetting_events(unvisited).tolist() == [0, 0, 0]
    assert never_learned(unvisited).all()


@pytest.mark.parametrize("rate", [flipping_error, relative_flipping_error])
def test_rates_are_float32_scalars_under_any_default_dtype(rate: Callable[[Tensor], Tensor]) -> None:
    correct = torch.zeros(2, 1001, dtype=torch.bool)
    correct[0, :333] = True
    torch.set_default_dtype(torch.bfloat16)
    try:
        value = rate(correct)
    finally:
        torch.set_default_dtype(torch.float32)
    assert (value.dtype, value.shape) == (torch.float32, ())
    assert value.item() == pytest.approx(333 / 1001, rel=1e-6)


@pytest.mark.usefixtures("own_checks")
@pytest.mark.parametrize(
    "function", [wrongly_flipped, flipping_error, relative_flipping_error, forgetting_events, never_learned]
)
@pytest.mark.parametrize(
    ("correct", "error", "message"),
    [
        (torch.zeros(3, 2), TypeError, "correct must be boolean; got torch.float32"),
        (torch.zeros(3, dtype=torch.bool), ValueError, r"correct must be a boolean matrix \[epochs, N\]; got .*\(3,\)"),
    ],
)
def test_errors_name_correct(
    function: Callable[[Tensor], Tensor], correct: Tensor, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        function(correct)


@pytest.mark.parametrize("function", [wrongly_flipped, flipping_error, relative_flipping_error])
@pytest.mark.parametrize(("epochs", "selected"), [(3, 3), (3, -4), (0, -1), (0, 0)])
def test_an_epoch_that_is_not_there(function: Callable[[Tensor, int], Tensor], epochs: int, selected: int) -> None:
    with pytest.raises(ValueError, match=rf"selected must be an epoch of correct, .*\({epochs}, 2\); got {selected}\."):
        function(torch.zeros(epochs, 2, dtype=torch.bool), selected)
