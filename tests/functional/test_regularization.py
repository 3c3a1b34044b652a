"""Confidence penalty, teacher-free regularization and snapshot distillation against plain loops."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention
from torch import Tensor

from lightning_flip.functional import (
    confidence_penalty_loss,
    cross_entropy,
    label_smoothing_loss,
    snapshot_distillation_loss,
    teacher_free_loss,
    teacher_free_target,
)
from tests.oracles import regularization as oracle

B = 6


def logits(k: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return (torch.randn(B, k, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)) * 3).to(dtype)


def labels(k: int) -> Tensor:
    return torch.arange(B) % k


def snapshot(z: Tensor, y: Tensor, **options: Any) -> Tensor:
    return snapshot_distillation_loss(z, y, logits(z.shape[1], 1)[: len(z)], **options)


LOSSES: list[tuple[Callable[..., Tensor], dict[str, float]]] = [
    (confidence_penalty_loss, {}),
    (confidence_penalty_loss, {"weight": 1.5}),
    (teacher_free_loss, {}),
    (teacher_free_loss, {"weight": 0.95, "temperature": 40.0, "multiplier": 1.0}),
    (teacher_free_loss, {"weight": 0.95, "temperature": 0.1, "multiplier": 10.0, "confidence": 0.8}),
    (snapshot, {}),
    (snapshot, {"temperature": 0.5}),
]
every_loss = pytest.mark.parametrize(("loss", "options"), LOSSES)


def expected(loss: Any, z: Any, y: Any, options: dict[str, float]) -> list[oracle.Pair]:
    if loss is snapshot:
        teacher = logits(z.shape[1], 1).numpy()
        triples = zip(z, y, teacher, strict=True)
        return [oracle.snapshot_distillation(row, int(label), said, **options) for row, label, said in triples]
    if loss is teacher_free_loss:
        options = {{"confidence": "sure"}.get(name, name): value for name, value in options.items()}
    one: Any = oracle.teacher_free if loss is teacher_free_loss else oracle.confidence_penalty
    return [one(row, int(label), **options) for row, label in zip(z, y, strict=True)]


@pytest.mark.parametrize("k", [2, 3, 10])
@every_loss
def test_losses_and_gradients_are_the_plain_loops(loss: Any, options: dict[str, float], k: int) -> None:
    z, y = logits(k).requires_grad_(), labels(k)
    pairs = expected(loss, z.detach().numpy(), y.numpy(), options)
    got = loss(z, y, reduction="none", **options)
    np.testing.assert_allclose(got.detach(), [value for value, _ in pairs], rtol=0, atol=1e-12)
    (by_logits,) = torch.autograd.grad(got.sum(), z)
    np.testing.assert_allclose(by_logits, np.stack([gradient for _, gradient in pairs]), rtol=0, atol=1e-12)


@every_loss
def test_gradients_are_those_of_finite_differences(loss: Any, options: dict[str, float]) -> None:
    leaf = logits(4).requires_grad_()
    assert torch.autograd.gradcheck(lambda z: loss(z, labels(4), **options), (leaf,))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@every_loss
def test_half_precision_is_widened(loss: Any, options: dict[str, float], dtype: torch.dtype) -> None:
    got = loss(logits(4, dtype=dtype), labels(4), **options)
    assert got.dtype == torch.float32
    assert got.equal(loss(logits(4, dtype=dtype).float(), labels(4), **options))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@every_loss
def test_logits_far_apart_stay_finite(loss: Any, options: dict[str, float], dtype: torch.dtype) -> None:
    z = torch.tensor([[3e4, -3e4, 0.0]], dtype=dtype).requires_grad_()
    got = loss(z, torch.tensor([1]), **options)
    got.backward()
    assert got.isfinite()
    assert z.grad is not None
    assert z.grad.isfinite().all()


@every_loss
def test_reductions_belong_together(loss: Any, options: dict[str, float]) -> None:
    each = loss(logits(4), labels(4), reduction="none", **options)
    assert loss(logits(4), labels(4), **options).item() == pytest.approx(each.mean().item())
    assert loss(logits(4), labels(4), reduction="sum", **options).item() == pytest.approx(each.sum().item())
    assert loss(logits(4)[:1], labels(4)[:1], reduction="none", **options).equal(each[:1])


def test_without_weight_each_is_cross_entropy() -> None:
    plain = cross_entropy(logits(4), labels(4), reduction="none")
    for loss in (confidence_penalty_loss, teacher_free_loss):
        torch.testing.assert_close(loss(logits(4), labels(4), weight=0.0, reduction="none"), plain, rtol=0, atol=1e-13)


def test_the_penalty_takes_distributions() -> None:
    q = logits(4, 2).softmax(dim=1)
    p = logits(4).softmax(dim=1)
    entropy = -(p * p.log()).sum(dim=1).mean()
    assert confidence_penalty_loss(logits(4), q, weight=0.3).item() == pytest.approx(
        (F.cross_entropy(logits(4), q) - 0.3 * entropy).item()
    )


def test_a_teacher_at_a_high_temperature_is_label_smoothing_without_its_constant() -> None:
    """Q is uniform for t -> infinity, and m = K turns the mean over classes into a sum."""
    z = logits(5)
    got = teacher_free_loss(z, labels(5), weight=0.2, temperature=1e9, multiplier=5.0, reduction="none")
    smoothed = label_smoothing_loss(z, labels(5), smoothing=0.2, reduction="none") - 0.2 * np.log(5)
    torch.testing.assert_close(got, smoothed, rtol=0, atol=1e-9)


def test_the_temperature_divides_the_teachers_probabilities_and_not_its_logits() -> None:
    q = teacher_free_target(torch.tensor([2, 0]), 4, temperature=20.0)
    assert q.sum(dim=1).tolist() == pytest.approx([1, 1])
    ratio = np.exp((0.99 - 0.01 / 3) / 20)
    assert float(q[0, 2] / q[0, 1]) == pytest.approx(ratio)
    assert float(q[1, 0] / q[1, 3]) == pytest.approx(ratio)


def test_no_gradient_reaches_the_teacher() -> None:
    teacher = logits(3, 1).requires_grad_()
    loss = snapshot_distillation_loss(logits(3).requires_grad_(), labels(3), teacher)
    assert torch.autograd.grad(loss, teacher, allow_unused=True) == (None,)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"weight": 1.1}, r"weight must be in \[0, 1\]; got 1.1"),
        ({"confidence": -0.1}, r"confidence must be in \[0, 1\]; got -0.1"),
        ({"temperature": 0.0}, "temperature must be greater than 0"),
        ({"temperature": float("inf")}, "temperature must be greater than 0"),
        ({"multiplier": -1.0}, "multiplier must be at least 0"),
    ],
)
def test_options_out_of_range_are_named(options: dict[str, float], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        teacher_free_loss(logits(3), labels(3), **options)


def test_other_values_that_are_none() -> None:
    with pytest.raises(ValueError, match="temperature must be greater than 0; got 0"):
        snapshot(logits(3), labels(3), temperature=0.0)
    with pytest.raises(ValueError, match="num_classes must be at least 2; got 1"):
        teacher_free_target(torch.tensor([0]), 1)
