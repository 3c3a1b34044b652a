"""One folder holds the history of one run: `run.json` says of which."""

from __future__ import annotations

import dataclasses
import datetime
import importlib.metadata
import json
import os
import uuid
from collections.abc import Mapping
from pathlib import Path

from lightning_flip.stores.atomic import atomic_write, make_directory, sync_directory, temporary_files
from lightning_flip.stores.errors import HistoryError
from lightning_flip.stores.parts import HISTORY_FOLDER, list_parts, remove_parts
from lightning_flip.stores.samples import SAMPLES_FILE, is_samples_file

__all__ = ["FORMAT_VERSION", "RUN_FILE", "RunInfo", "discard_empty_run", "note_data", "open_run", "read_run"]

RUN_FILE = "run.json"
FORMAT_VERSION = 1


@dataclasses.dataclass(frozen=True)
class RunInfo:
    """What `run.json` says.

    Attributes:
        run_id: 32 hexadecimal digits; the checkpoints of the run hold them too.
        format_version: version of the folder's layout.
        created: when the run began, UTC, ISO 8601.
        library_version: the lightning-flip that began it.
        info: whatever the recording callback wanted to keep.
        data: the fingerprint of the data by split and loader, such as `data["train-0"]["length"]`; empty where
            version 0.1 wrote it.

    Example:
        >>> RunInfo("0" * 32, 1, "2025-01-01T00:00:00+00:00", "0.1.0", {"num_classes": 10}).info["num_classes"]
        10
    """

    run_id: str
    format_version: int
    created: str
    library_version: str
    info: Mapping[str, object]
    data: Mapping[str, Mapping[str, object]] = dataclasses.field(default_factory=dict)


def open_run(
    dirpath: str | os.PathLike[str],
    *,
    run_id: str | None,
    overwrite: bool = False,
    info: Mapping[str, object],
) -> str:
    """Begin a run in a folder, or continue the one that is there.

    One process calls this (rank 0), before any rank writes.

    | folder holds | `run_id` | result |
    |---|---|---|
    | no recorded run | None | a new run with a new id |
    | no recorded run | an id (the folder was moved since the checkpoint) | a run with that id |
    | the run `run_id` | that id | it continues; its files stay, `overwrite` or not |
    | another run | None or another id | FileExistsError, or with `overwrite` a fresh run |
    | parts, but no `run.json` | None | FileExistsError, or with `overwrite` a fresh run |
    | parts, but no `run.json` | an id | a run with that id; the parts stay |

    Args:
        dirpath: the run's folder; made if missing. Other files in it are left alone.
        run_id: the id from the checkpoint that is being resumed, or None for a run that starts.
        overwrite: remove the store's files of another run (`run.json`, `samples.parquet`, parts, orphans) and start
            afresh.
        info: anything that JSON can hold, kept in `run.json`.

    Returns:
        The id of the run that the folder now holds.

    Raises:
        FileExistsError: when the folder holds another run and `overwrite` is False.
        HistoryError: when `run.json` cannot be read; nothing is overwritten then, whatever `overwrite` says.
        TypeError: when JSON cannot hold `info`.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     begun = open_run(folder, run_id=None, info={"num_classes": 10})
        ...     open_run(folder, run_id=begun, info={}) == begun
        ...     try:
        ...         open_run(folder, run_id=None, info={})
        ...     except FileExistsError as error:
        ...         print("overwrite=True" in str(error))
        True
        True
    """
    folder = Path(dirpath)
    try:
        text = json.dumps(dict(info), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"info must hold only what JSON can hold (no NaN, no objects): {error}; got {info!r}."
        ) from error

    if (folder / RUN_FILE).exists():
        present = read_run(folder)
        if run_id == present.run_id:
            return run_id
        if not overwrite:
            raise FileExistsError(
                f"{folder} already holds the run {present.run_id} (begun {present.created}), but "
                + (f"the run to continue is {run_id}." if run_id else "a new run is starting.")
                + " Resume from a checkpoint of the run that is there, choose another folder, or pass overwrite=True,"
                " which removes that run's recorded files."
            )
        _remove_run(folder)
    elif (folder / SAMPLES_FILE).exists() and not is_samples_file(folder / SAMPLES_FILE):
        raise FileExistsError(
            f"{folder / SAMPLES_FILE} is not a file that lightning-flip can read, but has the name of one that it"
            " writes. Move it away, or choose another folder."
        )
    elif run_id is None and (list_parts(folder) or (folder / SAMPLES_FILE).exists()):
        if not overwrite:
            raise FileExistsError(
                f"{folder} holds recorded files of a run whose {RUN_FILE} is gone, and a new run"
                " would be mixed up with them. Resume from a checkpoint of that run, choose another folder, or pass"
                " overwrite=True, which removes those files."
            )
        _remove_run(folder)

    make_directory(folder)
    identity = run_id if run_id is not None else uuid.uuid4().hex
    content = {
        "run_id": identity,
        "format_version": FORMAT_VERSION,
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "library_version": library_version(),
        "info": json.loads(text),
    }
    with atomic_write(folder / RUN_FILE) as temporary:
        temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    return identity


