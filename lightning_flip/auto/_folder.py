"""Which folder a run is recorded into."""

from __future__ import annotations

from pathlib import Path

__all__ = ["claim_version", "give_up"]


def claim_version(root: Path) -> Path:
    """Make a ``version_N`` for one run alone; making a folder succeeds for one process only."""
    root.mkdir(parents=True, exist_ok=True)
    taken = [path.name.removeprefix("version_") for path in root.glob("version_*")]
    number = max((int(name) for name in taken if name.isdecimal()), default=-1) + 1
    while True:
        folder = root / f"version_{number}"
        try:
            folder.mkdir()
        except FileExistsError:
            number += 1
        else:
            return folder


def give_up(folder: Path) -> None:
    """Remove a folder that holds nothing."""
    for empty in (folder / "history", folder):
        if empty.is_dir() and not any(empty.iterdir()):
            empty.rmdir()
