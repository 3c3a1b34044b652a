"""Which samples does a classifier get wrong now that it got right before, why, and how to stop it.

Names are imported when they are first used: reading a store, and the commands over stores, need neither
torch nor lightning. ``__init__.pyi`` lists them.
"""

from __future__ import annotations

import sys
from typing import Any

import lazy_loader

from lightning_flip._deprecate import moved

__version__ = "0.1.0"

_attribute, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

#: Names of 0.1 that are imported from their folders now.
_MOVED = {
    "FeatureProjection": "callbacks",
    "IndexedBatch": "data",
    "IndexedDataset": "data",
    "LogitGaps": "callbacks",
    "NoiseAccuracy": "callbacks",
    "SampleStep": "steps",
    "SampleTable": "tables",
    "ToyGaussianDataModule": "data",
    "TrainingTargets": "callbacks",
    "VisitStatistics": "tables",
    "WinningScores": "callbacks",
}


def __getattr__(name: str) -> Any:
    if name in _MOVED and not _looked_for():
        return moved(f"{__name__}.{name}", f"{__name__}.{_MOVED[name]}", name)
    return _attribute(name)


def _looked_for() -> bool:
    """Whether jsonargparse looks for the shortest path of a class, to write it into help and configs.

    It tries every package above the class. A name that is going away must not be found there, nor warn.
    """
    return sys._getframe(2).f_code.co_name == "get_import_path"
