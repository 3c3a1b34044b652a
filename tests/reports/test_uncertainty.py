"""The histogram of uncertainties against a count by hand, and its figure."""

import builtins
import io
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_flip.reports.figures.uncertainty import (
    UncertaintyHistogram,
    plot_uncertainty_histogram,
    uncertainty_histogram,
)


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.tuples(st.floats(0, 3), st.booleans()), min_size=1, max_size=50),
    st.integers(1, 12),
    st.sampled_from([None, 3.0, 3.5]),
)
def test_every_sample_is_in_one_bin_the_one_that_its_value_belongs_to(samples, bins, highest):
    values, flags = (np.array(column) for column in zip(*samples, strict=True))
    histogram = uncertainty_histogram(values, flags, n_bins=bins, high=highest)
    assert len(histogram.edges) == bins + 1
    assert histogram.edges[0] == 0
    assert histogram.edges[-1] == (highest or values.max() or 1.0)
    expected = {True: [0] * bins, False: [0] * bins}
    for value, flag in samples:
        place = max(i for i in range(bins) if histogram.edges[i] <= value)
        expected[flag][place] += 1
    assert histogram.flipped == tuple(expected[True])
    assert histogram.other == tuple(expected[False])
    assert histogram.num_samples == len(samples)
    rates = zip(expected[True], expected[False], strict=True)
    assert histogram.flip_rates() == [a / (a + b) if a + b else None for a, b in rates]


def test_plain_numbers_come_back():
    histogram = uncertainty_histogram(np.float32([0.2, 0.4]), np.array([True, False]), n_bins=2)
    assert all(type(value) is float for value in histogram.edges)
    assert all(type(value) is int for value in (*histogram.flipped, *histogram.other, histogram.num_flipped))


@pytest.mark.parametrize(
    ("values", "flags", "options", "error", "message"),
    [
        ([0.1], [1], {}, TypeError, "flipped must be bool"),
        ([0.1, 0.2], [True], {}, ValueError, r"flipped must have the shape \[2\]; got \[1\]"),
        ([[0.1]], [[True]], {}, ValueError, r"uncertainty must have the shape \[any\]; got \[1, 1\]"),
        ([], np.zeros(0, bool), {}, ValueError, r"uncertainty must have the shape \[any\]; got \[0\]"),
        ([0.1, -0.5, -0.1], [True] * 3, {}, ValueError, r"not be negative, got -0.5 \(2 such"),
        ([0.1, float("nan")], [True] * 2, {}, ValueError, "uncertainty must be finite"),
        ([0.1], [True], {"n_bins": 0}, ValueError, "bins"),
        ([0.1, 0.9], [True, True], {"high": 0.5}, ValueError, "high=0.5 is below the largest uncertainty 0.9"),
    ],
)
def test_impossible_input_is_refused(values, flags, options, error, message):
    with pytest.raises(error, match=message):
        uncertainty_histogram(values, flags, **options)


@pytest.fixture
def histogram():
    return UncertaintyHistogram((0.0, 0.5, 1.0), flipped=(1, 12), other=(3000, 40))


def test_the_figure_shows_the_counts_on_a_logarithmic_axis(histogram):
    figure = plot_uncertainty_histogram(histogram, measure="$5 of entropy")
    (axes,) = figure.axes
    drawn = {patch.get_label(): patch.get_data() for patch in axes.patches}
    assert set(drawn) == {"other samples (3,040)", "negative flips (13)"}
    assert drawn["negative flips (13)"].values.tolist() == [1, 12]
    assert drawn["other samples (3,040)"].edges.tolist() == [0.0, 0.5, 1.0]
    assert axes.get_yscale() == "log"
    assert 0 < axes.get_ylim()[0] < 1  # a single sample is seen
    assert axes.get_ylim()[1] > 3000
    assert axes.get_xlabel() == r"\$5 of entropy"
    figure.draw_without_rendering()
    assert axes.get_legend().get_window_extent().y0 >= axes.get_window_extent().y1  # it hides no count
    image = io.BytesIO()
    figure.savefig(image, format="png")
    assert image.getvalue().startswith(b"\x89PNG")


@pytest.mark.parametrize("number", [2, 5, 7])
def test_several_updates_share_a_second_panel(histogram, number):
    less = UncertaintyHistogram(histogram.edges, flipped=(0, 4), other=(3001, 48))
    named = {"no treatment": histogram, **{f"<b>{i}$\n": less for i in range(number - 1)}}
    top, bottom = plot_uncertainty_histogram(named).axes
    assert top.get_legend().get_title().get_text() == "no treatment"
    labels = [patch.get_label() for patch in bottom.patches]
    assert labels == ["no treatment (13)", *(rf"<b>{i}\$  (4)" for i in range(number - 1))]
    assert len({patch.get_edgecolor() for patch in bottom.patches}) == number
    assert bottom.get_yscale() == "log"


@pytest.mark.parametrize("width", [2.5, 4.0, 8.0])
def test_words_leave_room_for_the_counts(histogram, width):
    named = {"a name that is much longer than the panel is wide": histogram, "short": histogram}
    figure = plot_uncertainty_histogram(named, measure="predictive entropy of four old models", size=(width, 5.0))
    figure.draw_without_rendering()
    for axes in figure.axes:
        assert axes.get_window_extent().width > 0.5 * figure.bbox.width
        assert axes.get_legend().get_window_extent().x1 <= figure.bbox.width


def test_updates_without_any_flip_are_drawn_too():
    none = uncertainty_histogram([0.0, 0.0], [False, False], n_bins=3)
    plot_uncertainty_histogram({"a": none, "b": none}).savefig(io.BytesIO(), format="png")


def test_figures_of_nothing_and_of_different_edges_are_refused(histogram):
    with pytest.raises(ValueError, match="at least one"):
        plot_uncertainty_histogram({})
    with pytest.raises(ValueError, match="same edges"):
        plot_uncertainty_histogram({"a": histogram, "b": uncertainty_histogram([2.0], [True])})


def test_without_matplotlib_the_extra_is_named(monkeypatch, histogram):
    real = builtins.__import__

    def missing(name, *args, **kwargs):
        if name.split(".")[0] == "matplotlib":
            raise ModuleNotFoundError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(ModuleNotFoundError, match=r"lightning-flip\[report\]"):
        plot_uncertainty_histogram(histogram)


def test_drawing_needs_no_torch_and_importing_no_matplotlib():
    source = (
        "import sys, lightning_flip.reports as f, lightning_flip.reports.figures.uncertainty as u\n"
        "assert 'matplotlib' not in sys.modules\n"
        "f.plot_uncertainty_histogram(u.uncertainty_histogram([.1], [True]))\n"
        "assert not {'torch', 'lightning', 'matplotlib.pyplot'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", source], check=True)
