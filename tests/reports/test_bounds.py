"""Bounds and p-values of the gate's limits, compared with their definitions."""

import itertools
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize, stats

from lightning_flip.reports import intervals


def tango_score(negative: float, positive: float, total: float, drop: float) -> float:
    """The score statistic, with the likelihood under this drop maximized numerically."""

    def loss(better: float) -> float:
        chances = np.array([better + drop, better, 1 - 2 * better - drop])
        counts = np.array([negative, positive, total - negative - positive])
        with np.errstate(divide="ignore", invalid="ignore"):
            return -float(np.where(counts > 0, counts * np.log(np.maximum(chances, 0)), 0).sum())

    low, high = max(0.0, -drop), (1 - drop) / 2
    inside = optimize.minimize_scalar(loss, bounds=(low, high), method="bounded", options={"xatol": 1e-13}).x
    better = min((inside, low, high), key=loss)
    return (negative - positive - total * drop) / np.sqrt(total * (2 * better + drop - drop**2))


PAIRS = [(30, 10, 1000), (3, 0, 50), (0, 3, 50), (10, 30, 100), (5, 5, 20), (0, 0, 44), (1, 0, 44), (20, 0, 20)]


@pytest.mark.parametrize(("negative", "positive", "total"), PAIRS)
@pytest.mark.parametrize("error", [0.05, 0.001])
def test_the_drop_is_bounded_by_the_score_and_by_flips_in_one_direction(
    negative: int, positive: int, total: int, error: float
) -> None:
    drop, quantile = (negative - positive) / total, stats.norm.isf(error)
    upper, lower = 1.0, -1.0
    if drop < 1:
        upper = optimize.brentq(lambda d: tango_score(negative, positive, total, d) + quantile, drop + 1e-9, 1 - 1e-12)
    if drop > -1:
        lower = optimize.brentq(lambda d: tango_score(negative, positive, total, d) - quantile, -1 + 1e-12, drop - 1e-9)
    # Clopper and Pearson's bounds of a rate of flips in one direction.
    more, rest = abs(negative - positive), total - abs(negative - positive)
    most = 1.0 if rest == 0 else stats.beta.isf(error, more + 1, rest)
    least = 0.0 if more == 0 else stats.beta.ppf(error, more, rest + 1)
    upper, lower = max(upper, most if drop >= 0 else -least), min(lower, least if drop > 0 else -most)
    assert intervals.paired_difference_upper(negative, positive, total, error) == pytest.approx(upper, abs=1e-6)
    assert intervals.paired_difference_lower(negative, positive, total, error) == pytest.approx(lower, abs=1e-6)


def test_tango_agrees_with_a_published_interval() -> None:
    """Response before and after consolidation therapy (Cavo et al., 2012): 6 and 16 of 161 patients changed.

    From the examples of Fagerland, Lydersen and Laake, "Statistical Analysis of Contingency Tables" (2017), chapter 8,
    and the tests of its R package, contingencytables.
    """
    lower, upper = (
        bound(6, 16, 161, 0.025) for bound in (intervals.paired_difference_lower, intervals.paired_difference_upper)
    )
    assert (lower.round(4), upper.round(4)) == (-0.1240, -0.0054)


@pytest.mark.parametrize("limit", [-1.0, -0.2, 0.0, 0.01, 0.3, 1.0])
def test_p_values_of_a_drop_are_the_errors_of_its_bounds(limit: float) -> None:
    negative, positive, total = np.array([[*pair] for pair in PAIRS]).T
    above = intervals.paired_difference_p_above(negative, positive, total, limit)
    below = intervals.paired_difference_p_below(negative, positive, total, limit)
    for error in (0.2, 0.05, 0.001):
        lower = intervals.paired_difference_lower(negative, positive, total, error)
        upper = intervals.paired_difference_upper(negative, positive, total, error)
        far = np.abs(lower - limit) > 1e-9
        np.testing.assert_array_equal((above < error)[far], (lower > limit)[far])
        far = np.abs(upper - limit) > 1e-9
        np.testing.assert_array_equal((below < error)[far], (upper < limit)[far])


