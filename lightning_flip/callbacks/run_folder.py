"""The folders of a Trainer's run: chosen, claimed and given up once for all callbacks that write."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import os
import uuid
import weakref
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.utilities import rank_zero_warn

from lightning_flip.callbacks.ranks import on_first_rank
from lightning_flip.callbacks.watcher import StepWatcher, is_fresh
from lightning_flip.stores import ClaimLostError, HistoryError
from lightning_flip.stores.claims import Claim, claim, discard_empty_run, extend_info, recorded_runs, versions
from lightning_flip.stores.history.parts import list_parts, set_aside

__all__ = ["RunFolder", "RunWriter", "continue_history", "folder_of_run", "placed", "warn_if_partial", "writes_files"]

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


class RunWriter(StepWatcher):
    """A watcher that writes into the folder of its run; nothing in ``fast_dev_run``.

    Callbacks without ``dirpath`` share one folder. With a logger it is the Trainer's ``log_dir``, or, if that holds
    another run, the next ``version_N`` in it; without one it is the next ``prediction_history/version_N`` in the
    Trainer's ``default_root_dir``. A resumed run continues in the folder of its checkpoint; what is newer than the
    checkpoint is set aside as ``*.orphan``, never deleted.

    Args:
        dirpath: the run's folder, which no other run may hold; None: the shared one.
        overwrite: remove all that another run has recorded in ``dirpath`` instead of refusing.
        **options: see :class:`~lightning_flip.callbacks.watcher.StepWatcher`.

    Attributes:
        folder: the run's folder; None before a fit has opened it.

    Raises:
        FileExistsError: when a fit begins and the folder holds another run's files.
    """

    def __init__(self, *, dirpath: str | Path | None = None, overwrite: bool = False, **options: Any) -> None:
        super().__init__(**options)
        self.dirpath = dirpath
        self.overwrite = overwrite
        RunWriter._forget(self)

    def _forget(self) -> None:
        """Forget the run; subclasses also forget what they have seen of it."""
        self._base: Path | None = None
        self._run_id: str | None = None
        self._place: RunFolder | None = None
        self._needed: tuple[Path, ...] = ()  # files that the next write expects to find

    @property
    def folder(self) -> Path | None:
        """The run's folder; None before a fit has opened it."""
        return self._base

    def active(self, trainer: pl.Trainer) -> bool:
        """Nothing lasting is written in ``fast_dev_run``."""
        return writes_files(trainer)

    def begin(self, trainer: pl.Trainer) -> None:
        """A fit from the first epoch is a new run; one that continues with this Trainer is the same."""
        self._place = None
        if is_fresh(trainer):
            _RUNS.pop(trainer, None)
            self._forget()

    def rescue(self, trainer: pl.Trainer) -> None:
        """Leave no trace of a run that failed before it recorded anything: its next attempt needs the folder.

        The last callback of a folder gives it up, when the others have saved what they had.
        """
        run = _RUNS.get(trainer)
        if run is None or not trainer.is_global_zero:
            return
        mine = [key for key, other in run.writers.items() if other() is self]
        for key in mine:
            del run.writers[key]
        for folder in {key[0] for key in mine} - {key[0] for key in run.writers}:
            claimed = run.claims.pop(folder)
            if claimed.fresh and discard_empty_run(folder, claimed.run_id) and claimed.made:
                with contextlib.suppress(OSError):  # only if nothing else is in it
                    folder.rmdir()

    def _claim(
        self,
        trainer: pl.Trainer,
        part: str,
        *,
        info: Mapping[str, Any] | None = None,
        refuse: Callable[[Path], str] | None = None,
        work: Callable[[Claim, bool], Any] | None = None,
        overwrite: bool | None = None,
    ) -> RunFolder:
        """Begin or continue the run's folder; rank 0 does it, and every rank has to come here.

        Args:
            trainer: the running Trainer.
            part: what the callback writes in the folder, which no other callback of the Trainer may write.
            info: what ``run.json`` is to keep.
            refuse: why the part must not be written into a folder, or ""; not called if the callback may overwrite.
            work: done by the first rank with the claim and whether it may overwrite; gives a plain value.
            overwrite: whether another run's part may be overwritten; None: the callback's option.
        """
        run = _RUNS.setdefault(trainer, _Run())
        log_dir = trainer.log_dir  # every rank has to ask: the answer is broadcast

        def claim_first() -> tuple[Any, ...]:
            # A fit that resumes without this callback's state cannot tell its own run from another one.
            wanted = self.overwrite if overwrite is None else overwrite
            ignored = wanted and self._run_id is None and bool(trainer.ckpt_path)
            replace = wanted and not ignored
            against = (lambda folder: "") if refuse is None or replace else refuse
            given = self.dirpath or self._base or run.default
            try:
                if given is not None:
                    folder = Path(given).absolute()  # the program may change its folder later
                    _refuse(against(folder))
                    _refuse_second_writer(trainer, run, folder, part, self)
                    options: dict[str, Any] = {"known": run.ids, "new_id": next(iter(run.ids), None)}
                    options |= {"overwrite": replace and self.dirpath is not None, "session": run.session}
                    claimed = claim(folder, self._run_id, info=info, **options)
                else:
                    claimed = _choose(trainer, log_dir, self._run_id, run, info, against)
                _join(run, claimed, part, self, info)
                answer = None if work is None else work(claimed, replace)
            except FileExistsError as error:
                raise FileExistsError(f"{error}{_IGNORED if ignored else ''}") from error
            return str(claimed.folder), claimed.run_id, claimed.session, answer

        folder, run_id, session, answer = on_first_rank(trainer, claim_first)
        place = Claim(Path(folder), run_id, session=session)
        run.know(run_id)
        if self.dirpath is None:
            run.default = run.default or place.folder
        self._place, self._base, self._needed = placed(trainer, place, answer), place.folder, ()
        self._run_id = self._run_id or run_id
        return self._place

    def _check_place(self) -> None:
        """Find out before a write whether the folder and what was written in it are still there."""
        assert self._place is not None
        self._place.check(*self._needed)

    def _place_state(self) -> dict[str, str]:
        """What a checkpoint knows of the run."""
        return {"run_id": self._run_id or "", "folder": "" if self._base is None else str(self._base.absolute())}

    def _recall(self, trainer: pl.Trainer, state: Mapping[str, Any], *, default: bool = True) -> None:
        """Read from a checkpoint's state which run is resumed, before any folder is opened.

        Without ``default`` the state's folder is not used, as with ``dirpath``.
        """
        run_id, folder = state.get("run_id", ""), state.get("folder", "")  # 0.1 had neither everywhere
        run = _RUNS.setdefault(trainer, _Run())
        if run_id:
            run.know(run_id)
        self._run_id, self._base = run_id or None, None
        if default and self.dirpath is None and folder and Path(folder).is_dir():
            self._base = Path(folder)
            run.default = run.default or self._base


