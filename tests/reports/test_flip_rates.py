from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from lightning_flip.functional import flips
from lightning_flip.reports.intervals import wilson_interval
from lightning_flip.reports.update.counts import PROPORTIONS, FlipCells, FlipRate, count_cells, flip_rates
from tests.oracles.flips import flip_rates as by_loop

NAMES = {
    "nfr": "negative_flip_rate",
    "pfr": "positive_flip_rate",
    "relative": "relative_negative_flip_rate",
    "impact": "negative_flip_impact",
    "trust": "trust_score",
    "churn": "churn",
}

triples = (
    st.integers(2, 4)
    .flatmap(lambda k: st.lists(st.tuples(*[st.integers(0, k - 1)] * 3), min_size=1, max_size=30))
    .map(lambda rows: np.array(rows, np.int64).T)
)


def rates_of(old: NDArray[Any], new: NDArray[Any], target: NDArray[Any]) -> dict[str, FlipRate]:
    return flip_rates(count_cells(old == target, new == target), int((old != new).sum()))


def cells_of(both_right: int, negative: int, positive: int, both_wrong: int) -> FlipCells:
    return FlipCells(*np.array([both_right, negative, positive, both_wrong]))


@settings(max_examples=250, deadline=None)
@given(triples)
@example(np.array([[1, 0, 2], [1, 1, 2], [0, 2, 1]]))  # neither has anything right
@example(np.array([[1, 0, 2], [0, 1, 1], [0, 1, 1]]))  # the old model has nothing right, the new one everything
@example(np.array([[0, 1, 1], [1, 0, 2], [0, 1, 1]]))  # every sample is a negative flip
def test_every_rate_matches_the_loop_and_torch(case: NDArray[Any]) -> None:
    old, new, target = case
    cells = count_cells(old == target, new == target)
    found = {name: cells.rate(name) for name in PROPORTIONS}
    found["relative_negative_flip_rate"] = cells.relative_negative_flip_rate()
    found["churn"] = np.mean(old != new)
    expected = by_loop(old, new, target)
    old_preds, *preds_and_target = [torch.from_numpy(np.ascontiguousarray(row)) for row in case]
    for short, name in NAMES.items():
        assert found[name] == pytest.approx(expected[short], abs=1e-12), name
        function = getattr(flips, name)
        in_torch = function(*preds_and_target[: 1 if name == "churn" else 2], old_preds=old_preds).item()
        assert found[name] == pytest.approx(in_torch, rel=1e-6, abs=1e-7), name
    old_wrong, new_wrong = (
        [a != y for a, y in zip(old, target, strict=True)],
        [b != y for b, y in zip(new, target, strict=True)],
    )
    fixed = sum(before and not now for before, now in zip(old_wrong, new_wrong, strict=True))
    errors = sum(old_wrong)
    assert found["positive_flip_impact"] == pytest.approx(fixed / errors if errors else 0)
    assert found["error_compatibility"] == pytest.approx((errors - fixed) / errors if errors else 1)
    assert found["old_error"] == pytest.approx(sum(a != y for a, y in zip(old, target, strict=True)) / len(target))
    assert found["new_accuracy"] == pytest.approx(sum(b == y for b, y in zip(new, target, strict=True)) / len(target))


@settings(max_examples=50, deadline=None)
@given(triples)
def test_intervals_hold_their_rates(case: NDArray[Any]) -> None:
    old, new, target = case
    expected = by_loop(old, new, target)
    rates = rates_of(old, new, target)
    for short, name in NAMES.items():
        assert rates[name].value == pytest.approx(expected[short], abs=1e-12)
    for name, rate in rates.items():
        if rate.low is None or rate.high is None:
            assert rate.low is rate.high is None
            assert not rate.among
        else:
            assert 0 <= rate.low <= rate.value <= rate.high or name == "relative_negative_flip_rate"
            assert 0 <= rate.low <= rate.high
    lost = rates["negative_flip_rate"].value - rates["positive_flip_rate"].value
    assert lost == pytest.approx(rates["old_accuracy"].value - rates["new_accuracy"].value, abs=1e-12)


@pytest.mark.parametrize(
    ("old_error", "new_error", "nfr", "relative"), [(30.24, 30.29, 6.44, 30.48), (30.24, 30.47, 2.35, 11.06)]
)
def test_the_papers_rows(old_error: float, new_error: float, nfr: float, relative: float) -> None:
    samples = 50_000  # the validation images of ImageNet
    old_wrong, new_wrong, negative = (round(samples * percent / 100) for percent in (old_error, new_error, nfr))
    both_wrong = new_wrong - negative
    cells = cells_of(samples - old_wrong - negative, negative, old_wrong - both_wrong, both_wrong)
    rates = flip_rates(cells, changed=20_000)
    assert 100 * rates["old_error"].value == pytest.approx(old_error)
    assert 100 * rates["new_error"].value == pytest.approx(new_error)
    assert 100 * rates["negative_flip_rate"].value == pytest.approx(nfr)
    assert 100 * rates["relative_negative_flip_rate"].value == pytest.approx(relative, abs=0.05)


