"""The checkpoint that a killed stage resumes from."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Checkpoint

from lightning_flip.stores.files import sync_directory

__all__ = ["LastCheckpoint"]


class LastCheckpoint(Checkpoint):
    """Keeps ``last.ckpt`` of the last finished epoch; a run that is killed while saving keeps that of the epoch before.

    Lightning's ModelCheckpoint writes beside other disks' temporary files, and moves; a process that is killed then
    leaves half a file. With a sharded strategy the checkpoint is a folder, and is replaced in two steps.

    Training that was stopped (early stopping) stays stopped when it is resumed.

    Args:
        dirpath: the folder.

    Example:
        >>> LastCheckpoint("runs/teacher").path.as_posix()
        'runs/teacher/last.ckpt'
    """

    def __init__(self, dirpath: str) -> None:
        self.dirpath = dirpath
        self._stopped = False

    @property
    def path(self) -> Path:
        """Where the checkpoint is."""
        return Path(self.dirpath) / "last.ckpt"

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Stop again, since Lightning forgets that a run was stopped, and would train another epoch."""
        if self._stopped:
            trainer.should_stop = True

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save; Lightning calls checkpoint callbacks last, so that all others have finished their epoch."""
        self._stopped = trainer.should_stop
        temporary = self.path.with_name("unfinished.ckpt")
        trainer.save_checkpoint(temporary, weights_only=False)
        if trainer.is_global_zero:
            if self.path.is_dir():
                shutil.rmtree(self.path)
            elif temporary.is_file():
                with open(temporary, "r+b") as file:
                    os.fsync(file.fileno())
            os.replace(temporary, self.path)
            sync_directory(self.path.parent)
        trainer.strategy.barrier("LastCheckpoint")

    def state_dict(self) -> dict[str, Any]:
        """Whether training was stopped."""
        return {"stopped": self._stopped}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore whether training was stopped."""
        self._stopped = state_dict["stopped"]
