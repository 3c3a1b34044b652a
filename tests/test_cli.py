from __future__ import annotations

import builtins
import csv
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

from lightning_flip import cli
from lightning_flip.stores import PartKey, open_run, read_history, write_part, write_samples

pytestmark = [
    pytest.mark.filterwarnings("ignore:.isinstance.treespec, LeafSpec:FutureWarning"),  # Lightning's own call
    pytest.mark.filterwarnings(r"ignore:(?s)\s*(By default|.*deprecated in v4\.):DeprecationWarning"),  # too
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),  # depends on the machine's cores
]

MODEL = ["--model=LabelSmoothingClassifier", "--model.network=SmallCNN", "--model.num_classes=10"]
SHORT = [
    "--data=DigitsDataModule",
    "--trainer.max_epochs=1",
    "--trainer.limit_train_batches=2",
    "--trainer.limit_val_batches=2",
    "--trainer.limit_test_batches=2",
    "--trainer.accelerator=cpu",
    "--trainer.enable_progress_bar=false",
    "--trainer.enable_model_summary=false",
    "--trainer.enable_checkpointing=false",
    "--trainer.log_every_n_steps=1",
]


def record(folder: Path, passes: list[list[int]], targets: list[int], split: str = "val") -> Path:
    open_run(folder, run_id=None, info={})
    write_samples(folder, {"split": split, "index": list(range(len(targets))), "target": targets})
    for epoch, predicted in enumerate(passes):
        sure = np.ones(len(targets), np.float32)
        columns = {"global_step": np.full(len(targets), epoch), "index": np.arange(len(targets))}
        measures = dict.fromkeys(("prob_label", "prob_pred", "logit_margin", "cross_entropy"), sure)
        write_part(folder, PartKey(split, epoch, 0, 0), {**columns, "pred": np.array(predicted), **measures})
    return folder


@pytest.fixture
def runs(tmp_path) -> tuple[Path, Path]:
    # Of four samples, a ends with 3 right and has lost 1; b ends with 2 right and has lost none.
    a = record(tmp_path / "a", [[0, 1, 0, 0], [0, 0, 0, 0]], [0, 1, 0, 0])
    b = record(tmp_path / "b", [[0, 0, 1, 0], [0, 0, 1, 0]], [0, 1, 0, 0])
    return a, b


class TestHelp:
    def test_help_names_every_subcommand(self, capsys):
        with pytest.raises(SystemExit) as exit_:
            cli.main(["--help"])
        assert exit_.value.code == 0
        text = capsys.readouterr().out
        for name in ("fit", "validate", "test", "predict", "compare"):
            assert f"\n    {name} " in text

    def test_nothing_given_shows_the_help(self, capsys):
        assert cli.main([]) == 2
        assert "compare" in capsys.readouterr().err

    def test_unknown_subcommand(self, capsys):
        with pytest.raises(SystemExit) as exit_:
            cli.main(["fitt"])
        assert exit_.value.code == 2
        text = capsys.readouterr().err
        assert "'fitt'" in text
        assert "compare" in text

    def test_a_subcommand_has_its_own_help(self, capsys):
        with pytest.raises(SystemExit) as exit_:
            cli.main(["fit", "--help"])
        assert exit_.value.code == 0
        text = capsys.readouterr().out
        assert "lightning-flip" in text
        assert "--trainer.max_epochs" in text
        assert "--optimizer" not in text

    def test_a_misspelled_option_of_a_training_subcommand(self, capsys):
        with pytest.raises(SystemExit) as exit_:
            cli.main(["fit", "--trainer.max_epoch=1"])
        assert exit_.value.code == 2
        assert "max_epoch" in capsys.readouterr().err

    @pytest.mark.parametrize("words", [["compare", "--help"], ["--help"]])
    def test_the_installed_command(self, words):
        command = [sys.executable, "-m", "lightning_flip.cli", *words]
        result = subprocess.run(command, capture_output=True, text=True, check=True)
        assert result.stdout.startswith("usage: lightning-flip")
        assert result.stderr == ""


class TestTraining:
    def test_fit_records_and_can_run_again(self, tmp_path):
        recorder = ["--trainer.callbacks+=PredictionHistory", "--trainer.logger=CSVLogger"]
        words = ["fit", *MODEL, *SHORT, *recorder, "--trainer.logger.save_dir=logs"]
        assert cli.main(words) == 0
        assert cli.main(words) == 0
        for version in ("version_0", "version_1"):
            folder = tmp_path / "logs" / "lightning_logs" / version
            assert read_history(folder).passes("train") == [(0, 0)]
            saved = yaml.safe_load((folder / "config.yaml").read_text())
            assert saved["seed_everything"] == 0
            assert saved["model"]["init_args"]["smoothing"] == 0.1

    def test_the_seed_decides(self, tmp_path):
        def weights(seed: int):
            built = cli.training_cli([*MODEL, *SHORT, f"--seed_everything={seed}", "--trainer.logger=false"], run=False)
            return built.model.network.classifier.weight.detach()

        assert (weights(1) == weights(1)).all()
        assert (weights(1) != weights(2)).any()

    @pytest.mark.parametrize("subcommand", ["validate", "test", "predict"])
    def test_the_other_subcommands_run(self, subcommand, tmp_path):
        options = [word for word in SHORT if not word.startswith("--trainer.max_epochs")]
        assert cli.main([subcommand, *MODEL, *options, "--trainer.logger=false"]) == 0

    def test_a_second_command_line_is_no_reason_to_warn(self, monkeypatch):
        monkeypatch.setattr(sys, "argv", ["demo.py", "--epochs", "2"])
        built = cli.training_cli([*MODEL, *SHORT, "--trainer.logger=false"], run=False)
        assert built.trainer.max_epochs == 1

    def test_jsonargparse_missing(self, monkeypatch, capsys):
        hide(monkeypatch, "jsonargparse")
        assert cli.main(["fit", *MODEL]) == 1
        assert "pip install 'lightning-flip[cli]'" in capsys.readouterr().err


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

    def test_the_split_names_the_accuracy(self, tmp_path, capsys):
        folder = record(tmp_path / "c", [[0]], [0], split="test")
        assert cli.main(["compare", str(folder), "--split", "test", "--markdown", "-"]) == 0
        assert "| test acc |" in capsys.readouterr().out

    @pytest.mark.parametrize(("words", "said"), [(["nowhere"], "run.json"), (["{a}", "--split", "test"], "'test'")])
    def test_what_cannot_be_read_is_said_without_a_traceback(self, words, said, runs, capsys):
        assert cli.main(["compare", *(word.format(a=runs[0]) for word in words)]) == 1
        text = capsys.readouterr().err
        assert text.startswith("lightning-flip: ")
        assert said in text

    @pytest.mark.parametrize("words", [["=x"], ["{a}", "{a}"], []])
    def test_misuse(self, words, runs, capsys):
        with pytest.raises(SystemExit) as exit_:
            cli.main(["compare", *(word.format(a=runs[0]) for word in words)])
        assert exit_.value.code == 2
        assert "error: " in capsys.readouterr().err

    def test_without_rich_the_table_is_markdown(self, runs, monkeypatch, capsys):
        hide(monkeypatch, "rich")
        assert cli.main(["compare", str(runs[0])]) == 0
        assert capsys.readouterr().out.startswith("| method | val acc |")


def hide(monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    real = builtins.__import__

    def refuse(name: str, *args, **kwargs):
        if name.split(".")[0] == package:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", refuse)
