import dataclasses
import math
import subprocess
import sys
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest
from scipy import stats

from lightning_flip.reports import GateResult, JoinedPredictions, LimitOutcome, gate
from lightning_flip.reports.gating._limits import judge_groups
from lightning_flip.reports.gating.measures import Shares

Integers = npt.NDArray[np.int64]
ERROR = 0.05


def joined(
    flips: int = 0,
    samples: int = 100,
    *,
    groups: Mapping[Any, tuple[int, int]] | None = None,
    old_wrong: int = 0,
    slices: Mapping[str, Sequence[str]] | None = None,
    **more: Any,
) -> JoinedPredictions:
    """`flips` of the first samples flip; with groups {label: (flips, samples)} those of each class."""
    groups = {0: (flips, samples)} if groups is None else groups
    labels = tuple(groups) if len(groups) > 1 else (*groups, 99)
    target = np.repeat(np.arange(len(groups)), [count for _, count in groups.values()])
    new = np.concatenate([(np.arange(count) < hits) for hits, count in groups.values()])
    new_pred = np.where(new, (target + 1) % len(labels), target)
    old_pred = target.copy()
    if old_wrong:
        old_pred[-old_wrong:] = (target[-old_wrong:] + 1) % len(labels)
    ids = pa.array([f"id{position}" for position in range(len(target))])
    columns = {name: np.array(values, object) for name, values in (slices or {}).items()}
    return JoinedPredictions(ids, labels, target, old_pred, new_pred, slices=columns, **more)


def only(result: GateResult) -> LimitOutcome:
    (outcome,) = result.outcomes
    return outcome


def at_most(count: int, total: int, rate: float | Fraction) -> float:
    rate = Fraction(rate)
    return float(sum(math.comb(total, hits) * rate**hits * (1 - rate) ** (total - hits) for hits in range(count + 1)))


# Decisions


@pytest.mark.parametrize(
    ("flips", "samples", "limit", "status", "code"),
    [
        (0, 500, 0.01, "pass", 0),
        (0, 299, 0.01, "pass", 0),
        (0, 298, 0.01, "inconclusive", 3),
        (0, 60, 0.01, "inconclusive", 3),
        (3, 60, 0.01, "fail", 1),
        (60, 60, 0.99, "inconclusive", 3),
        (60, 60, 1.0, "pass", 0),
        (1, 60, 0.0, "fail", 1),
        (0, 60, 0.0, "inconclusive", 3),
        (1, 1, 0.04, "fail", 1),
        (1, 1, 0.06, "inconclusive", 3),
    ],
)
def test_a_limit_is_decided_on_exact_bounds(flips: int, samples: int, limit: float, status: str, code: int) -> None:
    result = gate(joined(flips, samples), max_nfr=limit)
    assert (result.status, result.exit_code) == (status, code)
    group = only(result).groups[0]
    assert (group.count, group.among, group.estimate) == (flips, samples, flips / samples)
    assert group.estimate is not None
    assert group.lower <= group.estimate <= group.upper


def test_the_advice_rests_on_a_plausible_rate_and_not_on_the_observed_one() -> None:
    outcome = only(gate(joined(0, 60), max_nfr=0.01))
    (group,) = outcome.groups
    assert group.assumed_rate == 0.005  # halfway between 0 and the limit
    assert group.samples_needed is not None
    assert "0 of 60 samples flipped (0%)" in outcome.reason
    assert f"A fresh test set of {group.samples_needed:,} samples would pass with a chance of 80%" in outcome.reason
    passing = [x for x in range(100) if stats.binom.cdf(x, group.samples_needed, 0.01) <= ERROR]
    assert stats.binom.cdf(max(passing), group.samples_needed, 0.005) >= 0.8


def test_the_decision_is_the_exact_tail_for_every_count() -> None:
    limit, samples = 0.1, 40
    for flips in range(samples + 1):
        passes = at_most(flips, samples, limit) <= ERROR
        fails = flips > 0 and 1 - at_most(flips - 1, samples, limit) < ERROR
        expected = "pass" if passes else "fail" if fails else "inconclusive"
        assert gate(joined(flips, samples), max_nfr=limit).status == expected, flips


