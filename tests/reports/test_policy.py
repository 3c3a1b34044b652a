from __future__ import annotations

import dataclasses
import datetime
from pathlib import Path

import jsonschema
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightning_flip.reports.gating.lists import AllowedFlip, read_allowed_flips, read_costs, read_ids, without_header
from lightning_flip.reports.gating.policy import (
    AMOUNTS,
    Policy,
    PolicyError,
    parse_policy,
    policy_schema,
    read_policy,
)
from lightning_flip.stores import PredictionError

DAY = datetime.date(2027, 3, 31)
FULL = """
version: 1
block:
  max_nfr: 1%
  max_nfr_per_class: 0.03
  max_flip_cost: 2.5
  must_not_flip: golden_ids.txt
  must_be_right: sub/right.json
warn:
  max_churn: 5 %
  max_ece_increase: 0.7%
slices: [site, "2024", site]
top_k: 3
min_support: 50
error: 2.5%
population: fixed
cluster: patient_id
design_effect: true
looks: 2
inconclusive: warn
allowed_flips:
  - {id: 007, reason: blurred, until: 2027-03-31}
  - id: 8
    reason: "no label"
    until: "2027-03-31"
costs: /etc/costs.csv
columns: {id: file, target: [truth, label]}
allow_partial: true
min_coverage: 95%
drop_unlabelled: true
shared_classes: true
shared_argmax: true
"""
EXPECTED = Policy(
    block={"max_nfr": 0.01, "max_nfr_per_class": 0.03, "max_flip_cost": 2.5},
    warn={"max_churn": 0.05, "max_ece_increase": 0.007},
    must_not_flip="rules/golden_ids.txt",
    must_be_right="rules/sub/right.json",
    slices=("site", "2024"),
    top_k=3,
    min_support=50,
    error=0.025,
    population="fixed",
    cluster="patient_id",
    design_effect=True,
    looks=2,
    inconclusive="warn",
    allowed_flips=(AllowedFlip("007", "blurred", DAY), AllowedFlip("8", "no label", DAY)),
    costs="/etc/costs.csv",
    columns={"id": ("file", "file"), "target": ("truth", "label")},
    allow_partial=True,
    min_coverage=0.95,
    drop_unlabelled=True,
    shared_classes=True,
    shared_argmax=True,
)


def limits() -> st.SearchStrategy[dict[str, float]]:
    names = policy_schema()["properties"]["warn"]["properties"]
    shares = st.floats(0, 1, exclude_max=True, allow_subnormal=False)
    values = {name: st.floats(0, 1e9) if name in AMOUNTS else shares for name in names if name != "max_ece_increase"}
    return st.fixed_dictionaries({}, optional=values)


class TestRead:
    def test_every_key(self):
        Path("rules").mkdir()
        Path("rules/policy.yaml").write_bytes(b"\xef\xbb\xbf" + FULL.encode())
        policy = read_policy("rules/policy.yaml")
        for field in dataclasses.fields(Policy):
            name = field.name
            assert getattr(EXPECTED, name) != getattr(Policy(), name), f"{name} is not tried"
            assert getattr(policy, name) == getattr(EXPECTED, name), name

    def test_the_schema_and_the_class_have_the_same_keys(self):
        keys = policy_schema()["properties"]
        lists = {"must_not_flip", "must_be_right"}
        assert set(keys) - {"version"} == {field.name for field in dataclasses.fields(Policy)} - lists
        assert set(keys["block"]["properties"]) == {*keys["warn"]["properties"], *lists} - {"max_ece_increase"}
        amounts = {name for name, kind in keys["warn"]["properties"].items() if kind["$ref"].endswith("amount")}
        assert amounts == set(AMOUNTS)

    def test_the_schema_is_one(self):
        jsonschema.Draft202012Validator.check_schema(policy_schema())

    @pytest.mark.parametrize(
        "text", ["no", "007", "1_000", "1:30", "2027-03-31", "0x1F", "on", "1e", "10.", "+1", "=", "<<"]
    )
    def test_text_that_yaml_1_1_takes_for_something_else_stays_text(self, text):
        assert parse_policy(f"version: 1\nslices: [{text}]").slices == (text,)

    @pytest.mark.parametrize(
        ("text", "limit"), [("1%", 0.01), ("0.7%", 0.007), ("'0.01'", 0.01), (".5", 0.5), ("1e-3", 0.001), ("0", 0)]
    )
    def test_rates_are_shares_or_percentages(self, text, limit):
        assert parse_policy(f"version: 1\nblock:\n  max_nfr: {text}").block == {"max_nfr": limit}

    def test_all_problems_at_once_in_the_order_of_the_lines(self):
        with pytest.raises(PolicyError) as error:
            parse_policy("version: 1\nblock:\n  max_nfr: 2\n  max_nrf: 1%\nlooks: 0\n", "p.yaml")
        assert [line.split(": ")[0] for line in str(error.value).split("\n")] == [
            f"p.yaml, line {n}" for n in (3, 4, 5)
        ]

    @pytest.mark.parametrize("package", ["yaml", "jsonschema"])
    def test_a_package_that_is_missing(self, package, monkeypatch):
        monkeypatch.setitem(__import__("sys").modules, package, None)
        monkeypatch.delitem(__import__("sys").modules, "lightning_flip.reports.gating._policy_yaml", raising=False)
        with pytest.raises(ModuleNotFoundError, match=rf"{package}.*pip install 'lightning-flip\[gate\]'"):
            parse_policy("version: 1")


