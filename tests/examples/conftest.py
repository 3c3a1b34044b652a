from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest

NOISE = Path(__file__).resolve().parents[2] / "examples" / "noise"


@pytest.fixture
def noise_script(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], ModuleType]]:
    """Import a script of examples/noise with its folder on the path, as running it has; nothing of it stays."""
    monkeypatch.syspath_prepend(str(NOISE))
    names = [path.stem for path in NOISE.glob("*.py")]
    for name in names:
        monkeypatch.delitem(sys.modules, name, raising=False)
    yield importlib.import_module
    for name in names:
        sys.modules.pop(name, None)
