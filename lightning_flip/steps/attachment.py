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

from lightning_flip.steps._loaders import LoaderRecord
from lightning_flip.steps._recorder import Tolerant, is_tolerant
from lightning_flip.steps._wrapped_trainer import WrappedTrainer
from lightning_flip.steps.checks import refuse_iterator_steps
from lightning_flip.steps.choice import Choice
from lightning_flip.steps.identity import LoaderData
from lightning_flip.steps.remembered import recall
from lightning_flip.steps.sample_step import SampleStep
from lightning_flip.steps.source import StepSource

__all__ = ["Attachment", "attach"]

_STEPS = ("training_step", "validation_step", "test_step")
_PREDICT = "predict_step"
_ATTACHED: weakref.WeakKeyDictionary[Any, Attachment] = weakref.WeakKeyDictionary()


class Attachment:
    """Wraps what Lightning calls on the instances of one Trainer, and takes it all off again.

    - ``strategy.process_dataloader``: runs after Lightning has rebuilt a loader, so that the dataset and
      collate function that are wrapped are the ones that will be used.
    - ``precision_plugin.convert_input``: runs before every batch-transfer hook, so that modules, data
      modules and callbacks see the plain batch.
    - ``strategy.training_step`` and its siblings: the capture of logits is armed only inside them.

    Use :func:`attach`; callbacks and mixins of one Trainer share one attachment.
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
        self._running = self._wrapped.running
        self._recorder = self._wrapped.recorder
        self._handled = sys.exc_info()[1]  # a fit may be started in an except block: this one is not the fit's

    # -- owners -----------------------------------------------------------------------------------

    def register(self, owner: object, source: StepSource, reads: Collection[str] = ()) -> None:
        """Add a user of this attachment.

        Args:
            owner: the callback or mixin.
            source: where it takes its step from.
            reads: splits ("train", "val", "test") whose rows it is given, see :func:`attach`.

        Raises:
            AttributeError: if ``logits_from`` or ``features_from`` names no submodule.
        """
        self._wrapped.captures.add(source)
        if not any(other is owner for other in self._owners):
            self._owners.append(owner)
            self._recorder.add(owner, source, reads)

    def release(self, owner: object) -> None:
        """Take a user away; with the last one, everything comes off.

        Args:
            owner: the callback or mixin.
        """
        if self.may_communicate() and any(other is owner for other in self._owners):
            for split in ("train", "val", "test"):
                self._recorder.close_pass(split)
        self._owners = [other for other in self._owners if other is not owner]
        self._recorder.remove(owner)
        if not self._owners:
            self._detach()

    def mute(self, owner: object, splits: Collection[str] = ("train", "val", "test")) -> None:
        """Give a user no more rows of some splits, and look for its logits no longer if there are none left.

        It stays a user until :meth:`release`: batches of the running loaders carry their index as before.

        Args:
            owner: the callback; no other owner has its source.
            splits: "train", "val" or "test".
        """
        source = self._recorder.source_of(owner)
        if source is not None and not self._recorder.mute(owner, splits):
            self._wrapped.captures.forget(source)

    def paused(self) -> contextlib.AbstractContextManager[None]:
        """A context for forwards of our own, which are not the step's.

        Returns:
            The context.
        """
        return self._wrapped.captures.paused()

    @property
    def batch(self) -> object:
        """The running batch, to be compared by identity: a step may run several times for one."""
        return self._running.arrival

    def samples(self, source: StepSource) -> list[int]:
        """The samples of the running batch, before any step and without waiting for a device.

        Args:
            source: names the loader, where training draws from several.

        Returns:
            Their positions or ids, without the rows that a DistributedSampler pads with; none where the loader that
            is followed ended before the others. The list is shared; do not modify it.

        Raises:
            TypeError: the samples have no index.
        """
        return self._running.arrival.samples(source)

    # -- the step ---------------------------------------------------------------------------------

    def sample_step(self, source: StepSource) -> SampleStep | None:
        """The running or just finished step as seen through a source.

        Args:
            source: where to take it from; must have been registered.

        Returns:
            The step; None where a ``training_step`` returned None without a forward, and where the loader
            that is followed ended before the others.

        Raises:
            RuntimeError: no logits were caught.
            TypeError: the samples have no index, or there is no target.
            ValueError: logits and index differ in length, or labels or logits are out of range.
        """
        return self._running.seen_through(source)

    def unchecked_step(self, source: StepSource) -> SampleStep | None:
        """As :meth:`sample_step`, for a loss whose rows are checked when its block is read.

        Args:
            source: where to take it from; must have been registered.

        Returns:
            The step.
        """
        return self._running.seen_through(source, checked=False)

    # -- rows, a block at a time ------------------------------------------------------------------------

    def take(self, source: StepSource, split: str, loader: int) -> None:
        """Count the rows of the validation or test step that has just run in; training steps need no such call.

        Args:
            source: where to take them from.
            split: "val" or "test".
            loader: position of the loader.

        Raises:
            RuntimeError: no logits were caught.
        """
        self._recorder.take(source, split, loader)

    def close_pass(self, split: str) -> None:
        """End a pass; raises or warns if nothing was recorded.

        Args:
            split: "train", "val" or "test".
        """
        self._recorder.close_pass(split)

    def flush(self) -> None:
        """Have all rows that are waiting read now; does nothing if there are none.

        Raises:
            ValueError: logits are not finite or labels out of range. While an exception is in flight, a warning says
                it instead.
        """
        self._recorder.flush()

    def identify(self, source: StepSource, split: str) -> list[LoaderData]:
        """The data of a split's loaders, compared between ranks; a collective, before an epoch or pass.

        Args:
            source: of several training loaders, names the one to follow.
            split: "train", "val", "test" or "predict".

        Returns:
            One entry a loader that gives positions; none while an exception is in flight.

        Raises:
            ChangedDataError: if ranks have different data.
        """
        return self._wrapped.register.identify(source, split) if self.may_communicate() else []

    def note_output(self, output: Any) -> None:
        """Say what the running step is going to return, for sources that are functions of it.

        Args:
            output: what the module's own step returned.
        """
        self._running.note_output(output)

    def note_loss(self, loss: Tensor) -> bool:
        """Note the module's own loss, before anything is added to it; the first one of a step counts.

        Args:
            loss: the loss.

        Returns:
            Whether it is the first one.
        """
        return self._running.note_loss(loss)

    def choice(self, source: StepSource, name: str = "training_step") -> Choice | None:
        """How the logits of a source are found.

        Args:
            source: where they are taken from; must have been registered.
            name: of the step.

        Returns:
            None before the first step of the kind; then what training chose, if it has.
        """
        return self._wrapped.captures.choice(source, name) or recall(self._module, source)

    @property
    def moment(self) -> str:
        """Batch and epoch of the running or just finished step, for errors."""
        return self._running.moment

    def labels_on_host(self, step: SampleStep, source: StepSource) -> Tensor | None:
        """The labels of the running step, if the host has them.

        Args:
            step: the running step.
            source: where it was taken from.

        Returns:
            ``[B]`` on the CPU: the step's own, or those that the loader gave; None if they are on a device alone.
        """
        if step.target.device.type == "cpu":
            return step.target
        return None if step.choice is None else self._running.labels_on_host(source, step.choice)

    def defer(self, good: Tensor, error: Callable[[int], Exception]) -> None:
        """Defer an error to the next check of the flags.

        Args:
            good: bool ``[B]`` on a device, False for what is bad.
            error: gives the error for the first such place.
        """
        self._wrapped.checks.defer(good, error)

    def alter_batch(self, batch: Any, source: StepSource, change: Callable[[Any], Any]) -> Any:
        """Change what the running step is given; all users then see the targets of the changed batch.

        Args:
            batch: what ``training_step`` received.
            source: names the loader whose part is changed, where training draws from several.
            change: makes the new part from the old one, of as many samples.

        Returns:
            The changed batch.
        """
        part = self._running.arrival.followed(batch, source)
        if part is not None:
            batch = self._running.arrival.replaced(batch, source, change(part))
            self._running.replace_batch(batch)
        return batch

    def given(self, source: StepSource) -> Any:
        """What the running step was given, on its device and after all changes.

        Args:
            source: names the loader, where training draws from several.

        Returns:
            The part of the batch that the source follows.
        """
        return self._running.arrival.followed(self._running.batch, source)

    def transferred(self, part: Any, source: StepSource) -> Any:
        """Transfer another batch as the loop transfers its own: precision, transfer hooks, device.

        Args:
            part: a batch as the loader of the source would have given it.
            source: names the loader, where training draws from several.

        Returns:
            The batch as a step would be given it.
        """
        trainer = self._trainer()
        assert trainer is not None
        plugin = trainer.precision_plugin
        data = self._running.arrival.replaced(self._running.arrival.plain, source, part)
        data = type(plugin).convert_input(plugin, data)  # the instance's own is wrapped: this is not an arrival
        data = trainer.lightning_module._on_before_batch_transfer(data, dataloader_idx=0)
        return self._running.arrival.followed(trainer.strategy.batch_to_device(data, dataloader_idx=0), source)

    def positions(self, source: StepSource) -> Tensor | None:
        """Where the samples of the running batch stand in their loader's dataset.

        Args:
            source: names the loader, where training draws from several.

        Returns:
            int64 ``[B]`` on the CPU, or None for loaders without positions.
        """
        return self._running.arrival.positions(source)

    def record(self, source: StepSource) -> LoaderRecord | None:
        """What is known of the loader of the running batch.

        Args:
            source: names the loader, where training draws from several.

        Returns:
            The record, or None for loaders without positions.
        """
        return self._running.arrival.record(source)

    def check(self) -> None:
        """Read the flags that steps accumulated on the device.

        Raises:
            ValueError: logits were not finite or labels out of range in some step since the last check.
        """
        self._wrapped.check()

    def advise(self, advice: str) -> None:
        """Have the error for logits that are not finite say more.

        Args:
            advice: a sentence of the method whose loss it is.
        """
        self._wrapped.checks.advise(advice)

    def may_communicate(self) -> bool:
        """Whether a collective is safe.

        Returns:
            False while an exception is in flight: the other ranks may never reach the collective.
        """
        return sys.exc_info()[1] is self._handled

    def _tolerate(self, error: Exception | None) -> bool:
        """Whether all users are tolerant; if so, an error is reported to them."""
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