def test_samples_that_say_nothing_about_a_drop_decide_nothing() -> None:
    assert intervals.paired_difference_p_above([0, 0], 0, [0, 50], 0.0).tolist() == [1, 1]
    assert intervals.paired_difference_upper(0, 0, 0) == 1
    assert intervals.paired_difference_lower(0, 0, 0) == -1
    assert intervals.paired_difference_p_below(50, 0, 50, 1.0) == 1
    assert intervals.paired_difference_p_below(49, 0, 50, 1.0) == 0


def test_a_drop_of_clusters_is_that_of_fewer_samples() -> None:
    whole = intervals.paired_difference_upper(6, 2, 100)
    assert intervals.paired_difference_upper(60, 20, 1000, effective=100) == pytest.approx(whole)
    assert intervals.paired_difference_p_above(60, 20, 1000, 0.01, effective=100) == pytest.approx(
        intervals.paired_difference_p_above(6, 2, 100, 0.01)
    )


@pytest.mark.parametrize("limit", [0.0, 0.01, 0.2, 1.0])
def test_binomial_p_values_are_tails(limit: float) -> None:
    for total in (1, 7, 300):
        for count in {0, 1, 3, total} - ({3} if total < 3 else set()):
            above, below = (
                intervals.binomial_p_above(count, total, limit),
                intervals.binomial_p_below(count, total, limit),
            )
            assert above == pytest.approx(stats.binom.sf(count - 1, total, limit), abs=1e-12)
            assert below == pytest.approx(stats.binom.cdf(count, total, limit), abs=1e-12)


def test_binomial_p_values_of_clusters_continue_the_tail() -> None:
    assert intervals.binomial_p_below(0, 1000, 0.03, effective=100) == pytest.approx(0.97**100)
    assert intervals.binomial_p_above(20, 1000, 0.01, effective=100) == pytest.approx(stats.binom.sf(1, 100, 0.01))
    assert intervals.clopper_pearson_upper(20, 1000, effective=100) == pytest.approx(stats.beta.isf(0.05, 3, 98))
    # 15 of 1000 in 100 clusters: between 1 and 2 of 100.
    bounds = [float(intervals.clopper_pearson_upper(count, 1000, effective=100)) for count in (10, 15, 20)]
    assert bounds[0] < bounds[1] < bounds[2]


def test_relative_nfr_divides_the_bounds_of_both_rates() -> None:
    high = stats.beta.isf(0.025, 31, 70) / stats.beta.ppf(0.025, 900, 101)
    low = stats.beta.ppf(0.025, 30, 71) / stats.beta.isf(0.025, 901, 100)
    assert intervals.relative_nfr_upper(30, 100, 900, 1000) == pytest.approx(high)
    assert intervals.relative_nfr_lower(30, 100, 900, 1000) == pytest.approx(low)
    assert intervals.relative_nfr_upper(0, 0, 0, 50) == np.inf
    assert intervals.relative_nfr_lower([0, 0], [0, 5], [0, 5], 50).tolist() == [0, 0]


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 30), st.integers(0, 30), st.integers(0, 200), st.floats(0.05, 2))
def test_p_values_of_relative_nfr_are_the_errors_of_its_bounds(
    negative: int, both_wrong: int, others: int, limit: float
) -> None:
    counts = negative, negative + both_wrong, negative + others, negative + both_wrong + others + 1
    above, below = intervals.relative_nfr_p_above(*counts, limit), intervals.relative_nfr_p_below(*counts, limit)
    for p, bound in ((above, intervals.relative_nfr_lower), (below, intervals.relative_nfr_upper)):
        if 1e-12 < p < 0.999:
            assert bound(*counts, float(p)) == pytest.approx(limit, rel=1e-6)
    assert max(above, below) == 1


