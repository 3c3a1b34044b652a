"""Running the Trainer's model on training samples between two steps: eval mode, and training does not notice."""

from __future__ import annotations

import contextlib
import copy
import random
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from lightning.pytorch.callbacks import WeightAveraging
from lightning.pytorch.strategies import DeepSpeedStrategy, FSDPStrategy, ModelParallelStrategy
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader

from lightning_flip.callbacks.exact_resume import random_states, restore_random_states
from lightning_flip.data.indexed import IndexedBatch, IndexedDataset, unwrapped
from lightning_flip.functional.losses import widen
from lightning_flip.steps import Attachment, SampleStep, StepSource, find_target
from lightning_flip.steps.checks import ValueChecks
from lightning_flip.steps.logits.capture import FeatureCapture, LogitCapture, classifier_layer
from lightning_flip.steps.logits.forward import is_compiled_whole
from lightning_flip.steps.logits.loss_calls import IGNORED
from lightning_flip.steps.outputs import Place, as_logits, kind_of_values, two_dimensional
from lightning_flip.tables import RowBuffer

__all__ = ["Evaluation", "Probe", "passes_of", "training_data"]

_BATCH_SIZE = 64  # where the loader's own batch sampler has none
_SHARDED = (DeepSpeedStrategy, FSDPStrategy, ModelParallelStrategy)


def training_data(trainer: pl.Trainer, source: StepSource) -> Any:
    """The dataset whose samples a source follows; None if it has no length, or batches carry their samples' ids."""
    dataset = getattr(_training_loader(trainer, source), "dataset", None)
    dataset = unwrapped(dataset)
    return dataset if source.index_from is None and hasattr(dataset, "__len__") else None


def passes_of(passes: str, mode: str | None) -> str:
    """The option ``passes``, also by its name of 0.1: ``mode="visits"`` or ``mode="eval"``."""
    if mode is not None:
        former, passes = passes, "train" if mode == "visits" else mode
        if former not in ("train", passes):
            raise TypeError(f"passes={former!r} and mode={mode!r} are one option by its new and its old name.")
        text = f"mode={mode!r} is now passes={passes!r}; the old name will be removed in 0.4."
        warnings.warn(text, FutureWarning, stacklevel=3)
    if passes not in ("train", "eval"):
        raise ValueError(f'passes must be "train" or "eval"; got {passes!r}.')
    return passes