def test_a_limit_of_zero_points_to_the_samples_that_must_not_flip() -> None:
    for result in (gate(joined(0, 60), max_nfr=0.0), gate(joined(0, 60), max_nfr_per_class=0)):
        outcome = only(result)
        assert outcome.groups[0].samples_needed is None
        assert "must_not_flip" in outcome.reason
        assert "4.88%" in outcome.reason
    assert gate(joined(0, 60), max_nfr=0.0488).status == "pass"  # as the reason says


def test_a_rate_on_the_limit_is_advised_by_its_bound() -> None:
    outcome = only(gate(joined(3, 100), max_nfr=0.03))
    assert outcome.status == "inconclusive"
    assert outcome.groups[0].assumed_rate == 0.019  # (0.0082 + 0.03) / 2


# Wrong decisions

SIZES = [60, 200, 1000, 5000, 20_000]
RATES = [0.001, 0.003, 0.01, 0.03, 0.05]
DRAWS = 2000
MOST = ERROR + 3 * math.sqrt(ERROR * (1 - ERROR) / DRAWS)


def statuses(counts: Integers, samples: int, limit: float) -> npt.NDArray[np.str_]:
    """The decision on each count."""
    known = {
        int(n): judge_groups(["all"], Shares.of([n], [samples]), limit, advise=False)[0].status
        for n in np.unique(counts)
    }
    return np.array([known[int(count)] for count in counts])


@pytest.mark.parametrize("samples", SIZES)
@pytest.mark.parametrize("rate", RATES)
def test_wrong_decisions_are_as_rare_as_promised(samples: int, rate: float) -> None:
    counts = np.random.default_rng([samples, int(rate * 1000)]).binomial(samples, rate, DRAWS)
    assert (statuses(counts, samples, rate) == "fail").mean() <= MOST  # although the rate is within the limit
    assert (statuses(counts, samples, rate * (1 - 1e-9)) == "pass").mean() <= MOST  # although it is over the limit


@pytest.mark.parametrize("samples", SIZES)
@pytest.mark.parametrize("rate", RATES)
def test_wrong_decisions_in_exact_probabilities(samples: int, rate: float) -> None:
    counts = np.arange(min(samples, int(samples * rate * 3) + 60) + 1)
    logs = [
        math.lgamma(samples + 1) - math.lgamma(k + 1) - math.lgamma(samples - k + 1)
        + k * math.log(rate) + (samples - k) * math.log1p(-rate)
        for k in counts.tolist()
    ]  # fmt: skip
    chance = np.exp(logs)
    assert chance.sum() == pytest.approx(1, abs=1e-7)
    decided = statuses(counts, samples, rate)
    assert chance[decided == "fail"].sum() <= ERROR
    assert chance[decided == "pass"].sum() <= ERROR
    # Neither is it for want of decisions: the next count would break the promise.
    first_fail = np.flatnonzero(decided == "fail")[0]
    assert chance[first_fail - 1 :].sum() > ERROR


def test_a_rate_far_from_the_limit_is_decided() -> None:
    rng = np.random.default_rng(1)
    assert (statuses(rng.binomial(5000, 0.005, DRAWS), 5000, 0.01) == "pass").mean() > 0.95
    assert (statuses(rng.binomial(5000, 0.02, DRAWS), 5000, 0.01) == "fail").mean() > 0.95


def decisions_over_groups(rates: npt.NDArray[np.float64], samples: int, limit: float, seed: int) -> list[str]:
    counts = np.random.default_rng(seed).binomial(samples, rates, (DRAWS, len(rates)))
    names = [str(position) for position in range(len(rates))]
    decided = [
        [
            group.status
            for group in judge_groups(names, Shares.of(row, np.full(len(rates), samples)), limit, advise=False)
        ]
        for row in counts
    ]
    return [("fail" if "fail" in row else "inconclusive" if "inconclusive" in row else "pass") for row in decided]


@pytest.mark.parametrize("samples", [300, 2000])
def test_ten_classes_at_the_limit_fail_seldom(samples: int) -> None:
    decided = decisions_over_groups(np.full(10, 0.03), samples, 0.03, seed=2)
    assert decided.count("fail") / DRAWS <= MOST


