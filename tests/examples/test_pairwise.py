"""The configurations of pairs and mixtures train, record what can be followed, and are wired as they say."""

from __future__ import annotations

import csv
import importlib.util
from pathlib import Path

import pytest
import yaml

from lightning_flip import cli
from lightning_flip.stores import read_history

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
PAIRWISE = sorted((EXAMPLES / "pairwise").glob("*.yaml"))

pytestmark = [
    pytest.mark.filterwarnings("ignore:.isinstance.treespec, LeafSpec:FutureWarning"),  # Lightning's own call
    pytest.mark.filterwarnings(r"ignore:(?s)\s*(By default|.*deprecated in v4\.):DeprecationWarning"),  # the same
    pytest.mark.filterwarnings("ignore:The number of training batches"),  # two batches are less than 20 steps
]


def test_every_ablation_has_a_configuration():
    assert [path.stem for path in PAIRWISE] == [
        "mixup",
        "pls",
        "pls_no_learned_distribution",
        "pls_no_original_images",
        "pls_uniform",
        "standard",
        "uls",
    ]


@pytest.mark.parametrize("config", PAIRWISE, ids=lambda path: path.stem)
def test_a_configuration_trains_and_records(config, tmp_path):
    short = ["--trainer.max_epochs=1", "--trainer.limit_train_batches=2", "--trainer.limit_val_batches=2"]
    quiet = ["--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false"]
    assert cli.main(["fit", f"--config={config}", *short, *quiet]) == 0
    folder = tmp_path / "runs" / config.parent.name / config.stem / "version_0"
    assert read_history(folder).passes("val") == [(0, 0)]
    assert "val_ece" in (folder / "metrics.csv").read_text()


def test_configurations_differ_in_the_method_alone():
    options = {"smoothing_weight", "smoothing_distribution", "alternate", "smoothing", "mixup_alpha"}
    rest = []
    for path in PAIRWISE:
        config = yaml.safe_load(path.read_text())
        assert config["trainer"]["logger"]["init_args"].pop("name") == path.stem
        assert f"fit --config examples/pairwise/{path.name}" in path.read_text()
        config["model"].pop("class_path")
        for option in options:
            config["model"]["init_args"].pop(option, None)
        rest.append(config)
    assert all(config == rest[0] for config in rest)


def test_the_readme_tells_all_of_them():
    text = (EXAMPLES / "pairwise" / "README.md").read_text(encoding="utf-8")
    for path in PAIRWISE:
        assert f"| `{path.name}` |" in text
        assert f"| {path.stem} |" in text


@pytest.mark.filterwarnings("ignore:TemperatureScaling. T = ")  # after one epoch
def test_calibration_is_printed_and_drawn(tmp_path, capsys, calibration):
    for _ in range(2):  # running it again is no error
        calibration.main(["--epochs", "1", "--out", str(tmp_path / "out")])
    printed = capsys.readouterr().out.splitlines()
    rows = [line.strip("| ").split(" | ") for line in printed if line.startswith("| ")]
    assert [row[0] for row in rows[2:6]] == list(calibration.METHODS)
    for label, config in calibration.METHODS.items():
        with (tmp_path / "out" / config / "diagnostics" / "test_winning_scores.csv").open() as stream:
            assert sum(int(row["count"]) for row in csv.DictReader(stream)) == 500, label
    for name in ("targets", "scores", "reliability"):
        assert (tmp_path / "out" / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    text = (EXAMPLES / "pairwise" / "README.md").read_text(encoding="utf-8")
    assert printed[0] in text
    assert all(f"\n| {label} | " in text for label in calibration.METHODS)


def test_calibration_refuses_nonsense(calibration, capsys):
    with pytest.raises(SystemExit) as exit_:
        calibration.main(["--epochs", "0"])
    assert exit_.value.code == 2
    assert "--epochs: must be at least 1, got 0" in capsys.readouterr().err


@pytest.fixture
def calibration():
    spec = importlib.util.spec_from_file_location("pairwise_calibration", EXAMPLES / "pairwise" / "calibration.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
