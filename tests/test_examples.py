from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import yaml

from lightning_flip import FlipTracker, PredictionHistory, cli
from lightning_flip.stores import read_history

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
CONFIGS = sorted((EXAMPLES / "digits").glob("*.yaml"))

pytestmark = [
    pytest.mark.filterwarnings("ignore:.isinstance.treespec, LeafSpec:FutureWarning"),  # Lightning's own call
    pytest.mark.filterwarnings(r"ignore:(?s)\s*(By default|.*deprecated in v4\.):DeprecationWarning"),  # the same
    # On two batches a cosine of 30 epochs, or a logging interval of 20 steps, has no meaning.
    pytest.mark.filterwarnings("ignore:The number of training batches"),
]


def load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"example_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_four_configurations_are_there():
    assert [path.stem for path in CONFIGS] == ["fer", "label_smoothing", "lwr", "standard"]


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: path.stem)
def test_a_configuration_trains_and_records(config, tmp_path):
    short = ["--trainer.max_epochs=1", "--trainer.limit_train_batches=2", "--trainer.limit_val_batches=2"]
    quiet = ["--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false"]
    for version in ("version_0", "version_1"):  # running it again is no error
        assert cli.main(["fit", f"--config={config}", *short, *quiet]) == 0
        folder = tmp_path / "runs" / "digits" / config.stem / version
        history = read_history(folder)
        assert history.passes("train") == history.passes("val") == [(0, 0)]
        assert history.to_arrow("train").num_rows == 128
        assert "val_flipping_error" in (folder / "metrics.csv").read_text()
        assert (folder / "config.yaml").exists()


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: path.stem)
def test_a_configuration_is_wired_as_it_says(config):
    built = cli.training_cli([f"--config={config}", "--trainer.accelerator=cpu"], run=False)
    kinds = [type(callback) for callback in built.trainer.callbacks]
    assert PredictionHistory in kinds
    assert FlipTracker in kinds
    assert built.datamodule.noise_rate == 0.4
    assert built.datamodule.val_size == 0
    assert built.trainer.max_epochs == 30
    scheduler = built.model.configure_optimizers()["lr_scheduler"]["scheduler"]
    assert scheduler.T_max == built.trainer.max_epochs


def test_only_the_method_differs():
    def shared(path: Path) -> dict:
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
        model = config["model"].pop("init_args")
        del config["model"]["class_path"], config["trainer"]["logger"]["init_args"]["name"]
        return {**config, **{name: model[name] for name in ("network", "num_classes", "optimizer", "lr_scheduler")}}

    first, *others = map(shared, CONFIGS)
    for other in others:
        assert other == first


def test_the_demo_runs_twice_and_says_how_to_go_on(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "140")
    demo = load(EXAMPLES / "digits" / "demo.py")
    for _ in range(2):
        demo.main(["--epochs", "2", "--seeds", "1", "--out", "again"])
        seen = capsys.readouterr()
        assert seen.err == ""
    for header in ("test acc", "FE", "RFE", "ECE"):
        assert header in seen.out
    for label, folder in demo.METHODS.items():
        assert f"\n{label} " in seen.out
        history = read_history(tmp_path / "again" / folder / "seed-0")
        assert history.passes("val") == [(0, 0), (1, 0)]
    (command,) = re.findall(r"^ +\S*lightning-flip (.*)$", seen.out, re.MULTILINE)
    assert cli.main([*command.split(), "--markdown", "-"]) == 0
    assert capsys.readouterr().out.count("\n") == 2 + len(demo.METHODS)
    exec("\n".join(line.strip() for line in seen.out.splitlines()[-2:]), {})
    assert len(capsys.readouterr().out.splitlines()) == 1 + 5


def test_the_demos_runs_differ_by_seed_alone(tmp_path, monkeypatch):
    demo = load(EXAMPLES / "digits" / "demo.py")
    monkeypatch.setattr(demo, "METHODS", {"FER": "fer"})
    demo.main(["--epochs", "1", "--seeds", "2", "--out", "a"])
    demo.main(["--epochs", "1", "--seeds", "1", "--out", "b"])

    def rows(folder: str) -> list:
        return read_history(tmp_path / folder).to_arrow("train").column("logit_margin").to_pylist()

    assert rows("a/fer/seed-0") == rows("b/fer/seed-0")
    assert rows("a/fer/seed-0") != rows("a/fer/seed-1")


@pytest.mark.parametrize("words", [["--epochs", "0"], ["--seeds", "-1"]])
def test_the_demo_refuses_nonsense(words, capsys):
    with pytest.raises(SystemExit) as exit_:
        load(EXAMPLES / "digits" / "demo.py").main(words)
    assert exit_.value.code == 2
    assert "must be at least 1" in capsys.readouterr().err


def test_the_quickstart_finds_the_labels_that_it_spoiled(tmp_path):
    source = EXAMPLES / "quickstart.py"
    assert len(source.read_text(encoding="utf-8").splitlines()) <= 40
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    result = subprocess.run(
        [sys.executable, str(source)], capture_output=True, text=True, cwd=tmp_path, env=environment, check=True
    )
    found = {int(index) for index in re.findall(r"image (\d+) is labelled", result.stdout)}
    assert found == {150, 450, 750, 1050, 1350}
