"""``experiment.json``: which stages are finished, and their settings."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning_flip.cli._outputs import CommandError
from lightning_flip.stores.files import atomic_write, make_directory
from lightning_flip.stores.history.runs import library_version

__all__ = ["STATE_FILE", "differences", "read_state", "write_state"]

STATE_FILE = "experiment.json"
FORMAT_VERSION = 1
_MANY = 5


def read_state(folder: Path) -> dict[str, dict[str, Any]] | None:
    """The ``settings`` of each stage and whether it is ``finished``; None if no experiment was started."""
    path = folder / STATE_FILE
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        version, stages = content["format_version"], content["stages"]
        ok = isinstance(version, int) and all(
            isinstance(stage["settings"], dict) and isinstance(stage["finished"], bool) for stage in stages.values()
        )
    except FileNotFoundError:
        return None
    except OSError as error:
        raise CommandError(f"{path}: {error.strerror or error}.") from error
    except (ValueError, TypeError, KeyError, AttributeError):
        ok, version, stages = False, 0, {}
    if not ok:
        raise CommandError(f"{path} is damaged, or of another program. Choose another --output, or remove that folder.")
    if version > FORMAT_VERSION:
        raise CommandError(
            f"{path} has format version {version}, this version of lightning-flip reads up to {FORMAT_VERSION}. "
            "Install a newer one, or choose another --output."
        )
    return dict(stages)


def write_state(folder: Path, stages: Mapping[str, Mapping[str, Any]]) -> None:
    """Write the file, whole or not at all."""
    content = {"format_version": FORMAT_VERSION, "library_version": library_version(), "stages": stages}
    make_directory(folder)
    with atomic_write(folder / STATE_FILE) as temporary:
        temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def differences(before: Any, now: Any, where: str = "") -> list[str]:
    """A phrase for each setting that changed; a missing one counts as null, so that a newer version's do not count.

    Example:
        >>> differences({"model": {"lr": 0.1, "seed": 0}}, {"model": {"lr": 0.2, "seed": 0, "new": None}})
        ['model.lr was 0.1 and is 0.2']
    """
    if isinstance(before, dict) and isinstance(now, dict):
        keys = [*before, *(key for key in now if key not in before)]
        inner = [(str(key), before.get(key), now.get(key)) for key in keys]
    elif isinstance(before, list) and isinstance(now, list) and len(before) == len(now):
        inner = [(str(place), *pair) for place, pair in enumerate(zip(before, now, strict=True))]
    else:
        return [] if before == now else [f"{where} was {_short(before)} and is {_short(now)}"]
    found: list[str] = []
    for key, old, new in inner:
        found += differences(old, new, f"{where}.{key}" if where else key)
    return found


def listed(changes: list[str]) -> str:
    """One line of phrases, only the first of many."""
    more = len(changes) - _MANY
    return "; ".join(changes[:_MANY]) + (f"; and {more} more" if more > 0 else "")


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
