import dataclasses
import json
import re
from collections.abc import Callable
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pyarrow as pa
import pytest

import lightning_flip
from lightning_flip.reports import (
    GateResult,
    JoinedPredictions,
    gate,
    gate_json,
    gate_junit,
    gate_markdown,
    gate_text,
)
from lightning_flip.reports.gating.output import error_json, error_junit, error_markdown
from lightning_flip.reports.text import printable

HOSTILE = [
    "<b>&amp;</b>]]>",
    "say \"cheese\" 'n' |pipe| `code`",
    "two\nlines\r\n\tand tab",
    "bell\x07 escape\x1b[31m nul\x00 del\x7f c1\x9b2J",
    "noncharacters \ufffe\uffff",
    "right-to-left \u202e and \u2028 separator",
    "@person #1 [link](http://x) ![image](y) ~~gone~~ *a* _b_",
    "</details><script>alert(1)</script>",
    "../../etc/passwd",
    "日本語 😀",
    " ",
    "=cmd|' /C calc'!A0",
]


def hostile() -> GateResult:
    """Every hostile label is a class and a slice value, every hostile id flips, and class 0 of them fails."""
    target = np.repeat(np.arange(len(HOSTILE)), 40)
    new = (target + 1) % len(HOSTILE)
    new[40 * 6 :] = target[40 * 6 :]  # the second half does not flip
    ids = [f"{HOSTILE[code]}/{position}" for position, code in enumerate(target)]
    values = np.array([HOSTILE[code] for code in target], object)
    data = JoinedPredictions(
        pa.array(ids), tuple(HOSTILE), target, target, new, slices={"<col|umn>\n\x1b": values},
        old_name="runs/\udc80\x1b|<old>.parquet", new_name="@new\n.parquet", only_old=5,
    )  # fmt: skip
    flipped = [ids[position] for position in range(0, len(ids), 40)]
    return gate(data, max_nfr=0.5, max_nfr_per_class=0.01, max_nfr_per_slice=0.3, must_not_flip=flipped)


def simple(flips: int = 0, samples: int = 500, **limits: Any) -> GateResult:
    target = np.repeat([0, 1], [samples, 100])
    new = np.where(np.arange(len(target)) < flips, 1, target)
    ids = pa.array([str(position) for position in range(len(target))])
    data = JoinedPredictions(ids, ("cat", "dog"), target, target, new, old_name="old.csv", new_name="new.csv")
    return gate(data, **limits)


def parse(text: str) -> ElementTree.Element:
    """Strictly: as bytes, in the encoding that it declares, and with no character that XML forbids."""
    assert not re.search("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]", text)
    return ElementTree.fromstring(text.encode("utf-8"))


# JUnit


def test_junit_counts_failures_and_errors() -> None:
    result = simple(30, max_nfr=0.2, max_nfr_per_class=0.02, must_not_flip=["7", "599"])
    root = parse(gate_junit(result))
    assert root.tag == "testsuites"
    assert (root.get("tests"), root.get("failures"), root.get("errors")) == ("4", "2", "1")
    suites = {part.get("name"): part for part in root}
    assert [part.tag for part in root] == ["testsuite"] * 3
    assert [(s.get("tests"), s.get("failures"), s.get("errors")) for s in root] == [
        ("1", "0", "0"),
        ("2", "1", "1"),
        ("1", "1", "0"),
    ]
    tests = {test.get("name"): test for test in suites["max_nfr_per_class"].iter("testcase")}
    assert [problem.tag for problem in tests["cat"]] == ["failure"]
    assert [problem.tag for problem in tests["dog"]] == ["error"]
    assert "30 of 500 samples flipped (6%)" in problem(tests["cat"])[0]
    assert "A fresh test set of" in problem(tests["dog"])[1]
    assert not list(next(suites["max_nfr"].iter("testcase")))
    assert problem(next(suites["must_not_flip"].iter("testcase")))[1].endswith("\n7")


def test_junit_of_hostile_names_is_well_formed() -> None:
    result = hostile()
    root = parse(gate_junit(result))
    tests = root.findall("testsuite/testcase")
    assert len(tests) == 1 + 12 + 12 + 1
    names = [test.get("name") for test in suite(root, "max_nfr_per_class").iter("testcase")]
    for name, label in zip(names, HOSTILE, strict=True):
        shown = all(letter.isprintable() or letter in "\t\n\r" for letter in label)
        assert (name == label) == shown, label  # what can be printed comes through as it is
    assert names[3] == "bell\\x07 escape\\x1b[31m nul\\x00 del\\x7f c1\\x9b2J"
    assert "noncharacters \\ufffe\\uffff/160" in problem(next(suite(root, "must_not_flip").iter("testcase")))[1]
    assert int(root.attrib["failures"]) == len(root.findall(".//failure")) > 0
    assert int(root.attrib["errors"]) == len(root.findall(".//error")) > 0


# JSON


def test_json_holds_everything() -> None:
    result = hostile()
    numbers = json.loads(gate_json(result), parse_constant=lambda name: pytest.fail(name))
    assert (numbers.pop("schema"), numbers.pop("tool_version")) == ("lightning-flip/gate/2", lightning_flip.__version__)
    numbers.pop("old")
    assert numbers == {key: value for key, value in result.to_dict().items() if key != "old"}
    assert [group["name"] for group in numbers["limits"][1]["groups"]] == HOSTILE
    assert len(numbers["limits"][3]["flipped"]) == 6
    gate_json(result).encode("utf-8")


