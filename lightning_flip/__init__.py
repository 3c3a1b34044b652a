"""Which samples does a classifier get wrong now that it got right before, why, and how to stop it.

Names are imported when they are first used: reading a store, and the commands over stores, need neither
torch nor lightning. ``__init__.pyi`` lists them.
"""

from __future__ import annotations

from typing import Any

import lazy_loader

from lightning_flip._deprecate import moved

__version__ = "0.1.0"

_attribute, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

#: Names of 0.1 that authors of methods import from their folders.
_MOVED = {
    "IndexedBatch": "data",
    "IndexedDataset": "data",
    "SampleStep": "steps",
    "SampleTable": "tables",
    "VisitStatistics": "tables",
}


def __getattr__(name: str) -> Any:
    if name in _MOVED:
        return moved(f"{__name__}.{name}", f"{__name__}.{_MOVED[name]}", name)
    return _attribute(name)
