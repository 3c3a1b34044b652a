"""No method without a setting, and no setting without what the sweep asks of it."""

from __future__ import annotations

import importlib
import pkgutil
import sys
import types
from collections import Counter
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import yaml

from lightning_flip import mixins, modules
from lightning_flip.mixins import BatchMixing, CorrectedLoss, LossTerm, ReferencedLoss, StudentLoss
from tests.sweep.settings import SETTINGS, Setting, every_setting

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
BASES = {LossTerm, BatchMixing, CorrectedLoss, ReferencedLoss, StudentLoss}


def methods(root: type, package: str) -> set[type]:
    """The subclasses that the modules of a package hold, and their subclasses; combinations with a module are none."""
    found: set[Any] = set()
    for cls in root.__subclasses__():
        home = sys.modules.get(cls.__module__)  # a doctest's classes say that they are of a module, which lacks them
        own = cls.__module__.startswith(f"{package}.") and getattr(home, cls.__name__, None) is cls
        found |= ({cls} if own and not issubclass(cls, pl.LightningModule) else set()) | methods(cls, package)
    return found


def test_every_method_is_swept() -> None:
    for part in pkgutil.iter_modules(mixins.__path__):  # one that nobody exports counts as well
        importlib.import_module(f"{mixins.__name__}.{part.name}")
    assert methods(LossTerm, "lightning_flip") - BASES == {setting.method for setting in SETTINGS}
    assert {getattr(mixins, name) for name in mixins.__all__} - BASES == {setting.method for setting in SETTINGS}


def test_a_method_that_is_added_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    class Root: ...

    class Base(Root): ...

    class Added(Base): ...

    class Elsewhere(Base): ...

    class Combined(Added, pl.LightningModule): ...

    home = types.ModuleType("somewhere.mixins")
    monkeypatch.setitem(sys.modules, home.__name__, home)
    for cls in (Base, Added, Combined):
        setattr(home, cls.__name__, cls)
        cls.__module__ = home.__name__
    assert methods(Root, "somewhere") == {Base, Added}
    del home.Added  # type: ignore[attr-defined]
    assert methods(Root, "somewhere") == {Base}


@every_setting
def test_a_setting_is_complete(setting: Setting) -> None:
    assert Counter(map(str, SETTINGS))[str(setting)] == 1
    content = yaml.safe_load((EXAMPLES / setting.config).read_text(encoding="utf-8"))
    assert content["model"]["class_path"] == f"lightning_flip.modules.{setting.method.__name__}Classifier"
    assert issubclass(getattr(modules, f"{setting.method.__name__}Classifier"), setting.method)
    assert content["data"]["class_path"] == "lightning_flip.data.DigitsDataModule"
    # Either the numpy loop over fixed batches, or the reason why recorded ones are replayed.
    assert (setting.oracle is None) == (setting.replay is not None) == bool(setting.together)
