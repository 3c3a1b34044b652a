"""Flip rates per pass: samples that changed since the previous pass, and samples that were ever correct."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor

from lightning_flip.callbacks.log_keys import LoggingWatcher
from lightning_flip.callbacks.watcher import StatefulWatcher, is_fresh
from lightning_flip.steps import SampleStep
from lightning_flip.tables import VisitStatistics, sum_over_ranks

__all__ = ["FlipTracker"]

_COUNTS = ("seen", "compared", "wrong", "wrongly_flipped", "to_wrong", "to_right", "changed")


class FlipTracker(LoggingWatcher, StatefulWatcher):
    """Logs what flipped in every pass over the validation data and, optionally, in each training epoch.

    - ``val_flipping_error``: FE, Eq. 7 of the FER paper, the share wrong now that was right in an earlier pass;
    - ``val_relative_flipping_error``: RFE, the share of the wrong ones that was right in an earlier pass;
    - ``val_flips_to_wrong``: the share right in the last pass and wrong now;
    - ``val_flips_to_right``: the share wrong in the last pass and right now;
    - ``val_churn``: the share whose predicted class differs from the last pass's;
    - ``val_coverage``: the share of the dataset that this pass saw; the rates above are over what was seen.

    Flips and churn are over samples that were seen before, and 0 in the first pass. RFE of a pass
    without errors is 0. A second validation loader logs ``val_1_...``; training logs ``train_...``.
    ``ModelCheckpoint(monitor=...)`` takes each of these keys. Trackers of several heads need a ``prefix=`` each, which
    their keys begin with.

    Args:
        train: also follow training batches, as they were predicted before their update.
        val: follow the validation loaders.
        name: tells two trackers of one Trainer apart in a checkpoint; None: by their ``prefix``.
        num_samples: number of samples, needed with ``index_from`` only.
        **options: of what is logged (:class:`~lightning_flip.callbacks.log_keys.LoggingWatcher`) and of the steps
            (:class:`~lightning_flip.callbacks.watcher.StepWatcher`).

    Raises:
        ValueError: if neither training nor validation is to be followed; in a fit, if the module or another callback
            logs one of the keys.

    Example:
        >>> FlipTracker(train=True).state_key
        "FlipTracker{'train': True, 'val': True, 'name': ''}"
    """

    logs = (
        "flipping_error",
        "relative_flipping_error",
        "flips_to_wrong",
        "flips_to_right",
        "churn",
        "coverage",
    )

    def __init__(
        self,
        *,
        train: bool = False,
        val: bool = True,
        name: str | None = None,
        num_samples: int | None = None,
        **options: Any,
    ) -> None:
        super().__init__(train=train, val=val, name=name, **options)
        self.num_samples = num_samples
        self._statistics: dict[tuple[str, int], VisitStatistics] = {}
        self._passes: dict[tuple[str, int], int] = {}
        self._counts: dict[tuple[str, int], Tensor] = {}
        self._train_epoch = -1

    @property
    def statistics(self) -> dict[tuple[str, int], VisitStatistics]:
        """A :class:`~lightning_flip.tables.VisitStatistics` for every ``(split, loader)``, up to the last batch."""
        self.flush()
        return self._statistics

    def begin(self, trainer: pl.Trainer) -> None:
        """Start from nothing in a run's first epoch."""
        if is_fresh(trainer):
            self._statistics, self._passes, self._counts = {}, {}, {}
            self._train_epoch = -1

    def new_epoch(self, epoch: int) -> None:
        """Drop the rates of an epoch whose end was not seen, rather than mix them with those of this one."""
        if self._train_epoch != epoch:
            for key in [key for key in self._counts if key[0] == "train"]:
                self._finish_pass(key, None)
            self._train_epoch = epoch

    def restart(self, split: str, loader: int) -> None:
        """Forget a loader's statistics."""
        for known in (self._statistics, self._passes, self._counts):
            known.pop((split, loader), None)

    def watch(self, trainer: pl.Trainer, split: str, loader: int, step: SampleStep) -> None:
        """Count rows in; nothing is read back from the device."""
        statistics = self._statistics_for(split, loader, step)
        counts = self._counts.get((split, loader))
        if counts is None:
            counts = torch.zeros(len(_COUNTS), dtype=torch.int64, device=step.logits.device)
            self._counts[split, loader] = counts
        for part in step.once():
            counts += self._count(statistics, self._passes.setdefault((split, loader), 0), part)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Log the training epoch's rates."""
        self.flush()
        for key in [key for key in self._counts if key[0] == "train"]:
            self._finish_pass(key, pl_module)

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Log the pass's rates."""
        if trainer.sanity_checking or not self.fitting:
            return
        self.flush()
        for key in [key for key in self._counts if key[0] == "val"]:
            self._finish_pass(key, pl_module)

    def state(self) -> dict[str, Any]:
        """The statistics of all ranks, and the counts of the passes that are not over."""
        partial = not self.may_communicate()
        state: dict[str, Any] = {"partial": partial, "train_epoch": self._train_epoch, "splits": {}}
        for key in sorted(self._statistics):
            counts = self._counts.get(key)
            if not partial:
                self._statistics[key].sync()
                counts = None if counts is None else sum_over_ranks(counts.clone())
            state["splits"][f"{key[0]}-{key[1]}"] = {
                "statistics": self._statistics[key].state_dict(),
                "passes": self._passes[key],
                "counts": None if counts is None else counts.cpu(),
            }
        return state

    def load_state(self, trainer: pl.Trainer, state: dict[str, Any]) -> None:
        """Continue from a checkpoint."""
        device = trainer.strategy.root_device  # ranks may have to merge before the first step comes
        self._train_epoch = state["train_epoch"]
        self._statistics, self._passes, self._counts = {}, {}, {}  # an interrupted fit may have left some
        for text, saved in state["splits"].items():
            split, _, loader = text.rpartition("-")
            key = (split, int(loader))
            self._statistics[key] = VisitStatistics(saved["statistics"]["counts"].shape[0], device)
            self._statistics[key].load_state_dict(saved["statistics"])
            self._passes[key] = saved["passes"]
            # One rank continues with the sum of all ranks' counts, the others from zero.
            if saved["counts"] is not None:
                counts = saved["counts"].to(device, copy=True)
                self._counts[key] = counts if trainer.is_global_zero else torch.zeros_like(counts)

    # -- counting -----------------------------------------------------------------------------------------

    def _statistics_for(self, split: str, loader: int, step: SampleStep) -> VisitStatistics:
        key = (split, loader)
        num_samples = step.table_size(self.num_samples)
        if key not in self._statistics:
            size = VisitStatistics.bytes_needed(num_samples) / 1e6
            rank_zero_info(f"FlipTracker: statistics of {num_samples} {split} samples = {size:.1f} MB")
            self._statistics[key] = VisitStatistics(num_samples, step.logits.device)
        statistics = self._statistics[key]
        if statistics.num_samples < num_samples:
            statistics.grow(num_samples)
        if statistics.num_samples != num_samples:
            raise ValueError(
                f"the checkpoint's statistics are of {statistics.num_samples} {split} samples, this loader has "
                f"{num_samples}. Resume with the data it was made with, or start a new run."
            )
        return statistics

    def _count(self, statistics: VisitStatistics, number: int, step: SampleStep) -> Tensor:
        facts = step.predictions
        right = facts.pred == step.target
        before = statistics.update(
            step.index,
            right,
            facts.logit_margin,
            facts.prob_label,
            epoch=number,
            pred=facts.pred,
            where=step.valid,
        )
        counted = torch.ones_like(right) if step.valid is None else step.valid
        known, wrong = (before.visits > 0) & counted, ~right & counted
        rows = (
            counted,
            known,
            wrong,
            wrong & (before.first_learned >= 0) & (before.first_learned < number),
            known & before.last_right & ~right,
            known & ~before.last_right & right,
            known & (facts.pred != before.last_pred),
        )
        return torch.stack(rows).sum(dim=1)

    def _finish_pass(self, key: tuple[str, int], pl_module: pl.LightningModule | None) -> None:
        if key not in self._counts:
            return
        if self.attachment is not None:
            self.attachment.check()
        statistics = self._statistics[key]
        statistics.sync()
        counts = dict(zip(_COUNTS, sum_over_ranks(self._counts.pop(key)).tolist(), strict=True))
        self._passes[key] += 1
        if pl_module is None:
            return
        self.log_numbers(pl_module, *key, _rates(counts, statistics.num_samples))


def _rates(counts: dict[str, int], num_samples: int) -> dict[str, float]:
    def share(part: str, whole: str) -> float:
        return counts[part] / counts[whole] if counts[whole] else 0.0

    return {
        "flipping_error": share("wrongly_flipped", "seen"),
        "relative_flipping_error": share("wrongly_flipped", "wrong"),
        "flips_to_wrong": share("to_wrong", "compared"),
        "flips_to_right": share("to_right", "compared"),
        "churn": share("changed", "compared"),
        "coverage": counts["seen"] / num_samples,
    }
