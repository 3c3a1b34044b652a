"""Self-adaptive training as a mixin."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from lightning_flip.functional.losses import widen
from lightning_flip.functional.running_targets import self_adaptive_loss, self_adaptive_target
from lightning_flip.mixins._visited_rows import VisitedRows, rows_after_visits
from lightning_flip.mixins.base import LossTerm, Reduced
from lightning_flip.steps import SampleStep
from lightning_flip.steps.options import check_fractions, check_whole

__all__ = ["SelfAdaptiveTraining"]

TABLE = "self_adaptive"


class SelfAdaptiveTraining(LossTerm):
    """Replaces labels gradually with the network's predictions (Huang et al. 2020; SAT).

    Each sample has a target r, which starts as its label, one-hot. The first epochs train with CE and leave r alone;
    then it moves at every visit, before the loss reads it: r <- m r + (1 - m) p, without gradient. The loss is
    w H(r, p), where the weights w = max r are scaled to mean 1 in the batch; with several ranks, or with accumulated
    gradients, in each part of it. A table of N x K numbers is kept. A sample that a batch has twice moves twice; in the
    authors' code its last visit alone counts.

    Args:
        sat_momentum: m in [0, 1); its paper uses 0.9.
        sat_warmup: epochs of CE at the start; its paper uses 60 (of 200 to 300).

    Example:
        >>> from lightning_flip.models import MLP, Classifier
        >>> class Adaptive(SelfAdaptiveTraining, Classifier): ...
        >>> Adaptive(network=MLP(4, 3), num_classes=3, sat_warmup=10).mixin_options.sat_warmup
        10
    """

    softens_target = True
    replaces_cross_entropy = True

    def __init__(self, *args: Any, sat_momentum: float = 0.9, sat_warmup: int = 60, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.mixin_options.take(
            **check_fractions(sat_momentum=sat_momentum), **check_whole(at_least=0, sat_warmup=sat_warmup)
        )
        self._mixin.sat_rows = VisitedRows()

    def begin_fit(self, trainer: pl.Trainer) -> None:
        """Warn if the run ends before the method begins."""
        options = self.mixin_options
        super().begin_fit(trainer)
        epochs = trainer.max_epochs
        if epochs is not None and 0 < epochs <= options.sat_warmup:
            rank_zero_warn(
                f"sat_warmup={options.sat_warmup} epochs of cross entropy come before self-adaptive training, and the "
                f"run ends after {epochs}: this is plain training. Lower sat_warmup."
            )

    def method_loss(self, step: SampleStep, reduction: Reduced = "none") -> Tensor | None:
        """Per sample w H(r, p), with r after this visit; None during the warmup."""
        self.require_labels(step)
        if self._warming_up:
            return None
        attachment = self._term_loop.attachment
        assert attachment is not None

        def rows_after() -> Tensor:
            rows = _or_label(self.table(TABLE, step, step.num_classes).pending(step.index), step)
            return rows_after_visits(step, rows.to(widen(step.logits).dtype), self._sat_visit)

        running = self._mixin.sat_rows.after(step, attachment.running.loaded, rows_after)
        return self_adaptive_loss(step.logits, running, valid=step.valid, target=step.target, reduction=reduction)

    def visit(self, step: SampleStep) -> None:
        """Store r after this visit."""
        if self._warming_up:
            return
        table = self.table(TABLE, step, step.num_classes)
        moved = self._mixin.sat_rows.of(step)
        if moved is None:
            rows = _or_label(table.pending(step.index), step)
            moved = self._sat_visit(rows.to(step.logits.dtype), step.logits)
        table.update(step.index, moved, step.valid)

    def new_epoch(self, epoch: int) -> None:
        """The merged rows of the epoch before are those that checkpoints hold once."""
        if TABLE in self._term_loop.tables:
            self._term_loop.tables[TABLE].commit()

    def end_fit(self) -> None:
        """Release the last batch."""
        super().end_fit()
        self._mixin.sat_rows.clear()

    @property
    def _warming_up(self) -> bool:
        return bool(self.trainer.current_epoch < self.mixin_options.sat_warmup)

    def _sat_visit(self, rows: Tensor, logits: Tensor) -> Tensor:
        return self_adaptive_target(rows, logits, momentum=self.mixin_options.sat_momentum)


def _or_label(found: tuple[Tensor, Tensor], step: SampleStep) -> Tensor:
    """Rows, and one-hot labels where there is none yet."""
    rows, known = found
    labels = step.target if step.valid is None else step.target.clamp(0, step.num_classes - 1)
    return torch.where(known[:, None], rows, torch.zeros_like(rows).scatter(1, labels[:, None], 1.0))
