"""Reliability against a plain loop over bins, and what is drawn of it."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lightning_flip.reports import Reliability, plot_reliability, reliability
from lightning_flip.reports.runs._rates import expected_calibration_error

SAMPLES = st.lists(
    st.tuples(st.one_of(st.floats(0, 1), st.sampled_from([i / 30 for i in range(31)])), st.booleans()), min_size=1
)
NAMES = ["before", "after", "a name that is much longer than a panel is wide " * 3, "$5 & $6", "_hidden", "LOUD " * 12]


def columns(samples: list[tuple[float, bool]]) -> tuple[np.ndarray, np.ndarray]:
    confidence, correct = zip(*samples, strict=True)
    return np.array(confidence), np.array(correct)


@given(SAMPLES, st.sampled_from([1, 4, 10, 15]))
def test_bins_by_looping_over_them(samples, bins):
    found = reliability(*columns(samples), n_bins=bins)
    assert len(found.edges) == bins + 1
    error = 0.0
    for number in range(bins):
        low, high = found.edges[number], found.edges[number + 1]
        assert (low, high) == pytest.approx((number / bins, (number + 1) / bins), abs=1e-15)
        inside = [(sure, right) for sure, right in samples if low < sure <= high or (number == 0 and sure == 0)]
        assert found.count[number] == len(inside)
        if not inside:
            assert math.isnan(found.accuracy[number])
            assert math.isnan(found.confidence[number])
            continue
        accuracy = sum(right for _, right in inside) / len(inside)
        confidence = sum(sure for sure, _ in inside) / len(inside)
        assert found.accuracy[number] == pytest.approx(accuracy, abs=1e-12)
        assert found.confidence[number] == pytest.approx(confidence, abs=1e-12)
        assert found.gap[number] == pytest.approx(abs(accuracy - confidence), abs=1e-12)
        error += len(inside) / len(samples) * abs(accuracy - confidence)
    assert found.samples == len(samples)
    assert found.calibration_error == pytest.approx(error, abs=1e-12)
    assert found.calibration_error == pytest.approx(expected_calibration_error(*columns(samples), bins), abs=1e-12)


@given(SAMPLES, st.randoms())
def test_the_order_of_samples_does_not_matter(samples, random):
    shuffled = random.sample(samples, len(samples))
    one, other = reliability(*columns(samples)), reliability(*columns(shuffled))
    assert one.count == other.count
    np.testing.assert_allclose(one.gap, other.gap, atol=1e-12)


def test_a_model_that_is_as_sure_as_right_has_no_gap():
    found = reliability([0.25] * 4 + [0.75] * 4, [True, False, False, False, True, True, True, False])
    assert found.calibration_error == 0
    assert sum(found.count) == 8


def test_the_table_is_plain_with_a_row_a_bin():
    table = reliability(np.float32([0.3, 0.9]), np.array([False, True]), n_bins=2).table()
    assert list(table) == ["low", "high", "count", "accuracy", "confidence", "gap"]
    assert table["low"] == [0.0, 0.5]
    assert table["high"] == [0.5, 1.0]
    assert table["count"] == [1, 1]
    assert table["gap"] == pytest.approx([0.3, 0.1])
    assert all(
        type(value) is float for name in ("low", "high", "accuracy", "confidence", "gap") for value in table[name]
    )
    assert all(type(value) is int for value in table["count"])


def test_tensors_and_rounding_are_taken():
    found = reliability(torch.tensor([1.0000001, 0.5]), torch.tensor([True, False]), n_bins=2)
    assert found.count == (1, 1)
    assert found.confidence == (0.5, 1.0)


@pytest.mark.parametrize(
    ("confidence", "correct", "bins", "error", "message"),
    [
        ([0.5, 0.5], [True], 15, ValueError, r"correct must have the shape \[2\]; got \[1\]"),
        ([[0.5]], [True], 15, ValueError, r"confidence must have the shape \[any\]; got \[1, 1\]"),
        ([], np.zeros(0, bool), 15, ValueError, "confidence must have the shape"),
        ([0.5, float("nan")], [True, True], 15, ValueError, "confidence must be finite"),
        ([0.5, 1.5, -2.0], [True] * 3, 15, ValueError, r"in \[0, 1\], got 1.5 \(2 such samples\).*softmax"),
        ([0.5], [1], 15, TypeError, "correct must be bool"),
        ([0.5], [True], 0, ValueError, "bins must be at least 1, got 0"),
    ],
)
def test_impossible_input_is_refused(confidence, correct, bins, error, message):
    with pytest.raises(error, match=message):
        reliability(confidence, correct, bins)


# -- the figure -------------------------------------------------------------------------------------


@pytest.fixture
def found() -> Reliability:
    draw = np.random.default_rng(0)
    confidence = draw.uniform(0.3, 1.0, 500)
    return reliability(confidence, draw.random(500) < confidence**2, 10)


def test_bars_gaps_and_counts_are_those_of_the_table(found):
    upper, lower, right = plot_reliability({"before": found}).axes
    filled = [place for place, count in enumerate(found.count) if count]
    bars, gaps = upper.containers
    assert [bar.get_height() for bar in bars] == [found.accuracy[place] for place in filled]
    for bar, gap, place in zip(bars, gaps, filled, strict=True):
        assert bar.get_x() == gap.get_x() == found.edges[place]
        assert gap.get_y() == found.accuracy[place]
        assert gap.get_y() + gap.get_height() == pytest.approx(found.confidence[place])
        assert gap.get_hatch()  # seen without color
    assert upper.lines[0].get_xydata().tolist() == [[0, 0], [1, 1]]
    assert [bar.get_height() for bar in lower.containers[0]] == list(found.count)
    np.testing.assert_array_equal(right.lines[0].get_ydata(), found.gap)
    assert right.lines[0].get_marker() == "o"  # a bin between two empty ones is seen
    assert f"ECE {found.calibration_error:.1%}, 500 samples" in upper.get_title()
    assert lower.get_ylim()[1] > max(found.count)
    assert right.get_ylim()[1] > np.nanmax(found.gap)


def test_all_are_drawn_on_the_same_axes(found):
    few = reliability([0.95] * 20, [False] * 20, 10)
    figure = plot_reliability({"many": found, "few": few})
    lower = [axes for axes in figure.axes if axes.patches and axes.get_ylim()[1] > 1.1]
    right = [axes for axes in figure.axes if axes.lines and not axes.patches]
    assert len(lower) == len(right) == 2
    assert len({axes.get_ylim() for axes in lower}) == len({axes.get_ylim() for axes in right}) == 1
    assert right[0].get_ylim()[1] > 0.95


@pytest.mark.parametrize(("number", "across"), [(1, 1), (2, 1), (4, 3), (6, 3), (6, 6)])
def test_names_are_readable(found, readable, number, across):
    readable(plot_reliability(dict.fromkeys(NAMES[:number], found), columns=across))


def test_one_without_a_name_and_perfect_ones_are_drawn(found, readable):
    readable(plot_reliability(found))
    figure = plot_reliability(reliability([1.0, 1.0], [True, True]))
    readable(figure)
    assert figure.axes[0].get_title() == "ECE 0.0%, 2 samples"


def test_other_things_are_refused(found):
    with pytest.raises(ValueError, match="at least one Reliability"):
        plot_reliability({})
    with pytest.raises(TypeError, match="must be a Reliability"):
        plot_reliability([found])
    with pytest.raises(TypeError, match="must be a Reliability"):
        plot_reliability({"a": 0.1})
    with pytest.raises(ValueError, match="columns must be at least 1, got 0"):
        plot_reliability(found, columns=0)
