"""Random states in the checkpoint, so that a resumed run draws what the uninterrupted one would have drawn."""

from __future__ import annotations

import random
import sys
import weakref
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_warn

from lightning_flip.steps.state import STATE_VERSION, check_version
from lightning_flip.tables import is_distributed

__all__ = ["ExactResume"]


class ExactResume(pl.Callback):
    """Keeps the states of torch, CUDA, numpy and Python's ``random`` for every rank; Lightning keeps none.

    With it a resumed run is bit for bit the uninterrupted one

    - at the ends of epochs (of their validation too), with a shuffled DataLoader and 0 or more workers;
    - at every batch but an epoch's last, with torchdata's ``StatefulDataLoader`` in one process.

    Elsewhere Lightning itself deviates: a plain DataLoader that is resumed inside an epoch shuffles afresh,
    so that samples are repeated and missing in that epoch; and of a checkpoint made at the last batch of an
    epoch, the epoch's validation never runs (and with a ``StatefulDataLoader`` the next epoch is empty).
    Tables and history lose no row there, and double none.

    A resumed run with another number of ranks gets fresh random states, and a warning.

    Example:
        >>> ExactResume().state_key
        'ExactResume'
    """

    def __init__(self) -> None:
        self._trainer: weakref.ref[pl.Trainer] | None = None
        self._handled: BaseException | None = None
        self._loaded: dict[str, Any] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_trainer": None, "_handled": None}

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Take note of the Trainer; callbacks' states come without it."""
        self._trainer = weakref.ref(trainer) if stage == TrainerFn.FITTING else None
        self._handled = sys.exc_info()[1]  # a fit may be started in an except block: this one is not the fit's

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Release what the fit was started in; the Trainer may still save a checkpoint."""
        self._handled = None

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """After an epoch's end, the next thing that draws is the loader's iterator: restore before it is made."""
        if self._loaded is not None and not self._loaded["inside_epoch"]:
            self._restore(trainer)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Inside an epoch, the iterator exists already in the uninterrupted run: restore after it is made."""
        if self._loaded is not None:
            self._restore(trainer)

    def state_dict(self) -> dict[str, Any]:
        """Random states of all ranks."""
        trainer = None if self._trainer is None else self._trainer()
        if trainer is None:
            return {"version": STATE_VERSION, "ranks": [], "inside_epoch": False}
        states: list[Any] = [random_states()]
        # In an exception the other ranks may not come; their states are missing then.
        if is_distributed() and sys.exc_info()[1] is self._handled:
            gathered: list[Any] = [None] * torch.distributed.get_world_size()
            torch.distributed.all_gather_object(gathered, states[0])
            states = gathered
        return {"version": STATE_VERSION, "ranks": states, "inside_epoch": _inside_epoch(trainer)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep the states until the loop has come to where they belong; ignored outside of ``fit``."""
        trainer = None if self._trainer is None else self._trainer()
        if trainer is None or not state_dict["ranks"]:
            return
        check_version(state_dict, "ExactResume", trainer)
        self._loaded = state_dict
        if trainer.strategy.restore_checkpoint_after_setup and not state_dict["inside_epoch"]:
            self._restore(trainer)  # on_fit_start is over, and the loader's iterator comes next

    def _restore(self, trainer: pl.Trainer) -> None:
        assert self._loaded is not None
        ranks = self._loaded["ranks"]
        self._loaded = None
        if len(ranks) != trainer.world_size:
            rank_zero_warn(
                f"the checkpoint holds the random states of {len(ranks)} ranks, this run has {trainer.world_size}: it "
                "continues with fresh ones and will not be bit for bit the run before."
            )
            return
        restore_random_states(ranks[trainer.global_rank])


def _inside_epoch(trainer: pl.Trainer) -> bool:
    """Whether a run resumed here makes the loader's iterator before the next draw, and not with it."""
    loop = trainer.fit_loop
    epoch: Any = loop.epoch_progress.current
    batch = loop.epoch_loop.batch_progress.current
    if loop.epoch_loop._num_ready_batches_reached():
        # In the hook of the last batch Lightning sees the epoch as ended, at the end of its validation not yet.
        return epoch.processed < epoch.started and batch.completed == batch.ready
    return batch.ready > 0


def random_states() -> dict[str, Any]:
    """The states of all global random number generators: tensors, numbers and text.

    Example:
        >>> state = random_states()
        >>> first = torch.rand(1), random.random()
        >>> restore_random_states(state)
        >>> first == (torch.rand(1), random.random())
        True
    """
    version, internal, gauss = random.getstate()
    kind, keys, position, has_gauss, cached = np.random.get_state(legacy=True)  # noqa: NPY002 - what libraries draw from
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "python": [version, list(internal), gauss],
        "numpy": [str(kind), torch.from_numpy(np.asarray(keys).astype(np.int64)), position, has_gauss, cached],
    }


def restore_random_states(states: dict[str, Any]) -> None:
    """Set all global random number generators."""
    torch.set_rng_state(states["torch"])
    if states["cuda"] and torch.cuda.device_count() == len(states["cuda"]):
        torch.cuda.set_rng_state_all(states["cuda"])
    version, internal, gauss = states["python"]
    random.setstate((version, tuple(internal), gauss))
    kind, keys, position, has_gauss, cached = states["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), position, has_gauss, cached))  # noqa: NPY002
