"""Identities that hold exactly, on tensors and through whole runs."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lightning_flip.functional.losses import cross_entropy
from lightning_flip.functional.past_predictions import (
    average_behavior,
    behavior,
    flipping_error_reduction_loss,
    learning_with_retrospection_loss,
)
from lightning_flip.functional.smearing import label_smoothing_loss
from lightning_flip.mixins import FlippingErrorReduction, LabelSmoothing, LearningWithRetrospection
from tests.mixins.helpers import (
    D,
    H,
    LitNet,
    as_torch,
    inputs,
    labels,
    loader,
    shuffled_batches,
    train,
    weights,
)
from tests.oracles.retrospection import NumpyNet

B, K = 11, 5
CLOSE: dict[str, Any] = {"rtol": 0.0, "atol": 1e-13}


@pytest.fixture
def logits() -> Tensor:
    z = torch.randn(B, K, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    return z.mul_(3).requires_grad_()


@pytest.fixture
def target() -> Tensor:
    return torch.randint(K, (B,), generator=torch.Generator().manual_seed(1))


def gradient(loss: Tensor, by: Tensor) -> Tensor:
    (result,) = torch.autograd.grad(loss, by)
    return result


@pytest.mark.parametrize("e", [0.0, 0.1, 0.9])
@pytest.mark.parametrize("squared", [True, False])
def test_fer_with_a_uniform_behavior_everywhere_is_label_smoothing(
    logits: Tensor, target: Tensor, e: float, squared: bool
) -> None:
    options: dict[str, Any] = {"alpha": 1 - e, "beta": e, "temperature": 1.0, "temperature_squared": squared}
    uniform, everywhere = torch.full_like(logits, 1 / K), torch.ones(B, dtype=torch.bool)
    fer = flipping_error_reduction_loss(logits, target, uniform, everywhere, **options)
    lsr = label_smoothing_loss(logits, target, smoothing=e)
    torch.testing.assert_close(fer, lsr, **CLOSE)
    torch.testing.assert_close(gradient(fer, logits), gradient(lsr, logits), **CLOSE)


@pytest.mark.parametrize("e", [0.1, 0.9])
def test_with_kl_it_is_label_smoothing_but_for_e_log_k(logits: Tensor, target: Tensor, e: float) -> None:
    everywhere = torch.ones(B, dtype=torch.bool)
    kl = learning_with_retrospection_loss(
        logits, target, torch.zeros_like(logits), everywhere, alpha=1 - e, beta=e, temperature=1.0
    )
    lsr = label_smoothing_loss(logits, target, smoothing=e)
    torch.testing.assert_close(kl, lsr - e * math.log(K), **CLOSE)


@pytest.mark.parametrize("t", [0.5, 1.0, 5.0])
def test_lwr_is_fer_with_the_last_behavior_but_for_a_constant(logits: Tensor, target: Tensor, t: float) -> None:
    past = torch.randn(B, K, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    known = torch.arange(B) % 3 > 0
    drawn = learning_with_retrospection_loss(
        logits, target, past, known, alpha=0.4, beta=0.6, temperature=t, reduction="none"
    )
    row = behavior(past, temperature=t)
    fer = flipping_error_reduction_loss(
        logits, target, row, known, alpha=0.4, beta=0.6, temperature=t, reduction="none"
    )
    entropy = -(row * row.log()).sum(dim=1)
    torch.testing.assert_close(drawn, fer - torch.where(known, 0.6 * t**2 * entropy, 0.0), **CLOSE)
    torch.testing.assert_close(gradient(drawn.sum(), logits), gradient(fer.sum(), logits), rtol=0, atol=1e-12)


def test_nothing_restricted_is_cross_entropy(logits: Tensor, target: Tensor) -> None:
    nowhere, zeros = torch.zeros(B, dtype=torch.bool), torch.zeros_like(logits)
    options: dict[str, Any] = {"alpha": 0.2, "beta": 0.8, "reduction": "none"}
    plain = cross_entropy(logits, target, reduction="none")
    assert flipping_error_reduction_loss(logits, target, zeros, nowhere, **options).equal(plain)
    assert learning_with_retrospection_loss(logits, target, zeros, nowhere, **options).equal(plain)


def test_the_mass_of_the_average_is_what_its_confidences_leave() -> None:
    generator = torch.Generator().manual_seed(0)
    average, total, mu = torch.zeros(B, K, dtype=torch.float64), torch.zeros(B, dtype=torch.float64), 0.7
    for _ in range(9):
        z = torch.randn(B, K, dtype=torch.float64, generator=generator)
        sure = torch.rand(B, dtype=torch.float64, generator=generator)
        average = average_behavior(average, behavior(z), sure, mu=mu)
        total += sure
        torch.testing.assert_close(average.sum(dim=1), 1 - torch.exp(-mu * total), **CLOSE)


# -- through whole runs ----------------------------------------------------------------------------------


class Plain(LitNet):
    """Mean cross entropy."""


class Fer(FlippingErrorReduction, LitNet):
    """FER."""


class Lwr(LearningWithRetrospection, LitNet):
    """LWR."""


class Lsr(LabelSmoothing, LitNet):
    """Label smoothing."""


def run(kind: Any, **options: Any) -> tuple[dict[str, Any], list[float]]:
    net: nn.Module = as_torch(NumpyNet.random(D, H, 4, seed=0))
    model = kind(net, **options)
    recorder = train(model, loader(inputs(), labels(4), shuffled_batches()))
    return weights(model), recorder.losses


def same(one: Any, other: Any, tolerance: float) -> bool:
    return all(value == pytest.approx(other[0][name], abs=tolerance, rel=0) for name, value in one[0].items())


@pytest.mark.parametrize("t", [1.0, 5.0])
def test_lwr_with_rounds_of_one_epoch_trains_like_fer_without_s1_and_s2(t: float) -> None:
    lwr = run(Lwr, lwr_interval=1, lwr_temperature=t)
    fer = run(Fer, restrict="all", average=False, fer_temperature=t)
    assert same(lwr, fer, 1e-12)
    assert not same(lwr, run(Fer, restrict="all", fer_temperature=t), 1e-4)
    assert not same(lwr, run(Fer, average=False, fer_temperature=t), 1e-4)
    assert lwr[1] != pytest.approx(fer[1], abs=1e-3)  # the constant of the entropy: losses differ, weights do not


def test_a_confidence_of_right_predictions_has_one_meaning() -> None:
    assert run(Fer, confidence="label")[1] == run(Fer, confidence="predicted")[1]


def test_copying_the_only_behavior_is_not_averaging_at_all_when_nothing_is_kept() -> None:
    """With a very large mu each behavior replaces the average, wherever it starts."""
    replaced = run(Fer, fer_mu=1e6)
    assert same(replaced, run(Fer, average=False), 1e-12)
    assert same(replaced, run(Fer, fer_mu=1e6, initial="copy"), 1e-12)


@pytest.mark.parametrize("kind", [Fer, Lwr, Lsr])
def test_half_the_weight_is_half_the_difference(kind: Any) -> None:
    def first_losses(**options: Any) -> list[float]:
        return run(kind, lr=0.0, **options, **({"lwr_interval": 1} if kind is Lwr else {}))[1]

    plain, whole, half = run(Plain, lr=0.0)[1], first_losses(), first_losses(term_weight=0.5)
    assert half == pytest.approx([(a + b) / 2 for a, b in zip(plain, whole, strict=True)], abs=1e-13)
    assert whole != pytest.approx(plain, abs=1e-3)


def test_no_smoothing_is_plain_training_to_the_last_bit_of_the_loss() -> None:
    assert run(Lsr, smoothing=0.0)[1] == pytest.approx(run(Plain)[1], abs=1e-13)


@pytest.mark.filterwarnings("ignore:.* each soften the target")  # that is what two methods do
def test_two_methods_add_their_differences() -> None:
    class Both(LabelSmoothing, FlippingErrorReduction, LitNet):
        """Two mixins in one class."""

    class Other(FlippingErrorReduction, LabelSmoothing, LitNet):
        """The same two, the other way round."""

    # With a learning rate of 0 each run sees the same logits.
    plain, fer, lsr = (run(kind, lr=0.0)[1] for kind in (Plain, Fer, Lsr))
    total = [a + (b - a) + (c - a) for a, b, c in zip(plain, fer, lsr, strict=True)]
    assert run(Both, lr=0.0)[1] == pytest.approx(total, abs=1e-13)
    assert run(Other, lr=0.0)[1] == pytest.approx(total, abs=1e-13)