@dataclass(frozen=True)
class Evaluation:
    """Runs the module on training samples by position, through the training loader's dataset and collate function.

    A batch goes through ``predict_step`` if the module has one of its own, else the first part of a tuple or list
    through its forward.

    Attributes:
        trainer: the running Trainer, whose training loader is set up.
        attachment: paused meanwhile.
        source: names the loader, the targets, the submodule that gives the logits, and the layer of the features.
        advice: what the user can do if this is not possible.
    """

    trainer: pl.Trainer
    attachment: Attachment
    source: StepSource
    advice: str

    @property
    def module(self) -> pl.LightningModule:
        """The Trainer's module."""
        return self.trainer.lightning_module

    def loader(self, *, one_rank: bool = False) -> DataLoader[Any]:
        """The training loader; refused if samples cannot be loaded by position, or one rank lacks the whole model."""
        if one_rank and isinstance(self.trainer.strategy, _SHARDED):
            raise TypeError(
                f"the evaluation runs on one rank, and {type(self.trainer.strategy).__name__} spreads the model over "
                f"all of them. {self.advice}"
            )
        if self.source.index_from is not None:
            raise TypeError(
                "evaluating training samples needs their positions in the dataset, and these batches carry ids of "
                f"their own (index_from=). {self.advice}"
            )
        loader = _training_loader(self.trainer, self.source)
        if not isinstance(loader, DataLoader) or not isinstance(loader.dataset, IndexedDataset):
            data = f" over {type(loader.dataset).__name__}" if hasattr(loader, "dataset") else ""
            found = "several loaders" if loader is None else f"a {type(loader).__name__}{data}"
            raise TypeError(
                "evaluating training samples needs a torch DataLoader over a map-style dataset (loader= names one of "
                f"several); got {found}. {self.advice}"
            )
        return loader

    def table(self, *, averaged: bool) -> Tensor:
        """Probabilities of all training samples, float32 ``[N, K]`` on the CPU, on every rank; see :meth:`steps`."""
        rows = RowBuffer()
        for step in self.steps(averaged=averaged):
            rows.add(index=step.index.cpu(), probs=step.logits.softmax(dim=1).float().cpu())
        ranks = [columns for columns in rows.gathered(self.trainer.strategy.root_device) if columns]
        whole = torch.zeros(len(self.loader().dataset), ranks[0]["probs"].shape[1] if ranks else 0)  # type: ignore[arg-type]
        for columns in ranks:
            whole[columns["index"]] = columns["probs"]
        return whole

    def steps(self, *, samples: Sequence[int] | None = None, averaged: bool = False) -> Iterator[SampleStep]:
        """Evaluate training samples, all or those at some positions; each rank yields its share, to be consumed.

        Inputs go through the training loader's transforms and collate function as they are. ``averaged`` evaluates the
        averaged weights, if a WeightAveraging callback keeps them. Every rank has to come here; sharded strategies are
        not supported.
        """
        loader, trainer = self.loader(), self.trainer
        positions = range(len(loader.dataset)) if samples is None else samples  # type: ignore[arg-type]
        loader = _in_order(loader, positions[trainer.global_rank :: trainer.world_size])
        checks, choice = ValueChecks(), self.attachment.choice(self.source)
        # If no callback follows training, its loss is not known, and may be taken for one of torch's.
        ignored: int | None = IGNORED if self.source.ignore_index is None else self.source.ignore_index
        if choice is not None:
            ignored = choice.ignored
        with self.undisturbed(), self._averages(wanted=averaged):
            capture, features = self.capture(), None
            if self.source.features_from is not None:
                layer = classifier_layer(self.module, self.source.features_from, "features_from")
                features = FeatureCapture(layer)
            try:
                for number, item in enumerate(loader):
                    step = self._step(capture, features, item, number)
                    yield _checked(step, item, checks, ignored, f"batch {number} of epoch {trainer.current_epoch}")
                checks.read()
            finally:
                capture.remove()
                if features is not None:
                    features.remove()

    @contextlib.contextmanager
    def undisturbed(self) -> Iterator[None]:
        """A context for forwards: eval mode, no gradient, nothing caught as a step; random states are put back."""
        states = random_states()
        modes = [(part, part.training) for part in self.module.modules()]
        self.module.eval()
        try:
            # A validation runs in inference mode, whose tensors cannot be trained with.
            with self.attachment.paused(), torch.inference_mode(False), torch.no_grad():
                yield
        finally:
            for part, mode in modes:
                part.training = mode
            restore_random_states(states)

    def capture(self) -> LogitCapture:
        """Catches the logits of forwards outside of steps, where training found them or the source names them."""
        choice, place = self.attachment.choice(self.source), Place()
        if isinstance(self.source.logits_from, str):
            place = Place.parse(self.source.logits_from)
        elif choice is not None and choice.place is not None:
            place = choice.place
        elif choice is not None:
            raise ValueError(
                f"the logits of {type(self.module).__name__} are made in its training_step and are the output of no "
                "module, so that an evaluation cannot catch them. Compute them in forward(), or name a submodule that "
                "gives logits: logits_from=."
            )
        kind = self.source.outputs or (None if choice is None else choice.kind)
        part = self.module.get_submodule(place.path)
        own = part is self.module and not is_compiled_whole(part)
        return LogitCapture(part, replace(place, call=1), kind, own=own)

    def transferred(self, batch: Any) -> Any:
        """A batch as a step gets it: precision, transfer hooks, device."""
        plugin = self.trainer.precision_plugin
        # The class's own method: the one of this plugin is wrapped, and would take the batch for a step's.
        batch = type(plugin).convert_input(plugin, batch)
        batch = self.module._on_before_batch_transfer(batch, dataloader_idx=0)
        return self.trainer.strategy.batch_to_device(batch, dataloader_idx=0)

    def logits(self, capture: LogitCapture, batch: Any, *, rows: int, number: int) -> Tensor:
        """Logits ``[rows, K]`` of one batch on the device, in at least float32; inside of :meth:`undisturbed`."""
        name = type(self.module).__name__
        capture.arm(rows, outermost_is_step=False)
        try:
            with self.trainer.precision_plugin.forward_context():
                if self._has_own("predict_step"):
                    self.module.predict_step(batch, number)
                else:
                    # A module without a forward of its own has its network called by its steps.
                    network = self.module if self._has_own("forward") else capture.module
                    network(batch[0] if isinstance(batch, (tuple, list)) else batch)
        except Exception as error:
            error.add_note(
                f"A clean evaluation pass called {name}: its predict_step if it has one of its own, else its forward "
                "with the first part of a tuple or list, or with the batch. Let predict_step(batch, batch_idx) run the "
                f"network on a training batch. {self.advice}"
            )
            raise
        finally:
            capture.disarm()
        if capture.kind is None and capture.output is not None:
            columns = two_dimensional(capture.output)
            capture.kind = None if columns is None else kind_of_values(columns)
            if capture.kind is None:
                raise ValueError(
                    f"a clean evaluation pass got one column from {name}, which may be a logit or a probability. Pass "
                    'outputs="logits" or outputs="probs".'
                )
            logits = as_logits(capture.output, capture.kind)
        else:
            logits = capture.logits
        capture.clear()
        if logits is None:
            raise ValueError(
                f"a clean evaluation pass caught no logits [{rows}, K] from {name}. It calls predict_step if the "
                "module has one, else the module with the first part of the batch: let predict_step(batch, batch_idx) "
                "run the network on a training batch, and name the submodule that gives logits (logits_from=)."
            )
        return widen(logits)

    def _step(self, capture: LogitCapture, features: FeatureCapture | None, item: Any, number: int) -> SampleStep:
        if not isinstance(item, IndexedBatch):
            raise TypeError(f"the training loader gave a {type(item).__name__} without its samples' positions.")
        batch, rows = self.transferred(item.batch), len(item.index)
        if features is not None:
            features.arm(rows)
        logits = self.logits(capture, batch, rows=rows, number=number)
        found = None
        if features is not None:
            found = features.features
            features.armed = False
            if found is None:
                raise ValueError(
                    f"no features [{rows}, D] entered the layer {self.source.features_from!r} in a clean evaluation "
                    "pass. Name the layer that turns features into logits with classifier_from=."
                )
        target = find_target(batch, self.source.target_from).to(logits.device)
        return SampleStep(item.index.to(logits.device), logits, target, features=found)

    @contextlib.contextmanager
    def _averages(self, *, wanted: bool) -> Iterator[None]:
        """Lightning puts averaged weights in when a validation starts, and takes them out when it ends."""
        callbacks: list[Any] = self.trainer.callbacks if wanted else []  # type: ignore[attr-defined]
        found = [callback for callback in callbacks if isinstance(callback, WeightAveraging)]
        for callback in found:
            callback.on_validation_epoch_start(self.trainer, self.module)
        try:
            yield
        finally:
            for callback in reversed(found):
                callback.on_validation_epoch_end(self.trainer, self.module)

    def _has_own(self, name: str) -> bool:
        """Whether the module overrides a method of its base, which is lightning's or pytorch_lightning's."""
        base: Any = next(part for part in type(self.module).__mro__ if part.__name__ == "LightningModule")
        return getattr(type(self.module), name) is not getattr(base, name)


