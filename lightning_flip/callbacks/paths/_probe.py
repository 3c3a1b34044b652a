"""Asking a network about a few fixed samples between two steps, without leaving a trace."""

from __future__ import annotations

import copy
import random
from collections.abc import Sequence
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from lightning.pytorch.strategies import DeepSpeedStrategy, FSDPStrategy, ModelParallelStrategy
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader

from lightning_flip.callbacks._clean_forward import clean_capture, clean_probabilities, transferred, undisturbed
from lightning_flip.callbacks._clean_pass import find_training_loader
from lightning_flip.data.indexed import IndexedBatch, IndexedDataset
from lightning_flip.steps import Attachment, StepSource
from lightning_flip.steps.targets import find_target

__all__ = ["PathProbe", "probed_loader"]

_BATCH_SIZE = 64  # where the loader has none to say
_SHARDED = (DeepSpeedStrategy, FSDPStrategy, ModelParallelStrategy)


class PathProbe:
    """A few training samples, collated and moved to the device once, to be asked about again and again.

    Inputs are those of the training loader: its dataset, collate function and batch-transfer hooks, with the module in
    eval mode. Random transforms draw once, from a fixed seed: all times see the same view of a sample, a resumed run's
    too. Draws come from the generators of torch, numpy and Python; a data set that keeps a generator of its own is
    disturbed.

    Args:
        trainer: the running Trainer, whose training loader is set up.
        module: its module.
        attachment: what runs here is no step that it should catch.
        source: names the loader, the targets, and the submodule that gives the logits.
        samples: positions in the training data.

    Attributes:
        index: the samples.
        target: int64 ``[n]`` on the device; -1 where targets are distributions.
    """

    def __init__(
        self,
        trainer: pl.Trainer,
        module: pl.LightningModule,
        attachment: Attachment,
        source: StepSource,
        samples: Sequence[int],
    ) -> None:
        loader = probed_loader(trainer, source)
        self.index = list(samples)
        self._attachment, self._source = attachment, source
        with undisturbed(module, attachment):
            random.seed(0)
            np.random.seed(0)  # noqa: NPY002 - what transforms draw from
            torch.manual_seed(0)
            collated = _collated(loader, self.index)
            self._batches = [(rows, transferred(trainer, module, batch)) for rows, batch in collated]
        self.target = torch.cat([_labels(batch, source, rows) for rows, batch in self._batches])

    def ask(self, trainer: pl.Trainer, module: pl.LightningModule) -> Tensor:
        """What the network says now: eval mode, no gradient; nothing is read back from the device.

        They go through ``predict_step`` where the module has one of its own, else through its forward (the first part
        of a tuple or list). Random states and training modes are afterwards what they were.

        Returns probabilities float32 ``[n, K]`` on the device.
        """
        with undisturbed(module, self._attachment):
            capture = clean_capture(module, self._attachment, self._source)
            try:
                parts = [
                    clean_probabilities(trainer, module, capture, copy.deepcopy(batch), rows=rows, number=number)
                    for number, (rows, batch) in enumerate(self._batches)
                ]
            finally:
                capture.remove()
            return torch.cat(parts)


def probed_loader(trainer: pl.Trainer, source: StepSource) -> DataLoader[Any]:
    """The training loader whose samples a probe asks for."""
    if isinstance(trainer.strategy, _SHARDED):
        raise TypeError(
            f"a clean evaluation pass runs on one rank, and {type(trainer.strategy).__name__} spreads the model over "
            'all of them. Use mode="visits".'
        )
    loader = find_training_loader(trainer, source)
    if not isinstance(loader, DataLoader) or not isinstance(loader.dataset, IndexedDataset):
        raise TypeError(
            "a clean evaluation pass asks for training samples by their position; that needs a torch DataLoader over a "
            f"map-style dataset (loader= names one of several), and this is a {type(loader).__name__}. Use "
            'mode="visits".'
        )
    return loader


def _collated(loader: DataLoader[Any], samples: list[int]) -> list[tuple[int, Any]]:
    """Batches as the loader's own fetcher would make them, with their sizes."""
    fetch: Any = loader.dataset
    collate: Any = loader.collate_fn
    if loader.batch_sampler is None and not isinstance(loader.sampler, BatchSampler):
        items = [collate(fetch[sample]) for sample in samples]  # batch_size=None: every sample is a batch
    else:
        size = loader.batch_size or getattr(loader.batch_sampler or loader.sampler, "batch_size", None) or _BATCH_SIZE
        chunks = [samples[start : start + size] for start in range(0, len(samples), size)]
        whole = loader.batch_sampler is None  # the dataset itself makes a batch of a list
        items = [collate(fetch[chunk] if whole else fetch.__getitems__(chunk)) for chunk in chunks]
    assert all(isinstance(item, IndexedBatch) for item in items)
    return [(len(item.index), item.batch) for item in items]


def _labels(batch: Any, source: StepSource, size: int) -> Tensor:
    target = find_target(batch, source.target_from)
    return target if target.ndim == 1 else torch.full((size,), -1, device=target.device)
