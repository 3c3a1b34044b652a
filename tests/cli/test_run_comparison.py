from __future__ import annotations

import csv
import subprocess
import sys

import numpy as np
import pytest

from lightning_flip import cli


class TestCompare:
    def test_loads_neither_torch_nor_lightning(self, runs):
        script = (
            "import sys; from lightning_flip.cli import main; "
            f"status = main(['compare', {str(runs[0])!r}, {str(runs[1])!r}]); "
            "loaded = [name for name in ('torch', 'lightning', 'pytorch_lightning') if name in sys.modules]; "
            "sys.exit(status or loaded or 0)"
        )
        result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
        assert (result.returncode, result.stderr) == (0, "")
        assert "75.0%" in result.stdout

    def test_prints_a_table(self, runs, capsys, monkeypatch):
        monkeypatch.setenv("COLUMNS", "140")
        assert cli.main(["compare", f"plain={runs[0]}", f"robust={runs[1]}"]) == 0
        lines = capsys.readouterr().out.splitlines()
        plain = next(line for line in lines if "plain" in line).split()
        robust = next(line for line in lines if "robust" in line).split()
        assert plain[:4] == ["plain", "75.0%", "25.0%", "100.0%"]
        assert robust[:4] == ["robust", "50.0%", "0.0%", "0.0%"]

    def test_one_label_is_one_row(self, runs, capsys):
        assert cli.main(["compare", f"both={runs[0]}", f"both={runs[1]}", "--csv", "-"]) == 0
        (row,) = csv.DictReader(capsys.readouterr().out.splitlines())
        assert (row["method"], row["runs"]) == ("both", "2")
        assert float(row["accuracy"]) == pytest.approx(0.625)
        assert float(row["accuracy_std"]) == pytest.approx(np.std([0.75, 0.5], ddof=1))

    def test_files(self, runs, tmp_path, capsys):
        words = [
            "compare",
            *map(str, runs),
            "--csv",
            "new/table.csv",
            "--markdown",
            "table.md",
            "--accuracy-name",
            "A!",
        ]
        assert cli.main(words) == 0
        assert "A!" in capsys.readouterr().out
        rows = list(csv.DictReader((tmp_path / "new" / "table.csv").read_text(encoding="utf-8").splitlines()))
        assert [row["method"] for row in rows] == ["a", "b"]
        markdown = (tmp_path / "table.md").read_text(encoding="utf-8")
        assert markdown.startswith("| method | A! | FE |")
        assert markdown.endswith("|\n")

    def test_the_split_names_the_accuracy(self, record, tmp_path, capsys):
        folder = record(tmp_path / "c", [[0]], [0], split="test")
        assert cli.main(["compare", str(folder), "--split", "test", "--markdown", "-"]) == 0
        assert "| test acc |" in capsys.readouterr().out

    @pytest.mark.parametrize(("words", "said"), [(["nowhere"], "run.json"), (["{a}", "--split", "test"], "'test'")])
    def test_what_cannot_be_read_is_said_without_a_traceback(self, words, said, runs, capsys):
        assert cli.main(["compare", *(word.format(a=runs[0]) for word in words)]) == 2
        text = capsys.readouterr().err
        assert text.startswith("lightning-flip: ")
        assert said in text

    @pytest.mark.parametrize("words", [["=x"], ["{a}", "{a}"], []])
    def test_misuse(self, words, runs, capsys):
        with pytest.raises(SystemExit) as exit_:
            cli.main(["compare", *(word.format(a=runs[0]) for word in words)])
        assert exit_.value.code == 2
        assert "error: " in capsys.readouterr().err

    def test_without_rich_the_table_is_markdown(self, runs, hide, capsys):
        hide("rich")
        assert cli.main(["compare", str(runs[0])]) == 0
        assert capsys.readouterr().out.startswith("| method | val acc |")
