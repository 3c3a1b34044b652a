"""The loss of pairwise label smoothing, its gradients, and the averages of pairs."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from lightning_flip.functional import cross_entropy, label_smoothing_loss, learned_smoothing, pair_average
from lightning_flip.functional.losses import one_hot_targets
from lightning_flip.functional.pairwise import pairwise_label_smoothing_loss
from tests.oracles import pairwise as oracle


def numbers(rows: int, classes: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Logits, head outputs and targets of pairs."""
    generator = torch.Generator().manual_seed(seed)
    logits, head = (3 * torch.randn(rows, classes, generator=generator, dtype=torch.float64) for _ in range(2))
    labels = torch.randint(classes, (2, rows), generator=generator)
    one_hot = torch.nn.functional.one_hot(labels, classes).double()
    return logits, head, (one_hot[0] + one_hot[1]) / 2


@pytest.mark.parametrize("weight", [0.0, 0.1, 0.5, 0.9])
@pytest.mark.parametrize(("rows", "classes"), [(1, 2), (7, 2), (5, 10)])
def test_loss_and_gradients_are_the_oracles(rows: int, classes: int, weight: float) -> None:
    logits, head, q = numbers(rows, classes)
    logits.requires_grad_()
    head.requires_grad_()
    losses = pairwise_label_smoothing_loss(logits, q, head, smoothing_weight=weight, reduction="none")
    plain = [part.detach().numpy() for part in (logits, q, head)]
    np.testing.assert_allclose(losses.detach(), oracle.pairwise_loss(*plain, weight), rtol=1e-12)
    losses.sum().backward()
    by_logits, by_head = oracle.pairwise_gradients(*plain, weight)
    np.testing.assert_allclose(logits.grad, by_logits, rtol=0, atol=1e-12)
    np.testing.assert_allclose(head.grad, by_head, rtol=0, atol=1e-12)


def test_gradcheck() -> None:
    logits, head, q = numbers(3, 4)
    loss = lambda z, a: pairwise_label_smoothing_loss(z, q, a)  # noqa: E731
    assert torch.autograd.gradcheck(loss, (logits.requires_grad_(), head.requires_grad_()))


def test_labels_are_their_own_distributions() -> None:
    logits, head, _ = numbers(4, 3)
    target = torch.tensor([0, 2, 1, 1])
    soft = one_hot_targets(target, 3, logits)
    got = pairwise_label_smoothing_loss(logits, target, head, reduction="none")
    assert got.allclose(pairwise_label_smoothing_loss(logits, soft, head, reduction="none"), rtol=1e-12)


def test_a_head_without_preference_is_label_smoothing() -> None:
    logits, _, q = numbers(5, 4)
    got = pairwise_label_smoothing_loss(logits, q, torch.full_like(logits, 0.3), smoothing_weight=0.2)
    assert got.allclose(label_smoothing_loss(logits, q, smoothing=0.2), rtol=1e-12)
    uniform = label_smoothing_loss(logits, q, smoothing=0.2, reduction="none")
    np.testing.assert_allclose(uniform, oracle.uniform_loss(logits.numpy(), q.numpy(), 0.2), rtol=1e-12)


def test_without_weight_it_is_cross_entropy() -> None:
    logits, head, q = numbers(5, 4)
    assert pairwise_label_smoothing_loss(logits, q, head, smoothing_weight=0.0).allclose(cross_entropy(logits, q))


def test_no_class_has_more_than_e_times_the_mass_of_another() -> None:
    u = learned_smoothing(torch.tensor([[1e4, -1e4, 0.0]]))
    assert u.sum().item() == pytest.approx(1)
    assert (u.max() / u.min()).item() == pytest.approx(math.e, rel=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(dtype: torch.dtype) -> None:
    logits, head, q = (part.to(dtype) for part in numbers(6, 5))
    got = pairwise_label_smoothing_loss(logits, q.float(), head)
    exact = pairwise_label_smoothing_loss(logits.double(), q.double(), head.double())
    assert got.dtype == torch.float32
    assert got.double().allclose(exact, rtol=1e-6)


def test_reductions() -> None:
    logits, head, q = numbers(6, 5)
    each = pairwise_label_smoothing_loss(logits, q, head, reduction="none")
    assert each.shape == (6,)
    assert pairwise_label_smoothing_loss(logits, q, head).allclose(each.mean())
    assert pairwise_label_smoothing_loss(logits, q, head, reduction="sum").allclose(each.sum())


@pytest.mark.parametrize("weight", [-0.1, 1.0, math.nan])
def test_a_weight_out_of_range_is_refused(weight: float) -> None:
    logits, head, q = numbers(2, 3)
    with pytest.raises(ValueError, match=r"smoothing_weight must be in \[0, 1\)"):
        pairwise_label_smoothing_loss(logits, q, head, smoothing_weight=weight)


# -- averages ----------------------------------------------------------------------------------------------


def test_averages_are_the_oracles_in_any_shape() -> None:
    x = torch.randn(5, 3, 2, dtype=torch.float64)
    q = torch.rand(5, 4, dtype=torch.float64)
    partner = [3, 1, 0, 4, 2]
    inputs, targets = oracle.mixed(x.numpy(), q.numpy(), partner)
    np.testing.assert_allclose(pair_average(x, torch.tensor(partner)), inputs, rtol=1e-15)
    np.testing.assert_allclose(pair_average(q, torch.tensor(partner)), targets, rtol=1e-15)


def test_a_sample_with_itself_is_itself_bit_for_bit() -> None:
    x = torch.randn(5, 3)
    assert pair_average(x, torch.arange(5)).equal(x)


def test_the_average_of_large_half_precision_numbers_is_finite() -> None:
    assert pair_average(torch.tensor([[60000.0], [50016.0]]).half(), torch.tensor([1, 0])).tolist() == [[55008.0]] * 2


def test_labels_as_distributions() -> None:
    rows = one_hot_targets(torch.tensor([2, 0]), 3, torch.zeros(1, dtype=torch.float64))
    np.testing.assert_array_equal(rows, oracle.one_hot(np.array([2, 0]), 3))
    assert rows.dtype == torch.float64
    outside = one_hot_targets(torch.tensor([3, -1, 1]), 3, torch.zeros(1))
    assert outside.isnan().all(dim=1).tolist() == [True, True, False]
    with pytest.raises(ValueError, match="targets have 4 classes, expected 3"):
        one_hot_targets(torch.rand(2, 4), 3, torch.zeros(1))
