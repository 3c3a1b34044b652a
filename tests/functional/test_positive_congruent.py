"""Losses against the old model: the numpy oracle, the broadcast mistake, gradients, class growth, precision."""

from __future__ import annotations

import inspect
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lightning_flip.functional import (
    _closed_form,
    backward_compatible_loss,
    focal_distillation_loss,
    naive_positive_congruent_loss,
    old_model_right,
)
from lightning_flip.functional import positive_congruent as implementation
from tests.oracles import positive_congruent as oracle

B, K = 11, 5
UNCHECKED: Any = inspect.unwrap(focal_distillation_loss)  # without the checks of shapes that only tests switch on
COMBINATIONS = [
    {"distance": "kl", "direction": direction, "temperature": t}
    for direction, t in product(("old_new", "new_old"), (0.5, 4.0, 100.0))
] + [{"distance": "logits", "class_reduction": "mean"}, {"distance": "logits", "class_reduction": "sum"}]


def logits(seed: int, classes: int = K, rows: int = B) -> Tensor:
    return 3 * torch.randn(rows, classes, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def labels(classes: int = K, rows: int = B) -> Tensor:
    return torch.randint(classes, (rows,), generator=torch.Generator().manual_seed(9))


def close(got: Tensor, expected: Any) -> bool:
    return bool(np.allclose(got.detach().numpy(), expected, rtol=0, atol=1e-10))


# -- the oracle ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", COMBINATIONS, ids=str)
@pytest.mark.parametrize(("alpha", "beta"), [(1.0, 5.0), (0.0, 20.0), (0.3, 0.0), (0.7, 1.9)])
@pytest.mark.parametrize("classes", [2, K])
def test_every_combination_is_the_oracle(options: dict[str, Any], alpha: float, beta: float, classes: int) -> None:
    new, old, target = logits(0, classes), logits(1, classes), labels(classes)
    right = oracle.old_is_right(old.numpy(), target.numpy())
    assert 0 < sum(right) < B  # weights differ between samples
    expected = oracle.focal_distillation(new.numpy(), old.numpy(), target.numpy(), alpha, beta, **options)
    for reduction, reduce in (("none", np.asarray), ("mean", np.mean), ("sum", np.sum)):
        got = focal_distillation_loss(new, old, target, alpha=alpha, beta=beta, reduction=reduction, **options)
        assert close(got, reduce(expected)), reduction


@settings(deadline=None, max_examples=200)
@given(st.integers(0, 2**20), st.integers(1, 6), st.integers(2, 5), st.sampled_from(COMBINATIONS))
def test_random_cases_are_the_oracle(seed: int, rows: int, classes: int, options: dict[str, Any]) -> None:
    rng = np.random.default_rng(seed)
    known = int(rng.integers(1, classes + 1))
    old_classes = rng.permutation(classes)[:known]
    new, old = rng.normal(scale=4, size=(rows, classes)), rng.normal(scale=4, size=(rows, known))
    target = rng.integers(0, classes, size=rows)
    expected = oracle.focal_distillation(new, old, target, old_classes=old_classes.tolist(), **options)
    for old_samples in ("batch", "mean"):
        got = focal_distillation_loss(
            torch.from_numpy(new),
            torch.from_numpy(old),
            torch.from_numpy(target),
            old_classes=torch.from_numpy(old_classes),
            old_samples=old_samples,
            reduction="none",
            **options,
        )
        weight = oracle.weight_of_old_samples(target, old_classes.tolist(), old_samples)
        assert close(got, weight * expected)


def test_the_naive_loss_is_the_oracle() -> None:
    new, old, target = logits(0), logits(1), labels()
    expected = oracle.naive(new.numpy(), old.numpy(), target.numpy())
    assert 0 < (expected > 0).sum() < B
    assert close(naive_positive_congruent_loss(new, old, target, reduction="none"), expected)
    assert close(naive_positive_congruent_loss(new, old, target), expected.mean())


def test_the_backward_compatible_loss_is_the_oracle() -> None:
    h, W, b, target = logits(0, 7), logits(1, 7, K), logits(2, K, 1)[0], labels()
    both = oracle.backward_compatible(h.numpy(), W.numpy(), b.numpy(), W.numpy(), b.numpy(), target.numpy(), 1.0)
    assert close(backward_compatible_loss(h, W, b, target, reduction="none"), both / 2)
    without = oracle.backward_compatible(h.numpy(), W.numpy(), 0 * b.numpy(), W.numpy(), 0 * b.numpy(), target.numpy())
    assert close(backward_compatible_loss(h, W, None, target), without.mean() / 2)


# -- mistakes that are easily made must be seen -------------------------------------------------------------


def broadcast_to_a_square(patch: pytest.MonkeyPatch) -> None:
    def square(weights: Tensor, values: Tensor) -> Tensor:
        return (weights[:, None] * values[None, :]).mean(dim=1)

    patch.setattr(implementation, "_weighted", square)


def the_other_way_round(patch: pytest.MonkeyPatch) -> None:
    original: Any = inspect.unwrap(implementation._divergence)
    patch.setattr(implementation, "_divergence", lambda log_q, log_p: original(log_p, log_q))


def wrong_instead_of_right(patch: pytest.MonkeyPatch) -> None:
    def wrong(old: Tensor, target: Tensor, **options: Any) -> Tensor:
        return ~old_model_right(old, target, **options)

    patch.setattr(implementation, "old_model_right", wrong)


@pytest.mark.parametrize("mutant", [broadcast_to_a_square, the_other_way_round, wrong_instead_of_right])
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_the_comparison_sees_the_mistake(mutant: Any, reduction: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    new, old, target = logits(0), logits(1), labels()
    expected = oracle.focal_distillation(new.numpy(), old.numpy(), target.numpy(), temperature=4.0)
    expected = expected.mean() if reduction == "mean" else expected
    options: dict[str, Any] = {"temperature": 4.0, "reduction": reduction}
    assert close(focal_distillation_loss(new, old, target, **options), expected)
    mutant(monkeypatch)
    assert not close(focal_distillation_loss(new, old, target, **options), expected)


def test_the_broadcast_would_have_no_focus_left() -> None:
    """What the shape check stands against: the mean of the square is the product of the means."""
    new, old, target = logits(0), logits(1), labels()
    each = focal_distillation_loss(new, old, target, alpha=1.0, beta=0.0, reduction="none")
    weights = 1.0 + 5.0 * old_model_right(old, target)
    square = (weights[:, None] * each).mean()
    torch.testing.assert_close(square, weights.mean() * each.mean())
    assert abs(float(square / focal_distillation_loss(new, old, target)) - 1) > 0.02
    with pytest.raises(ValueError, match=r"must both be \[B\]"):
        inspect.unwrap(implementation._weighted)(weights[:, None], each)


@pytest.mark.parametrize(
    "shapes",
    [((B, K), (B, K), (B, 1)), ((B, K), (B, K), (1,)), ((B, K), (1, K), (B,)), ((B, K, 1), (B, K), (B,))],
    ids=str,
)
def test_other_shapes_are_refused(shapes: Any) -> None:
    new, old, target = shapes
    with pytest.raises(ValueError, match=r"got .*target\[:, 0\]"):
        UNCHECKED(torch.zeros(new), torch.zeros(old), torch.zeros(target, dtype=torch.long))


# -- gradients ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", COMBINATIONS, ids=str)
@pytest.mark.parametrize("old_classes", [None, torch.tensor([3, 0, 4])], ids=["same", "growth"])
def test_gradients(options: dict[str, Any], old_classes: Tensor | None) -> None:
    new = logits(0).requires_grad_()
    old = logits(1, K if old_classes is None else 3)

    def loss(z: Tensor) -> Tensor:
        return focal_distillation_loss(z, old, labels(), old_classes=old_classes, **options)

    assert torch.autograd.gradcheck(loss, (new,))


def test_no_gradient_reaches_the_old_model() -> None:
    new, old = logits(0).requires_grad_(), logits(1).requires_grad_()
    for options in COMBINATIONS:
        loss = focal_distillation_loss(new, old, labels(), **options)
        assert torch.autograd.grad(loss, old, allow_unused=True, retain_graph=True) == (None,)
    W, b = logits(2, K, K).requires_grad_(), torch.zeros(K, dtype=torch.float64, requires_grad=True)
    loss = backward_compatible_loss(new, W, b, labels())
    assert torch.autograd.grad(loss, (new, W, b), allow_unused=True)[1:] == (None, None)


@pytest.mark.parametrize("classes", [2, 10, 100])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_at_t_100_kl_has_the_gradient_of_the_mean_of_squares(classes: int, dtype: torch.dtype) -> None:
    # Up to 1% as long as logits stay within a few units, which is small against t = 100.
    new, old = (0.25 * logits(seed, classes).to(dtype) for seed in (0, 1))
    new, old = (z - z.mean(dim=1, keepdim=True) for z in (new, old))
    new.requires_grad_()
    gradients = {}
    for distance in ("kl", "logits"):
        loss = focal_distillation_loss(new, old, labels(classes), distance=distance)  # type: ignore[arg-type]
        (gradients[distance],) = torch.autograd.grad(loss, new)
    difference = (gradients["kl"] - gradients["logits"]).norm() / gradients["logits"].norm()
    assert difference < 0.01


def test_where_both_agree_nothing_is_added() -> None:
    z = logits(0).requires_grad_()
    for options in COMBINATIONS:
        loss = focal_distillation_loss(z, z.detach(), labels(), **options)
        assert loss.item() == 0.0
        (gradient,) = torch.autograd.grad(loss, z)
        assert gradient.abs().max() < 1e-12


# -- class growth -------------------------------------------------------------------------------------------


def test_samples_of_new_classes_have_no_part() -> None:
    old_classes = torch.tensor([4, 1])
    new, old, target = logits(0).requires_grad_(), logits(1, 2), labels()
    loss = focal_distillation_loss(new, old, target, old_classes=old_classes, reduction="none")
    known = (target == 4) | (target == 1)
    assert 0 < known.sum() < B
    assert (loss[~known] == 0).all()
    assert (loss[known] > 0).all()
    (gradient,) = torch.autograd.grad(loss.sum(), new)
    assert (gradient[~known] == 0).all()
    assert (gradient[:, [0, 2, 3]] == 0).all()
    assert (gradient[known][:, [1, 4]] != 0).all()
    assert not old_model_right(old, target, old_classes=old_classes)[~known].any()
    h, W = logits(2, 7), logits(3, 7, 2)
    compatible = backward_compatible_loss(h, W, None, target, old_classes=old_classes, reduction="none")
    assert (compatible[~known] == 0).all()
    local = torch.where(target[known] == 4, 0, 1)
    assert close(compatible[known], oracle.cross_entropy((h @ W.T)[known].numpy(), local.numpy()))


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("labelled", [[4, 0, 1, 1, 2], [0, 2, 3, 3, 0], [4, 1, 4, 4, 1]], ids=["some", "none", "all"])
def test_the_mean_over_samples_of_old_classes(
    labelled: list[int], fused: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_closed_form, "FUSED", fused)
    old_classes, target = torch.tensor([4, 1]), torch.tensor(labelled)
    known = [i for i, label in enumerate(labelled) if label in (4, 1)]
    new, old = (part[: len(labelled)] for part in (logits(0).requires_grad_(), logits(1, 2)))
    h, W = logits(2, 7)[: len(labelled)], logits(3, 7, 2)
    shared: dict[str, Any] = {"old_classes": old_classes, "old_samples": "mean"}
    for reduction in ("mean", "excess"):
        got = focal_distillation_loss(new, old, target, **shared, reduction=reduction)
        every = oracle.focal_distillation(new.detach().numpy(), old.numpy(), target.numpy(), old_classes=[4, 1])
        assert close(got, np.mean(every[known]) if known else np.zeros(()))
        (gradient,) = torch.autograd.grad(got, new, retain_graph=True)
        if known:
            alone = focal_distillation_loss(new[known], old[known], target[known], old_classes=old_classes)
            torch.testing.assert_close(gradient, torch.autograd.grad(alone, new)[0], rtol=0, atol=1e-10)
        else:
            assert gradient.count_nonzero() == 0
    naive = naive_positive_congruent_loss(new, old, target, **shared)
    every = oracle.naive(new.detach().numpy(), old.numpy(), target.numpy(), [4, 1])
    assert close(naive, np.mean(every[known]) if known else np.zeros(()))
    compatible = backward_compatible_loss(h, W, None, target, **shared)
    local = np.array([[4, 1].index(labelled[i]) for i in known], dtype=int)
    assert close(compatible, oracle.cross_entropy((h @ W.T)[known].numpy(), local).mean() if known else np.zeros(()))


def test_twice_the_distance_of_logits_is_the_mean_squared_error_of_public_code() -> None:
    new, old, target = logits(0).requires_grad_(), logits(1), labels()
    weights = (1 + 5 * (old.argmax(dim=1) == target).double())[:, None]
    expected = (torch.nn.functional.mse_loss(new, old, reduction="none") * weights).mean()
    found = 2 * focal_distillation_loss(new, old, target, distance="logits")
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)
    torch.testing.assert_close(*(torch.autograd.grad(loss, new)[0] for loss in (found, expected)), rtol=0, atol=1e-10)


def test_without_old_classes_the_batch_is_of_old_samples() -> None:
    for loss in (focal_distillation_loss, naive_positive_congruent_loss):
        args = logits(0), logits(1), labels()
        assert loss(*args, old_samples="mean").equal(loss(*args))
        with pytest.raises(ValueError, match="old_samples must be one of 'batch', 'mean'; got 'sum'"):
            inspect.unwrap(loss)(*args, old_samples="sum")


def test_all_classes_in_another_order_are_a_permutation() -> None:
    order = torch.tensor([2, 0, 4, 1, 3])
    new, old, target = logits(0), logits(1), labels()
    reordered = focal_distillation_loss(new, old[:, order], target, old_classes=order, temperature=4.0)
    torch.testing.assert_close(reordered, focal_distillation_loss(new, old, target, temperature=4.0))


@pytest.mark.parametrize(
    ("old_classes", "named"),
    [
        (None, r"the old model has 3 outputs, the new one 5. Pass old_classes="),
        (torch.tensor([0, 1]), "one class for each of the old model's 3 outputs"),
        (torch.tensor([0, 1, 1]), "different classes"),
        (torch.tensor([0, 1, 5]), r"in \[0, 5\); got"),
        (torch.tensor([0, -1, 1]), r"in \[0, 5\)"),
    ],
)
def test_old_classes_that_do_not_fit_are_named(old_classes: Any, named: str) -> None:
    with pytest.raises(ValueError, match=named):
        UNCHECKED(logits(0), logits(1, 3), labels(), old_classes=old_classes)
    with pytest.raises(ValueError, match=named):
        inspect.unwrap(naive_positive_congruent_loss)(logits(0), logits(1, 3), labels(), old_classes=old_classes)


def test_features_of_another_width_are_named() -> None:
    with pytest.raises(ValueError, match=r"takes 7 features, .* \(11, 6\).*same width"):
        backward_compatible_loss(logits(0, 6), logits(1, 7, K), None, labels())


# -- precision and extremes ---------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_widened_first(dtype: torch.dtype) -> None:
    new, old = logits(0).to(dtype), logits(1).to(dtype)
    for options in COMBINATIONS:
        got = focal_distillation_loss(new, old, labels(), **options)
        exact = focal_distillation_loss(new.double(), old.double(), labels(), **options)
        assert got.dtype == torch.float32
        torch.testing.assert_close(got.double(), exact, rtol=1e-4, atol=0)


def test_single_precision_is_exact_at_a_high_temperature() -> None:
    """The sum of p (log p - log q) alone would be noise here."""
    new, old = (0.1 * logits(seed, 1000, 64) for seed in (0, 1))
    exact = focal_distillation_loss(new, old, labels(1000, 64), reduction="none")
    got = focal_distillation_loss(new.float(), old.float(), labels(1000, 64), reduction="none")
    assert (got >= 0).all()
    torch.testing.assert_close(got.double(), exact, rtol=1e-3, atol=0)


@pytest.mark.parametrize("direction", ["old_new", "new_old"])
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_extreme_logits_stay_finite(direction: Any, sign: float) -> None:
    new = torch.tensor([[1e4, -1e4, 0.0]], requires_grad=True)
    old = sign * torch.tensor([[1e4, -1e4, 0.0]])
    loss = focal_distillation_loss(new, old, torch.tensor([0]), temperature=1.0, direction=direction)
    loss.backward()
    assert torch.isfinite(loss)
    assert new.grad is not None
    assert torch.isfinite(new.grad).all()
    assert (loss.item() == 0) == (sign > 0)


def test_autocast_leaves_the_losses_alone() -> None:
    new, old = logits(0).float(), logits(1).float()
    h, W = logits(2, 7).float(), logits(3, 7, K).float()
    losses = [focal_distillation_loss(new, old, labels()), backward_compatible_loss(h, W, None, labels())]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert focal_distillation_loss(new, old, labels()).equal(losses[0])
        assert backward_compatible_loss(h, W, None, labels()).equal(losses[1])


def test_one_sample() -> None:
    new, old = logits(0, rows=1), logits(1, rows=1)
    expected = oracle.focal_distillation(new.numpy(), old.numpy(), np.array([2]))
    assert close(focal_distillation_loss(new, old, torch.tensor([2])), expected.mean())


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"distance": "l2"}, "distance must be one of 'kl', 'logits'; got 'l2'"),
        ({"direction": "both"}, "direction must be one of 'old_new', 'new_old'"),
        ({"class_reduction": "max"}, "class_reduction must be one of 'mean', 'sum'"),
        ({"temperature": 0.0}, "temperature must be greater than 0 and finite; got 0.0"),
        ({"temperature": float("nan")}, "temperature must be greater than 0"),
    ],
)
def test_an_option_out_of_range_is_named(options: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        UNCHECKED(logits(0), logits(1), labels(), **options)
