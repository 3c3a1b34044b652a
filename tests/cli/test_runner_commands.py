"""Nothing from the data may start a command of a runner of continuous integration; only annotations are commands."""

from __future__ import annotations

import csv
import io
import json
import re
from pathlib import Path
from xml.etree import ElementTree

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lightning_flip import cli

PLANTED = [
    "::error::planted",
    " \u00a0\u2028::set-output name=x::planted",
    "line\n::warning::planted",
    "line\r\u3000::add-mask::planted",
    "line\u2028::notice::planted",
    "\x1b[2K::debug::planted",
    "%0A::error::planted",
    "\u202e::error::planted",
    "a##[error]planted",
    "a##[add-path]planted",
    "a##vso[task.setvariable variable=x]planted",
    "##teamcity[buildStatus text='planted']",
]
SLICE = "::error::slice##[error]"
NAMES = {"error", "warning", "notice", "debug", "set-output", "add-mask", "add-path", "group", "stop-commands"}


def found(text: str) -> list[tuple[str, str, str]]:
    """Name, title and message of the commands in a log, as GitHub's runner reads them (and Azure's and TeamCity).

    Lines end at \\r or \\n. "::" counts at the start of a line, after any white space; "##[" anywhere.
    """
    commands = []
    for line in re.split("\r\n|\r|\n", text):
        match = re.match(r"::([^ :]+)( (.*?))?::(.*)", line.lstrip(), re.DOTALL)
        if match and match[1] in NAMES:
            options = dict(part.split("=", 1) for part in (match[3] or "").split(",") if "=" in part)
            commands.append((match[1], unescaped(options.get("title", "")), unescaped(match[4])))
        commands += [(name, "", line) for name in re.findall(r"##(?:vso|teamcity)?\[([^ \]]+)", line)]
    return commands


def unescaped(text: str) -> str:
    for code, character in {"%0D": "\r", "%0A": "\n", "%3A": ":", "%2C": ",", "%25": "%"}.items():
        text = text.replace(code, character)
    return text


def test_the_reader_of_this_test_finds_what_is_planted():
    assert [name for name, _, _ in found("\n".join(PLANTED))] == [
        "error", "set-output", "warning", "add-mask", "error", "add-path", "task.setvariable", "buildStatus",
    ]  # fmt: skip


@pytest.fixture
def words() -> list[str]:
    """Every planted text is an id, a class, and a value and the name of a slice; the files' names are planted, too."""
    ids = [f"{text}{number}" for number in range(20) for text in PLANTED]
    rows = {"sample_id": ids, "target": PLANTED * 20, "pred": PLANTED * 20, SLICE: PLANTED * 20}
    old, new = "::error::old.parquet", "::error::new##[error].parquet"
    pq.write_table(pa.table(rows), old)
    pq.write_table(pa.table({**rows, "pred": PLANTED[::-1] * 20}), new)
    Path("golden.json").write_text(json.dumps(ids))
    return ["--old", old, "--new", new, f"--slice={SLICE}"]


LIMITS = ["--max-nfr=1%", "--max-nfr-per-class=1%", "--max-nfr-per-slice=1%", "--must-not-flip=golden.json"]


@pytest.mark.parametrize("more", [[], ["--json=-"], ["--junit=-"], ["--markdown=-"], ["--quiet"]])
def test_no_output_of_the_gate_has_a_command(more, words, capsys):
    assert cli.main(["gate", *words, *LIMITS, *more]) == 1
    printed = "".join(capsys.readouterr())
    assert bool(printed) == (more != ["--quiet"])
    assert found(printed) == []


def test_no_file_of_the_gate_has_a_command(words, capsys):
    files = {option: f"gate.{option}" for option in ("json", "junit", "markdown")}
    tables = ["flips.csv", "flips.jsonl"]
    for table in tables:
        options = [f"--{option}={name}" for option, name in files.items()]
        assert cli.main(["gate", *words, *LIMITS, *options, f"--flips={table}"]) == 1
    for name in (*files.values(), *tables):
        assert found(Path(name).read_bytes().decode()) == [], name


