"""Figures of paths and supervisions: their data against plain loops, and what is drawn of it."""

from __future__ import annotations

import io
import math
import sys

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from lightning_flip import functional
from lightning_flip.reports import (
    SupervisionRun,
    distance_stages,
    kernel_similarity,
    plot_decomposition,
    plot_distance_stages,
    plot_label_recovery,
    plot_simplex_paths,
    plot_supervision,
    plot_zigzag_relation,
    rank_correlation,
    recovery_curve,
    samples_by_difficulty,
    simplex_path,
    simplex_points,
    softmax_traces,
    supervision_relation,
    zigzag_relation,
)
from tests.oracles import paths as oracle

RNG = np.random.default_rng(0)
PATH = RNG.dirichlet([1.0] * 3, size=25)
TRUTH = RNG.dirichlet([1.0] * 3, size=30)
TARGET = RNG.integers(3, size=30)


def drawn(figure: Figure) -> int:
    """Bytes of the picture; drawing it whole finds what cannot be drawn."""
    stream = io.BytesIO()
    figure.savefig(stream, format="png")
    return len(stream.getvalue())


def texts(figure: Figure) -> str:
    return "\n".join(text.get_text() for axes in figure.axes for text in axes.texts)


# -- the simplex ------------------------------------------------------------------------------------


def test_points_and_filter_are_those_of_the_functions_on_tensors():
    prepared = simplex_path(PATH, alpha=0.2)
    np.testing.assert_allclose(prepared.points, functional.barycentric(torch.from_numpy(PATH)), atol=1e-15)
    np.testing.assert_allclose(prepared.points[3], oracle.corner_sum(PATH[3]), atol=1e-15)
    smooth = functional.filter_path(torch.from_numpy(PATH), 0.2)
    np.testing.assert_allclose(prepared.filtered, functional.barycentric(smooth), atol=1e-12)
    np.testing.assert_allclose(simplex_points(oracle.filtered(PATH, 0.2)), prepared.filtered, atol=1e-12)


def test_the_table_of_a_path_has_a_row_a_time():
    table = simplex_path(PATH).table()
    assert list(table) == ["time", "x", "y", "filtered_x", "filtered_y"]
    assert {len(column) for column in table.values()} == {25}
    assert list(simplex_path(PATH, alpha=None).table()) == ["time", "x", "y"]


def test_a_filtered_path_at_hand_is_drawn_as_it_is():
    other = RNG.dirichlet([1.0] * 3, size=25)
    np.testing.assert_array_equal(simplex_path(PATH, filtered=other).filtered, simplex_points(other))


def test_panels_hold_the_path_its_filter_the_truth_the_stop_and_the_end():
    panels = {
        "easy $x$": simplex_path(PATH, truth=[0.2, 0.3, 0.5], stop=4, corners=("cat", "dog", "rest")),
        "medium": simplex_path(PATH[:3]),
        "hard": simplex_path(PATH, alpha=None),
        "one more": simplex_path(PATH[:1]),
    }
    figure = plot_simplex_paths(panels, columns=3)
    first = figure.axes[0]
    assert first.get_title() == r"easy \$x\$"
    assert [text.get_text() for text in first.texts] == ["cat", "dog", "rest"]
    np.testing.assert_allclose(first.collections[0].get_offsets(), panels["easy $x$"].points)
    lines = {line.get_label(): line.get_xydata() for line in first.lines}
    np.testing.assert_allclose(lines["filtered"], panels["easy $x$"].filtered)
    np.testing.assert_allclose(lines["p*"][0], oracle.corner_sum(np.array([0.2, 0.3, 0.5])))
    np.testing.assert_allclose(lines["early stop"][0], panels["easy $x$"].points[4])
    np.testing.assert_allclose(lines["end"][0], panels["easy $x$"].points[-1])
    assert "filtered" not in {line.get_label() for line in figure.axes[2].lines}
    assert len({text.get_text() for text in figure.legends[0].get_texts()}) == 4
    assert drawn(figure) > 5000


