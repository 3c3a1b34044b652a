"""The base of the callbacks that look at every step."""

from __future__ import annotations

import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import cached_property
from typing import Any, ClassVar

import lightning.pytorch as pl
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_warn

from lightning_flip.steps import Attachment, SampleStep, StepSource, attach

__all__ = ["StepWatcher"]


class StepWatcher(pl.Callback, ABC):
    """Attaches while fitting, hands every step to :meth:`watch`, and detaches at the end and on an exception.

    Args:
        train: whether to watch training steps.
        val: whether to watch validation steps.
        name: tells two callbacks of one class apart in a checkpoint.
        logits_from: where the logits are: "" for the module's own forward, a dotted submodule path, or a
            function of what the step returned.
        target_from: key, attribute, position in the batch, or function of it, where the targets are not in
            one of the usual places.
        index_from: the same for sample ids that the batch carries itself (iterable datasets).
        loader: which training loader to follow, where there are several.

    Raises:
        ValueError: if neither training nor validation is to be watched.
    """

    #: Whether steps whose targets are distributions (MixUp, CutMix) are watched, too.
    takes_distributions: ClassVar[bool] = False

    def __init__(
        self,
        *,
        train: bool,
        val: bool,
        name: str,
        logits_from: str | Callable[[Any], Any],
        target_from: str | int | Callable[[Any], Any] | None,
        index_from: str | int | Callable[[Any], Any] | None,
        loader: int | str | None,
    ) -> None:
        if not (train or val):
            raise ValueError(f"{type(self).__name__} watches nothing: set train=True, val=True, or both.")
        self.train = train
        self.val = val
        self.name = name
        self.source = StepSource(logits_from, target_from, index_from, loader)
        self._attachment: Attachment | None = None
        self._trainer: weakref.ref[pl.Trainer] | None = None
        self._told: set[str] = set()

    @cached_property  # Lightning reads it at every hook of every step
    def state_key(self) -> str:
        """Name in a checkpoint: class, splits and name."""
        return self._generate_state_key(train=self.train, val=self.val, name=self.name)

    def __getstate__(self) -> dict[str, Any]:
        state = {**self.__dict__, "_attachment": None, "_trainer": None}
        state.pop("state_key", None)  # a copy may be given another name
        return state

    # -- what a callback defines ----------------------------------------------------------------------

    def begin(self, trainer: pl.Trainer) -> None:
        """Begin a fit: forget an earlier one, unless this one goes on from it.

        Args:
            trainer: the running Trainer.
        """

    @abstractmethod
    def watch(self, trainer: pl.Trainer, split: str, loader: int, step: SampleStep) -> None:
        """Take a step in.

        Args:
            trainer: the running Trainer.
            split: "train" or "val"; "test" for those that attend tests.
            loader: position of the loader.
            step: detached, in at least float32, without a DistributedSampler's padding.
        """

    def pass_over(self, split: str) -> None:
        """Say once that a step is not watched because its targets are distributions.

        Args:
            split: "train" or "val".
        """
        also = split == "train" and self.val
        self._tell(
            f"{split}: targets are float [B, K] (MixUp or CutMix) and have no single right class, so "
            f"{type(self).__name__} does not follow them" + ("; it follows the validation data." if also else ".")
        )

    # -- hooks ----------------------------------------------------------------------------------------

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Attach for fitting; validation and test runs by themselves are not part of a training's history."""
        self._trainer = weakref.ref(trainer)
        if not self.attends(stage) or not self.active(trainer):
            return
        self._attachment = attach(trainer, pl_module, self, self.source)
        self.begin(trainer)

    def attends(self, stage: str) -> bool:
        """Whether to take part in a stage.

        Args:
            stage: one of Lightning's: "fit", "validate", "test" or "predict".

        Returns:
            True for fits alone, here.
        """
        return stage == TrainerFn.FITTING

    def active(self, trainer: pl.Trainer) -> bool:
        """Whether to take part in a fit at all.

        Args:
            trainer: the running Trainer.

        Returns:
            True here; a callback that writes files may say no.
        """
        return True

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Watch a training step."""
        if self.train:
            position = self.source.loader if isinstance(self.source.loader, int) else 0
            self._see(trainer, "train", position)

    def on_validation_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Watch a validation step, but for those of the sanity check."""
        if self.val and not trainer.sanity_checking:
            self._see(trainer, "val", dataloader_idx)

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Detach."""
        self._release()

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Detach."""
        self._release()

    # -- for subclasses ---------------------------------------------------------------------------------

    @property
    def attachment(self) -> Attachment | None:
        """The attachment while a fit runs, else None."""
        return self._attachment

    @property
    def fitting(self) -> bool:
        """Whether a fit runs; ``validate(ckpt_path=...)`` loads callback states as well, and they are not wanted."""
        trainer = self._trainer() if self._trainer is not None else None
        return self._attachment is not None and trainer is not None and trainer.state.fn == TrainerFn.FITTING

    def may_communicate(self) -> bool:
        """Whether a collective is safe: in an exception the other ranks may never reach it."""
        return self._attachment is not None and self._attachment.may_communicate()

    def _see(self, trainer: pl.Trainer, split: str, loader: int) -> None:
        if self._attachment is None:
            return
        step = self._attachment.sample_step(self.source)
        if step is None:
            return
        if not step.has_labels and not self.takes_distributions:
            self.pass_over(split)
            return
        self.watch(trainer, split, loader, step.observed)

    def _tell(self, text: str) -> None:
        if text not in self._told:
            self._told.add(text)
            rank_zero_warn(text)

    def _release(self) -> None:
        if self._attachment is not None:
            self._attachment.release(self)
        self._attachment = None
