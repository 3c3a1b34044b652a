"""The base of the callbacks that follow the steps of a fit."""

from __future__ import annotations

import contextlib
import sys
import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import cached_property
from typing import Any, ClassVar, Literal

import lightning.pytorch as pl
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_warn

from lightning_flip.data.sample_names import IdsFrom
from lightning_flip.steps import Attachment, SampleStep, StepSource, attach
from lightning_flip.steps.hooks import STEP_HOOKS, restore_hooks, skip_unused_hooks
from lightning_flip.steps.identity import HeldData, LoaderData
from lightning_flip.steps.logits.remembered import known_state, restore
from lightning_flip.steps.options import check_flags
from lightning_flip.steps.state import STATE_VERSION, check_version

__all__ = ["StatefulWatcher", "StepWatcher", "is_fresh"]


def is_fresh(trainer: pl.Trainer) -> bool:
    """Whether a fit starts at its first step, and continues nothing."""
    return trainer.current_epoch == 0 and trainer.global_step == 0


class StepWatcher(pl.Callback, ABC):
    """Attaches while fitting, hands the rows of steps to :meth:`watch`, and detaches at the end and on an exception.

    A step only copies its rows; :meth:`watch` gets those of up to 64 consecutive steps. :meth:`flush` reads all that
    are waiting: at the end of a pass, before a checkpoint, and when what was counted is read.

    Args:
        train: whether to watch training steps.
        val: whether to watch validation steps.
        name: tells two callbacks of one class apart in a checkpoint.
        logits_from: where the logits are, see :class:`~lightning_flip.steps.StepSource`; None finds them.
        target_from: key, attribute, position in the batch, or function of it, if the targets are not in one of the
            usual places.
        index_from: the same for sample ids that the batch carries itself (iterable datasets).
        loader: which training loader to follow, if there are several.
        outputs: what ``logits_from`` gives; None: what the loss or the values say.
        labels: "may_change" keeps the label of every visit (pseudo-labels, label correction) and judges each visit by
            its own; else a label that differs from the first one of its sample stops the run.
        ignore_index: the label of samples that are not followed, if no loss says it; None: what the loss leaves out.
        sample_id_from: attribute or column of the dataset with a lasting id for each sample, or a function of it; None:
            its ``sample_id(index)``, else the paths of a folder dataset.
        allow_changed_data: start anew on other data than those of the checkpoint, or of the epoch before, instead of
            refusing them. Data that have grown at their end are followed in any case.

    Raises:
        ValueError: if neither training nor validation is to be watched.
        ChangedDataError: while a fit runs, if the samples or labels of the data are not those of before.
    """

    #: Whether steps whose targets are distributions (MixUp, CutMix) are watched, too.
    takes_distributions: ClassVar[bool] = False

    def __init__(
        self,
        *,
        train: bool,
        val: bool,
        name: str,
        logits_from: str | Callable[[Any], Any] | None = None,
        target_from: str | int | Callable[[Any], Any] | None = None,
        index_from: str | int | Callable[[Any], Any] | None = None,
        loader: int | str | None = None,
        outputs: str | None = None,
        labels: Literal["fixed", "may_change"] | None = None,
        ignore_index: int | None = None,
        sample_id_from: IdsFrom | None = None,
        allow_changed_data: bool = False,
    ) -> None:
        if not (train or val):
            raise ValueError(f"{type(self).__name__} watches nothing: set train=True, val=True, or both.")
        check_flags(allow_changed_data=allow_changed_data)
        self.train = train
        self.val = val
        self.name = name
        self.given_source = StepSource(
            logits_from,
            target_from,
            index_from,
            loader,
            outputs=outputs,
            labels=labels,
            ignore_index=ignore_index,
            sample_id_from=sample_id_from,
        )
        self.allow_changed_data = allow_changed_data
        self.source = self.given_source
        self._attachment: Attachment | None = None
        self._trainer: weakref.ref[pl.Trainer] | None = None
        self._opened = False
        self._told: set[str] = set()
        self._data = HeldData()
        self.loader_data: dict[tuple[str, int], LoaderData] = {}  # of the running fit, by split and loader

    @cached_property  # Lightning reads it at every hook of every step
    def state_key(self) -> str:
        """Name in a checkpoint: class, splits and name."""
        return self._generate_state_key(train=self.train, val=self.val, name=self.name)

    def __getstate__(self) -> dict[str, Any]:
        self.flush()  # a copy has no attachment, and never gets the rows that wait
        state = {**self.__dict__, "_attachment": None, "_trainer": None, "loader_data": {}}
        state.pop("state_key", None)  # a copy may be given another name
        return {name: value for name, value in state.items() if name not in STEP_HOOKS or value is not None}

    # -- what a callback defines ----------------------------------------------------------------------

    def begin(self, trainer: pl.Trainer) -> None:
        """Begin a fit: forget an earlier one, unless this one continues it."""

    def open(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Make ready what a checkpoint's state decides on, such as a folder; called when that state has been loaded.

        FSDP and DeepSpeed load it after ``on_fit_start``, so that nothing of the kind may happen there.
        """

    @abstractmethod
    def watch(self, trainer: pl.Trainer, split: str, loader: int, step: SampleStep) -> None:
        """Take rows in.

        Args:
            trainer: the running Trainer, which may be further on than the rows: ``step.epoch`` is theirs.
            split: "train" or "val"; "test" for those that attend tests.
            loader: position of the loader.
            step: rows of consecutive steps of an epoch: detached, in at least float32, without a DistributedSampler's
                padding.
        """

    def new_epoch(self, epoch: int) -> None:
        """A training epoch begins; called on every rank in its first step, after all rows of the one before.

        The hooks of an epoch's end do not run after every resumption.
        """

    def restart(self, split: str, loader: int) -> None:
        """Forget what is known of the samples of a loader: other data come, and ``allow_changed_data`` is set."""

    @property
    def every_step(self) -> bool:
        """Whether :meth:`watch` needs every step by itself, because it uses more of it than its rows."""
        return False

    def wants(self, split: str) -> bool:
        """Whether a split is watched in the epoch that begins."""
        return True

    def skip(self, split: str) -> None:
        """Warn once that a step is not watched because its targets are distributions."""
        also = split == "train" and self.val
        self._tell(
            f"{split}: targets are float [B, K] (MixUp or CutMix) and have no single right class, so "
            f"{type(self).__name__} does not follow them" + ("; it follows the validation data." if also else ".")
        )

    def leaves_out(self, split: str, problem: str, *, sure: bool) -> bool:
        """Warn once that steps are not followed because their losses had other targets, or may have had.

        ``problem`` says what was seen; ``sure`` whether it was the targets, and not only the losses. True: the rows are
        left out.
        """
        if f"{split} left out" not in self._told:
            self._told.add(f"{split} left out")
            advice = "Name the right targets with target_from=, or mix in the collate function."
            if not sure:
                advice = "From now on what the loss is given is looked at in every step."
            rank_zero_warn(
                f"{split}: {problem}. {type(self).__name__} does not follow the rows of such steps. {advice}"
            )
        return True

    def nothing_recorded(self, split: str, reason: str) -> None:
        """Warn that a pass has left nothing."""
        self._tell(f"{type(self).__name__}: nothing was recorded of a pass of {split} steps: {reason}.", f"no {split}")

    def rescue(self, trainer: pl.Trainer) -> None:
        """Save what can be saved while an exception is in flight; no collectives."""

    # -- hooks ----------------------------------------------------------------------------------------

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Attach for fitting; validation and test runs by themselves are not part of a training's history."""
        self._trainer = weakref.ref(trainer)
        self._opened = False
        if not self.attends(stage) or not self.active(trainer):
            return
        self.source = self.given_source.completed_by(pl_module)
        splits = [split for split, wanted in (("train", self.train), ("val", self.val), ("test", self.val)) if wanted]
        self._attachment = attach(trainer, pl_module, self, self.source, splits)
        skip_unused_hooks(self, trainer)
        if stage == TrainerFn.FITTING and is_fresh(trainer):
            self._data = HeldData()
        self.begin(trainer)

    def attends(self, stage: str) -> bool:
        """Whether to take part in a stage; a fit, unless a subclass says otherwise."""
        return stage == TrainerFn.FITTING

    def active(self, trainer: pl.Trainer) -> bool:
        """Whether to take part at all."""
        return True

    def on_sanity_check_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Call :meth:`open`: the first hook in which a checkpoint's state has been loaded under every strategy."""
        self._open_once(trainer, pl_module)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Call :meth:`open`, if there was no sanity check, and look whether the data are those of before."""
        self._open_once(trainer, pl_module)
        self._compare_data("train", "val")

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Look whether the data are those of the passes before."""
        self._compare_data("val")

    def on_validation_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Take the rows of a validation step, but for those of the sanity check."""
        if not trainer.sanity_checking:
            self._take(trainer, "val", dataloader_idx)

    def on_test_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Take the rows of a test step."""
        self._take(trainer, "test", dataloader_idx)

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Save what can be saved and detach; an error in here never takes the place of the one that is in flight."""
        try:
            if self._attachment is not None:
                self.flush()
                self.rescue(trainer)
        except Exception as error:
            _warn_quietly(f"{type(self).__name__} could not save all it had seen: {type(error).__name__}: {error}")
        finally:
            with contextlib.suppress(Exception):
                self._release()

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Detach."""
        self.flush()
        self._release()

    def _take(self, trainer: pl.Trainer, split: str, loader: int) -> None:
        if self.val and self._attachment is not None:
            self._attachment.take(self.source, split, loader)

    # -- for subclasses ---------------------------------------------------------------------------------

    @property
    def attachment(self) -> Attachment | None:
        """The attachment while a fit runs, else None."""
        return self._attachment

    @property
    def trainer(self) -> pl.Trainer | None:
        """The Trainer of the last setup, if it is still there."""
        return self._trainer() if self._trainer is not None else None

    @property
    def fitting(self) -> bool:
        """Whether a fit runs; ``validate(ckpt_path=...)`` loads callback states as well, and they are not wanted."""
        trainer = self.trainer
        return self._attachment is not None and trainer is not None and trainer.state.fn == TrainerFn.FITTING

    def flush(self) -> None:
        """Have all rows that are waiting read now."""
        if self._attachment is not None:
            self._attachment.flush()

    def may_communicate(self) -> bool:
        """Whether a collective is safe: in an exception the other ranks may never reach it."""
        return self._attachment is not None and self._attachment.may_communicate()

    def read(self, split: str, loader: int, step: SampleStep) -> None:
        """Hand rows to :meth:`watch`; the attachment calls it."""
        trainer = self.trainer
        if trainer is not None:
            if step.data is not None and self.fitting:
                self._compare(step.data)
            self.watch(trainer, split, loader, step)

    def begin_epoch(self, epoch: int) -> None:
        """Call :meth:`new_epoch`; the attachment calls this in the first step of an epoch."""
        trainer = self.trainer
        if trainer is not None:
            self._open_once(trainer, trainer.lightning_module)  # an override of on_train_start may leave out super
        self.new_epoch(epoch)
        self._compare_data("train")

    def _compare_data(self, *splits: str) -> None:
        """Compare the data of the splits that are watched with those of before, on all ranks."""
        watched = {"train": self.train, "val": self.val}
        if self._attachment is None:
            return
        for split in splits:
            for data in self._attachment.identify(self.source, split) if watched[split] else ():
                if self.fitting:
                    self._compare(data)

    def _compare(self, data: LoaderData) -> None:
        self._data.compare(type(self).__name__, data, self.restart if self.allow_changed_data else None)
        self.loader_data[data.split, data.loader] = data

    def _open_once(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self.fitting and not self._opened:
            self.open(trainer, pl_module)
            self._opened = True

    def _tell(self, text: str, about: str = "") -> None:
        """Warn once, of a text or of what it is about."""
        if (about or text) not in self._told:
            self._told.add(about or text)
            rank_zero_warn(text)

    def _release(self) -> None:
        restore_hooks(self)
        if self._attachment is not None:
            self._attachment.release(self)
        self._attachment = None
        self.loader_data = {}


class StatefulWatcher(StepWatcher):
    """A watcher with a state in checkpoints; Lightning asks for different names if there are several of a class."""

    #: Whether a checkpoint's state is loaded outside of fits as well.
    loads_always: ClassVar[bool] = False

    @property
    def _in_exception(self) -> bool:
        return sys.exc_info()[1] is not None if self._attachment is None else not self.may_communicate()

    @abstractmethod
    def state(self) -> dict[str, Any]:
        """What goes into a checkpoint: tensors, numbers and text; all rows have been read."""

    @abstractmethod
    def load_state(self, trainer: pl.Trainer, state: dict[str, Any]) -> None:
        """Continue from a checkpoint."""

    def state_dict(self) -> dict[str, Any]:
        """The callback's state, its version, and what it is a state of."""
        failed = self._in_exception
        try:
            self.flush()
            trainer = self.trainer
            found = known_state(None if trainer is None else trainer.lightning_module, self.source)
            state = self.state()
            return {
                "version": STATE_VERSION,
                **({} if found is None else {"logits": found}),
                "data": self._data.state(),
                **state,
            }
        except Exception as error:
            if not failed:
                raise
            # A checkpoint that another callback makes of a failed run is worth more than this callback's state.
            _warn_quietly(f"{type(self).__name__} is missing from the checkpoint: {type(error).__name__}: {error}")
            return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from a checkpoint; ignored outside of ``fit``, and refused if a later version wrote it."""
        trainer = self.trainer
        if trainer is not None and trainer.lightning_module is not None:
            restore(trainer.lightning_module, self.source, state_dict.get("logits"))
        if trainer is None or not (self.fitting or self.loads_always):
            return
        check_version(state_dict, type(self).__name__, trainer)
        self._data.load(state_dict.get("data"))
        self.load_state(trainer, state_dict)


def _warn_quietly(text: str) -> None:
    with contextlib.suppress(Exception):  # warnings may be errors, and the one that is in flight counts
        rank_zero_warn(text)
