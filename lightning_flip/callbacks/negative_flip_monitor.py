"""Flip rates against an old model: what the new one gets wrong that the old one got right, pass by pass."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor, nn

from lightning_flip.callbacks._old_models import OldModels
from lightning_flip.callbacks._old_predictions import MISSING
from lightning_flip.callbacks.log_keys import LoggingWatcher
from lightning_flip.callbacks.watcher import StatefulWatcher
from lightning_flip.functional.flips import FlipCounts, share
from lightning_flip.steps import SampleStep
from lightning_flip.stores import PredictionError
from lightning_flip.tables import sum_over_ranks

__all__ = ["NegativeFlipMonitor"]

_COUNTS = ("seen", *FlipCounts._fields, "missing", "contradicting")


class NegativeFlipMonitor(LoggingWatcher, StatefulWatcher):
    """Logs flip rates against an old model for every validation pass and, optionally, every training epoch.

    - ``val_negative_flip_rate``: NFR, Eq. 2 of the positive-congruent training paper, the share that the old model
      gets right and this one wrong;
    - ``val_relative_negative_flip_rate``: NFR / ((1 - ER_old) ER_new), 1 for independent errors, 0 if the
      denominator is 0;
    - ``val_error``: ER_new, the share that this model gets wrong.

    A second validation loader logs ``val_1_...``; training logs ``train_...``, of the batches as they were predicted
    before their update, with dropout and augmentation. ``ModelCheckpoint(monitor="val_negative_flip_rate")`` takes
    each of these keys. Several ranks log the rates over all of them. ``trainer.validate`` also logs the validation
    rates. A module that logs ``val_error`` itself is refused until the monitor has a ``prefix=``.

    Args:
        reference: the old model: everything that :func:`lightning_flip.steps.reference.load_reference` takes (a
            module, which is copied at once; a checkpoint; a state_dict with ``reference_network``;
            ``"torchvision:NAME:WEIGHTS"``; stored logits of the validation data as ``.npy`` or ``.npz``); or a file
            of predictions on the validation data (``.parquet``, ``.csv``, ``.npz`` with ``sample_id, target, pred``),
            whose samples are found by ``sample_id``. A list gives every validation loader one of its own.
        train: also follow training batches.
        val: follow the validation loaders.
        train_reference: the old model for the training batches, if ``reference`` is a file of predictions or
            logits of the validation data; by default ``reference``.
        reference_class: class of a checkpoint, or its import path; by default that of the fitted module, without
            mixins.
        reference_network: the network that a state_dict belongs to, or its torchvision name.
        reference_compile: run the old model through ``torch.compile``.
        old_classes: the old model's classes if the new one has more: the new model's class of each of the old
            one's outputs. Samples of other classes are left out of all three rates; each model still answers with
            the best of all its classes.
        class_labels: the label that each output of the new model stands for, to read files whose labels are no
            numbers of outputs; by default the dataset's own ``class_labels``.
        name: tells two monitors of one Trainer apart in a checkpoint; None: by their ``prefix``.
        **options: of what is logged (:class:`~lightning_flip.callbacks.log_keys.LoggingWatcher`) and of the steps
            (:class:`~lightning_flip.callbacks.watcher.StepWatcher`).

    Raises:
        PredictionError: if a file of predictions lacks samples, has other targets for them, or cannot be read.
        ValueError: if a model's number of outputs does not fit, a reference is missing, or nothing is to be followed;
            in a fit or validation, if the module or another callback logs one of the keys.

    Example:
        >>> import torch
        >>> from lightning_flip.models import MLP
        >>> NegativeFlipMonitor(MLP(4, 3), train=True).state_key
        "NegativeFlipMonitor{'train': True, 'val': True, 'name': ''}"
    """

    logs = ("negative_flip_rate", "relative_negative_flip_rate", "error")

    def __init__(
        self,
        reference: str | Path | nn.Module | Sequence[str | Path | nn.Module],
        *,
        train: bool = False,
        val: bool = True,
        train_reference: str | Path | nn.Module | None = None,
        reference_class: type[pl.LightningModule] | str | None = None,
        reference_network: nn.Module | str | None = None,
        reference_compile: bool = False,
        old_classes: Sequence[int] | None = None,
        class_labels: Sequence[int | str] | None = None,
        name: str | None = None,
        **options: Any,
    ) -> None:
        super().__init__(train=train, val=val, name=name, **options)
        self.models = OldModels(
            reference,
            train_reference,
            train=train,
            model_class=reference_class,
            network=reference_network,
            compile_model=reference_compile,
            old_classes=old_classes,
            class_labels=class_labels,
            logits_from=self.source.logits_from,
        )
        self._counts: dict[tuple[str, int], Tensor] = {}
        self._train_epoch = -1

    # -- hooks ----------------------------------------------------------------------------------------

    def attends(self, stage: str) -> bool:
        """Fits, and ``trainer.validate``."""
        return super().attends(stage) or (self.val and stage == TrainerFn.VALIDATING)

    def begin(self, trainer: pl.Trainer) -> None:
        """Load the old models; counts of an epoch that this fit does not continue are forgotten."""
        keep = trainer.state.fn == TrainerFn.FITTING and trainer.global_step > 0
        self._counts = {key: counts for key, counts in self._counts.items() if keep and key[0] == "train"}
        if not keep:
            self._train_epoch = -1
        self.models.open(trainer)

    @property
    def every_step(self) -> bool:
        """An old model is run with the step's own inputs; a file of its predictions is looked up once a block."""
        return self.models.need_inputs

    def new_epoch(self, epoch: int) -> None:
        """Drop the counts of an epoch whose end was not seen, rather than mix them with those of this one."""
        if self._train_epoch != epoch:
            for key in [key for key in self._counts if key[0] == "train"]:
                del self._counts[key]
            self._train_epoch = epoch

    def restart(self, split: str, loader: int) -> None:
        """Forget the counts of a pass that is not over."""
        self._counts.pop((split, loader), None)

    def watch(self, trainer: pl.Trainer, split: str, loader: int, step: SampleStep) -> None:
        """Count rows in; nothing is read back from the device, except for the first rows of a file."""
        assert self.attachment is not None
        old = self.models.answers(split, loader, step, self.attachment, self.source)
        counts = _count(step, old.pred, old.target, old.known)
        if old.first:
            self._refuse(split, loader, counts.tolist(), f"the first {len(step.index)} rows")
        running = self._counts.get((split, loader))
        self._counts[split, loader] = counts if running is None else running + counts

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Log the training epoch's rates."""
        self.flush()
        if self.train and self.fitting:
            self._finish_pass(trainer, pl_module, "train", self._train_loader)

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Log the pass's rates."""
        self.flush()
        if self.val and self.attachment is not None and not trainer.sanity_checking:
            for loader in range(len(trainer.num_val_batches)):
                self._finish_pass(trainer, pl_module, "val", loader)

    def state(self) -> dict[str, Any]:
        """The counts of the passes that are not over, of all ranks."""
        partial = not self.may_communicate()
        splits = {}
        for key in sorted(self._counts):
            counts = self._counts[key].clone()
            splits[f"{key[0]}-{key[1]}"] = (counts if partial else sum_over_ranks(counts)).cpu()
        return {"partial": partial, "train_epoch": self._train_epoch, "splits": splits}

    def load_state(self, trainer: pl.Trainer, state: dict[str, Any]) -> None:
        """Continue the run of a checkpoint."""
        self._train_epoch = state["train_epoch"]
        self._counts = {}
        for text, saved in state["splits"].items():
            split, _, loader = text.rpartition("-")
            # One rank continues with the sum of all ranks' counts, the others from zero.
            counts = saved.to(trainer.strategy.root_device, copy=True)
            self._counts[split, int(loader)] = counts if trainer.is_global_zero else torch.zeros_like(counts)

    # -- a pass ---------------------------------------------------------------------------------------

    def _finish_pass(self, trainer: pl.Trainer, pl_module: pl.LightningModule, split: str, loader: int) -> None:
        if self.attachment is not None:
            self.attachment.check()
        counts = self._counts.pop((split, loader), None)
        if counts is None:  # this rank had no batch; the others wait for it all the same
            counts = torch.zeros(len(_COUNTS), dtype=torch.int64, device=trainer.strategy.root_device)
        summed = sum_over_ranks(counts).tolist()
        self._refuse(split, loader, summed, "this pass")
        if not summed[0]:
            return
        flips = FlipCounts(*torch.tensor(summed[1:5]))
        if not flips.total:
            self._tell(
                f"NegativeFlipMonitor: none of the {summed[0]} {split} samples of loader {loader} is of old_classes; "
                "no rate is logged."
            )
            return
        rates = {
            "negative_flip_rate": flips.negative_flip_rate(),
            "relative_negative_flip_rate": flips.relative_negative_flip_rate(),
            "error": share(flips.new_wrong, flips.total),
        }
        self.log_numbers(pl_module, split, loader, rates)

    def _refuse(self, split: str, loader: int, counts: Sequence[int], where: str) -> None:
        seen, missing, contradicting = counts[0], *counts[-2:]
        name = self.models.name(split, loader)
        if missing:
            raise PredictionError(
                f"{name} lacks {missing} of {seen} {split} samples in {where}. Write it for the same data with "
                "PredictionWriter; if the old model has fewer classes, pass old_classes= to leave the others out."
            )
        if contradicting:
            raise PredictionError(
                f"{name} has other targets than the data for {contradicting} of {seen} {split} samples in {where}. "
                "Its sample ids or labels are those of other data; class_labels= says what the new model's outputs "
                "stand for, target_from= where the targets are."
            )

    def _release(self) -> None:
        super()._release()
        self.models.close()


def _count(step: SampleStep, old_pred: Tensor, old_target: Tensor | None, known: Tensor | None) -> Tensor:
    """int64 counts of one step, in the order of ``_COUNTS``."""
    target = step.target.clamp(0, step.num_classes - 1)  # a label outside is reported by the step's own check
    counted = torch.ones_like(target, dtype=torch.bool) if step.valid is None else step.valid
    kept = counted if known is None else counted & known[target]
    missing = kept & (old_pred == MISSING)
    other = torch.zeros_like(kept) if old_target is None else kept & (old_target != MISSING) & (old_target != target)
    old, new = old_pred == target, step.logits.argmax(dim=1) == target
    rows = (counted, kept & old & new, kept & old & ~new, kept & ~old & new, kept & ~old & ~new, missing, other)
    return torch.stack(rows).sum(dim=1)
