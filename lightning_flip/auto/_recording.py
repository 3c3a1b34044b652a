"""A prediction history that a script has not asked for, and must not notice."""

from __future__ import annotations

import contextlib
import itertools
import logging
import uuid
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import lightning.pytorch as pl
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn

from lightning_flip.auto._agreement import agree
from lightning_flip.callbacks.prediction_history import PredictionHistory
from lightning_flip.callbacks.ranks import on_first_rank
from lightning_flip.callbacks.run_folder import continue_history, placed
from lightning_flip.steps import SampleStep, StepSource
from lightning_flip.steps.loaded_batch import NoIndexError
from lightning_flip.stores.claims import Claim, claim, discard_empty_run
from lightning_flip.stores.history.parts import set_aside

__all__ = ["Recording"]

_NUMBERS = itertools.count()
_STAGES = ("fit", "validate", "test")
# All hooks below that a fit or an evaluation calls; `setup` is never left out, and says who acts.
_HOOKS = (
    "on_sanity_check_start",
    "on_train_start",
    "on_train_epoch_end",
    "on_validation_start",
    "on_validation_batch_end",
    "on_validation_epoch_end",
    "on_test_batch_end",
    "on_test_epoch_end",
    "on_fit_end",
)


class RecordingSource(StepSource):
    """The source of a recording: equal to no other, so that neither its errors nor what it finds are shared."""

    serves_others: ClassVar[bool] = False


