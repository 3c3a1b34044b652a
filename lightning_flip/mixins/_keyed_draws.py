"""Random draws of a step that depend on the run's seed, the epoch, the batch and the rank alone."""

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
    """The seed of a method's draws in the running batch, from torch's seed, the epoch, the batch and the rank.

    So a step that runs twice (an optimizer's closure) draws the same, and a resumed run draws as the uninterrupted one,
    with :class:`~lightning_flip.callbacks.ExactResume` even if it is seeded differently.
    """
    batch = max(trainer.fit_loop.batch_idx, 0)
    key = [torch.initial_seed(), zlib.crc32(purpose.encode()), trainer.current_epoch, batch, trainer.global_rank]
    return int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0] >> np.uint64(1))


@contextlib.contextmanager
def keyed_randomness(trainer: pl.Trainer, purpose: str) -> Iterator[None]:
    """Seed the CPU's global generators (torch, numpy, Python) with :func:`keyed_seed`, and restore them afterwards."""
    seed = keyed_seed(trainer, purpose)
    with isolate_rng(include_cuda=False):
        torch.default_generator.manual_seed(seed)
        np.random.seed(seed % 2**32)  # noqa: NPY002 - what a dataset's augmentation draws from
        random.seed(seed)
        yield
