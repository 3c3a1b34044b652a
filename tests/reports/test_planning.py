from __future__ import annotations

import json

import numpy as np
import pytest
from scipy.stats import beta, binom

from lightning_flip.reports import clopper_pearson_lower, clopper_pearson_upper, plan_samples, plot_sample_plan
from lightning_flip.reports.gating import _advice
from lightning_flip.reports.gating._advice import advice_sentence, advised_samples
from lightning_flip.reports.gating._power import first_samples, lasting_samples, verdict_power
from lightning_flip.reports.gating.planning import LOOKS_WARNING


def oracle_power(samples: np.ndarray, rate: float, limit: float, error: float, verdict: str) -> np.ndarray:
    """Sum the probability of every number of flips whose bound decides, by the definition of the bounds."""
    number = samples[:, None]
    flips = np.arange(samples.max() + 1)[None, :]
    possible = flips <= number
    if verdict == "pass":
        rest = np.maximum(number - flips, 1)
        decided = np.where(flips < number, beta.isf(error, flips + 1, rest), 1.0) <= limit
    else:
        above = beta.ppf(error, np.maximum(flips, 1), np.maximum(number - flips, 0) + 1)
        decided = np.where(flips > 0, above, 0.0) > limit
    return np.where(decided & possible, binom.pmf(flips, number, rate), 0.0).sum(1)


def oracle_samples(power: np.ndarray, goal: float) -> tuple[int | None, int | None]:
    """The first of N = 1, 2, ... with the power, and the one behind the last without it."""
    enough = power >= goal
    first = int(np.argmax(enough)) + 1 if enough.any() else None
    missing = np.flatnonzero(~enough)
    last = int(missing[-1]) + 2 if len(missing) else 1
    return first, last if last <= len(power) else None


