"""Smeared and corrected losses against plain loops, and the identities of the paper that brings them together."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lightning_flip.functional import (
    backward_correction_loss,
    backward_matrix,
    cross_entropy,
    flipping_error_reduction_loss,
    forward_correction_loss,
    inverse_transition,
    label_smoothing_loss,
    pair_transition,
    smeared_loss,
    smoothing_matrix,
    symmetric_transition,
)
from tests.oracles import smearing as oracle

B = 6
CLASSES = [2, 3, 10]


def logits(k: int, scale: float = 3.0, seed: int = 0) -> Tensor:
    return torch.randn(B, k, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)) * scale


def labels(k: int) -> Tensor:
    return torch.arange(B) % k


def soft(k: int) -> Tensor:
    return logits(k, seed=5).softmax(dim=1)


def skewed(k: int) -> Tensor:
    """An invertible transition without symmetry, some of its entries zero."""
    noise = torch.rand(k, k, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    noise[0, -1] = 0.0
    return 0.6 * torch.eye(k, dtype=torch.float64) + 0.4 * noise / noise.sum(dim=1, keepdim=True)


def held_to(pairs: list[tuple[float, Any]], z: Tensor, loss: Tensor) -> None:
    np.testing.assert_allclose(loss.detach(), [value for value, _ in pairs], rtol=0, atol=1e-11)
    (by_logits,) = torch.autograd.grad(loss.sum(), z)
    np.testing.assert_allclose(by_logits, np.stack([gradient for _, gradient in pairs]), rtol=0, atol=1e-11)


# -- plain loops --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("targets", [labels, soft])
@pytest.mark.parametrize("k", CLASSES)
@pytest.mark.parametrize("eps", [0.0, 1e-2])
def test_smeared_losses_and_gradients_are_the_plain_loop(k: int, eps: float, targets: Any) -> None:
    matrix = torch.randn(k, k, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    z, y = logits(k).requires_grad_(), targets(k)
    pairs = [oracle.smeared(row.detach().numpy(), t.numpy(), matrix.numpy(), eps) for row, t in zip(z, y, strict=True)]
    held_to(pairs, z, smeared_loss(z, y, matrix, eps=eps, reduction="none"))


@pytest.mark.parametrize("targets", [labels, soft])
@pytest.mark.parametrize("k", CLASSES)
def test_forward_correction_is_the_plain_loop(k: int, targets: Any) -> None:
    z, y = logits(k).requires_grad_(), targets(k)
    pairs = [oracle.forward(row.detach().numpy(), t.numpy(), skewed(k).numpy()) for row, t in zip(z, y, strict=True)]
    held_to(pairs, z, forward_correction_loss(z, y, skewed(k), reduction="none"))


@pytest.mark.parametrize("targets", [labels, soft])
@pytest.mark.parametrize("k", CLASSES)
def test_backward_correction_is_the_plain_loop_with_the_inverse(k: int, targets: Any) -> None:
    z, y = logits(k, scale=9.0).requires_grad_(), targets(k)
    inverse = np.linalg.inv(skewed(k).numpy())
    pairs = [oracle.smeared(row.detach().numpy(), t.numpy(), inverse, 1e-7) for row, t in zip(z, y, strict=True)]
    loss = backward_correction_loss(z, y, skewed(k), reduction="none")
    held_to(pairs, z, loss)
    if k == 10:  # somewhere the clipping counts
        assert not torch.allclose(loss, backward_correction_loss(z, y, skewed(k), eps=0.0, reduction="none"))


@pytest.mark.parametrize("k", CLASSES)
def test_matrices_are_the_plain_loops(k: int) -> None:
    for a in (0.0, 0.1, 0.9):
        np.testing.assert_allclose(smoothing_matrix(k, a), oracle.smoothing(k, a), rtol=0, atol=1e-15)
        np.testing.assert_allclose(backward_matrix(k, a), oracle.backward(k, a), rtol=0, atol=1e-13)
        np.testing.assert_allclose(symmetric_transition(k, a), oracle.symmetric(k, a), rtol=0, atol=1e-15)


# -- identities ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("targets", [labels, soft])
@pytest.mark.parametrize("k", CLASSES)
def test_the_identity_is_cross_entropy_in_each(k: int, targets: Any) -> None:
    z, y, eye = logits(k), targets(k), torch.eye(k, dtype=torch.float64)
    plain = cross_entropy(z, y, reduction="none")
    torch.testing.assert_close(smeared_loss(z, y, eye, reduction="none"), plain, rtol=0, atol=1e-13)
    torch.testing.assert_close(forward_correction_loss(z, y, eye, reduction="none"), plain, rtol=0, atol=1e-13)
    backward = backward_correction_loss(z, y, eye, eps=0.0, reduction="none")
    torch.testing.assert_close(backward, plain, rtol=0, atol=1e-13)


@pytest.mark.parametrize("targets", [labels, soft])
@pytest.mark.parametrize("k", CLASSES)
def test_label_smoothing_is_a_smearing_and_a_mixture(k: int, targets: Any) -> None:
    z, y, a = logits(k), targets(k), 0.3
    got = label_smoothing_loss(z, y, smoothing=a, reduction="none")
    torch.testing.assert_close(got, smeared_loss(z, y, smoothing_matrix(k, a), reduction="none"), rtol=0, atol=1e-12)
    uniform = cross_entropy(z, torch.full((B, k), 1 / k, dtype=torch.float64), reduction="none")
    mixture = (1 - a) * cross_entropy(z, y, reduction="none") + a * uniform
    torch.testing.assert_close(got, mixture, rtol=0, atol=1e-12)


@settings(deadline=None)
@given(k=st.integers(2, 30), a=st.floats(0, 0.95))
def test_the_backward_matrix_undoes_the_forward_one(k: int, a: float) -> None:
    eye = torch.eye(k, dtype=torch.float64)
    torch.testing.assert_close(backward_matrix(k, a) @ smoothing_matrix(k, a), eye, rtol=0, atol=1e-12)
    torch.testing.assert_close(inverse_transition(smoothing_matrix(k, a)), backward_matrix(k, a), rtol=0, atol=1e-10)
    rate = a * (k - 1) / k
    torch.testing.assert_close(symmetric_transition(k, rate), smoothing_matrix(k, a), rtol=0, atol=1e-14)


@settings(deadline=None)
@given(k=st.integers(2, 12), a=st.floats(0, 0.99), seed=st.integers(0, 10**6))
def test_smoothing_keeps_the_most_probable_class(k: int, a: float, seed: int) -> None:
    """M^T p is what minimizes the smoothed risk; its largest entry is p's."""
    p = torch.randn(k, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)).softmax(dim=0)
    best = smoothing_matrix(k, a).T @ p
    assert int(best.argmax()) == int(p.argmax())

    def risk(q: Tensor) -> float:
        rows = q.log().expand(k, k)
        return float(p @ label_smoothing_loss(rows, torch.arange(k), smoothing=a, reduction="none"))

    for other in (p, torch.full_like(p, 1 / k), torch.roll(best, 1)):
        assert risk(best) <= risk(other) + 1e-12


