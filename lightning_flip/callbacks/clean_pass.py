"""What a model says of its training samples in eval mode, asked between two steps without leaving a trace."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import WeightAveraging
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader

from lightning_flip.callbacks.clean_forward import clean_probabilities, transferred, undisturbed
from lightning_flip.data.indexed import IndexedBatch, IndexedDataset
from lightning_flip.steps import Attachment, StepSource
from lightning_flip.steps.capture import LogitCapture
from lightning_flip.tables import gather_rows

__all__ = ["clean_pass", "find_training_loader"]

_BATCH_SIZE = 64  # where the loader's own batch sampler has none to say


def clean_pass(
    trainer: pl.Trainer, module: pl.LightningModule, attachment: Attachment, source: StepSource, *, averaged: bool
) -> Tensor:
    """Ask a model about every training sample: eval mode, no gradient, one after the other, not shuffled.

    Inputs are those of the training loader, with its transforms and collate function as they are. They go through
    ``predict_step`` where the module has one of its own, else through its forward (the first part of a tuple or list).
    Afterwards random states and training modes are what they were: training goes on bit for bit as without the pass.
    Each rank asks about its share, so that all ranks have to come here; sharded strategies (FSDP) are not served.

    Args:
        trainer: the running Trainer, whose training loader is set up.
        module: its module.
        attachment: what runs here is no step that it should catch.
        source: names the loader and the submodule that gives the logits.
        averaged: ask the averaged weights, where a WeightAveraging callback keeps them beside the training ones.

    Returns:
        Probabilities float32 ``[N, K]`` on the CPU, on every rank.

    Raises:
        TypeError: if the training data cannot be asked for by position.
        ValueError: if there are no logits ``[B, K]``.
    """
    loader = _in_order(_loader_by_position(trainer, source), trainer.global_rank, trainer.world_size)
    parts: list[tuple[Tensor, Tensor]] = []
    with undisturbed(module, attachment), _averages(trainer, module, wanted=averaged):
        assert isinstance(source.logits_from, str)
        capture = LogitCapture(module.get_submodule(source.logits_from))
        try:
            for number, item in enumerate(loader):
                parts.append((item.index, _probabilities(trainer, module, capture, item, number)))
        finally:
            capture.remove()
        return _joined(trainer, parts, len(loader.dataset))  # type: ignore[arg-type]


def find_training_loader(trainer: pl.Trainer, source: StepSource) -> Any:
    """The training loader that a source follows.

    Args:
        trainer: the running Trainer.
        source: names the loader, where there are several.

    Returns:
        The loader; None where there are several and none is named.
    """
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


def _in_order(loader: DataLoader[Any], rank: int, world: int) -> DataLoader[Any]:
    """A second loader over the same (wrapped) data; the one that trains is not touched."""
    size = len(loader.dataset)  # type: ignore[arg-type]
    mine = range(rank, size, world)
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


def _probabilities(
    trainer: pl.Trainer, module: pl.LightningModule, capture: LogitCapture, item: Any, number: int
) -> Tensor:
    if not isinstance(item, IndexedBatch):
        raise TypeError(f"the training loader gave a {type(item).__name__} without its samples' positions.")
    batch = transferred(trainer, module, item.batch)
    return clean_probabilities(trainer, module, capture, batch, rows=len(item.index), number=number).cpu()


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
