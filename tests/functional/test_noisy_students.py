"""Smoothed and corrected students against plain loops, what they are the same as, and their limits."""

from __future__ import annotations

import inspect
import math
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention
from torch import Tensor

from lightning_flip.functional import (
    distillation_loss,
    forward_correction_loss,
    label_smoothing_loss,
    pair_transition,
    smeared_loss,
    smoothing_matrix,
    soften,
)
from lightning_flip.functional.distillation import student_cross_entropy
from tests.oracles import noisy_students as oracle

B, K = 6, 4


def tensors(seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    student, teacher = 2 * torch.randn(2, B, K, generator=generator, dtype=torch.float64)
    return student, teacher, torch.randint(0, K, (B,), generator=generator)


def skewed(k: int = K) -> Tensor:
    """A transition without symmetry, one of its entries zero."""
    noise = torch.rand(k, k, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    noise[0, -1] = 0.0
    return 0.6 * torch.eye(k, dtype=torch.float64) + 0.4 * noise / noise.sum(dim=1, keepdim=True)


TREATED: dict[str, dict[str, Any]] = {"smoothed": {"smoothing": 0.3}, "corrected": {"transition": skewed()}}
both = pytest.mark.parametrize("treated", TREATED.values(), ids=TREATED)


def as_numpy(options: dict[str, Any]) -> dict[str, Any]:
    return {name: value.numpy() if isinstance(value, Tensor) else value for name, value in options.items()}


# -- plain loops --------------------------------------------------------------------------------------------


@both
@pytest.mark.parametrize("teacher_is", ["logits", "probs"])
@pytest.mark.parametrize("weight", [1.0, 0.3, 0.0, 2.0])
@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_loss_and_gradient_are_the_loops(temperature: float, weight: float, teacher_is: Any, treated: Any) -> None:
    student, teacher, target = tensors()
    teacher = teacher.softmax(dim=1) if teacher_is == "probs" else teacher
    options: dict[str, Any] = {"temperature": temperature, "weight": weight, "teacher_is": teacher_is, **treated}
    for y in (target, tensors(5)[0].softmax(dim=1)):
        z = student.clone().requires_grad_()
        loss = distillation_loss(z, teacher, y, reduction="none", **options)
        expected, gradient = oracle.distillation(student.numpy(), teacher.numpy(), y.numpy(), **as_numpy(options))
        np.testing.assert_allclose(loss.detach().numpy(), expected, rtol=1e-11)
        loss.sum().backward()
        np.testing.assert_allclose(z.grad.numpy(), gradient, rtol=0, atol=1e-11)  # type: ignore[union-attr]
        torch.testing.assert_close(distillation_loss(student, teacher, y, **options), loss.detach().mean())
        torch.testing.assert_close(distillation_loss(student, teacher, y, reduction="sum", **options), loss.sum())


@both
def test_gradients_by_finite_differences_and_none_into_the_teacher_or_the_noise(treated: Any) -> None:
    student, teacher, target = tensors(3)

    def loss(z: Tensor) -> Tensor:
        return distillation_loss(z, teacher, target, temperature=3.0, weight=0.7, **treated)

    assert torch.autograd.gradcheck(loss, student.requires_grad_())
    T = treated.get("transition", skewed()).clone().requires_grad_()
    options = {"transition": T} if "transition" in treated else treated
    distillation_loss(student, teacher.requires_grad_(), target, weight=0.5, **options).backward()
    assert teacher.grad is T.grad is None
    assert student.grad is not None


# -- identities ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("weight", [1.0, 0.4])
@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_no_smoothing_is_the_plain_loss_bit_for_bit_and_no_noise_is_it_too(temperature: float, weight: float) -> None:
    student, teacher, target = tensors()
    options: dict[str, Any] = {"temperature": temperature, "weight": weight, "reduction": "none"}
    plain = distillation_loss(student, teacher, target, **options)
    soft = -(soften(teacher, temperature=temperature) * (student / temperature).log_softmax(dim=1)).sum(dim=1)
    by_hand = weight * temperature**2 * soft
    if weight < 1:
        by_hand = by_hand + (1 - weight) * F.cross_entropy(student, target, reduction="none")
    assert plain.equal(by_hand)
    assert distillation_loss(student, teacher, target, smoothing=0.0, transition=None, **options).equal(plain)
    eye = torch.eye(K, dtype=torch.float64)
    torch.testing.assert_close(distillation_loss(student, teacher, target, transition=eye, **options), plain)
    tiny = distillation_loss(student, teacher, target, smoothing=1e-12, **options)
    torch.testing.assert_close(tiny, plain, rtol=0, atol=1e-9)


@pytest.mark.parametrize("weight", [1.0, 0.4, 0.0])
def test_a_certain_teacher_makes_label_smoothing_and_forward_correction(weight: float) -> None:
    student, _, target = tensors()
    certain = F.one_hot(target, K).double()
    options: dict[str, Any] = {"weight": weight, "teacher_is": "probs", "reduction": "none"}
    smoothed = distillation_loss(student, certain, target, smoothing=0.3, **options)
    torch.testing.assert_close(smoothed, label_smoothing_loss(student, target, smoothing=0.3, reduction="none"))
    corrected = distillation_loss(student, certain, target, transition=skewed(), **options)
    torch.testing.assert_close(corrected, forward_correction_loss(student, target, skewed(), reduction="none"))


def test_a_smoothed_student_is_a_smearing_of_the_tempered_target() -> None:
    student, teacher, _ = tensors()
    got = distillation_loss(student, teacher, temperature=2.0, smoothing=0.3, reduction="none")
    smeared = smeared_loss(student / 2, (teacher / 2).softmax(dim=1), smoothing_matrix(K, 0.3), reduction="none")
    torch.testing.assert_close(got, 4 * smeared)


@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_the_corrected_student_has_no_gradient_where_noise_makes_the_teacher_of_it(temperature: float) -> None:
    student, _, _ = tensors()
    student.requires_grad_()
    noisy = (student / temperature).softmax(dim=1).detach() @ skewed()
    teacher = noisy.log() * temperature  # says exactly this at the temperature
    distillation_loss(student, teacher, temperature=temperature, transition=skewed()).backward()
    assert float(student.grad.abs().max()) < 1e-15  # type: ignore[union-attr]
    student.grad = None
    distillation_loss(student, teacher, temperature=temperature).backward()
    assert float(student.grad.abs().max()) > 1e-3  # type: ignore[union-attr]


# -- numbers -------------------------------------------------------------------------------------------------


@both
@pytest.mark.parametrize("weight", [1.0, 0.5])
@pytest.mark.parametrize("temperature", [0.5, 1.0, 100.0])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_widened_and_sure_students_stay_finite(
    dtype: Any, temperature: float, weight: float, treated: Any
) -> None:
    sure = torch.tensor([[1e4, -1e4, 0.0, 5.0], [-1e4, 0.0, 3.0, 1e4], [0.0, 0.25, -0.5, 0.125]]).to(dtype)
    target = torch.tensor([1, 0, 2])
    options: dict[str, Any] = {"temperature": temperature, "weight": weight, **treated}
    for teacher, teacher_is in ((sure.flip(0), "logits"), (F.one_hot(target, K).to(dtype), "probs")):
        z = sure.clone().requires_grad_()
        value = distillation_loss(z, teacher, target, teacher_is=teacher_is, reduction="none", **options)  # type: ignore[arg-type]
        assert value.dtype == torch.float32
        (gradient,) = torch.autograd.grad(value.sum(), z)
        assert bool(value.isfinite().all() & gradient.isfinite().all())
        assert bool(gradient.abs().sum() > 0)
        for exact, close in ((torch.float32, {"rtol": 0, "atol": 0}), (torch.float64, {"rtol": 1e-5, "atol": 1e-5})):
            wide = distillation_loss(
                sure.to(exact), teacher.to(exact), target, teacher_is=teacher_is, reduction="none", **options
            )
            torch.testing.assert_close(value, wide.float(), **close)


def test_the_corrected_student_takes_no_logarithm_of_a_probability() -> None:
    """Even in double precision p T is 0 for a class that T cannot make out of the predicted one."""
    T = pair_transition(3, {0: 1}, 0.5)
    z = torch.tensor([[0.0, -2000.0, -2000.0]], requires_grad=True)
    teacher = torch.tensor([[0.25, 0.25, 0.5]])
    loss = distillation_loss(z, teacher, teacher_is="probs", transition=T)
    assert loss.item() == pytest.approx(0.5 * 2000 + 0.5 * math.log(2))
    (gradient,) = torch.autograd.grad(loss, z)
    torch.testing.assert_close(gradient, torch.tensor([[0.5, 0.0, -0.5]]))


def test_targets_in_single_precision_teach_a_student_in_double() -> None:
    student, teacher, target = tensors()
    rows = teacher.softmax(dim=1).float()
    for treated in TREATED.values():
        loss = distillation_loss(student, rows, target, teacher_is="probs", weight=0.5, **treated)
        wide = distillation_loss(student, rows.double(), target, teacher_is="probs", weight=0.5, **treated)
        assert loss.dtype == torch.float64
        torch.testing.assert_close(loss, wide, rtol=1e-14, atol=0)


@both
def test_nothing_is_read_back_from_the_device(treated: Any) -> None:
    """Tensors on "meta" have no values that could be."""
    student, teacher, target = (value.to("meta") for value in tensors())
    options = {name: value.to("meta") if isinstance(value, Tensor) else value for name, value in treated.items()}
    loss = distillation_loss(student.requires_grad_(), teacher, target, temperature=2.0, weight=0.5, **options)
    loss.backward()
    assert student.grad is not None


# -- refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("weight", [1.0, 0.5])
@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"smoothing": -0.1}, r"smoothing must be in \[0, 1\)"),
        ({"smoothing": 1.0}, r"smoothing must be in \[0, 1\)"),
        ({"smoothing": math.nan}, r"smoothing must be in \[0, 1\)"),
        ({"smoothing": 0.1, "transition": skewed()}, "smoothed or corrected, not both; got smoothing=0.1"),
        ({"transition": skewed(3)}, r"\[K, K\] with the logits' K = 4; got the shape \(3, 3\)"),
        ({"transition": torch.ones(1, 1)}, r"got the shape \(1, 1\)"),
        ({"transition": skewed()[:, :2]}, r"got the shape \(4, 2\)"),
        ({"transition": 2 * skewed()}, "rows that sum to 1"),
        ({"transition": skewed().T}, "rows that sum to 1"),
        ({"transition": 1.2 * torch.eye(K) - 0.05}, "at least 0"),
    ],
)
def test_wrong_options_are_refused(options: Any, match: str, weight: float) -> None:
    student, teacher, target = tensors()
    for loss in (distillation_loss, inspect.unwrap(distillation_loss)):  # with and without checks of shapes
        with pytest.raises(ValueError, match=match):
            loss(student, teacher, target, weight=weight, **options)
    with pytest.raises(ValueError, match=match):
        student_cross_entropy(student, target, **options)


def test_a_class_that_noise_never_makes_costs_infinitely_much() -> None:
    student, teacher, _ = tensors()
    T = torch.eye(K, dtype=torch.float64)
    T[1] = T[0]
    loss = distillation_loss(student, teacher, transition=T)
    assert loss.item() == math.inf
    without = teacher.softmax(dim=1)
    without[:, 1] = 0
    assert math.isfinite(distillation_loss(student, without, teacher_is="probs", transition=T).item())
