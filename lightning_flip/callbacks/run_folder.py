"""The folders of a Trainer's run: chosen, claimed and given up once for all callbacks that write."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import os
import uuid
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.utilities import rank_zero_warn

from lightning_flip.stores import ClaimLostError, HistoryError
from lightning_flip.stores.claims import Claim, claim, discard_empty_run, extend_info, recorded_runs, versions
from lightning_flip.stores.history.parts import list_parts, set_aside

__all__ = [
    "RunFolder",
    "begin_run",
    "continue_history",
    "folder_of_run",
    "give_up",
    "open_folder",
    "overwrite_ignored",
    "placed",
    "recall_run",
]

_DEFAULT = "prediction_history"
_RUNS: weakref.WeakKeyDictionary[pl.Trainer, _Run] = weakref.WeakKeyDictionary()


@dataclasses.dataclass(frozen=True)
class RunFolder:
    """A callback's place in the folder of its run.

    Attributes:
        path: the run's folder.
        run_id: the run's id.
        claims: what is checked before a write; none on a rank that does not share the first rank's files.
        answer: what the first rank gave when the folder was opened.
    """

    path: Path
    run_id: str
    claims: tuple[Claim, ...] = ()
    answer: Any = None

    def check(self, *needed: Path) -> None:
        """Find out before a write whether the folder is still there and still this run's."""
        for one in self.claims:
            one.check(*needed)

    def with_claim(self, folder: Path, run_id: str) -> RunFolder:
        """Check a claim within the folder as well. Returns the same place."""
        within = (Claim(folder, run_id),) if self.claims else ()
        return dataclasses.replace(self, claims=(*self.claims, *within))


class _Run:
    """What is known of a Trainer's run while it lasts."""

    def __init__(self) -> None:
        self.default: Path | None = None
        self.session = uuid.uuid4().hex
        self.ids: list[str] = []  # the first is that of new claims
        self.claims: dict[Path, Claim] = {}
        self.writers: dict[tuple[Path, str], weakref.ref[object]] = {}

    def know(self, run_id: str) -> None:
        if run_id not in self.ids:
            self.ids.append(run_id)


def begin_run(trainer: pl.Trainer) -> None:
    """Forget an earlier run where a fit starts anew; every callback that writes calls this in ``begin``."""
    if trainer.current_epoch == 0 and trainer.global_step == 0:
        _RUNS.pop(trainer, None)


def recall_run(trainer: pl.Trainer, run_id: str, folder: str, *, default: bool) -> Path | None:
    """Hear from a checkpoint's state which run is resumed, before any folder is opened.

    Returns the folder to go back to; None where it is not there, or the callback was given one.
    """
    run = _RUNS.setdefault(trainer, _Run())
    if run_id:
        run.know(run_id)
    if not default or not folder or not Path(folder).is_dir():
        return None
    run.default = run.default or Path(folder)
    return Path(folder)


def folder_of_run(trainer: pl.Trainer) -> Path | None:
    """The folder that this Trainer's fit has chosen."""
    run = _RUNS.get(trainer)
    return None if run is None else run.default


def overwrite_ignored(trainer: pl.Trainer, *, known: bool, overwrite: bool) -> str:
    """Whether ``overwrite=True`` is ignored, because it would delete what a resumed run has recorded.

    A fit that resumes from a checkpoint without the callback's state cannot tell its own run from another one.
    """
    if not overwrite or known or not trainer.ckpt_path:
        return ""
    return (
        " overwrite=True is ignored, because the fit resumes from a checkpoint (ckpt_path=) that holds no state of "
        "this callback. Choose another dirpath=, or move the folder away."
    )


def open_folder(
    trainer: pl.Trainer,
    writer: object,
    part: str,
    *,
    dirpath: str | Path | None,
    kept: Path | None,
    run_id: str | None,
    overwrite: bool,
    info: dict[str, Any] | None = None,
    refuse: Callable[[Path], str] | None = None,
    work: Callable[[Claim, bool], Any] | None = None,
) -> RunFolder:
    """Begin or continue a run; rank 0 does it, and all ranks hear of a refusal, so that none waits for the others.

    Callbacks without ``dirpath`` share one folder. With a logger it is the Trainer's ``log_dir``, or, where that holds
    another run, the next ``version_N`` in it; without one it is the next ``prediction_history/version_N`` in the
    Trainer's ``default_root_dir``.

    Returns the callback's place.

    Args:
        trainer: the running Trainer; every rank has to come here.
        writer: the callback.
        part: what it writes in the folder, which no other callback of the Trainer may write.
        dirpath: the folder that the callback was given.
        kept: the folder of its earlier fit or its checkpoint.
        run_id: the id that the callback's checkpoint names.
        overwrite: remove another run's record from a given folder.
        info: what ``run.json`` is to keep.
        refuse: says what speaks against writing the part into a folder, "" for nothing; not asked where the callback
            may overwrite.
        work: done by the first rank with the folder's claim and whether it may overwrite; gives a plain value.
    """
    run = _RUNS.setdefault(trainer, _Run())
    log_dir = trainer.log_dir  # every rank has to ask: the answer is broadcast
    problem: Exception | None = None
    told: tuple[Any, ...] = ()
    if trainer.is_global_zero:
        ignored = overwrite_ignored(trainer, known=run_id is not None, overwrite=overwrite)
        replace = overwrite and not ignored
        against = (lambda folder: "") if refuse is None or replace else refuse
        given = dirpath or kept or run.default
        try:
            if given is not None:
                folder = Path(given).absolute()  # the program may change its folder later
                _refuse(against(folder))
                _refuse_second_writer(trainer, run, folder, part, writer)
                options: dict[str, Any] = {"known": run.ids, "new_id": next(iter(run.ids), None)}
                options["session"] = run.session
                claimed = claim(folder, run_id, overwrite=replace and dirpath is not None, info=info, **options)
            else:
                claimed = _choose(trainer, log_dir, run_id, run, info, against)
            _join(run, claimed, part, writer, info)
            answer = None if work is None else work(claimed, replace)
            told = str(claimed.folder), claimed.run_id, claimed.session, answer
        except FileExistsError as error:
            problem = FileExistsError(f"{error}{ignored}")
        except (OSError, ValueError, TypeError, ClaimLostError) as error:
            problem = error
    told, text = trainer.strategy.broadcast((told, None if problem is None else str(problem)))
    if problem is not None:
        raise problem
    if text is not None:
        raise FileExistsError(text)
    place = Claim(Path(told[0]), told[1], session=told[2])
    run.know(place.run_id)
    if dirpath is None:
        run.default = run.default or place.folder
    return placed(trainer, place, told[3])


