import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torchmetrics.functional.classification import binary_auroc, multiclass_calibration_error

from lightning_flip.reports.runs._rates import area_under_roc, expected_calibration_error, flipping_errors

PAIRS = st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1)


@given(PAIRS)
def test_flipping_errors_by_counting(pairs: list[tuple[bool, bool]]) -> None:
    flipped = sum(1 for before, now in pairs if before and not now)
    wrong = sum(1 for _, now in pairs if not now)
    before, now = (np.array(column) for column in zip(*pairs, strict=True))
    assert flipping_errors(before, now) == (flipped / len(pairs), flipped / wrong if wrong else 0.0)


@given(
    st.lists(st.tuples(st.sampled_from([i / 20 for i in range(21)]), st.booleans()), min_size=1),
    st.sampled_from([1, 5, 10, 15]),
)
def test_calibration_error_by_looping_over_bins(samples: list[tuple[float, bool]], bins: int) -> None:
    edges = np.linspace(0, 1, bins + 1)
    total = 0.0
    for number in range(bins):
        lower = -1.0 if number == 0 else edges[number]
        inside = [(conf, right) for conf, right in samples if lower < conf <= edges[number + 1]]
        if inside:
            gap = sum(right - conf for conf, right in inside) / len(inside)
            total += len(inside) / len(samples) * abs(gap)
    confidence, correct = (np.array(column) for column in zip(*samples, strict=True))
    assert expected_calibration_error(confidence, correct, bins) == pytest.approx(total, abs=1e-12)


def test_calibration_error_agrees_with_torchmetrics_off_the_edges() -> None:
    draw = np.random.default_rng(0)
    probabilities = draw.dirichlet(np.full(4, 0.5), 2000)
    probabilities = probabilities[probabilities.max(1) < 0.999]
    target = draw.integers(0, 4, len(probabilities))
    theirs = multiclass_calibration_error(torch.tensor(probabilities), torch.tensor(target), num_classes=4, n_bins=15)
    ours = expected_calibration_error(probabilities.max(1), probabilities.argmax(1) == target, 15)
    assert ours == pytest.approx(theirs.item(), abs=1e-6)


def test_calibration_error_at_the_edges() -> None:
    assert expected_calibration_error(np.array([1.0, 1.0]), np.array([True, True])) == 0
    assert expected_calibration_error(np.array([0.0]), np.array([True])) == 1
    # 1.0 and 0.95 share the last of ten bins, so that their gaps cancel
    assert expected_calibration_error(np.array([1.0, 0.95]), np.array([True, False]), 10) == pytest.approx(0.475)
    assert np.isnan(expected_calibration_error(np.array([np.nan, 0.5]), np.array([True, True])))
    with pytest.raises(ValueError, match="bins must be at least 1, got 0"):
        expected_calibration_error(np.array([0.5]), np.array([True]), 0)


@given(st.lists(st.tuples(st.integers(0, 6), st.booleans()), min_size=1))
def test_area_under_roc_by_comparing_pairs(samples: list[tuple[int, bool]]) -> None:
    positives = [score for score, positive in samples if positive]
    negatives = [score for score, positive in samples if not positive]
    score, positive = (np.array(column) for column in zip(*samples, strict=True))
    found = area_under_roc(score.astype(np.float64), positive)
    if not positives or not negatives:
        assert found is None
        return
    wins = sum((p > n) + (p == n) / 2 for p in positives for n in negatives)
    assert found == pytest.approx(wins / len(positives) / len(negatives))


def test_area_under_roc_agrees_with_torchmetrics() -> None:
    draw = np.random.default_rng(1)
    positive = draw.random(3000) < 0.3
    score = np.round(draw.random(3000) + 0.2 * positive, 2) / 2
    assert area_under_roc(score, positive) == pytest.approx(
        binary_auroc(torch.tensor(score), torch.tensor(positive).long()).item(), abs=1e-6
    )