class TestPower:
    @pytest.mark.parametrize(
        ("rate", "limit", "error", "goal", "verdict"),
        [
            (0.02, 0.05, 0.05, 0.8, "pass"),
            (0.02, 0.05, 0.05, 0.95, "pass"),
            (0.0, 0.02, 0.05, 0.8, "pass"),
            (0.001, 0.02, 0.01, 0.9, "pass"),
            (0.2, 0.3, 0.1, 0.8, "pass"),
            (0.5, 0.6, 0.05, 0.7, "pass"),
            (0.8, 0.9, 0.001, 0.8, "pass"),
            (0.01, 0.05, 0.4, 0.3, "pass"),
            (0.12, 0.06, 0.05, 0.8, "fail"),
            (0.09, 0.05, 0.05 / 7, 0.8, "fail"),
            (0.02, 0.002, 0.05, 0.9, "fail"),
            (1.0, 0.3, 0.05, 0.8, "fail"),
            (0.4, 0.3, 0.1, 0.8, "fail"),
            (0.7, 0.6, 0.05, 0.7, "fail"),
            (0.97, 0.9, 0.2, 0.5, "fail"),
        ],
    )
    def test_brute_force_finds_the_same(self, rate, limit, error, goal, verdict):
        samples = np.arange(1, 801)
        power = oracle_power(samples, rate, limit, error, verdict)
        np.testing.assert_allclose(verdict_power(samples, rate, limit, error, verdict), power, atol=1e-9)
        first, last = oracle_samples(power, goal)
        assert first is not None  # or the case tests nothing
        assert last is not None
        assert first_samples(rate, limit, error, goal, verdict) == first
        assert lasting_samples(rate, limit, error, goal, verdict) == last

    def test_brute_force_over_random_settings(self):
        random, samples, found = np.random.default_rng(0), np.arange(1, 251), 0
        for _ in range(40):
            limit, verdict = random.uniform(0.01, 0.95), ["pass", "fail"][random.integers(2)]
            rate = random.uniform(0, 0.8 * limit) if verdict == "pass" else random.uniform(limit, 1)
            error, goal = random.choice([0.2, 0.05, 0.01]), random.choice([0.5, 0.8, 0.95])
            first, last = oracle_samples(oracle_power(samples, rate, limit, error, verdict), goal)
            if last is not None:
                found += 1
                assert first_samples(rate, limit, error, goal, verdict) == first
                assert lasting_samples(rate, limit, error, goal, verdict) == last
        assert found > 10

    def test_a_rate_of_two_fifths_of_the_limit(self):
        assert first_samples(0.004, 0.01, 0.05, 0.8, "pass") == 1182
        assert lasting_samples(0.004, 0.01, 0.05, 0.8, "pass") == 1441
        power = verdict_power([1181, 1182, 1440, 1441], 0.004, 0.01, 0.05, "pass")
        assert (power >= 0.8).tolist() == [False, True, False, True]
        assert (verdict_power(np.arange(1441, 20_000), 0.004, 0.01, 0.05, "pass") >= 0.8).all()

    def test_without_flips_the_smallest_number_that_passes_is_enough(self):
        assert lasting_samples(0.0, 0.01, 0.05, 0.99, "pass") == 299  # 0.99^299 is the first power under 0.05

    @pytest.mark.parametrize(
        ("rate", "verdict"), [(0.00999, "pass"), (0.0099, "pass"), (0.01002, "fail"), (0.0102, "fail")]
    )
    def test_a_tooth_among_hundreds_of_millions_of_samples(self, rate, verdict):
        first, last = (find(rate, 0.01, 0.05, 0.8, verdict) for find in (first_samples, lasting_samples))
        assert 10**6 < first < last < 10**9
        before, after = np.arange(first - 20_000, first), np.arange(last, last + 20_000)
        assert (verdict_power(before, rate, 0.01, 0.05, verdict) < 0.8).all()
        assert (verdict_power([first, *after], rate, 0.01, 0.05, verdict) >= 0.8).all()
        assert verdict_power(last - 1, rate, 0.01, 0.05, verdict) < 0.8

    @pytest.mark.parametrize(("rate", "verdict"), [(0.897, "pass"), (0.9015, "fail")])
    def test_the_last_low_tooth_is_dozens_before_the_first_that_is_surely_high(self, rate, verdict):
        first, last = (find(rate, 0.9, 0.05, 0.8, verdict) for find in (first_samples, lasting_samples))
        before, after = np.arange(first - 2_000, first), np.arange(last, last + 2_000)
        assert (verdict_power(before, rate, 0.9, 0.05, verdict) < 0.8).all()
        assert (verdict_power([first, *after], rate, 0.9, 0.05, verdict) >= 0.8).all()
        assert verdict_power(last - 1, rate, 0.9, 0.05, verdict) < 0.8

    @pytest.mark.parametrize(("rate", "verdict"), [(0.009999, "pass"), (0.010001, "fail"), (0.01, "pass")])
    def test_more_than_a_billion_samples_is_none(self, rate, verdict):
        assert first_samples(rate, 0.01, 0.05, 0.8, verdict) is None
        assert lasting_samples(rate, 0.01, 0.05, 0.8, verdict) is None

    def test_a_limit_that_a_billion_samples_cannot_pass(self):
        assert first_samples(0.0, 1e-9, 0.05, 0.8, "pass") is None
        assert lasting_samples(0.0, 1e-9, 0.05, 0.8, "pass") is None

    def test_a_limit_that_a_billion_flips_do_not_break(self):
        assert first_samples(1.0, 1 - 1e-9, 0.05, 0.8, "fail") is None
        assert lasting_samples(1.0, 1 - 1e-9, 0.05, 0.8, "fail") is None
        assert first_samples(1.0, 0.99, 0.05, 0.8, "fail") == lasting_samples(1.0, 0.99, 0.05, 0.8, "fail") == 299

    def test_the_gates_own_bounds_decide_as_the_plan_counts(self):
        rng = np.random.default_rng(1)
        flips = rng.binomial(1441, 0.004, 20_000)
        passed = (clopper_pearson_upper(flips, 1441) <= 0.01).mean()
        assert passed == pytest.approx(float(verdict_power(1441, 0.004, 0.01, 0.05, "pass")), abs=0.01)
        flips = rng.binomial(1015, 0.02, 20_000)
        failed = (clopper_pearson_lower(flips, 1015) > 0.01).mean()
        assert failed == pytest.approx(float(verdict_power(1015, 0.02, 0.01, 0.05, "fail")), abs=0.01)