class Probe:
    """A few training samples, collated and moved to the device once, to be evaluated again and again by one rank.

    Random transforms draw once, from a fixed seed: every evaluation has the same view of a sample, a resumed run's too.
    Draws come from the generators of torch, numpy and Python; a dataset that keeps a generator of its own is disturbed.

    Attributes:
        index: int64 ``[n]``, positions of the samples.
        target: int64 ``[n]`` on the device; -1 if targets are distributions.
    """

    def __init__(self, evaluation: Evaluation, samples: Sequence[int]) -> None:
        self.index = torch.tensor(samples)
        loader = evaluation.loader(one_rank=True)
        with evaluation.undisturbed():
            random.seed(0)
            np.random.seed(0)  # noqa: NPY002 - what transforms draw from
            torch.manual_seed(0)
            collated = _collated(loader, list(samples))
            self._batches = [(rows, evaluation.transferred(batch)) for rows, batch in collated]
        selector = evaluation.source.target_from
        self.target = torch.cat([_labels(find_target(batch, selector), rows) for rows, batch in self._batches])

    def probabilities(self, evaluation: Evaluation) -> Tensor:
        """Probabilities now, float32 ``[n, K]`` on the device, from which nothing is read."""
        with evaluation.undisturbed():
            capture = evaluation.capture()
            try:
                parts = [
                    evaluation.logits(capture, copy.deepcopy(batch), rows=rows, number=number).softmax(dim=1).float()
                    for number, (rows, batch) in enumerate(self._batches)
                ]
            finally:
                capture.remove()
            return torch.cat(parts)


