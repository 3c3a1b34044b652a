"""Random draws of a step that depend on the run's seed, the epoch, the batch and the rank, and on nothing else."""

from __future__ import annotations

import contextlib
import random
import zlib
from collections.abc import Iterator

import lightning.pytorch as pl
import numpy as np
import torch
from lightning.pytorch.utilities.seed import isolate_rng

__all__ = ["keyed_randomness", "keyed_seed"]


def keyed_seed(trainer: pl.Trainer, purpose: str) -> int:
    """The seed of what a method draws in the running batch.

    It follows from torch's seed (``seed_everything``), the epoch, the batch's number and the rank. So a step that runs
    twice draws the same (an optimizer's closure), and a resumed run draws what the uninterrupted one would have drawn,
    with :class:`~lightning_flip.callbacks.ExactResume` even where it is seeded otherwise.

    Example:
        >>> trainer = pl.Trainer(logger=False, enable_checkpointing=False, accelerator="cpu", barebones=True)
        >>> keyed_seed(trainer, "Mixup") == keyed_seed(trainer, "Mixup") != keyed_seed(trainer, "other")
        True
    """
    batch = max(trainer.fit_loop.batch_idx, 0)
    key = [torch.initial_seed(), zlib.crc32(purpose.encode()), trainer.current_epoch, batch, trainer.global_rank]
    return int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0] >> np.uint64(1))


@contextlib.contextmanager
def keyed_randomness(trainer: pl.Trainer, purpose: str) -> Iterator[None]:
    """A context in which the global generators of the CPU (torch, numpy, Python) start from :func:`keyed_seed`.

    Afterwards they go on as if nothing had been drawn.
    """
    seed = keyed_seed(trainer, purpose)
    with isolate_rng(include_cuda=False):
        torch.default_generator.manual_seed(seed)
        np.random.seed(seed % 2**32)  # noqa: NPY002 - what a dataset's augmentation draws from
        random.seed(seed)
        yield
