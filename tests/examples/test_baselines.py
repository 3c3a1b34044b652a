"""The configurations of the baselines: they train, differ in the method alone, and are told in their README."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from lightning_flip import cli, modules
from lightning_flip.models import CyclicCosine
from lightning_flip.stores import read_history

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
OWN = {
    "confidence_penalty": "ConfidencePenaltyClassifier",
    "cs_kd": "ClassWiseSelfDistillationClassifier",
    "early_learning": "EarlyLearningRegularizationClassifier",
    "self_adaptive": "SelfAdaptiveTrainingClassifier",
    "snapshot_distillation": "SnapshotDistillationClassifier",
    "teacher_free": "TeacherFreeRegularizationClassifier",
}
CONFIGS = sorted((EXAMPLES / "baselines").glob("*.yaml"))
every_config = pytest.mark.parametrize("config", CONFIGS, ids=lambda path: path.stem)

pytestmark = [
    pytest.mark.filterwarnings("ignore:.isinstance.treespec, LeafSpec:FutureWarning"),  # Lightning's own call
    pytest.mark.filterwarnings(r"ignore:(?s)\s*(By default|.*deprecated in v4\.):DeprecationWarning"),  # the same
    pytest.mark.filterwarnings("ignore:The number of training batches"),  # two, of every epoch
    pytest.mark.filterwarnings("ignore:sat_warmup=10"),  # longer than one epoch
]


@every_config
def test_a_configuration_trains_and_records(config: Path, tmp_path: Path) -> None:
    short = ["--trainer.max_epochs=1", "--trainer.limit_train_batches=2", "--trainer.limit_val_batches=2"]
    quiet = ["--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false"]
    assert cli.main(["fit", f"--config={config}", *short, *quiet]) == 0
    folder = tmp_path / "runs" / "baselines" / config.stem / "version_0"
    assert read_history(folder).to_arrow("train").num_rows == 128
    assert (folder / "config.yaml").exists()


def told(path: Path) -> dict[str, Any]:
    config: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    return config


@every_config
def test_only_the_method_differs_from_plain_training(config: Path) -> None:
    own, plain = told(config), told(EXAMPLES / "digits" / "standard.yaml")
    model, other = own.pop("model"), plain.pop("model")
    assert model["class_path"] == f"lightning_flip.modules.{OWN[config.stem]}"
    assert own["trainer"]["logger"]["init_args"] == {"save_dir": "runs/baselines", "name": config.stem}
    plain["trainer"]["logger"] = own["trainer"]["logger"]
    assert own == plain
    same = ["network", "num_classes", "optimizer"]
    same += [] if config.stem == "snapshot_distillation" else ["lr_scheduler"]
    assert {name: model["init_args"][name] for name in same} == {name: other["init_args"][name] for name in same}
    assert set(model["init_args"]) - set(other["init_args"])


def test_the_cycles_of_the_learning_rate_are_the_teachers() -> None:
    path = EXAMPLES / "baselines" / "snapshot_distillation.yaml"
    built = cli.training_cli([f"--config={path}", "--trainer.accelerator=cpu"], run=False)
    scheduler = built.model.configure_optimizers()["lr_scheduler"]["scheduler"]
    assert isinstance(scheduler, CyclicCosine)
    assert scheduler.cycles == built.model.mixin_options.sd_cycles == 4
    assert scheduler.total_epochs == built.model.mixin_options.total_epochs == built.trainer.max_epochs == 30


def test_the_readme_tells_all_of_them() -> None:
    text = (EXAMPLES / "baselines" / "README.md").read_text(encoding="utf-8")
    assert {config.stem for config in CONFIGS} == set(OWN)
    assert all(f"`{config.name}`" in text for config in CONFIGS)


def test_the_table_of_all_methods_is_of_what_its_loop_trains() -> None:
    text = (EXAMPLES / "baselines" / "README.md").read_text(encoding="utf-8")
    loop = re.search(r"^(for config in .*?); do$", text, re.MULTILINE | re.DOTALL)
    assert loop is not None
    shell = subprocess.run(
        ["bash", "-c", f"{loop[1]}; do echo $config; done"], capture_output=True, text=True, check=True
    )
    configs = shell.stdout.split()
    names = [told(EXAMPLES / f"{config}.yaml")["trainer"]["logger"]["init_args"]["name"] for config in configs]
    rows = re.findall(r"^\| (\w+) \| [\d.]+ ± ", text, re.MULTILINE)
    assert rows == sorted(names)
    assert len(names) == len(set(names)) == 15
    kinds = {told(EXAMPLES / f"{config}.yaml")["model"]["class_path"].rpartition(".")[2] for config in configs}
    others = {"SoftTargets", "Distillation", "FocalDistillation", "NaivePositiveCongruent", "BackwardCompatible"}
    assert kinds == {"Classifier", *modules.__all__} - {f"{name}Classifier" for name in others}  # these need a model