def wealth(values: np.ndarray, mean: float) -> float:
    """Of a gambler who spreads money over bets on values in [0, 1] below `mean`, in plain loops."""
    bets = int(np.ceil(np.log2(len(values) + 1))) + 2
    shares = [1 / (k + 1) for k in range(bets)]
    total = 0.0
    for k, share in enumerate(shares):
        total += share / sum(shares) * float(np.prod(1 + 2.0**-k * (mean - values) / (1 - mean)))
    return total


def test_a_mean_is_tested_by_betting() -> None:
    values = np.random.default_rng(0).integers(0, 65, 80) / 64 * 0.5  # on the points that values are spread to
    for mean in (0.3, 0.4, 0.9):
        expected = min(1.0, 1 / wealth(values, mean))
        assert intervals.mean_p_below(values * 6 - 3, mean * 6 - 3, -3, 3) == pytest.approx(expected)
        assert intervals.mean_p_above(3 - values * 6, 3 - mean * 6, -3, 3) == pytest.approx(expected)
    upper = intervals.mean_upper(values * 6 - 3, -3, 3)
    assert intervals.mean_p_below(values * 6 - 3, upper, -3, 3) == pytest.approx(0.05)
    assert intervals.mean_lower(3 - values * 6, -3, 3) == pytest.approx(-upper)


def test_spreading_values_to_points_only_widens_the_bounds_a_little() -> None:
    values = np.random.default_rng(1).beta(2, 5, 200)
    exact = min(1.0, 1 / wealth(values, 0.35))
    assert exact <= intervals.mean_p_below(values, 0.35, 0, 1) <= exact * 1.001


def test_bounds_of_a_mean_do_not_depend_on_the_order_and_stay_in_range() -> None:
    values = np.random.default_rng(2).normal(0, 0.1, 300).clip(-1, 1)
    assert intervals.mean_upper(values, -1, 1) == pytest.approx(intervals.mean_upper(np.sort(values), -1, 1), rel=1e-12)
    assert intervals.mean_upper(np.ones(50), 0, 1) == 1
    assert intervals.mean_lower(np.zeros(50), 0, 1) == 0
    assert 0 < intervals.mean_upper(np.zeros(500), 0, 1) < 0.01
    assert intervals.mean_p_below([0.5, 1.0], 1.0, 0, 1) == 0
    assert intervals.mean_p_below([1.0, 1.0], 1.0, 0, 1) == 1
    assert intervals.mean_upper(np.repeat(values, 10), -1, 1, effective=300) == pytest.approx(
        intervals.mean_upper(values, -1, 1), abs=2e-3
    )


def holm_by_definition(p: list[float], error: float) -> list[bool]:
    """Reject the smallest p-values one after the other, until one is over error / (the number that is left)."""
    rejected = [False] * len(p)
    for step, place in enumerate(sorted(range(len(p)), key=lambda place: p[place])):
        if p[place] > error / (len(p) - step):
            break
        rejected[place] = True
    return rejected


@settings(deadline=None)
@given(st.lists(st.sampled_from([0.0, 0.001, 0.01, 0.013, 0.02, 0.026, 0.04, 0.3, 1.0]), min_size=1, max_size=8))
def test_holm_rejects_step_by_step(p: list[float]) -> None:
    adjusted = intervals.holm(p)
    for error in (0.0499, 0.1001, 0.011):
        assert (adjusted <= error).tolist() == holm_by_definition(p, error)
    assert ((adjusted >= p) & (adjusted <= 1)).all()


def test_holm_of_many_groups_keeps_their_order() -> None:
    p = np.random.default_rng(0).random(173_000)
    adjusted = intervals.holm(p)
    assert (adjusted[np.argsort(p)] == np.sort(adjusted)).all()
    assert intervals.holm([]).shape == (0,)


def test_effective_samples_count_pairs_of_samples_in_one_cluster() -> None:
    rng = np.random.default_rng(0)
    clusters, groups = rng.integers(0, 9, 200), rng.integers(-1, 3, 200)
    effective = intervals.effective_samples(clusters, groups, 4)
    for group in range(3):
        inside = clusters[groups == group]
        same = sum(one == other for one, other in itertools.product(inside, inside))
        assert effective[group] == pytest.approx(len(inside) ** 2 / same)
    assert effective[3] == 0
    assert intervals.effective_samples(np.arange(50)) == 50
    assert intervals.effective_samples(np.zeros(50, int)) == 1


