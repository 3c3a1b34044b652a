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
from lightning_flip.reports import compare
from lightning_flip.stores import read_history

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
CONFIGS = sorted((EXAMPLES / "digits").glob("*.yaml"))
UPDATES = sorted((EXAMPLES / "update").glob("*.yaml"))

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
    sys.modules[spec.name] = module  # where dataclasses look their module up
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
    comparison, suspects = re.findall(r"^ +\S*lightning-flip (.*)$", seen.out, re.MULTILINE)
    assert cli.main([*comparison.split(), "--markdown", "-"]) == 0
    assert capsys.readouterr().out.count("\n") == 2 + len(demo.METHODS)
    assert cli.main(suspects.split()) == 0
    assert "labels are almost certainly wrong" in capsys.readouterr().out
    assert "Digits, 40% wrong labels" in (tmp_path / "again" / "report.html").read_text(encoding="utf-8")
    *imports, asked = (line.strip() for line in seen.out.splitlines()[-2:])
    names: dict[str, object] = {}
    exec("\n".join(imports), names)
    assert len(eval(asked, names).to_pylist()) == 20
    lines = re.findall(r"^ +(without|with) .*NFR ([\d.]+)%, relative NFR ([\d.]+)%$", seen.out, re.MULTILINE)
    assert [words for words, *_ in lines] == ["without", "with"]
    old = tmp_path / "again" / "standard" / "seed-1" / "predictions.parquet"
    for (_, rate, relative), name in zip(lines, ("standard", "focal_distillation"), strict=True):
        rates = compare(old, tmp_path / "again" / name / "seed-0" / "predictions.parquet").rates
        assert rate == f"{100 * rates['negative_flip_rate'].value:.1f}"
        assert relative == f"{100 * rates['relative_negative_flip_rate'].value:.1f}"


def test_the_demos_runs_differ_by_seed_alone(tmp_path, monkeypatch):
    demo = load(EXAMPLES / "digits" / "demo.py")
    monkeypatch.setattr(demo, "METHODS", {"standard": "standard"})
    demo.main(["--epochs", "1", "--seeds", "2", "--out", "a"])
    demo.main(["--epochs", "1", "--seeds", "1", "--out", "b"])

    def rows(folder: str) -> list:
        return read_history(tmp_path / folder).to_arrow("train").column("logit_margin").to_pylist()

    assert rows("a/standard/seed-0") == rows("b/standard/seed-0")
    assert rows("a/standard/seed-0") != rows("a/standard/seed-1")


@pytest.mark.parametrize("script", ["digits/demo.py", "update/update.py"])
@pytest.mark.parametrize("words", [["--epochs", "0"], ["--seeds", "-1"]])
def test_the_scripts_refuse_nonsense(script, words, capsys):
    with pytest.raises(SystemExit) as exit_:
        load(EXAMPLES / script).main(words)
    assert exit_.value.code == 2
    assert "must be at least 1" in capsys.readouterr().err


def test_an_update_follows_its_old_model(tmp_path, capsys):
    short = ["--trainer.max_epochs=1", "--trainer.limit_train_batches=2", "--trainer.limit_val_batches=2"]
    quiet = ["--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false"]
    assert [path.stem for path in UPDATES] == sorted({"old", *update_folders()})
    for config in sorted(UPDATES, key=lambda path: path.stem != "old"):  # the others look for its checkpoint
        for command in (["fit", *short], ["test", f"--ckpt_path=runs/update/{config.stem}/model.ckpt"]):
            assert cli.main([command[0], f"--config={config}", *command[1:], *quiet]) == 0
    capsys.readouterr()
    old = tmp_path / "runs" / "update" / "old" / "predictions.parquet"
    for name in update_folders():
        new = tmp_path / "runs" / "update" / name / "predictions.parquet"
        assert cli.main(["compare", "--old", str(old), "--new", str(new)]) == 0
        assert cli.main(["gate", "--old", str(old), "--new", str(new), "--max-nfr", "0.99"]) == 0


