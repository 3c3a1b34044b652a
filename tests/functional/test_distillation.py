"""The loss of distillation against loops in numpy, its gradient by hand, and its limits."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_flip.functional import _closed_form, distillation_loss, soften
from tests.oracles import filter_kd as oracle

B, K = 5, 4


def tensors(seed=0, spread=2.0):
    generator = torch.Generator().manual_seed(seed)
    student = spread * torch.randn(B, K, generator=generator, dtype=torch.float64)
    teacher = spread * torch.randn(B, K, generator=generator, dtype=torch.float64)
    return student, teacher, torch.randint(0, K, (B,), generator=generator)


@pytest.mark.parametrize("teacher_is", ["logits", "probs"])
@pytest.mark.parametrize("weight", [1.0, 0.3, 0.0, 2.0])
@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0, 10.0])
def test_loss_and_gradient_are_the_loops(temperature, weight, teacher_is):
    student, teacher, target = tensors()
    teacher = teacher.softmax(dim=1) if teacher_is == "probs" else teacher
    student.requires_grad_()
    options = {"temperature": temperature, "weight": weight, "teacher_is": teacher_is}
    loss = distillation_loss(student, teacher, target, reduction="none", **options)
    expected, gradient = oracle.distillation(student.detach().numpy(), teacher.numpy(), target.numpy(), **options)
    np.testing.assert_allclose(loss.detach().numpy(), expected, rtol=1e-12)
    loss.sum().backward()
    np.testing.assert_allclose(student.grad.numpy(), gradient, rtol=1e-10, atol=1e-14)
    mean = distillation_loss(student, teacher, target, **options)
    torch.testing.assert_close(mean, loss.mean())
    torch.testing.assert_close(distillation_loss(student, teacher, target, reduction="sum", **options), loss.sum())


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("weight", [0.4, 1.0, 2.0])
@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_what_a_mixin_adds_is_the_loops(temperature, weight, fused, monkeypatch):
    monkeypatch.setattr(_closed_form, "FUSED", fused)
    student, teacher, target = tensors()
    student.requires_grad_()
    options = {"temperature": temperature, "weight": weight}
    excess = distillation_loss(student, teacher, target, reduction="excess", **options)
    excess.backward()
    numbers = student.detach().numpy(), teacher.numpy(), target.numpy()
    (loss, gradient), (plain, by_plain) = (oracle.distillation(*numbers, *o) for o in (options.values(), (1.0, 0.0)))
    np.testing.assert_allclose(excess.item(), np.mean(loss - plain), rtol=0, atol=1e-10)
    np.testing.assert_allclose(student.grad.numpy(), (gradient - by_plain) / len(loss), rtol=0, atol=1e-10)


def test_twice_the_loss_is_that_of_the_authors():
    """`KLDivLoss(reduction="batchmean")(log p, q) * (t * t * 2.0)`, and its gradient."""
    student, teacher, target = tensors()
    z, same = student.clone().requires_grad_(), student.clone().requires_grad_()
    distillation_loss(z, teacher, target, temperature=3.0, weight=2.0).backward()
    divergence = F.kl_div((same / 3).log_softmax(1), (teacher / 3).softmax(1), reduction="batchmean")
    (divergence * (3.0 * 3.0 * 2.0)).backward()
    torch.testing.assert_close(z.grad, same.grad)


def test_gradients_by_finite_differences():
    student, teacher, target = tensors(3)

    def loss(z):
        return distillation_loss(z, teacher, target, temperature=3.0, weight=0.7)

    assert torch.autograd.gradcheck(loss, student.requires_grad_())


def test_no_gradient_flows_into_the_teacher():
    student, teacher, target = tensors()
    teacher.requires_grad_()
    distillation_loss(student.requires_grad_(), teacher, target, weight=0.5).backward()
    assert teacher.grad is None
    assert student.grad is not None


def test_a_certain_teacher_is_the_cross_entropy():
    student, _, target = tensors()
    certain = F.one_hot(target, K).double()
    for weight in (1.0, 0.5, 0.0):
        loss = distillation_loss(student, certain, target, weight=weight, teacher_is="probs")
        torch.testing.assert_close(loss, F.cross_entropy(student, target))


def test_labels_may_be_distributions():
    student, teacher, target = tensors()
    soft = F.one_hot(target, K).double()
    options = {"temperature": 2.0, "weight": 0.4}
    loss = distillation_loss(student, teacher, soft, **options)
    torch.testing.assert_close(loss, distillation_loss(student, teacher, target, **options))


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_stored_probabilities_at_a_temperature_are_the_logits_at_that_temperature(temperature):
    _, teacher, _ = tensors()
    direct = (teacher / temperature).softmax(dim=1)
    stored = soften(teacher.softmax(dim=1), temperature=temperature, teacher_is="probs")
    torch.testing.assert_close(stored, direct)


def test_the_student_that_says_what_the_teacher_says_has_no_gradient():
    _, teacher, _ = tensors()
    student = (teacher + 7.0).requires_grad_()  # logits are free up to a constant
    distillation_loss(student, teacher, temperature=2.5).backward()
    assert float(student.grad.abs().max()) < 1e-15


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("temperature", [0.5, 1.0, 100.0])
def test_extreme_logits_and_empty_classes_stay_finite(dtype, temperature):
    student = torch.tensor([[1e4, -1e4, 0.0], [-1e4, 1e4, 1e4]], dtype=dtype, requires_grad=True)
    probs = torch.tensor([[0.0, 1.0, 0.0], [1.0, 0.0, 0.0]])
    for teacher, teacher_is in ((probs, "probs"), (student.detach().flip(0), "logits")):
        student.grad = None
        loss = distillation_loss(student, teacher, temperature=temperature, teacher_is=teacher_is)
        assert loss.dtype == torch.float32
        loss.backward()
        assert torch.isfinite(loss)
        assert torch.isfinite(student.grad).all()
        assert student.grad.abs().sum() > 0


def test_half_precision_is_widened_before_the_arithmetic():
    student, teacher, target = (values.to(torch.bfloat16) if values.ndim == 2 else values for values in tensors())
    wide = distillation_loss(student.float(), teacher.float(), target, temperature=100.0, weight=0.9)
    assert torch.equal(distillation_loss(student, teacher, target, temperature=100.0, weight=0.9), wide)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.floats(0.25, 20.0), st.floats(0.0, 1.0))
def test_never_below_the_teachers_entropy(seed, temperature, weight):
    student, teacher, target = tensors(seed)
    loss = distillation_loss(student, teacher, target, temperature=temperature, weight=weight, reduction="none")
    soft = soften(teacher, temperature=temperature)
    entropy = -(soft * soft.clamp_min(1e-300).log()).sum(dim=1)
    floor = weight * temperature**2 * entropy + (1 - weight) * F.cross_entropy(student, target, reduction="none")
    assert (loss >= floor - 1e-9 * (1 + floor.abs())).all()


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"weight": -0.5}, "weight must be at least 0"),
        ({"weight": math.inf}, "weight must be at least 0 and finite"),
        ({"weight": math.nan}, "weight must be at least 0"),
        ({"weight": 0.5}, "needs target"),
        ({"temperature": 0.0}, "temperature must be greater than 0"),
        ({"temperature": math.nan}, "temperature must be greater than 0"),
    ],
)
def test_wrong_options_are_refused(options, match):
    student, teacher, _ = tensors()
    with pytest.raises(ValueError, match=match):
        distillation_loss(student, teacher, **options)
