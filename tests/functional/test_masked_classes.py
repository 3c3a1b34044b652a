"""Logits that are masked with minus infinity: held to numpy, which drops the masked classes."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from lightning_flip.functional import (
    _closed_form,
    backward_correction_loss,
    class_wise_self_distillation_loss,
    confidence_penalty_loss,
    distillation_loss,
    early_learning_loss,
    early_learning_target,
    fit_temperature,
    flipping_error_reduction_loss,
    focal_distillation_loss,
    forward_correction_loss,
    label_smoothing_loss,
    learning_with_retrospection_loss,
    logit_margin,
    naive_positive_congruent_loss,
    predictive_disagreement,
    predictive_entropy,
    self_adaptive_loss,
    self_adaptive_target,
    snapshot_distillation_loss,
    teacher_free_loss,
)
from lightning_flip.functional.losses import cross_entropy, soft_cross_entropy, weighted_sum
from lightning_flip.functional.predictions import describe_predictions
from tests.oracles import class_wise, filter_kd, regularization, retrospection, smearing
from tests.oracles.calibration import best_temperature
from tests.oracles.masked import left, margin

B, K = 7, 5
INF = math.inf


def numbers(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


Y = torch.tensor([0, 3, 4, 1, 1, 2, 0])
KEEP = torch.ones(B, K, dtype=torch.bool)
for row, masked in enumerate([[1], [0, 4], [], [2, 3, 4], [0], [0, 1], [4]]):
    KEEP[row, masked] = False
KNOWN = torch.tensor([True, False, True, True, False, True, True])
PAST = (3 * numbers(1, B, K)).masked_fill(~KEEP, -INF)  # what the same network said before, or its partner, or teacher
Q = numbers(2, B, K).masked_fill(~KEEP, -INF).softmax(dim=1)
T = torch.full((K, K), 0.1, dtype=torch.float64).fill_diagonal_(0.6)
SCHEDULE: dict[str, float] = {"alpha": 0.4, "beta": 0.6}
WEIGHTS = Q.amax(dim=1) / Q.amax(dim=1).mean()

Loss = Callable[..., Tensor]
Pair = retrospection.SampleLoss


def plain(z: Any, y: int) -> Any:
    return retrospection.cross_entropy(z, y)


def mixed(*parts: tuple[float, Any]) -> Any:
    return sum(factor * loss for factor, (loss, _) in parts), sum(factor * by_z for factor, (_, by_z) in parts)


def divergence(z: Any, teacher: Any, t: float) -> Any:
    """t^2 KL(softmax(teacher / t) || softmax(z / t))."""
    q = retrospection.softmax(teacher / t)
    loss, by_z = retrospection.soft_target_loss(z, q, t)
    return t**2 * (loss + float((q * np.log(q)).sum())), t**2 * by_z


def focal(i: int, z: Any, y: int, old: Any) -> Any:
    return mixed((1.0 + 5.0 * (int(PAST[i].argmax()) == int(Y[i])), divergence(z, old, 2.0)))


def retrospective(i: int, z: Any, y: int, past: Any) -> Any:
    return mixed((0.4, plain(z, y)), (0.6, divergence(z, past, 5.0))) if KNOWN[i] else plain(z, y)


def reduced(i: int, z: Any, y: int, q: Any) -> Any:
    if not KNOWN[i]:
        return plain(z, y)
    return mixed((0.4, plain(z, y)), (0.6 * 25, retrospection.soft_target_loss(z, q, 5.0)))


def taught(z: Any, y: int, said: Any, **options: Any) -> Any:
    losses, gradients = filter_kd.distillation(z[None], said[None], np.array([y]), **options)
    return float(losses[0]), gradients[0]


def of_partner(z: Any, y: int, other: Any) -> Any:
    (loss,), (by_z,) = (f(z[None], [y], other[None], 4.0, 1.5) for f in _CLASS_WISE)
    return loss, np.array(by_z)


_CLASS_WISE: Any = (class_wise.class_wise_loss, class_wise.class_wise_gradient)

# name: the loss of all samples, and that of one in numpy from its number, logits, label and rows without masked classes
LOSSES: dict[str, tuple[Loss, Any, tuple[Tensor, ...]]] = {
    "fer": (lambda z, **o: flipping_error_reduction_loss(z, Y, Q, KNOWN, **SCHEDULE, **o), reduced, (Q,)),
    "lwr": (
        lambda z, **o: learning_with_retrospection_loss(z, Y, PAST, KNOWN, **SCHEDULE, **o),
        retrospective,
        (PAST,),
    ),
    "lwr, no share": (
        lambda z, **o: learning_with_retrospection_loss(z, Y, PAST, KNOWN, alpha=1.0, beta=0.0, **o),
        lambda i, z, y: plain(z, y),
        (),
    ),
    "no smoothing": (lambda z, **o: label_smoothing_loss(z, Y, smoothing=0.0, **o), lambda i, z, y: plain(z, y), ()),
    "confidence penalty": (
        lambda z, **o: confidence_penalty_loss(z, Y, weight=0.7, **o),
        lambda i, z, y: regularization.confidence_penalty(z, y, 0.7),
        (),
    ),
    "no tf-reg": (lambda z, **o: teacher_free_loss(z, Y, weight=0.0, **o), lambda i, z, y: plain(z, y), ()),
    "filter-kd": (
        lambda z, **o: distillation_loss(z, Q, Y, teacher_is="probs", **o),
        lambda i, z, y, q: taught(z, y, q, teacher_is="probs"),
        (Q,),
    ),
    "kd": (
        lambda z, **o: distillation_loss(z, PAST, Y, temperature=3.0, weight=0.7, **o),
        lambda i, z, y, said: taught(z, y, said, temperature=3.0, weight=0.7),
        (PAST,),
    ),
    "snapshots": (
        lambda z, **o: snapshot_distillation_loss(z, Y, PAST, **o),
        lambda i, z, y, said: regularization.snapshot_distillation(z, y, said),
        (PAST,),
    ),
    "cs-kd": (
        lambda z, **o: class_wise_self_distillation_loss(z, Y, PAST, weight=1.5, **o),
        lambda i, z, y, said: of_partner(z, y, said),
        (PAST,),
    ),
    "sat": (
        lambda z, **o: self_adaptive_loss(z, Q, target=Y, **o),
        lambda i, z, y, q: mixed((float(WEIGHTS[i]), retrospection.soft_target_loss(z, q))),
        (Q,),
    ),
}
FOCAL: Loss = lambda z, **o: focal_distillation_loss(z, PAST, Y, temperature=2.0, **o)  # noqa: E731
every_loss = pytest.mark.parametrize("name", LOSSES)


@pytest.fixture
def z() -> Tensor:
    return (2 * numbers(0, B, K)).masked_fill(~KEEP, -INF).requires_grad_()


def said(name: str, z: Tensor) -> tuple[Any, Any]:
    """Numpy's losses [B], and the gradient of each by its logits [B, K]."""
    _, pair, rows = LOSSES[name]
    points = z.detach().numpy()
    pairs = [
        left(functools.partial(pair, i), points[i], int(Y[i]), *(row[i].numpy() for row in rows)) for i in range(B)
    ]
    return np.array([loss for loss, _ in pairs]), np.stack([by_z for _, by_z in pairs])


