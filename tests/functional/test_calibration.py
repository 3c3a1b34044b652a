from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_flip.functional import fit_temperature
from lightning_flip.functional.calibration import LARGEST_TEMPERATURE, SMALLEST_TEMPERATURE, refuse_probabilities
from tests.oracles.calibration import best_temperature, mean_loss


def calibrated(count: int, classes: int, seed: int, size: float = 2.0) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits, and labels drawn from their softmax."""
    generator = torch.Generator().manual_seed(seed)
    logits = size * torch.randn(count, classes, generator=generator, dtype=torch.float64)
    labels = torch.multinomial(logits.softmax(dim=1), 1, generator=generator)[:, 0]
    return logits, labels


@pytest.mark.parametrize("classes", [2, 3, 10])
@pytest.mark.parametrize("seed", range(4))
def test_the_temperature_is_the_oracles(classes, seed):
    logits, labels = calibrated(150, classes, seed)
    found = fit_temperature(logits, labels)
    assert found == pytest.approx(best_temperature(logits.tolist(), labels.tolist()), rel=1e-5)
    best = mean_loss(logits.tolist(), labels.tolist(), found)
    for nearby in (0.99, 1.01):
        assert mean_loss(logits.tolist(), labels.tolist(), nearby * found) > best


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
def test_logits_multiplied_by_two_and_a_half(dtype):
    logits, labels = calibrated(40_000, 10, seed=0)
    assert fit_temperature((2.5 * logits).to(dtype), labels) == pytest.approx(2.5, rel=0.02)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.floats(0.05, 20.0), st.integers(2, 6))
def test_what_logits_are_multiplied_by_is_what_the_temperature_is_multiplied_by(seed, factor, classes):
    logits, labels = calibrated(60, classes, seed)
    alone = fit_temperature(logits, labels)
    if SMALLEST_TEMPERATURE < alone < 40 and SMALLEST_TEMPERATURE < factor * alone < LARGEST_TEMPERATURE:
        assert fit_temperature(factor * logits, labels) == pytest.approx(factor * alone, rel=1e-5)
        shift = torch.arange(60.0, dtype=torch.float64)[:, None]
        assert fit_temperature(logits + shift, labels) == pytest.approx(alone, rel=1e-5)


def test_where_there_is_no_best_temperature_a_bound_is_given():
    logits = 2 * torch.eye(4)
    assert fit_temperature(logits, torch.arange(4)) == SMALLEST_TEMPERATURE
    assert fit_temperature(-logits, torch.arange(4)) == LARGEST_TEMPERATURE
    assert fit_temperature(torch.full((3, 2), 7.0), torch.tensor([0, 1, 0])) == LARGEST_TEMPERATURE


def test_it_works_where_nothing_is_differentiated_and_leaves_its_arguments():
    logits, labels = calibrated(50, 3, seed=1)
    before = logits.clone()
    expected = fit_temperature(logits, labels)
    with torch.inference_mode():
        assert fit_temperature(logits.clone(), labels.clone()) == expected
    with torch.no_grad():
        assert fit_temperature(logits.requires_grad_(), labels) == expected
    assert torch.equal(logits.detach(), before)
    assert logits.grad is None


@pytest.mark.parametrize(
    ("logits", "labels", "match"),
    [
        (torch.zeros(0, 3), torch.zeros(0, dtype=torch.int64), "needs samples"),
        (torch.zeros(3), torch.zeros(3, dtype=torch.int64), r"logits must be \[N, K\]"),
        (
            torch.zeros(3, 2),
            torch.zeros(4, dtype=torch.int64),
            r"label a row, \[N\]; got the shapes \(3, 2\) and \(4,\)",
        ),
        (torch.zeros(3, 2), torch.zeros(3, 2, dtype=torch.int64), r"one label a row"),
        (torch.tensor([[1.0, float("nan")]]), torch.tensor([0]), "must be finite"),
        (torch.tensor([[1.0, float("inf")]]), torch.tensor([0]), "must be finite"),
        (torch.zeros(1, 3), torch.tensor([3]), r"in \[0, 3\); got 3"),
        (torch.zeros(1, 3), torch.tensor([-1]), r"in \[0, 3\); got -1"),
        (torch.tensor([[0.5, 0.5], [0.9, 0.1]]), torch.tensor([0, 1]), "looks like probabilities.*logits_from="),
    ],
)
@pytest.mark.usefixtures("own_checks")
def test_bad_input_is_named(logits, labels, match):
    with pytest.raises(ValueError, match=match):
        fit_temperature(logits, labels)


@pytest.mark.usefixtures("own_checks")
def test_labels_that_are_no_whole_numbers_are_refused():
    with pytest.raises(TypeError, match="whole numbers"):
        fit_temperature(torch.zeros(3, 2), torch.tensor([0.0, 1.0, 0.5]))


@pytest.mark.parametrize("factor", [1e-2, 1.0, 100.0])
def test_a_start_far_from_the_minimum_gets_there(factor):
    """Most of the spread is in samples whose logits are beyond doubt."""
    logits, labels = calibrated(300, 4, seed=5)
    sure = 50 * torch.eye(4, dtype=torch.float64).repeat(50, 1)
    logits, labels = torch.cat([logits, sure]), torch.cat([labels, torch.arange(4).repeat(50)])
    expected = best_temperature((factor * logits).tolist(), labels.tolist())
    assert fit_temperature(factor * logits, labels) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_probabilities_of_every_precision_are_told_and_logits_are_not_taken_for_them(dtype):
    probs = torch.randn(200, 10, generator=torch.Generator().manual_seed(0)).softmax(dim=1).to(dtype)
    for given_ in (probs, probs.float()):
        with pytest.raises(ValueError, match="probabilities"):
            refuse_probabilities(given_)
    refuse_probabilities(probs.log())
    refuse_probabilities(2 * probs)
    refuse_probabilities(probs - 0.1)
    probs[3, 0] += 0.5  # a single row that sums to something else
    refuse_probabilities(probs)
