"""Uncertainty of an ensemble, against plain loops."""

from __future__ import annotations

import inspect
import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lightning_flip.functional import predictive_disagreement, predictive_entropy, predictive_std

MEASURES = [predictive_entropy, predictive_disagreement, predictive_std]


def probabilities(logits: Any) -> Any:
    shifted = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return shifted / shifted.sum(axis=-1, keepdims=True)


def by_hand(logits: Any) -> list[list[float]]:
    """Entropy, disagreement and deviation of every sample."""
    members, rows, classes = logits.shape
    results = []
    for row in range(rows):
        probs = [probabilities(logits[m, row]) for m in range(members)]
        mean = [sum(p[k] for p in probs) / members for k in range(classes)]
        entropy = -sum(p * math.log(p) for p in mean if p > 0)
        apart = 0.0
        for p in probs:
            apart += sum(p[k] * math.log(p[k] / mean[k]) for k in range(classes) if p[k] > 0) / members
        best = mean.index(max(mean))
        centre = sum(p[best] for p in probs) / members
        results.append([entropy, apart, math.sqrt(sum((p[best] - centre) ** 2 for p in probs) / members)])
    return results


@settings(deadline=None, max_examples=150)
@given(st.integers(0, 2**20), st.integers(1, 5), st.integers(1, 4), st.integers(2, 6))
def test_random_ensembles(seed: int, members: int, rows: int, classes: int) -> None:
    logits = np.random.default_rng(seed).normal(scale=3, size=(members, rows, classes))
    got = torch.stack([measure(torch.from_numpy(logits)) for measure in MEASURES], dim=1)
    assert got.numpy() == pytest.approx(np.array(by_hand(logits)), abs=1e-12)
    assert (got >= 0).all()
    assert (got <= torch.tensor([math.log(classes), math.log(members), 0.5]).double() + 1e-12).all()


def test_the_ends_of_the_ranges() -> None:
    agreed, opposed = torch.zeros(3, 2, 4), torch.full((4, 1, 4), -80.0)
    for member in range(4):
        opposed[member, 0, member] = 80.0
    assert predictive_entropy(agreed).tolist() == pytest.approx([math.log(4)] * 2)
    assert predictive_disagreement(agreed).tolist() == [0.0, 0.0]
    assert predictive_std(agreed).tolist() == [0.0, 0.0]
    assert predictive_entropy(opposed).tolist() == pytest.approx([math.log(4)])
    assert predictive_disagreement(opposed).tolist() == pytest.approx([math.log(4)])
    assert predictive_std(opposed).tolist() == pytest.approx([math.sqrt(3) / 4])


def test_one_member_disagrees_with_nobody() -> None:
    z = torch.randn(1, 5, 3, generator=torch.Generator().manual_seed(0))
    assert predictive_disagreement(z).tolist() == [0.0] * 5
    assert predictive_std(z).tolist() == [0.0] * 5
    torch.testing.assert_close(predictive_entropy(z), torch.distributions.Categorical(logits=z[0]).entropy())


@pytest.mark.parametrize("measure", MEASURES)
@pytest.mark.parametrize("size", [1e4, 1e30])
def test_extreme_logits_stay_finite(measure: Any, size: float) -> None:
    z = torch.tensor([[[size, -size, 0.0]], [[-size, size, 0.0]]])
    assert torch.isfinite(measure(z)).all()
    assert torch.isfinite(measure(z[:1])).all()


@pytest.mark.parametrize("measure", MEASURES)
def test_half_precision_is_widened(measure: Any) -> None:
    z = torch.randn(3, 4, 5, generator=torch.Generator().manual_seed(0)).bfloat16()
    assert measure(z).dtype == torch.float32
    torch.testing.assert_close(measure(z).double(), measure(z.double()), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("measure", MEASURES)
@pytest.mark.parametrize("shape", [(4, 3), (0, 4, 3), (2, 4, 0)])
def test_other_shapes_are_refused(measure: Any, shape: Any) -> None:
    z: Tensor = torch.zeros(shape)
    with pytest.raises(ValueError, match=r"M members \[M, B, K\].*torch\.stack"):
        inspect.unwrap(measure)(z)


@pytest.mark.parametrize("measure", MEASURES)
def test_no_samples_give_no_numbers(measure: Any) -> None:
    assert measure(torch.zeros(2, 0, 3)).shape == (0,)
