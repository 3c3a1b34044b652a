"""The rows of a recording of learning paths, their files, and what a checkpoint knows of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor

from lightning_flip.callbacks.run_folder import RunFolder, continue_history, warn_if_partial
from lightning_flip.steps import SampleStep
from lightning_flip.stores.history.parts import PartKey, set_aside
from lightning_flip.stores.paths import write_path_part
from lightning_flip.tables import RowBuffer, is_distributed, sum_over_ranks

__all__ = ["PathRecording", "PathRows"]


class PathRows(RowBuffer):
    """Columns ``index``, ``global_step`` and ``target`` int64 ``[n]``, and ``probs`` float32 ``[n, K]``."""

    def add_visits(self, step: SampleStep, rows: list[int]) -> None:
        """Append some rows of a block.

        Example:
            >>> block = SampleStep(torch.tensor([5, 2]), torch.zeros(2, 2), torch.tensor([0, 1]), samples=[5, 2],
            ...                    global_step=torch.tensor([3, 4]))
            >>> rows = PathRows()
            >>> rows.add_visits(block, [1])
            >>> rows.columns()["index"].tolist(), rows.columns()["target"].tolist(), rows.columns()["probs"].tolist()
            ([2], [1], [[0.5, 0.5]])
        """
        assert step.global_step is not None
        chosen = torch.tensor(rows)
        times = step.global_step[chosen]
        chosen = chosen.to(step.logits.device, non_blocking=True)
        self.add(
            index=step.index_of_valid.index_select(0, chosen),
            global_step=times,
            target=step.target.index_select(0, chosen),
            probs=step.logits.index_select(0, chosen).softmax(dim=1).float(),
        )

    def unlabel(self, ignored: int | None) -> None:
        """Give rows the target -1, none, if the loss leaves their label out, or it is negative."""
        columns = self.columns()
        if columns:
            target = columns["target"]
            target[(target < 0) if ignored is None else (target < 0) | (target == ignored)] = -1

    def check(self) -> None:
        """Refuse values that are not a distribution, or a wrong label; waits for the device."""
        columns = self.columns()
        if not columns:
            return
        probs, target = columns["probs"], columns["target"]
        wrong = ~probs.isfinite().all(dim=1) | (target >= probs.shape[1]) | (target < -1)
        if wrong.any():
            index, step, label = (int(columns[name][wrong][0]) for name in ("index", "global_step", "target"))
            raise ValueError(
                f"what was recorded of sample {index} after {step} updates is not a distribution over {probs.shape[1]} "
                f"classes with the label {label}: logits were not finite (NaN or infinity), or the label is wrong. "
                "Lower the learning rate, clip gradients, or look for bad inputs and labels."
            )

    def state_dict(self, device: torch.device | None) -> dict[str, Tensor]:
        """The rows of all ranks, or of this one without a device for collectives."""
        ranks = [self.columns()] if device is None else self.gathered(device)
        ranks = [columns for columns in ranks if columns]
        if not ranks:
            return {"integers": torch.zeros(0, 3, dtype=torch.int64), "probs": torch.zeros(0, 0)}
        names = ("index", "global_step", "target")
        integers = [torch.stack([columns[name] for name in names], dim=1) for columns in ranks]
        return {"integers": torch.cat(integers), "probs": torch.cat([columns["probs"] for columns in ranks])}

    @classmethod
    def from_state(cls, state: dict[str, Tensor]) -> PathRows:
        """A buffer with saved rows."""
        rows = cls()
        if len(state["integers"]):
            index, global_step, target = state["integers"].unbind(dim=1)
            rows.add(index=index, global_step=global_step, target=target, probs=state["probs"])
        return rows


class PathRecording:
    """Collects an epoch's rows and writes them as one part.

    Attributes:
        rows: of the running epoch.
        epoch: the epoch that is recorded, -1 between two.
        written: rows of all ranks in finished parts.
    """

    def __init__(self, mode: str) -> None:
        self.mode = mode
        self.rows = PathRows()
        self.epoch = -1
        self.written = 0
        self._folder: Path | None = None
        self._place: RunFolder | None = None
        self._needed: tuple[Path, ...] = ()
        self._finished: list[tuple[str, int, int]] = []

    def resume(self, folder: Path, *, known: bool) -> None:
        """Set aside what is newer than the checkpoint; the first rank does it."""
        continue_history(self._finished, folder, known=known)

    def open(self, place: RunFolder, folder: Path) -> None:
        """Write into a folder from now on."""
        self._place, self._folder, self._needed = place, folder, ()

    def finish(self, trainer: pl.Trainer) -> None:
        """Write the running epoch's rows; all ranks have to come here."""
        self.rows.check()
        count = int(sum_over_ranks(torch.tensor(len(self.rows), device=trainer.strategy.root_device)))
        if count:
            self._finished.append(self.write(trainer))
        self.written += count
        self.rows = PathRows()

    def write(self, trainer: pl.Trainer) -> tuple[str, int, int]:
        """Write this rank's rows, if it has some; returns the part's mode, epoch and number."""
        number = sum(part[:2] == (self.mode, self.epoch) for part in self._finished)
        columns = self.rows.columns()
        if columns and len(self.rows) and self._folder is not None:
            assert self._place is not None
            self._place.check(*self._needed)
            key = PartKey(self.mode, self.epoch, number, trainer.global_rank)
            arrays = {name: column.numpy() for name, column in columns.items()}
            self._needed = (write_path_part(self._folder, key, arrays).parent,)
        return self.mode, self.epoch, number

    def restart(self, trainer: pl.Trainer) -> None:
        """Set what is written aside: the samples are others from now on."""
        self.rows, self.written, self._finished = PathRows(), 0, []
        if self._place is not None and self._folder is not None and trainer.is_global_zero:
            self._place.check(*self._needed)
            self._needed = ()
            set_aside(self._folder, [])

    def state_dict(self, device: torch.device | None) -> dict[str, Any]:
        """Which parts are finished, and all ranks' rows of the one that is not."""
        return {
            "finished": [list(part) for part in self._finished],
            "written": self.written,
            # Evaluations are rank 0's alone, and it is rank 0 that saves.
            "rows": self.rows.state_dict(None if self.mode == "eval" else device),
            "epoch": self.epoch,
            "partial": is_distributed() and device is None and self.epoch >= 0,
        }

    def load_state_dict(self, trainer: pl.Trainer, state: dict[str, Any]) -> None:
        """Continue the run of a checkpoint; one rank continues with the rows of all."""
        self._finished = [(mode, epoch, number) for mode, epoch, number in state["finished"]]
        self.written, self.epoch = state["written"], state["epoch"]
        self.rows = PathRows.from_state(state["rows"]) if trainer.is_global_zero else PathRows()
        warn_if_partial(state["partial"], "other ranks' rows of the unfinished epoch are missing from the paths")