def test_the_design_effect_compares_variances() -> None:
    rng = np.random.default_rng(1)
    clusters = np.concatenate([np.repeat(np.arange(30), rng.integers(1, 9, 30)), [3, 3]])
    hits = (rng.random(30) < 0.3)[clusters] & (rng.random(len(clusters)) < 0.8)
    effective, with_hit = intervals.design_effect_samples(hits, clusters, error=0.02)
    samples, rate = len(hits), hits.mean()
    residuals = [(hits[clusters == cluster] - rate).sum() for cluster in range(30)]
    variance = 30 / 29 * sum(value**2 for value in residuals) / samples**2
    expected = rate * (1 - rate) / variance * (stats.t.isf(0.02, samples - 1) / stats.t.isf(0.02, 29)) ** 2
    assert effective[0] == pytest.approx(expected)
    found = np.array([hits[clusters == cluster].sum() for cluster in range(30)])
    assert with_hit[0] == pytest.approx(found.sum() ** 2 / (found**2).sum())


def test_the_design_effect_without_variance_is_that_of_whole_clusters() -> None:
    clusters = np.repeat(np.arange(10), 5)
    for hits in (np.zeros(50, bool), np.ones(50, bool)):
        assert intervals.design_effect_samples(hits, clusters)[0] == 10
    assert intervals.design_effect_samples(np.arange(5) < 2, np.zeros(5, int))[0] == 1
    # The same rate in every cluster: no more than all samples.
    assert intervals.design_effect_samples(np.arange(50) % 5 == 0, clusters)[0] == 50


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: intervals.clopper_pearson_upper(1, 10, effective=11), "effective must be above 0 .* got 11 for 10"),
        (lambda: intervals.binomial_p_above(1, 10, 0.1, effective=0), "effective must be above 0 .* got 0 for 10"),
        (lambda: intervals.binomial_p_above(1, 10, 1.1), r"limit must be in \[0, 1\], got 1.1"),
        (lambda: intervals.paired_difference_upper(6, 5, 10), "11 of 10"),
        (lambda: intervals.paired_difference_upper(-1, 5, 10), "-1 of 4"),
        (lambda: intervals.paired_difference_p_above(1, 5, 10, 2), r"limit must be in \[-1, 1\], got 2"),
        (lambda: intervals.paired_difference_lower(1, 5, 10, 0.5), "error must be between 0 and 0.5"),
        (lambda: intervals.relative_nfr_p_above(1, 5, 10, 20, -0.1), "limit must be in"),
        (lambda: intervals.mean_upper([], 0, 1), "at least one number, all in .* got none"),
        (lambda: intervals.mean_upper([0.5, np.nan, 2], 0, 1), "got 2 that are not, e.g. nan"),
        (lambda: intervals.mean_upper([0.5], 1, 1), "high must be above low"),
        (lambda: intervals.mean_upper([0.5], 0, 1, effective=2), "effective must be above 0 and at most the 1 samples"),
        (lambda: intervals.mean_p_below([0.5], 3, 0, 1), r"limit must be in \[0, 1\], got 3"),
        (lambda: intervals.holm([0.1, 1.5]), "p must be a list of numbers"),
        (lambda: intervals.effective_samples(np.array([0.5])), "clusters must be a list of whole numbers from 0"),
        (lambda: intervals.effective_samples(np.array([-1])), "clusters must be a list of whole numbers from 0"),
        (lambda: intervals.effective_samples(np.array([1]), np.array([1, 2])), "as long as clusters, 1"),
        (lambda: intervals.effective_samples(np.array([1]), np.array([2]), 2), "groups must be below count = 2, got 2"),
    ],
)
def test_wrong_arguments_are_named(call: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
