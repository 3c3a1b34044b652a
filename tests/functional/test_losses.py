"""Cross entropy against labels and distributions: plain loops, precision, reductions."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
import pytest
import torch

from lightning_flip.functional.losses import cross_entropy, reduce_loss, soft_cross_entropy, widen
from tests.oracles.retrospection import cross_entropy as oracle
from tests.oracles.retrospection import soft_target_loss

B, K = 6, 4


@pytest.fixture
def logits() -> torch.Tensor:
    return torch.randn(B, K, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 3


@pytest.fixture
def q() -> torch.Tensor:
    return torch.randn(B, K, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).softmax(dim=1)


TARGET = torch.tensor([0, 3, 1, 1, 2, 0])


@pytest.mark.parametrize(
    ("given", "wide"),
    [
        (torch.float16, torch.float32),
        (torch.bfloat16, torch.float32),
        (torch.float32, torch.float32),
        (torch.float64, torch.float64),
    ],
)
def test_half_precision_is_widened_and_the_rest_stays(given: torch.dtype, wide: torch.dtype) -> None:
    tensor = torch.randn(B, K, generator=torch.Generator().manual_seed(0)).to(given)
    assert widen(tensor).dtype == wide
    assert widen(tensor).equal(tensor.to(wide))
    assert cross_entropy(tensor, TARGET).dtype == wide
    assert soft_cross_entropy(tensor.softmax(1), tensor).dtype == wide
    assert cross_entropy(tensor, TARGET).equal(cross_entropy(tensor.to(wide), TARGET))
    assert cross_entropy(tensor, tensor.softmax(1)).dtype == wide


def test_labels_are_the_plain_loop(logits: torch.Tensor) -> None:
    expected = [oracle(row.numpy(), int(y))[0] for row, y in zip(logits, TARGET, strict=True)]
    np.testing.assert_allclose(cross_entropy(logits, TARGET, reduction="none"), expected, rtol=0, atol=1e-13)


@pytest.mark.parametrize("t", [1.0, 0.3, 20.0])
@pytest.mark.parametrize("mass", [1.0, 0.4, 0.0])
def test_soft_targets_are_the_plain_loop_at_any_mass(
    logits: torch.Tensor, q: torch.Tensor, t: float, mass: float
) -> None:
    pairs = [soft_target_loss(row.numpy(), mass * target.numpy(), t) for row, target in zip(logits, q, strict=True)]
    leaf = logits.clone().requires_grad_()
    got = soft_cross_entropy(mass * q, leaf, temperature=t, reduction="none")
    (by_logits,) = torch.autograd.grad(got.sum(), leaf)
    np.testing.assert_allclose(got.detach(), [loss for loss, _ in pairs], rtol=0, atol=1e-12)
    np.testing.assert_allclose(by_logits, np.stack([gradient for _, gradient in pairs]), rtol=0, atol=1e-12)


def test_a_distribution_as_target_is_the_soft_cross_entropy(logits: torch.Tensor, q: torch.Tensor) -> None:
    one_hot = torch.nn.functional.one_hot(TARGET, K).double()
    torch.testing.assert_close(cross_entropy(logits, q), soft_cross_entropy(q, logits), rtol=0, atol=1e-14)
    torch.testing.assert_close(cross_entropy(logits, one_hot), cross_entropy(logits, TARGET), rtol=0, atol=1e-14)


def test_gradients_are_those_of_finite_differences(logits: torch.Tensor, q: torch.Tensor) -> None:
    leaf = logits.requires_grad_()
    for function in (
        lambda z: cross_entropy(z, TARGET),
        lambda z: cross_entropy(z, q),
        lambda z: soft_cross_entropy(q, z, temperature=5.0, reduction="none"),
    ):
        assert torch.autograd.gradcheck(function, (leaf,))


def test_nothing_flows_into_soft_targets(logits: torch.Tensor, q: torch.Tensor) -> None:
    loss = soft_cross_entropy(q.requires_grad_(), logits.requires_grad_())
    by_target: Any = torch.autograd.grad(loss, q, allow_unused=True)
    assert by_target == (None,)


def test_extreme_logits_stay_finite() -> None:
    extreme = torch.tensor([[1e30, -1e30], [-1e30, 1e30]])
    assert cross_entropy(extreme, torch.tensor([0, 1])).item() == 0.0
    assert torch.isfinite(cross_entropy(extreme, torch.tensor([1, 0])))


@pytest.mark.parametrize(("reduction", "expected"), [("mean", 2.0), ("sum", 6.0), ("none", [1.0, 2.0, 3.0])])
def test_reductions(reduction: Any, expected: Any) -> None:
    assert reduce_loss(torch.tensor([1.0, 2.0, 3.0]), reduction).tolist() == expected


def test_an_unknown_reduction_is_named() -> None:
    unknown: Any = "median"
    with pytest.raises(ValueError, match=r"reduction must be .*got 'median'"):
        inspect.unwrap(reduce_loss)(torch.zeros(2), unknown)  # past the types that are checked while tests run