class TestPlan:
    def test_each_rate_has_its_verdict(self):
        plan = plan_samples(0.01, [0.004, 0.01, 0.02])
        assert [one.verdict for one in plan.rates] == ["pass", None, "fail"]
        assert [one.samples for one in plan.rates] == [1441, None, 1015]
        assert plan.rates[0].power == pytest.approx(0.8710, abs=1e-4)

    def test_ten_classes_of_a_power_of_80_percent_seldom_all_pass(self):
        ten = plan_samples(0.01, [0.004], groups=10).rates[0]
        assert ten.alone == 1441
        assert ten.together == pytest.approx(verdict_power(1441, 0.004, 0.01, 0.05, "pass") ** 10)
        power = verdict_power(np.arange(1, 9000), 0.004, 0.01, 0.05, "pass") ** 10
        assert (ten.first, ten.samples) == oracle_samples(power, 0.8)
        assert power[ten.samples - 1] == pytest.approx(ten.power)
        assert "all pass in 10.7% of the cases" in " ".join(plan_samples(0.01, groups=10).notes())

    def test_failing_one_of_ten_groups_takes_a_surer_bound(self):
        ten = plan_samples(0.01, [0.02], groups=10).rates[0]
        assert ten.samples == lasting_samples(0.02, 0.01, 0.005, 0.8, "fail")
        assert ten.alone is None

    def test_looks_share_the_error(self):
        assert plan_samples(0.01, [0.004], looks=4).rates == plan_samples(0.01, [0.004], error=0.0125).rates
        assert "each decides at 1.25%" in " ".join(plan_samples(0.01, looks=4).notes())

    def test_a_cluster_counts_as_one_sample(self):
        plan, plain = (plan_samples(0.01, [0.004], cluster_size=size, samples=14_419) for size in (10, 1))
        assert plan.rates[0].samples == plain.rates[0].samples == 1441
        assert plan.rates[0].available == pytest.approx(plan.rates[0].power)  # 1,441 whole clusters
        row = dict(zip(plan.table().headers, plan.table().rows[0], strict=True))
        assert (row["clusters"], row["samples"]) == ("1,441", "14,410")

    def test_fewer_samples_than_a_cluster_decide_nothing(self):
        assert plan_samples(0.01, [0.004], cluster_size=10, samples=9).rates[0].available == 0

    def test_the_power_with_the_samples_that_are_there(self):
        plan = plan_samples(0.01, [0.004, 0.02], samples=1200, groups=3)
        passing = binom.cdf(7 - 1, 1200, 0.004)  # 6 of 1,200 have an upper bound of 0.98%
        assert plan.rates[0].available == pytest.approx(passing**3)

    def test_default_rates_are_shares_of_the_limit(self):
        assert [one.rate for one in plan_samples(0.5).rates] == [0, 0.1, 0.2, 0.3, 1.0]
        assert [one.rate for one in plan_samples(0.9).rates] == pytest.approx([0, 0.18, 0.36, 0.54])

    def test_a_rate_given_twice_is_planned_once(self):
        assert len(plan_samples(0.01, [0.004, 0.004]).rates) == 1

    @pytest.mark.parametrize(
        ("words", "said"),
        [
            ({"limit": 0.0}, "limit must be between 0 and 1"),
            ({"limit": 1.0}, "limit must be between 0 and 1"),
            ({"limit": float("nan")}, "limit must be between 0 and 1"),
            ({"power": 1.0}, "power must be between 0 and 1"),
            ({"error": 0.5}, "error must be between 0 and 0.5"),
            ({"rates": [0.1, 1.2]}, r"rates must be in \[0, 1\], .* got 1.2"),
            ({"rates": []}, "rates must have at least one rate"),
            ({"groups": 0}, "groups must be a whole number from 1, got 0"),
            ({"looks": 1.5}, "looks must be a whole number from 1, got 1.5"),
            ({"samples": 0}, "samples must be a whole number from 1, got 0"),
            ({"cluster_size": 0.5}, "cluster_size must be at least 1"),
            ({"cluster_size": float("nan")}, "cluster_size must be at least 1"),
        ],
    )
    def test_misuse(self, words, said):
        with pytest.raises(ValueError, match=said):
            plan_samples(**({"limit": 0.01} | words))