@pytest.mark.parametrize("samples", [300, 2000])
def test_one_class_over_the_limit_passes_seldom(samples: int) -> None:
    rates = np.array([0.0] * 9 + [0.03])
    decided = decisions_over_groups(rates, samples, 0.03 * (1 - 1e-9), seed=3)
    assert 0 < decided.count("pass") / DRAWS <= MOST


# Classes, slices and chosen samples


def test_classes_are_judged_each() -> None:
    groups = {"cat": (0, 500), "dog": (40, 100), "eel": (0, 60), "owl": (1, 400)}
    outcome = only(gate(joined(groups=groups), max_nfr_per_class=0.03))
    assert outcome.status == "fail"
    assert [(group.name, group.count, group.among) for group in outcome.groups] == [(n, *c) for n, c in groups.items()]
    assert [group.status for group in outcome.groups] == ["pass", "fail", "inconclusive", "pass"]
    assert outcome.groups[2].samples_needed == 726
    assert "1 of 4 classes is over the limit of 3%: dog (40 of 100, at least" in outcome.reason
    assert (
        "Too few samples to decide on 1 of 4 classes at a limit of 3%: eel (0 of 60, needs about 726 if its rate is"
        " 1.5%)" in outcome.reason
    )


def test_a_flip_counts_for_its_right_class() -> None:
    target, new = np.array([0, 0, 1, 2]), np.array([0, 1, 1, 1])
    data = JoinedPredictions(pa.array(list("abcd")), (5, 7, 9, 11), target, target, new)
    outcome = only(gate(data, max_nfr_per_class=0.5))
    # Class 11 has no samples, and is not judged.
    assert [(group.name, group.count, group.among) for group in outcome.groups] == [
        ("5", 1, 2),
        ("7", 0, 1),
        ("9", 1, 1),
    ]


def test_failing_a_class_takes_more_among_many() -> None:
    alone = gate(joined(groups={"a": (7, 100)}), max_nfr_per_class=0.03)
    among = {"a": (7, 100)} | {str(position): (0, 100) for position in range(9)}
    assert alone.status == "fail"
    outcome = only(gate(joined(groups=among), max_nfr_per_class=0.03))
    assert outcome.groups[0].status == "inconclusive"
    alone_p, p_value = alone.outcomes[0].groups[0].p_value, outcome.groups[0].p_value
    assert alone_p is not None
    assert p_value == pytest.approx(10 * alone_p)  # the smallest of ten
    assert outcome.groups[0].upper == alone.outcomes[0].groups[0].upper  # a class passes as it does alone


def test_all_classes_within_the_limit_pass_and_name_the_closest() -> None:
    outcome = only(gate(joined(groups={"a": (0, 500), "b": (2, 500)}), max_nfr_per_class=0.03))
    assert outcome.status == "pass"
    assert (
        "All 2 classes are within the limit of 3%; closest is b (2 of 500, at most 1.25%, 95% sure)" in outcome.reason
    )


def test_slices_are_judged_for_each_value_of_each_column() -> None:
    light = ["night"] * 50 + ["day"] * 150
    lens = ["", "x"] * 100
    outcome = only(gate(joined(30, 200, slices={"light": light, "lens": lens}), max_nfr_per_slice=0.05))
    seen = {(group.column, group.name): (group.count, group.among) for group in outcome.groups}
    expected: dict[tuple[str, str], tuple[int, int]] = {}
    for column, values in (("light", light), ("lens", lens)):
        for position, value in enumerate(values):
            flips, samples = expected.get((column, value), (0, 0))
            expected[column, value] = (flips + (position < 30), samples + 1)
    assert seen == expected
    assert {group.title: group.status for group in outcome.groups}["light=night"] == "fail"
    assert "3 of 4 slices are over the limit of 5%: light=night (30 of 50" in outcome.reason
    assert "'lens=(missing)' (15 of 100" in outcome.reason


def test_many_names_are_cut_in_the_reason_and_whole_in_the_outcome() -> None:
    groups = {f"class{position}": (0, 20) for position in range(1000)}
    outcome = only(gate(joined(groups=groups), max_nfr_per_class=0.01))
    assert len(outcome.groups) == 1000
    assert outcome.reason.endswith("and 990 more.")
    assert len(outcome.reason) < 1000


