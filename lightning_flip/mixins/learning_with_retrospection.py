"""Learning with retrospection as a mixin."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from lightning_flip.functional.losses import widen
from lightning_flip.functional.past_predictions import learning_with_retrospection_loss, restriction_weights
from lightning_flip.mixins.base import LossTerm, Reduced
from lightning_flip.steps import SampleStep
from lightning_flip.steps.options import check_choices, check_positive, check_whole

__all__ = ["LearningWithRetrospection"]

TABLE = "retrospection"


class LearningWithRetrospection(LossTerm):
    """Pulls the network towards its own logits of some epochs ago (LWR, Deng and Zhang 2021).

    Every visit writes the logits into a table; every ``interval`` epochs that table becomes the one that the
    loss reads. Samples without a row, and the first ``interval`` epochs, use CE; then the loss is
    alpha CE + beta t^2 KL(softmax(row / t) || softmax(z / t)) with alpha = 1 - 0.9 c / M, beta = 0.9 c / M
    and c = floor(k / interval) interval.

    Args:
        lwr_temperature: t > 0.
        lwr_interval: epochs per round; the paper uses 5 for ResNet and ShuffleNet, 1 for WRN.
        lwr_unvisited: from the second round on, what a sample without a row trains with: "cross_entropy", or "uniform"
            as the authors' code, whose rows begin at 0: the loss above with a row of equal logits.

    Example:
        >>> from lightning_flip.models import MLP, Classifier
        >>> class Retrospective(LearningWithRetrospection, Classifier): ...
        >>> Retrospective(network=MLP(4, 3), num_classes=3, lwr_interval=1).mixin_options.lwr_interval
        1
    """

    softens_target = True
    replaces_cross_entropy = True

    def __init__(
        self,
        *args: Any,
        lwr_temperature: float = 5.0,
        lwr_interval: int = 5,
        lwr_unvisited: Literal["cross_entropy", "uniform"] = "cross_entropy",
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.mixin_options.take(
            **check_positive(lwr_temperature=lwr_temperature),
            **check_whole(at_least=1, lwr_interval=lwr_interval),
            **check_choices(lwr_unvisited=(lwr_unvisited, ("cross_entropy", "uniform"))),
        )

    def method_loss(self, step: SampleStep, reduction: Reduced = "none") -> Tensor:
        """Per sample alpha CE + beta t^2 KL(softmax(row / t) || softmax(z / t)) if it has a row, else CE."""
        options = self.mixin_options
        self.require_labels(step)
        table = self.table(TABLE, step, step.num_classes)
        epoch, total = self._term_loop.schedule()
        alpha, beta = restriction_weights(epoch // options.lwr_interval * options.lwr_interval, total)
        known = table.seen(step.index)
        if options.lwr_unvisited == "uniform" and epoch > options.lwr_interval:
            known = torch.ones_like(known)  # rows that were never written are 0
        return learning_with_retrospection_loss(
            step.logits,
            step.target,
            table.rows(step.index).to(widen(step.logits).dtype),
            known,
            alpha=alpha,
            beta=beta,
            temperature=options.lwr_temperature,
            reduction=reduction,
        )

    def observe(self, step: SampleStep) -> None:
        """Store the logits of this visit."""
        self.table(TABLE, step, step.num_classes).update(step.index, step.logits, step.valid)

    def new_epoch(self, epoch: int) -> None:
        """Make the rows of the previous round readable when a round begins."""
        if TABLE in self._term_loop.tables and (epoch - 1) % self.mixin_options.lwr_interval == 0:
            self._term_loop.tables[TABLE].commit()
