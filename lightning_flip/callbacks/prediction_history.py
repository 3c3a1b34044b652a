"""Every prediction on every sample, in Parquet."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import lightning.pytorch as pl
import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn

from lightning_flip.callbacks.known_samples import KnownSamples
from lightning_flip.callbacks.run_folder import default_folder, give_up_folder, open_folder
from lightning_flip.callbacks.visit_buffer import VisitBuffer
from lightning_flip.callbacks.watcher import StepWatcher
from lightning_flip.data.indexed import IndexedDataset
from lightning_flip.steps import SampleStep
from lightning_flip.stores import PartKey, write_part, write_samples
from lightning_flip.tables import gather_rows, is_distributed

__all__ = ["PredictionHistory"]


class PredictionHistory(StepWatcher):
    """Writes what the model predicted on every sample of every epoch.

    One Parquet file a split, epoch, pass and rank, under ``dirpath/history/``, each written whole or not at
    all; labels and names once, in ``samples.parquet``; the run in ``run.json``. Training rows are the
    predictions that the loss saw, before their update; validation rows those of every pass.
    :func:`lightning_flip.stores.read_history` reads the folder; so do pandas, polars and DuckDB.

    A resumed run goes on in the same folder: parts that are newer than the checkpoint are set aside as
    ``*.orphan``, never deleted. A folder that holds another run is an error.

    Args:
        dirpath: the run's folder; None: the Trainer's ``log_dir`` (without a logger ``prediction_history`` in its
            ``default_root_dir``), and on resumption the folder of before.
        train: record training batches.
        val: record validation batches.
        name: tells two recorders of one Trainer apart in a checkpoint.
        overwrite: remove another run's record from the folder instead of refusing.
        info: anything that JSON can hold, kept in ``run.json``.
        dtype: "float32" keeps probabilities, margins and cross entropies bit for bit; "float16" takes a little
            over half the space and three digits.
        logits_from: where the logits are, see :class:`~lightning_flip.steps.StepSource`.
        target_from: where the targets are.
        index_from: where the batch carries its samples' ids.
        loader: which training loader to follow, where there are several.

    Raises:
        ValueError: if nothing is to be recorded, or for another ``dtype``.
        FileExistsError: when a fit begins and the folder holds another run.

    Example:
        >>> PredictionHistory("runs/a", train=False).state_key
        "PredictionHistory{'train': False, 'val': True, 'name': ''}"
    """

    def __init__(
        self,
        dirpath: str | Path | None = None,
        *,
        train: bool = True,
        val: bool = True,
        name: str = "",
        overwrite: bool = False,
        info: dict[str, Any] | None = None,
        dtype: Literal["float32", "float16"] = "float32",
        logits_from: str | Callable[[Any], Any] = "",
        target_from: str | int | Callable[[Any], Any] | None = None,
        index_from: str | int | Callable[[Any], Any] | None = None,
        loader: int | str | None = None,
    ) -> None:
        super().__init__(
            train=train,
            val=val,
            name=name,
            logits_from=logits_from,
            target_from=target_from,
            index_from=index_from,
            loader=loader,
        )
        self.dirpath = dirpath
        self.overwrite = overwrite
        self.info = info or {}
        if dtype not in ("float32", "float16"):
            raise ValueError(f'dtype must be "float32" or "float16"; got {dtype!r}.')
        self.dtype = dtype
        self._forget()

    def _forget(self) -> None:
        self.folder: Path | None = None
        self._run_id: str | None = None
        self._opened = False
        self._finished: list[tuple[str, int, int]] = []
        self._buffers: dict[str, VisitBuffer] = {}
        self._known = KnownSamples()
        self._datasets: dict[tuple[str, int], Any] = {}
        self._global_step = 0

    # -- the run --------------------------------------------------------------------------------------

    def active(self, trainer: pl.Trainer) -> bool:
        """Nothing lasting is written in ``fast_dev_run``."""
        return not getattr(trainer, "fast_dev_run", False)

    def begin(self, trainer: pl.Trainer) -> None:
        """A fit from the first epoch is a new run; one that goes on with this Trainer is the same."""
        self._opened = False
        if trainer.current_epoch == 0 and trainer.global_step == 0:
            self._forget()

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Open the folder, now that a checkpoint's state has been read."""
        if not self.fitting or self._opened:
            return
        default = default_folder(trainer)
        self.folder = Path(self.dirpath or self.folder or default)
        info = {
            **self.info,
            "module": type(pl_module).__qualname__,
            "world_size": trainer.world_size,
            "max_epochs": trainer.max_epochs,
        }
        self._run_id = open_folder(
            trainer, self.folder, self._run_id, self._finished, overwrite=self.overwrite, info=info
        )
        self._opened = True
        rank_zero_info(f"PredictionHistory: recording into {self.folder}")

    # -- steps ----------------------------------------------------------------------------------------

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Note how many updates came before this batch."""
        self._global_step = trainer.global_step

    def watch(self, trainer: pl.Trainer, split: str, loader: int, step: SampleStep) -> None:
        """Keep a step's rows; nothing is read back from the device."""
        buffer = self._buffers.get(split)
        if (split, loader) not in self._datasets and self.attachment is not None:
            record = self.attachment.record(self.source)
            self._datasets[split, loader] = None if record is None or step.num_samples is None else record.dataset
        if buffer is not None and split == "train" and buffer.epoch != trainer.current_epoch:
            # The hooks of an epoch's end do not run after every resumption.
            self._write(trainer, split)
            buffer = None
        if buffer is None:
            buffer = self._buffers[split] = VisitBuffer(trainer.current_epoch, getattr(torch, self.dtype))
        taken = self._global_step if split == "train" else trainer.global_step
        buffer.add(step, loader=loader, global_step=taken)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write the epoch's training rows."""
        if self.fitting and "train" in self._buffers:
            self._write(trainer, "train")

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write the pass's rows, before a checkpoint of the validation's end is made."""
        if self.fitting and not trainer.sanity_checking and "val" in self._buffers:
            self._write(trainer, "val")

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write the rows of an ended epoch after which no step came: resumed where there was nothing left to do."""
        if self.fitting and self._opened:
            for split in sorted(self._buffers):
                self._find_datasets(trainer, split)
                self._write(trainer, split)

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Write what there is, for whoever looks into the crash; a resumed run sets these parts aside."""
        try:
            if self._opened:
                for split in list(self._buffers):
                    self._write(trainer, split, keep=True)
                if not self._finished and self.folder is not None and self._run_id is not None:
                    give_up_folder(trainer, self.folder, self._run_id)
        finally:
            super().on_exception(trainer, pl_module, exception)

    def _write(self, trainer: pl.Trainer, split: str, *, keep: bool = False) -> None:
        assert self.folder is not None
        if self.attachment is not None and not keep:
            self.attachment.check()
        buffer = self._buffers[split]
        number = sum(part[0] == split and part[1] == buffer.epoch for part in self._finished)
        columns = buffer.columns()
        target = columns.pop("target")
        if keep and not trainer.is_global_zero:
            # Rank 0 names new samples, and does not hear of this rank's; nobody could read their rows.
            named = self._known.has(split, columns["loader"], columns["index"])
            columns, target = {name: values[named] for name, values in columns.items()}, target[named]
        self._name_samples(trainer, split, columns, target, alone=keep)
        write_part(self.folder, PartKey(split, buffer.epoch, number, trainer.global_rank), columns)
        if not keep:
            self._finished.append((split, buffer.epoch, number))
            del self._buffers[split]

    def _name_samples(
        self, trainer: pl.Trainer, split: str, columns: dict[str, Any], target: Any, *, alone: bool
    ) -> None:
        together = is_distributed() and not alone
        loaders = sorted({key[1] for key in self._datasets if key[0] == split})
        for loader in loaders:
            mine = columns["loader"] == loader
            index, labels = columns["index"][mine], target[mine]
            if together:
                index, labels = _share(trainer, index, labels)
            fresh = self._known.new(split, loader, index)
            if len(fresh) and trainer.is_global_zero:
                assert self.folder is not None
                rows = self._known.rows(split, loader, index[fresh], labels[fresh], self._datasets[split, loader])
                write_samples(self.folder, rows)

    def _find_datasets(self, trainer: pl.Trainer, split: str) -> None:
        """Look up the datasets of loaders that took no step in this process."""
        loaders: Any = trainer.train_dataloader if split == "train" else trainer.val_dataloaders
        if split == "val":
            found = dict(enumerate(loaders if isinstance(loaders, (list, tuple)) else [loaders]))
        elif isinstance(self.source.loader, int):
            found = {self.source.loader: loaders[self.source.loader]}
        else:
            found = {0: loaders if self.source.loader is None else loaders[self.source.loader]}
        for position, loader in found.items():
            dataset = getattr(loader, "dataset", None) if self.source.index_from is None else None
            dataset = dataset._dataset if isinstance(dataset, IndexedDataset) else dataset
            self._datasets.setdefault((split, position), dataset)

    # -- checkpoints ------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Which passes are finished, and all ranks' rows of those that are not.

        Returns:
            Tensors, numbers and text only.
        """
        trainer = self._trainer() if self._trainer is not None else None
        together = trainer is not None and self.may_communicate() and is_distributed()
        buffers = {split: self._buffers[split] for split in sorted(self._buffers)}
        if trainer is not None and together:
            buffers = {split: buffer.gathered(trainer.strategy.root_device) for split, buffer in buffers.items()}
        return {
            "run_id": self._run_id or "",
            "folder": "" if self.folder is None else str(self.folder.absolute()),
            "finished": [list(part) for part in self._finished],
            "buffers": {split: buffer.state_dict() for split, buffer in buffers.items()},
            "partial": bool(buffers) and is_distributed() and not together,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on with the run of a checkpoint; ignored outside of ``fit``.

        Args:
            state_dict: what :meth:`state_dict` gave.
        """
        if not self.fitting:
            return
        trainer = self._trainer() if self._trainer is not None else None
        self._run_id = state_dict["run_id"] or None
        if self.dirpath is None and state_dict["folder"] and Path(state_dict["folder"]).is_dir():
            self.folder = Path(state_dict["folder"])
        self._finished = [(split, epoch, number) for split, epoch, number in state_dict["finished"]]
        # One rank goes on with the rows of all.
        mine = trainer is None or trainer.is_global_zero
        self._buffers = {}
        for split, saved in state_dict["buffers"].items():
            self._buffers[split] = VisitBuffer.from_state(saved)
            if not mine:
                self._buffers[split] = VisitBuffer(saved["epoch"], saved["measures"].dtype)
        if state_dict["partial"]:
            rank_zero_warn(
                "this checkpoint was written while an exception was in flight: rows of the unfinished epoch that other "
                "ranks had seen are missing from the history."
            )


def _share(trainer: pl.Trainer, index: Any, labels: Any) -> tuple[Any, Any]:
    device = trainer.strategy.root_device
    first = np.unique(index, return_index=True)[1]
    pairs = gather_rows(
        torch.from_numpy(np.ascontiguousarray(index[first])).to(device),
        torch.from_numpy(np.ascontiguousarray(labels[first])).to(device),
    )
    gathered = [torch.cat(column).cpu().numpy() for column in zip(*pairs, strict=True)]
    return gathered[0], gathered[1]
