"""Every method's gradient in a real Trainer, in float64, held against differences of its loss."""

from __future__ import annotations

import pkgutil
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from lightning_flip.functional.losses import cross_entropy
from tests.mixins.helpers import LitNet
from tests.sweep.fits import EPOCHS, fit, made
from tests.sweep.settings import SETTINGS, Setting, every_setting, swept

STEP = 1e-5  # differences of float64 are then wrong by about 1e-10
DIRECTIONS = 2


class Constant:
    """A function that is asked once in every step and then says the same."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function
        self.answers: list[Any] = []

    def of(self, *args: Any, **kwargs: Any) -> Any:
        if not self.answers:
            self.answers.append(self.function(*args, **kwargs))
        return self.answers[0]


class Differences(torch.optim.SGD):
    """Compares the gradient along random directions with differences of the loss, then takes the step.

    The package promises that a closure may run several times for a batch: with the same partners, mixtures and rows.
    """

    errors: list[float]
    repeats: list[bool]  # whether the closure said the same again, back at the step's weights
    kept: Constant | None

    def step(self, closure: Any = None) -> Any:
        weights = [weight for group in self.param_groups for weight in group["params"]]
        if self.kept is not None:
            self.kept.answers.clear()
        loss = closure().detach()
        gradients = [torch.zeros_like(w) if w.grad is None else w.grad.clone() for w in weights]
        start = [w.detach().clone() for w in weights]
        generator = torch.Generator().manual_seed(len(self.errors))
        for _ in range(DIRECTIONS):
            way = [torch.randn(w.shape, generator=generator, dtype=w.dtype) for w in weights]
            ends = [self.loss_at(weights, start, way, length, closure) for length in (STEP, -STEP)]
            found = float((ends[0] - ends[1]) / (2 * STEP))
            expected = float(sum((gradient * part).sum() for gradient, part in zip(gradients, way, strict=True)))
            self.errors.append(abs(found - expected))
        self.repeats.append(bool(self.loss_at(weights, start, start, 0.0, closure) == loss))
        return super().step()

    def loss_at(self, weights: list[Any], start: list[Tensor], way: list[Tensor], length: float, closure: Any) -> Any:
        with torch.no_grad():
            for weight, begun, part in zip(weights, start, way, strict=True):
                weight.copy_(begun + length * part)
        return closure().detach()


class Searched(LitNet):
    """Has its gradients compared in every step."""

    kept: Constant | None = None

    def configure_optimizers(self) -> Any:
        optimizer = Differences(self.parameters(), lr=self.lr)
        optimizer.errors, optimizer.repeats, optimizer.kept = [], [], self.kept
        self.errors, self.repeats = optimizer.errors, optimizer.repeats
        return optimizer


def errors(setting: Setting, kept: Constant | None = None, **options: Any) -> list[float]:
    """Of every direction in every step."""
    model = made(setting, Searched, **options)
    model.kept = kept
    fit(setting, model)
    assert model.repeats == [True] * 3 * EPOCHS
    assert len(model.errors) == 3 * EPOCHS * DIRECTIONS
    return list(model.errors)


def holding(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> Constant | None:
    """Keeps what a stop-gradient holds, while weights are moved for the differences."""
    if not setting.held:
        return None
    kept = Constant(pkgutil.resolve_name(setting.held))
    monkeypatch.setattr(setting.held, lambda *args, **kwargs: kept.of(*args, **kwargs))
    return kept


@every_setting
def test_gradients_are_the_differences_of_the_loss(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    assert max(errors(setting, holding(setting, monkeypatch))) < 1e-8


@every_setting
def test_a_gradient_that_is_wrong_by_a_hundredth_is_seen(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    kept, right = holding(setting, monkeypatch), setting.method.method_loss

    def wrong(self: Any, step: Any) -> Any:
        losses = right(self, step)
        if losses is None:  # Mixup adds nothing to the cross entropy of the mixture
            losses = cross_entropy(step.logits, step.target, reduction="none")
        return 0.99 * losses + 0.01 * losses.detach()

    monkeypatch.setattr(setting.method, "method_loss", wrong)
    assert max(errors(setting, kept)) > 1e-4


@pytest.mark.parametrize("setting", [swept(setting) for setting in SETTINGS if setting.held])
def test_what_is_held_does_follow_the_weights(setting: Setting) -> None:
    """Otherwise it need not be held; and without holding it, a closure repeats itself all the same."""
    assert max(errors(setting)) > 1e-4