def read_run(dirpath: str | os.PathLike[str]) -> RunInfo:
    """Read a folder's `run.json`.

    Args:
        dirpath: the run's folder.

    Returns:
        What the file says.

    Raises:
        HistoryError: when there is no such file, it cannot be read, or a newer version of the library wrote it.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = open_run(folder, run_id="ab" * 16, info={"num_classes": 10})
        ...     run = read_run(folder)
        >>> run.run_id[:4], run.info["num_classes"], run.format_version
        ('abab', 10, 1)
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
            f"{file} does not exist, so this folder is no recorded run.{hint} Give the folder that the recording"
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


def note_data(dirpath: str | os.PathLike[str], data: Mapping[str, Mapping[str, object]]) -> None:
    """Keep in `run.json` what data the run is of; what is known of other splits and loaders stays.

    Args:
        dirpath: the run's folder.
        data: a fingerprint by split and loader.

    Raises:
        HistoryError: when there is no `run.json`, or it cannot be read.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = open_run(folder, run_id=None, info={})
        ...     note_data(folder, {"train-0": {"length": 60000}})
        ...     read_run(folder).data["train-0"]["length"]
        60000
    """
    run = read_run(dirpath)
    known = {**run.data, **{name: dict(facts) for name, facts in data.items()}}
    if known != run.data:
        content = {**dataclasses.asdict(run), "data": known}
        with atomic_write(Path(dirpath) / RUN_FILE) as temporary:
            temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def discard_empty_run(dirpath: str | os.PathLike[str], run_id: str) -> bool:
    """Give up a run that failed before it recorded anything, so that its folder can be used again.

    Args:
        dirpath: the run's folder.
        run_id: the run's id.

    Returns:
        Whether `run.json` was removed: only if it is that run's and nothing was recorded.

    Raises:
        HistoryError: when `run.json` cannot be read.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     begun = open_run(folder, run_id=None, info={})
        ...     discard_empty_run(folder, "another"), discard_empty_run(folder, begun)
        (False, True)
    """
    folder = Path(dirpath)
    if not (folder / RUN_FILE).exists() or read_run(folder).run_id != run_id:
        return False
    history = folder / HISTORY_FOLDER
    if (folder / SAMPLES_FILE).exists() or any(path.is_file() for path in history.rglob("*")):
        return False
    _remove_run(folder)
    return True


def _remove_run(folder: Path) -> None:
    """Remove what the store wrote, `run.json` last: a folder left half-way still says whose it is."""
    remove_parts(folder)
    if is_samples_file(folder / SAMPLES_FILE):
        (folder / SAMPLES_FILE).unlink()
    for name in (SAMPLES_FILE, RUN_FILE):
        for stale in temporary_files(folder, name):
            stale.unlink()
    (folder / RUN_FILE).unlink(missing_ok=True)
    sync_directory(folder)


def library_version() -> str:
    """The version of this package that runs.

    Returns:
        The version, "unknown" in a source tree that was never installed.

    Example:
        >>> isinstance(library_version(), str)
        True
    """
    try:
        return importlib.metadata.version("lightning-flip")
    except importlib.metadata.PackageNotFoundError:
        return "unknown"
