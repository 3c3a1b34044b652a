"""Estimating a transition, and what its matrix must be."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lightning_flip.functional import (
    condition_number,
    estimate_transition,
    inverse_transition,
    pair_transition,
    symmetric_transition,
)
from lightning_flip.functional.transitions import check_transition
from tests.oracles import smearing as oracle

TRANSITIONS = {
    "symmetric": symmetric_transition(4, 0.4),
    "pairs": pair_transition(4, {0: 1, 1: 2, 3: 0}, 0.3),
    "none": torch.eye(4, dtype=torch.float64),
}


def true_posterior(transition: Tensor, n: int = 4000) -> Tensor:
    """p(noisy label | x) of four Gaussian classes that hardly overlap, at points drawn from them."""
    generator = torch.Generator().manual_seed(0)
    means = 4 * torch.eye(4, dtype=torch.float64)
    x = means[torch.arange(n) % 4] + torch.randn(n, 4, dtype=torch.float64, generator=generator)
    clean = (-0.5 * torch.cdist(x, means) ** 2).softmax(dim=1)
    return clean @ transition


@pytest.mark.parametrize("percentile", [97.0, None, 100.0, 90.0])
@pytest.mark.parametrize("name", TRANSITIONS)
def test_a_known_transition_is_recovered_from_the_true_posterior(name: str, percentile: float | None) -> None:
    probs = true_posterior(TRANSITIONS[name])
    before = probs.clone()
    got = estimate_transition(probs, percentile)
    assert float((got - TRANSITIONS[name]).abs().max()) < 0.05
    assert probs.equal(before)
    check_transition(got)


def test_outliers_above_the_percentile_are_dropped() -> None:
    T = TRANSITIONS["symmetric"]
    probs = true_posterior(T)
    probs[:20] = torch.tensor([0.97, 0.03, 0.0, 0.0], dtype=torch.float64)
    assert float((estimate_transition(probs) - T).abs().max()) < 0.05
    assert float((estimate_transition(probs, None) - T).abs().max()) > 0.3


@settings(deadline=None, max_examples=60)
@given(
    n=st.integers(2, 40),
    k=st.integers(2, 5),
    percentile=st.sampled_from([None, 1, 7, 29, 50, 97, 100]),
    seed=st.integers(0, 999),
)
def test_it_is_the_plain_loop(n: int, k: int, percentile: int | float | None, seed: int) -> None:
    probs = torch.randn(n, k, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)).softmax(dim=1)
    if percentile == 1:
        percentile = 100 / n  # the lowest that leaves something below it
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        got = estimate_transition(probs, percentile)
    np.testing.assert_allclose(got, oracle.estimate(probs.numpy(), percentile), rtol=0, atol=1e-14)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_half_precision_is_estimated_and_normalized(dtype: torch.dtype) -> None:
    probs = true_posterior(TRANSITIONS["pairs"]).to(dtype)
    got = estimate_transition(probs)
    check_transition(got)
    assert got.dtype == torch.float64
    assert float((got - TRANSITIONS["pairs"]).abs().max()) < 0.05


@pytest.mark.filterwarnings("ignore:the transition has a condition number")
def test_a_constant_column_keeps_its_samples() -> None:
    probs = torch.tensor([[0.5, 0.2, 0.3], [0.5, 0.3, 0.2]], dtype=torch.float64)
    assert estimate_transition(probs)[0].tolist() == probs[0].tolist()
    assert estimate_transition(probs[:1]).tolist() == probs[:1].expand(3, 3).tolist()


def test_a_badly_conditioned_estimate_warns() -> None:
    nearly = torch.tensor([[0.501, 0.499], [0.499, 0.501]], dtype=torch.float64)
    with pytest.warns(UserWarning, match="condition number of 500.*forward correction"):
        estimate_transition(nearly, None)
    with pytest.warns(UserWarning, match="condition number of 500"):
        inverse_transition(nearly)


def test_condition_numbers_are_numpys() -> None:
    for T in TRANSITIONS.values():
        assert condition_number(T) == pytest.approx(np.linalg.cond(T.numpy()))
    assert math.isinf(condition_number(torch.full((5, 5), 0.2)))


@pytest.mark.parametrize("percentile", [0.0, -3.0, 100.5, math.nan])
def test_a_percentile_out_of_range_is_named(percentile: float) -> None:
    with pytest.raises(ValueError, match=r"percentile must be in \(0, 100\]"):
        estimate_transition(true_posterior(TRANSITIONS["none"], 8), percentile)


@pytest.mark.parametrize("rows", [[[2.0, -1.0]], [[0.7, 0.7]], [[math.nan, 1.0]], [[3.0, 1.0], [0.5, 0.5]]])
def test_logits_are_refused(rows: list[list[float]]) -> None:
    with pytest.raises(ValueError, match=r"probs must hold probabilities.*softmax"):
        estimate_transition(torch.tensor(rows))


def test_no_samples_are_refused() -> None:
    with pytest.raises(ValueError, match="at least one sample"):
        estimate_transition(torch.zeros(0, 3))


def test_a_transition_is_square() -> None:
    with pytest.raises(ValueError, match=r"must be square.*got 2 x 3"):
        check_transition(torch.full((2, 3), 1 / 3))
    with pytest.raises(ValueError, match="sum to 1"):
        check_transition(torch.tensor([[math.inf, 0.0], [0.0, 1.0]]))
