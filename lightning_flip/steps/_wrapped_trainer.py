"""What Lightning calls on the instances of one Trainer, replaced: loaders, batches and steps pass through here."""

from __future__ import annotations

import contextlib
import functools
import weakref
from collections.abc import Callable
from typing import Any

import lightning.pytorch as pl
from torch.utils.data import DataLoader, IterableDataset

from lightning_flip.data.indexed import unwrap_loader, wrap_loader
from lightning_flip.steps._collate_order import CollateOrder
from lightning_flip.steps._recorder import Recorder
from lightning_flip.steps._running_step import RunningStep
from lightning_flip.steps.checks import ValueChecks
from lightning_flip.steps.identity import DataRegister
from lightning_flip.steps.loaded_batch import LoadedBatch, LoaderRecord
from lightning_flip.steps.logits._step_capture import StepCapture

__all__ = ["WrappedTrainer"]


class MethodWrapper:
    """Wraps methods of instances until :meth:`undo`.

    Example:
        >>> class Greeter:
        ...     def greet(self, name):
        ...         return f"hello {name}"
        >>> greeter, wrapper = Greeter(), MethodWrapper()
        >>> wrapper.wrap(greeter, "greet", lambda original: lambda name: original(name).upper())
        >>> greeter.greet("you"), Greeter().greet("you")
        ('HELLO YOU', 'hello you')
        >>> wrapper.undo()
        >>> greeter.greet("you"), vars(greeter)
        ('hello you', {})
    """

    def __init__(self) -> None:
        self._before: list[tuple[object, str, Callable[..., Any] | None]] = []

    def wrap(self, owner: Any, name: str, make: Callable[[Callable[..., Any]], Callable[..., Any]]) -> None:
        """Replace a method of one instance."""
        self._before.append((owner, name, vars(owner).get(name)))
        setattr(owner, name, make(getattr(owner, name)))

    def undo(self) -> None:
        """Restore everything; earlier wrappers of others stay."""
        for owner, name, before in reversed(self._before):
            if before is None:
                vars(owner).pop(name, None)
            else:
                setattr(owner, name, before)
        self._before = []


