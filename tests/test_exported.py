from __future__ import annotations

import ast
import importlib
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import lightning_flip

SUBPACKAGES = sorted(module.name for module in pkgutil.iter_modules(lightning_flip.__path__) if module.ispkg)


STUB = ast.parse(Path(lightning_flip.__file__).with_suffix(".pyi").read_text(encoding="utf-8"))
HOMES = [(node.module, name.name) for node in STUB.body if isinstance(node, ast.ImportFrom) for name in node.names]


def like_ruff(name: str) -> tuple[int, str]:
    """CONSTANTS, then Classes, then functions: the order that the linter keeps."""
    return (0 if name.isupper() else 1 if name[0].isupper() else 2, name)


def test_top_level_names_are_sorted():
    assert sorted(lightning_flip.__all__) == lightning_flip.__all__


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


def test_dir_shows_lazy_names():
    assert set(lightning_flip.__all__) <= set(dir(lightning_flip))


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
