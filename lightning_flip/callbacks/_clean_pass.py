"""What a model says of its training samples in eval mode, asked between two steps without leaving a trace."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import WeightAveraging
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader

from lightning_flip.callbacks._clean_forward import clean_capture, clean_logits, transferred, undisturbed
from lightning_flip.data.indexed import IndexedBatch, IndexedDataset
from lightning_flip.steps import Attachment, SampleStep, StepSource, find_target
from lightning_flip.steps.capture import LogitCapture
from lightning_flip.steps.checks import ValueChecks
from lightning_flip.steps.features import FeatureCapture, classifier_layer
from lightning_flip.steps.loss_calls import IGNORED
from lightning_flip.tables import gather_rows

__all__ = ["clean_pass", "clean_steps", "find_training_loader"]

_BATCH_SIZE = 64  # where the loader's own batch sampler has none to say


def clean_pass(
    trainer: pl.Trainer, module: pl.LightningModule, attachment: Attachment, source: StepSource, *, averaged: bool
) -> Tensor:
    """Ask a model about every training sample, see :func:`clean_steps`.

    Returns probabilities float32 ``[N, K]`` on the CPU, on every rank.

    Args:
        trainer: the running Trainer, whose training loader is set up.
        module: its module.
        attachment: what runs here is no step that it should catch.
        source: names the loader and the submodule that gives the logits.
        averaged: ask the averaged weights, where a WeightAveraging callback keeps them beside the training ones.
    """
    size = len(_loader_by_position(trainer, source).dataset)  # type: ignore[arg-type]
    steps = clean_steps(trainer, module, attachment, source, averaged=averaged)
    parts = [(step.index.cpu(), step.logits.softmax(dim=1).float().cpu()) for step in steps]
    return _joined(trainer, parts, size)


def clean_steps(
    trainer: pl.Trainer,
    module: pl.LightningModule,
    attachment: Attachment,
    source: StepSource,
    *,
    samples: Sequence[int] | None = None,
    averaged: bool = False,
) -> Iterator[SampleStep]:
    """Ask a model about training samples: eval mode, no gradient, one after the other, not shuffled.

    Inputs are those of the training loader, with its transforms and collate function as they are. They go through
    ``predict_step`` where the module has one of its own, else through its forward (the first part of a tuple or list).
    Afterwards random states and training modes are what they were: training goes on bit for bit as without the pass.
    Each rank asks about its share, so that all ranks have to come here; sharded strategies (FSDP) are not served.

    Yields this rank's batches, logits in at least float32; to be consumed to the end.

    Args:
        trainer: the running Trainer, whose training loader is set up.
        module: its module.
        attachment: what runs here is no step that it should catch.
        source: names the loader, the targets, the submodule that gives the logits, and the layer of the features.
        samples: positions in the training data; None asks about all.
        averaged: ask the averaged weights, where a WeightAveraging callback keeps them beside the training ones.
    """
    loader = _loader_by_position(trainer, source)
    positions = range(len(loader.dataset)) if samples is None else samples  # type: ignore[arg-type]
    loader = _in_order(loader, positions[trainer.global_rank :: trainer.world_size])
    checks, choice = ValueChecks(), attachment.choice(source)
    # Where nobody follows training, its loss is not known, and may be taken for one of torch's.
    ignored = choice.ignored if choice is not None else IGNORED if source.ignore_index is None else source.ignore_index
    with undisturbed(module, attachment), _averages(trainer, module, wanted=averaged):
        capture = clean_capture(module, attachment, source)
        features = None
        if source.features_from is not None:
            features = FeatureCapture(classifier_layer(module, source.features_from, "features_from"))
        try:
            for number, item in enumerate(loader):
                step = _asked(trainer, module, (capture, features), source, item, number)
                yield _checked(step, item, checks, ignored, f"batch {number} of epoch {trainer.current_epoch}")
            checks.read()
        finally:
            capture.remove()
            if features is not None:
                features.remove()


def find_training_loader(trainer: pl.Trainer, source: StepSource) -> Any:
    """The training loader that a source follows."""
    loaders: Any = trainer.train_dataloader
    if not isinstance(loaders, (list, tuple, Mapping)):
        return loaders
    if source.loader is not None:
        return loaders[source.loader]  # type: ignore[index]
    listed = list(loaders.values()) if isinstance(loaders, Mapping) else list(loaders)
    return listed[0] if len(listed) == 1 else None


def _loader_by_position(trainer: pl.Trainer, source: StepSource) -> DataLoader[Any]:
    if source.index_from is not None:
        raise TypeError(
            "a clean pass asks for every training sample by its position, and here the batches carry ids of their own "
            "(index_from=). Leave out initial_pass and also."
        )
    loader = find_training_loader(trainer, source)
    if not isinstance(loader, DataLoader) or not isinstance(loader.dataset, IndexedDataset):
        raise TypeError(
            "a clean pass asks for every training sample by its position. It needs a torch DataLoader over a map-style "
            f"dataset; got {type(loader).__name__}. Leave out initial_pass and also."
        )
    return loader


def _in_order(loader: DataLoader[Any], mine: Sequence[int]) -> DataLoader[Any]:
    """A second loader over the same (wrapped) data; the one that trains is not touched."""
    options: dict[str, Any] = {"prefetch_factor": loader.prefetch_factor} if loader.num_workers else {}
    batched = loader.batch_sampler is not None
    batch_size = loader.batch_size or getattr(loader.batch_sampler, "batch_size", None) or _BATCH_SIZE
    if batched:
        options["batch_sampler"] = BatchSampler(mine, int(batch_size), drop_last=False)
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


@contextlib.contextmanager
def _averages(trainer: pl.Trainer, module: pl.LightningModule, *, wanted: bool) -> Iterator[None]:
    """What a validation is scored with: Lightning puts averaged weights in at its start and out at its end."""
    found = [callback for callback in trainer.callbacks if wanted and isinstance(callback, WeightAveraging)]  # type: ignore[attr-defined]
    for callback in found:
        callback.on_validation_epoch_start(trainer, module)
    try:
        yield
    finally:
        for callback in reversed(found):
            callback.on_validation_epoch_end(trainer, module)


def _asked(
    trainer: pl.Trainer,
    module: pl.LightningModule,
    captures: tuple[LogitCapture, FeatureCapture | None],
    source: StepSource,
    item: Any,
    number: int,
) -> SampleStep:
    if not isinstance(item, IndexedBatch):
        raise TypeError(f"the training loader gave a {type(item).__name__} without its samples' positions.")
    batch, rows = transferred(trainer, module, item.batch), len(item.index)
    capture, features = captures
    if features is not None:
        features.arm(rows)
    logits = clean_logits(trainer, module, capture, batch, rows=rows, number=number)
    found = None
    if features is not None:
        found = features.features
        features.armed = False
        if found is None:
            raise ValueError(
                f"no features [{rows}, D] entered the layer {source.features_from!r} in a clean evaluation pass. Name "
                "the layer that turns features into logits with classifier_from=."
            )
    target = find_target(batch, source.target_from).to(logits.device)
    return SampleStep(item.index.to(logits.device), logits, target, features=found)


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


def _joined(trainer: pl.Trainer, parts: list[tuple[Tensor, Tensor]], num_samples: int) -> Tensor:
    device = trainer.strategy.root_device
    index = torch.cat([positions for positions, _ in parts]) if parts else torch.zeros(0, dtype=torch.int64)
    width = parts[0][1].shape[1] if parts else 0
    rows = torch.cat([probs for _, probs in parts]) if parts else torch.zeros(0, width)
    if trainer.world_size > 1:
        gathered = gather_rows(index.to(device), rows.to(device))
        index = torch.cat([positions.cpu() for positions, _ in gathered])
        rows = torch.cat([probs.cpu() for _, probs in gathered])
    whole = torch.zeros(num_samples, rows.shape[1])
    whole[index] = rows
    return whole
