"""Accuracies on right and wrong labels, and densities of logit gaps, against plain loops."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from lightning_flip.reports import LogitGaps, NoiseAccuracies, logit_gaps, noise_accuracies, plot_logit_gaps

CLASSES = st.integers(0, 3)
GAPS = st.floats(-50, 50)
KINDS = ["noisy_true", "noisy_label", "clean_true", "all_top"]

# -- accuracies -------------------------------------------------------------------------------------


@given(st.lists(st.tuples(CLASSES, CLASSES, CLASSES), min_size=1))
def test_accuracies_by_counting(samples):
    found = noise_accuracies(*(np.array(column) for column in zip(*samples, strict=True)))

    def share(rows: list[bool]) -> float | None:
        return sum(rows) / len(rows) if rows else None

    assert found.all_true == share([pred == true for pred, _, true in samples])
    assert found.all_label == share([pred == label for pred, label, _ in samples])
    assert found.clean_true == share([pred == true for pred, label, true in samples if label == true])
    assert found.noisy_true == share([pred == true for pred, label, true in samples if label != true])
    assert found.noisy_label == share([pred == label for pred, label, true in samples if label != true])
    assert found.noisy == sum(label != true for _, label, true in samples)
    assert found.clean + found.noisy == len(samples)


def test_the_table_is_long_and_plain():
    table = NoiseAccuracies(0.8, 0.9, 0.4, 0.2, 0.7, clean=8, noisy=2).table()
    assert list(table) == ["part", "against", "accuracy", "samples"]
    rows = list(zip(*table.values(), strict=True))
    assert rows == [
        ("all", "true label", 0.8, 10),
        ("clean", "true label", 0.9, 8),
        ("noisy", "true label", 0.4, 2),
        ("noisy", "given label", 0.2, 2),
        ("all", "given label", 0.7, 10),
    ]


def test_a_part_without_samples_has_no_accuracy():
    found = noise_accuracies([0, 1], [0, 0], [0, 0])
    assert (found.clean_true, found.noisy_true, found.noisy_label) == (0.5, None, None)
    accuracy = found.table()["accuracy"]
    assert all(type(value) is float for value in accuracy)
    assert math.isnan(accuracy[2])
    assert found.table()["samples"] == [2, 2, 0, 0, 2]
    assert noise_accuracies([0], [0], [1]).clean_true is None


@pytest.mark.parametrize(
    ("pred", "label", "true_label", "message"),
    [
        ([0, 1], [0], [0, 1], r"label must have the shape \[2\]; got \[1\]"),
        ([0, 1], [0, 1], [[0, 1]], r"true_label must have the shape \[2\]; got \[1, 2\]"),
        ([], [], [], "pred must have the shape .* at least one sample; got"),
        ([[0.1, 0.9]], [1], [1], "pred must have the shape"),
        ([0.0, 1.0], [0, 1], [0, 1], "pred must be integers.*float64"),
        ([0, 1], [0, 1], [0, -1], "true_label must not be negative, got -1"),
    ],
)
def test_predictions_of_another_form_are_named(pred, label, true_label, message):
    with pytest.raises(ValueError, match=message):
        noise_accuracies(pred, label, true_label)


# -- logit gaps -------------------------------------------------------------------------------------


@given(st.lists(st.tuples(GAPS, GAPS, GAPS, st.booleans()), min_size=1, max_size=40), st.integers(1, 12))
@example([(0.0, 0.0, 2.2250738585e-313, False)], 1)  # a bin of this width would have an infinite density
def test_densities_by_looping_over_bins(samples, bins):
    found = logit_gaps(*(np.array(column) for column in zip(*samples, strict=True)), n_bins=bins)
    expected = {
        "noisy_true": [true for _, true, _, noisy in samples if noisy],
        "noisy_label": [label for label, _, _, noisy in samples if noisy],
        "clean_true": [true for _, true, _, noisy in samples if not noisy],
        "all_top": [top for _, _, top, _ in samples],
    }
    expected = {name: values for name, values in expected.items() if values}
    assert list(found.density) == list(found.samples) == list(expected)
    assert len(found.edges) == bins + 1
    used = [value for values in expected.values() for value in values]
    if max(used) - min(used) > 1e-6:
        assert (found.edges[0], found.edges[-1]) == (min(used), max(used))
    for name, values in expected.items():
        assert found.samples[name] == len(values)
        area = 0.0
        for place, density in enumerate(found.density[name]):
            low, high = found.edges[place], found.edges[place + 1]
            inside = sum(low <= value < high or (place == bins - 1 and value == high) for value in values)
            assert density * (high - low) * len(values) == pytest.approx(inside, abs=1e-6)
            area += density * (high - low)
        assert area == pytest.approx(1)


def test_the_table_has_a_column_a_curve():
    table = logit_gaps([1.0, 3.0], [1.0, 0.0], [2.0, 3.0], [False, True], n_bins=3).table()
    assert list(table) == ["low", "high", *KINDS]
    assert table["low"] == [0.0, 1.0, 2.0]
    assert table["noisy_label"] == [0.0, 0.0, 1.0]
    assert all(type(value) is float for column in table.values() for value in column)


@pytest.mark.parametrize(("noisy", "missing"), [(False, KINDS[:2]), (True, KINDS[2:3])])
def test_a_part_without_samples_has_no_curve(noisy, missing):
    found = logit_gaps([1.0, 2.0], [1.0, 2.0], [1.0, 2.0], [noisy, noisy])
    assert list(found.table())[2:] == [kind for kind in KINDS if kind not in missing]
    drawn = [axes for axes in plot_logit_gaps(found).axes if axes.axison]
    assert len(drawn) == 4 - len(missing)
    assert all(axes.lines and axes.get_title() for axes in drawn)


@pytest.mark.parametrize("value", [0.0, -3.0, 1e17])
def test_gaps_that_are_all_the_same_have_a_bin(value, readable):
    found = logit_gaps([value] * 3, [value] * 3, [value] * 3, [True, False, False], n_bins=4)
    assert found.edges[0] < value < found.edges[-1]
    assert (np.diff(found.edges) > 0).all()
    readable(plot_logit_gaps(found))


@pytest.mark.parametrize(
    ("arguments", "options", "error", "message"),
    [
        (([1.0], [1.0, 2.0], [1.0, 2.0], [True, False]), {}, ValueError, r"label_gap must have the shape \[2\]"),
        (([1.0, 2.0], [1.0], [1.0, 2.0], [True, False]), {}, ValueError, r"true_gap must have the shape \[2\]"),
        (([], [], [], np.zeros(0, bool)), {}, ValueError, "top_gap must have the shape"),
        (([1.0], [np.inf], [1.0], [True]), {}, ValueError, "true_gap must be finite"),
        (([1.0], [1.0], [np.nan], [True]), {}, ValueError, "top_gap must be finite"),
        (([1.0], [1.0], [1.0], [1]), {}, TypeError, "is_noisy must be bool"),
        (([1.0], [1.0], [1.0], [True, False]), {}, ValueError, r"is_noisy must have the shape \[1\]"),
        (([1.0], [1.0], [1.0], [True]), {"n_bins": 0}, ValueError, "bins must be at least 1, got 0"),
    ],
)
def test_gaps_of_another_form_are_named(arguments, options, error, message):
    with pytest.raises(error, match=message):
        logit_gaps(*arguments, **options)


# -- the figure -------------------------------------------------------------------------------------


def run(shift: float, noisy: float = 0.4) -> LogitGaps:
    draw = np.random.default_rng(0)
    rows = draw.normal([shift, 2.0, 5.0], [1.0, 2.0, 1.0], (400, 3)).T
    return logit_gaps(*rows, draw.random(400) < noisy)


def test_a_line_has_the_area_1_and_a_panel_the_middle_of_its_samples():
    found = run(0.0)
    figure = plot_logit_gaps(found)
    assert len(figure.axes) == 4
    assert figure.legends == []
    for axes, kind in zip(figure.axes, KINDS, strict=True):
        x, y = axes.lines[0].get_data()
        np.testing.assert_array_equal(y[1:-1], found.density[kind])
        np.testing.assert_allclose(x[1:-1], (np.array(found.edges[1:]) + found.edges[:-1]) / 2, atol=1e-12)
        assert np.trapezoid(y, x) == pytest.approx(1)
        low, high = axes.get_xlim()
        middles = (x[1:-1] >= low) & (x[1:-1] <= high)
        assert (y[1:-1] * middles).sum() / y.sum() >= 0.99


def test_an_outlier_does_not_squeeze_the_others():
    gaps = np.r_[np.random.default_rng(0).normal(0, 1, 999), 40.0]
    low, high = plot_logit_gaps(logit_gaps(gaps, gaps, gaps, np.arange(1000) < 0)).axes[0].get_xlim()
    assert low < -2
    assert 2 < high < 6


def test_runs_lie_over_each_other_and_differ_without_color():
    runs = {f"run {place}": run(place) for place in range(6)} | {"clean": run(2.0, noisy=0.0)}
    figure = plot_logit_gaps(runs)
    assert [len(axes.lines) for axes in figure.axes] == [6, 6, 7, 7]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == list(runs)
    shown = [(line.get_color(), line.get_linestyle()) for line in figure.legends[0].get_lines()]
    assert shown == [(line.get_color(), line.get_linestyle()) for line in figure.axes[3].lines]
    dashes = [line._dash_pattern for line in figure.axes[3].lines]
    assert all(one != other for one, other in itertools.pairwise(dashes))


@pytest.mark.parametrize("across", [1, 2, 4])
def test_names_are_readable(across, readable):
    names = ["standard", "label smoothing " * 8, "$5 & $6", "_hidden", "BACKWARD " * 9, "forward"]
    readable(plot_logit_gaps({name: run(place) for place, name in enumerate(names)}, columns=across))


def test_other_things_are_refused():
    with pytest.raises(ValueError, match="at least one LogitGaps"):
        plot_logit_gaps({})
    with pytest.raises(TypeError, match="must be a LogitGaps"):
        plot_logit_gaps([1.0])
    with pytest.raises(ValueError, match="columns must be at least 1"):
        plot_logit_gaps(run(0.0), columns=0)