def test_the_values_in_the_files_are_the_planted_ones(words, capsys):
    assert cli.main(["gate", *words, *LIMITS, "--json=gate.json", "--junit=gate.xml", "--flips=flips.jsonl"]) == 1
    limits = json.loads(Path("gate.json").read_text())["limits"]
    assert {group["name"] for group in limits[1]["groups"]} == set(PLANTED)
    flips = [json.loads(line) for line in Path("flips.jsonl").read_text().splitlines()]
    assert {flip["target"] for flip in flips} == {flip[SLICE] for flip in flips} == set(PLANTED)
    names = {case.get("name") for case in ElementTree.parse("gate.xml").iter("testcase")}
    printable = {text for text in PLANTED if all(letter.isprintable() or letter in "\r\n" for letter in text)}
    assert printable < names
    assert len(printable) == 7


def test_cells_of_the_csv_can_be_matched_with_the_ids(words, capsys):
    assert cli.main(["gate", *words, *LIMITS, "--flips=flips.csv"]) == 1
    rows = list(csv.DictReader(io.StringIO(Path("flips.csv").read_bytes().decode(), newline="")))
    cells = {row["target"].replace("\u2060", "").removeprefix("'") for row in rows}
    assert cells == set(PLANTED)


def test_annotations_are_the_only_commands(words, monkeypatch, capsys):
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", "summary.md")
    assert cli.main(["gate", *words, *LIMITS, "--github"]) == 1
    out, err = capsys.readouterr()
    assert err == ""
    commands = found(out)
    assert [name for name, _, _ in commands] == ["error"] * 5
    assert [title for _, title, _ in commands] == [
        "Update gate: fail",
        "max_nfr: fail",
        "max_nfr_per_class: fail",
        "max_nfr_per_slice: fail",
        "must_not_flip: fail",
    ]
    assert "240 of 240 samples are negative flips (100%)." in commands[0][2]
    assert "12 of 12 classes are over the limit of 1%" in commands[2][2]
    assert found(Path("summary.md").read_text(encoding="utf-8")) == []


@pytest.mark.parametrize("more", [[], ["--json=-"], ["--junit=-"], ["--markdown=-"]])
def test_errors_have_no_command(more, words, capsys):
    pq.write_table(pa.table(dict.fromkeys(("sample_id", "target", "pred"), PLANTED)), "few##[error].parquet")
    wrong = [
        ["--old=few##[error].parquet", "--new", words[3], *LIMITS],
        ["--old=missing\n::error::x\r::error::y##[error]", "--new", words[3], *LIMITS],
        [*words, *LIMITS, "--max-nfr=\n::error::x"],
        [*words, *LIMITS, "--unknown\n::error::x##[error]"],
        [*words[:4], "--slice=::error::x\n::error::y", *LIMITS],
        [*words[:4], "--id-column=\r::error::x", *LIMITS],
        [*words, *LIMITS[:3], "--must-not-flip=\n::error::x"],
        [*words, *LIMITS, "--junit=\n::error::x/y"],
    ]
    for case in wrong:
        if any(word.startswith("--junit") for word in case) and more == ["--junit=-"]:
            continue
        try:
            status = cli.main(["gate", *case, *more])
        except SystemExit as end:
            status = end.code
        assert status == 2, case
        assert found("".join(capsys.readouterr())) == [], case


def test_an_error_is_an_annotation(words, monkeypatch, capsys):
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", "summary.md")
    assert cli.main(["gate", "--old=a\n::error::x.csv", *words[2:], *LIMITS, "--github", "--quiet"]) == 2
    out, err = capsys.readouterr()
    ((level, title, message),) = found(out)
    assert (level, title) == ("error", "Update gate: error")
    assert "does not exist" in message
    assert "does not exist" in err
    assert found(err) == []
    assert "### ⛔ Update gate: error" in Path("summary.md").read_text(encoding="utf-8")


def test_a_traceback_has_no_command(words, monkeypatch, capsys):
    def fail(*given, **options):
        raise RuntimeError("a bug with\n::error::planted\r\x1b[1m::error::planted ##[error]")

    monkeypatch.setattr("lightning_flip.reports.gate", fail)
    assert cli.main(["gate", *words, *LIMITS]) == 2
    err = capsys.readouterr().err
    assert "RuntimeError: a bug with" in err
    assert found(err) == []
    assert "\x1b" not in err


def test_no_output_of_a_comparison_has_a_command(words, capsys):
    for more in ([], ["--json=-"], ["--markdown=-"]):
        assert cli.main(["compare", *words, *more]) == 0
    assert cli.main(["compare", *words, "--json=update.json", "--markdown=update.md"]) == 0
    files = "\n".join(Path(name).read_text(encoding="utf-8") for name in ("update.json", "update.md"))
    assert found("".join(capsys.readouterr()) + files) == []
