from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from lightning_flip import cli
from lightning_flip.cli import _suspects
from lightning_flip.reports.suspects import epoch_strips
from lightning_flip.stores import PassRows
from lightning_flip.stores.claims import open_run
from lightning_flip.stores.history.parts import PartKey, write_part
from lightning_flip.stores.history.samples import write_samples
from lightning_flip.stores.history.suspects import SUSPICIONS
from tests.oracles.suspects import visits_of


@pytest.fixture
def run(tmp_path: Path) -> str:
    """Six samples of three classes in four epochs; the label of sample 4 is wrong, and its name is a formula."""
    folder = tmp_path / "run"
    open_run(folder, run_id=None, info={"class_names": ["ant", "bee", "cow"]})
    truth, label = np.array([0, 1, 2, 0, 1, 2]), np.array([0, 1, 2, 0, 2, 2])
    names = [f"img/{sample}.png" for sample in range(6)]
    names[4] = "=HYPERLINK(1)"
    write_samples(folder, {"split": "train", "index": np.arange(6), "target": label, "sample_id": names})
    for epoch in range(4):
        logits = (epoch - 0.5) * np.eye(3)[truth]
        rows = visits_of(logits[None], label)
        columns = {name: np.array([getattr(row, name) for row in rows], np.float32) for name in MEASURES}
        columns |= {"index": np.arange(6), "global_step": np.full(6, epoch), "pred": logits.argmax(axis=1)}
        columns["best_other"] = np.array([row.best_other for row in rows])
        write_part(folder, PartKey("train", epoch, 0, 0), columns)
    return str(folder)


MEASURES = ("prob_label", "logit_margin", "cross_entropy")


@pytest.mark.parametrize("width", [80, 140])
def test_the_table(run: str, width: int, capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    assert cli.main(["suspects", run, "--top", "3"]) == 0
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= width
    worst = next(line for line in out.splitlines() if "HYPERLINK" in line)
    assert worst.split()[:4] == ["=HYPERLINK(1)", "cow", "bee", "0.312"]
    assert worst.split()[-1] == "▄███"
    assert out.index("HYPERLINK") < out.index("img/")
    assert "0 of 6 labels are almost certainly wrong" in " ".join(out.split())


def test_csv_has_every_column_and_no_formula(run: str, capsys, tmp_path: Path) -> None:
    assert cli.main(["suspects", run, "--csv", "check.csv"]) == 0
    assert "suggestion" in capsys.readouterr().out
    rows = list(csv.DictReader(Path("check.csv").read_text(encoding="utf-8").splitlines()))
    assert len(rows) == 6
    assert rows[0]["sample_id"] == "'=HYPERLINK(1)"
    assert (rows[0]["given_name"], rows[0]["predicted_name"], rows[0]["disagrees"]) == ("cow", "bee", "True")
    assert rows[0]["path"] == ""
    assert cli.main(["suspects", run, "--top", "1", "--csv", "-"]) == 0
    assert capsys.readouterr().out.count("\n") == 2


@pytest.mark.parametrize("by", ["mislabelled", "confidence", "forgotten"])
def test_other_scores(run: str, by: str, capsys) -> None:
    assert cli.main(["suspects", run, "--by", by, "--top", "1", "--csv", "-"]) == 0
    (row,) = csv.DictReader(capsys.readouterr().out.splitlines())
    assert row["index"] == "4"


@pytest.mark.parametrize(
    ("words", "said"), [(["nowhere"], "run.json"), (["--split", "test"], "'test'"), (["--by", "flipped"], "'flipped'")]
)
def test_what_cannot_be_read_is_said_without_a_traceback(words: list[str], said: str, run: str, capsys) -> None:
    assert cli.main(["suspects", *([] if words == ["nowhere"] else [run]), *words]) == 2
    text = capsys.readouterr().err
    assert text.startswith("lightning-flip: ")
    assert said in text


@pytest.mark.parametrize("words", [["--top", "0"], ["--by", "odd"], ["--csv", "."], ["--nothing"]])
def test_misuse(words: list[str], run: str, capsys) -> None:
    with pytest.raises(SystemExit) as exit_:
        cli.main(["suspects", run, *words])
    assert exit_.value.code == 2
    assert "error: " in capsys.readouterr().err


def test_loads_neither_torch_nor_lightning(run: str, command: Callable) -> None:
    result = command("suspects", run)
    assert (result.returncode, result.stderr) == (0, "")


def test_many_epochs_share_cells() -> None:
    one = np.array([0])
    passes = [PassRows(epoch, 0, one, one + (epoch >= 40), one == (epoch >= 40), {}) for epoch in range(80)]
    (strip,) = epoch_strips(passes, one, one + 1)
    assert strip == "▁" * 20 + "█" * 20


def test_the_command_offers_every_score_of_the_history() -> None:
    assert _suspects._SCORES == SUSPICIONS
