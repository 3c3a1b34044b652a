from __future__ import annotations

import csv
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from lightning_flip import cli
from lightning_flip.stores import read_corrections
from tests.reports.test_review import TRUTH, WRONG, make_run


@pytest.fixture
def run(tmp_path: Path) -> str:
    make_run(tmp_path / "run")
    return str(tmp_path / "run")


def fill_in(path: str, *, corrected: bool = False) -> None:
    """What a reviewer who knows the truth does to a file."""
    with open(path, newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    for row in rows:
        wrong = int(row["index"]) in WRONG
        row["review"] = "wrong" if wrong else "right"
        row["corrected_label"] = str(TRUTH[int(row["index"])]) if wrong and corrected else ""
    with open(path, "w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def test_a_list_is_made_reviewed_and_read_back(run: str, capsys) -> None:
    assert cli.main(["suspects", run, "--csv", "check.csv"]) == 0
    fill_in("check.csv")
    capsys.readouterr()
    assert cli.main(["relabel", run, "check.csv", "--out", "labels.csv"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "12 of 12 samples were reviewed: 3 labels are wrong, 9 right, 0 unsure.",
        "labels.csv: 3 corrected labels, 3 of them as suggested.",
    ]
    assert {one.index: one.label for one in read_corrections("labels.csv")} == {n: TRUTH[n] for n in WRONG}
    assert Path("labels.csv").read_text(encoding="utf-8").splitlines()[0] == (
        "split,loader,index,sample_id,given_label,label"
    )


def test_the_columns_to_fill_in_are_behind_those_that_identify(run: str, capsys) -> None:
    assert cli.main(["suspects", run, "--csv", "-"]) == 0
    header = capsys.readouterr().out.splitlines()[0].split(",")
    assert header[:8] == [
        *("index", "sample_id", "path", "given_label", "given_name"),
        *("review", "corrected_label", "predicted_label"),
    ]


def test_labels_are_printed_alone(run: str, capsys) -> None:
    assert cli.main(["suspects", run, "--top", "1", "--csv", "check.csv"]) == 0
    fill_in("check.csv")
    capsys.readouterr()
    assert cli.main(["relabel", run, "check.csv", "--out", "-"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 2


def test_an_audit_says_what_it_can_tell_and_then_counts(run: str, capsys) -> None:
    assert cli.main(["suspects", run, "--audit", "8", "--csv", "audit.csv"]) == 0
    assert capsys.readouterr().out.startswith("8 looks at 12 samples will tell the number of wrong labels to about ±")
    first = Path("audit.csv").read_bytes()
    assert b"predicted" not in first
    assert b"score" not in first
    assert cli.main(["suspects", run, "--audit", "8", "--seed", "0", "--csv", "audit.csv"]) == 0
    assert Path("audit.csv").read_bytes() == first
    assert cli.main(["suspects", run, "--audit", "8", "--seed", "1", "--csv", "other.csv"]) == 0
    assert Path("other.csv").read_bytes() != first
    fill_in("audit.csv")
    capsys.readouterr()
    assert cli.main(["relabel", run, "audit.csv"]) == 0  # a count needs no corrected label
    assert "Audit: about " in capsys.readouterr().out
    assert cli.main(["relabel", run, "audit.csv", "--out", "labels.csv"]) == 2
    assert "an audit takes no suggestion" in capsys.readouterr().err
    assert not Path("labels.csv").exists()
    fill_in("audit.csv", corrected=True)
    assert cli.main(["relabel", run, "audit.csv", "--out", "labels.csv"]) == 0
    assert all(TRUTH[one.index] == one.label for one in read_corrections("labels.csv"))


@pytest.mark.parametrize(
    "words",
    [
        ["suspects", "RUN", "--csv", "check.csv"],
        ["suspects", "RUN", "--audit", "8", "--csv", "check.csv"],
        ["relabel", "RUN", "audit.csv", "--out", "check.csv"],
    ],
)
def test_reviews_are_never_overwritten(words: list[str], run: str, capsys) -> None:
    assert cli.main(["suspects", run, "--csv", "check.csv"]) == 0
    assert cli.main(["suspects", run, "--csv", "check.csv"]) == 0  # nothing filled in yet
    assert cli.main(["suspects", run, "--audit", "12", "--csv", "audit.csv"]) == 0
    for path in ("check.csv", "audit.csv"):
        fill_in(path, corrected=True)
    before = Path("check.csv").read_bytes()
    assert cli.main([run if word == "RUN" else word for word in words]) == 2
    assert "check.csv has reviews in it, and is not overwritten" in capsys.readouterr().err
    assert Path("check.csv").read_bytes() == before


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["relabel", "RUN", "missing.csv"], "missing.csv: No such file"),
        (["relabel", "nowhere", "check.csv"], "run.json"),
        (["relabel", "RUN", "check.csv", "--split", "val"], "'val'"),
        (["relabel", "RUN", "check.csv"], "none of 12 rows has a review"),
        (["suspects", "RUN", "--audit", "1", "--csv", "a.csv"], "--audit: looks must be at least 2 per stratum"),
    ],
)
def test_what_cannot_be_done_is_said_without_a_traceback(words: list[str], said: str, run: str, capsys) -> None:
    assert cli.main(["suspects", run, "--csv", "check.csv"]) == 0
    capsys.readouterr()
    assert cli.main([run if word == "RUN" else word for word in words]) == 2
    text = capsys.readouterr().err
    assert said in text
    assert "Traceback" not in text


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["suspects", "run", "--audit", "5"], "--audit needs --csv FILE"),
        (["suspects", "run", "--audit", "0", "--csv", "a.csv"], "whole number from 1"),
        (["relabel", "run", "check.csv", "--out", "check.csv"], "would overwrite check.csv, which is read"),
        (["relabel", "run"], "LIST"),
    ],
)
def test_wrong_usage(words: list[str], said: str, capsys) -> None:
    with pytest.raises(SystemExit) as end:
        cli.main(words)
    assert end.value.code == 2
    assert said in capsys.readouterr().err


def test_another_run_is_refused(run: str, tmp_path: Path, capsys) -> None:
    make_run(tmp_path / "other", label=np.roll(TRUTH, 1))
    assert cli.main(["suspects", run, "--csv", "check.csv"]) == 0
    fill_in("check.csv")
    assert cli.main(["relabel", str(tmp_path / "other"), "check.csv", "--out", "labels.csv"]) == 2
    assert "The list belongs to another run" in capsys.readouterr().err
    assert not Path("labels.csv").exists()


def test_it_starts_without_torch(run: str) -> None:
    assert cli.main(["suspects", run, "--csv", "check.csv"]) == 0
    fill_in("check.csv")
    code = (
        "import sys; from lightning_flip.cli import main;"
        f"main(['relabel', {run!r}, 'check.csv', '--out', 'labels.csv']); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=False).returncode == 0