# Markdown


def problem(test: ElementTree.Element) -> tuple[str, str]:
    """Message and text of a test that did not pass."""
    return str(test[0].get("message")), str(test[0].text)


def suite(root: ElementTree.Element, name: str) -> ElementTree.Element:
    (found,) = root.findall(f"testsuite[@name='{name}']")
    return found


def rows(markdown: str) -> list[str]:
    return [line for line in markdown.splitlines() if line.startswith("|")]


def cells(row: str) -> list[str]:
    return re.split(r"(?<!\\)(?:\\\\)*\|", row)[1:-1]


def test_markdown_of_hostile_names_keeps_its_form() -> None:
    text = gate_markdown(hostile())
    text.encode("utf-8")
    assert re.sub("[^\n]", "", text) == "\n" * len(text.splitlines())  # no other line break
    lines = text.split("\n")
    assert sum(line.startswith("<details>") for line in lines) == sum(line == "</details>" for line in lines) == 3
    tables = [line for line in lines if line.startswith("|")]
    assert {len(cells(line)) for line in tables} == {4, 8}
    assert len(tables) == 2 + 4 + 2 * (2 + 12)
    plain = re.sub(r"</?(details|summary)>", "", text)
    assert not re.search("[<>\x1b\x00\x07\x9b\u202e\u2028]", plain)
    assert not re.search(r"[@#]\w", plain)  # nobody is called, and no issue named
    assert not re.search(r"(?<!\\)[`\[*~]", plain)


def test_markdown_shows_the_worst_groups_first() -> None:
    target = np.repeat(np.arange(50), 100)
    new = np.where((target == 33) & (np.arange(5000) % 2 == 0), 0, target)
    data = JoinedPredictions(pa.array([str(n) for n in range(5000)]), tuple(range(50)), target, target, new)
    text = gate_markdown(gate(data, max_nfr_per_class=0.03, max_nfr=0.03), most_groups=5)
    table = rows(text)[4:]
    assert cells(table[2])[0].strip() == "33"
    assert len(table) == 2 + 5
    assert "45 more are in the JSON report." in text
    assert "<summary>max_nfr_per_class: 1 fail, 49 pass</summary>" in text
    assert text.startswith("### ❌ Update gate: fail\n")


def test_markdown_fits_into_a_comment_with_a_thousand_classes() -> None:
    target = np.repeat(np.arange(1000), 20)
    labels = tuple(f"{'|' * 500}{position}" for position in range(1000))
    data = JoinedPredictions(pa.array([str(n) for n in range(20_000)]), labels, target, target, (target + 1) % 1000)
    text = gate_markdown(gate(data, max_nfr_per_class=0.03, must_not_flip=list(map(str, range(20_000)))))
    assert len(text) < 20_000


# Text


def test_text_names_the_decision_and_fits_the_terminal() -> None:
    text = gate_text(simple(30, max_nfr=0.2, max_nfr_per_class=0.02, must_not_flip=["7", "599"]), width=60)
    lines = text.splitlines()
    assert lines[0] == "Update gate: FAIL"
    assert lines[1] == "old.csv -> new.csv: 30 of 600 samples are negative flips"
    assert "pass  max_nfr (at most 20%)" in lines
    assert "fail  max_nfr_per_class (at most 2%)" in lines
    assert "fail  must_not_flip" in lines
    assert max(map(len, lines)) <= 60


def test_text_of_hostile_names_moves_no_cursor() -> None:
    text = gate_text(hostile())
    assert all(printable(line) == line for line in text.split("\n"))
    assert "only the old model has" in " ".join(text.split())
    text.encode("utf-8")


def outputs(result: GateResult) -> dict[str, str]:
    writers = {"text": gate_text, "markdown": gate_markdown, "json": gate_json, "junit": gate_junit}
    return {name: " ".join(write(result).split()) for name, write in writers.items()}


def test_every_output_tells_the_accuracies_and_who_could_flip() -> None:
    for name, text in outputs(simple(flips=3, max_nfr=0.5)).items():
        assert ('"could_flip": 600' if name == "json" else "600 of 600 samples could flip") in text
        assert ('"new_accuracy"' if name == "json" else "new 99.5%") in text


def test_every_output_repeats_the_warnings() -> None:
    result = dataclasses.replace(simple(max_nfr=0.5), warnings=("Both files predict the same class.",))
    for text in outputs(result).values():
        assert "Both files predict the same class." in text


def test_nothing_that_turns_text_around_is_written() -> None:
    result = dataclasses.replace(simple(max_nfr=0.5), old_name="a\u202eb\x1b[31m", warnings=("\u2066x\x07",))
    for text in outputs(result).values():
        assert not {"\u202e", "\u2066", "\x1b", "\x07"} & set(text)


@pytest.mark.parametrize("write", [error_json, error_junit, error_markdown])
def test_an_error_is_stated_whatever_is_in_it(write: Callable[[str], str]) -> None:
    text = write("no <file> \u202e\x00 | `x`")
    assert not {"\u202e", "\x00"} & set(text)
    assert "<file>" not in text or write is error_json
    if write is error_json:
        assert json.loads(text)["error"] == "no <file> \u202e\x00 | `x`"
    if write is error_junit:
        assert parse(text).get("errors") == "1"
