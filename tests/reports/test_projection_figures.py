"""Features on the plane of three class vectors: against least squares, and what does not change them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightning_flip.reports import (
    ClassProjection,
    class_plane,
    class_projection,
    plot_class_projection,
    project_features,
)

SEEDS = st.integers(0, 10_000)
WIDTHS = st.integers(2, 12)


def draw(seed: int, width: int, count: int = 20) -> tuple[np.ndarray, np.ndarray, np.random.Generator]:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(count, width)) * rng.uniform(0.1, 30), rng.normal(size=(3, width)), rng


def distances(points: np.ndarray) -> np.ndarray:
    return np.linalg.norm(points[:, None] - points, axis=2)


@given(SEEDS, WIDTHS)
def test_the_basis_is_orthonormal_and_reaches_every_class_vector(seed, width):
    _, vectors, _ = draw(seed, width)
    basis = class_plane(vectors)
    np.testing.assert_allclose(basis @ basis.T, np.eye(2), atol=1e-12)
    for vector in vectors[1:]:
        side = vector - vectors[0]
        np.testing.assert_allclose(basis.T @ (basis @ side), side, atol=1e-9)


@given(SEEDS, WIDTHS)
def test_the_basis_of_a_flat_triangle_is_orthonormal_too(seed, width):
    _, _, rng = draw(seed, width)
    along, across = np.linalg.qr(rng.normal(size=(width, 2)))[0].T
    basis = class_plane([0 * along, 3 * along, 2 * along + 1e-4 * across])
    np.testing.assert_allclose(basis @ basis.T, np.eye(2), atol=1e-14)


@given(SEEDS, WIDTHS)
def test_points_are_the_nearest_ones_on_the_plane(seed, width):
    features, vectors, _ = draw(seed, width)
    points = project_features(features, vectors)
    sides = (vectors[1:] - vectors[0]).T
    for feature, point in zip(features, points, strict=True):
        share = np.linalg.lstsq(sides, feature - vectors[0], rcond=None)[0]
        nearest = vectors[0] + sides @ share
        back = vectors.mean(axis=0) + point @ class_plane(vectors)
        np.testing.assert_allclose(back, nearest, atol=1e-7 * (1 + np.abs(nearest).max()))


@given(SEEDS, WIDTHS)
def test_what_lies_on_the_plane_is_reproduced_with_its_distances(seed, width):
    _, vectors, rng = draw(seed, width)
    shares = rng.normal(size=(15, 3))
    shares /= shares.sum(axis=1, keepdims=True)
    features = shares @ vectors
    points = project_features(features, vectors)
    scale = 1 + np.abs(features).max()
    np.testing.assert_allclose(vectors.mean(axis=0) + points @ class_plane(vectors), features, atol=1e-9 * scale)
    np.testing.assert_allclose(distances(points), distances(features), atol=1e-9 * scale)


@given(SEEDS, WIDTHS)
def test_a_rotation_of_the_space_or_another_origin_changes_nothing(seed, width):
    features, vectors, rng = draw(seed, width)
    rotation = np.linalg.qr(rng.normal(size=(width, width)))[0]
    shift = rng.normal(size=width)
    points = project_features(features, vectors)
    np.testing.assert_allclose(project_features(features @ rotation, vectors @ rotation), points, atol=1e-7)
    np.testing.assert_allclose(project_features(features + shift, vectors + shift), points, atol=1e-7)


@given(SEEDS, WIDTHS)
def test_what_stands_upright_on_the_plane_does_not_count(seed, width):
    features, vectors, rng = draw(seed, width)
    basis = class_plane(vectors)
    away = rng.normal(size=features.shape)
    upright = away - away @ basis.T @ basis
    points = project_features(features, vectors)
    np.testing.assert_allclose(project_features(features + upright, vectors), points, atol=1e-9)
    assert (distances(points) <= distances(features) + 1e-9).all()


def test_the_class_vectors_are_a_triangle_around_the_origin():
    _, vectors, _ = draw(0, 8)
    places = project_features(vectors, vectors)
    np.testing.assert_allclose(places.mean(axis=0), [0, 0], atol=1e-12)
    assert places[0, 1] == pytest.approx(places[1, 1])  # the first side is horizontal, to the right
    assert places[0, 0] < places[1, 0]
    assert places[2, 1] > places[0, 1]


@pytest.mark.parametrize(
    ("features", "vectors", "message"),
    [
        (np.ones((2, 4)), np.ones((2, 4)), r"class_vectors must have the shape \[3, any\]; got \[2, 4\]"),
        (np.ones((2, 4)), np.eye(3), r"features must have the shape \[any, 3\]; got \[2, 4\]"),
        (np.ones(3), np.eye(3), r"features must have the shape \[any, 3\]; got \[3\]"),
        (np.ones((0, 3)), np.eye(3), r"features must have the shape"),
        (np.full((2, 3), np.nan), np.eye(3), "features must be finite"),
        (np.ones((2, 3)), np.full((3, 3), np.inf), "class_vectors must be finite"),
        (np.ones((2, 3)), np.ones((3, 3)), "are on one line"),
        (np.ones((2, 3)), [[0, 0, 0], [0, 0, 0], [1, 2, 3]], "are on one line"),
        (np.ones((2, 3)), [[0, 0, 0], [1, 2, 3], [1, 2, 3]], "are on one line"),
        (np.ones((2, 3)), [[0, 0, 0], [1e-9, 0, 0], [1, 2, 3]], "are on one line"),
        (np.ones((2, 3)), np.outer([0.1, 0.7, 0.3], [1, 2, 3]), "are on one line"),
        (np.ones((2, 1)), [[1.0], [2.0], [4.0]], "in a space of one dimension they always do"),
    ],
)
def test_what_has_no_plane_is_refused(features, vectors, message):
    with pytest.raises(ValueError, match=message):
        project_features(features, vectors)


def test_a_line_is_told_in_any_unit():
    line = np.float32(np.outer([0.1, 0.7, 0.3], [1, 2, 3]))
    for unit in (1e-6, 1.0, 1e6):
        with pytest.raises(ValueError, match="are on one line"):
            class_plane(line * np.float32(unit))
        assert class_plane(np.eye(3) * unit).shape == (2, 3)


# -- labels -----------------------------------------------------------------------------------------


def found(count: int = 30, noisy: bool = True, names: tuple[str, ...] = ("cat", "dog", "owl")) -> ClassProjection:
    features, vectors, rng = draw(1, 8, count)
    label = rng.choice([4, 7, 9], count)
    truth = np.where(rng.random(count) < 0.4, rng.choice([2, 4, 7, 9], count), label) if noisy else None
    return class_projection(features, vectors, label, truth, classes=(4, 7, 9), names=names)


def test_labels_are_positions_and_the_table_names_them():
    vectors = np.eye(3)
    label, truth = [7, 4, 9, 7], [7, 9, 2, 4]
    features = np.arange(12.0).reshape(4, 3) ** 2
    rows = class_projection(features, vectors, label, truth, classes=(4, 7, 9), names=("cat", "dog", "owl"))
    assert rows.label.tolist() == [1, 0, 2, 1]
    assert rows.true_label.tolist() == [1, 2, -1, 0]
    assert rows.is_noisy.tolist() == [False, True, True, True]
    np.testing.assert_array_equal(rows.points, project_features(features, vectors))
    np.testing.assert_array_equal(rows.vectors, project_features(vectors, vectors))
    table = rows.table()
    assert list(table) == ["x", "y", "label", "true_label", "noisy"]
    assert table["label"] == ["dog", "cat", "owl", "dog"]
    assert table["true_label"] == ["dog", "owl", "another class", "cat"]
    assert [type(column[0]) for column in table.values()] == [float, float, str, str, bool]


def test_labels_without_known_truth_are_right():
    rows = class_projection(np.ones((2, 3)), np.eye(3), [0, 2])
    assert not rows.is_noisy.any()
    assert rows.names == ("0", "1", "2")


@pytest.mark.parametrize(
    ("label", "truth", "options", "message"),
    [
        ([0, 3], [0, 1], {}, r"label must be one of \[0, 1, 2\], got 3"),
        ([0], [0, 1], {}, r"label must have the shape \[2\]; got \[1\]"),
        ([0, 1], [0], {}, r"true_label must have the shape \[2\]; got \[1\]"),
        ([0, 1], [0, -1], {}, "true_label must not be negative"),
        ([0.0, 1.0], [0, 1], {}, "label must be integers"),
        ([0, 1], [0, 1], {"classes": (0, 1)}, "classes must be three different numbers"),
        ([0, 1], [0, 1], {"classes": (0, 1, 1)}, "classes must be three different numbers"),
        ([0, 1], [0, 1], {"names": ("a", "b")}, "names three"),
    ],
)
def test_labels_of_another_form_are_named(label, truth, options, message):
    with pytest.raises(ValueError, match=message):
        class_projection(np.ones((2, 3)), np.eye(3), label, truth, **options)


# -- the figure -------------------------------------------------------------------------------------


def test_every_sample_is_drawn_once_and_wrong_ones_are_black_on_top():
    rows = found()
    (axes,) = plot_class_projection(rows).axes
    assert axes.get_aspect() == 1
    seen = 0
    for place in range(3):
        right, wrong = axes.collections[2 * place : 2 * place + 2]
        np.testing.assert_allclose(right.get_offsets(), rows.points[(rows.label == place) & ~rows.is_noisy])
        np.testing.assert_allclose(wrong.get_offsets(), rows.points[(rows.label == place) & rows.is_noisy])
        assert wrong.get_facecolor()[0, :3].tolist() == [0, 0, 0]
        assert right.get_facecolor()[0, :3].tolist() != [0, 0, 0]
        assert wrong.zorder > right.zorder
        assert len(right.get_paths()[0].vertices) == len(wrong.get_paths()[0].vertices)  # the label's shape
        seen += len(right.get_offsets()) + len(wrong.get_offsets())
    assert seen == len(rows.points)
    assert len({len(axes.collections[place].get_paths()[0].vertices) for place in (0, 2, 4)}) == 3
    for line, vector in zip(axes.lines, rows.vectors, strict=True):
        (start, end) = line.get_xydata()
        assert start.tolist() == [0, 0]
        np.testing.assert_allclose(end / np.linalg.norm(end), vector / np.linalg.norm(vector))


def test_the_legend_tells_of_wrong_labels_where_there_are_any():
    def legend(rows: ClassProjection) -> list[str]:
        return [text.get_text() for text in plot_class_projection(rows).legends[0].get_texts()]

    assert legend(found(noisy=False)) == ["cat", "dog", "owl", "direction of a class vector"]
    assert legend(found()) == ["cat", "dog", "owl", "direction of a class vector", "wrong label"]


@pytest.mark.parametrize(("number", "across"), [(1, 3), (2, 1), (6, 3), (6, 6)])
def test_names_are_readable(number, across, readable):
    names = ["standard", "smoothing " * 9, "$5 & $6", "_hidden", "BACKWARD " * 9, "forward"][:number]
    rows = found(names=("a class with a name that needs a lot of room in every figure", "$dog$", "_owl"))
    readable(plot_class_projection(dict.fromkeys(names, rows), columns=across))


def test_one_sample_and_many_are_drawn(readable):
    readable(plot_class_projection(found(1)))
    readable(plot_class_projection(found(5000)))


def test_other_things_are_refused():
    with pytest.raises(ValueError, match="at least one ClassProjection"):
        plot_class_projection({})
    with pytest.raises(ValueError, match="same three classes, cat, dog, owl"):
        plot_class_projection({"a": found(), "b": found(names=("cat", "owl", "dog"))})
    with pytest.raises(TypeError, match="must be a ClassProjection"):
        plot_class_projection(np.ones((3, 2)))
