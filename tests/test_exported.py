from __future__ import annotations

import ast
import importlib
import pkgutil
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

import lightning_flip
from lightning_flip import cli

SUBPACKAGES = sorted(module.name for module in pkgutil.iter_modules(lightning_flip.__path__) if module.ispkg)


STUB = ast.parse(Path(lightning_flip.__file__).with_suffix(".pyi").read_text(encoding="utf-8"))
HOMES = [(node.module, name.name) for node in STUB.body if isinstance(node, ast.ImportFrom) for name in node.names]


def like_ruff(name: str) -> tuple[int, str]:
    """CONSTANTS, then Classes, then functions: the order that the linter keeps."""
    return (0 if name.isupper() else 1 if name[0].isupper() else 2, name)


def test_top_level_names_are_sorted_and_few():
    assert sorted(lightning_flip.__all__) == lightning_flip.__all__
    assert len(lightning_flip.__all__) <= 50


@pytest.mark.parametrize(("home", "name"), HOMES, ids=str)
def test_a_top_level_name_is_its_homes_public_name(home, name):
    found = importlib.import_module(f"lightning_flip.{home}")
    assert name in found.__all__
    assert getattr(lightning_flip, name) is getattr(found, name)


def test_the_names_for_type_checkers_are_the_same():
    assert sorted(name for _, name in HOMES) == lightning_flip.__all__


@pytest.mark.parametrize("name", lightning_flip._MOVED)
def test_a_name_that_has_moved_warns(name):
    with pytest.warns(FutureWarning, match=rf"lightning_flip.{name} is now lightning_flip.*removed in 0.4") as told:
        found = getattr(lightning_flip, name)
    assert found is getattr(importlib.import_module(f"lightning_flip.{lightning_flip._MOVED[name]}"), name)
    assert told[0].filename == __file__


def test_dir_shows_lazy_names_and_none_that_moved():
    assert set(lightning_flip.__all__) <= set(dir(lightning_flip))
    assert not {*lightning_flip._MOVED} & {*dir(lightning_flip), *lightning_flip.__all__}


class TestCommandLine:
    """jsonargparse looks for every class under the shortest path, and must find those that moved at their new one."""

    CALLBACKS = ("NoiseAccuracy", "LogitGaps", "TrainingTargets", "WinningScores")

    def told(self, recwarn: pytest.WarningsRecorder) -> list[str]:
        return [str(warning.message) for warning in recwarn if "lightning_flip" in str(warning.message)]

    def options(self, prefix: str, data: str) -> list[str]:
        model = [
            "--model=LabelSmoothingClassifier",
            "--model.network=lightning_flip.models.MLP",
            "--model.network.in_features=30",
        ]
        callbacks = [f"--trainer.callbacks+={prefix}{name}" for name in self.CALLBACKS]
        network = ["--model.network.num_classes=3", "--model.num_classes=3", "--trainer.logger=false"]
        return [*model, *network, f"--data={data}ToyGaussianDataModule", *callbacks]

    @pytest.mark.parametrize(
        ("prefix", "data"), [("", ""), ("lightning_flip.callbacks.", "lightning_flip.data.")], ids=["short", "full"]
    )
    def test_new_paths_are_quiet_and_written(self, prefix, data, recwarn):
        built = cli.training_cli(self.options(prefix, data), run=False)
        assert self.told(recwarn) == []
        assert {*self.CALLBACKS} <= {type(callback).__name__ for callback in built.trainer.callbacks}
        written = [callback.class_path for callback in built.config.trainer.callbacks]
        assert written == [f"lightning_flip.callbacks.{name}" for name in self.CALLBACKS]
        assert built.config.data.class_path == "lightning_flip.data.ToyGaussianDataModule"

    def test_paths_of_older_configs_work_and_warn(self, recwarn):
        warnings.simplefilter("always")
        built = cli.training_cli(self.options("lightning_flip.", "lightning_flip."), run=False)
        told = self.told(recwarn)
        for name in (*self.CALLBACKS, "ToyGaussianDataModule"):
            assert any(f"lightning_flip.{name} is now lightning_flip." in text for text in told), name
        assert {*self.CALLBACKS} <= {type(callback).__name__ for callback in built.trainer.callbacks}

    def test_help_is_quiet(self):
        command = [sys.executable, "-W", "error:lightning_flip:FutureWarning", "-m", "lightning_flip.cli", "fit"]
        result = subprocess.run([*command, "--help"], capture_output=True, text=True, check=True)
        assert "is now" not in result.stdout + result.stderr
        assert "lightning_flip.callbacks.NoiseAccuracy" in result.stdout


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match=r"lightning_flip.* attribute '?Flapper"):
        _ = lightning_flip.Flapper


def test_there_are_subpackages():
    assert {"callbacks", "mixins", "stores", "reports"} <= set(SUBPACKAGES)


@pytest.mark.parametrize("name", [*SUBPACKAGES, "modules", "cli"])
def test_every_part_has_sorted_names_that_exist(name):
    part = importlib.import_module(f"lightning_flip.{name}")
    assert part.__all__ == sorted(part.__all__, key=like_ruff)
    assert len(part.__all__) == len(set(part.__all__)) > 0
    for public in part.__all__:
        assert getattr(part, public).__doc__


@pytest.mark.parametrize(
    "statement", ["import lightning_flip", "import lightning_flip.stores", "import lightning_flip.reports"]
)
def test_importing_stays_light(statement):
    check = "import sys; print([n for n in ('torch', 'lightning', 'pytorch_lightning') if n in sys.modules])"
    result = subprocess.run([sys.executable, "-c", f"{statement}; {check}"], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