def writes_files(trainer: pl.Trainer) -> bool:
    """Whether a run leaves files: any but ``fast_dev_run``."""
    return not getattr(trainer, "fast_dev_run", False)


def folder_of_run(trainer: pl.Trainer) -> Path | None:
    """The folder that this Trainer's fit has chosen."""
    run = _RUNS.get(trainer)
    return None if run is None else run.default


def warn_if_partial(partial: bool, what: str) -> None:
    """Warn of a checkpoint that lacks other ranks' rows."""
    if partial:
        rank_zero_warn(f"this checkpoint was written while an exception was in flight: {what}.")


def placed(trainer: pl.Trainer, place: Claim, answer: Any = None) -> RunFolder:
    """A callback's place in a folder that the first rank has claimed."""
    sees = trainer.is_global_zero or _sees(place)
    return RunFolder(place.folder, place.run_id, (place,) if sees else (), answer)


def continue_history(finished: Sequence[tuple[str, int, int]], folder: Path, *, known: bool) -> None:
    """Set aside what is newer than the checkpoint, and warn of what is missing."""
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
            f"{missing[0]}). The history continues without them, and what it says of earlier epochs is wrong. "
            "Resume into the folder of the first run, or copy its history there."
        )


_IGNORED = (
    " overwrite=True is ignored, because the fit resumes from a checkpoint (ckpt_path=) that holds no state of this "
    "callback. Choose another dirpath=, or move the folder away."
)


def _choose(
    trainer: pl.Trainer,
    log_dir: str | None,
    run_id: str | None,
    run: _Run,
    info: Mapping[str, Any] | None,
    against: Callable[[Path], str],
) -> Claim:
    """Claim the folder of a run whose callbacks were given none."""
    shared = log_dir is not None and bool(trainer.loggers)
    root = Path(log_dir or "").absolute() if shared else Path(trainer.default_root_dir).absolute() / _DEFAULT
    ids, first = run.ids, next(iter(run.ids), None)
    resume = functools.partial(claim, run_id=run_id, info=info, known=ids, new_id=first, session=run.session)
    begin = functools.partial(claim, versioned=True, info=info, new_id=run_id or first, session=run.session)
    mine = {*ids, *([run_id] if run_id else [])}
    for folder in (root, *versions(root)) if mine else ():  # the folder was moved with all that is around it
        if recorded_runs(folder) & mine:
            return resume(folder)
    if not shared:
        return begin(root)
    try:
        _refuse(against(root))
        return resume(root)
    except (FileExistsError, HistoryError):  # or a run.json that cannot be read
        claimed = begin(root, first=1)
        rank_zero_warn(
            f"the logger's folder {root} holds another run, so that this run is recorded in {claimed.folder}. Give "
            "the logger a version or name for each run, or the callbacks a dirpath=."
        )
        return claimed


def _join(run: _Run, claimed: Claim, part: str, writer: object, info: Mapping[str, Any] | None) -> None:
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
