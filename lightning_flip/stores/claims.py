"""One folder holds the record of one run: `run.json` claims it, written whole and by one process alone."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import errno
import itertools
import json
import os
import re
import uuid
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from lightning_flip.stores.errors import ClaimLostError, HistoryError
from lightning_flip.stores.files import atomic_write, make_directory, sync_directory, temporary_files
from lightning_flip.stores.history.parts import HISTORY_FOLDER, list_parts, remove_parts
from lightning_flip.stores.history.runs import FORMAT_VERSION, RUN_FILE, library_version, read_run
from lightning_flip.stores.history.samples import SAMPLES_FILE, is_samples_file
from lightning_flip.stores.soft_targets import soft_target_run
from lightning_flip.stores.zigzag import ZIGZAG_FILE, zigzag_run

try:
    import fcntl
except ImportError:  # Windows: the exclusive file alone has to do
    fcntl = None  # type: ignore[assignment]

__all__ = [
    "Claim",
    "claim",
    "discard_empty_run",
    "extend_info",
    "note_data",
    "note_info",
    "open_run",
    "recorded_runs",
    "versions",
]

_VERSION = re.compile(r"version_(\d+)")
_FOLDERS = (HISTORY_FOLDER, "paths", "soft_targets", "diagnostics")


@dataclasses.dataclass(frozen=True)
class Claim:
    """A run's right to a folder.

    Attributes:
        folder: the folder.
        run_id: the run's id, which `run.json` in it names.
        fresh: whether the run began with this claim.
        made: whether the folder was made for it.
        session: distinguishes the process that records from one that resumes the same run; "" if that does not matter.
    """

    folder: Path
    run_id: str
    fresh: bool = True
    made: bool = False
    session: str = ""

    def check(self, *needed: Path) -> None:
        """Raise a ClaimLostError if the folder is gone or another run's, or a `needed` file in it is gone."""
        file, problem = self.folder / RUN_FILE, ""
        try:
            content = json.loads(file.read_bytes())
            owner, session = content["run_id"], content.get("session", "")
        except (FileNotFoundError, NotADirectoryError):
            problem = f"{file} is gone" if self.folder.is_dir() else f"{self.folder} is gone"
        except (OSError, ValueError, TypeError, KeyError) as error:
            problem = f"{file} cannot be read ({type(error).__name__}: {error})"
        else:
            lost = next((path for path in needed if not path.exists()), None)
            if owner != self.run_id:
                problem = f"{self.folder} now holds the run {owner}"
            elif self.session and session != self.session:
                problem = f"another process has resumed the run in {self.folder}"
            elif lost is not None:
                problem = f"{lost} is gone"
        if problem:
            raise ClaimLostError(
                f"{problem}, while the run {self.run_id} was being recorded there. Nothing was written. Put back what "
                "was moved or removed and resume from a checkpoint, or begin again with another dirpath=."
            )


def claim(
    dirpath: str | os.PathLike[str],
    run_id: str | None = None,
    *,
    overwrite: bool = False,
    info: Mapping[str, object] | None = None,
    versioned: bool = False,
    first: int = 0,
    known: Collection[str] = (),
    new_id: str | None = None,
    session: str = "",
) -> Claim:
    """Claim a folder for a run; of any number of simultaneous claims exactly one succeeds.

    The claim is `run.json`, which is written whole and only if there is none. One process of a run calls this (rank 0),
    before any rank writes.

    | folder holds | `run_id` | result |
    |---|---|---|
    | no recorded run | None | a new run with a new id |
    | no recorded run | an id (the folder was moved since the checkpoint) | a run with that id |
    | the run `run_id` | that id | it continues; its files stay, `overwrite` or not |
    | another run | None or another id | FileExistsError, or with `overwrite` a fresh run |
    | recorded files, but no `run.json` | None | FileExistsError, or with `overwrite` a fresh run |
    | recorded files, but no `run.json` | an id | a run with that id, unless the files name another; they stay |

    Args:
        dirpath: the run's folder; made if missing. Other files in it are left alone.
        run_id: the id from the checkpoint that is being resumed, or None for a run that starts.
        overwrite: remove all that another run has recorded in the folder (history, samples, learning paths, soft
            targets, zig-zag scores), and start afresh. A run that still writes there notices at its next write.
        info: anything that JSON can hold, kept in `run.json`.
        versioned: claim a folder `version_N` in `dirpath` instead: the latest one if it is empty, else the next.
        first: the lowest N.
        known: further ids of the run: in version 0.1, each part of a run had its own.
        new_id: the id of a run that starts; None draws one.
        session: drawn by the process that records: one that resumes the same run takes the folder over, and this one
            notices at its next write.

    Raises:
        FileExistsError: if the folder holds another run and `overwrite` is False.
        HistoryError: if `run.json` cannot be read; nothing is overwritten then, even with `overwrite`.
        TypeError: if JSON cannot hold `info`.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     [claim(folder, versioned=True).folder.name for _ in range(3)]
        ...     try:
        ...         claim(Path(folder, "version_0"))
        ...     except FileExistsError as error:
        ...         print("overwrite=True" in str(error))
        ['version_0', 'version_1', 'version_2']
        True
    """
    try:
        text = json.dumps(dict(info or {}), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"info must hold only what JSON can hold (no NaN, no objects): {error}; got {info!r}."
        ) from error
    identity = run_id or new_id or uuid.uuid4().hex
    content = {
        "run_id": identity,
        "format_version": FORMAT_VERSION,
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "library_version": library_version(),
        "info": json.loads(text),
        **({"session": session} if session else {}),
    }
    if versioned:
        return _claim_version(Path(dirpath), first, identity, content)
    mine = {*known, *([run_id] if run_id else [])}
    with contextlib.suppress(FileNotFoundError):  # a run that was given up took its folder along
        return _claim_folder(Path(dirpath), run_id, mine, content, overwrite=overwrite)
    return _claim_folder(Path(dirpath), run_id, mine, content, overwrite=overwrite)