def test_color_is_time_and_early_points_are_lighter():
    figure = plot_simplex_paths({"one": simplex_path(PATH)})
    colors = figure.axes[0].collections[0].get_facecolors()[:, :3].sum(axis=1)
    assert (np.diff(colors) < 0).all()
    assert colors[0] < 2.9  # not white on white


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        (np.ones((4, 2)), {}, r"path must have the shape \[any, 3\]; got \[4, 2\]"),
        (np.zeros((0, 3)), {}, r"path must have the shape"),
        ([[np.nan, 0, 1]], {}, "path must be finite"),
        (PATH, {"truth": [0.5, 0.5]}, r"truth must have the shape \[3\]"),
        (PATH, {"filtered": PATH[:3]}, r"filtered must have the shape \[25, 3\]"),
        (PATH, {"stop": 25}, "stop must be a position in the path, 0 to 24; got 25"),
        (PATH, {"alpha": 0.0}, r"alpha must be in \(0, 1\]"),
        (PATH, {"corners": ("a", "b")}, "corners must be three names; got 2"),
    ],
)
def test_paths_of_another_form_are_named(arguments, options, message):
    with pytest.raises(ValueError, match=message):
        simplex_path(arguments, **options)


def test_more_classes_are_sent_to_the_three_axes():
    with pytest.raises(ValueError, match=r"functional\.three_axes"):
        simplex_points(np.ones((2, 4)))
    with pytest.raises(ValueError, match="at least one path"):
        plot_simplex_paths({})


def test_samples_are_chosen_by_quantile():
    difficulty = RNG.permutation(101) / 100
    chosen = samples_by_difficulty(difficulty)
    assert [float(difficulty[sample]) for sample in chosen.values()] == [0.1, 0.75, 0.97]
    assert list(chosen) == ["easy", "medium", "hard"]
    with pytest.raises(ValueError, match="quantiles"):
        samples_by_difficulty(difficulty, {"hard": 97})


# -- zig-zag ----------------------------------------------------------------------------------------


def by_hand(x: np.ndarray, y: np.ndarray) -> float:
    """Pearson's coefficient of mean ranks."""

    def ranks(values: np.ndarray) -> np.ndarray:
        return np.array([np.mean([np.sum(values < v), np.sum(values <= v) - 1]) for v in values])

    a, b = ranks(x) - ranks(x).mean(), ranks(y) - ranks(y).mean()
    return float((a * b).sum() / math.sqrt((a * a).sum() * (b * b).sum()))


def test_spearman_is_that_of_ranks_with_ties():
    x, y = RNG.integers(6, size=40).astype(float), RNG.normal(size=40)
    found = rank_correlation(x, x + y)
    assert found.coefficient == pytest.approx(by_hand(x, x + y))
    assert (found.pairs, found.p_value < 1e-3) == (40, True)
    assert math.isnan(rank_correlation([1, 1, 1], [1, 2, 3]).coefficient)


@pytest.mark.parametrize(("x", "y"), [([1, 2], [1, 2]), ([1, 2, 3], [1, 2]), ([1, 2, np.nan], [1, 2, 3])])
def test_spearman_of_too_little_is_refused(x, y):
    with pytest.raises(ValueError, match="x and y must be"):
        rank_correlation(x, y)


def test_zigzag_panels_say_their_coefficient():
    difficulty = RNG.random(50)
    relation = zigzag_relation(difficulty, difficulty + 0.3 * RNG.random(50))
    assert relation.correlation.coefficient == pytest.approx(by_hand(relation.difficulty, relation.zigzag))
    figure = plot_zigzag_relation({f"d = {d}": relation for d in range(5)}, columns=4)
    assert [axes.get_title() for axes in figure.axes[:5]] == [f"d = {d}" for d in range(5)]
    np.testing.assert_array_equal(figure.axes[0].collections[0].get_offsets()[:, 0], difficulty)
    assert f"Spearman {relation.correlation.coefficient:.2f}" in texts(figure)
    assert drawn(figure) > 5000
    with pytest.raises(ValueError, match="at least one run"):
        plot_zigzag_relation({})


# -- distances --------------------------------------------------------------------------------------