def update_folders() -> list[str]:
    treatments = load(EXAMPLES / "update" / "update.py").TREATMENTS.values()
    return [new for _, new in treatments if "ensemble" not in new]


def test_only_the_treatment_differs():
    def shared(path: Path) -> dict:
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
        model = config["model"].pop("init_args")
        del config["model"]["class_path"], config["trainer"]["logger"], config["trainer"]["callbacks"]
        del config["seed_everything"]
        return {**config, **{name: model[name] for name in ("network", "num_classes", "optimizer", "lr_scheduler")}}

    first, *others = map(shared, UPDATES)
    for other in others:
        assert other == first


def test_every_kind_of_update_is_trained_and_compared(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "140")
    update = load(EXAMPLES / "update" / "update.py")
    update.main(["--epochs", "1", "--seeds", "1", "--out", "all", "--markdown"])
    seen = capsys.readouterr()
    assert seen.err == ""
    rows = [line.strip("| ").split(" | ") for line in seen.out.splitlines() if line.startswith("|")]
    labels = [row[0] for row in rows]
    assert [label for label in labels if label in update.TREATMENTS] == list(update.TREATMENTS)
    assert [label for label in labels if label in update.SCENARIOS] == list(update.SCENARIOS)
    assert labels.count("+ focal distillation") == len(update.SCENARIOS)
    cells = {row[0]: row for row in rows}
    comparison = compare(*(tmp_path / "all" / "seed-0" / name / "predictions.parquet" for name in ("old", "naive")))
    assert cells["naive"][3] == f"{100 * comparison.rates['negative_flip_rate'].value:.2f}"
    single, ensemble = (int(cells[name][-1].replace(",", "")) for name in ("naive", f"ensembles of {update.MEMBERS}"))
    assert ensemble == update.MEMBERS * single
    assert (tmp_path / "all" / "uncertainty.png").read_bytes().startswith(b"\x89PNG")
    for command in re.findall(r"^ +\S*lightning-flip (.*)$", seen.out, re.MULTILINE):
        assert cli.main(command.split()) in (0, 1, 3)


def test_the_updates_have_the_data_that_they_say():
    update = load(EXAMPLES / "update" / "update.py")
    fits = {fit.folder: fit for fit in update.plan(1)}
    assert {name for pair in (*update.TREATMENTS.values(), *update.SCENARIOS.values()) for name in pair} <= {
        *fits,
        "old_ensemble",
        "new_ensemble",
    }
    olds = {fit.seed for fit in fits.values() if fit.config == "old"}
    assert not olds & {fit.seed for fit in fits.values() if fit.config != "old"}
    sizes = {}
    for name in ("old", "half_old", "seven_old", "half_seven_old"):
        config = f"--config={EXAMPLES / 'update' / fits[name].config}.yaml"
        built = cli.training_cli([config, *fits[name].options, "--trainer.accelerator=cpu"], run=False)
        built.datamodule.setup("fit")
        sizes[name] = len(built.datamodule.train_set)
        assert built.datamodule.num_classes == built.model.num_classes == (7 if "seven" in name else 10)
    assert sizes["old"] == 600
    assert abs(sizes["half_old"] - 300) <= 5
    assert abs(sizes["half_seven_old"] - sizes["seven_old"] / 2) <= 4


def test_the_quickstart_finds_the_labels_that_it_spoiled(tmp_path):
    source = EXAMPLES / "quickstart.py"
    assert len(source.read_text(encoding="utf-8").splitlines()) <= 40
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    result = subprocess.run(
        [sys.executable, str(source)], capture_output=True, text=True, cwd=tmp_path, env=environment, check=True
    )
    found = {int(index) for index in re.findall(r"image (\d+) is labelled", result.stdout)}
    assert found == {150, 450, 750, 1050, 1350}
