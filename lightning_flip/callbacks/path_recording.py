"""The files of a recording of learning paths, and what a checkpoint knows of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
import torch.distributed as dist
from lightning.pytorch.utilities import rank_zero_warn

from lightning_flip.callbacks.path_rows import PathRows
from lightning_flip.callbacks.run_folder import give_up_folder, open_folder
from lightning_flip.stores import PartKey, write_path_part
from lightning_flip.tables import is_distributed

__all__ = ["PathRecording"]


class PathRecording:
    """Collects an epoch's rows and writes them as one part.

    Args:
        mode: "visits" or "eval".

    Attributes:
        rows: of the running epoch.
        base: the run's folder.
        epoch: the epoch that is recorded, -1 between two.
        written: rows of all ranks in finished parts.
    """

    def __init__(self, mode: str) -> None:
        self.mode = mode
        self.rows = PathRows()
        self.base: Path | None = None
        self.epoch = -1
        self._folder: Path | None = None
        self._run_id: str | None = None
        self._finished: list[tuple[str, int, int]] = []
        self.written = 0

    @property
    def folder(self) -> Path | None:
        """Where the files lie; None before a fit has opened it."""
        return self._folder

    def open(self, trainer: pl.Trainer, base: Path, name: str, *, overwrite: bool, info: dict[str, Any]) -> None:
        """Begin or go on in a folder; all ranks have to come here.

        Args:
            trainer: the running Trainer.
            base: the run's folder.
            name: of the recording.
            overwrite: remove another run's paths instead of refusing.
            info: what ``run.json`` is to keep.

        Raises:
            FileExistsError: if the folder holds another run's paths.
        """
        self.base, folder = base, base / "paths" / name
        self._run_id = open_folder(trainer, folder, self._run_id, self._finished, overwrite=overwrite, info=info)
        self._folder = folder

    def close(self) -> None:
        """Have the next fit open the folder again."""
        self._folder = None

    def finish(self, trainer: pl.Trainer) -> None:
        """Write the running epoch's rows; all ranks have to come here.

        Args:
            trainer: the running Trainer.
        """
        self.rows.check()
        count = len(self.rows)
        if is_distributed():
            counts = torch.tensor(count, device=trainer.strategy.root_device)
            dist.all_reduce(counts)
            count = int(counts)
        if count:
            self._finished.append(self._write(trainer))
        self.written += count
        self.rows = PathRows()

    def abandon(self, trainer: pl.Trainer) -> None:
        """Write this rank's rows while an exception is in flight, or give up a folder that holds nothing.

        Args:
            trainer: the Trainer that failed.
        """
        if self._folder is None:
            return
        self._write(trainer)
        if not self._finished and self._run_id is not None:
            give_up_folder(trainer, self._folder, self._run_id)

    def _write(self, trainer: pl.Trainer) -> tuple[str, int, int]:
        number = sum(part[:2] == (self.mode, self.epoch) for part in self._finished)
        if len(self.rows):
            assert self._folder is not None
            key = PartKey(self.mode, self.epoch, number, trainer.global_rank)
            write_path_part(self._folder, key, self.rows.columns())
        return self.mode, self.epoch, number

    def state_dict(self, device: torch.device | None) -> dict[str, Any]:
        """Which parts are finished, and all ranks' rows of the one that is not.

        Args:
            device: the rank's device, on which its collectives work; None where no collective is safe.

        Returns:
            Tensors, numbers and text only.
        """
        # Passes are rank 0's alone, and it is rank 0 that saves.
        rows = self.rows if device is None or self.mode == "eval" else self.rows.gathered(device)
        return {
            "run_id": self._run_id or "",
            "folder": "" if self.base is None else str(self.base.absolute()),
            "finished": [list(part) for part in self._finished],
            "written": self.written,
            "rows": rows.state_dict(),
            "epoch": self.epoch,
            "partial": is_distributed() and device is None and self.epoch >= 0,
        }

    def load_state_dict(self, state: dict[str, Any], *, is_global_zero: bool) -> None:
        """Go on with the run of a checkpoint.

        Args:
            state: what :meth:`state_dict` gave.
            is_global_zero: this rank goes on with the rows of all.
        """
        self._run_id = state["run_id"] or None
        if state["folder"] and Path(state["folder"]).is_dir():
            self.base = Path(state["folder"])
        self._finished = [(mode, epoch, number) for mode, epoch, number in state["finished"]]
        self.written, self.epoch = state["written"], state["epoch"]
        self.rows = PathRows.from_state(state["rows"]) if is_global_zero else PathRows()
        if state["partial"]:
            rank_zero_warn(
                "this checkpoint was written while an exception was in flight: what other ranks had recorded in the "
                "unfinished epoch is missing from the paths."
            )