def test_samples_that_must_not_flip() -> None:
    data = joined(3, 100, old_wrong=2)
    outcome = only(gate(data, must_not_flip=["id50", "id98", "id99", "id50"]))
    assert (outcome.status, outcome.watched, outcome.already_wrong, outcome.flipped) == ("pass", 3, 2, ())
    assert "had 2 of the 3 wrong already" in outcome.reason
    outcome = only(gate(data, must_not_flip=["id50", "id2", "id0"]))
    assert (outcome.status, outcome.flipped) == ("fail", ("id2", "id0"))
    assert "2 of 3 samples that must not flip are negative flips: id2, id0" in outcome.reason


def test_ids_may_be_integers() -> None:
    target = np.zeros(3, np.int64)
    data = JoinedPredictions(pa.chunked_array([["7"], ["8", "9"]]), (0, 1), target, target, np.array([0, 0, 1]))
    assert only(gate(data, must_not_flip=[7, "8"])).status == "pass"
    assert only(gate(data, must_not_flip=iter(np.array([9])))).flipped == ("9",)


def test_the_worst_limit_decides() -> None:
    data = joined(0, 400)
    both = gate(data, max_nfr=0.01, max_nfr_per_class=0.001, must_not_flip=["id1"])
    assert [outcome.status for outcome in both.outcomes] == ["pass", "inconclusive", "pass"]
    assert (both.status, both.exit_code) == ("inconclusive", 3)
    all_three = gate(joined(20, 400), max_nfr=0.2, max_nfr_per_class=0.05, must_not_flip=["id1"])
    assert [outcome.status for outcome in all_three.outcomes] == ["pass", "inconclusive", "fail"]
    assert (all_three.status, all_three.exit_code) == ("fail", 1)


def test_error_widens_what_is_undecided() -> None:
    data = joined(0, 400)
    assert gate(data, max_nfr=0.01).status == "pass"
    outcome = only(gate(data, max_nfr=0.01, error=0.01))
    assert outcome.status == "inconclusive"


def test_numbers_of_the_result() -> None:
    result = gate(joined(2, 50, only_old=4, outside_classes=3, old_name="a.csv", new_name="b.csv"), max_nfr=0.5)
    numbers = result.to_dict()
    assert numbers["negative_flip_rate"] == 0.04
    assert numbers["left_out"] == {"only_old": 4, "outside_classes": 3}
    assert (numbers["old"], numbers["new"], numbers["status"], numbers["exit_code"]) == ("a.csv", "b.csv", "pass", 0)
    assert numbers["limits"][0]["groups"][0]["estimate"] == 0.04


# Wrong arguments