def test_each_share_has_wilsons_interval_over_its_own_denominator() -> None:
    rates = flip_rates(cells_of(600, 30, 50, 320), changed=111, confidence=0.9)
    expected = {
        "old_accuracy": (630, 1000),
        "new_accuracy": (650, 1000),
        "old_error": (370, 1000),
        "new_error": (350, 1000),
        "negative_flip_rate": (30, 1000),
        "positive_flip_rate": (50, 1000),
        "negative_flip_impact": (30, 350),
        "positive_flip_impact": (50, 370),
        "trust_score": (600, 630),
        "error_compatibility": (320, 370),
        "churn": (111, 1000),
    }
    for name, (count, among) in expected.items():
        low, high = wilson_interval(count, among, 0.9)
        assert rates[name] == FlipRate(count / among, float(low), float(high), count, among), name
    assert list(rates).count("relative_negative_flip_rate") == 1
    assert len(rates) == len(expected) + 1


def test_the_bootstrap_of_the_ratio_is_that_of_resampled_rows() -> None:
    rng = np.random.default_rng(3)
    old, new = rng.random(400) < 0.7, rng.random(400) < 0.75
    rate = flip_rates(count_cells(old, new), changed=200)["relative_negative_flip_rate"]
    values = []
    for _ in range(4000):
        rows = rng.integers(0, 400, 400)
        a, b = old[rows], new[rows]
        values.append((a & ~b).mean() / (a.mean() * (1 - b.mean())))
    low, high = np.quantile(values, [0.025, 0.975])
    assert rate.low == pytest.approx(low, abs=0.02)
    assert rate.high == pytest.approx(high, abs=0.02)
    assert rate == flip_rates(count_cells(old, new), changed=200)["relative_negative_flip_rate"]


def test_no_flip_is_no_certainty() -> None:
    rate = flip_rates(cells_of(50, 0, 3, 7), changed=3)["relative_negative_flip_rate"]
    _, high = wilson_interval(0, 60)
    assert (rate.value, rate.low) == (0.0, 0.0)
    assert rate.high == pytest.approx(high / (50 / 60 * 7 / 60))


@pytest.mark.parametrize(
    ("cells", "unknown"),
    [
        (cells_of(0, 0, 4, 3), {"trust_score", "relative_negative_flip_rate"}),
        (cells_of(5, 0, 4, 0), {"negative_flip_impact", "relative_negative_flip_rate"}),
        (cells_of(0, 0, 4, 0), {"trust_score", "negative_flip_impact", "relative_negative_flip_rate"}),
        (cells_of(5, 2, 0, 0), {"positive_flip_impact", "error_compatibility"}),
    ],
)
def test_nothing_to_count_among(cells: FlipCells, unknown: set[str]) -> None:
    rates = flip_rates(cells, changed=4)
    for name in unknown:
        assert rates[name].value == (1.0 if name in ("trust_score", "error_compatibility") else 0.0)
    assert {name for name, rate in rates.items() if rate.low is None} == unknown


def test_groups_match_the_loop() -> None:
    rng = np.random.default_rng(0)
    old, new, group = rng.random(300) < 0.6, rng.random(300) < 0.7, rng.integers(0, 5, 300)
    cells = count_cells(old, new, group, 6)
    for place in range(6):
        rows = [(bool(a), bool(b)) for a, b, g in zip(old, new, group, strict=True) if g == place]
        expected = [rows.count(pair) for pair in ((True, True), (True, False), (False, True), (False, False))]
        assert [int(count[place]) for count in cells] == expected
    assert int(cells.total[5]) == 0
    assert cells.rate("negative_flip_rate")[5] == 0
    assert cells.relative_negative_flip_rate().shape == (6,)


def test_counts_whose_products_leave_int64() -> None:
    cells = cells_of(*[3 * 10**9] * 4)
    assert cells.relative_negative_flip_rate() == pytest.approx(1.0)


def test_refusals() -> None:
    right = np.ones(3, bool)
    with pytest.raises(ValueError, match=r"new_right must have the shape of old_right, \(3,\), got \(2,\)"):
        count_cells(right, right[:2])
    with pytest.raises(ValueError, match="group must have the shape"):
        count_cells(right, right, np.zeros(1, np.int64), 1)
    with pytest.raises(ValueError, match="at least one sample"):
        flip_rates(cells_of(0, 0, 0, 0), changed=0)
    with pytest.raises(ValueError, match="confidence must be between 0 and 1"):
        flip_rates(cells_of(1, 1, 1, 1), changed=0, confidence=95)
