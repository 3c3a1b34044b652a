"""ELR and SAT against plain loops."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from lightning_flip.functional import (
    cross_entropy,
    early_learning_loss,
    early_learning_target,
    self_adaptive_loss,
    self_adaptive_target,
    soft_cross_entropy,
)
from tests.oracles import regularization as oracle

B = 6


def logits(k: int, seed: int = 0, scale: float = 3.0) -> Tensor:
    return torch.randn(B, k, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)) * scale


def labels(k: int) -> Tensor:
    return torch.arange(B) % k


def rows(k: int) -> Tensor:
    """Targets of mass 0 to 0.9."""
    return logits(k, 1).softmax(dim=1) * torch.linspace(0, 0.9, B, dtype=torch.float64)[:, None]


@pytest.mark.parametrize("scale", [3.0, 30.0])  # at 30 most probabilities are clamped
@pytest.mark.parametrize("k", [2, 3, 10])
@pytest.mark.parametrize("weight", [1.0, 7.0])
def test_early_learning_is_the_plain_loop(k: int, weight: float, scale: float) -> None:
    z = logits(k, scale=scale).requires_grad_()
    triples = zip(z.detach().numpy(), labels(k), rows(k).numpy(), strict=True)
    pairs = [oracle.early_learning(row, int(label), r, weight) for row, label, r in triples]
    got = early_learning_loss(z, labels(k), rows(k), weight=weight, reduction="none")
    np.testing.assert_allclose(got.detach(), [loss for loss, _ in pairs], rtol=0, atol=1e-10)
    (by_logits,) = torch.autograd.grad(got.sum(), z)
    np.testing.assert_allclose(by_logits, np.stack([gradient for _, gradient in pairs]), rtol=0, atol=1e-10)


@pytest.mark.parametrize("scale", [3.0, 30.0])
@pytest.mark.parametrize("k", [2, 10])
def test_the_early_target_is_the_plain_loop(k: int, scale: float) -> None:
    got = early_learning_target(rows(k), logits(k, scale=scale), momentum=0.9)
    pairs = zip(rows(k).numpy(), logits(k, scale=scale).numpy(), strict=True)
    np.testing.assert_allclose(got, [oracle.early_learning_row(r, z, 0.9) for r, z in pairs], rtol=0, atol=1e-12)


def test_a_target_that_agrees_fully_has_a_finite_loss() -> None:
    z = torch.tensor([[100.0, 0.0]], requires_grad=True)
    loss = early_learning_loss(z, torch.tensor([0]), torch.tensor([[1.0, 0.0]]), weight=1.0)
    assert loss.item() == pytest.approx(np.log(1e-4), rel=1e-3)
    loss.backward()
    assert z.grad is not None
    assert z.grad.isfinite().all()


def test_a_target_of_zeros_leaves_cross_entropy() -> None:
    got = early_learning_loss(logits(4), labels(4), torch.zeros(B, 4, dtype=torch.float64), reduction="none")
    assert got.equal(cross_entropy(logits(4), labels(4), reduction="none"))


@pytest.mark.parametrize("k", [2, 3, 10])
def test_self_adaptive_is_the_plain_loop(k: int) -> None:
    z = logits(k).requires_grad_()
    r = logits(k, 2).softmax(dim=1)
    losses, gradients = oracle.self_adaptive(z.detach().numpy(), r.numpy())
    got = self_adaptive_loss(z, r, reduction="none")
    np.testing.assert_allclose(got.detach(), losses, rtol=0, atol=1e-12)
    (by_logits,) = torch.autograd.grad(got.sum(), z)
    np.testing.assert_allclose(by_logits, gradients, rtol=0, atol=1e-12)


def test_equally_sure_targets_weigh_alike() -> None:
    r = torch.eye(4, dtype=torch.float64)[labels(4)]
    assert self_adaptive_loss(logits(4), r).equal(soft_cross_entropy(r, logits(4)))
    one = logits(4, 2).softmax(dim=1)[:1]
    torch.testing.assert_close(self_adaptive_loss(logits(4)[:1], one), soft_cross_entropy(one, logits(4)[:1]))


def test_the_self_adaptive_target_moves_by_a_tenth() -> None:
    r = torch.eye(3, dtype=torch.float64)[labels(3)]
    expected = 0.9 * r + 0.1 * logits(3).softmax(dim=1)
    torch.testing.assert_close(self_adaptive_target(r, logits(3)), expected, rtol=0, atol=1e-15)
    torch.testing.assert_close(expected.sum(dim=1), torch.ones(B, dtype=torch.float64))


def early(z: Tensor) -> Tensor:
    return early_learning_loss(z, labels(4), rows(4).to(z.dtype), reduction="none")


def adaptive(z: Tensor) -> Tensor:
    return self_adaptive_loss(z, logits(4, 2).softmax(dim=1).to(z.dtype), reduction="none")


@pytest.mark.parametrize("loss", [early, adaptive])
def test_gradients_are_those_of_finite_differences(loss: Any) -> None:
    assert torch.autograd.gradcheck(loss, (logits(4, scale=1.0).requires_grad_(),))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_widened(dtype: torch.dtype) -> None:
    z, r = logits(4).to(dtype), rows(4).float()
    for got, wide in (
        (early_learning_loss(z, labels(4), r), early_learning_loss(z.float(), labels(4), r)),
        (self_adaptive_loss(z, r + 0.01), self_adaptive_loss(z.float(), r + 0.01)),
        (early_learning_target(r, z), early_learning_target(r, z.float())),
        (self_adaptive_target(r, z), self_adaptive_target(r, z.float())),
    ):
        assert got.dtype == torch.float32
        assert got.equal(wide)


def test_no_gradient_flows_into_targets() -> None:
    r, z = rows(4).requires_grad_(), logits(4).requires_grad_()
    assert not early_learning_target(r.detach(), z).requires_grad
    assert not self_adaptive_target(r.detach(), z).requires_grad
    for loss in (early_learning_loss(z, labels(4), r), self_adaptive_loss(z, r)):
        assert torch.autograd.grad(loss, r, allow_unused=True) == (None,)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_reductions_belong_together(reduction: Any) -> None:
    r = rows(4) + 0.01
    for each, reduced in (
        (early(logits(4)), early_learning_loss(logits(4), labels(4), rows(4), reduction=reduction)),
        (self_adaptive_loss(logits(4), r, reduction="none"), self_adaptive_loss(logits(4), r, reduction=reduction)),
    ):
        assert reduced.item() == pytest.approx(getattr(each, reduction)().item())