class TestText:
    def test_what_is_not_known_is_no_number(self):
        plan = plan_samples(0.01, [0.01, 0.0099999])
        assert [row[2:] for row in plan.table().rows] == [("-", "-", "-")] * 2
        said = " ".join(plan.notes())
        assert "-: more than a billion samples." in said
        assert "none: no number of samples tells a rate at the limit from the limit." in said

    def test_small_and_large_chances_are_not_rounded_to_certainty(self):
        plan = plan_samples(0.01, [0.0, 0.00001, 0.008], samples=300, groups=10)
        assert [row[-1] for row in plan.table().rows] == ["100%", "97%", "<0.05%"]
        assert plan_samples(0.01, [1e-7], samples=300).table().rows[0][-1] == ">99.9%"

    def test_the_warning_has_the_exact_chance(self):
        # Up to 20 looks at 1,000 further samples each, at a rate of 1%: flips of those that have not passed yet.
        open_, passed = np.ones(1), 0.0
        for look in range(1, 21):
            open_ = np.convolve(open_, binom.pmf(np.arange(60), 1000, 0.01))
            flips = np.arange(len(open_))
            passes = beta.isf(0.05, flips + 1, 1000 * look - flips) <= 0.01
            passed += open_[passes].sum()
            open_[passes] = 0
        assert f"pass in {100 * passed:.0f}% of the cases instead of 5%" in LOOKS_WARNING
        assert LOOKS_WARNING in " ".join(plan_samples(0.01).notes())

    def test_every_form_has_the_numbers(self):
        plan = plan_samples(0.01, [0.004])
        assert "1,441" in plan.to_markdown()
        assert "1,441" in plan._repr_html_()
        assert json.loads(json.dumps(plan.to_dict()))["rates"][0]["samples"] == 1441


class TestFigure:
    def test_lines_goal_and_marks(self):
        plan = plan_samples(0.01, [0.004, 0.01, 0.02], samples=500)
        axes = plot_sample_plan(plan).axes[0]
        goal, there, *lines = axes.lines
        assert goal.get_ydata()[0] == 0.8
        assert there.get_xdata()[0] == 500
        assert len(lines) == 2  # not the rate at the limit
        samples, power = lines[0].get_data()
        np.testing.assert_allclose(power, verdict_power(samples, 0.004, 0.01, 0.05, "pass"))
        assert len(samples) == samples[-1]  # every number of samples, so that no tooth is missing
        assert axes.collections[0].get_offsets()[:, 0].tolist() == [1182, 1441]
        assert axes.collections[1].get_offsets()[:, 0].tolist() == [905, 1015]

    def test_numbers_of_very_different_size_have_a_logarithmic_axis(self):
        assert plot_sample_plan(plan_samples(0.01, [0.0, 0.008])).axes[0].get_xscale() == "log"
        assert plot_sample_plan(plan_samples(0.01, [0.004])).axes[0].get_xscale() == "linear"

    def test_nothing_to_draw(self):
        with pytest.raises(ValueError, match="plan must have a rate that some number of samples decides"):
            plot_sample_plan(plan_samples(0.01, [0.01]))