@pytest.mark.parametrize(
    ("limits", "error", "message"),
    [
        ({}, ValueError, "At least one limit"),
        ({"max_nfr": 1.5}, ValueError, r"max_nfr must be in \[0, 1\], a share and no percentage, got 1.5"),
        ({"max_nfr_per_class": -0.1}, ValueError, "max_nfr_per_class must be in"),
        ({"max_nfr_per_slice": float("nan")}, ValueError, "max_nfr_per_slice must be in"),
        ({"max_nfr": 0.1, "error": 0.5}, ValueError, "error must be between 0 and 0.5"),
        ({"max_nfr": 0.1, "error": 0.0}, ValueError, "error must be between 0 and 0.5"),
        ({"max_nfr": 0.1, "error": float("nan")}, ValueError, "error must be between 0 and 0.5"),
        ({"max_nfr_per_slice": 0.1}, ValueError, "joined without any"),
        ({"must_not_flip": "golden.txt"}, TypeError, "got one text: golden.txt"),
        ({"must_not_flip": [1.5]}, TypeError, "1.5 of type float"),
        ({"must_not_flip": []}, ValueError, "empty list"),
        ({"must_not_flip": ["id1", "x\ny", "z"]}, ValueError, r"2 of its 3 ids .* 100 samples, e.g. 'x\\ny'"),
        ({"must_not_flip": ["\udc80"]}, ValueError, r"1 of its 1 ids .* e.g. '\\udc80'"),
    ],
)
def test_wrong_arguments_are_named(limits: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        gate(joined(), **limits)


def test_missing_ids_may_have_been_left_out() -> None:
    with pytest.raises(ValueError, match="left out 7 rows, which may be these"):
        gate(joined(only_old=3, only_new=4), must_not_flip=["zz"])


def test_no_samples_are_an_error() -> None:
    empty = np.zeros(0, np.int64)
    data = JoinedPredictions(pa.array([], pa.string()), (), empty, empty, empty)
    with pytest.raises(ValueError, match="at least one sample"):
        gate(data, max_nfr=0.1)


def test_the_gate_imports_neither_torch_nor_lightning_nor_scipy_before_it_is_asked() -> None:
    code = "import sys, lightning_flip.reports.gating.decision, lightning_flip.reports.gating.output as o; " + (
        "print([m for m in ('torch', 'lightning', 'pytorch_lightning', 'scipy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# Evidence


def never_right(**groups: int) -> JoinedPredictions:
    """Classes of 500 samples each without a flip; of a class given as 0 the old model has none right."""
    base = joined(groups=dict.fromkeys(groups, (0, 500)))
    old = base.old_pred.copy()
    for place, right in enumerate(groups.values()):
        if not right:
            mine = base.target == place
            old[mine] = (base.target[mine] + 1) % len(base.labels)
    return dataclasses.replace(base, old_pred=old)


def test_an_old_model_that_is_never_right_decides_nothing() -> None:
    result = gate(never_right(a=0, b=0), max_nfr=0.5, max_nfr_per_class=0.5)
    assert [outcome.status for outcome in result.outcomes] == ["inconclusive", "inconclusive"]
    assert result.outcomes[0].reason == "The old model is right on none of 1,000 samples, so that none could flip."
    assert result.outcomes[0].groups[0].samples_needed is None
    assert result.to_dict()["could_flip"] == 0


def test_a_class_that_the_old_model_never_has_right_is_inconclusive_alone() -> None:
    result = gate(never_right(a=1, b=0, c=1), max_nfr=0.5, max_nfr_per_class=0.5)
    assert [outcome.status for outcome in result.outcomes] == ["pass", "inconclusive"]
    assert {group.name: group.status for group in result.outcomes[1].groups} == {
        "a": "pass",
        "b": "inconclusive",
        "c": "pass",
    }
    expected = "In 1 of 3 classes the old model is right on no sample, so that none could flip: b (500 samples)."
    assert result.outcomes[1].reason == expected


def test_a_slice_that_the_old_model_never_has_right_is_inconclusive() -> None:
    base = never_right(a=1, b=0)
    site = np.array(["x"] * 500 + ["y"] * 500, object)
    result = gate(dataclasses.replace(base, slices={"site": site}), max_nfr_per_slice=0.5)
    assert [group.status for group in only(result).groups] == ["pass", "inconclusive"]


@pytest.mark.parametrize(("least", "status"), [(0.8, "pass"), (0.9, "inconclusive"), (0.97, "fail")])
def test_the_old_model_has_to_be_accurate_enough(least: float, status: str) -> None:
    result = gate(joined(0, 500, old_wrong=50), max_nfr=0.01, min_old_accuracy=least)
    outcome = result.outcomes[-1]
    assert (outcome.name, outcome.status, result.status) == ("min_old_accuracy", status, status)
    # One-sided Clopper-Pearson: at the lower bound, 450 or more of 500 have a chance of ERROR.
    low, high = outcome.groups[0].lower, outcome.groups[0].upper
    assert at_most(449, 500, low) == pytest.approx(1 - ERROR, abs=1e-9)
    assert at_most(450, 500, high) == pytest.approx(ERROR, abs=1e-9)


def test_accuracies_and_the_samples_that_could_flip_are_told() -> None:
    result = gate(joined(3, 500, old_wrong=50), max_nfr=0.5)
    told = result.to_dict()
    assert (told["could_flip"], told["old_accuracy"]["value"], told["new_accuracy"]["value"]) == (450, 0.9, 0.994)
    assert told["old_accuracy"]["low"] < 0.9 < told["old_accuracy"]["high"]