def test_distances_are_the_plain_loop():
    start, end = RNG.dirichlet([1.0] * 3, size=(2, 30))
    rows = distance_stages(TRUTH, TARGET, {"start": start, "end": end}, supervision=end)
    np.testing.assert_allclose(rows.difficulty, oracle.difficulty(TRUTH, TARGET), atol=1e-12)
    np.testing.assert_allclose(rows.stages["start"], oracle.distances(start, TRUTH)["l2"], atol=1e-12)
    np.testing.assert_array_equal(rows.supervision, rows.stages["end"])
    assert rows.means()["end"] == pytest.approx(np.mean(oracle.distances(end, TRUTH)["l2"]))
    assert list(rows.table()) == ["difficulty", "supervision", "start", "end"]


def test_distances_are_drawn_as_shares_of_the_largest():
    labels = np.eye(3)[TARGET]
    rows = distance_stages(TRUTH, TARGET, {"start": TRUTH, "end": labels})
    with_goal = distance_stages(TRUTH, TARGET, {"start": TRUTH, "end": labels}, supervision=labels)
    figure = plot_distance_stages({"one": rows, "two": with_goal})
    assert [axes.get_title() for axes in figure.axes] == ["start", "end", "", ""]
    points = figure.axes[1].collections[0].get_offsets()
    np.testing.assert_allclose(points[:, 0], points[:, 1])  # labels lie on the diagonal
    assert points.max() <= 1
    assert len(figure.axes[0].collections) == 1
    assert len(figure.axes[2].collections) == 2
    assert "mean 0.000" in texts(figure)
    assert drawn(figure) > 5000


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((TRUTH, TARGET[:5], {}), "target must be 30 integer labels"),
        ((TRUTH, TARGET.astype(float), {}), "target must be 30 integer labels"),
        ((TRUTH, TARGET + 1, {}), r"target must be in \[0, 3\)"),
        ((TRUTH, TARGET, {"start": TRUTH[:5]}), r"start must have the shape \[30, 3\]"),
        ((TRUTH, TARGET, {"start": TRUTH * np.nan}), "start must be finite"),
    ],
)
def test_distances_of_another_form_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        distance_stages(*arguments)


def test_rows_of_different_stages_are_refused():
    one, other = (distance_stages(TRUTH, TARGET, {name: TRUTH}) for name in ("start", "end"))
    for rows in ({}, {"a": one, "b": other}, {"a": distance_stages(TRUTH, TARGET, {})}):
        with pytest.raises(ValueError, match="same stages"):
            plot_distance_stages(rows)


def test_recovery_is_the_plain_loop_and_the_function_on_tensors():
    probs = RNG.dirichlet([1.0] * 3, size=(6, 30))
    truth = (TARGET + RNG.integers(2, size=30)) % 3
    curve = recovery_curve(probs, truth, TARGET)
    np.testing.assert_allclose(curve, [oracle.recovery(each, truth, TARGET) for each in probs])
    np.testing.assert_array_equal(recovery_curve(probs.argmax(axis=2), truth, TARGET), curve)
    tensors = [torch.from_numpy(array) for array in (probs[2], truth, TARGET)]
    assert float(functional.label_recovery(*tensors)) == pytest.approx(curve[2])


def test_recovery_without_wrong_labels_or_of_another_form_is_refused():
    with pytest.raises(ValueError, match="no wrong label to recover"):
        recovery_curve(np.zeros((2, 30), int), TARGET, TARGET)
    with pytest.raises(ValueError, match=r"pred must be \[T, N\] or \[T, N, K\]"):
        recovery_curve(np.zeros(30, int), TARGET, TARGET)


def test_recovery_curves_are_drawn_with_chance_and_marks():
    figure = plot_label_recovery({"raw": [0.1, 0.7, 0.2], "filtered": [0.1, 0.6, 0.8]}, chance=0.1, marks={"stop": 1})
    labels = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert labels == ["raw", "filtered", "chance"]
    np.testing.assert_array_equal(figure.axes[0].lines[1].get_ydata(), [0.1, 0.6, 0.8])
    assert "stop" in texts(figure)
    assert drawn(figure) > 5000
    with pytest.raises(ValueError, match="at least one curve"):
        plot_label_recovery({})


# -- supervisions -----------------------------------------------------------------------------------


def runs(count: int = 12) -> list[SupervisionRun]:
    names = ["", "", "LS", "KD", ""]
    return [SupervisionRun(names[n % 5], float(n), 0.9 - 0.01 * n**2, 0.01 * RNG.random()) for n in range(count)]