@pytest.mark.parametrize("k", [2, 5])
def test_over_symmetric_noise_backward_correction_is_the_clean_risk(k: int) -> None:
    """The exact expectation, over the noise alone and over all label vectors of a small sample."""
    rate, n = 0.4, 3
    T = symmetric_transition(k, rate)
    z, true = logits(k)[:n], labels(k)[:n]
    expected = torch.zeros(n, dtype=torch.float64)
    risk = 0.0
    for noisy in itertools.product(range(k), repeat=n):
        probability = math.prod(float(T[y, j]) for y, j in zip(true.tolist(), noisy, strict=True))
        losses = backward_correction_loss(z, torch.tensor(noisy), T, eps=0.0, reduction="none")
        expected += probability * losses
        risk += probability * float(losses.mean())
    clean = cross_entropy(z, true, reduction="none")
    torch.testing.assert_close(expected, clean, rtol=0, atol=1e-11)
    assert risk == pytest.approx(float(clean.mean()), abs=1e-11)


@pytest.mark.parametrize("k", CLASSES)
def test_over_any_noise_backward_correction_is_the_clean_loss(k: int) -> None:
    for row in logits(k):
        losses = backward_correction_loss(row.expand(k, k), torch.arange(k), skewed(k), eps=0.0, reduction="none")
        clean = cross_entropy(row.expand(k, k), torch.arange(k), reduction="none")
        torch.testing.assert_close(skewed(k) @ losses, clean, rtol=0, atol=1e-11)


