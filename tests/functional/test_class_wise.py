"""The loss of class-wise self-distillation."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from lightning_flip.functional import class_wise_self_distillation_loss, cross_entropy
from tests.oracles.class_wise import class_wise_gradient, class_wise_loss


def numbers(rows: int, classes: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(rows)
    logits, partner = (3 * torch.randn(rows, classes, generator=generator, dtype=torch.float64) for _ in range(2))
    return logits, torch.randint(classes, (rows,), generator=generator), partner


@pytest.mark.parametrize(("temperature", "weight"), [(4.0, 1.0), (1.0, 3.0), (20.0, 0.0)])
@pytest.mark.parametrize(("rows", "classes"), [(1, 2), (6, 2), (5, 10)])
def test_loss_and_gradient_are_the_oracles(rows: int, classes: int, temperature: float, weight: float) -> None:
    logits, target, partner = numbers(rows, classes)
    logits.requires_grad_()
    partner.requires_grad_()
    losses = class_wise_self_distillation_loss(
        logits, target, partner, temperature=temperature, weight=weight, reduction="none"
    )
    plain = [part.detach().numpy() for part in (logits, target, partner)]
    np.testing.assert_allclose(losses.detach(), class_wise_loss(*plain, temperature, weight), rtol=1e-11)
    losses.sum().backward()
    np.testing.assert_allclose(logits.grad, class_wise_gradient(*plain, temperature, weight), rtol=0, atol=1e-12)
    assert partner.grad is None


def test_gradcheck() -> None:
    logits, target, partner = numbers(3, 4)
    assert torch.autograd.gradcheck(
        lambda z: class_wise_self_distillation_loss(z, target, partner), (logits.requires_grad_(),)
    )


def test_a_sample_that_is_its_own_partner_has_cross_entropy() -> None:
    logits, target, _ = numbers(5, 4)
    assert class_wise_self_distillation_loss(logits, target, logits).allclose(cross_entropy(logits, target))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(dtype: torch.dtype) -> None:
    logits, target, partner = numbers(6, 5)
    logits, partner = logits.to(dtype), partner.to(dtype)
    got = class_wise_self_distillation_loss(logits, target, partner, temperature=50.0)
    exact = class_wise_self_distillation_loss(logits.double(), target, partner.double(), temperature=50.0)
    assert got.dtype == torch.float32
    assert got.double().allclose(exact, rtol=1e-3)


def test_reductions() -> None:
    logits, target, partner = numbers(6, 5)
    each = class_wise_self_distillation_loss(logits, target, partner, reduction="none")
    assert class_wise_self_distillation_loss(logits, target, partner).allclose(each.mean())
    assert class_wise_self_distillation_loss(logits, target, partner, reduction="sum").allclose(each.sum())


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"temperature": 0.0}, "temperature must be greater than 0 and finite; got 0.0"),
        ({"temperature": math.inf}, "temperature must be greater than 0"),
        ({"weight": -1.0}, "weight must be at least 0 and finite; got -1.0"),
        ({"weight": math.nan}, "weight must be at least 0"),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        class_wise_self_distillation_loss(*numbers(2, 3), **options)
