"""The gate's JSON and JUnit XML against their schemas; both are read by programs that know nothing else of them."""

import collections
import dataclasses
import importlib.resources
import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import jsonschema
import numpy as np
import pyarrow as pa
import pytest
import xmlschema

from lightning_flip.reports import GateResult, JoinedPredictions, gate, gate_json, gate_junit
from lightning_flip.reports.gating.decision import LIMITS
from lightning_flip.reports.gating.output import error_json, error_junit

JUNIT = xmlschema.XMLSchema(str(Path(__file__).parents[1] / "fixtures/junit/junit-10.xsd"))
SCHEMA = json.loads(importlib.resources.files("lightning_flip.reports.gating").joinpath("gate.schema.json").read_text())
VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)


def joined(flips: int, samples: int, **more: Any) -> JoinedPredictions:
    """Of the first class the first samples flip, so that the classes and slices differ."""
    target = np.arange(samples) * 2 // samples
    new = np.where(np.arange(samples) < flips, 1, target)
    ids = pa.array([str(position) for position in range(samples)])
    return JoinedPredictions(ids, ("cat", "dog"), target, target, new, **{"slices": {"site": site(samples)}, **more})


def verdict(flips: int, samples: int, **more: Any) -> GateResult:
    limits = {"max_nfr": 0.02, "max_nfr_per_class": 0.02, "max_nfr_per_slice": 0.02, "min_old_accuracy": 0.9}
    return gate(joined(flips, samples, **more), **limits, must_not_flip=["0", str(samples - 1)])


VERDICTS = {"pass": (0, 1000), "fail": (100, 1000), "inconclusive": (0, 100)}


@pytest.mark.parametrize("status", VERDICTS)
def test_json_of_every_verdict_is_valid(status):
    result = verdict(*VERDICTS[status])
    assert result.status == status
    VALIDATOR.validate(json.loads(gate_json(result)))


def test_json_of_an_error_is_valid():
    VALIDATOR.validate(json.loads(error_json("old.csv does not exist.")))


def test_json_tells_what_was_left_out_and_warned_of():
    result = verdict(0, 1000, only_old=3, unlabelled=1, warnings=("Both files predict the same.",))
    written = json.loads(gate_json(result))
    VALIDATOR.validate(written)
    assert written["left_out"] == {"only_old": 3, "unlabelled": 1}
    assert written["warnings"]


def test_the_schema_refuses_what_it_does_not_know():
    """Else a new number could reach the JSON without the schema."""
    VALIDATOR.check_schema(SCHEMA)
    written = json.loads(gate_json(verdict(0, 1000)))
    for part in (written, written["limits"][0], written["limits"][0]["groups"][0], written["old_accuracy"]):
        part["unknown"] = 1
        assert not VALIDATOR.is_valid(written)
        del part["unknown"]
    VALIDATOR.validate(written)
    for missing in ("schema", "tool_version", "could_flip", "limits"):
        assert not VALIDATOR.is_valid({key: value for key, value in written.items() if key != missing})


@pytest.mark.parametrize("status", VERDICTS)
def test_junit_of_every_verdict_is_valid(status):
    JUNIT.validate(gate_junit(verdict(*VERDICTS[status])))


def test_junit_of_an_error_is_valid():
    JUNIT.validate(error_junit("old.csv does not exist."))


def test_the_junit_schema_refuses_skipped_tests_at_the_top():
    text = gate_junit(verdict(0, 1000))
    with pytest.raises(xmlschema.XMLSchemaValidationError):
        JUNIT.validate(text.replace("<testsuites ", '<testsuites skipped="0" ', 1))


def test_junit_of_many_groups_is_small_valid_and_counts_those_that_it_leaves_out():
    classes = 3_000
    labels = tuple("&\x1b" * 400 + str(code) for code in range(classes))
    target = np.repeat(np.arange(classes), np.where(np.arange(classes) < 1500, 20, 3))
    new = np.where(target < 1500, target + 1, target)  # all 20 samples of half of the classes flip
    ids = pa.array([f"{position}" * 20 for position in range(len(target))])
    result = gate(
        JoinedPredictions(ids, labels, target, target, new), max_nfr_per_class=0.3, must_not_flip=ids.to_pylist()
    )
    text = gate_junit(result)
    JUNIT.validate(text)
    assert len(text.encode()) < 2_000_000
    root = ElementTree.fromstring(text)
    of_classes, of_ids = root
    tests = {str(test.get("name")): test for test in of_classes.iter("testcase")}
    assert len(tests) == 1001
    statuses = {group.name: group.status for group in result.outcomes[0].groups}
    counts = collections.Counter(statuses.values())
    assert counts == {"fail": 1500, "inconclusive": 1500}
    assert len(root.findall(".//testcase/failure")) == 1000 + 1 + 1  # the worst, the others, the ids
    (others,) = tests["other groups"]
    assert others.tag == "failure"
    assert "500 fail, 1,500 inconclusive: these 2,000 groups" in str(others.get("message"))
    assert "and 29,000 more ids" in str(of_ids.find("testcase/failure").text)


