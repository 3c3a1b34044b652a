"""`run.json`, which describes the run that a folder holds."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
import os
from collections.abc import Mapping
from pathlib import Path

from lightning_flip.stores.errors import HistoryError

__all__ = ["FORMAT_VERSION", "RUN_FILE", "RunInfo", "library_version", "read_run"]

RUN_FILE = "run.json"
FORMAT_VERSION = 2  # 2: parts hold the best other class, and prob_pred no more


@dataclasses.dataclass(frozen=True)
class RunInfo:
    """The content of `run.json`.

    Attributes:
        run_id: 32 hexadecimal digits; the checkpoints of the run hold them too.
        format_version: version of the folder's layout.
        created: when the run began, UTC, ISO 8601.
        library_version: the lightning-flip that began it.
        info: whatever the recording callback wanted to keep.
        data: the fingerprint of the data by split and loader, such as `data["train-0"]["length"]`; empty if
            version 0.1 wrote it.
    """

    run_id: str
    format_version: int
    created: str
    library_version: str
    info: Mapping[str, object]
    data: Mapping[str, Mapping[str, object]] = dataclasses.field(default_factory=dict)


def read_run(dirpath: str | os.PathLike[str]) -> RunInfo:
    """Read the `run.json` of a run's folder.

    Raises:
        HistoryError: if there is no such file, it cannot be read, or a newer version of the library wrote it.

    Example:
        >>> import tempfile
        >>> from lightning_flip.stores.claims import claim
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = claim(folder, "ab" * 16, info={"num_classes": 10})
        ...     run = read_run(folder)
        >>> run.run_id[:4], run.info["num_classes"], run.format_version
        ('abab', 10, 2)
    """
    file = Path(dirpath) / RUN_FILE
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        names = [field.name for field in dataclasses.fields(RunInfo) if field.name != "data"]
        run = RunInfo(**{name: content[name] for name in names}, data=content.get("data", {}))
    except FileNotFoundError:
        inside = sorted(str(path.parent) for path in file.parent.glob(f"*/{RUN_FILE}"))
        hint = f" There are runs in {', '.join(inside)}." if inside else ""
        raise HistoryError(
            f"{file} does not exist, so this folder is not a recorded run.{hint} Give the folder that the recording"
            " callback wrote to (by default the logger's, e.g. lightning_logs/version_0), or resume the run from its"
            " checkpoint to write it again."
        ) from None
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise HistoryError(
            f"{file} cannot be read ({type(error).__name__}: {error}). Nothing was overwritten. Restore it from a"
            " copy; or, to give the run up, remove it by hand and record with overwrite=True."
        ) from error
    if not isinstance(run.run_id, str) or not isinstance(run.format_version, int) or not isinstance(run.info, dict):
        raise HistoryError(
            f"{file} is not a run.json of lightning-flip: run_id, format_version or info has a wrong type."
        )
    if run.format_version > FORMAT_VERSION:
        raise HistoryError(
            f"{file} has format version {run.format_version}, written by lightning-flip {run.library_version}; this"
            f" version ({library_version()}) reads up to {FORMAT_VERSION}. Install a newer lightning-flip."
        )
    return run


def library_version() -> str:
    """The version of this package; "unknown" in a source tree that was never installed."""
    try:
        return importlib.metadata.version("lightning-flip")
    except importlib.metadata.PackageNotFoundError:
        return "unknown"
