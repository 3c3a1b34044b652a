"""The files of a recording of learning paths, and what a checkpoint knows of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
import torch.distributed as dist
from lightning.pytorch.utilities import rank_zero_warn

from lightning_flip.callbacks.paths._rows import PathRows
from lightning_flip.callbacks.run_folder import RunFolder, continue_history, give_up, open_folder, recall_run
from lightning_flip.stores.claims import Claim, claim
from lightning_flip.stores.history.parts import PartKey, set_aside
from lightning_flip.stores.paths import write_path_part
from lightning_flip.tables import is_distributed

__all__ = ["PathRecording"]


class PathRecording:
    """Collects an epoch's rows and writes them as one part.

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
        self._place: RunFolder | None = None
        self._needed: tuple[Path, ...] = ()
        self._run_id: str | None = None
        self._finished: list[tuple[str, int, int]] = []
        self.written = 0

    @property
    def folder(self) -> Path | None:
        """Where the files are; None before a fit has opened it."""
        return self._folder

    def open(
        self,
        trainer: pl.Trainer,
        writer: object,
        name: str,
        *,
        dirpath: str | Path | None,
        overwrite: bool,
        info: dict[str, Any],
    ) -> None:
        """Begin or go on in a folder; all ranks have to come here.

        Args:
            trainer: the running Trainer.
            writer: the callback.
            name: of the recording.
            dirpath: the run's folder, if the callback was given one.
            overwrite: remove another run's paths instead of refusing.
            info: what ``run.json`` is to keep.
        """
        part = Path("paths") / name

        def open_part(run: Claim, replace: bool) -> str:
            folder = run.folder / part
            mine = claim(folder, self._run_id, overwrite=replace, info=info, new_id=run.run_id)
            continue_history(self._finished, folder, known=self._run_id is not None)
            return mine.run_id

        place = open_folder(
            trainer,
            writer,
            part.as_posix(),
            dirpath=dirpath,
            kept=self.base,
            run_id=self._run_id,
            overwrite=overwrite,
            work=open_part,
        )
        self.base, self._folder, self._run_id = place.path, place.path / part, place.answer
        self._place, self._needed = place.with_claim(self._folder, place.answer), ()

    def close(self) -> None:
        """Have the next fit open the folder again."""
        self._folder = None

    def finish(self, trainer: pl.Trainer) -> None:
        """Write the running epoch's rows; all ranks have to come here."""
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

    def restart(self, trainer: pl.Trainer) -> None:
        """Set what is written aside: the samples are others from now on."""
        self.rows, self.written, self._finished = PathRows(), 0, []
        if self._place is not None and trainer.is_global_zero:
            self._place.check(*self._needed)
            self._needed = ()
            assert self._folder is not None
            set_aside(self._folder, [])

    def abandon(self, trainer: pl.Trainer, writer: object) -> None:
        """Write this rank's rows while an exception is in flight, or give up a folder that holds nothing."""
        try:
            if self._folder is not None:
                self._write(trainer)
        finally:
            give_up(trainer, writer)

    def _write(self, trainer: pl.Trainer) -> tuple[str, int, int]:
        number = sum(part[:2] == (self.mode, self.epoch) for part in self._finished)
        if len(self.rows):
            assert self._folder is not None
            assert self._place is not None
            self._place.check(*self._needed)
            key = PartKey(self.mode, self.epoch, number, trainer.global_rank)
            self._needed = (write_path_part(self._folder, key, self.rows.columns()).parent,)
        return self.mode, self.epoch, number

    def state_dict(self, device: torch.device | None) -> dict[str, Any]:
        """Which parts are finished, and all ranks' rows of the one that is not."""
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

    def load_state_dict(self, trainer: pl.Trainer, state: dict[str, Any], *, default: bool) -> None:
        """Go on with the run of a checkpoint."""
        self._run_id = state["run_id"] or None
        self.base = recall_run(trainer, state["run_id"], state["folder"], default=default)
        self._finished = [(mode, epoch, number) for mode, epoch, number in state["finished"]]
        self.written, self.epoch = state["written"], state["epoch"]
        self.rows = PathRows.from_state(state["rows"]) if trainer.is_global_zero else PathRows()
        if state["partial"]:
            rank_zero_warn(
                "this checkpoint was written while an exception was in flight: what other ranks had recorded in the "
                "unfinished epoch is missing from the paths."
            )
