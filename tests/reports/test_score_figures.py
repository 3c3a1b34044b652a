"""Histograms of winning scores against a count by hand, and their figure."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightning_flip.reports import ScoreHistogram, plot_winning_scores, score_histogram


@given(st.lists(st.floats(0, 1), min_size=1), st.sampled_from([0.0, 0.1, 0.5]), st.integers(1, 20))
def test_every_score_is_counted_once(scores, lowest, bins):
    found = score_histogram(scores, lowest, bins)
    assert (found.edges[0], found.edges[-1], len(found.edges)) == (lowest, 1.0, bins + 1)
    assert found.below == sum(score < lowest for score in scores)
    for place, count in enumerate(found.count):
        low, high = found.edges[place], found.edges[place + 1]
        assert high - low == pytest.approx((1 - lowest) / bins)
        assert count == sum(low <= score < high or (high == 1 and score == 1) for score in scores)
    assert found.samples == len(scores)
    assert sum(found.table()["count"]) == len(scores)


def test_the_default_is_the_papers_view():
    assert score_histogram([0.1]).edges == pytest.approx(np.arange(0.1, 1.001, 0.05))
    assert score_histogram([0.1, 0.0999]).below == 1


def test_the_table_is_plain():
    table = score_histogram(np.float32([0.05, 0.3, 0.9]), 0.2, 2).table()
    assert list(table) == ["low", "high", "count"]
    assert table["low"] == pytest.approx([0.0, 0.2, 0.6])
    assert table["high"] == pytest.approx([0.2, 0.6, 1.0])
    assert table["count"] == [1, 1, 1]
    assert all(type(value) is float for value in table["low"] + table["high"])
    assert all(type(value) is int for value in table["count"])
    assert score_histogram([0.5], 0.0, 2).table() == {"low": [0.0, 0.5], "high": [0.5, 1.0], "count": [0, 1]}


def test_a_score_that_rounding_lifted_above_1_is_in_the_last_bin():
    assert score_histogram([1 + 1e-7], n_bins=3).count == (0, 0, 1)


@pytest.mark.parametrize(
    ("scores", "options", "message"),
    [
        ([], {}, "scores must have the shape"),
        ([[0.5]], {}, r"scores must have the shape \[any\]; got \[1, 1\]"),
        ([0.5, float("nan")], {}, "scores must be finite"),
        ([0.5, 3.0, -1.0], {}, r"scores must be probabilities in \[0, 1\], got 3 \(2 such samples\)"),
        ([0.5], {"low": 1.0}, r"low must be in \[0, 1\), got 1.0"),
        ([0.5], {"low": -0.1}, "low must be in"),
        ([0.5], {"n_bins": 0}, "bins must be at least 1, got 0"),
    ],
)
def test_impossible_input_is_refused(scores, options, message):
    with pytest.raises(ValueError, match=message):
        score_histogram(scores, **options)


# -- the figure -------------------------------------------------------------------------------------

SURE = score_histogram([0.99] * 90 + [0.5] * 9 + [0.05])
MODEST = score_histogram(np.linspace(0.3, 0.7, 50))


def test_bars_are_the_counts_on_the_same_axes():
    figure = plot_winning_scores({"standard": SURE, "PLS": MODEST})
    assert len(figure.axes) == 2
    for axes, found in zip(figure.axes, (SURE, MODEST), strict=True):
        bars = axes.containers[0]
        assert [bar.get_height() for bar in bars] == list(found.count)
        np.testing.assert_allclose([bar.get_x() for bar in bars], found.edges[:-1])
        np.testing.assert_allclose([bar.get_x() + bar.get_width() for bar in bars], found.edges[1:])
        assert axes.get_xlim() == (0.1, 1.0)
        assert axes.get_ylim() == figure.axes[0].get_ylim()
    assert figure.axes[0].get_position().y0 > figure.axes[1].get_position().y0
    assert figure.axes[0].get_title() == "standard\n100 samples, 1 under 0.1"


@pytest.mark.parametrize("number", [1, 3, 6])
def test_names_are_readable(number, readable):
    names = ["standard", "a long name for a panel " * 4, "$5 & $6", "_hidden", "UNIFORM " * 9, "ULS"][:number]
    readable(plot_winning_scores(dict.fromkeys(names, SURE)))


def test_one_without_a_name_is_drawn(readable):
    readable(plot_winning_scores(SURE))
    figure = plot_winning_scores(score_histogram([0.5], low=0.0))
    readable(figure)
    assert figure.axes[0].get_title() == "1 sample"


def test_other_things_are_refused():
    with pytest.raises(ValueError, match="at least one ScoreHistogram"):
        plot_winning_scores({})
    with pytest.raises(TypeError, match="must be a ScoreHistogram"):
        plot_winning_scores([0.5])
    with pytest.raises(ValueError, match="same edges"):
        plot_winning_scores({"a": SURE, "b": ScoreHistogram((0.0, 1.0), (3,), 0)})