def open_run(
    dirpath: str | os.PathLike[str],
    *,
    run_id: str | None,
    overwrite: bool = False,
    info: Mapping[str, object],
) -> str:
    """Claim a folder for a run that begins or continues, and return the run's id; see `claim`."""
    return claim(dirpath, run_id, overwrite=overwrite, info=info).run_id


def extend_info(claimed: Claim, info: Mapping[str, object]) -> None:
    """Add to the info that `run.json` of a run that has just begun keeps; several recorders share a folder."""
    _extend(claimed, "info", info)


def note_data(claimed: Claim, data: Mapping[str, Mapping[str, object]]) -> None:
    """Keep the fingerprints of a run's data by split and loader in `run.json`; what is known of others stays."""
    if any(read_run(claimed.folder).data.get(name) != facts for name, facts in data.items()):
        _extend(claimed, "data", data)


def note_info(claimed: Claim, info: Mapping[str, object]) -> None:
    """Add to the info of `run.json` what it does not say yet."""
    known = read_run(claimed.folder).info
    new = {name: value for name, value in info.items() if name not in known}
    if new:
        _extend(claimed, "info", new)


def discard_empty_run(dirpath: str | os.PathLike[str], run_id: str) -> bool:
    """Give up a run that failed before it recorded anything, so that its folder can be used again.

    Returns whether `run.json` was removed: only if it is that run's and nothing was recorded.
    """
    folder = Path(dirpath)
    if not (folder / RUN_FILE).exists():
        return False
    with _locked(folder):
        if not (folder / RUN_FILE).exists() or read_run(folder).run_id != run_id or not _is_empty(folder):
            return False
        _remove_record(folder)
        (folder / RUN_FILE).unlink()
        sync_directory(folder)
    return True


def recorded_runs(dirpath: str | os.PathLike[str]) -> set[str]:
    """The ids of the runs that a folder names; version 0.1 may have written several, one for each part of a run."""
    folder = Path(dirpath)
    found = set(_record(folder).values())
    with contextlib.suppress(HistoryError):
        found.add(read_run(folder).run_id)
    return found


def _extend(claimed: Claim, name: str, values: Mapping[str, object]) -> None:
    with _locked(claimed.folder):
        claimed.check()
        content = _read_claim(claimed.folder)
        content[name] = {**content.get(name, {}), **values}
        _write_claim(claimed.folder, content)


def versions(root: Path) -> list[Path]:
    """The folders `version_N` in a folder, sorted by N."""
    found = {int(match[1]): path for path in root.glob("version_*") if (match := _VERSION.fullmatch(path.name))}
    return [found[number] for number in sorted(found)]


def _claim_version(root: Path, first: int, run_id: str, content: Mapping[str, Any]) -> Claim:
    """Claim the first free version; if another claim comes first, the next one."""
    make_directory(root)
    number = first
    for latest in versions(root)[-1:]:
        taken = not latest.is_dir() or any(latest.iterdir())
        number = max(first, int(latest.name.removeprefix("version_")) + taken)
    while True:
        try:
            return _claim_folder(root / f"version_{number}", None, set(), content, overwrite=False)
        except FileNotFoundError:  # a run that was given up took its folder along
            make_directory(root)
        except (FileExistsError, HistoryError):
            number += 1


