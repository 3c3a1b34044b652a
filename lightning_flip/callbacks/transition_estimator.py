"""Estimating the transition of label noise while a model trains."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import lightning.pytorch as pl
import torch
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor

from lightning_flip.callbacks.ranks import on_first_rank
from lightning_flip.callbacks.run_folder import RunWriter, writes_files
from lightning_flip.callbacks.watcher import StatefulWatcher
from lightning_flip.functional.transitions import condition_number, estimate_transition
from lightning_flip.steps import SampleStep
from lightning_flip.stores import write_transition
from lightning_flip.tables import SampleTable

__all__ = ["TransitionEstimator"]

_FILE = "transition.npz"


@runtime_checkable
class TakesTransition(Protocol):
    """A module whose loss computes with a transition; the loss corrections are of this form."""

    def take_transition(self, transition: Tensor) -> None:
        """Compute with a transition from the next step on."""


class TransitionEstimator(RunWriter, StatefulWatcher):
    """Estimates T[true, noisy] from what the model predicts in a warm-up epoch (Patrini et al. 2017).

    The predictions are those of the training forward itself (train mode, augmented, before each step's update), over
    the last warm-up epoch; no further pass is made. When it ends, T is written to a file and handed to a module with
    ``transition="estimate"`` (:class:`~lightning_flip.mixins.ForwardCorrection`,
    :class:`~lightning_flip.mixins.BackwardCorrection`), whose loss was cross entropy until then. The file serves a
    later fit, which may start afresh with ``transition="transition.npz"``.

    The predictions so far and T are in the checkpoint, on several ranks those of all of them. A fit that is resumed
    after the warm-up without them (the callback was added later) estimates T in its first epoch.

    Args:
        path: the file, ending in .npz: ``transition`` float64 ``[K, K]``, ``condition_number``, ``num_samples`` and
            ``epoch`` (from 1); default ``transition.npz`` in the folder that the callbacks of the Trainer share, see
            :class:`PredictionHistory`. ``fast_dev_run`` writes none.
        warmup_epochs: epochs before the estimate, at least 1. Too few, and the model does not tell the classes apart;
            too many, and it has memorized wrong labels.
        percentile: see :func:`~lightning_flip.functional.estimate_transition`; None drops nothing.
        overwrite: replace a file.
        name: tells two of these callbacks apart in a checkpoint.
        num_samples: number of samples, needed with ``index_from`` only.
        **options: of the steps, see :class:`~lightning_flip.callbacks.watcher.StepWatcher`.

    Attributes:
        transition: float64 ``[K, K]`` on the CPU; None before the estimate.
        condition_number: of it.

    Raises:
        ValueError: if an option is out of range.

    Example:
        >>> estimator = TransitionEstimator("runs/transition.npz", warmup_epochs=3)
        >>> estimator.transition is None
        True
    """

    #: What a module that waits for an estimate looks for among the Trainer's callbacks.
    gives_transition = True

    def __init__(
        self,
        path: str | Path | None = None,
        *,
        warmup_epochs: int = 1,
        percentile: int | float | None = 97,
        overwrite: bool = False,
        name: str = "",
        num_samples: int | None = None,
        **options: Any,
    ) -> None:
        super().__init__(train=True, val=False, name=name, dirpath=None, overwrite=overwrite, **options)
        if path is not None and Path(path).suffix != ".npz":
            raise ValueError(f"path must name a file that ends in .npz; got {str(path)!r}.")
        if warmup_epochs < 1:
            raise ValueError(f"warmup_epochs must be at least 1, so that there are predictions; got {warmup_epochs}.")
        if percentile is not None and not 0 < percentile <= 100:
            raise ValueError(f"percentile must be in (0, 100], or None to drop nothing; got {percentile}.")
        self.path = path
        self.warmup_epochs = warmup_epochs
        self.percentile = percentile
        self.num_samples = num_samples
        self._file: Path | None = None
        self._forget()

    def _forget(self) -> None:
        super()._forget()
        self.transition: Tensor | None = None
        self.condition_number: float | None = None
        self._table: SampleTable | None = None
        self._epoch = -1

    # -- hooks ----------------------------------------------------------------------------------------

    def active(self, trainer: pl.Trainer) -> bool:
        """Also in ``fast_dev_run``, where no file is written."""
        return True

    def begin(self, trainer: pl.Trainer) -> None:
        """Start from nothing in a run's first epoch."""
        super().begin(trainer)
        last = trainer.max_epochs
        if last is not None and 0 <= last < self.warmup_epochs and writes_files(trainer):
            raise ValueError(
                f"warmup_epochs={self.warmup_epochs}, and the Trainer ends after max_epochs={last}: there would be no "
                "estimate."
            )

    def open(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Refuse to replace a file before the work begins, and hand a checkpoint's estimate over."""
        known, self._file = self._run_id is not None, None
        if writes_files(trainer) and self.path is not None:
            self._file = Path(self.path)
            if self.transition is None and not self.overwrite:
                on_first_rank(trainer, functools.partial(_refuse, self._file))
        elif writes_files(trainer):
            place = self._claim(
                trainer,
                _FILE,
                info={"module": type(pl_module).__qualname__},
                refuse=lambda folder: "" if known or self.overwrite else _against(folder / _FILE),
                overwrite=False,
            )
            self._file = place.path / _FILE
        self._hand_over(pl_module)

    def new_epoch(self, epoch: int) -> None:
        """Estimate after an epoch whose end was not seen."""
        trainer = self.trainer
        if self._table is not None and epoch > self._epoch and trainer is not None:
            self._estimate(trainer, trainer.lightning_module)

    def wants(self, split: str) -> bool:
        """In the epochs that count, until there is an estimate."""
        trainer = self.trainer
        late = trainer is not None and trainer.current_epoch + 1 >= self.warmup_epochs
        return late and self.transition is None

    def restart(self, split: str, loader: int) -> None:
        """Forget the predictions of an epoch that is not over; an estimate stays."""
        self._table = None

    def watch(self, trainer: pl.Trainer, split: str, loader: int, step: SampleStep) -> None:
        """Keep probabilities; nothing is read back from the device."""
        table = self._table_for(step)
        self._epoch = step.epoch
        for part in step.pieces():
            table.update(part.index, part.logits.softmax(dim=1), part.valid)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Estimate when the warm-up ends."""
        self.flush()
        if self.fitting and self._table is not None:
            self._estimate(trainer, pl_module)

    def state(self) -> dict[str, Any]:
        """The estimate, or the predictions so far, of all ranks."""
        if self._table is not None and self.may_communicate():
            self._table.sync()
        if self._table is not None:
            self._table.commit()
        return {
            "transition": self.transition,
            "condition_number": self.condition_number,
            **self._place_state(),
            "epoch": self._epoch,
            "table": None if self._table is None else self._table.state_dict(),
        }

    def load_state(self, trainer: pl.Trainer, state: dict[str, Any]) -> None:
        """Continue the run of a checkpoint."""
        transition, table = state["transition"], state["table"]
        self.transition = None if transition is None else transition.cpu()
        self.condition_number = state["condition_number"]
        self._recall(trainer, state, default=self.path is None)
        self._epoch, self._table = state["epoch"], None
        if table is not None:
            # On the device at once: the ranks may have to merge before the first step comes.
            self._table = SampleTable(*table["rows"].shape, device=trainer.strategy.root_device)
            self._table.load_state_dict(table)

    # -- the estimate ---------------------------------------------------------------------------------

    def _table_for(self, step: SampleStep) -> SampleTable:
        num_samples = step.table_size(self.num_samples)
        if self._table is None:
            needed = SampleTable.bytes_needed(num_samples, step.num_classes)
            rank_zero_info(f"TransitionEstimator: {num_samples} x {step.num_classes} = {needed / 1e6:.1f} MB")
            self._table = SampleTable(num_samples, step.num_classes, device=step.logits.device)
        self._table.grow(num_samples)
        return self._table

    def _estimate(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self.attachment is not None:
            self.attachment.check()
        table, self._table = self._table, None
        assert table is not None
        table.sync()
        rows, seen = table.pending(torch.arange(table.num_samples, device=table.device))
        answer = on_first_rank(trainer, functools.partial(self._estimate_and_write, rows[seen]))
        self.transition = torch.tensor(answer, dtype=torch.float64)
        self.condition_number = condition_number(self.transition)
        rank_zero_info(
            f"TransitionEstimator: transition of {len(self.transition)} classes from {int(seen.sum())} samples in "
            f"epoch {self._epoch + 1}, condition number {self.condition_number:.3g}"
        )
        self._hand_over(pl_module)

    def _estimate_and_write(self, probs: Tensor) -> list[list[float]]:
        transition = estimate_transition(probs, self.percentile)
        if self._file is not None:
            facts = {"condition_number": condition_number(transition), "num_samples": len(probs)}
            if self._place is not None:
                self._place.check()
            replace = self.overwrite or self._place is not None
            write_transition(self._file, transition.numpy(), overwrite=replace, epoch=self._epoch + 1, **facts)
        values: list[list[float]] = transition.tolist()
        return values

    def _hand_over(self, module: pl.LightningModule) -> None:
        if self.transition is not None and isinstance(module, TakesTransition):
            module.take_transition(self.transition)


def _against(file: Path) -> str:
    if not file.exists():
        return ""
    return f"{file} is already there. Choose another path=, or pass overwrite=True to replace it."


def _refuse(file: Path) -> None:
    problem = _against(file)
    if problem:
        raise FileExistsError(problem)
