"""Panels, names and lines that figures of several runs share."""

import itertools
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightning_flip.reports.figures.canvas import folded_text, line_look, panel_grid


@given(st.text(max_size=200), st.floats(0.5, 10))
def test_a_folded_name_is_short_and_printable(name, inches):
    lines = folded_text(name, inches).split("\n")
    assert len(lines) <= 8
    assert all(line == "" or line.isprintable() for line in lines)
    assert all(len(line.replace(r"\$", "$")) <= max(8, 13 * inches) for line in lines)


def test_a_short_name_stays_and_a_long_one_keeps_both_ends():
    assert folded_text("label smoothing", 3.0) == "label smoothing"
    assert folded_text("cost in $ and $", 3.0) == r"cost in \$ and \$"
    assert folded_text("", 3.0) == ""
    long = folded_text("start " + 50 * "middle " + "end", 10.0)
    assert long.startswith("start ")
    assert long.endswith(" end")
    assert " .. " in long


def test_wide_letters_take_more_room():
    assert folded_text("a" * 24, 2.0) == "a" * 24
    assert folded_text("A" * 24, 2.0).count("\n") == 1
    assert folded_text("\N{CJK UNIFIED IDEOGRAPH-4E00}" * 24, 2.0).count("\n") == 1


def test_neighbors_have_other_colors_and_dashes():
    looks = [line_look(place) for place in range(40)]
    for one, other in itertools.pairwise(looks):
        assert one.color != other.color
        assert one.linestyle != other.linestyle


@pytest.mark.parametrize(("count", "columns"), [(1, 4), (4, 4), (5, 3), (6, 1)])
def test_a_grid_has_a_place_for_every_panel(count, columns):
    grid = panel_grid([f"panel {place}" for place in range(count)], columns, (2.0, 2.0), heights=(2, 1))
    across = min(columns, count)
    for place, (upper, lower) in enumerate(grid.panels):
        assert upper.get_title() == f"panel {place}"
        row, column = divmod(place, across)
        assert upper.get_subplotspec().colspan.start == lower.get_subplotspec().colspan.start == column
        assert upper.get_subplotspec().rowspan.start == 2 * row
        assert lower.get_subplotspec().rowspan.start == 2 * row + 1
        assert grid.first[place] == (column == 0)
        assert grid.last[place] == (column == across - 1 or place == count - 1)
        assert grid.lowest[place] == (place + across >= count)
        assert grid.full[place] == (count - row * across >= across)
    grid.figure.draw_without_rendering()
    tall, low = (axes.get_window_extent().height for axes in grid.panels[0])
    assert tall > 1.6 * low
    blank = [axes for axes in grid.figure.axes if not axes.axison]
    assert len(grid.figure.axes) - len(blank) == 2 * count


def test_room_grows_with_titles_and_legend():
    plain = panel_grid(["a", "b"], 2, (3.0, 2.0)).figure
    titles = panel_grid(["a\nb\nc", "b"], 2, (3.0, 2.0)).figure
    legend = panel_grid(["a", "b"], 2, (3.0, 2.0), legend=["a long label of a legend " * 2] * 6).figure
    assert plain.get_figwidth() == titles.get_figwidth() == legend.get_figwidth()
    assert titles.get_figheight() > plain.get_figheight() + 0.3
    assert legend.get_figheight() > plain.get_figheight() + 0.8


def test_reports_are_imported_without_matplotlib_and_drawn_without_torch():
    source = (
        "import sys, lightning_flip.reports as r\n"
        "assert not {'matplotlib', 'torch'} & set(sys.modules)\n"
        "r.plot_reliability(r.reliability([.5], [True]))\n"
        "r.plot_logit_gaps(r.logit_gaps([1.], [1.], [1.], [True]))\n"
        "r.plot_class_projection(r.class_projection([[1., 2.]], [[0, 0], [0, 1], [1, 0]], [0]))\n"
        "r.plot_training_targets(r.TargetProfile((1.,), (), 1))\n"
        "r.plot_winning_scores(r.score_histogram([.5]))\n"
        "assert not {'torch', 'lightning', 'matplotlib.pyplot'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", source], check=True)


def test_without_matplotlib_the_way_out_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'lightning-flip\[report\]'"):
        panel_grid(["a"], 1, (3.0, 2.0))