def placed(trainer: pl.Trainer, place: Claim, answer: Any = None) -> RunFolder:
    """A callback's place in a folder that the first rank has claimed."""
    sees = trainer.is_global_zero or _sees(place)
    return RunFolder(place.folder, place.run_id, (place,) if sees else (), answer)


def give_up(trainer: pl.Trainer, writer: object) -> None:
    """Leave no trace of a run that failed before it recorded anything: its next attempt needs the folder.

    The last callback of a folder gives it up, when the others have saved what they had.
    """
    run = _RUNS.get(trainer)
    if run is None or not trainer.is_global_zero:
        return
    mine = [key for key, other in run.writers.items() if other() is writer]
    for key in mine:
        del run.writers[key]
    for folder in {key[0] for key in mine} - {key[0] for key in run.writers}:
        claimed = run.claims.pop(folder)
        if claimed.fresh and discard_empty_run(folder, claimed.run_id) and claimed.made:
            with contextlib.suppress(OSError):  # only if nothing else is in it
                folder.rmdir()


def continue_history(finished: Sequence[tuple[str, int, int]], folder: Path, *, known: bool) -> None:
    """Set aside what is newer than the checkpoint, and say what is missing."""
    there = list_parts(folder)
    if there and not known:
        raise FileExistsError(
            f"{folder} already holds recorded parts of this run, and the checkpoint has no state of the callback that "
            "wrote them. Choose another dirpath=, or resume with the callbacks that the run had."
        )
    orphans = set_aside(folder, finished)
    if orphans:
        rank_zero_warn(f"{len(orphans)} parts newer than the checkpoint were set aside as *.orphan.")
    missing = sorted(set(finished) - {(key.split, key.epoch, key.pass_) for key in there})
    if missing:
        rank_zero_warn(
            f"{folder} lacks {len(missing)} passes that were recorded before the checkpoint (the first: "
            f"{missing[0]}). The history goes on without them, and what it says of earlier epochs is wrong. "
            "Resume into the folder of the first run, or copy its history there."
        )


def _choose(
    trainer: pl.Trainer,
    log_dir: str | None,
    run_id: str | None,
    run: _Run,
    info: dict[str, Any] | None,
    against: Callable[[Path], str],
) -> Claim:
    """Claim the folder of a run to which nobody gave one."""
    shared = log_dir is not None and bool(trainer.loggers)
    root = Path(log_dir or "").absolute() if shared else Path(trainer.default_root_dir).absolute() / _DEFAULT
    ids, first = run.ids, next(iter(run.ids), None)
    go_on = functools.partial(claim, run_id=run_id, info=info, known=ids, new_id=first, session=run.session)
    begin = functools.partial(claim, versioned=True, info=info, new_id=run_id or first, session=run.session)
    mine = {*ids, *([run_id] if run_id else [])}
    for folder in (root, *versions(root)) if mine else ():  # the folder was moved with all that is around it
        if recorded_runs(folder) & mine:
            return go_on(folder)
    if not shared:
        return begin(root)
    try:
        _refuse(against(root))
        return go_on(root)
    except (FileExistsError, HistoryError):  # or a run.json of somebody else
        claimed = begin(root, first=1)
        rank_zero_warn(
            f"the logger's folder {root} holds another run, so that this run is recorded in {claimed.folder}. Give "
            "the logger a version or name for each run, or the callbacks a dirpath=."
        )
        return claimed


def _join(run: _Run, claimed: Claim, part: str, writer: object, info: dict[str, Any] | None) -> None:
    """Remember who writes what; a run that has just begun keeps the facts of all its recorders."""
    folder = _real(claimed.folder)
    first = run.claims.setdefault(folder, claimed)
    if claimed.fresh:
        run.claims[folder] = claimed
    elif first.fresh and info and (folder, part) not in run.writers:
        extend_info(claimed, info)
    run.writers[folder, part] = weakref.ref(writer)


def _refuse(text: str) -> None:
    if text:
        raise FileExistsError(text)


def _refuse_second_writer(trainer: pl.Trainer, run: _Run, folder: Path, part: str, writer: object) -> None:
    known = run.writers.get((_real(folder), part))
    other = None if known is None else known()
    callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
    if other is not None and other is not writer and any(other is callback for callback in callbacks):
        _refuse(
            f"{folder / part} is already written by another {type(other).__name__} of this Trainer. Give one of them "
            "another dirpath=; overwrite=True does not help here."
        )


def _real(folder: Path) -> Path:
    return Path(os.path.realpath(folder))


def _sees(place: Claim) -> bool:
    """Whether this rank shares the first rank's files."""
    try:
        place.check()
    except ClaimLostError:
        return False
    return True
