"""The one attachment to a Trainer that all callbacks and mixins of this package share."""

from __future__ import annotations

import contextlib
import functools
import sys
import weakref
from collections.abc import Callable
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from lightning_flip.data.indexed import unwrap_loader, wrap_loader
from lightning_flip.steps.arrival import Arrival
from lightning_flip.steps.capture import candidate_modules, nothing_caught
from lightning_flip.steps.captures import Captures
from lightning_flip.steps.checks import ValueChecks, refuse_iterator_steps
from lightning_flip.steps.loaders import LoaderRecord
from lightning_flip.steps.sample_step import SampleStep, rounds_of
from lightning_flip.steps.source import StepSource
from lightning_flip.steps.targets import find_target
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
        self.loaders: dict[int, LoaderRecord] = {}
        self._next_loader = 0
        self._passes: dict[int, int] = {}
        self._arrival = Arrival(None, self.loaders, 0, 0)
        self._step_args: tuple[Any, ...] = ()
        self._step_name = ""
        self._output: Any = None
        self._step_done = False
        self._cache: dict[StepSource, SampleStep | None] = {}
        self._searching = False
        self._checks = ValueChecks()
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
        return self._arrival

    @property
    def searching(self) -> bool:
        """Whether a step is only repeated to name its submodules in an error message."""
        return self._searching

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
        if source not in self._cache:
            self._cache[source] = self._build(source)
        return self._cache[source]

    def note_output(self, output: Any) -> None:
        """Say what the running step is going to return, for sources that are functions of it.

        Args:
            output: what the module's own step returned.
        """
        if not self._step_done:
            self._output = output

    def record(self, source: StepSource) -> LoaderRecord | None:
        """What is known of the loader of the running batch.

        Args:
            source: names the loader, where training draws from several.

        Returns:
            The record, or None for loaders without positions.
        """
        return self._arrival.record(source)

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

    # -- building a step --------------------------------------------------------------------------

    def _build(self, source: StepSource) -> SampleStep | None:
        batch = self._arrival.followed(self._step_args[0] if self._step_args else None, source)
        if batch is None:
            return None  # the loader that is followed ended before the others
        index, num_padding, num_samples = self._arrival.index(source)
        found = self._captures.find(source, len(index), self._output)
        if found is None:
            trainer = self._trainer()
            fitting = trainer is None or trainer.state.fn == TrainerFn.FITTING
            if self._output is None and self._step_done and fitting:
                return None  # the step chose to do nothing
            raise RuntimeError(self._nothing_caught(source, len(index)))
        logits, inputs = found
        target = self._find_target(batch, source)
        has_target = target is not None
        if target is None:
            target = torch.zeros(len(logits), dtype=torch.int64)
        if target.shape[0] != logits.shape[0] or (target.ndim == 2 and target.shape != logits.shape):
            raise ValueError(
                f"target has the shape {tuple(target.shape)}, logits have {tuple(logits.shape)}. "
                "Both must be of the same samples and classes; pass target_from= or logits_from=."
            )
        target = target.to(logits.device, non_blocking=True)
        valid = self._checks.look(logits.detach(), target, self._step_name, deferred=logits.device.type != "cpu")
        return SampleStep(
            index=index.to(logits.device, non_blocking=True),
            logits=logits,
            target=target,
            features=self._captures.features(source),
            inputs=inputs,
            valid=valid,
            num_padding=num_padding,
            rounds=rounds_of(index),
            num_samples=num_samples,
            largest_index=int(index.max()) if num_samples is None and len(index) else None,
            has_target=has_target,
        )

    def _find_target(self, batch: Any, source: StepSource) -> Tensor | None:
        where = source.target_from
        if self._step_name != _PREDICT or (where is not None and not callable(where)):
            return find_target(batch, where)
        if callable(where) and where(batch) is None:
            return None
        try:
            return find_target(batch, where)
        except TypeError:  # data to predict need no labels
            if where is None:
                return None
            raise

    def _nothing_caught(self, source: StepSource, rows: int) -> str:
        found: list[str] = []
        if not self._searching:
            self._searching = True
            try:
                step = getattr(self._module, self._step_name)
                found = candidate_modules(self._module, lambda: step(*self._step_args), rows)
            finally:
                self._searching = False
        return nothing_caught(source.logits_from, self._step_name, found)

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
        self._cache, self._output, self._step_args = {}, None, ()
        self._captures.clear()
        self._arrival = Arrival(data, self.loaders, *self._progress())
        return self._arrival.plain

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
            # An optimizer may evaluate its closure, and so the step, several times for one batch.
            self._cache, self._output, self._step_done = {}, None, False
            self._step_args, self._step_name = (*args, *kwargs.values()), name
            self._captures.arm(self._expected_rows, wrapped=self._wrapped_by_strategy())
            try:
                self._output = original(*args, **kwargs)
            finally:
                self._captures.disarm()
            self._step_done = True
            return self._output

        return step

    def _wrapped_by_strategy(self) -> bool:
        trainer = self._trainer()
        return trainer is not None and trainer.strategy.model is not trainer.strategy.lightning_module

    def _expected_rows(self, source: StepSource) -> int | None:
        # A batch without index is reported where its step is asked for, with the right words.
        with contextlib.suppress(ValueError, TypeError, KeyError):
            return len(self._arrival.index(source)[0])
        return None

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
        self._cache, self.loaders = {}, {}
        self._arrival, self._output, self._step_args = Arrival(None, self.loaders, 0, 0), None, ()
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
