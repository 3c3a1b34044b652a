"""Every limit of the gate, counted and bounded anew in plain Python and scipy."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest
from scipy import stats

from lightning_flip.reports import GateResult, LimitOutcome, gate, join_predictions
from lightning_flip.reports.gating.decision import LIMITS
from lightning_flip.stores import PredictionSet, read_predictions, write_predictions

CLASSES, SAMPLES, ERROR = 4, 300, 0.05
LABELS = ("ant", "bee", "cat", "dog")


@pytest.fixture(scope="module")
def rows() -> dict[str, Any]:
    """Logits of two models, of which the new one is a little worse; a site and a patient of each sample."""
    rng = np.random.default_rng(3)
    target = rng.integers(0, CLASSES, SAMPLES)
    old = rng.normal(size=(SAMPLES, CLASSES)) + 2.5 * np.eye(CLASSES)[target]
    new = old + rng.normal(size=(SAMPLES, CLASSES)) - 0.3 * np.eye(CLASSES)[target]
    return {
        "target": target,
        "old": old,
        "new": new,
        "site": np.array(["north", "south", "west"], object)[rng.integers(0, 3, SAMPLES)],
        "patient": np.array([f"p{number // 3}" for number in range(SAMPLES)], object),
    }


def predictions(rows: dict[str, Any], model: str, times: int = 1) -> PredictionSet:
    """What a model predicts; with `times`, each sample so many times."""
    logits = np.repeat(rows[model], times, axis=0)
    probability = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    target = np.repeat(rows["target"], times)
    table = pa.table(
        {
            "sample_id": [f"s{number}" for number in range(len(logits))],
            "target": [LABELS[label] for label in target],
            "pred": [LABELS[label] for label in logits.argmax(1)],
            "confidence": pa.array(probability.max(1), pa.float32()),
            "logits": logits.tolist(),
            "site": np.repeat(rows["site"], times),
            "patient": np.repeat(rows["patient"], times),
            "copies": np.repeat(np.arange(len(rows["target"])), times).astype(str),
        }
    )
    return PredictionSet.from_table(table, model, classes=LABELS)


def decide(rows: dict[str, Any], **options: Any) -> GateResult:
    return gate(predictions(rows, "old"), predictions(rows, "new"), **options)


def only(result: GateResult) -> LimitOutcome:
    (outcome,) = result.outcomes
    return outcome


def probabilities(logits: npt.NDArray[np.float64]) -> list[list[float]]:
    found = []
    for row in logits.tolist():
        weights = [float(np.exp(one)) for one in row]
        found.append([weight / sum(weights) for weight in weights])
    return found


def counts(rows: dict[str, Any], inside: list[int]) -> dict[str, tuple[int, int]]:
    """(numerator, denominator) of each share among some samples, one sample after another."""
    found = {name: [0, 0] for name in ("nfr", "nfi", "churn", "accuracy_drop", "top_k_flips", "old_accuracy")}
    for place in inside:
        old, new, label = rows["old"][place].tolist(), rows["new"][place].tolist(), int(rows["target"][place])
        before, after = old.index(max(old)), new.index(max(new))
        flipped = before == label and after != label
        best = [set(sorted(range(CLASSES), key=lambda k, of=scores: -of[k])[:2]) for scores in (old, new)]
        for name, counted, among in (
            ("nfr", flipped, True),
            ("nfi", flipped, after != label),
            ("churn", before != after, True),
            ("accuracy_drop", (before == label) - (after == label), True),
            ("top_k_flips", label in best[0] and label not in best[1], True),
            ("old_accuracy", before == label, True),
        ):
            found[name][0] += counted * among
            found[name][1] += among
    return {name: (count, among) for name, (count, among) in found.items()}


@pytest.mark.parametrize("measure", ["nfr", "nfi", "churn", "accuracy_drop", "top_k_flips"])
def test_a_share_of_all_samples_is_counted(rows: dict[str, Any], measure: str) -> None:
    (group,) = only(decide(rows, **{f"max_{measure}": 0.2}, top_k=2)).groups
    count, among = counts(rows, list(range(SAMPLES)))[measure]
    assert (group.count, group.among, group.samples) == (count, among, SAMPLES)
    if measure != "accuracy_drop":
        interval = stats.binomtest(count, among).proportion_ci(1 - 2 * ERROR, "exact")
        assert (group.lower, group.upper) == pytest.approx((interval.low, interval.high))
        assert group.p_value == pytest.approx(stats.binom.sf(count - 1, among, 0.2))


@pytest.mark.parametrize("per", ["class", "slice"])
@pytest.mark.parametrize("measure", ["nfr", "nfi", "churn", "accuracy_drop"])
def test_a_share_of_each_group_is_counted(rows: dict[str, Any], measure: str, per: str) -> None:
    values = [LABELS[label] for label in rows["target"]] if per == "class" else rows["site"].tolist()
    result = decide(rows, **{f"max_{measure}_per_{per}": 0.3}, slices=["site"])
    seen = {group.name: (group.count, group.among) for group in only(result).groups}
    expected = {
        value: counts(rows, [place for place in range(SAMPLES) if values[place] == value])[measure]
        for value in set(values)
    }
    assert seen == expected


def test_p_values_of_groups_are_those_of_holm(rows: dict[str, Any]) -> None:
    groups = only(decide(rows, max_nfr_per_class=0.1)).groups
    alone = sorted((stats.binom.sf(group.count - 1, group.among, 0.1), group.name) for group in groups)
    expected, running = {}, 0.0
    for place, (p_value, name) in enumerate(alone):
        running = max(running, min(1.0, p_value * (len(alone) - place)))
        expected[name] = running
    assert {group.name: group.p_value for group in groups} == pytest.approx(expected)


def test_relative_nfr_is_the_rate_by_that_of_independent_errors(rows: dict[str, Any]) -> None:
    (group,) = only(decide(rows, max_relative_nfr=0.8)).groups
    found = counts(rows, list(range(SAMPLES)))
    flips, wrong = found["nfi"]
    right = found["old_accuracy"][0]
    assert group.estimate == pytest.approx(flips / SAMPLES / ((right / SAMPLES) * (wrong / SAMPLES)))
    impact = stats.binomtest(flips, wrong).proportion_ci(1 - ERROR, "exact")
    accuracy = stats.binomtest(right, SAMPLES).proportion_ci(1 - ERROR, "exact")
    assert group.upper == pytest.approx(impact.high / accuracy.low)
    assert group.lower == pytest.approx(impact.low / accuracy.high)


@pytest.mark.parametrize("name", ["max_confidence_drop", "max_brier_increase", "max_nll_increase"])
def test_means_are_of_each_samples_scores(rows: dict[str, Any], name: str) -> None:
    (group,) = only(decide(rows, **{name: 0.3})).groups
    old, new = probabilities(rows["old"]), probabilities(rows["new"])
    total = 0.0
    for before, after, label in zip(old, new, rows["target"].tolist(), strict=True):
        scores = {
            "max_confidence_drop": lambda p: -p[label],  # noqa: B023
            "max_brier_increase": lambda p: sum((p[k] - (k == label)) ** 2 for k in range(CLASSES)),  # noqa: B023
            "max_nll_increase": lambda p: -np.log(max(p[label], 1e-4)),  # noqa: B023
        }
        total += scores[name](after) - scores[name](before)
    assert (group.count, group.among) == (pytest.approx(total), SAMPLES)
    assert group.lower < total / SAMPLES < group.upper


def test_the_cost_of_flips_is_that_of_their_pairs(rows: dict[str, Any]) -> None:
    costs = {("ant", "bee"): 5.0, ("bee", "cat"): 0.5, ("cat", "ant"): 1.0, ("unicorn", "ant"): 9.0}
    (group,) = only(decide(rows, max_flip_cost=0.2, costs=costs)).groups
    total = 0.0
    for place in range(SAMPLES):
        right, before, after = rows["target"][place], rows["old"][place].argmax(), rows["new"][place].argmax()
        if before == right and after != right:
            total += costs.get((LABELS[right], LABELS[after]), 0.0)
    assert group.count == pytest.approx(total)
    assert total > 0


def test_scores_may_come_from_columns_of_the_writer(rows: dict[str, Any], tmp_path: Path) -> None:
    files = []
    for model in ("old", "new"):
        given = predictions(rows, model)
        probability = np.array(probabilities(rows[model]))
        best = np.argsort(-probability, axis=1)[:, :2]
        files.append(
            write_predictions(
                tmp_path / f"{model}.parquet",
                {
                    "index": np.arange(SAMPLES),
                    "sample_id": given.rows["sample_id"].to_pylist(),
                    "target": rows["target"],
                    "pred": rows[model].argmax(1),
                    "confidence": probability.max(1),
                    "prob_label": probability[np.arange(SAMPLES), rows["target"]].astype(np.float32),
                    "top_classes": best,
                    "top_probs": np.take_along_axis(probability, best, 1).astype(np.float32),
                },
            )
        )
    limits = {"max_confidence_drop": 0.3, "max_nll_increase": 0.5, "max_top_k_flips": 0.2}
    stored, computed = gate(*files, **limits, top_k=2), decide(rows, **limits, top_k=2)
    for one, other in zip(stored.outcomes, computed.outcomes, strict=True):
        assert one.groups[0].count == pytest.approx(other.groups[0].count, rel=1e-4), one.name
    with pytest.raises(ValueError, match="must have logits for this limit"):
        gate(*files, max_brier_increase=0.1)
    with pytest.raises(ValueError, match="top_classes must hold 3 classes or more"):
        gate(*files, max_top_k_flips=0.1, top_k=3)
    assert "logits" not in read_predictions(files[0]).rows.column_names


# How it is decided


def test_a_fixed_population_is_judged_by_what_is_seen(rows: dict[str, Any]) -> None:
    rate = counts(rows, list(range(SAMPLES)))["nfr"][0] / SAMPLES
    for limit, status in ((rate, "pass"), (rate - 1e-9, "fail")):
        outcome = only(decide(rows, max_nfr=limit, population="fixed"))
        assert (outcome.status, outcome.groups[0].p_value) == (status, None)
        assert outcome.level.startswith("The samples are all there are")


@pytest.mark.parametrize(
    "limits",
    [
        {"max_nfr": 0.1},
        {"max_nfi_per_class": 0.4},
        {"max_accuracy_drop": 0.1},
        {"max_relative_nfr": 0.8},
        {"max_nll_increase": 0.5},
        {"min_old_accuracy": 0.8},
    ],
)
def test_copies_of_a_sample_add_no_evidence(rows: dict[str, Any], limits: dict[str, float]) -> None:
    single = only(decide(rows, **limits)).groups
    old, new = (predictions(rows, model, times=5) for model in ("old", "new"))
    copied = only(gate(old, new, **limits, cluster="copies")).groups
    naive = only(gate(old, new, **limits)).groups
    for one, many, wrong in zip(single, copied, naive, strict=True):
        assert (many.lower, many.upper) == pytest.approx((one.lower, one.upper), rel=2e-3, abs=1e-6)
        assert wrong.upper < many.upper


def test_the_design_effect_needs_forty_clusters_that_flipped(rows: dict[str, Any]) -> None:
    plain, clustered, estimated = (
        only(decide(rows, max_churn=0.4, **more)).groups[0]
        for more in ({}, {"cluster": "patient"}, {"cluster": "patient", "design_effect": True})
    )
    assert plain.upper < estimated.upper < clustered.upper
    few = only(decide(rows, max_nfr_per_class=0.3, cluster="patient", design_effect=True))
    assert few.groups == only(decide(rows, max_nfr_per_class=0.3, cluster="patient")).groups


def test_looks_share_the_error(rows: dict[str, Any]) -> None:
    planned = only(decide(rows, max_nfr=0.1, looks=5)).groups[0]
    assert planned == only(decide(rows, max_nfr=0.1, error=0.01)).groups[0]


def test_small_groups_are_counted_and_not_judged(rows: dict[str, Any]) -> None:
    sizes = {site: int((rows["site"] == site).sum()) for site in ("north", "south", "west")}
    least = sorted(sizes.values())[1]
    outcome = only(decide(rows, max_nfr_per_slice=0.3, slices=["site"], min_support=least))
    assert {group.name for group in outcome.groups} == {site for site, size in sizes.items() if size >= least}
    assert outcome.unjudged == 3 - len(outcome.groups) > 0
    assert f"1 with under {least} samples was not judged" in outcome.reason
    none = only(decide(rows, max_nfr_per_slice=0.3, slices=["site"], min_support=SAMPLES))
    assert (none.status, none.groups, none.unjudged) == ("inconclusive", (), 3)


def test_limits_that_warn_do_not_change_the_verdict(rows: dict[str, Any]) -> None:
    result = decide(rows, max_nfr=0.9, warn={"max_churn": 0.001, "max_ece_increase": 0.0})
    assert (result.status, [outcome.tier for outcome in result.outcomes]) == ("pass", ["block", "warn", "warn"])
    assert result.advisory[0].status == "fail"
    assert "No limit blocks" in decide(rows, warn={"max_churn": 0.001}).warnings[-1]


def test_a_rise_of_the_calibration_error_warns(rows: dict[str, Any]) -> None:
    found = []
    for model in ("old", "new"):
        bins: dict[int, list[tuple[float, bool]]] = {}
        for p, label in zip(probabilities(rows[model]), rows["target"].tolist(), strict=True):
            sure = float(np.float32(max(p)))
            bins.setdefault(int(np.ceil(sure * 15)), []).append((sure, p.index(max(p)) == label))
        gaps = [abs(sum(sure for sure, _ in kept) - sum(right for _, right in kept)) for kept in bins.values()]
        found.append(sum(gaps) / SAMPLES)
    rise = found[1] - found[0]
    for limit, status in ((max(rise, 0) + 1e-6, "pass"), (max(rise - 1e-6, 0), "fail" if rise > 0 else "pass")):
        outcome = decide(rows, warn={"max_ece_increase": limit}).advisory[0]
        assert outcome.status == status
        assert f"rose by {rise:.3g}" in outcome.reason
    worse = rows | {"new": 9.0 * rows["new"]}  # as right, and surer
    assert decide(worse, warn={"max_ece_increase": 0.01}).advisory[0].status == "fail"


def test_exceptions_are_named_and_do_not_count(rows: dict[str, Any]) -> None:
    right = rows["old"].argmax(1) == rows["target"]
    flips = np.flatnonzero(right & (rows["new"].argmax(1) != rows["target"])).tolist()
    first, second, fine = f"s{flips[0]}", f"s{flips[1]}", f"s{np.flatnonzero(right)[0]}"
    watched = {"must_not_flip": [first, second], "must_be_right": [first]}
    result = decide(rows, max_nfr=0.5, allowed_flips={first: "label is wrong", fine: "no flip"}, **watched)
    rate, *lists = result.outcomes
    assert rate.groups[0].count == len(flips) - 1
    assert [(outcome.status, outcome.flipped) for outcome in lists] == [("fail", (second,)), ("pass", ())]
    assert result.flips == len(flips)
    said = "\n".join(result.warnings)
    assert f"{first} ('label is wrong')" in said
    assert f"1 of 2 exceptions belong to no negative flip and can go: {fine}" in said


def test_samples_that_must_be_right_fail_whatever_the_old_model_did(rows: dict[str, Any]) -> None:
    wrong = np.flatnonzero((rows["old"].argmax(1) != rows["target"]) & (rows["new"].argmax(1) != rows["target"]))
    result = decide(rows, must_be_right=[f"s{wrong[0]}"])
    assert (only(result).status, only(result).flipped) == ("fail", (f"s{wrong[0]}",))
    assert decide(rows, must_not_flip=[f"s{wrong[0]}"]).status == "pass"


@pytest.mark.parametrize(("inconclusive", "code"), [(None, 3), ("fail", 1), ("warn", 0), ("pass", 0)])
def test_an_inconclusive_verdict_counts_as_asked(rows: dict[str, Any], inconclusive: Any, code: int) -> None:
    rate = counts(rows, list(range(SAMPLES)))["nfr"][0] / SAMPLES
    result = decide(rows, max_nfr=rate, inconclusive=inconclusive)
    assert (result.status, result.exit_code) == ("inconclusive", code)


def test_a_perfect_new_model_has_no_errors_to_count_among(rows: dict[str, Any]) -> None:
    perfect = rows | {"new": 9.0 * np.eye(CLASSES)[rows["target"]]}
    for limit in ("max_nfi", "max_relative_nfr"):
        outcome = only(decide(perfect, **{limit: 0.9}))
        assert (outcome.status, outcome.groups[0].estimate) == ("inconclusive", None)
        assert "nothing to count among" in outcome.reason


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_nrf": 0.1}, r"unknown argument 'max_nrf'; did you mean max_nfr\?"),
        ({"max_ece_increase": 0.1}, "can only warn"),
        ({"warn": {"max_nrf": 0.1}}, r"got 'max_nrf'; did you mean max_nfr\?"),
        ({"max_flip_cost": 0.1}, "needs costs"),
        ({"max_flip_cost": 0.1, "costs": {("ant", "cow"): 1.0}}, "two classes that the predictions have"),
        ({"max_flip_cost": 0.1, "costs": {("ant", "bee"): -1.0}}, "numbers from 0, got -1.0 for ant -> bee"),
        ({"max_nfr": 0.1, "looks": 0}, "looks must be a whole number of at least 1, got 0"),
        ({"max_nfr": 0.1, "population": "all"}, "population must be"),
        ({"max_nfr": 0.1, "cluster": "hospital"}, "hospital"),
        ({"max_nfr_per_slice": 0.1, "cluster": "patient"}, "joined without any"),
    ],
)
def test_wrong_options_are_named(rows: dict[str, Any], options: dict[str, Any], message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        decide(rows, **options)


def test_every_limit_is_tried_here() -> None:
    source = Path(__file__).read_text()
    for limit in LIMITS:
        name = limit.partition("_per_")[0].partition("_")[2]
        assert f'"{name}"' in source or limit in source, limit


def test_joined_predictions_without_scores_are_refused(rows: dict[str, Any]) -> None:
    joined = join_predictions(predictions(rows, "old"), predictions(rows, "new"))
    with pytest.raises(ValueError, match=r"scores=\['brier'\]"):
        gate(joined, max_brier_increase=0.1)