def test_forward_correction_is_least_at_the_clean_posterior() -> None:
    """With noisy labels drawn from p T the best prediction is p itself."""
    p = torch.tensor([0.7, 0.2, 0.1], dtype=torch.float64)
    z = torch.zeros(1, 3, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([z], max_iter=200, tolerance_grad=1e-12, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = forward_correction_loss(z, (p @ skewed(3))[None], skewed(3))
        loss.backward()
        return loss

    optimizer.step(closure)
    torch.testing.assert_close(z.detach().softmax(dim=1)[0], p, rtol=0, atol=1e-5)


def test_zero_weights_minimize_the_smoothing_regularizer_of_a_linear_model() -> None:
    """Theorem 1: on centered data H(u, softmax(W x)) is convex in W with its minimum at W = 0."""
    x = torch.randn(50, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) + 3
    centered = x - x.mean(dim=0)
    uniform = torch.full((50, 3), 1 / 3, dtype=torch.float64)

    def regularizer(W: Tensor, data: Tensor) -> Tensor:
        return cross_entropy(data @ W.T, uniform)

    W = torch.zeros(3, 4, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(regularizer(W, centered), W)
    assert float(gradient.abs().max()) < 1e-15
    for seed in range(20):
        other = torch.randn(3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)) * 10 ** (
            seed / 5 - 3
        )
        assert float(regularizer(other, centered)) > math.log(3)
    # Any W whose classes agree is as good: the softmax does not see it.
    assert float(regularizer(torch.ones(3, 4, dtype=torch.float64), centered)) == pytest.approx(math.log(3))


@pytest.mark.parametrize("k", CLASSES)
def test_flipping_error_reduction_to_a_uniform_behavior_is_label_smoothing(k: int) -> None:
    e, uniform = 0.3, torch.full((B, k), 1 / k, dtype=torch.float64)
    every = torch.ones(B, dtype=torch.bool)
    z, y = logits(k), labels(k)
    fer = flipping_error_reduction_loss(z, y, uniform, every, alpha=1 - e, beta=e, temperature=1.0, reduction="none")
    lsr = label_smoothing_loss(z, y, smoothing=e, reduction="none")
    torch.testing.assert_close(fer, lsr, rtol=0, atol=1e-12)
    # The paper's divergence instead of the cross entropy is less by e log K.
    divergence = (uniform * (uniform.log() - z.log_softmax(dim=1))).sum(dim=1)
    torch.testing.assert_close((1 - e) * cross_entropy(z, y, reduction="none") + e * divergence, lsr - e * math.log(k))


# -- numbers --------------------------------------------------------------------------------------------------

LOSSES: dict[str, Callable[..., Tensor]] = {
    "smeared": lambda z, y, **options: smeared_loss(z, y, smoothing_matrix(z.shape[1], 0.2), **options),
    "forward": lambda z, y, **options: forward_correction_loss(z, y, skewed(z.shape[1]), **options),
    "backward": lambda z, y, **options: backward_correction_loss(z, y, skewed(z.shape[1]), **options),
}
every_loss = pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)


@every_loss
@pytest.mark.parametrize("targets", [labels, soft])
def test_gradients_are_those_of_finite_differences(loss: Any, targets: Any) -> None:
    assert torch.autograd.gradcheck(lambda z: loss(z, targets(4)), (logits(4).requires_grad_(),))


@every_loss
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_widened_and_sure_answers_stay_finite(loss: Any, dtype: torch.dtype) -> None:
    sure = torch.tensor([[1e4, -1e4, 0.0], [-1e4, 0.0, 1e4]]).to(dtype)
    for y in (torch.tensor([0, 1]), torch.tensor([1, 0]), torch.tensor([[0.5, 0.5, 0.0], [0.0, 0.5, 0.5]])):
        z = sure.clone().requires_grad_()
        value = loss(z, y, reduction="none")
        assert value.dtype == torch.float32
        torch.testing.assert_close(value, loss(sure.float(), y, reduction="none"), rtol=0, atol=0)
        torch.testing.assert_close(value, loss(sure.double(), y, reduction="none").float(), rtol=1e-5, atol=1e-5)
        (gradient,) = torch.autograd.grad(value.sum(), z)
        assert bool(gradient.isfinite().all())


def test_forward_correction_takes_no_logarithm_of_a_probability() -> None:
    """A class that T cannot make out of the predicted one: p T underflows to 0 even in double precision."""
    T = pair_transition(3, {0: 1}, 0.5)
    z = torch.tensor([[0.0, -2000.0, -2000.0]], requires_grad=True)
    loss = forward_correction_loss(z, torch.tensor([2]), T)
    assert loss.item() == pytest.approx(2000.0)
    (gradient,) = torch.autograd.grad(loss, z)
    torch.testing.assert_close(gradient, torch.tensor([[1.0, 0.0, -1.0]]))
    # And where noise explains the label, the loss is bounded by the noise.
    assert forward_correction_loss(z, torch.tensor([1]), T).item() == pytest.approx(math.log(2))


def test_backward_correction_is_bounded_below_by_its_clipping() -> None:
    T = symmetric_transition(3, 0.4)
    z = torch.tensor([[500.0, -500.0, -500.0]], dtype=torch.float64, requires_grad=True)
    negative = float(inverse_transition(T)[0, 1])
    clipped = backward_correction_loss(z, torch.tensor([0]), T)
    assert clipped.item() == pytest.approx(2 * negative * -math.log(1e-7))
    assert float(torch.autograd.grad(clipped, z)[0].abs().max()) == 0.0
    assert backward_correction_loss(z, torch.tensor([0]), T, eps=0.0).item() == pytest.approx(2 * negative * 1000)


@every_loss
def test_reductions_belong_together(loss: Any) -> None:
    each = loss(logits(4), labels(4), reduction="none")
    assert each.shape == (B,)
    assert float(loss(logits(4), labels(4))) == pytest.approx(float(each.mean()))
    assert float(loss(logits(4), labels(4), reduction="sum")) == pytest.approx(float(each.sum()))
    assert loss(logits(4)[:1], labels(4)[:1], reduction="none").shape == (1,)


def test_classes_without_weight_may_be_impossible() -> None:
    z = torch.tensor([[0.0, 1.0, -math.inf]])
    assert float(smeared_loss(z, torch.tensor([0]), torch.eye(3))) == pytest.approx(
        float(cross_entropy(z[:, :2], torch.tensor([0])))
    )


# -- refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("correct", [forward_correction_loss, backward_correction_loss])
@pytest.mark.parametrize(
    ("matrix", "message"),
    [
        ([[1.1, -0.1], [0.0, 1.0]], "at least 0"),
        ([[math.nan, 1.0], [0.0, 1.0]], "at least 0"),
        ([[0.9, 0.2], [0.0, 1.0]], "sum to 1"),
        ([[0.9, 0.1], [0.9, 0.0]], "sum to 1"),
    ],
)
def test_corrections_refuse_what_is_not_row_stochastic(correct: Any, matrix: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        correct(logits(2), labels(2), torch.tensor(matrix))


def test_backward_correction_refuses_a_singular_transition_and_forward_does_not() -> None:
    for T in (
        torch.full((3, 3), 1 / 3, dtype=torch.float64),
        pair_transition(3, {0: 1}, 1.0),
        symmetric_transition(2, 0.5),
    ):
        z, y = logits(len(T)), labels(len(T))
        with pytest.raises(ValueError, match=r"singular.*use forward correction"):
            backward_correction_loss(z, y, T)
        assert bool(forward_correction_loss(z, torch.ones(B, dtype=torch.int64), T).isfinite())


@pytest.mark.parametrize("value", [-0.1, 1.0, 40.0, math.nan])
def test_values_out_of_range_are_named(value: float) -> None:
    for make in (smoothing_matrix, backward_matrix):
        with pytest.raises(ValueError, match=r"alpha must be in \[0, 1\)"):
            make(3, value)
    with pytest.raises(ValueError, match=r"eps must be in \[0, 1\)"):
        smeared_loss(logits(2), labels(2), torch.eye(2), eps=value)
    if value != 1.0:
        with pytest.raises(ValueError, match=r"rate is a probability"):
            symmetric_transition(3, value)


@pytest.mark.parametrize("make", [smoothing_matrix, backward_matrix, symmetric_transition])
def test_one_class_is_no_classification(make: Any) -> None:
    with pytest.raises(ValueError, match="num_classes must be at least 2"):
        make(1, 0.1)
