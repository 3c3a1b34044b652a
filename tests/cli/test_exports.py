"""Options of `suspects` for other tools."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from lightning_flip import cli
from lightning_flip.reports.exports import huggingface_metadata
from lightning_flip.stores import History
from tests.oracles.label_studio import read_label_studio
from tests.reports.small_runs import one_wrong_label


@pytest.fixture
def run(tmp_path: Path) -> History:
    return one_wrong_label(tmp_path / "run")


def test_it_writes_every_format(run: History, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("pets").mkdir()
    words = ["suspects", str(tmp_path / "run"), "--top", "2"]
    words += ["--parquet", "a.parquet", "--label-studio", "tasks.json", "--argilla", "records.json"]
    words += ["--cleanlab", "a.npz", "--huggingface", "pets/metadata.csv", "--image-root", "https://example.org"]
    assert cli.main(words) == 0
    out = capsys.readouterr()
    assert "suggestion" in out.out
    assert out.err == ""
    rows = run.suspects(2)
    assert pq.read_table("a.parquet").equals(rows.rows)
    config, tasks = Path("tasks.xml").read_text("utf-8"), Path("tasks.json").read_text("utf-8")
    ((data, prediction), _) = read_label_studio(tasks, config)
    assert data["image"] == "https://example.org/cow/4.png"
    assert prediction is not None
    assert prediction["model_version"] == f"lightning-flip {run.run.run_id[:8]}"
    assert len(json.loads(Path("records.json").read_text("utf-8"))["records"]) == 2
    assert np.load("a.npz")["pred_probs"].shape == (6, 3)
    assert Path("pets/metadata.csv").read_text("utf-8") == huggingface_metadata(rows, "pets")


@pytest.mark.parametrize("option", ["--label-studio", "--argilla", "--huggingface"])
def test_text_can_be_printed(option: str, run: History, tmp_path: Path, capsys) -> None:
    words = ["suspects", str(tmp_path / "run"), option, "-", "--image-root", "https://example.org"]
    assert cli.main(words) == 0
    out = capsys.readouterr().out
    assert "cow/4.png" in out
    assert "suggestion" not in out
    assert set(Path().iterdir()) <= {tmp_path / "run", Path("run")}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--parquet", "-"], "--parquet must name a file; it is not text"),
        (["--cleanlab", "-"], "--cleanlab must name a file; it is not text"),
        (["--huggingface", "pets/other.csv"], "--huggingface must name a file metadata.csv"),
        (
            ["--audit", "3", "--csv", "a.csv", "--argilla", "b"],
            "--audit hides suggestions from reviewers, and --argilla",
        ),
        (["--label-studio", "a.xml"], "only one of --label-studio and --label-studio's configuration"),
        (["--label-studio", "-", "--csv", "-"], "only one of --csv and --label-studio can be printed"),
        (["--parquet", "a", "--csv", "a"], "go to a"),
    ],
)
def test_misuse(words: list[str], said: str, run: History, tmp_path: Path, capsys) -> None:
    with pytest.raises(SystemExit) as exit_:
        cli.main(["suspects", str(tmp_path / "run"), *words])
    assert exit_.value.code == 2
    assert said in " ".join(capsys.readouterr().err.split())


def test_nothing_is_written_if_one_of_them_is_refused(run: History, tmp_path: Path, capsys) -> None:
    words = ["suspects", str(tmp_path / "run"), "--csv", "check.csv", "--label-studio", "tasks.json"]
    assert cli.main(words) == 2
    assert "Give an image root" in capsys.readouterr().err
    assert not Path("check.csv").exists()
    assert not Path("tasks.json").exists()


@pytest.mark.parametrize(
    ("name", "content"),
    [("pets/metadata.csv", "file_name,caption\na.png,An ant.\n"), ("tasks.xml", "<View><!-- my own --></View>")],
)
def test_files_that_a_person_wrote_are_kept(name: str, content: str, run: History, tmp_path: Path, capsys) -> None:
    Path("pets").mkdir()
    Path(name).write_text(content, encoding="utf-8")
    words = ["suspects", str(tmp_path / "run"), "--label-studio", "tasks.json", "--image-root", "https://example.org"]
    assert cli.main([*words, "--huggingface", "pets/metadata.csv"]) == 2
    assert f"{name} " in capsys.readouterr().err
    assert Path(name).read_text(encoding="utf-8") == content
    assert not Path("tasks.json").exists()


def test_what_it_wrote_before_is_replaced(run: History, tmp_path: Path) -> None:
    words = ["suspects", str(tmp_path / "run"), "--label-studio", "tasks.json", "--huggingface", "metadata.csv"]
    for top, lines in (("1", 2), ("3", 4)):
        assert cli.main([*words, "--image-root", "https://example.org", "--top", top]) == 0
        assert Path("metadata.csv").read_text("utf-8").count("\n") == lines
        assert len(json.loads(Path("tasks.json").read_text("utf-8"))) == lines - 1


def test_it_needs_none_of_the_packages(run: History, tmp_path: Path, command: Any) -> None:
    words = ["--label-studio", "t.json", "--argilla", "r.json", "--cleanlab", "a.npz", "--image-root", "s3://a"]
    result = command("suspects", str(tmp_path / "run"), *words, "--huggingface", "metadata.csv")
    assert (result.returncode, result.stderr) == (0, "")
