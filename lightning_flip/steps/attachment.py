"""The one attachment to a Trainer that all callbacks and mixins of this package share."""

from __future__ import annotations

import contextlib
import functools
import sys
import weakref
from collections.abc import Callable
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from lightning_flip.data.indexed import unwrap_loader, wrap_loader
from lightning_flip.steps.arrival import Arrival
from lightning_flip.steps.building import RunningStep
from lightning_flip.steps.captures import Captures
from lightning_flip.steps.checks import ValueChecks, refuse_iterator_steps
from lightning_flip.steps.loaders import LoaderRecord
from lightning_flip.steps.sample_step import SampleStep
from lightning_flip.steps.source import StepSource
from lightning_flip.steps.wrapping import MethodWrapper

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
        predicting = trainer.state.fn == TrainerFn.PREDICTING
        refuse_iterator_steps(module, (*_STEPS, _PREDICT) if predicting else _STEPS)
        self._trainer = weakref.ref(trainer)
        self._module = module
        self._owners: list[object] = []
        self._captures = Captures(module)
        self._checks = ValueChecks()
        fitting = trainer.state.fn == TrainerFn.FITTING
        self._running = RunningStep(module, self._captures, self._checks, may_skip=fitting)
        self.loaders: dict[int, LoaderRecord] = {}
        self._next_loader = 0
        self._passes: dict[int, int] = {}
        self._handled = sys.exc_info()[1]  # a fit may be started in an except block: this one is not the fit's
        self._steps_since_check = 0
        self._wrapper = MethodWrapper()
        self._wrap_trainer(trainer)

    # -- owners -----------------------------------------------------------------------------------

    def register(self, owner: object, source: StepSource) -> None:
        """Add a user of this attachment.

        Args:
            owner: the callback or mixin.
            source: where it takes its step from.

        Raises:
            AttributeError: if ``logits_from`` or ``features_from`` names no submodule.
        """
        self._captures.add(source)
        if not any(other is owner for other in self._owners):
            self._owners.append(owner)

    def release(self, owner: object) -> None:
        """Take a user away; with the last one, everything comes off.

        Args:
            owner: the callback or mixin.
        """
        self._owners = [other for other in self._owners if other is not owner]
        if not self._owners:
            self._detach()

    def paused(self) -> contextlib.AbstractContextManager[None]:
        """A context for forwards of our own, which are not the step's.

        Returns:
            The context.
        """
        return self._captures.paused()

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
            is followed ended before the others.

        Raises:
            TypeError: the samples have no index.
        """
        return self._running.samples(source)

    @property
    def searching(self) -> bool:
        """Whether a step is only repeated to name its submodules in an error message."""
        return self._running.searching

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

    def rows(self, source: StepSource, rows: list[int]) -> tuple[Tensor, Tensor] | None:
        """A few rows of the running or just finished step, for those who need no more: much cheaper than all of it.

        Args:
            source: where to take them from; must have been registered.
            rows: positions in the batch.

        Returns:
            Logits ``[n, K]`` outside of the graph and targets of these rows, copies both; nobody has looked for NaN
            and wrong labels in them. None as for :meth:`sample_step`, whose errors are these, too.
        """
        return self._running.rows(source, rows)

    def note_output(self, output: Any) -> None:
        """Say what the running step is going to return, for sources that are functions of it.

        Args:
            output: what the module's own step returned.
        """
        self._running.note_output(output)

    def alter_batch(self, batch: Any, source: StepSource, change: Callable[[Any], Any]) -> Any:
        """Change what the running step is given; everybody then sees the targets of the changed batch.

        Args:
            batch: what ``training_step`` received.
            source: names the loader whose part is changed, where training draws from several.
            change: makes the new part from the old one, of as many samples.

        Returns:
            The batch to go on with.
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
        """Take a batch that came from elsewhere the way of the loop's own: precision, transfer hooks, device.

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
        data = type(plugin).convert_input(plugin, data)  # the instance's own is wrapped: this is no arrival
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
        self._steps_since_check = 0
        self._checks.read()

    def advise(self, advice: str) -> None:
        """Have the error for logits that are not finite say more.

        Args:
            advice: a sentence of the method whose loss it is.
        """
        self._checks.advise(advice)

    def may_communicate(self) -> bool:
        """Whether a collective is safe.

        Returns:
            False while an exception is in flight: the other ranks may never reach the collective.
        """
        return sys.exc_info()[1] is self._handled

    # -- wrapping ---------------------------------------------------------------------------------

    def _wrap_trainer(self, trainer: pl.Trainer) -> None:
        strategy = trainer.strategy
        if strategy._precision_plugin is None:  # the property makes a new one at every read
            strategy.precision_plugin = strategy.precision_plugin
        wrap = self._wrapper.wrap
        wrap(strategy, "process_dataloader", lambda original: lambda loader: self._process(original(loader)))
        wrap(strategy.precision_plugin, "convert_input", lambda original: lambda data: original(self._receive(data)))
        for name in (*_STEPS, _PREDICT):
            wrap(strategy, name, functools.partial(self._stepping, name))

    def _process(self, loader: Any) -> Any:
        if not isinstance(loader, DataLoader) or isinstance(loader.dataset, IterableDataset):
            return loader
        # With reload_dataloaders_every_n_epochs old loaders go, and their workers with them.
        self.loaders = {key: record for key, record in self.loaders.items() if record.loader is not None}
        number = self._next_loader
        self._next_loader += 1
        wrapped = wrap_loader(loader, number)
        self.loaders[number] = LoaderRecord(wrapped)
        return wrapped

    def _receive(self, data: Any) -> Any:
        arrival = Arrival(data, self.loaders, *self._progress())
        self._running.receive(arrival)
        return arrival.plain

    def _progress(self) -> tuple[int, int]:
        """Batches that the running loop had in this pass, and passes that it has begun."""
        trainer = self._trainer()
        loop: Any = None if trainer is None else trainer._active_loop
        loop = getattr(loop, "epoch_loop", loop)
        ready = int(loop.batch_progress.current.ready) if loop is not None else 0
        self._passes[id(loop)] = self._passes.get(id(loop), 0) + (ready == 0)
        return ready, self._passes[id(loop)]

    def _stepping(self, name: str, original: Callable[..., Any]) -> Callable[..., Any]:
        def step(*args: Any, **kwargs: Any) -> Any:
            self._check_now_and_then()
            self._running.begin(name, (*args, *kwargs.values()))
            self._captures.arm(self._running.expected_rows, wrapped=self._wrapped_by_strategy())
            try:
                output = original(*args, **kwargs)
            finally:
                self._captures.disarm()
            self._running.finish(output)
            return output

        return step

    def _wrapped_by_strategy(self) -> bool:
        trainer = self._trainer()
        return trainer is not None and trainer.strategy.model is not trainer.strategy.lightning_module

    def _check_now_and_then(self) -> None:
        trainer = self._trainer()
        self._steps_since_check += 1
        if trainer is not None and self._steps_since_check >= max(1, getattr(trainer, "log_every_n_steps", 50)):
            self.check()

    def _detach(self) -> None:
        self._captures.remove()
        self._wrapper.undo()
        for record in self.loaders.values():
            if record.loader is not None:
                unwrap_loader(record.loader)
        self.loaders = {}
        self._running.receive(Arrival(None, {}, 0, 0))
        trainer = self._trainer()
        if trainer is not None and _ATTACHED.get(trainer) is self:
            del _ATTACHED[trainer]


def attach(trainer: pl.Trainer, module: pl.LightningModule, owner: object, source: StepSource) -> Attachment:
    """Get the Trainer's attachment, making it for the first user.

    Args:
        trainer: the running Trainer.
        module: its LightningModule.
        owner: the callback or mixin; it must call :meth:`Attachment.release` in ``teardown`` and on an exception.
        source: where it takes its step from.

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
        attachment.register(owner, source)
    except BaseException:
        if not attachment._owners:  # nobody would ever release it
            attachment._detach()
        raise
    return attachment
