"""Until a device's deferred check stops a run, a row that is not finite leaves the others and the tables alone."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention
from torch import Tensor

from lightning_flip.functional import self_adaptive_loss
from lightning_flip.mixins import (
    EarlyLearningRegularization,
    FlippingErrorReduction,
    LearningWithRetrospection,
    SelfAdaptiveTraining,
)
from lightning_flip.mixins._visited_rows import rows_after_visits
from lightning_flip.steps import SampleStep
from lightning_flip.steps.checks import ValueChecks
from lightning_flip.steps.sample_step import rounds_of
from tests.mixins.helpers import K, LitNet, N, inputs, labels, loader, network, quiet, shuffled_batches
from tests.mixins.methods import made

EPOCHS = 3
Spot = tuple[int, int]  # step, place in its batch


@pytest.fixture(autouse=True)
def _as_on_a_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """Checks of the CPU are put off, and never read."""
    look = ValueChecks.look
    deferring = lambda self, *args, **options: look(self, *args, **options | {"deferred": True})  # noqa: E731
    monkeypatch.setattr(ValueChecks, "look", deferring)
    monkeypatch.setattr(ValueChecks, "read", lambda self: None)


class Spoiled(LitNet):
    """One row of one step comes out wrong, and the module's own loss leaves it out."""

    spot: Spot | None = None
    value = float("nan")

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.net(x)
        if self.spot is not None and self.global_step == self.spot[0]:
            wrong = torch.arange(len(x)) == self.spot[1]
            logits = torch.where(wrong[:, None], self.value, logits)
        return logits

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        logits = self(batch[0])
        fine = logits.isfinite().all(dim=1)
        return F.cross_entropy(logits[fine], batch[1][fine])


def run(method: Any, batches: Any, spot: Spot | None = None, value: float = float("nan")) -> tuple[list[Any], Any]:
    """What the method gave for each sample of each step, and its table; the weights stay as they are."""

    class Notes(method, Spoiled):  # type: ignore[misc]
        def method_loss(self, step: SampleStep) -> None:
            found = super().method_loss(step)
            self.seen.append(None if found is None else found.detach())

    model = made(Notes, 0.0, network(), base_loss="any")
    model.seen, model.spot, model.value = [], spot, value
    quiet(max_epochs=EPOCHS).fit(model, loader(inputs(), labels(K), batches))
    (table,) = model._term_loop.tables.values()
    return model.seen, table.pending(torch.arange(N))


@functools.cache
def run_without(method: Any, place: int) -> Any:
    """The run in which the sample at a place of that batch is not in it."""
    without = shuffled_batches(EPOCHS)
    first = without[1][0]
    without[1][0] = first[[at for at in range(len(first)) if at != place]]
    return run(method, without)


@pytest.mark.parametrize(("value", "place"), [(float("nan"), 0), (float("inf"), 1), (float("nan"), 7)])
@pytest.mark.parametrize(
    "method",
    [EarlyLearningRegularization, FlippingErrorReduction, LearningWithRetrospection, SelfAdaptiveTraining],
)
def test_it_is_as_if_the_sample_had_not_been_in_the_batch(method: Any, place: int, value: float) -> None:
    """Places 0, 5 and 7 of an epoch's first batch are one sample, places 1 and 6 another one."""
    batches = shuffled_batches(EPOCHS)
    spoiled, table = run(method, batches, (5, place), value)
    expected, expected_table = run_without(method, place)
    rest = torch.arange(len(batches[1][0])) != place
    assert not spoiled[5][place].isfinite()
    spoiled[5] = spoiled[5][rest]
    for found, loss in zip(spoiled, expected, strict=True):
        torch.testing.assert_close(found, loss, rtol=0, atol=1e-13)
    for found, rows in zip(table, expected_table, strict=True):
        assert found.isfinite().all()
        torch.testing.assert_close(found, rows, rtol=0, atol=1e-13)


def test_the_scale_is_over_valid_rows_alone() -> None:
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(6, K, generator=generator, dtype=torch.float64)
    r = torch.rand(6, K, generator=generator, dtype=torch.float64).softmax(dim=1)
    valid = torch.tensor([True, False, True, True, False, True])
    found = self_adaptive_loss(z, r, valid=valid, reduction="none")
    torch.testing.assert_close(found[valid], self_adaptive_loss(z[valid], r[valid], reduction="none"))
    everything = self_adaptive_loss(z, r, valid=torch.ones(6, dtype=torch.bool), reduction="none")
    torch.testing.assert_close(everything, self_adaptive_loss(z, r, reduction="none"))
    nothing = self_adaptive_loss(z, r, valid=torch.zeros(6, dtype=torch.bool), reduction="none")
    assert nothing.shape == (6,)  # a batch of nothing else: whatever it is, it is no error


def test_a_visit_that_is_not_valid_moves_nothing() -> None:
    index, valid = torch.tensor([4, 2, 4]), torch.tensor([False, True, True])
    logits = torch.tensor([[float("nan"), 0.0], [2.0, 0.0], [3.0, 0.0]])
    step = SampleStep(index, logits, torch.zeros(3), rounds=rounds_of(index), valid=valid)
    moved = rows_after_visits(step, torch.ones(3, 2), lambda rows, z: rows + z)
    assert moved[:, 0].tolist() == [1.0, 3.0, 4.0]