class WrappedTrainer:
    """Wraps methods of a Trainer's strategy and precision plugin, and takes it all off again.

    Every line here runs in every step. What a step may not need is computed on demand.

    Args:
        trainer: the Trainer.
        module: its LightningModule.
        steps: names of the steps that may run.
        may_skip: whether a step may do nothing: return None without a forward, which only training allows.
        may_raise: tells whether an error about rows may be raised; not while an exception is in flight.
        tolerate: reports an error to all users (given None, it only asks) if none of them may stop training; False if
            one may.

    Attributes:
        captures: where the module's logits are caught.
        checks: looks at the values of each step.
        running: the running step.
        register: the data of the loaders.
        recorder: copies the rows of steps, and hands them to those who read them.
    """

    def __init__(
        self,
        trainer: pl.Trainer,
        module: pl.LightningModule,
        steps: tuple[str, ...],
        *,
        may_skip: bool,
        may_raise: Callable[[], bool],
        tolerate: Callable[[Exception | None], bool],
    ) -> None:
        self._tolerate = tolerate
        self._trainer = weakref.ref(trainer)
        self._module = module
        self.captures = StepCapture(module, tolerate)
        self.checks = ValueChecks()
        self.running = RunningStep(module, self.captures, self.checks, may_skip=may_skip)
        self.register = DataRegister(trainer, self._record_of, may_raise)
        self.recorder = Recorder(trainer, self.running, self.captures, self.checks, self.register, may_raise)
        self._loaders: dict[int, LoaderRecord] = {}
        self._next_loader = 0
        self._counting = False  # whether a loader pads; a loop may go through several, and counts over all of them
        self._passes: dict[int, int] = {}
        self._check_every = max(1, getattr(trainer, "log_every_n_steps", 50))
        self._steps_since_check = 0
        self._wrapper = MethodWrapper()
        strategy = trainer.strategy
        if strategy._precision_plugin is None:  # the property makes a new one at every read
            strategy.precision_plugin = strategy.precision_plugin
        wrap = self._wrapper.wrap
        wrap(strategy, "process_dataloader", lambda original: lambda loader: self._process(original(loader)))
        wrap(strategy.precision_plugin, "convert_input", self._receiving)
        for name in steps:
            wrap(strategy, name, functools.partial(self._stepping, strategy, name))

    def check(self) -> None:
        """Read the flags that steps accumulated on the device."""
        self._steps_since_check = 0
        self.recorder.check()
        self.checks.read()

    def undo(self) -> None:
        """Take everything off."""
        self.captures.remove()
        self._wrapper.undo()
        for record in self._loaders.values():
            if record.loader is not None:
                unwrap_loader(record.loader)
        self._loaders = {}
        self.running.receive(LoadedBatch(None, {}))

    def _process(self, loader: Any) -> Any:
        if not isinstance(loader, DataLoader) or isinstance(loader.dataset, IterableDataset):
            return loader
        if not _has_known_iterator(loader) and self._tolerate(None):
            return loader  # what it does to batches is unknown, and no user needs the index
        # With reload_dataloaders_every_n_epochs old loaders go, and their workers with them.
        self._loaders = {key: record for key, record in self._loaders.items() if record.loader is not None}
        self.captures.forget_loaders(self._loaders)
        number = self._next_loader
        self._next_loader += 1
        wrapped = wrap_loader(loader, number, CollateOrder(loader.collate_fn))
        record = self._loaders[number] = LoaderRecord(wrapped)
        self._counting = self._counting or record.may_pad
        return wrapped

    def _record_of(self, loader: Any) -> LoaderRecord | None:
        """What is known of a wrapped loader."""
        return next((record for record in self._loaders.values() if record.loader is loader), None)

    def _receiving(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def convert_input(data: Any) -> Any:
            loaded = LoadedBatch(data, self._loaders)
            if self._counting:
                try:
                    loaded.count(*self._progress())
                except Exception as error:
                    if not self._tolerate(error):
                        raise
            self.running.receive(loaded)
            return original(loaded.plain)

        return convert_input

    def _progress(self) -> tuple[int, int]:
        """Batches that the running loop had in this pass, and passes that it has begun."""
        trainer = self._trainer()
        loop: Any = None if trainer is None else trainer._active_loop
        loop = getattr(loop, "epoch_loop", loop)
        ready = int(loop.batch_progress.current.ready) if loop is not None else 0
        self._passes[id(loop)] = self._passes.get(id(loop), 0) + (ready == 0)
        return ready, self._passes[id(loop)]

    def _in_sanity_check(self) -> bool:
        trainer = self._trainer()
        return trainer is not None and bool(trainer.sanity_checking)

    def _stepping(self, strategy: Any, name: str, original: Callable[..., Any]) -> Callable[..., Any]:
        running, captures, recorder, module = self.running, self.captures, self.recorder, self._module
        trains = name == "training_step"

        def step(*args: Any, **kwargs: Any) -> Any:
            self._steps_since_check += 1
            if self._steps_since_check >= self._check_every:
                self.check()
            loader = None if trains else running.loaded.loader
            recorded = trains and recorder.begin_training_step()
            if not trains:
                recorder.begin_evaluation_step()
            running.begin(name, (*args, *kwargs.values()))
            wraps = strategy.model is not module
            looks = False
            try:
                looks = captures.arm(
                    name,
                    running.expected_rows,
                    running.loaded.num_rows,
                    wrapped=wraps,
                    copies=not trains,
                    searches=trains or not self._in_sanity_check(),
                    loader=loader,
                    epoch=module.current_epoch,
                )
            except Exception as error:
                if not self._tolerate(error):
                    raise
            try:
                if looks:
                    with contextlib.ExitStack() as looking:
                        try:
                            looking.enter_context(captures.looking(running.batch))
                        except Exception as error:
                            if not self._tolerate(error):
                                raise
                        output = original(*args, **kwargs)
                else:
                    output = original(*args, **kwargs)
            finally:
                captures.disarm()
            running.finish(output)
            if recorded:
                recorder.end_training_step()
            return output

        return step


def _has_known_iterator(loader: DataLoader[Any]) -> bool:
    """Whether batches come out of a loader as its collate function made them."""
    makers: tuple[Any, ...] = (type(loader).__iter__, type(loader)._get_iterator)
    return all(getattr(maker, "__module__", "").partition(".")[0] in ("torch", "torchdata") for maker in makers)
