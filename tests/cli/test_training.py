from __future__ import annotations

import subprocess
import sys

import pytest
import yaml

from lightning_flip import cli
from lightning_flip.stores import read_history

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

    def test_jsonargparse_missing(self, hide, capsys):
        hide("jsonargparse")
        assert cli.main(["fit", *MODEL]) == 2
        assert "pip install 'lightning-flip[cli]'" in capsys.readouterr().err


def test_bare_names_are_known_to_a_fresh_process():
    """In this process other tests have loaded everything."""
    words = ["fit", *MODEL, "--data=DigitsDataModule", "--trainer.callbacks+=PredictionHistory", "--print_config"]
    result = subprocess.run([sys.executable, "-m", "lightning_flip.cli", *words], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    config = yaml.safe_load(result.stdout)
    chosen = [config["model"], config["model"]["init_args"]["network"], config["data"], *config["trainer"]["callbacks"]]
    assert [one["class_path"].split(".")[0] for one in chosen] == ["lightning_flip"] * 4
