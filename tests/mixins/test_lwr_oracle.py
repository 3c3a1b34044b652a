"""LWR through a real Trainer against the numpy loop, for rounds of one, two and three epochs."""

from __future__ import annotations

from typing import Any

import pytest

from lightning_flip.functional import _closed_form
from lightning_flip.mixins import LearningWithRetrospection
from tests.mixins.helpers import (
    LR,
    D,
    H,
    LitNet,
    as_torch,
    differences,
    inputs,
    labels,
    loader,
    shuffled_batches,
    train,
)
from tests.oracles.retrospection import LwrOptions, LwrTrace, NumpyNet, cross_entropy_loop, lwr_loop

EPOCHS = 7


class Retrospective(LearningWithRetrospection, LitNet):
    """The mixin in front of a user's module."""


def expected(classes: int, **options: Any) -> LwrTrace:
    net = NumpyNet.random(D, H, classes, seed=0)
    oracle = LwrOptions(**{"total_epochs": EPOCHS, **options})
    return lwr_loop(net, inputs(), labels(classes), shuffled_batches(EPOCHS), oracle, LR)


def found(classes: int, trace: LwrTrace, **options: Any) -> list[str]:
    net = NumpyNet.random(D, H, classes, seed=0)
    model = Retrospective(as_torch(net), **options)
    data = loader(inputs(), labels(classes), shuffled_batches(EPOCHS))
    recorder = train(model, data, "retrospection", max_epochs=EPOCHS)
    return differences(model, recorder, trace)


@pytest.mark.parametrize(("interval", "temperature", "classes"), [(1, 5.0, 4), (2, 1.0, 4), (2, 5.0, 2), (3, 5.0, 4)])
def test_a_run_is_the_numpy_loop(interval: int, temperature: float, classes: int) -> None:
    trace = expected(classes, interval=interval, temperature=temperature)
    assert found(classes, trace, lwr_interval=interval, lwr_temperature=temperature) == []


@pytest.mark.parametrize(("interval", "temperature", "fused"), [(1, 5.0, True), (2, 1.0, False)])
def test_samples_without_a_row_can_be_drawn_to_the_uniform_distribution(
    interval: int, temperature: float, fused: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_closed_form, "FUSED", fused)
    trace = expected(4, interval=interval, temperature=temperature, unvisited="uniform")
    assert not trace.readable[interval - 1].all()  # a row is missing when the second round begins
    options: dict[str, Any] = {"lwr_interval": interval, "lwr_temperature": temperature}
    assert found(4, trace, **options, lwr_unvisited="uniform") == []
    assert trace.step_losses != expected(4, interval=interval, temperature=temperature).step_losses


def test_another_number_of_epochs() -> None:
    assert found(4, expected(4, interval=2, total_epochs=20), lwr_interval=2, total_epochs=20) == []


@pytest.mark.parametrize("interval", [1, 2, 3])
def test_the_first_round_is_cross_entropy_and_the_next_is_not(interval: int) -> None:
    net = NumpyNet.random(D, H, 4, seed=0)
    plain = cross_entropy_loop(net, inputs(), labels(4), shuffled_batches(EPOCHS), LR).step_losses
    losses = expected(4, interval=interval).step_losses
    assert losses[: interval * 5] == plain[: interval * 5]
    assert abs(losses[interval * 5 + 3] - plain[interval * 5 + 3]) > 1e-4
