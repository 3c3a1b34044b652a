"""What mixins add to cross entropy: the closed forms held to numpy, to autograd, and to their own derivatives."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from lightning_flip.functional import _closed_form, class_wise_self_distillation_loss
from lightning_flip.functional.distillation import distillation_loss
from lightning_flip.functional.losses import cross_entropy
from lightning_flip.functional.past_predictions import flipping_error_reduction_loss, learning_with_retrospection_loss
from lightning_flip.functional.positive_congruent import focal_distillation_loss
from lightning_flip.functional.regularization import (
    confidence_penalty_loss,
    snapshot_distillation_loss,
    teacher_free_loss,
)
from lightning_flip.functional.running_targets import early_learning_loss, self_adaptive_loss
from lightning_flip.functional.smearing import label_smoothing_loss
from tests.oracles import regularization as oracle

B, K = 7, 5


def numbers(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


Y = torch.tensor([0, 3, 4, 1, 1, 2, 0])
KNOWN = torch.tensor([True, False, True, True, False, True, True])
PAST, Q = 3 * numbers(1, B, K), numbers(2, B, K).softmax(dim=1)
ROWS = (0.9 * Q) * KNOWN[:, None]  # of mass under one, and empty

Loss = Callable[..., Tensor]
SCHEDULE: dict[str, float] = {"alpha": 0.4, "beta": 0.6}
LOSSES: dict[str, Loss] = {
    "fer": lambda z, **o: flipping_error_reduction_loss(z, Y, Q, KNOWN, **SCHEDULE, **o),
    "fer, a mixin's rows": lambda z, **o: flipping_error_reduction_loss(
        z, Y, ROWS, KNOWN, **SCHEDULE, zeros_elsewhere=True, **o
    ),
    "fer, t = 1": lambda z, **o: flipping_error_reduction_loss(z, Y, Q, KNOWN, temperature=1.0, **SCHEDULE, **o),
    "fer without t^2": lambda z, **o: flipping_error_reduction_loss(
        z, Y, Q, KNOWN, temperature_squared=False, **SCHEDULE, **o
    ),
    "lwr": lambda z, **o: learning_with_retrospection_loss(z, Y, PAST, KNOWN, **SCHEDULE, **o),
    "lwr, t = 1": lambda z, **o: learning_with_retrospection_loss(z, Y, PAST, KNOWN, temperature=1.0, **SCHEDULE, **o),
    "label smoothing": lambda z, **o: label_smoothing_loss(z, Y, smoothing=0.3, **o),
    "confidence penalty": lambda z, **o: confidence_penalty_loss(z, Y, weight=0.7, **o),
    "tf-reg": lambda z, **o: teacher_free_loss(z, Y, **o),
    "tf-reg, sharp": lambda z, **o: teacher_free_loss(
        z, Y, weight=0.95, temperature=0.01, multiplier=4.0, confidence=0.9, **o
    ),
    "filter-kd": lambda z, **o: distillation_loss(z, Q, Y, teacher_is="probs", **o),
    "kd": lambda z, **o: distillation_loss(z, PAST, Y, temperature=3.0, weight=0.7, **o),
    "snapshots": lambda z, **o: snapshot_distillation_loss(z, Y, PAST, **o),
    "cs-kd": lambda z, **o: class_wise_self_distillation_loss(z, Y, PAST, weight=1.5, **o),
    "elr": lambda z, **o: early_learning_loss(z, Y, 0.8 * Q, **o),
    "sat": lambda z, **o: self_adaptive_loss(z, Q, target=Y, **o),
    "sat, one row counts less": lambda z, **o: self_adaptive_loss(z, Q, valid=KNOWN, target=Y, **o),
}
FOCAL: dict[str, Loss] = {
    "focal": lambda z, **o: focal_distillation_loss(z, PAST, Y, **o),
    "focal, t = 1": lambda z, **o: focal_distillation_loss(z, PAST, Y, alpha=0.5, temperature=1.0, **o),
    "focal, more classes": lambda z, **o: focal_distillation_loss(
        z, PAST[:, :3], Y, temperature=2.0, old_classes=torch.tensor([1, 4, 0]), **o
    ),
}
every_loss = pytest.mark.parametrize("name", [*LOSSES, *FOCAL])


@pytest.fixture
def z() -> Tensor:
    return (2 * numbers(0, B, K)).requires_grad_()


def excess(name: str) -> Callable[[Tensor], Tensor]:
    return functools.partial((LOSSES | FOCAL)[name], reduction="excess")


def by_autograd(name: str) -> Callable[[Tensor], Tensor]:
    """The mean over the batch of the losses minus cross entropy."""

    def mean(z: Tensor) -> Tensor:
        if name in FOCAL:
            return FOCAL[name](z, reduction="mean")
        return (LOSSES[name](z, reduction="none") - cross_entropy(z, Y, reduction="none")).mean()

    return mean


def gradient(function: Callable[[Tensor], Tensor], z: Tensor) -> Tensor:
    (result,) = torch.autograd.grad(function(z), z)
    return result


@every_loss
def test_value_and_gradient_are_those_of_autograd(name: str, z: Tensor) -> None:
    torch.testing.assert_close(excess(name)(z), by_autograd(name)(z), rtol=0, atol=1e-10)
    torch.testing.assert_close(gradient(excess(name), z), gradient(by_autograd(name), z), rtol=0, atol=1e-10)


@every_loss
def test_without_closed_forms_it_is_the_same(name: str, z: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    found = excess(name)(z), gradient(excess(name), z)
    monkeypatch.setattr(_closed_form, "FUSED", False)
    monkeypatch.setattr(_closed_form._ClosedForm, "apply", lambda *args: pytest.fail("a closed form was used"))
    torch.testing.assert_close(found, (excess(name)(z), gradient(excess(name), z)), rtol=0, atol=1e-10)


@every_loss
def test_single_precision(name: str, z: Tensor) -> None:
    single = z.detach().float().requires_grad_()
    torch.testing.assert_close(excess(name)(single).double(), by_autograd(name)(z), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(
        gradient(excess(name), single).double(), gradient(by_autograd(name), z), rtol=0, atol=1e-5
    )


@every_loss
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_single(name: str, z: Tensor, dtype: torch.dtype) -> None:
    half = z.detach().to(dtype).requires_grad_()
    wide = half.detach().float().requires_grad_()
    assert excess(name)(half).dtype == torch.float32
    torch.testing.assert_close(excess(name)(half), excess(name)(wide), rtol=0, atol=0)
    assert gradient(excess(name), half).equal(gradient(excess(name), wide).to(dtype))


@every_loss
def test_first_and_second_derivatives_are_its_differences(name: str, z: Tensor) -> None:
    assert torch.autograd.gradcheck(excess(name), (z,))
    assert torch.autograd.gradgradcheck(excess(name), (z,))


@every_loss
def test_a_scaled_loss_has_a_scaled_gradient(name: str, z: Tensor) -> None:
    scaled = gradient(lambda z: 65536 * excess(name)(z), z)
    assert scaled.equal(65536 * gradient(excess(name), z))


@every_loss
def test_a_gradient_scaler_takes_its_scale_out_again(name: str, z: Tensor) -> None:
    points, weight, other = z.detach().float(), torch.nn.Parameter(torch.ones(K)), torch.ones(K, requires_grad=True)
    scaler, optimizer = torch.amp.GradScaler("cpu", init_scale=1024.0), torch.optim.SGD([weight], lr=1.0)
    scaler.scale(excess(name)(points * weight)).backward()
    scaler.unscale_(optimizer)
    expected = gradient(lambda factor: by_autograd(name)(points * factor), other)
    torch.testing.assert_close(weight.grad, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.filterwarnings(
    "ignore:.torch.jit.script. is deprecated", "ignore:There is a performance drop"
)  # torch itself
@every_loss
def test_function_transforms(name: str, z: Tensor) -> None:
    one, other, z = excess(name), by_autograd(name), z.detach()
    for transform in (
        torch.func.grad,
        torch.func.jacfwd,
        torch.func.hessian,
        lambda f: torch.func.jacrev(torch.func.jacrev(f)),
        lambda f: torch.func.jacfwd(torch.func.jacfwd(f)),
    ):
        torch.testing.assert_close(transform(one)(z), transform(other)(z), rtol=0, atol=1e-10)
    batch = numbers(5, 3, B, K)
    for make in (torch.func.vmap, lambda f: torch.func.vmap(torch.func.grad(f))):
        torch.testing.assert_close(make(one)(batch), make(other)(batch), rtol=0, atol=1e-10)


@every_loss
def test_second_derivatives_reach_earlier_weights(name: str, z: Tensor) -> None:
    """As gradient penalties want them: nothing is missing, and nothing is said to be constant."""
    results = []
    for function in (excess(name), by_autograd(name)):
        weight = torch.tensor(1.5, dtype=torch.float64, requires_grad=True)
        (by_z,) = torch.autograd.grad(function(weight * z), z, create_graph=True)
        results.append(torch.autograd.grad(by_z.square().sum(), weight)[0])
    torch.testing.assert_close(*results, rtol=0, atol=1e-10)
    assert abs(float(results[0])) > 1e-6


def test_numpy_says_the_same(z: Tensor) -> None:
    pairs: dict[str, Callable[[int], oracle.Pair]] = {
        "confidence penalty": lambda i: oracle.confidence_penalty(points[i], int(Y[i]), 0.7),
        "tf-reg": lambda i: oracle.teacher_free(points[i], int(Y[i])),
        "snapshots": lambda i: oracle.snapshot_distillation(points[i], int(Y[i]), PAST[i].numpy()),
        "elr": lambda i: oracle.early_learning(points[i], int(Y[i]), 0.8 * Q[i].numpy()),
    }
    points = z.detach().numpy()
    plain = [oracle.cross_entropy(points[i], int(Y[i])) for i in range(B)]
    for name, pair in pairs.items():
        said = [pair(i) for i in range(B)]
        value = np.mean([loss for loss, _ in said]) - np.mean([loss for loss, _ in plain])
        expected = np.stack([one - other for (_, one), (_, other) in zip(said, plain, strict=True)]) / B
        np.testing.assert_allclose(excess(name)(z).item(), value, rtol=0, atol=1e-10)
        np.testing.assert_allclose(gradient(excess(name), z), expected, rtol=0, atol=1e-10)


def test_a_penalty_that_is_near_nothing_keeps_its_digits() -> None:
    """At t = 100 the two distributions nearly agree: differences of them would leave noise."""
    new, old = numbers(3, B, K).float(), numbers(4, B, K).float()
    value, by_z = torch.func.grad_and_value(lambda z: focal_distillation_loss(z, old, Y, reduction="excess"))(new)[::-1]
    exact = functools.partial(focal_distillation_loss, old_logits=old.double(), target=Y, reduction="mean")
    torch.testing.assert_close(value.double(), exact(new.double()), rtol=1e-4, atol=0)
    torch.testing.assert_close(by_z.double(), torch.func.grad(exact)(new.double()), rtol=1e-4, atol=1e-9)


@pytest.mark.parametrize(
    "loss",
    [
        lambda z, q: label_smoothing_loss(z, q, smoothing=0.3, reduction="excess"),
        lambda z, q: confidence_penalty_loss(z, q, weight=0.7, reduction="excess"),
        lambda z, q: distillation_loss(z, PAST, q, weight=0.7, reduction="excess"),
        lambda z, q: snapshot_distillation_loss(z, q, PAST, reduction="excess"),
    ],
)
def test_distributions_go_to_autograd(loss: Any, z: Tensor) -> None:
    hot = torch.nn.functional.one_hot(Y, K).double()
    torch.testing.assert_close(loss(z, hot), loss(z, Y), rtol=0, atol=1e-10)
    torch.testing.assert_close(gradient(lambda z: loss(z, hot), z), gradient(lambda z: loss(z, Y), z))


def test_excess_needs_a_target(z: Tensor) -> None:
    for loss in (distillation_loss(z, Q, teacher_is="probs"), self_adaptive_loss(z, Q)):
        assert loss.ndim == 0
    with pytest.raises(ValueError, match="needs target"):
        distillation_loss(z, Q, teacher_is="probs", reduction="excess")
    with pytest.raises(ValueError, match="needs target"):
        self_adaptive_loss(z, Q, reduction="excess")


# -- mistakes are seen -------------------------------------------------------------------------------------


RULE = _closed_form._soft_rule


def wrong_sign(*args: Any, **options: Any) -> tuple[Tensor, Tensor]:
    value, by_z = RULE(*args, **options)
    return value, -by_z


def no_temperature_in_the_gradient(*args: Any, **options: Any) -> tuple[Tensor, Tensor]:
    value, by_z = RULE(*args, **options)
    return value, by_z * options["temperature"]


def labels_weighted_twice(*args: Any, **options: Any) -> tuple[Tensor, Tensor]:
    return RULE(*args, **options | {"labels": 2 * options["labels"]})


def sum_and_not_mean(*args: Any, **options: Any) -> tuple[Tensor, Tensor]:
    value, by_z = RULE(*args, **options)
    return value * B, by_z * B


@pytest.mark.parametrize(
    "mutant", [wrong_sign, no_temperature_in_the_gradient, labels_weighted_twice, sum_and_not_mean]
)
def test_the_comparison_sees_the_mistake(mutant: Any, z: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_closed_form, "_soft_rule", mutant)
    with pytest.raises(AssertionError):
        test_value_and_gradient_are_those_of_autograd("fer", z)