def test_junit_lists_every_group_where_there_are_few_in_their_order():
    suites = ElementTree.fromstring(gate_junit(verdict(100, 1000))).findall("testsuite")
    names = [[test.get("name") for test in suite.iter("testcase")] for suite in suites]
    slices = ["site=(missing)", "site=day"]
    assert names == [["all samples"], ["cat", "dog"], slices, ["all samples"], ["must_not_flip"]]


def scored(samples: int = 300, flips: int = 6, **more: Any) -> JoinedPredictions:
    """With everything that a limit can be decided on."""
    draw = np.random.default_rng(0)
    names = ("prob_label", "brier", "nll", "in_top_5")
    data = joined(flips, samples, **more)
    probability = {name: (np.full(samples, 0.8), np.clip(draw.normal(0.75, 0.1, samples), 0.0, 1.0)) for name in names}
    probability["in_top_5"] = (np.ones(samples), (np.arange(samples) > 3).astype(float))
    sure = draw.uniform(0.5, 1.0, (2, samples))
    return dataclasses.replace(data, scores=probability, old_confidence=sure[0], new_confidence=sure[1])


@pytest.mark.parametrize("name", LIMITS)
@pytest.mark.parametrize(
    "how", [{}, {"population": "fixed"}, {"cluster": "patient"}, {"looks": 3}, {"min_support": 400}]
)
def test_json_and_junit_of_every_kind_of_limit_are_valid(name, how):
    data = scored(slices={"site": site(300), "patient": patients(300)})
    costs = {"costs": {("cat", "dog"): 2.5}} if name == "max_flip_cost" else {}
    for limit in (0.0, 0.02, 1.0):
        limits = {"warn": {name: limit}} if name == "max_ece_increase" else {name: limit, "warn": {name: limit}}
        written = both_valid(gate(data, **limits, **costs, **how))
        assert {outcome["name"] for outcome in written["limits"]} == {name}


def test_json_and_junit_of_groups_in_which_nothing_counts_are_valid():
    """No errors of the new model, or none right of the old one: no share and no bounds."""
    data = scored(flips=0)
    limits = {name: 0.02 for name in LIMITS if name.startswith(("max_nfi", "max_relative"))}
    written = both_valid(gate(data, **limits))
    assert {outcome["status"] for outcome in written["limits"]} == {"inconclusive"}
    never = dataclasses.replace(data, old_pred=1 - data.target)
    names = [name for name in LIMITS if name.startswith(("max_nf", "max_rel", "max_acc", "max_churn", "min_"))]
    both_valid(gate(never, **dict.fromkeys(names, 0.02)))


def test_lists_of_samples_are_valid():
    written = both_valid(
        gate(scored(), must_not_flip=["0", "299"], must_be_right=["1", "2"], allowed_flips={"1": "known"})
    )
    assert [outcome["name"] for outcome in written["limits"]] == ["must_not_flip", "must_be_right"]
    assert written["warnings"]


def test_a_limit_that_only_warns_is_a_skipped_test():
    result = gate(joined(100, 1000), max_nfr=0.5, warn={"max_nfr": 0.01, "max_nfr_per_class": 0.01})
    assert result.status == "pass"
    root = ElementTree.fromstring(gate_junit(result))
    assert (root.get("failures"), root.get("errors"), root.get("skipped")) == ("0", "0", None)
    assert [suite.get("skipped") for suite in root] == ["0", "1", "1"]  # of two classes one flips
    both_valid(result)


def both_valid(result: GateResult) -> dict[str, Any]:
    JUNIT.validate(gate_junit(result))
    written: dict[str, Any] = json.loads(gate_json(result), parse_constant=lambda name: pytest.fail(name))
    VALIDATOR.validate(written)
    return written


def site(samples: int) -> Any:
    return np.array(["day" if position % 2 else "" for position in range(samples)], object)


def patients(samples: int) -> Any:
    return np.array([str(position // 3) for position in range(samples)], object)
