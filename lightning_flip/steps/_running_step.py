"""The running step, and the :class:`SampleStep` that is built from it on request."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from lightning_flip.data.labels import kept_labels
from lightning_flip.steps.checks import ValueChecks
from lightning_flip.steps.identity import ChangedDataError
from lightning_flip.steps.loaded_batch import LoadedBatch
from lightning_flip.steps.logits._loss_targets import target_of
from lightning_flip.steps.logits._step_capture import Found, StepCapture
from lightning_flip.steps.logits.choice import Question
from lightning_flip.steps.logits.remembered import recall
from lightning_flip.steps.sample_step import SampleStep, rounds_of
from lightning_flip.steps.source import StepSource
from lightning_flip.steps.targets import find_target

__all__ = ["RunningStep"]


class RunningStep:
    """One step after another, of one module.

    Attributes:
        loaded: the batch, and which samples are in it.
        loss: the running step's own loss, if known.
    """

    def __init__(self, module: nn.Module, captures: StepCapture, checks: ValueChecks, *, may_skip: bool) -> None:
        self._module = module
        self._captures = captures
        self._checks = checks
        self._may_skip = may_skip
        self.loaded = LoadedBatch(None, {})
        self.loss: Tensor | None = None
        self._name = ""
        self._args: tuple[Any, ...] = ()
        self._output: Any = None
        self._done = False
        self._built: dict[StepSource, SampleStep | None] = {}
        self._unchecked: set[StepSource] = set()

    def receive(self, loaded: LoadedBatch) -> None:
        """Take the next batch; what was known about the last one is dropped, so that no graph is kept alive."""
        self._built, self._output, self._args, self.loss = {}, None, (), None
        self._captures.clear()
        self.loaded = loaded

    def begin(self, name: str, args: tuple[Any, ...]) -> None:
        """Begin a step. An optimizer may evaluate its closure, and so the step, several times for one batch."""
        self._built, self._output, self._done, self.loss = {}, None, False, None
        self._args, self._name = args, name

    @property
    def batch_number(self) -> int:
        """The Trainer's ``batch_idx``, whether or not the step takes it."""
        numbers = [arg for arg in self._args[1:2] if isinstance(arg, int)]
        trainer: Any = getattr(self._module, "_trainer", None)
        if numbers or trainer is None:
            return numbers[0] if numbers else -1
        loop = trainer._active_loop
        loop = getattr(loop, "epoch_loop", loop)
        return -1 if loop is None else int(loop.batch_progress.current.ready) - 1

    @property
    def batch(self) -> Any:
        """What the step was given, after all changes."""
        return self._args[0] if self._args else None

    def given(self, source: StepSource) -> Any:
        """The part of the batch that a source follows, on its device and after all changes."""
        return self.loaded.followed(self.batch, source)

    def alter_batch(self, batch: Any, source: StepSource, change: Callable[[Any], Any]) -> Any:
        """Change the part of the batch that a source follows, into as many samples; all users see its targets.

        Returns the changed batch.
        """
        part = self.loaded.followed(batch, source)
        if part is not None:
            batch = self.loaded.replaced(batch, source, change(part))
            self._args, self._built = (batch, *self._args[1:]), {}
        return batch

    def transferred(self, part: Any, source: StepSource) -> Any:
        """Transfer a batch as the loop transfers those of the source's loader: precision, transfer hooks, device."""
        trainer: Any = self._module._trainer
        plugin = trainer.precision_plugin
        data = self.loaded.replaced(self.loaded.plain, source, part)
        data = type(plugin).convert_input(plugin, data)  # the instance has a wrapper, for batches of the loop
        data = trainer.lightning_module._on_before_batch_transfer(data, dataloader_idx=0)
        return self.loaded.followed(trainer.strategy.batch_to_device(data, dataloader_idx=0), source)

    def note_output(self, output: Any) -> None:
        """Say what the step is going to return, for sources that are functions of it."""
        if not self._done:
            self._output = output
            self.note_loss(output.get("loss") if isinstance(output, Mapping) else output)

    def note_loss(self, loss: Any) -> bool:
        """Note the module's own loss, before anything is added to it; the first one of a step counts.

        Returns whether it is the first one.
        """
        if self.loss is not None or not isinstance(loss, Tensor):
            return False
        self.loss = loss
        return True

    def finish(self, output: Any) -> None:
        """End the step."""
        self._output, self._done = output, True
        if self.loss is None and output is not None:
            loss = output if isinstance(output, Tensor) else output.get("loss") if isinstance(output, Mapping) else None
            self.loss = loss if isinstance(loss, Tensor) else None

    def expected_rows(self, source: StepSource) -> int | None:
        """Number of samples in the part of the batch that a source follows."""
        try:
            return self.loaded.rows(source)
        except (ValueError, TypeError, KeyError):
            return None

    def seen_through(self, source: StepSource, *, checked: bool = True) -> SampleStep | None:
        """The step as a source sees it, built once; errors are those of :meth:`Attachment.sample_step`."""
        if source not in self._built:
            self._built[source] = self._build(source)
            self._unchecked.add(source)
        step = self._built[source]
        if checked and step is not None and source in self._unchecked:
            self._unchecked.remove(source)
            valid = self._look_at(step, source)
            if valid is not None:
                step = self._built[source] = replace(step, valid=valid)
        return step

    def _look_at(self, step: SampleStep, source: StepSource) -> Tensor | None:
        samples, moment = self.loaded.listed(source), self.moment
        valid, bad, problem = self._checks.look(
            step.logits.detach(),
            step.target,
            self._name,
            lambda row: f"sample {samples[row]} in {moment}",
            deferred=step.logits.device.type != "cpu",
            ignored=None if step.choice is None else step.choice.ignored,
            has_target=step.has_target,
        )
        if bad is not None:
            raise ValueError(problem)
        return valid

    def labels_on_host(self, step: SampleStep, source: StepSource) -> Tensor | None:
        """The labels of the running step if the host has them: the step's own, or those that the loader gave.

        Returns ``[B]``; None for labels that the step or a device has made.
        """
        if step.target.device.type == "cpu":
            return step.target
        choice = step.choice
        if choice is None or choice.loss_targets:
            return None
        part = self.loaded.followed(self.loaded.plain, source)
        with contextlib.suppress(TypeError, ValueError, KeyError, IndexError):
            target = target_of(part, choice.target, source.target_from)
            return target if target.device.type == "cpu" and target.ndim == 1 else None
        return None

    @property
    def moment(self) -> str:
        """When the running step ran, for errors."""
        trainer: Any = getattr(self._module, "_trainer", None)
        if trainer is None:
            return f"batch {self.batch_number}"
        text = f"batch {self.batch_number} of epoch {trainer.current_epoch}"
        progress = trainer.fit_loop.epoch_loop.batch_progress.current
        runs = trainer.training and progress.processed < progress.ready  # its own optimizer step is still to come
        return f"{text}, after {trainer.global_step} optimizer steps" if runs else text

    def find(self, source: StepSource) -> tuple[Found, Tensor | None] | None:
        """Logits with their graph, and targets on their device.

        Returns padding included, unchecked; no targets for data to predict that have none. None as for
        :meth:`seen_through`.
        """
        batch = self._args[0] if self._args else None
        if not self.loaded.single:
            batch = self.loaded.followed(batch, source)
        if batch is None:
            return None  # the loader that is followed ended before the others
        count = len(self.loaded.listed(source))
        found = self._captures.find(source, count, self._output, lambda: self._question(batch, source, count))
        if found is None:
            if self._output is None and self._done and self._may_skip:
                return None  # the step chose to do nothing
            if self._name != "predict_step":
                find_target(batch, source.target_from)  # raises a better error if there is none
            raise RuntimeError(self.nothing_found(source))
        logits, target = found.logits, found.labels
        if target is None:
            if self._name == "predict_step":
                target = self._predict_target(batch, source)
                if target is None:
                    return found, None
            else:
                keys = () if found.choice is None else found.choice.target
                target = target_of(batch, keys, source.target_from) if keys else find_target(batch, source.target_from)
        if found.choice is not None and found.choice.prefix:
            target = target[:count]
        if target.shape[0] != logits.shape[0] or (target.ndim == 2 and target.shape != logits.shape):
            raise ValueError(
                f"target has the shape {tuple(target.shape)}, logits have {tuple(logits.shape)}. "
                "Both must be of the same samples and classes; pass target_from= or logits_from=."
            )
        if target.device != logits.device:
            target = target.to(logits.device, non_blocking=True)
        if self.loaded.problem:
            self._refuse_order(source, found)
        return found, target

    def _refuse_order(self, source: StepSource, found: Found) -> None:
        """Refuse rows in another order than their samples, if their labels are the ones that show it."""
        elsewhere = source.target_from is not None or (found.choice is not None and bool(found.choice.target))
        if not elsewhere and source.index_from is None and source.labels != "may_change":
            raise ChangedDataError(self.loaded.problem)

    def _question(self, batch: Any, source: StepSource, rows: int) -> Question:
        target: Tensor | None = None
        with contextlib.suppress(TypeError, ValueError, KeyError):
            target = find_target(batch, source.target_from)
        return Question(
            batch,
            source.target_from,
            rows,
            self._name == "training_step",
            self._name,
            self.loss,
            target,
            recall(self._module, source),
            self._classes(source),
            source.outputs,
            source.ignore_index,
        )

    def _classes(self, source: StepSource) -> int | None:
        """Number of classes, if the module or the dataset knows it."""
        before = recall(self._module, source)
        if before is not None and self._name != "training_step":
            return before.classes
        hyperparameters: Any = getattr(self._module, "hparams", {})
        for name in ("num_classes", "n_classes"):
            count = getattr(self._module, name, None) or hyperparameters.get(name)
            if isinstance(count, int) and count > 1:
                return count
        labels = kept_labels(self.loaded.dataset(source))
        if labels is not None and len(labels):
            return max(2, int(labels.max()) + 1)
        return None if before is None else before.classes

    def _build(self, source: StepSource) -> SampleStep | None:
        found = self.find(source)
        if found is None:
            return None
        caught, target = found
        logits = caught.logits
        has_target = target is not None
        if target is None:
            target = torch.zeros(len(logits), dtype=torch.int64, device=logits.device)
        listed, num_samples = self.loaded.listed(source), self.loaded.num_samples(source)
        return SampleStep(
            index=self.loaded.index(source).to(logits.device, non_blocking=True),
            logits=logits,
            target=target,
            features=self._captures.features(source),
            inputs=caught.inputs,
            choice=caught.choice,
            num_padding=self.loaded.padding(source),
            rounds=rounds_of(listed),
            num_samples=num_samples,
            largest_index=max(listed, default=None) if num_samples is None else None,
            has_target=has_target,
            dataset=self.loaded.dataset(source),
        )

    def _predict_target(self, batch: Any, source: StepSource) -> Tensor | None:
        where = source.target_from
        if where is not None and not callable(where):
            return find_target(batch, where)
        if callable(where) and where(batch) is None:
            return None
        try:
            return find_target(batch, where)
        except TypeError:  # data to predict need no labels
            if where is None:
                return None
            raise

    def nothing_found(self, source: StepSource) -> str:
        """The error for a step without logits."""
        where = "" if source.logits_from is None else f" from logits_from={source.logits_from!r}"
        candidates = self._captures.candidates(source)
        listed = (
            f"Outputs with a row for every sample: {', '.join(candidates)}" if candidates else "No output was [B, K]"
        )
        if candidates and candidates[0].endswith(", 1]"):
            listed += '. One column may be a logit or a probability: pass outputs="logits" or outputs="probs"'
        return (
            f"no logits [B, K] were found{where} in {self._name}. They are found where they enter cross_entropy, "
            "nll_loss, binary_cross_entropy or log_softmax, or where the returned loss is the mean cross entropy of "
            f"one output. {listed}. Name one of them, or pass a function of the step's output: logits_from=."
            f"{self._captures.hint}"
        )
