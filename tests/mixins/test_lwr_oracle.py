"""LWR through a real Trainer against the numpy loop, for rounds of one, two and three epochs."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from lightning_flip.functional import _closed_form
from lightning_flip.functional.past_predictions import restriction_weights
from lightning_flip.mixins import LearningWithRetrospection
from lightning_flip.mixins import learning_with_retrospection as implementation
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


@pytest.mark.parametrize("classes", [2, 4])
@pytest.mark.parametrize("interval", [1, 2, 3])
@pytest.mark.parametrize("temperature", [1.0, 5.0])
def test_a_run_is_the_numpy_loop(interval: int, temperature: float, classes: int) -> None:
    trace = expected(classes, interval=interval, temperature=temperature)
    assert found(classes, trace, lwr_interval=interval, lwr_temperature=temperature) == []


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("interval", [1, 2])
@pytest.mark.parametrize("temperature", [1.0, 5.0])
def test_samples_without_a_row_can_be_drawn_to_the_uniform_distribution(
    interval: int, temperature: float, fused: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_closed_form, "FUSED", fused)
    trace = expected(4, interval=interval, temperature=temperature, unvisited="uniform")
    assert not trace.readable[interval - 1].all()  # a row is missing when the second round begins
    options: dict[str, Any] = {"lwr_interval": interval, "lwr_temperature": temperature}
    assert found(4, trace, **options, lwr_unvisited="uniform") == []
    assert "step losses" in found(4, trace, **options)


def test_another_number_of_epochs() -> None:
    assert found(4, expected(4, interval=2, total_epochs=20), lwr_interval=2, total_epochs=20) == []


@pytest.mark.parametrize("interval", [1, 2, 3])
def test_the_first_round_is_cross_entropy_and_the_next_is_not(interval: int) -> None:
    net = NumpyNet.random(D, H, 4, seed=0)
    plain = cross_entropy_loop(net, inputs(), labels(4), shuffled_batches(EPOCHS), LR).step_losses
    losses = expected(4, interval=interval).step_losses
    assert losses[: interval * 5] == plain[: interval * 5]
    assert abs(losses[interval * 5 + 3] - plain[interval * 5 + 3]) > 1e-4


Patch = pytest.MonkeyPatch
ORIGINAL = LearningWithRetrospection.observe


def rounds_of_one_epoch(patch: Patch) -> None:
    def new_epoch(self: Any, epoch: int) -> None:
        if epoch > 1:
            self._term_loop.tables["retrospection"].commit()

    patch.setattr(LearningWithRetrospection, "new_epoch", new_epoch)


def rounds_begin_one_epoch_early(patch: Patch) -> None:
    def new_epoch(self: Any, epoch: int) -> None:
        if "retrospection" in self._term_loop.tables and epoch % self.mixin_options.lwr_interval == 0:
            self._term_loop.tables["retrospection"].commit()

    patch.setattr(LearningWithRetrospection, "new_epoch", new_epoch)


def rows_read_at_once(patch: Patch) -> None:
    def observe(self: Any, step: Any) -> None:
        ORIGINAL(self, step)
        self._term_loop.tables["retrospection"].commit()

    patch.setattr(LearningWithRetrospection, "observe", observe)


def weights_of_the_epoch_and_not_of_the_round(patch: Patch) -> None:
    def epoch_weights(round_start: int, total: int) -> tuple[float, float]:
        return restriction_weights(round_start + 1, total)

    patch.setattr(implementation, "restriction_weights", epoch_weights)


def divergence_reversed(patch: Patch) -> None:
    def loss(logits: torch.Tensor, target: torch.Tensor, past: torch.Tensor, known: torch.Tensor, **o: Any) -> Any:
        t = o["temperature"]
        plain = torch.nn.functional.cross_entropy(logits, target, reduction="none")
        now, then = (logits / t).log_softmax(1), (past / t).log_softmax(1)
        drawn = o["alpha"] * plain + o["beta"] * t**2 * (now.exp() * (now - then)).sum(1)
        return (torch.where(known, drawn, plain) - plain).mean()

    patch.setattr(implementation, "learning_with_retrospection_loss", loss)


@pytest.mark.parametrize(
    "mutant",
    [
        rounds_of_one_epoch,
        rounds_begin_one_epoch_early,
        rows_read_at_once,
        weights_of_the_epoch_and_not_of_the_round,
        divergence_reversed,
    ],
)
def test_the_comparison_sees_the_mistake(mutant: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    mutant(monkeypatch)
    wrong = found(4, expected(4, interval=2), lwr_interval=2)
    assert "step losses" in wrong
    assert "0.weight" in wrong
