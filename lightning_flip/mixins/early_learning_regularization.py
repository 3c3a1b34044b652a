"""Early-learning regularization as a mixin."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from lightning_flip.functional.losses import widen
from lightning_flip.functional.running_targets import early_learning_loss, early_learning_target
from lightning_flip.mixins._visited_rows import VisitedRows, rows_after_visits
from lightning_flip.mixins.base import LossTerm, Reduced
from lightning_flip.steps import SampleStep
from lightning_flip.steps.options import check_fractions, check_not_negative

__all__ = ["EarlyLearningRegularization"]

TABLE = "early_learning"


class EarlyLearningRegularization(LossTerm):
    """Keeps the network close to its early predictions, made before it learned wrong labels (Liu et al. 2020; ELR).

    Each sample has a target r, which starts at 0 and moves at every visit, before the loss reads it:
    r <- beta r + (1 - beta) p~, where p~ is p clamped to [1e-4, 1 - 1e-4], divided by its sum, without gradient. The
    loss is CE + lambda log(1 - <r, p>), with gradient through p. A table of N x K numbers is kept. A sample that a
    batch has twice moves twice; in the authors' code its last visit alone counts.

    ===================  ============  ==========
    its paper            elr_momentum  elr_weight
    ===================  ============  ==========
    CIFAR-10             0.7           3 (default)
    CIFAR-10 asymmetric  0.9           1
    CIFAR-100            0.9           7
    ===================  ============  ==========

    Args:
        elr_momentum: beta in [0, 1).
        elr_weight: lambda >= 0; 0 is plain training, bit for bit, without a table.

    Example:
        >>> from lightning_flip.models import MLP, Classifier
        >>> class Early(EarlyLearningRegularization, Classifier): ...
        >>> Early(network=MLP(4, 3), num_classes=3, elr_momentum=0.9, elr_weight=7.0).mixin_options.elr_weight
        7.0
    """

    softens_target = True

    def __init__(self, *args: Any, elr_momentum: float = 0.7, elr_weight: float = 3.0, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.mixin_options.take(
            **check_fractions(elr_momentum=elr_momentum), **check_not_negative(elr_weight=elr_weight)
        )
        self._mixin.elr_rows = VisitedRows()

    def method_loss(self, step: SampleStep, reduction: Reduced = "none") -> Tensor | None:
        """CE + lambda log(1 - <r, p>) per sample, with r after this visit."""
        options = self.mixin_options
        if not options.elr_weight:
            return None
        self.require_labels(step)
        attachment = self._term_loop.attachment
        assert attachment is not None
        probs = widen(step.logits.detach()).softmax(dim=1)

        def rows_after() -> Tensor:
            rows = self.table(TABLE, step, step.num_classes).pending_rows(step.index).to(probs.dtype)
            return rows_after_visits(step, rows, self._elr_visit, probs)

        running = self._mixin.elr_rows.after(step, attachment.running.loaded, rows_after)
        return early_learning_loss(
            step.logits, step.target, running, weight=options.elr_weight, probs=probs, reduction=reduction
        )

    def visit(self, step: SampleStep) -> None:
        """Store r after this visit."""
        if not self.mixin_options.elr_weight:
            return
        table = self.table(TABLE, step, step.num_classes)
        moved = self._mixin.elr_rows.of(step)
        if moved is None:
            moved = self._elr_visit(table.pending_rows(step.index).to(step.logits.dtype), step.logits.softmax(dim=1))
        table.update(step.index, moved, step.valid)

    def new_epoch(self, epoch: int) -> None:
        """The merged rows of the epoch before are those that checkpoints hold once."""
        if TABLE in self._term_loop.tables:
            self._term_loop.tables[TABLE].commit()

    def end_fit(self) -> None:
        """Release the last batch."""
        super().end_fit()
        self._mixin.elr_rows.clear()

    def _elr_visit(self, rows: Tensor, probs: Tensor) -> Tensor:
        return early_learning_target(rows, probs, momentum=self.mixin_options.elr_momentum, probs=probs)