def gradient(function: Callable[[Tensor], Tensor], z: Tensor) -> Tensor:
    (result,) = torch.autograd.grad(function(z), z)
    return result


def close(found: Tensor, expected: Any) -> None:
    np.testing.assert_allclose(found.detach().numpy(), expected, rtol=0, atol=1e-10)


@every_loss
def test_every_samples_loss_is_that_of_the_classes_left(name: str, z: Tensor) -> None:
    losses, gradients = said(name, z)
    close(LOSSES[name][0](z, reduction="none"), losses)
    close(gradient(lambda z: LOSSES[name][0](z, reduction="mean"), z), gradients / B)


@every_loss
@pytest.mark.parametrize("fused", [True, False])
def test_what_a_mixin_adds_is_that_of_the_classes_left(
    name: str, fused: bool, z: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_closed_form, "FUSED", fused)
    losses, gradients = said(name, z)
    points = z.detach().numpy()
    base = [left(plain, points[i], int(Y[i])) for i in range(B)]
    excess = functools.partial(LOSSES[name][0], reduction="excess")
    close(excess(z), losses.mean() - np.mean([loss for loss, _ in base]))
    close(gradient(excess, z), (gradients - np.stack([by_z for _, by_z in base])) / B)


@pytest.mark.parametrize("fused", [True, False])
def test_focal_distillation_of_two_models_with_one_mask(
    fused: bool, z: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_closed_form, "FUSED", fused)
    points = z.detach().numpy()
    pairs = [left(functools.partial(focal, i), points[i], int(Y[i]), PAST[i].numpy()) for i in range(B)]
    for reduction in ("excess", "mean"):
        loss = functools.partial(FOCAL, reduction=reduction)
        close(loss(z), np.mean([loss for loss, _ in pairs]))
        close(gradient(loss, z), np.stack([by_z for _, by_z in pairs]) / B)