def _claim_folder(
    folder: Path, run_id: str | None, mine: set[str], content: Mapping[str, Any], *, overwrite: bool
) -> Claim:
    made = not folder.is_dir()
    make_directory(folder)
    claimed = Claim(folder, content["run_id"], session=content.get("session", ""))
    with _locked(folder):
        if (folder / RUN_FILE).exists():
            present = read_run(folder)
            if present.run_id in mine or mine & set(_record(folder).values()):
                there = _read_claim(folder)
                if claimed.session not in ("", there.get("session")):  # from now on this process alone records the run
                    _write_claim(folder, {**there, "session": claimed.session})
                return dataclasses.replace(claimed, run_id=present.run_id, fresh=False)
            if not overwrite:
                raise FileExistsError(
                    f"{folder} already holds the run {present.run_id} (begun {present.created}), but "
                    + (f"the run to continue is {run_id}." if run_id else "a new run is starting.")
                    + " Resume from a checkpoint of the run that is there, choose another folder, or pass"
                    " overwrite=True, which removes that run's recorded files."
                )
            _remove_record(folder)
            _write_claim(folder, content)  # never without a claim in between, which a fresh run could take
            return claimed
        _refuse_leftovers(folder, run_id, mine, overwrite=overwrite)
        try:
            _write_claim(folder, content, replace=False)
        except FileExistsError:
            raise FileExistsError(
                f"{folder} was claimed by another run at this moment. Choose another folder, or pass overwrite=True "
                "when that run has ended."
            ) from None
        return dataclasses.replace(claimed, made=made)


def _refuse_leftovers(folder: Path, run_id: str | None, mine: set[str], *, overwrite: bool) -> None:
    """Refuse, or remove, what a run whose claim is gone has recorded."""
    if (folder / SAMPLES_FILE).exists() and not is_samples_file(folder / SAMPLES_FILE):
        raise FileExistsError(
            f"{folder / SAMPLES_FILE} is not a file that lightning-flip can read, but has the name of one that it"
            " writes. Move it away, or choose another folder."
        )
    record = _record(folder)
    if mine & set(record.values()):
        return
    foreign = bool(record)
    if run_id is None and not foreign:
        foreign = bool(list_parts(folder)) or (folder / SAMPLES_FILE).exists()
    if foreign and not overwrite:
        raise FileExistsError(
            f"{folder} holds recorded files of a run whose {RUN_FILE} is gone, and a new run"
            " would be mixed up with them. Resume from a checkpoint of that run, choose another folder, or pass"
            " overwrite=True, which removes those files."
        )
    if foreign:
        _remove_record(folder)


def _record(folder: Path) -> dict[Path, str]:
    """The files that name a run beside its history, and the run that each names."""
    found: dict[Path, str | None] = {folder / ZIGZAG_FILE: zigzag_run(folder / ZIGZAG_FILE)}
    for file in sorted((folder / "soft_targets").rglob("*.safetensors")):
        found[file] = soft_target_run(file)
    for file in sorted((folder / "paths").rglob(RUN_FILE)):
        with contextlib.suppress(HistoryError):
            found[file] = read_run(file.parent).run_id
    return {file: run for file, run in found.items() if run}


def _remove_record(folder: Path) -> None:
    """Remove what a run has recorded, except `run.json`: a folder left half-way still names its run."""
    for file in _record(folder):
        if file.name == RUN_FILE:
            remove_parts(file.parent)
        elif file.suffix == ".safetensors":
            file.with_suffix(".json").unlink(missing_ok=True)
        file.unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # only if nothing else is in it
            for parent in itertools.takewhile(lambda parent: parent != folder, file.parents):
                parent.rmdir()
    remove_parts(folder)
    if is_samples_file(folder / SAMPLES_FILE):
        (folder / SAMPLES_FILE).unlink()
    for pattern in ("diagnostics/*.csv", "diagnostics/*.png", f"*/{ZIGZAG_FILE}", "transition.npz"):
        for file in folder.glob(pattern):
            file.unlink()
    for name in (SAMPLES_FILE, RUN_FILE, ZIGZAG_FILE):
        for stale in temporary_files(folder, name):
            stale.unlink(missing_ok=True)
    sync_directory(folder)


def _is_empty(folder: Path) -> bool:
    """Whether nothing was recorded; claims within the folder that hold nothing do not count."""
    for name in _FOLDERS:
        for path in (folder / name).rglob("*"):
            if path.is_file() and path.name != RUN_FILE:
                return False
    files = (folder / SAMPLES_FILE, folder / ZIGZAG_FILE, folder / "transition.npz")
    return not any(file.exists() for file in files) and not any(folder.glob(f"*/{ZIGZAG_FILE}"))


def _read_claim(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / RUN_FILE).read_text(encoding="utf-8"))
    return content


def _write_claim(folder: Path, content: Mapping[str, Any], *, replace: bool = True) -> None:
    with atomic_write(folder / RUN_FILE, replace=replace) as temporary:
        temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Keep other claims of a folder waiting, where the file system can; the lock ends with the process."""
    if fcntl is None:
        yield
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        except OSError as error:
            if error.errno not in (errno.ENOTSUP, errno.ENOSYS, errno.EINVAL, errno.EBADF, errno.ENOLCK):
                raise
        yield
    finally:
        with contextlib.suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_UN)  # a fork may hold the descriptor open
        os.close(descriptor)
