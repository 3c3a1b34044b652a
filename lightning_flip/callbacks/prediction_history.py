"""Every prediction on every sample, in Parquet."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import lightning.pytorch as pl
import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn

from lightning_flip.callbacks._known_samples import KnownSamples
from lightning_flip.callbacks.run_folder import RunWriter, continue_history, warn_if_partial
from lightning_flip.callbacks.watcher import StatefulWatcher
from lightning_flip.data.labels import class_names
from lightning_flip.steps import ChangedDataError, SampleStep
from lightning_flip.stores import read_samples
from lightning_flip.stores.claims import note_data, note_info
from lightning_flip.stores.history.parts import HISTORY_FOLDER, MEASURES, UNKNOWN, PartKey, set_aside, write_part
from lightning_flip.stores.history.samples import SAMPLES_FILE, set_samples_aside, write_samples
from lightning_flip.tables import RowBuffer, gather_rows, is_distributed

__all__ = ["PredictionHistory"]

_INTEGERS = ("loader", "global_step", "index", "pred", "target", "best_other")
# Of a state by 0.1: neither had it `best_other`, nor did it leave `prob_pred` out.
_OLD_MEASURES = ("prob_label", "prob_pred", "logit_margin", "cross_entropy")


class Visits(RowBuffer):
    """The rows of a running pass, one column of the store each, and ``target``.

    Attributes:
        epoch: the epoch that the rows belong to.
        dtype: that of the measures.
    """

    def __init__(self, epoch: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.epoch = epoch
        self.dtype = dtype

    def add_visits(self, step: SampleStep, *, loader: int) -> None:
        """Append the rows of a block."""
        facts = step.predictions
        assert step.global_step is not None
        self.add(
            index=step.index_of_valid,
            loader=torch.full_like(step.index, loader),
            global_step=step.global_step,
            pred=facts.pred,
            target=step.target.clone(),  # the block's memory is used again
            best_other=facts.best_other,
            **{name: getattr(facts, name).to(self.dtype) for name in MEASURES},
        )

    def state_dict(self, device: torch.device | None) -> dict[str, Any]:
        """The rows of all ranks, or of this one without a device for collectives."""
        ranks = [columns for columns in ([self.columns()] if device is None else self.gathered(device)) if columns]
        parts = [
            [torch.stack([columns[name] for name in names]) for columns in ranks] for names in (_INTEGERS, MEASURES)
        ]
        return {"epoch": self.epoch, "integers": torch.cat(parts[0], dim=1), "measures": torch.cat(parts[1], dim=1)}

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> Visits:
        """A buffer with saved rows; of a state by 0.1, the best other class is known where the prediction was wrong."""
        buffer = cls(state["epoch"], state["measures"].dtype)
        if len(state["measures"]) == len(_OLD_MEASURES):
            integers = dict(zip(_INTEGERS[:-1], state["integers"], strict=True))
            measures = dict(zip(_OLD_MEASURES, state["measures"], strict=True))
            del measures["prob_pred"]
            integers["best_other"] = integers["pred"].where(measures["logit_margin"] < 0, UNKNOWN)
        else:
            integers = dict(zip(_INTEGERS, state["integers"], strict=True))
            measures = dict(zip(MEASURES, state["measures"], strict=True))
        buffer.add(**integers, **measures)
        return buffer


class PredictionHistory(RunWriter, StatefulWatcher):
    """Writes what the model predicted on every sample of every epoch.

    One Parquet file per split, epoch, pass and rank, under ``dirpath/history/``, each written whole or not at
    all; labels and names once, in ``samples.parquet``; the run in ``run.json``. Training rows are the
    predictions that the loss saw, before their update; validation rows those of every pass.
    :func:`lightning_flip.stores.read_history` reads the folder; so do pandas, polars and DuckDB.

    Args:
        dirpath: the run's folder; None: one that the callbacks of the Trainer share.
        train: record training batches.
        val: record validation batches.
        name: tells two recorders of one Trainer apart in a checkpoint.
        info: anything that JSON can hold, kept in ``run.json``. ``class_names`` (a list) replaces the dataset's
            ``classes``.
        dtype: "float32" keeps probabilities, margins and cross entropies bit for bit; "float16" takes a little
            over half the space and three digits.
        **options: of the folder (:class:`~lightning_flip.callbacks.run_folder.RunWriter`) and of the steps
            (:class:`~lightning_flip.callbacks.watcher.StepWatcher`).

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
        info: dict[str, Any] | None = None,
        dtype: Literal["float32", "float16"] = "float32",
        **options: Any,
    ) -> None:
        super().__init__(train=train, val=val, name=name, dirpath=dirpath, **options)
        self.info = info or {}
        if dtype not in ("float32", "float16"):
            raise ValueError(f'dtype must be "float32" or "float16"; got {dtype!r}.')
        self.dtype = dtype
        self._forget()

    def _forget(self) -> None:
        super()._forget()
        self._finished: list[tuple[str, int, int]] = []
        self._buffers: dict[str, Visits] = {}
        self._known = KnownSamples()
        self._num_classes: int | None = None

    # -- the run --------------------------------------------------------------------------------------

    def open(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Open the folder."""
        info = {
            **self.info,
            "module": type(pl_module).__qualname__,
            "world_size": trainer.world_size,
            "max_epochs": trainer.max_epochs,
        }
        place = self._claim(
            trainer,
            HISTORY_FOLDER,
            info=info,
            work=lambda claim, _: continue_history(self._finished, claim.folder, known=self._run_id is not None),
        )
        self._run_id = place.run_id
        if trainer.is_global_zero and (place.path / SAMPLES_FILE).exists():
            self._known.adopt(read_samples(place.path))
        rank_zero_info(f"PredictionHistory: recording into {place.path}")

    # -- steps ----------------------------------------------------------------------------------------

    def new_epoch(self, epoch: int) -> None:
        """Write the rows of an epoch whose end was not seen."""
        buffer, trainer = self._buffers.get("train"), self.trainer
        if buffer is not None and buffer.epoch != epoch and trainer is not None:
            self._write(trainer, "train")

    def restart(self, split: str, loader: int) -> None:
        """Set a split's parts and samples aside as ``*.orphan``; what is recorded from now on is all there is of it."""
        self._buffers.pop(split, None)
        self._finished = [part for part in self._finished if part[0] != split]
        self._known.forget(split)
        if self.trainer is not None and self.trainer.is_global_zero and self._place is not None:
            self._check_place()
            self._needed = ()
            set_aside(self._place.path, self._finished)
            set_samples_aside(self._place.path, split)
            if len([key for key in self.loader_data if key[0] == split]) > 1:
                rank_zero_warn(f"PredictionHistory: the {split} parts of all loaders were set aside as *.orphan.")

    def watch(self, trainer: pl.Trainer, split: str, loader: int, step: SampleStep) -> None:
        """Keep rows; nothing is read back from the device."""
        self.loader_data[split, loader] = step.data
        self._num_classes = step.num_classes
        if split not in self._buffers:
            self._buffers[split] = Visits(step.epoch, getattr(torch, self.dtype))
        self._buffers[split].add_visits(step, loader=loader)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write the epoch's training rows."""
        self.flush()
        if self.fitting and "train" in self._buffers:
            self._write(trainer, "train")

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write the pass's rows, before a checkpoint of the validation's end is made."""
        self.flush()
        if self.fitting and not trainer.sanity_checking and "val" in self._buffers:
            self._write(trainer, "val")

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write the rows of an ended epoch after which no step came: as when a finished run is resumed."""
        if self.fitting and self._opened:
            for split in sorted(self._buffers):
                self._write(trainer, split)

    def rescue(self, trainer: pl.Trainer) -> None:
        """Write what there is, to look into the crash; a resumed run sets these parts aside."""
        try:
            for split in list(self._buffers) if self._opened else ():
                self._write(trainer, split, keep=True)
        finally:
            super().rescue(trainer)

    def _write(self, trainer: pl.Trainer, split: str, *, keep: bool = False) -> None:
        assert self.folder is not None
        assert self._place is not None
        self._check_place()
        if self.attachment is not None and not keep:
            self.attachment.check()
        buffer = self._buffers[split]
        number = sum(part[0] == split and part[1] == buffer.epoch for part in self._finished)
        columns = {name: column.numpy() for name, column in buffer.columns().items()}
        target = columns["target"]
        if self.source.labels != "may_change":
            del columns["target"]
        if keep and not trainer.is_global_zero:
            # Rank 0 names new samples, and does not hear of this rank's, so that their rows could not be read.
            named = self._known.has(split, columns["loader"], columns["index"])
            columns, target = {name: values[named] for name, values in columns.items()}, target[named]
        if self._place.claims and trainer.is_global_zero:
            note_data(self._place.claims[0], self._data.facts)
            note_info(self._place.claims[0], self._class_info())
        self._name_samples(trainer, split, columns, target, alone=keep)
        path = write_part(self.folder, PartKey(split, buffer.epoch, number, trainer.global_rank), columns)
        samples = self.folder / SAMPLES_FILE
        written = [path.parent, *([samples] if samples.exists() and trainer.is_global_zero else [])]
        self._needed = tuple({*self._needed, *written})
        if not keep:
            self._finished.append((split, buffer.epoch, number))
            del self._buffers[split]

    def _class_info(self) -> dict[str, Any]:
        """How many classes there are, and their names where a dataset has some."""
        found = (class_names(data.dataset) for data in self.loader_data.values() if data.dataset is not None)
        names = next((names for names in found if names), None)
        info = {"num_classes": self._num_classes, "class_names": names}
        return {name: value for name, value in info.items() if value is not None}

    def _name_samples(
        self, trainer: pl.Trainer, split: str, columns: dict[str, Any], target: Any, *, alone: bool
    ) -> None:
        together = is_distributed() and not alone
        loaders = sorted({key[1] for key in self.loader_data if key[0] == split})
        for loader in loaders:
            mine = columns["loader"] == loader
            index, labels = columns["index"][mine], target[mine]
            if together:
                index, labels = _share(trainer, index, labels)
            problem = self._known.see(split, loader, index, labels)
            if together:
                problem = trainer.strategy.broadcast(problem)  # the first rank knows what the file says
            if problem and self.source.labels != "may_change":
                raise ChangedDataError(
                    f"{problem}. A position in the dataset has to be the same sample for the whole run; if labels are "
                    'meant to change, pass labels="may_change".'
                )
            if trainer.is_global_zero:
                assert self.folder is not None
                rows = self._known.rows(split, loader, self.loader_data[split, loader])
                if rows is not None:
                    write_samples(self.folder, rows)
                    self._known.wrote(rows)

    # -- checkpoints ------------------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """Which passes are finished, and all ranks' rows of those that are not."""
        trainer = self.trainer
        together = trainer is not None and self.may_communicate() and is_distributed()
        device = trainer.strategy.root_device if trainer is not None and together else None
        return {
            **self._place_state(),
            "finished": [list(part) for part in self._finished],
            "buffers": {split: self._buffers[split].state_dict(device) for split in sorted(self._buffers)},
            "partial": bool(self._buffers) and is_distributed() and not together,
        }

    def load_state(self, trainer: pl.Trainer, state: dict[str, Any]) -> None:
        """Continue the run of a checkpoint."""
        self._recall(trainer, state)
        self._finished = [(split, epoch, number) for split, epoch, number in state["finished"]]
        # One rank continues with the rows of all.
        self._buffers = {}
        for split, saved in state["buffers"].items():
            kept = None if trainer.is_global_zero else 0
            rows = {name: saved[name][:, :kept] for name in ("integers", "measures")}
            self._buffers[split] = Visits.from_state({**saved, **rows})
        warn_if_partial(
            state["partial"], "rows of the unfinished epoch that other ranks had seen are missing from the history"
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
