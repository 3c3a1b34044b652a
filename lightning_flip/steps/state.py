"""Which version of a callback's state a checkpoint holds."""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from typing import Any

from lightning.pytorch.utilities import rank_zero_warn

__all__ = ["STATE_VERSION", "check_version"]

STATE_VERSION = 1
_TOLD: weakref.WeakSet[Any] = weakref.WeakSet()  # Trainers that were warned: a checkpoint holds several old states


def check_version(state: Mapping[str, Any], name: str, trainer: Any) -> None:
    """Refuse the state of a later version, and warn once per Trainer of one that version 0.1 wrote."""
    version = state.get("version")
    if version is None:
        if trainer is None or trainer not in _TOLD:
            rank_zero_warn(
                "this checkpoint was written by version 0.1 of lightning-flip, whose states have no version: whether "
                "they are of these data cannot be checked. Training continues from them; the next checkpoint is of "
                "this version."
            )
        if trainer is not None:
            _TOLD.add(trainer)
    elif version != STATE_VERSION:
        raise ValueError(
            f"the checkpoint's state of {name} has version {version!r}; this lightning-flip reads version "
            f"{STATE_VERSION}. Install the lightning-flip that wrote it, or start a new run."
        )