def _training_loader(trainer: pl.Trainer, source: StepSource) -> Any:
    loaders: Any = trainer.train_dataloader
    if not isinstance(loaders, (list, tuple, Mapping)):
        return loaders
    if source.loader is not None:
        return loaders[source.loader]  # type: ignore[index]
    listed = list(loaders.values()) if isinstance(loaders, Mapping) else list(loaders)
    return listed[0] if len(listed) == 1 else None


def _in_order(loader: DataLoader[Any], mine: Sequence[int]) -> DataLoader[Any]:
    """A second loader over the same (wrapped) data; the one that trains is not touched."""
    options: dict[str, Any] = {"prefetch_factor": loader.prefetch_factor} if loader.num_workers else {}
    if loader.batch_sampler is not None:
        options["batch_sampler"] = BatchSampler(mine, _batch_size(loader), drop_last=False)
    else:
        options |= {"batch_size": None, "sampler": mine}
    return DataLoader(
        loader.dataset,
        num_workers=loader.num_workers,
        collate_fn=loader.collate_fn,
        pin_memory=loader.pin_memory,
        timeout=loader.timeout,
        worker_init_fn=loader.worker_init_fn,
        multiprocessing_context=loader.multiprocessing_context,
        **options,
    )


def _collated(loader: DataLoader[Any], samples: list[int]) -> list[tuple[int, Any]]:
    """Batches as the loader's own fetcher would make them, with their sizes."""
    fetch: Any = loader.dataset
    collate: Any = loader.collate_fn
    if loader.batch_sampler is None and not isinstance(loader.sampler, BatchSampler):
        items = [collate(fetch[sample]) for sample in samples]  # batch_size=None: every sample is a batch
    else:
        size = _batch_size(loader)
        chunks = [samples[start : start + size] for start in range(0, len(samples), size)]
        whole = loader.batch_sampler is None  # the dataset itself makes a batch of a list
        items = [collate(fetch[chunk] if whole else fetch.__getitems__(chunk)) for chunk in chunks]
    assert all(isinstance(item, IndexedBatch) for item in items)
    return [(len(item.index), item.batch) for item in items]


def _batch_size(loader: DataLoader[Any]) -> int:
    sampler = loader.sampler if loader.batch_sampler is None else loader.batch_sampler
    return int(loader.batch_size or getattr(sampler, "batch_size", None) or _BATCH_SIZE)


def _labels(target: Tensor, rows: int) -> Tensor:
    return target if target.ndim == 1 else torch.full((rows,), -1, device=target.device)


def _checked(step: SampleStep, item: IndexedBatch, checks: ValueChecks, ignored: int | None, moment: str) -> SampleStep:
    """The step with which rows are valid."""
    valid, bad, problem = checks.look(
        step.logits,
        step.target,
        "a clean evaluation pass",
        lambda row: f"sample {int(item.index[row])} in {moment}",
        deferred=step.logits.device.type != "cpu",
        ignored=ignored,
    )
    if bad is not None:
        raise ValueError(problem)
    return replace(step, valid=valid)
