"""Distances of supervisions against plain loops, and the supervisions made at chosen distances."""

from __future__ import annotations

import inspect
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_flip.functional import (
    blended_supervision,
    label_recovery,
    noisy_supervision,
    supervision_bounds,
    supervision_distance,
)
from tests.oracles import paths as oracle

KINDS = ("l2", "l1", "tv", "kl", "reverse_kl", "jeffreys")


def rows(seed: int, n: int = 7, k: int = 4) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).dirichlet([0.7] * k, size=n))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", range(3))
def test_distances_are_the_plain_loop(kind, seed):
    p_tar, p_star = rows(seed), rows(seed + 100)
    expected = oracle.distances(p_tar.numpy(), p_star.numpy())[kind]
    np.testing.assert_allclose(supervision_distance(p_tar, p_star, kind), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_distances_of_labels_are_the_plain_loop(kind):
    labels, p_star = torch.eye(4, dtype=torch.float64), rows(0, n=4)
    expected = oracle.distances(labels.numpy(), p_star.numpy())[kind]
    np.testing.assert_allclose(supervision_distance(labels, p_star, kind), expected, rtol=1e-12, atol=1e-12)
    assert bool(supervision_distance(labels, p_star, kind).isinf().all()) == (kind in ("reverse_kl", "jeffreys"))


@pytest.mark.parametrize("kind", KINDS)
def test_a_supervision_is_at_no_distance_from_itself(kind):
    probs = torch.cat([rows(0), torch.eye(4, dtype=torch.float64)])
    assert supervision_distance(probs, probs, kind).tolist() == [0.0] * 11


def test_l2_unless_told_and_half_precision_is_widened():
    p_tar, p_star = rows(0).half(), rows(1).half()
    got = supervision_distance(p_tar, p_star)
    assert got.dtype == torch.float32
    assert got.equal(supervision_distance(p_tar.float(), p_star.float(), "l2"))


def test_another_kind_is_named():
    with pytest.raises(ValueError, match='kind must be "jeffreys", "kl"'):
        inspect.unwrap(supervision_distance)(rows(0), rows(1), "cosine")  # past the types that tests check


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 2**31), st.floats(0.1, 20))
def test_the_seven_bounds_are_the_plain_loop_and_in_order(seed, largest):
    p_tar, p_star = rows(seed), rows(seed + 1)
    got = supervision_bounds(p_tar, p_star, largest)
    for name, value in oracle.bounds(p_tar.numpy(), p_star.numpy(), largest).items():
        assert float(getattr(got, name)) == pytest.approx(value, rel=1e-9), name
    assert got.l1 <= got.l2 * (1 + 1e-12)  # Cauchy-Schwarz
    assert got.l1 <= got.root_kl <= got.kl * (1 + 1e-12)  # Pinsker, Jensen
    assert got.l1 <= got.root_reverse_kl <= got.reverse_kl * (1 + 1e-12)
    assert float(got.jeffreys) == pytest.approx(float(got.kl + got.reverse_kl) / 2)


def test_the_bounds_hold_for_a_bounded_loss():
    """E[(R_tar - R)^2] over data sets, by simulation, is below Var / N + xi for each of the seven."""
    rng = np.random.default_rng(0)
    p_star, p_tar, losses = (rng.dirichlet([1.0] * 3, size=40) for _ in range(3))
    p_tar, largest, n = 0.5 * p_tar + 0.5 * p_star, losses.max(), 10
    risk = float((p_star * losses).sum(axis=1).mean())
    each = (p_tar * losses).sum(axis=1)
    drawn = each[rng.integers(40, size=(4000, n))].mean(axis=1)
    error = float(((drawn - risk) ** 2).mean())
    for bound in supervision_bounds(torch.from_numpy(p_tar), torch.from_numpy(p_star), float(largest)):
        assert error <= each.var() / n + float(bound)


@pytest.mark.parametrize("largest", [0.0, -1.0, float("nan")])
def test_a_loss_bound_is_positive(largest):
    with pytest.raises(ValueError, match="loss_bound"):
        supervision_bounds(rows(0), rows(1), largest)


def test_recovery_is_the_plain_loop():
    probs, rng = rows(3, n=50), np.random.default_rng(4)
    truth, labels = rng.integers(4, size=50), rng.integers(4, size=50)
    got = label_recovery(probs, torch.from_numpy(truth), torch.from_numpy(labels))
    assert float(got) == pytest.approx(oracle.recovery(probs.numpy(), truth, labels))


def test_recovery_is_of_wrong_labels_alone_and_undefined_without_them():
    probs, labels = torch.eye(3), torch.tensor([0, 1, 2])
    assert math.isnan(label_recovery(probs, labels, labels))
    assert float(label_recovery(probs, labels, torch.tensor([0, 1, 0]))) == 1.0
    assert float(label_recovery(probs, torch.tensor([0, 1, 0]), labels)) == 0.0


@pytest.mark.parametrize("variance", [0.0, 0.005, 0.1, 0.8])
def test_noise_is_added_limited_and_normalized(variance):
    p_star = rows(0, n=200).float()
    got = noisy_supervision(p_star, variance, generator=torch.Generator().manual_seed(3))
    noise = torch.randn(p_star.shape, generator=torch.Generator().manual_seed(3)).numpy()
    expected = np.minimum(np.maximum(p_star.numpy() + math.sqrt(variance) * noise, 1e-6), 2)
    np.testing.assert_allclose(got, expected / expected.sum(axis=1, keepdims=True), rtol=0, atol=1e-6)
    torch.testing.assert_close(got.sum(dim=1), torch.ones(200))


def test_more_noise_is_farther_away_and_changes_which_class_is_likeliest():
    p_star = rows(0, n=2000)
    noisy = [noisy_supervision(p_star, v, generator=torch.Generator().manual_seed(0)) for v in (0.005, 0.05, 0.8)]
    near, middle, far = (float(supervision_distance(each, p_star).mean()) for each in noisy)
    assert near < middle < far
    assert (noisy[2].argmax(dim=1) != p_star.argmax(dim=1)).float().mean() > 0.2


def test_noise_without_a_generator_follows_the_global_one():
    torch.manual_seed(5)
    first = noisy_supervision(rows(0), 0.1)
    torch.manual_seed(5)
    assert noisy_supervision(rows(0), 0.1).equal(first)


@pytest.mark.parametrize("variance", [-0.1, float("nan")])
def test_a_variance_is_not_negative(variance):
    with pytest.raises(ValueError, match="variance must be at least 0"):
        noisy_supervision(rows(0), variance)


def test_a_blend_goes_from_the_truth_to_the_label():
    p_star, target = rows(0, n=3, k=3), torch.tensor([2, 0, 1])
    label = torch.eye(3, dtype=torch.float64)[target]
    torch.testing.assert_close(blended_supervision(p_star, target, 0.0), p_star)
    torch.testing.assert_close(blended_supervision(p_star, target, 1.0), label)
    torch.testing.assert_close(blended_supervision(p_star, target, 0.3), 0.3 * label + 0.7 * p_star)
    distance = supervision_distance(blended_supervision(p_star, target, 0.3), p_star)
    torch.testing.assert_close(distance, 0.3 * supervision_distance(label, p_star))


@pytest.mark.parametrize("weight", [-0.1, 1.1, float("nan")])
def test_a_weight_of_the_label_is_a_share(weight):
    with pytest.raises(ValueError, match=r"label_weight must be in \[0, 1\]"):
        blended_supervision(rows(0, n=1, k=3), torch.tensor([0]), weight)
