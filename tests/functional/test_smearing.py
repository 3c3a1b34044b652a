"""Label smoothing against the plain loop and torch's own."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention

from lightning_flip.functional.losses import cross_entropy
from lightning_flip.functional.smearing import label_smoothing_loss
from tests.oracles.retrospection import label_smoothing

B = 6


def logits(k: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return (torch.randn(B, k, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 3).to(dtype)


def labels(k: int) -> torch.Tensor:
    return torch.arange(B) % k


@pytest.mark.parametrize("k", [2, 3, 10])
@pytest.mark.parametrize("a", [0.0, 0.1, 0.5, 0.99])
def test_losses_and_gradients_are_the_plain_loop_and_torchs(k: int, a: float) -> None:
    z, y = logits(k).requires_grad_(), labels(k)
    pairs = [label_smoothing(row.detach().numpy(), int(label), a) for row, label in zip(z, y, strict=True)]
    got = label_smoothing_loss(z, y, smoothing=a, reduction="none")
    np.testing.assert_allclose(got.detach(), [loss for loss, _ in pairs], rtol=0, atol=1e-12)
    torch.testing.assert_close(got, F.cross_entropy(z, y, label_smoothing=a, reduction="none"), rtol=0, atol=1e-12)
    (by_logits,) = torch.autograd.grad(got.sum(), z)
    np.testing.assert_allclose(by_logits, np.stack([gradient for _, gradient in pairs]), rtol=0, atol=1e-12)


def test_a_tenth_unless_told() -> None:
    assert label_smoothing_loss(logits(3), labels(3)).equal(label_smoothing_loss(logits(3), labels(3), smoothing=0.1))


def test_distributions_are_smoothed_further() -> None:
    q = logits(4).flip(0).softmax(dim=1)
    expected = cross_entropy(logits(4), 0.8 * q + 0.2 / 4)
    torch.testing.assert_close(label_smoothing_loss(logits(4), q, smoothing=0.2), expected, rtol=0, atol=1e-13)


def test_gradients_are_those_of_finite_differences() -> None:
    leaf = logits(4).requires_grad_()
    assert torch.autograd.gradcheck(lambda z: label_smoothing_loss(z, labels(4), smoothing=0.3), (leaf,))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_widened(dtype: torch.dtype) -> None:
    loss = label_smoothing_loss(logits(4, dtype), labels(4))
    assert loss.dtype == torch.float32
    assert loss.equal(label_smoothing_loss(logits(4, dtype).float(), labels(4)))


def test_reductions_belong_together() -> None:
    each = label_smoothing_loss(logits(4), labels(4), reduction="none")
    assert label_smoothing_loss(logits(4), labels(4)).item() == pytest.approx(each.mean().item())
    assert label_smoothing_loss(logits(4), labels(4), reduction="sum").item() == pytest.approx(each.sum().item())
    assert label_smoothing_loss(logits(4)[:1], labels(4)[:1], reduction="none").shape == (1,)


@pytest.mark.parametrize("a", [-0.01, 1.0, 1.5, float("nan")])
def test_a_smoothing_out_of_range_is_named(a: float) -> None:
    with pytest.raises(ValueError, match=r"smoothing must be in \[0, 1\)"):
        label_smoothing_loss(logits(3), labels(3), smoothing=a)
