"""Names that have moved: they work for some versions more, and warn."""

from __future__ import annotations

import warnings
from importlib import import_module
from typing import Any

__all__ = ["moved"]


def moved(old: str, home: str, name: str, *, removed: str = "0.4") -> Any:
    """The object ``name`` of the module ``home``, with a FutureWarning that its ``old`` name will be removed."""
    text = f"{old} is now {home}.{name}; the old name will be removed in {removed}."
    warnings.warn(text, FutureWarning, stacklevel=3)
    return getattr(import_module(home), name)