class TestWrite:
    def test_what_is_written_is_read_back(self):
        assert parse_policy(EXPECTED.to_yaml()) == EXPECTED

    @given(limits(), limits(), st.lists(st.text(min_size=1), unique=True), st.text(min_size=1))
    def test_any_limits_and_names(self, block, warn, slices, path):
        policy = Policy(block=block, warn=warn, slices=tuple(slices), must_not_flip=path, cluster=path)
        assert parse_policy(policy.to_yaml()) == policy

    def test_defaults_are_left_out(self):
        assert Policy().to_yaml() == "version: 1\n"


class TestReplace:
    def test_a_limit_replaces_the_one_of_its_name_and_tier(self):
        policy = Policy(block={"max_nfr": 0.01, "max_churn": 0.1}, warn={"max_nfr": 0.005}, looks=3, error=0.1)
        changed = policy.replaced({"block": {"max_nfr": 0.02}, "looks": 1, "columns": {"id": ("a", "b")}})
        assert changed.block == {"max_nfr": 0.02, "max_churn": 0.1}
        assert changed.warn == {"max_nfr": 0.005}
        assert (changed.looks, changed.error, changed.columns) == (1, 0.1, {"id": ("a", "b")})


class TestIds:
    @pytest.mark.parametrize(
        ("content", "ids"),
        [
            ("# of the March audit\n7\n#\n#8\n #9\n# 10\n", ["7", "#8", " #9"]),
            ("#tag\n7\n7\n", ["#tag", "7"]),
            ("\ufeffid\r\n7\r\n", ["id", "7"]),
        ],
    )
    def test_comments_are_a_sign_and_a_blank(self, content, ids):
        Path("golden.txt").write_bytes(content.encode())
        assert read_ids("golden.txt") == ids

    def test_no_comments_in_json(self):
        Path("golden.json").write_text('["# 7", "#"]')
        assert read_ids("golden.json") == ["# 7", "#"]

    def test_only_comments(self):
        Path("golden.txt").write_text("# nothing yet\n")
        with pytest.raises(PredictionError, match="at least one"):
            read_ids("golden.txt")

    @pytest.mark.parametrize(
        ("ids", "known", "rest"),
        [
            (["id", "a"], [], ["a"]),
            (["file", "a"], [], ["a"]),
            (["file", "a"], ["file"], ["file", "a"]),
            (["a", "id"], [], ["a", "id"]),
            (["ID", "a"], [], ["ID", "a"]),
            (["id"], [], ["id"]),
        ],
    )
    def test_a_header_is_the_name_of_the_column_and_no_id(self, ids, known, rest):
        assert without_header(ids, pa.array([*known, "b"]), ["file"]) == rest


class TestAllowedFlips:
    def test_as_spreadsheets_save_them(self):
        Path("waivers.csv").write_bytes(
            b"\xef\xbb\xbfid;reason;until;ticket\r\n007;blurred ;2027-03-31;A-1\r\n'=1+1;formula;2026-01-01;\r\n"
        )
        first, second = read_allowed_flips("waivers.csv")
        assert first == AllowedFlip("007", "blurred", DAY)
        assert second == AllowedFlip("=1+1", "formula", datetime.date(2026, 1, 1))

    @pytest.mark.parametrize(
        ("content", "said"),
        [
            ("id,reason\n7,blurred\n", "columns id, reason, until; until is missing, it has id, reason"),
            ("", "is empty"),
            ("id,reason,until\n,blurred,2027-03-31\n", "line 2: id must name a sample"),
            ("id,reason,until\n7, ,2027-03-31\n", "line 2: 7 must have a reason"),
            ("id,reason,until\n7,blurred,\n", "line 2: until of 7 must be a day written as 2027-03-31"),
            ("id,reason,until\n7,blurred,31.3.2027\n", "got 31.3.2027"),
            ("id,reason,until\n7,blurred,2027-02-30\n", "got 2027-02-30"),
            ("id,reason,until\n7,blurred,2027-W05-1\n", "got 2027-W05-1"),
            ("id,reason,until\n7,a,2027-03-31\n7,b,2027-03-31\n", "line 3: 7 occurs twice"),
        ],
    )
    def test_a_list_that_cannot_be_used(self, content, said):
        Path("waivers.csv").write_text(content)
        with pytest.raises(PredictionError) as error:
            read_allowed_flips("waivers.csv")
        assert said in str(error.value)
        assert "waivers.csv" in str(error.value)


class TestCosts:
    def test_a_cost_for_each_pair(self):
        Path("costs.csv").write_text("old,new,cost\ncat,dog,1\ndog,cat,2.5\n3,4,0\n")
        assert read_costs("costs.csv") == {("cat", "dog"): 1.0, ("dog", "cat"): 2.5, ("3", "4"): 0.0}

    @pytest.mark.parametrize(
        ("content", "said"),
        [
            ("old,new\ncat,dog\n", "cost is missing"),
            ("old,new,cost\n", "at least one pair"),
            ("old,new,cost\ncat,,1\n", "line 2: old and new must be classes"),
            ("old,new,cost\ncat,dog,-1\n", "line 2: the cost of cat -> dog must be a number from 0, got -1"),
            ("old,new,cost\ncat,dog,nan\n", "got nan"),
            ("old,new,cost\ncat,dog,inf\n", "got inf"),
            ("old,new,cost\ncat,dog,1_0\n", "got 1_0"),
            ("old,new,cost\ncat,dog,\n", "must be a number"),
            ("old,new,cost\ncat,cat,1\n", "cat -> cat is not a flip"),
            ("old,new,cost\ncat,dog,1\ncat,dog,2\n", "line 3: cat -> dog occurs twice"),
        ],
    )
    def test_costs_that_cannot_be_used(self, content, said):
        Path("costs.csv").write_text(content)
        with pytest.raises(PredictionError) as error:
            read_costs("costs.csv")
        assert said in str(error.value)
