"""Short forms of `make simulate`: what docs/gate_statistics.md claims about error rates and coverage."""

import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from lightning_flip.reports.intervals import MIN_HIT_CLUSTERS, binomial_p_above, holm, mean_p_above, mean_p_below

SIMULATIONS = Path(__file__).parents[2] / "docs" / "simulations"


@pytest.fixture(scope="module")
def limits() -> ModuleType:
    return simulation("limits")


@pytest.fixture(scope="module")
def clusters() -> ModuleType:
    return simulation("clusters")


def simulation(name: str) -> ModuleType:
    sys.path.insert(0, str(SIMULATIONS))
    try:
        return __import__(name)
    finally:
        sys.path.remove(str(SIMULATIONS))


def test_shares_decide_wrongly_with_at_most_the_error(limits: ModuleType) -> None:
    for _, _, passed, failed, _ in limits.rates():
        assert max(float(passed), float(failed)) <= 0.05


def test_drops_decide_wrongly_with_little_more_than_the_error(limits: ModuleType) -> None:
    errors = np.array([limits.drop_errors(*setting) for setting in limits.DROPS if setting[1] <= 1000])
    assert errors[:, :2].max() < 0.061
    assert errors[:, 2:4].max() > 0.085  # of Tango's score alone
    assert errors[:, 4].max() > 0.2  # of Wald's


def test_relative_nfr_decides_wrongly_with_at_most_the_error(limits: ModuleType) -> None:
    rows = limits.ratios(5000)
    assert max(float(rate.split()[0]) for row in rows for rate in row[4:6]) < 0.05


def test_means_decide_wrongly_with_at_most_the_error(limits: ModuleType) -> None:
    rng = np.random.default_rng(0)
    for low, high, mean, draw in limits.mean_settings(rng).values():
        drawn = [draw(200) for _ in range(150)]
        assert np.mean([one.mean() for one in drawn]) == pytest.approx(mean, abs=4 * np.std(drawn) / 150)
        for p in (mean_p_below, mean_p_above):
            assert np.mean([p(one, mean, low, high) <= 0.05 for one in drawn]) <= 0.05


def test_a_family_fails_wrongly_with_at_most_the_error(limits: ModuleType) -> None:
    rng = np.random.default_rng(0)
    rates = np.where(np.arange(50) < 25, 0.2, 0.01)
    adjusted = np.stack([holm(p) for p in binomial_p_above(rng.binomial(500, rates, (2000, 50)), 500, 0.01)])
    assert (adjusted[:, :25] < 0.05).all()
    assert 0.02 < (adjusted[:, 25:] < 0.05).any(1).mean() < 0.065


def test_clusters_decide_wrongly_with_at_most_the_error(clusters: ModuleType) -> None:
    for limit, number in clusters.RATES:
        sizes = np.full(number, 10)
        assert max(clusters.rate_errors(sizes, limit, 0.5, clusters.kish(sizes))) < 0.02
        assert min(clusters.rate_errors(sizes, limit, 0.5, 10.0 * number)) > 0.2  # as if independent


def test_clusters_of_unequal_sizes_need_more_than_their_number(clusters: ModuleType) -> None:
    sizes = np.where(np.arange(300) % 10 == 0, 50, 2)
    assert max(clusters.rate_errors(sizes, 0.05, 1.0, clusters.kish(sizes))) < 0.05
    assert min(clusters.rate_errors(sizes, 0.05, 1.0, 300.0)) > 0.18


def test_hits_of_all_clusters_have_the_mean_and_variance_of_their_sum(clusters: ModuleType) -> None:
    sizes = np.array([10, 10, 3])
    chances = clusters.hits_of_all(sizes, 0.2, 0.5)
    assert chances.sum() == pytest.approx(1)
    counts = np.arange(24)
    assert chances @ counts == pytest.approx(23 * 0.2)
    variance = (sizes * 0.16 * (1 + (sizes - 1) * 0.5)).sum()
    assert chances @ (counts - 23 * 0.2) ** 2 == pytest.approx(variance)


def test_the_design_effect_holds_its_level_from_the_constant_on(clusters: ModuleType) -> None:
    def errors(setting: tuple[object, ...], least: int) -> list[float]:
        found, decided = clusters.design_decisions(*setting, draws=500)
        return [float(np.where(found >= least, decided[side], decided[side + 2]).mean()) for side in (0, 1)]

    few, many = (0.01, 100, 0.5, (10,)), (0.05, 1000, 0.5, (10,))
    assert errors(few, 0)[0] > 0.08
    assert errors(few, MIN_HIT_CLUSTERS)[0] < 0.01
    for wrong in errors(many, MIN_HIT_CLUSTERS):
        assert 0.02 < wrong < 0.08
