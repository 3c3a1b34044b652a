from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_flip.functional import logit_gap, target_parts


def sorted_parts(target: list[float], labels: list[float], others: int) -> tuple[list[float], list[float], int]:
    """One sample at a time."""
    true = sorted((mass for mass, label in zip(target, labels, strict=True) if label > 0), reverse=True)
    rest = sorted((mass for mass, label in zip(target, labels, strict=True) if label <= 0), reverse=True)
    places = min(others, len(target) - 1)
    return (true + [math.nan] * 2)[:2], (rest + [math.nan] * places)[:places], len(true)


@settings(max_examples=80, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 9), st.integers(1, 7))
def test_parts_are_those_of_a_loop(seed, classes, others):
    generator = torch.Generator().manual_seed(seed)
    target = torch.randn(6, classes, generator=generator).softmax(dim=1)
    first, second = (torch.randint(classes, (6,), generator=generator) for _ in range(2))
    one_hot = torch.eye(classes)
    parts = target_parts(target, (one_hot[first] + one_hot[second]) / 2, others=others)
    for row in range(6):
        labels = ((one_hot[first] + one_hot[second]) / 2)[row].tolist()
        true, rest, count = sorted_parts(target[row].tolist(), labels, others)
        assert parts.true[row].tolist() == pytest.approx(true, nan_ok=True)
        assert parts.others[row].tolist() == pytest.approx(rest, nan_ok=True)
        assert int(parts.num_true[row]) == count


@pytest.mark.usefixtures("own_checks")
def test_bad_parts_are_named():
    with pytest.raises(ValueError, match="one shape"):
        target_parts(torch.zeros(2, 3), torch.zeros(2, 4))
    with pytest.raises(ValueError, match="others must be at least 1"):
        target_parts(torch.zeros(2, 3), torch.zeros(2, 3), others=0)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 7), st.floats(-50, 50))
def test_a_gap_is_that_of_a_loop_and_does_not_see_a_shift(seed, classes, shift):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(5, classes, generator=generator, dtype=torch.float64)
    target = torch.randint(classes, (5,), generator=generator)
    for row, label in enumerate(target.tolist()):
        z = logits[row].tolist()
        assert float(logit_gap(logits, target)[row]) == pytest.approx(z[label] - sum(z) / classes, abs=1e-12)
        assert float(logit_gap(logits)[row]) == pytest.approx(max(z) - sum(z) / classes, abs=1e-12)
    torch.testing.assert_close(logit_gap(logits + shift, target), logit_gap(logits, target), atol=1e-10, rtol=0)
    # The gaps of all classes sum to nothing.
    every = torch.stack([logit_gap(logits, torch.full((5,), label)) for label in range(classes)])
    torch.testing.assert_close(every.sum(dim=0), torch.zeros(5, dtype=torch.float64), atol=1e-12, rtol=0)


@pytest.mark.usefixtures("own_checks")
def test_a_gap_is_computed_in_single_precision_and_bad_input_is_named():
    assert logit_gap(torch.zeros(2, 3, dtype=torch.bfloat16)).dtype == torch.float32
    with pytest.raises(TypeError, match="floating point"):
        logit_gap(torch.zeros(2, 3, dtype=torch.int64))
    with pytest.raises(ValueError, match="one label for each of the 2 rows"):
        logit_gap(torch.zeros(2, 3), torch.zeros(3, dtype=torch.int64))