def test_the_relation_has_both_coefficients_and_a_plain_table():
    given = runs()
    relation = supervision_relation(given)
    assert relation.accuracy.coefficient == -1
    table = relation.table()
    assert list(table) == ["name", "distance", "accuracy", "calibration_error"]
    assert table["accuracy"] == [run.accuracy for run in given]
    expected = by_hand(np.array(table["distance"]), np.array(table["calibration_error"]))
    assert relation.calibration_error.coefficient == pytest.approx(expected)


def test_named_runs_stand_out_and_the_crowd_is_gray():
    relation = supervision_relation(runs())
    figure = plot_supervision(relation, distance="norm")
    left, right = figure.axes
    assert [left.get_ylabel(), right.get_ylabel(), left.get_xlabel()] == ["accuracy", "calibration error", "norm"]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["LS", "KD"]
    assert [len(group.get_offsets()) for group in left.collections] == [8, 2, 2]
    assert "-1.000" in left.get_title()
    assert drawn(figure) > 5000
    assert plot_supervision(supervision_relation([run._replace(name="") for run in runs()])).legends == []


# -- decomposition ----------------------------------------------------------------------------------


def test_traces_and_kernels_are_those_of_the_functions_on_tensors():
    path = RNG.dirichlet([1.0] * 3, size=(5, 4))
    np.testing.assert_allclose(softmax_traces(path), functional.softmax_jacobian_trace(torch.from_numpy(path)))
    x_o, x_u, kernel = RNG.normal(size=(2, 3)), RNG.normal(size=(9, 2, 3)), RNG.normal(size=(9, 3, 3))
    found = kernel_similarity(x_o, x_u, kernel)
    for place in range(9):
        cosine = (x_o * x_u[place]).sum() / math.sqrt((x_o**2).sum() * (x_u[place] ** 2).sum())
        assert found.similarity[place] == pytest.approx(cosine)
        assert found.trace[place] == pytest.approx(sum(kernel[place, k, k] for k in range(3)))
    assert found.correlation.coefficient == pytest.approx(by_hand(found.similarity, found.trace))
    assert list(found.table()) == ["similarity", "trace"]


def test_the_decomposition_has_a_column_a_sample_and_a_color_a_class():
    x_u, kernel = RNG.normal(size=(9, 3)), RNG.normal(size=(9, 3, 3))
    found = kernel_similarity(x_u[0], x_u, kernel, group=np.arange(9) % 3)
    figure = plot_decomposition(np.arange(4), {"easy": [0.6, 0.5, 0.2, 0.1]}, {"easy": found})
    upper, lower = figure.axes
    np.testing.assert_array_equal(upper.lines[0].get_ydata(), [0.6, 0.5, 0.2, 0.1])
    assert len(lower.collections) == 3
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["class 0", "class 1", "class 2"]
    assert drawn(figure) > 5000
    with pytest.raises(ValueError, match="same samples"):
        plot_decomposition(np.arange(4), {"easy": [0.6, 0.5, 0.2, 0.1]}, {"hard": found})


@pytest.mark.parametrize(
    ("x_o", "x_u", "kernel", "options", "message"),
    [
        (np.ones(2), np.ones((4, 3)), np.ones((4, 3, 3)), {}, "size of x_o, 2; got 3"),
        (np.ones(3), np.ones((4, 3)), np.ones((5, 3, 3)), {}, r"kernel must have the shape \[4, any, any\]"),
        (np.ones(3), np.zeros((4, 3)), np.ones((4, 3, 3)), {}, "zero everywhere"),
        (np.ones(3), np.ones((4, 3)), np.ones((4, 3, 3)), {"group": [1]}, "group must be 4 labels"),
    ],
)
def test_kernels_of_another_form_are_named(x_o, x_u, kernel, options, message):
    with pytest.raises(ValueError, match=message):
        kernel_similarity(x_o, x_u, kernel, **options)


# -- extras -----------------------------------------------------------------------------------------


def test_without_matplotlib_or_scipy_the_way_out_is_named(monkeypatch):
    relation = supervision_relation(runs())
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    monkeypatch.setitem(sys.modules, "scipy", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'lightning-flip\[report\]'"):
        plot_supervision(relation)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'lightning-flip\[report\]'"):
        rank_correlation([1, 2, 3], [1, 2, 3])
