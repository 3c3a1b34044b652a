"""FER's and LWR's formulas against plain loops, hand-computed numbers, and finite differences."""

from __future__ import annotations

import math
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_flip.functional.past_predictions import (
    average_behavior,
    behavior,
    flipping_error_reduction_loss,
    learning_with_retrospection_loss,
    restriction_weights,
)
from tests.oracles.retrospection import cross_entropy, restricted_loss, softmax

B, K = 7, 4


def normal(seed: int, dtype: torch.dtype = torch.float64, k: int = K) -> torch.Tensor:
    return torch.randn(B, k, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).mul(3).to(dtype)


def targets(k: int = K) -> torch.Tensor:
    return torch.randint(k, (B,), generator=torch.Generator().manual_seed(9))


MASK = torch.tensor([True, False, True, True, False, True, False])


@pytest.mark.parametrize("t", [0.5, 1.0, 5.0, 100.0])
def test_behavior_is_the_softmax_of_divided_logits(t: float) -> None:
    by_hand = np.stack([softmax(row / t) for row in normal(0).numpy()])
    np.testing.assert_allclose(behavior(normal(0), temperature=t), by_hand, rtol=0, atol=1e-14)


def test_the_temperature_is_five_unless_told() -> None:
    assert behavior(normal(0)).equal(behavior(normal(0), temperature=5.0))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_widened_before_it_is_divided(dtype: torch.dtype) -> None:
    logits = normal(0, dtype)
    result = behavior(logits, temperature=100.0)
    assert result.dtype == torch.float32
    torch.testing.assert_close(result, behavior(logits.float(), temperature=100.0), rtol=0, atol=0)
    for loss in (
        flipping_error_reduction_loss(logits, targets(), result, MASK, alpha=0.5, beta=0.5),
        learning_with_retrospection_loss(logits, targets(), logits, MASK, alpha=0.5, beta=0.5),
    ):
        assert loss.dtype == torch.float32


def test_a_divergence_of_half_precision_logits_at_a_high_temperature_is_right() -> None:
    now, then = normal(0, torch.bfloat16), normal(1, torch.bfloat16)
    options: dict[str, Any] = {"alpha": 0.0, "beta": 1.0, "temperature": 100.0}
    half = learning_with_retrospection_loss(now, targets(), then, torch.ones(B, dtype=torch.bool), **options)
    exact = learning_with_retrospection_loss(
        now.double(), targets(), then.double(), torch.ones(B, dtype=torch.bool), **options
    )
    assert half.item() == pytest.approx(exact.item(), rel=5e-3)


def test_one_average_by_hand() -> None:
    average = average_behavior(
        torch.tensor([[0.2, 0.3], [0.2, 0.3], [0.2, 0.3]]),
        torch.tensor([[0.9, 0.1], [0.9, 0.1], [0.9, 0.1]]),
        torch.tensor([0.0, 0.5, 1.0]),
        mu=2.0,
        copy=torch.tensor([False, False, True]),
    )
    keep = math.exp(-1.0)
    expected = [[0.2, 0.3], [0.2 * keep + 0.9 * (1 - keep), 0.3 * keep + 0.1 * (1 - keep)], [0.9, 0.1]]
    torch.testing.assert_close(average, torch.tensor(expected))


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8), st.floats(0.01, 5))
@settings(deadline=None, max_examples=50)
def test_an_average_started_by_copying_is_a_distribution(confidences: list[float], mu: float) -> None:
    average = torch.zeros(1, K, dtype=torch.float64)
    for visit, sure in enumerate(confidences):
        new = behavior(normal(visit)[:1])
        average = average_behavior(average, new, torch.tensor([sure]).double(), mu=mu, copy=torch.tensor([visit == 0]))
        assert average.min() >= 0
        assert average.sum().item() == pytest.approx(1.0, abs=1e-12)


@pytest.mark.parametrize("total", [1, 7, 240])
def test_the_weights_go_from_cross_entropy_to_one_tenth(total: int) -> None:
    for epoch in range(1, total + 1):
        alpha, beta = restriction_weights(epoch, total)
        assert alpha == pytest.approx(1 - 0.9 * epoch / total)
        assert beta == pytest.approx(0.9 * epoch / total)
    assert restriction_weights(total + 5, total) == restriction_weights(total, total) == pytest.approx((0.1, 0.9))


@given(st.integers(1, 300), st.integers(1, 300), *[st.tuples(st.floats(0, 3), st.floats(0, 3))] * 2)
def test_weights_run_on_a_line_from_one_end_to_the_other(epoch: int, total: int, one: Any, other: Any) -> None:
    done = min(epoch / total, 1.0)
    expected = [(1 - done) * first + done * last for first, last in (one, other)]
    assert restriction_weights(epoch, total, alpha_range=one, beta_range=other) == pytest.approx(expected, abs=1e-12)
    beta = 0.9 * min(epoch, total) / total
    assert restriction_weights(epoch, total) == (1.0 - beta, beta)  # as before there were options, to the last bit


