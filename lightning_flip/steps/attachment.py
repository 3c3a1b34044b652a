"""The one attachment to a Trainer that all callbacks and mixins of this package share."""

from __future__ import annotations

import contextlib
import sys
import weakref
from collections.abc import Callable, Collection
from typing import Any, cast

import lightning.pytorch as pl
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor

from lightning_flip.steps._recorder import Tolerant, is_tolerant
from lightning_flip.steps._wrapped_trainer import WrappedTrainer
from lightning_flip.steps.checks import refuse_iterator_steps
from lightning_flip.steps.identity import LoaderData
from lightning_flip.steps.logits.choice import Choice
from lightning_flip.steps.logits.remembered import recall
from lightning_flip.steps.sample_step import SampleStep
from lightning_flip.steps.source import StepSource

__all__ = ["Attachment", "attach"]

_STEPS = ("training_step", "validation_step", "test_step")
_PREDICT = "predict_step"
_ATTACHED: weakref.WeakKeyDictionary[Any, Attachment] = weakref.WeakKeyDictionary()


class Attachment:
    """Wraps what Lightning calls on the instances of one Trainer, and unwraps it again.

    - ``strategy.process_dataloader`` runs after Lightning has rebuilt a loader, so that the wrapped dataset and collate
      function are those that will be used.
    - ``precision_plugin.convert_input`` runs before every batch-transfer hook, so that modules, data modules and
      callbacks see the plain batch.
    - ``strategy.training_step`` and its siblings: logits are caught only inside of them.

    Use :func:`attach`; callbacks and mixins of one Trainer share one attachment. A source that a method takes must have
    been registered.

    Attributes:
        running: the running or just finished step, for the callbacks and mixins of this package.
    """

    def __init__(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        steps = (*_STEPS, _PREDICT)
        refuse_iterator_steps(module, steps if trainer.state.fn == TrainerFn.PREDICTING else _STEPS)
        self._trainer = weakref.ref(trainer)
        self._module = module
        self._owners: list[object] = []
        self._wrapped = WrappedTrainer(
            trainer,
            module,
            steps,
            may_skip=trainer.state.fn == TrainerFn.FITTING,
            may_raise=self.may_communicate,
            tolerate=self._tolerate,
        )
        self.running = self._wrapped.running
        self._recorder = self._wrapped.recorder
        self._handled = sys.exc_info()[1]  # a fit may be started in an except block: this one is not the fit's

    # -- owners -----------------------------------------------------------------------------------

    def register(self, owner: object, source: StepSource, reads: Collection[str] = ()) -> None:
        """Add a callback or mixin, its source, and the splits ("train", "val", "test") whose rows it reads.

        Raises:
            AttributeError: if ``logits_from`` or ``features_from`` names no submodule.
        """
        self._wrapped.captures.add(source)
        if not any(other is owner for other in self._owners):
            self._owners.append(owner)
            self._recorder.add(owner, source, reads)

    def release(self, owner: object) -> None:
        """Remove a callback or mixin; with the last one, everything is unwrapped."""
        if self.may_communicate() and any(other is owner for other in self._owners):
            for split in ("train", "val", "test"):
                self._recorder.close_pass(split)
        self._owners = [other for other in self._owners if other is not owner]
        self._recorder.remove(owner)
        if not self._owners:
            self._detach()

    def mute(self, owner: object, splits: Collection[str] = ("train", "val", "test")) -> None:
        """Stop giving an owner the rows of some splits, and stop looking for its logits if no split is left.

        No other owner may have its source. It stays an owner until :meth:`release`: batches of the running loaders
        carry their index as before.
        """
        source = self._recorder.source_of(owner)
        if source is not None and not self._recorder.mute(owner, splits):
            self._wrapped.captures.forget(source)

    # -- the step ---------------------------------------------------------------------------------

    def sample_step(self, source: StepSource) -> SampleStep | None:
        """The running or just finished step as seen through a source.

        Args:
            source: where to take it from.

        Returns:
            The step; None if a ``training_step`` returned None without a forward, or if the loader that is followed
            ended before the others.

        Raises:
            RuntimeError: no logits were caught.
            TypeError: the samples have no index, or there is no target.
            ValueError: logits and index differ in length, or labels or logits are out of range.
        """
        return self.running.seen_through(source)

    def choice(self, source: StepSource, name: str = "training_step") -> Choice | None:
        """How the logits of a source are found; before the first step of this name, what training chose, or None."""
        return self._wrapped.captures.choice(source, name) or recall(self._module, source)

    def paused(self) -> contextlib.AbstractContextManager[None]:
        """A context for forwards that do not belong to the step."""
        return self._wrapped.captures.paused()

    # -- rows, a block at a time ------------------------------------------------------------------------

    def take(self, source: StepSource, split: str, loader: int) -> None:
        """Record the rows of the validation or test step that has just run; training steps need no such call.

        Raises:
            RuntimeError: no logits were caught.
        """
        self._recorder.take(source, split, loader)

    def close_pass(self, split: str) -> None:
        """End a pass over "train", "val" or "test"; its readers are told if nothing was recorded."""
        self._recorder.close_pass(split)

    def flush(self) -> None:
        """Read all rows that are waiting.

        Raises:
            ValueError: logits are not finite or labels out of range. While an exception is in flight, this is a
                warning instead.
        """
        self._recorder.flush()

    def identify(self, source: StepSource, split: str) -> list[LoaderData]:
        """The data of a split's loaders, compared between ranks; a collective, before an epoch or pass.

        Args:
            source: of several training loaders, names the one to follow.
            split: "train", "val", "test" or "predict".

        Returns:
            One entry per loader that gives positions; none while an exception is in flight.

        Raises:
            ChangedDataError: if ranks have different data.
        """
        return self._wrapped.register.identify(source, split) if self.may_communicate() else []

    # -- checks -----------------------------------------------------------------------------------

    def check(self) -> None:
        """Read the flags that steps accumulated on the device.

        Raises:
            ValueError: logits were not finite or labels out of range in some step since the last check.
        """
        self._wrapped.check()

    def defer(self, good: Tensor, error: Callable[[int], Exception]) -> None:
        """Defer the error for the first False in ``good``, bool ``[B]`` on a device, to the next :meth:`check`."""
        self._wrapped.checks.defer(good, error)

    def advise(self, advice: str) -> None:
        """Append advice to the error raised for non-finite logits."""
        self._wrapped.checks.advise(advice)

    def may_communicate(self) -> bool:
        """Whether a collective is safe: while an exception is in flight, the other ranks may never reach it."""
        return sys.exc_info()[1] is self._handled

    def _tolerate(self, error: Exception | None) -> bool:
        """Whether all owners are tolerant; if so, an error is reported to them."""
        if not self._owners or not all(is_tolerant(owner) for owner in self._owners):
            return False
        if error is not None:
            for owner in list(self._owners):
                cast(Tolerant, owner).hear_error("", error)
        return True

    def _detach(self) -> None:
        self._wrapped.undo()
        trainer = self._trainer()
        if trainer is not None and _ATTACHED.get(trainer) is self:
            del _ATTACHED[trainer]


def attach(
    trainer: pl.Trainer,
    module: pl.LightningModule,
    owner: object,
    source: StepSource,
    reads: Collection[str] = (),
) -> Attachment:
    """Get the Trainer's attachment, making it for the first user.

    Args:
        trainer: the running Trainer.
        module: its LightningModule.
        owner: the callback or mixin; it must call :meth:`Attachment.release` in ``teardown`` and on an exception.
        source: where it takes its step from.
        reads: splits ("train", "val", "test") whose rows the owner is given, up to 64 steps at a time. The owner is
            then a callback of this Trainer like :class:`~lightning_flip.callbacks.watcher.StepWatcher`, with the
            methods ``read(split, loader, step)``, ``wants(split)``, ``begin_epoch(epoch)`` and ``skip(split)``.

    Returns:
        The attachment.

    Raises:
        AttributeError: if ``source.logits_from`` or ``source.features_from`` names no submodule.
        TypeError: if a step of the module takes ``dataloader_iter``.

    Example:
        A callback that looks at every training step:

        >>> class Watch(pl.Callback):
        ...     def setup(self, trainer, pl_module, stage):
        ...         self.attachment = attach(trainer, pl_module, self, StepSource())
        ...
        ...     def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        ...         step = self.attachment.sample_step(StepSource())
        ...         print(step.index, step.logits.argmax(dim=1) == step.target)
        ...
        ...     def on_exception(self, trainer, pl_module, exception):
        ...         self.attachment.release(self)
        ...
        ...     def teardown(self, trainer, pl_module, stage):
        ...         self.attachment.release(self)
    """
    attachment = _ATTACHED.get(trainer)
    if attachment is None or attachment._module is not module:
        if attachment is not None:
            attachment._detach()
        attachment = _ATTACHED[trainer] = Attachment(trainer, module)
    try:
        attachment.register(owner, source, reads)
    except BaseException:
        if not attachment._owners:  # it would never be released
            attachment._detach()
        raise
    return attachment