class Recording(PredictionHistory):
    """Records what a Trainer predicts into a ``version_N`` of its own under a folder.

    Lightning extends the user's own list of callbacks, so that a Trainer may hold those of earlier ones as well: the
    last one acts. Nothing of it is in a checkpoint. An error is a warning, and ends the recording.

    A rank that fails alone still takes part in :func:`agree`, before all that ranks do together, until all have
    heard of it.
    """

    def __init__(self, root: str, *, strict: bool) -> None:
        super().__init__()
        self.root = Path(root)
        self.strict = strict
        self.number = next(_NUMBERS)
        self.given_source = self.source = RecordingSource()
        self._session = uuid.uuid4().hex
        self._acts = False  # in what the Trainer runs now; the same on all ranks
        self._over = False  # for this Trainer; the same on all ranks
        self._failed = ""  # why this rank records no more
        self._muted: set[str] = set()  # splits that are not read in what runs now
        self._told_of_index = False  # that some data have none

    @cached_property
    def state_key(self) -> str:
        """A name of its own: two callbacks with a state and one name are refused."""
        return self._generate_state_key(number=self.number)

    def state_dict(self) -> dict[str, Any]:
        """Nothing: the user's checkpoints are what they are without."""
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Nothing was saved."""

    # -- hooks ----------------------------------------------------------------------------------------

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Attach, if this is the recording that acts."""
        if self._attachment is not None and self.trainer not in (None, trainer):
            return  # it is acting in another Trainer, which runs this one
        for name in _HOOKS:
            vars(self).pop(name, None)
        last = [callback for callback in trainer.callbacks if isinstance(callback, Recording)][-1:]  # type: ignore[attr-defined]
        self._acts = last == [self] and stage in _STAGES and self.active(trainer) and not self._over
        if not self._acts:
            for name in _HOOKS:
                vars(self)[name] = None  # Lightning passes over what cannot be called
            return
        self._buffers, self._muted = {}, set()
        with self._guarded():
            super().setup(trainer, pl_module, stage)

    def attends(self, stage: str) -> bool:
        """Fits, and validations and tests by themselves."""
        return stage in _STAGES

    def begin(self, trainer: pl.Trainer) -> None:
        """A Trainer has one run; see :meth:`open`."""

    def on_sanity_check_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Open the folder."""
        self._open_together(trainer)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Open the folder, if there was no sanity check, and look whether all ranks have the same data."""
        self._open_together(trainer)
        self._compare_data("train", "val")

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write the epoch's training rows."""
        self._write_together(trainer, "train")

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write the pass's rows."""
        if not trainer.sanity_checking:
            self._write_together(trainer, self._name("val"))

    def on_test_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write the pass's rows."""
        self._write_together(trainer, "test")

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Nothing is left: no state of before was loaded."""

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Save what can be saved and detach."""
        if self._acts_in(trainer):
            super().on_exception(trainer, pl_module, exception)
            self._acts, self._buffers = False, {}
            with contextlib.suppress(Exception):
                self._give_up_empty(trainer)

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Detach; errors of others, in rows that are read only now, are theirs."""
        for name in _HOOKS:
            if vars(self).get(name, self) is None and self._attachment is None:
                del vars(self)[name]
        if not self._acts_in(trainer):
            return
        self.flush()
        with self._guarded():
            self._release()
            self._give_up_empty(trainer)

    # -- what the attachment calls ----------------------------------------------------------------------

    def hear_error(self, split: str, error: Exception) -> None:
        """Hear of an error in the rows of a split; data without an index leave the other splits be."""
        if self.strict or not isinstance(error, NoIndexError):
            self._fail(error)
            return
        if not self._told_of_index:
            self._told_of_index = True
            self._warn(f"{split} data, and others without an index, are not recorded. {_cause(error)}")
        self._mute(split)

    def begin_epoch(self, epoch: int) -> None:
        """Nothing: the folder is open, and the rows of every epoch are written at its end."""

    def read(self, split: str, loader: int, step: SampleStep) -> None:
        """Keep rows."""
        if not self._failed:
            with self._guarded():
                super().read(self._name(split), loader, step)

    def _compare_data(self, *splits: str) -> None:
        """Compare the data with those of before and of other ranks; what differs ends the recording."""
        if self.trainer is not None and self._acts_in(self.trainer) and not self._over:
            with self._guarded():
                super()._compare_data(*splits)

    def skip(self, split: str) -> None:
        """Warn once that a step is not followed because its targets are distributions."""
        with self._guarded():
            super().skip(split)

    def leaves_out(self, split: str, problem: str, *, sure: bool) -> bool:
        """Warn once that steps are not followed because their losses had other targets."""
        with self._guarded():
            super().leaves_out(split, problem, sure=sure)
        return True

    def nothing_recorded(self, split: str, reason: str) -> None:
        """Warn that a pass has left nothing."""
        if not self._failed:
            with self._guarded():
                super().nothing_recorded(split, reason)

    def rescue(self, trainer: pl.Trainer) -> None:
        """Write what there is, unless writing is what failed."""
        if not self._failed:
            super().rescue(trainer)

    # -- the run ----------------------------------------------------------------------------------------

    def open(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Claim a folder, or continue in that of this Trainer's earlier fits."""
        epoch = trainer.current_epoch
        trained = [done for split, done, _ in self._finished if split == "train"]
        begun = self.fitting and (epoch > 0 or trainer.global_step > 0)
        resumed = begun and not any(split in ("train", "val") for split, _, _ in self._finished)
        if (resumed and self._finished) or (self.fitting and max(trained, default=-1) >= epoch):
            self._forget()
        info = {
            "recorded_by": "LIGHTNING_FLIP",
            "module": type(pl_module).__qualname__,
            "world_size": trainer.world_size,
            "max_epochs": trainer.max_epochs,
            **({"resumed_from_epoch": epoch} if resumed else {}),
        }
        self._place = placed(trainer, self._claimed(trainer, info))
        self._needed = ()
        if self.folder is None:
            rank_zero_info(f"LIGHTNING_FLIP: recording into {self._place.path}")
        self._base, self._run_id = self._place.path, self._place.run_id

    def _claimed(self, trainer: pl.Trainer, info: dict[str, Any]) -> Claim:
        """The claim of rank 0 to a new folder, or to that of before; all ranks hear of it, or of why there is none."""

        def claim_first() -> tuple[str, str, str]:
            again, session = self.folder is not None, self._session
            try:
                claimed = claim(self.folder or self.root, self._run_id, versioned=not again, info=info, session=session)
                continue_history(self._finished, claimed.folder, known=again)
            except Exception as error:
                problem = f"{type(error).__name__}: {error}"
                raise OSError(f"nothing can be recorded under LIGHTNING_FLIP={self.root}: {problem}") from error
            return str(claimed.folder), claimed.run_id, session

        folder, run_id, session = on_first_rank(trainer, claim_first)
        return Claim(Path(folder), run_id, session=session)

    def _open_once(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Open the folder of a fit or an evaluation; all ranks come here, or none."""
        if not self._opened:
            self.open(trainer, pl_module)
            self._opened = True

    def _open_together(self, trainer: pl.Trainer) -> None:
        if self._acts_in(trainer) and not self._over and not self._opened and self._agreed(trainer, ready=True):
            with self._guarded():
                self._open_once(trainer, trainer.lightning_module)

    def _take(self, trainer: pl.Trainer, split: str, loader: int) -> None:
        if self._acts_in(trainer) and self._attachment is not None and not self._failed and split not in self._muted:
            with self._guarded():
                self._attachment.take(self.source, split, loader)

    def _write_together(self, trainer: pl.Trainer, split: str) -> None:
        if self._over or not self._acts_in(trainer):
            return
        if self._attachment is not None:  # not guarded: errors of other readers are theirs
            self._attachment.flush()
            self._attachment.check()
        loaders = sum(key[0] == split for key in self.loader_data)
        if not self._agreed(trainer, ready=split in self._buffers, count=loaders):
            return
        before = list(self._finished)
        with self._guarded():
            self._open_once(trainer, trainer.lightning_module)
            self._write(trainer, split)
        if not self._agreed(trainer, ready=True) and trainer.is_global_zero and self.folder is not None:
            with self._guarded():
                self._finished = before
                set_aside(self.folder, before)  # a pass that some ranks could not write is none

    def _agreed(self, trainer: pl.Trainer, *, ready: bool, count: int = 0) -> bool:
        """Whether every rank is ready; what one of them cannot do ends the recording of all."""
        said = agree(trainer, failed=bool(self._failed), ready=ready, count=count)
        if said.failed >= 0:
            reason = trainer.strategy.broadcast(self._failed, src=said.failed)
            self._fail(RuntimeError(f"on rank {said.failed}: {reason}"))
        elif not said.same:
            self._fail(RuntimeError("some ranks had rows of a pass or loader, and others had none"))
        self._over = said.failed >= 0 or not said.same
        return said.ready and not self._over

    def _give_up_empty(self, trainer: pl.Trainer) -> None:
        """Leave no folder without rows."""
        if self.folder is None or self._finished:
            return
        if trainer.is_global_zero:
            if self._run_id is not None:
                discard_empty_run(self.folder, self._run_id)
            with contextlib.suppress(OSError):  # only if nothing else is in it
                self.folder.rmdir()
        self._forget()

    # -- errors -----------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _guarded(self) -> Iterator[None]:
        """A context whose errors end the recording and nothing else."""
        try:
            yield
        except Exception as error:
            self._fail(error)

    def _fail(self, error: Exception) -> None:
        if self.strict:
            raise error
        if self._failed:
            return
        self._failed = _cause(error)
        self._warn(f"recording has stopped; the run continues without it. {self._failed}")
        self._mute("train", "val", "test")

    def _mute(self, *splits: str) -> None:
        self._muted.update(splits)
        if self._attachment is not None:
            with contextlib.suppress(Exception):
                self._attachment.mute(self, splits)

    def _tell(self, text: str, about: str = "") -> None:
        """Warn once; what options would help does not matter here."""
        if (about or text) not in self._told:
            self._told.add(about or text)
            self._warn(text)

    def _warn(self, text: str) -> None:
        text = f"LIGHTNING_FLIP: {text.rstrip('.')}. LIGHTNING_FLIP_STRICT=1 raises this error."
        try:
            rank_zero_warn(text)
        except Exception:  # warnings are errors here
            logging.getLogger("lightning_flip").warning(text)

    # -- who and what -------------------------------------------------------------------------------------

    def _acts_in(self, trainer: pl.Trainer) -> bool:
        return self._acts and self.trainer is trainer

    def _name(self, split: str) -> str:
        """The split's name in the store: validations by themselves are not passes of a training."""
        return "validate" if split == "val" and not self.fitting else split


def _cause(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"
