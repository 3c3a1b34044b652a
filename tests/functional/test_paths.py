"""Learning paths against plain loops, and what has to hold for any of them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from lightning_flip.functional import barycentric, base_difficulty, filter_path, three_axes, zigzag_score
from tests.oracles import paths as oracle

F64 = torch.float64


def distributions(*shape: int, seed: int = 0, concentration: float = 1.0) -> torch.Tensor:
    rng = np.random.default_rng(seed)
    return torch.from_numpy(rng.dirichlet([concentration] * shape[-1], size=shape[:-1]))


@st.composite
def paths_and_targets(draw: st.DrawFn) -> tuple[torch.Tensor, torch.Tensor]:
    steps, samples, classes = draw(st.integers(1, 6)), draw(st.integers(1, 4)), draw(st.integers(2, 5))
    weights = draw(hnp.arrays(np.float64, (steps, samples, classes), elements=st.floats(0.001, 1)))
    target = draw(hnp.arrays(np.int64, samples, elements=st.integers(0, classes - 1)))
    return torch.from_numpy(weights / weights.sum(axis=2, keepdims=True)), torch.from_numpy(target)


@settings(deadline=None, max_examples=50)
@given(paths_and_targets(), st.floats(0.001, 1))
def test_a_filtered_path_is_the_plain_loop(drawn, alpha):
    path, _ = drawn
    got = filter_path(path, alpha)
    np.testing.assert_allclose(got, oracle.filtered(path.numpy(), alpha), rtol=0, atol=1e-12)
    torch.testing.assert_close(got.sum(dim=2), torch.ones(got.shape[:2], dtype=F64))


@pytest.mark.parametrize("shape", [(7,), (7, 3), (4, 2, 3), (1, 2, 3)])
def test_a_path_of_any_shape(shape):
    path = torch.rand(*shape, dtype=F64, generator=torch.Generator().manual_seed(0))
    np.testing.assert_allclose(filter_path(path, 0.3), oracle.filtered(path.numpy(), 0.3), rtol=0, atol=1e-12)


def test_alpha_one_is_the_path_and_the_first_visit_is_copied():
    path = distributions(5, 4, 3)
    assert filter_path(path, 1.0).equal(path)
    assert filter_path(path, 0.01)[0].equal(path[0])


def test_an_initial_pass_is_one_point_more_in_front():
    before, path = distributions(1, 4, 3, seed=1), distributions(5, 4, 3)
    filtered = filter_path(torch.cat([before, path]), 0.05)[1:]
    torch.testing.assert_close(filtered[0], 0.95 * before[0] + 0.05 * path[0])


def test_a_twentieth_unless_told():
    path = distributions(5, 4, 3)
    assert filter_path(path).equal(filter_path(path, 0.05))


def test_the_path_itself_is_left_alone_and_half_precision_widened():
    path = distributions(5, 4, 3).half()
    before = path.clone()
    assert filter_path(path).dtype == torch.float32
    assert path.equal(before)


@pytest.mark.parametrize("alpha", [0.0, -0.1, 1.01, float("nan")])
def test_an_alpha_out_of_range_is_named(alpha):
    with pytest.raises(ValueError, match=r"alpha must be in \(0, 1\]"):
        filter_path(distributions(2, 1, 3), alpha)


@settings(deadline=None, max_examples=50)
@given(paths_and_targets())
def test_zigzag_is_the_plain_loop_and_bounded_by_the_length(drawn):
    path, target = drawn
    got = zigzag_score(path, target)
    np.testing.assert_allclose(got, oracle.zigzag(path.numpy(), target.numpy()), rtol=0, atol=1e-9)
    assert bool((got >= 0).all())
    assert bool((got <= len(path) + 1e-9).all())


@settings(deadline=None, max_examples=50)
@given(paths_and_targets(), st.integers(1, 30))
def test_a_straight_path_to_the_label_has_half_its_length_times_the_largest_other_mass(drawn, steps):
    start, target = drawn[0][0], drawn[1]
    label = torch.nn.functional.one_hot(target, start.shape[1]).double()
    share = torch.linspace(0, 1, steps + 1, dtype=F64)[:, None, None]
    straight = (1 - share) * start + share * label
    largest = start.masked_fill(label.bool(), -1).amax(dim=1)
    torch.testing.assert_close(zigzag_score(straight, target), (steps + 1) / 2 * largest)


def test_a_detour_scores_more_than_the_straight_way():
    start, label, away = (torch.tensor([[p]], dtype=F64) for p in ([0.4, 0.3, 0.3], [1.0, 0, 0], [0.1, 0.8, 0.1]))
    straight = torch.cat([start, (start + label) / 2, label])
    detour = torch.cat([start, away, label])
    assert zigzag_score(detour, torch.tensor([0])) > zigzag_score(straight, torch.tensor([0])) + 0.5


@settings(deadline=None, max_examples=50)
@given(paths_and_targets())
def test_difficulty_is_the_plain_loop_and_at_most_the_root_of_two(drawn):
    probs, target = drawn[0][0], drawn[1]
    got = base_difficulty(probs, target)
    np.testing.assert_allclose(got, oracle.difficulty(probs.numpy(), target.numpy()), rtol=0, atol=1e-12)
    assert bool((got <= 2**0.5 + 1e-12).all())


def test_the_corners_and_the_middle_of_the_triangle():
    corners = barycentric(torch.eye(3, dtype=F64))
    np.testing.assert_allclose(corners, [[0, 0], [1, 0], [0.5, 3**0.5 / 2]], rtol=0, atol=1e-15)
    sides = (corners - corners.roll(1, dims=0)).norm(dim=1)
    torch.testing.assert_close(sides, torch.ones(3, dtype=F64))
    middle = barycentric(torch.full((3,), 1 / 3, dtype=F64))
    torch.testing.assert_close(middle, torch.tensor([0.5, 3**0.5 / 6], dtype=F64))
    torch.testing.assert_close((middle - corners).norm(dim=1), torch.full((3,), 3**-0.5, dtype=F64))


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 2**31), st.floats(0, 1))
def test_the_triangle_is_linear(seed, share):
    one, other = distributions(2, 5, 3, seed=seed)
    between = barycentric(share * one + (1 - share) * other)
    torch.testing.assert_close(between, share * barycentric(one) + (1 - share) * barycentric(other))
    for row, probs in zip(barycentric(one), one, strict=True):
        np.testing.assert_allclose(row, oracle.corner_sum(probs.numpy()), rtol=0, atol=1e-12)


@settings(deadline=None, max_examples=50)
@given(paths_and_targets())
def test_three_axes_are_the_plain_loop_and_sum_to_one(drawn):
    path, target = drawn
    got, other = three_axes(path, target)
    expected, _ = oracle.axes_of(path.numpy(), target.numpy())
    torch.testing.assert_close(got.sum(dim=2), torch.ones(got.shape[:2], dtype=F64))
    assert bool((other != target).all())
    # Two classes with sums that differ by rounding may be named the other way round; their sums agree.
    np.testing.assert_allclose(got.sum(dim=0), expected.sum(axis=0), rtol=0, atol=1e-9)


def test_the_other_class_is_one_for_the_whole_path():
    path = torch.tensor([[[0.2, 0.7, 0.05, 0.05]], [[0.2, 0.1, 0.6, 0.1]], [[0.2, 0.1, 0.6, 0.1]]])
    axes, other = three_axes(path, torch.tensor([0]))
    assert other.tolist() == [2]
    torch.testing.assert_close(axes[:, 0, 1], torch.tensor([0.05, 0.6, 0.6]))