@pytest.mark.parametrize(
    ("k", "t", "squared", "progress"), list(product((2, 5), (1.0, 5.0, 20.0), (True, False), (0.25, 1)))
)
def test_fer_is_the_plain_loop(k: int, t: float, squared: bool, progress: float) -> None:
    z, y = normal(0, k=k), targets(k)
    average = behavior(normal(1, k=k)) * torch.linspace(0.1, 1, B, dtype=torch.float64)[:, None]
    expected = [
        restricted_loss(z[i].numpy(), int(y[i]), average[i].numpy(), progress, t, squared, "cross_entropy")
        if MASK[i]
        else cross_entropy(z[i].numpy(), int(y[i]))
        for i in range(B)
    ]
    leaf = z.clone().requires_grad_()
    got = flipping_error_reduction_loss(
        leaf,
        y,
        average,
        MASK,
        alpha=1 - 0.9 * progress,
        beta=0.9 * progress,
        temperature=t,
        temperature_squared=squared,
        reduction="none",
    )
    np.testing.assert_allclose(got.detach(), [loss for loss, _ in expected], rtol=0, atol=1e-12)
    (by_logits,) = torch.autograd.grad(got.sum(), leaf)
    np.testing.assert_allclose(by_logits, np.stack([g for _, g in expected]), rtol=0, atol=1e-12)


@pytest.mark.parametrize(("k", "t", "progress"), list(product((2, 5), (1.0, 5.0, 20.0), (0.25, 1))))
def test_lwr_is_the_plain_loop(k: int, t: float, progress: float) -> None:
    z, past, y = normal(0, k=k), normal(1, k=k), targets(k)
    expected = [
        restricted_loss(z[i].numpy(), int(y[i]), softmax(past[i].numpy() / t), progress, t, True, "kl")
        if MASK[i]
        else cross_entropy(z[i].numpy(), int(y[i]))
        for i in range(B)
    ]
    leaf = z.clone().requires_grad_()
    got = learning_with_retrospection_loss(
        leaf, y, past, MASK, alpha=1 - 0.9 * progress, beta=0.9 * progress, temperature=t, reduction="none"
    )
    np.testing.assert_allclose(got.detach(), [loss for loss, _ in expected], rtol=0, atol=1e-12)
    (by_logits,) = torch.autograd.grad(got.sum(), leaf)
    np.testing.assert_allclose(by_logits, np.stack([g for _, g in expected]), rtol=0, atol=1e-12)


OPTIONS: dict[str, Any] = {"alpha": 0.3, "beta": 0.7, "temperature": 3.0}


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_gradients_are_those_of_finite_differences(reduction: Any) -> None:
    average, past = behavior(normal(1)) * 0.7, normal(2)
    z = normal(0).requires_grad_()
    assert torch.autograd.gradcheck(
        lambda z: flipping_error_reduction_loss(z, targets(), average, MASK, reduction=reduction, **OPTIONS), (z,)
    )
    assert torch.autograd.gradcheck(
        lambda z: learning_with_retrospection_loss(z, targets(), past, MASK, reduction=reduction, **OPTIONS), (z,)
    )
    assert torch.autograd.gradcheck(lambda z: behavior(z, temperature=3.0), (z,))


def test_nothing_flows_into_what_was_stored() -> None:
    stored = normal(1).softmax(1).requires_grad_()
    z = normal(0).requires_grad_()
    for function in (flipping_error_reduction_loss, learning_with_retrospection_loss):
        (by_stored,) = torch.autograd.grad(
            function(z, targets(), stored, MASK, **OPTIONS), (stored,), allow_unused=True
        )
        assert by_stored is None


def test_rows_that_were_never_written_leave_gradients_finite() -> None:
    """Zeros under a mask that is False must not come back as NaN through torch.where."""
    z = (normal(0) * 1e4).requires_grad_()
    nowhere = torch.zeros(B, dtype=torch.bool)
    for function in (flipping_error_reduction_loss, learning_with_retrospection_loss):
        (grad,) = torch.autograd.grad(function(z, targets(), torch.zeros(B, K).double(), nowhere, **OPTIONS), z)
        assert torch.isfinite(grad).all()


@pytest.mark.parametrize("function", [flipping_error_reduction_loss, learning_with_retrospection_loss])
def test_reductions_belong_together(function: Any) -> None:
    stored = normal(1).softmax(1)
    each, mean, total = (
        function(normal(0), targets(), stored, MASK, reduction=r, **OPTIONS) for r in ("none", "mean", "sum")
    )
    assert each.shape == (B,)
    assert mean.item() == pytest.approx(each.mean().item(), abs=1e-14)
    assert total.item() == pytest.approx(each.sum().item(), abs=1e-13)
    single = function(normal(0)[:1], targets()[:1], stored[:1], MASK[:1], reduction="none", **OPTIONS)
    assert single.shape == (1,)
    assert single.item() == pytest.approx(each[0].item(), abs=1e-14)
