"""The running average of every training sample's prediction, and the soft targets that come of it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import lightning.pytorch as pl
import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from lightning_flip.callbacks._evaluation import Evaluation, training_data
from lightning_flip.callbacks._filtered_tables import FilteredTables
from lightning_flip.callbacks._soft_target_files import SoftTargetFolder, against, clear
from lightning_flip.callbacks.run_folder import RunWriter, warn_if_partial
from lightning_flip.callbacks.watcher import StatefulWatcher
from lightning_flip.steps import SampleStep

__all__ = ["PredictionFilter"]

_EVALUATIONS = ("eval_last", "eval_best")


class PredictionFilter(RunWriter, StatefulWatcher):
    """Filters each training sample's predictions over the training of a teacher (Filter-KD, Algorithm 1).

    q[n] <- (1 - alpha) q[n] + alpha p at every visit of sample n, where p is what the loss saw, before its update, in
    float32. Under ``dirpath/soft_targets/`` it writes, whole or not at all, at every epoch's end and at the fit's end,

    - ``filtered_last.safetensors``, q as it stands;
    - ``filtered_best.safetensors``, q of the validation pass with the best ``monitor`` so far (the earlier of two
      equal ones): the paper's teacher;
    - optionally ``eval_best`` and ``eval_last``: what the model itself predicts on the training data in eval mode, at
      the best validation pass (ESKD) and at the end (KD). The paper runs its teacher on each batch of the student; a
      file holds its predictions on one view of each sample.

    :class:`~lightning_flip.mixins.SoftTargets` trains a student from a file. Rows of samples that training never
    visited are marked and counted. If training draws a sample on several ranks in one epoch (sampling with
    replacement), the row of the highest rank counts.

    Args:
        alpha: weight of a new prediction in (0, 1]; 1 keeps the last prediction.
        initial_pass: start from predictions in eval mode of a pass over the data before training, as the paper's text
            says; else the first visit is copied, as the authors' code does.
        monitor: what validation logs, to be compared between its passes.
        mode: "max" or "min", which of its values is better.
        also: "eval_last", "eval_best" or both. The first costs one pass over the training data at the end, the second
            one after every validation that improves ``monitor``.
        name: tells two filters of one Trainer apart, in a checkpoint and as a folder under ``soft_targets/``.
        num_samples: number of samples, needed with ``index_from`` only.
        **options: of the folder (:class:`~lightning_flip.callbacks.run_folder.RunWriter`) and of the steps
            (:class:`~lightning_flip.callbacks.watcher.StepWatcher`).

    Raises:
        ValueError: if an option is out of range, or validation does not log ``monitor``.
        TypeError: if targets are distributions (MixUp): such predictions belong to no one sample.

    Example:
        >>> PredictionFilter(alpha=0.1, also=["eval_best"]).state_key
        "PredictionFilter{'train': True, 'val': False, 'name': ''}"
    """

    def __init__(
        self,
        alpha: float = 0.05,
        *,
        initial_pass: bool = False,
        monitor: str = "val_acc",
        mode: Literal["max", "min"] = "max",
        also: Sequence[str] = (),
        name: str = "",
        num_samples: int | None = None,
        **options: Any,
    ) -> None:
        super().__init__(train=True, val=False, name=name, **options)
        if not 0 < alpha <= 1:
            raise ValueError(f"alpha must be in (0, 1]; got {alpha}.")
        if mode not in ("max", "min"):
            raise ValueError(f'mode must be "max" or "min"; got {mode!r}.')
        if isinstance(also, str) or not set(also) <= set(_EVALUATIONS):
            raise ValueError(f"also must be a list of {', '.join(map(repr, _EVALUATIONS))}; got {also!r}.")
        if (also or initial_pass) and callable(self.source.logits_from):
            raise ValueError(
                "initial_pass and also run the model outside of its steps, and logits_from is a function of what a "
                "step returned. Name a submodule."
            )
        self.alpha = alpha
        self.initial_pass = initial_pass
        self.monitor = monitor
        self.mode = mode
        self.also = tuple(also)
        self.num_samples = num_samples
        self._forget()

    def _forget(self) -> None:
        super()._forget()
        self._tables: FilteredTables | None = None
        self._files: SoftTargetFolder | None = None
        self._epoch = -1
        self._validated = False

    @property
    def tables(self) -> FilteredTables | None:
        """The tables of a fit that has begun, see :class:`FilteredTables`, up to the last batch."""
        self.flush()
        return self._tables

    # -- the run --------------------------------------------------------------------------------------

    def begin(self, trainer: pl.Trainer) -> None:
        """A fit from the first epoch is a new run; one that continues with this Trainer is the same."""
        self._files = None
        super().begin(trainer)

    def open(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Claim the folder."""
        part, run_id = Path("soft_targets") / self.name, self._run_id
        place = self._claim(
            trainer,
            part.as_posix(),
            info={"module": type(pl_module).__qualname__},
            refuse=lambda folder: against(folder / part, run_id),
            work=lambda claim, replace: clear(claim.folder / part, run_id, overwrite=replace),
        )
        facts = {"run": self._run_id, "module": type(pl_module).__qualname__, "initial_pass": self.initial_pass}
        self._files = SoftTargetFolder(place, part, {**facts, "alpha": self.alpha})

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Evaluate the untrained model, if the average starts there."""
        super().on_train_start(trainer, pl_module)
        if not self.fitting or not self.initial_pass or self._tables is not None or trainer.global_step:
            return
        rows = self._evaluate(trainer, averaged=False)
        self._tables = self._make_tables(len(rows), rows.shape[1], trainer.strategy.root_device)
        self._tables.average.begin(rows.to(trainer.strategy.root_device))

    # -- steps ----------------------------------------------------------------------------------------

    def new_epoch(self, epoch: int) -> None:
        """Merge the ranks' rows of the epoch before."""
        if self._epoch != epoch:
            self._epoch = epoch
            if self._tables is not None:
                self._tables.sync()

    def restart(self, split: str, loader: int) -> None:
        """Forget the averages."""
        self._tables = None

    def watch(self, trainer: pl.Trainer, split: str, loader: int, step: SampleStep) -> None:
        """Take predictions in; nothing is read back from the device."""
        num_samples = step.table_size(self.num_samples)
        if self._tables is None:
            self._tables = self._make_tables(num_samples, step.num_classes, step.logits.device)
        self._tables.grow(num_samples)
        self._tables.visit(step)

    def skip(self, split: str) -> None:
        """Refuse targets that are distributions."""
        raise TypeError(
            "PredictionFilter keeps one prediction per sample, and the targets are float [B, K] (MixUp or CutMix): the "
            "predictions are of mixed samples. Train the teacher without mixing."
        )

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Keep the tables of the best validation pass, before a checkpoint of its end is made."""
        self.flush()
        if not self.fitting or trainer.sanity_checking or self._tables is None:
            return
        self._validated = True
        self._merge()
        if self.monitor not in trainer.callback_metrics:
            raise ValueError(
                f"PredictionFilter(monitor={self.monitor!r}): validation logged no such value; there are "
                f"{sorted(trainer.callback_metrics)}. Name one of them, or log it in validation_step."
            )
        # Ranks may hold values of their own (sync_dist=False), and have to decide alike.
        score = float(trainer.strategy.broadcast(float(trainer.callback_metrics[self.monitor])))
        best = self._tables.best
        if math.isnan(score) or (best is not None and not self._better(score, best["score"])):
            return
        evaluated = self._evaluate(trainer, averaged=True) if "eval_best" in self.also else None
        moment = {"epoch": trainer.current_epoch, "step": trainer.global_step}
        self._tables.keep({**moment, "monitor": self.monitor, "mode": self.mode, "score": score}, evaluated)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Merge the ranks' rows and write what there is, so that a killed run leaves it."""
        self.flush()
        if self.fitting and self._tables is not None:
            self._merge()
            self._write(trainer)

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write what the end of training adds."""
        self.flush()
        if not self.fitting or self._tables is None:
            return
        self._merge()
        evaluated = self._evaluate(trainer, averaged=False) if "eval_last" in self.also else None
        self._write(trainer, evaluated)
        if self._tables.best is None:
            why = f"{self.monitor} was never a number" if self._validated else "no validation ran"
            rank_zero_warn(f"PredictionFilter: {why}, so that there are soft targets of the last epoch alone.")

    # -- checkpoints ------------------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """The tables with all ranks' rows."""
        if self._tables is not None and self.may_communicate():
            self._tables.sync()
        return {
            **self._place_state(),
            "alpha": self.alpha,
            "epoch": self._epoch,
            "validated": self._validated,
            "tables": None if self._tables is None else self._tables.state_dict(),
            "partial": self._tables is not None and not self._tables.average.merged,
        }

    def load_state(self, trainer: pl.Trainer, state: dict[str, Any]) -> None:
        """Continue the run of a checkpoint."""
        self._forget()
        self._recall(trainer, state)
        self._epoch, self._validated = state["epoch"], state["validated"]
        if state["tables"] is not None:
            device = trainer.strategy.root_device  # ranks may have to merge before the first step comes
            self._tables = FilteredTables.from_state(state["tables"], alpha=self.alpha, device=device)
        if state["alpha"] != self.alpha:
            rank_zero_warn(
                f"the checkpoint's averages were made with alpha={state['alpha']}; they continue with {self.alpha}."
            )
        warn_if_partial(
            state["partial"] and trainer.world_size > 1,
            "predictions that other ranks made since the last merge are missing from the averages",
        )

    # -- parts ------------------------------------------------------------------------------------------

    def _make_tables(self, num_samples: int, num_classes: int, device: torch.device) -> FilteredTables:
        return FilteredTables(num_samples, num_classes, alpha=self.alpha, device=device)

    def _better(self, score: float, best: float) -> bool:
        return score > best if self.mode == "max" else score < best

    def _evaluate(self, trainer: pl.Trainer, *, averaged: bool) -> Tensor:
        assert self.attachment is not None
        evaluation = Evaluation(trainer, self.attachment, self.source, "Leave out initial_pass and also.")
        return evaluation.table(averaged=averaged)

    def _merge(self) -> None:
        assert self.attachment is not None
        assert self._tables is not None
        self.attachment.check()
        self._tables.sync()

    def _write(self, trainer: pl.Trainer, evaluated_last: Tensor | None = None) -> None:
        if trainer.is_global_zero and self._files is not None and self._tables is not None:
            moment = {"epoch": self._epoch, "step": trainer.global_step}
            self._files.write(self._tables, training_data(trainer, self.source), moment, evaluated_last)