@pytest.mark.parametrize("direction", ["old_new", "new_old"])
@pytest.mark.parametrize("fused", [True, False])
def test_a_divergence_from_a_model_that_masks_more(
    direction: Any, fused: bool, z: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """KL(q || p) needs the classes of q alone: the terms of the others are p, which sums to its share."""
    monkeypatch.setattr(_closed_form, "FUSED", fused)
    few, many = z.detach().requires_grad_(), 2 * numbers(7, B, K)
    new, old = (many.requires_grad_(), few.detach()) if direction == "old_new" else (few, many)
    options = {"temperature": 2.0, "alpha": 1.0, "beta": 0.0, "direction": direction}
    expected = np.mean(
        [
            4.0 * sum(q * (np.log(q) - np.log(p)) for q, p in zip(*pair, strict=True) if q > 0)
            for pair in zip((few / 2).softmax(1).tolist(), (many / 2).softmax(1).tolist(), strict=True)
        ]
    )
    for reduction in ("excess", "mean"):
        loss = functools.partial(focal_distillation_loss, old_logits=old, target=Y, reduction=reduction, **options)
        close(loss(new), expected)
        by_z = gradient(loss, new)
        assert by_z.isfinite().all()
        step = 1e-6 * numbers(8, B, K).masked_fill(new.detach() == -INF, 0.0)
        ahead, behind = loss(new.detach() + step), loss(new.detach() - step)
        torch.testing.assert_close((ahead - behind) / 2, (by_z * step).sum(), rtol=1e-6, atol=1e-12)


def test_early_learning_is_the_formula(z: Tensor) -> None:
    """p = 0 of a masked class is clamped as any other, and no gradient flows through it."""
    running, points = 0.8 * Q, z.detach().numpy()
    pairs = [regularization.early_learning(points[i], int(Y[i]), running[i].numpy()) for i in range(B)]
    close(early_learning_loss(z, Y, running, reduction="none"), [loss for loss, _ in pairs])
    for fused in (True, False):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(_closed_form, "FUSED", fused)
            by_z = gradient(lambda z: early_learning_loss(z, Y, running, reduction="excess"), z)
            close(by_z + gradient(lambda z: cross_entropy(z, Y), z), np.stack([row for _, row in pairs]) / B)
    moved = [regularization.early_learning_row(running[i].numpy(), points[i]) for i in range(B)]
    close(early_learning_target(running, z), np.stack(moved))
    close(self_adaptive_target(Q, z), 0.9 * Q.numpy() + 0.1 * np.exp([retrospection.log_softmax(p) for p in points]))


def test_corrections_for_noise_know_masked_classes(z: Tensor) -> None:
    """Through T a masked class adds nothing; backwards it counts with its clipped logarithm, as any improbable one."""
    points = z.detach().numpy()
    inverse = np.linalg.inv(T.numpy())
    with np.errstate(divide="ignore"):
        forwards = [smearing.forward(np.maximum(points[i], -1e4), int(Y[i]), T.numpy()) for i in range(B)]
        backwards = [smearing.smeared(np.maximum(points[i], -1e4), int(Y[i]), inverse, 1e-7) for i in range(B)]
    for loss, pairs in ((forward_correction_loss, forwards), (backward_correction_loss, backwards)):
        close(loss(z, Y, T, reduction="none"), [value for value, _ in pairs])
        close(gradient(lambda z, loss=loss: loss(z, Y, T, reduction="sum"), z), np.stack([by_z for _, by_z in pairs]))


def test_mixed_labels_and_a_naive_term(z: Tensor) -> None:
    points = z.detach().numpy()
    pairs = [
        left(lambda row, y, q: retrospection.soft_target_loss(row, q), points[i], int(Y[i]), Q[i].numpy())
        for i in range(B)
    ]
    for loss in (lambda z: cross_entropy(z, Q, reduction="none"), lambda z: soft_cross_entropy(Q, z, reduction="none")):
        close(loss(z), [value for value, _ in pairs])
        close(gradient(lambda z, loss=loss: loss(z).sum(), z), np.stack([by_z for _, by_z in pairs]))
    right = PAST.argmax(dim=1) == Y
    expected = [left(plain, points[i], int(Y[i]))[0] * float(right[i]) for i in range(B)]
    close(naive_positive_congruent_loss(z, PAST, Y, reduction="none"), expected)


@every_loss
@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_second_derivatives_are_those_of_the_classes_left(name: str, scale: float, z: Tensor) -> None:
    """As gradient penalties take them, through the closed form and through autograd."""
    found = []
    for fused in (True, False):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(_closed_form, "FUSED", fused)
            weight = torch.tensor(scale, dtype=torch.float64, requires_grad=True)
            points = torch.where(KEEP, weight * z.detach().masked_fill(~KEEP, 0.0), -INF)
            value = LOSSES[name][0](points, reduction="excess")
            (by_weight,) = torch.autograd.grad(value, weight, create_graph=True)
            found.append(torch.autograd.grad(by_weight, weight)[0])

    def at(weight: float) -> float:
        """Numpy's first derivative by the weight."""
        points = torch.where(KEEP, weight * z.detach().masked_fill(~KEEP, 0.0), -INF)
        base = np.stack([left(plain, points[i].numpy(), int(Y[i]))[1] for i in range(B)])
        by_z = (said(name, points)[1] - base) / B
        return float((by_z * z.detach().masked_fill(~KEEP, 0.0).numpy()).sum())

    expected = (at(scale + 1e-5) - at(scale - 1e-5)) / 2e-5
    np.testing.assert_allclose([float(value) for value in found], expected, rtol=1e-6, atol=1e-8)


@every_loss
def test_single_precision_has_no_nan_either(name: str, z: Tensor) -> None:
    for fused in (True, False):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(_closed_form, "FUSED", fused)
            single = z.detach().float().requires_grad_()
            excess = functools.partial(LOSSES[name][0], reduction="excess")
            assert excess(single).isfinite()
            assert gradient(excess, single).isfinite().all()


INFINITE: dict[str, Loss] = {
    "label smoothing": lambda z, **o: label_smoothing_loss(z, Y, smoothing=0.1, **o),
    "tf-reg": lambda z, **o: teacher_free_loss(z, Y, **o),
    "fer": lambda z, **o: flipping_error_reduction_loss(
        z, Y, torch.full_like(Q, 1 / K), torch.ones(B, dtype=torch.bool), **SCHEDULE, **o
    ),
    "lwr": lambda z, **o: learning_with_retrospection_loss(z, Y, torch.zeros_like(Q), KNOWN, **SCHEDULE, **o),
    "kd": lambda z, **o: distillation_loss(z, torch.zeros_like(Q), Y, **o),
    "snapshots": lambda z, **o: snapshot_distillation_loss(z, Y, torch.zeros_like(Q), **o),
    "cs-kd": lambda z, **o: class_wise_self_distillation_loss(z, Y, torch.zeros_like(Q), **o),
    "sat": lambda z, **o: self_adaptive_loss(z, torch.full_like(Q, 1 / K), target=Y, **o),
    "focal": lambda z, **o: focal_distillation_loss(z, torch.zeros_like(Q), Y, **o),
}


@pytest.mark.parametrize("name", INFINITE)
def test_mass_on_a_masked_class_costs_infinitely_much_and_is_no_nan(name: str, z: Tensor) -> None:
    masked = (~KEEP).any(dim=1)
    if name == "lwr":
        masked &= KNOWN
    losses = INFINITE[name](z, reduction="none")
    assert losses[masked].eq(INF).all()
    assert losses[~masked].isfinite().all()
    for fused in (True, False):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(_closed_form, "FUSED", fused)
            assert INFINITE[name](z, reduction="excess") == INF


@pytest.mark.parametrize("name", [*LOSSES, "focal", "elr"])
@pytest.mark.parametrize("fused", [True, False])
def test_logits_that_are_nan_stay_to_be_seen(
    name: str, fused: bool, z: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_closed_form, "FUSED", fused)
    broken = z.detach().clone()
    broken[2, 1] = math.nan  # of a row whose loss has every part
    loss = {name: loss for name, (loss, *_) in LOSSES.items()}
    loss |= {"focal": FOCAL, "elr": lambda z, **o: early_learning_loss(z, Y, 0.8 * Q, **o)}
    assert loss[name](broken, reduction="mean").isnan()
    assert loss[name](broken, reduction="excess").isnan()


def test_what_is_recorded_of_a_prediction(z: Tensor) -> None:
    facts, points = describe_predictions(z.detach(), Y), z.detach().numpy()
    p = [retrospection.softmax(row[row > -np.inf]) for row in points]
    label = [int((points[i, : int(Y[i])] > -np.inf).sum()) for i in range(B)]
    assert facts.pred.tolist() == points.argmax(axis=1).tolist()
    close(facts.prob_pred, [row.max() for row in p])
    close(facts.prob_label, [row[at] for row, at in zip(p, label, strict=True)])
    close(facts.cross_entropy, [-np.log(row[at]) for row, at in zip(p, label, strict=True)])
    close(facts.logit_margin, [margin(points[i], int(Y[i])) for i in range(B)])
    alone = torch.tensor([[-INF, 2.0, -INF]])
    assert logit_margin(alone, torch.tensor([1])).tolist() == [INF]


def test_uncertainty_and_temperature_of_masked_logits(z: Tensor) -> None:
    members = torch.stack([z.detach(), PAST])
    p = members.softmax(dim=2).numpy()
    mean = p.mean(axis=0)
    entropy = [-sum(q * np.log(q) for q in row if q > 0) for row in mean]
    close(predictive_entropy(members), entropy)
    apart = [
        np.mean([sum(q * np.log(q / m) for q, m in zip(one[i], mean[i], strict=True) if q > 0) for one in p])
        for i in range(B)
    ]
    close(predictive_disagreement(members), apart)
    logits = z.detach().repeat(40, 1) + 0.1 * numbers(9, 40 * B, K)
    labels = torch.multinomial((logits / 2).softmax(dim=1), 1, generator=torch.Generator().manual_seed(0))[:, 0]
    expected = best_temperature(logits.tolist(), labels.tolist())
    assert fit_temperature(logits, labels) == pytest.approx(expected, rel=1e-5)
    with pytest.raises(ValueError, match=r"finite .* masked"):
        fit_temperature(z.detach(), torch.tensor([1, 3, 4, 1, 1, 2, 0]))


def test_a_sum_passes_over_classes_without_weight() -> None:
    values = torch.tensor([[-INF, 1.0, INF, math.nan]])
    assert weighted_sum(torch.tensor([[0.0, 2.0, 0.0, 0.0]]), values).tolist() == [2.0]
    assert weighted_sum(torch.tensor([[0.5, 2.0, 0.0, 0.0]]), values).tolist() == [-INF]
    assert weighted_sum(torch.tensor([[0.0, 2.0, 0.0, 0.5]]), values).isnan().all()