class TestAdvice:
    def test_the_rate_is_halfway_between_the_limit_and_the_bound(self):
        count, total = np.array([0, 8, 10, 15]), np.array([60, 1000, 1000, 1000])
        advice = advised_samples(count, total, 0.01)
        lower, upper = clopper_pearson_lower(count, total), clopper_pearson_upper(count, total)
        np.testing.assert_allclose(advice.rate[:3], (lower[:3] + 0.01) / 2, rtol=0.02)
        np.testing.assert_allclose(advice.rate[3], (upper[3] + 0.01) / 2, rtol=0.04)
        for rate, samples, verdict in zip(*advice, ("pass", "pass", "pass", "fail"), strict=True):
            assert samples == lasting_samples(rate, 0.01, 0.05, 0.8, verdict)

    def test_failing_has_a_level_of_its_own(self):
        count, total = [0, 15], [60, 1000]
        advice, surer = (advised_samples(count, total, 0.01, 0.05, level) for level in (None, 0.0005))
        assert advice.samples[0] == surer.samples[0]
        assert surer.samples[1] == lasting_samples(surer.rate[1], 0.01, 0.0005, 0.8, "fail") > advice.samples[1]

    def test_all_samples_flipped_or_none(self):
        advice = advised_samples([3, 0], [3, 3], 0.5)
        assert advice.rate.tolist() == [0.75, 0.25]
        assert np.isfinite(advice.samples).all()

    def test_counts_of_clusters_need_not_be_whole(self):
        low, middle, high = advised_samples([5, 5.5, 6], [120, 120.5, 121], 0.05).rate
        assert low < middle < high

    def test_a_limit_of_0_cannot_be_passed(self):
        assert advised_samples([0], [60], 0.0).samples.tolist() == [np.inf]

    def test_a_rounded_rate_stays_on_its_side_of_the_limit(self):
        advice = advised_samples([99_900, 100_100], [10**7, 10**7], 0.01)
        assert advice.rate[0] < 0.01 < advice.rate[1]
        assert np.isfinite(advice.samples).all()

    def test_the_advice_keeps_its_promise_where_the_observed_rate_does_not(self):
        """Draw, ask for advice if undecided, test on so many fresh samples: how often is that decided?"""
        total, limit, rate = 200, 0.01, 0.005
        count = np.arange(20)
        chance = binom.pmf(count, total, rate)
        undecided = (clopper_pearson_upper(count, total) > limit) & (clopper_pearson_lower(count, total) <= limit)
        count, chance = count[undecided], chance[undecided] / chance[undecided].sum()
        advised = advised_samples(count, total, limit).samples
        decided = sum(verdict_power(advised, rate, limit, 0.05, verdict) for verdict in ("pass", "fail"))
        assert (chance * decided).sum() > 0.8
        with_observed = verdict_power(299, rate, limit, 0.05, "pass")  # enough for the rate 0 that is seen most often
        assert with_observed < 0.3

    def test_each_distinct_rate_is_solved_once(self, monkeypatch):
        asked = []
        solve = _advice.lasting_samples
        monkeypatch.setattr(_advice, "lasting_samples", lambda rate, *rest: asked.append(rate) or solve(rate, *rest))
        rng = np.random.default_rng(0)
        total = rng.integers(20, 60, 173_000)
        advice = advised_samples(rng.binomial(total, 0.03), total, 0.05, 0.05, 0.05 / 173_000)
        assert len(asked) == len(set(asked)) == len(np.unique(advice.rate)) < 100
        assert len(advice.samples) == 173_000

    def test_sentences(self):
        assert "2,185 samples would pass with a chance of 80% if the true rate is 0.5%" in advice_sentence(
            0.005, 2185, 0.01
        )
        assert "would fail with a chance of 80% if the true rate is 1.7%" in advice_sentence(0.017, 1836, 0.01)
        assert "no number of samples" in advice_sentence(0.01, np.inf, 0.01)
