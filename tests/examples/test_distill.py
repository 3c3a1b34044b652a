from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
import yaml

from lightning_flip import cli
from lightning_flip.cli.experiment._plan import read_plan
from lightning_flip.stores import read_soft_targets

FOLDER = Path(__file__).resolve().parents[2] / "examples" / "distill"
EXPERIMENTS = {"ema", "eskd", "filterkd", "kd"}
FITS = {path.stem for path in FOLDER.glob("*.yaml")} - EXPERIMENTS

pytestmark = [
    pytest.mark.filterwarnings("ignore:.isinstance.treespec, LeafSpec:FutureWarning"),  # Lightning's own call
    pytest.mark.filterwarnings(r"ignore:(?s)\s*(By default|.*deprecated in v4\.):DeprecationWarning"),  # the same
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),  # depends on the machine's cores
    # On two batches a cosine of 30 epochs, or a logging interval of 10 steps, has no meaning.
    pytest.mark.filterwarnings("ignore:The number of training batches"),
]


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("example_distill", FOLDER / "distill.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def content(name: str) -> dict:
    return yaml.safe_load((FOLDER / f"{name}.yaml").read_text(encoding="utf-8"))


def test_the_table_is_of_its_files(script, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "140")
    script.main(["--epochs", "1", "--seeds", "1", "--out", "all", "--markdown"])
    seen = capsys.readouterr()
    assert seen.err == ""
    rows = [line.strip("| ").split(" | ") for line in seen.out.splitlines() if line.startswith("|")]
    assert rows[0] == ["method", *script.COLUMNS.values()]
    assert [row[0] for row in rows[2:]] == list(script.METHODS)
    data = cli.training_cli([f"--config={FOLDER / 'onehot.yaml'}"], run=False, save_config_callback=None).datamodule
    data.setup("fit")
    wrong = data.train_set.is_noisy
    for row in rows[2:]:
        method = script.METHODS[row[0]]
        expected = 0.0
        if method.teacher:
            file = tmp_path / "all" / "seed-0" / method.teacher / "soft_targets" / f"{method.soft_targets}.safetensors"
            probs = torch.from_numpy(read_soft_targets(file).probs)
            expected = float((probs.argmax(1) == data.train_set.true_targets)[wrong].float().mean())
        assert row[-1] == f"{100 * expected:.1f}", row
    (command,) = re.findall(r"^ +\S*lightning-flip (.*)$", seen.out, re.MULTILINE)
    assert command.split() == ["experiment", "distill", "--config", str(FOLDER / "filterkd.yaml")]


@pytest.mark.parametrize("words", [["--epochs", "0"], ["--seeds", "-1"], ["--alpha", "1.5"]])
def test_the_script_refuses_nonsense(script, words, capsys):
    with pytest.raises(SystemExit) as exit_:
        script.main(words)
    assert exit_.value.code == 2
    assert re.search(r"must be (at least 1|in \(0, 1\])", capsys.readouterr().err)


def test_students_follow_their_teacher(tmp_path):
    short = ["--trainer.max_epochs=1", "--trainer.limit_val_batches=2"]
    quiet = ["--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false"]
    for name in ("teacher", "student", "online_student"):  # the others look for the files of the first
        assert cli.main(["fit", f"--config={FOLDER / name}.yaml", *short, *quiet]) == 0
        assert (tmp_path / "runs" / "distill" / name / "version_0" / "checkpoints" / "best.ckpt").exists()


def test_the_rows_are_the_experiments(script):
    """A row of the table and the experiment of the same name train from the same files."""
    for method in script.METHODS.values():
        if method.teacher:
            plan = read_plan(str(FOLDER / f"{method.folder}.yaml"))
            found = plan.teacher.stem, plan.student.stem, plan.soft_targets
            assert found == (method.teacher, method.config, method.soft_targets)
    assert {method.folder for method in script.METHODS.values() if method.teacher} == EXPERIMENTS


def test_only_the_supervision_differs():
    def shared(name: str) -> dict:
        config = content(name)
        model = config["model"].pop("init_args")
        del config["model"]["class_path"], config["trainer"]["logger"], config["trainer"]["callbacks"]
        del config["seed_everything"]
        return {**config, **{name: model[name] for name in ("network", "num_classes", "optimizer", "lr_scheduler")}}

    first, *others = map(shared, sorted(FITS))
    for other in others:
        assert other == first


def test_the_configurations_are_wired_as_they_say():
    teacher, averaged, student = (content(name) for name in ("teacher", "averaged_teacher", "student"))
    named = {entry["class_path"]: entry["init_args"] for entry in averaged["trainer"]["callbacks"]}
    assert named["lightning.pytorch.callbacks.EMAWeightAveraging"]["decay"] == 0.95
    for config in (teacher, averaged):
        named = {entry["class_path"]: entry["init_args"] for entry in config["trainer"]["callbacks"]}
        filtering = named["lightning_flip.callbacks.PredictionFilter"]
        assert (filtering["alpha"], filtering["monitor"]) == (0.33, "val_acc")
    # Nothing is selected by the test split, and a student starts unlike its teacher.
    for name in FITS:
        data = content(name)["data"]["init_args"]
        assert data["val_size"] > 0
        assert data["noisy_validation"]
    assert teacher["seed_everything"] == averaged["seed_everything"] != student["seed_everything"]
    targets = Path(student["model"]["init_args"]["targets"])
    (folder,) = (
        entry["init_args"]["dirpath"]
        for entry in teacher["trainer"]["callbacks"]
        if entry["class_path"].endswith("PredictionFilter")
    )
    assert targets == Path(folder) / "soft_targets" / "filtered_best.safetensors"
    reference = Path(content("online_student")["model"]["init_args"]["reference"])
    logged = teacher["trainer"]["logger"]["init_args"]
    (best,) = (
        entry["init_args"]["filename"]
        for entry in teacher["trainer"]["callbacks"]
        if entry["class_path"].endswith("ModelCheckpoint")
    )
    assert reference == Path(logged["save_dir"], logged["name"], "version_0", "checkpoints", f"{best}.ckpt")
