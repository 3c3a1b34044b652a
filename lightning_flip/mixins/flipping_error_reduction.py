"""Flipping error reduction as a mixin."""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from torch import Tensor

from lightning_flip.functional.losses import widen
from lightning_flip.functional.past_predictions import (
    average_behavior,
    behavior,
    flipping_error_reduction_loss,
    restriction_weights,
)
from lightning_flip.mixins.base import LossTerm, Reduced
from lightning_flip.steps import SampleStep
from lightning_flip.steps.options import check_choices, check_flags, check_numbers, check_positive

__all__ = ["FlippingErrorReduction"]

TABLE = "behavior"


class FlippingErrorReduction(LossTerm):
    """Restricts how far the network moves away from what it once got right (FER, Eq. 2-6).

    Where a sample was right in some epoch before this one, the loss is alpha CE + beta t^2 H(b^, softmax(z / t))
    with alpha = 1 - 0.9 k / M and beta = 0.9 k / M; elsewhere CE. b^ averages the behaviors softmax(z / t) of
    the epochs that were right, each weighted with its confidence: b^ <- exp(-mu c) b^ + (1 - exp(-mu c)) b.
    Behaviors come from the training forward itself; a table of N x K numbers is kept, no network.

    The paper prints KL divergence without t^2. Soft cross entropy (the same gradient, and it serves a b^ of
    mass under one) and t^2 are in the authors' code.

    Args:
        fer_temperature: t > 0.
        fer_mu: mu > 0; the paper uses 1 for ResNet-18, 0.3 for WRN and MobileNetV2, 0.5 for ShuffleNetV2.
        restrict: "correct" stores right behaviors and restricts samples that have one; "all" stores every
            behavior and restricts every sample from its second visit on (the ablation "w/o S1", and the
            paper's choice for noisy labels).
        average: False keeps the last stored behavior instead of the average ("w/o S2"). Without both it is
            learning with retrospection with interval 1.
        initial: "zeros" as the authors' code; "copy", our option, takes over the first behavior as it is.
        confidence: "label" is c = p_y (Eq. 3); "predicted", our option, is c = max p, which is better in
            our runs with noisy labels. With ``restrict="correct"`` the two are the same.
        temperature_squared: whether the regularizer is multiplied with t^2.
        alpha_range: alpha at k = 0 and at k = M, on a line between; both at least 0. The paper's numbers are the
            default, and options of the authors' script.
        beta_range: the same of beta.

    Example:
        >>> from lightning_flip.models import MLP, Classifier
        >>> class Robust(FlippingErrorReduction, Classifier): ...
        >>> Robust(network=MLP(4, 3), num_classes=3, fer_mu=0.5).mixin_options.fer_mu
        0.5
    """

    softens_target = True
    replaces_cross_entropy = True

    def __init__(
        self,
        *args: Any,
        fer_temperature: float = 5.0,
        fer_mu: float = 1.0,
        restrict: Literal["correct", "all"] = "correct",
        average: bool = True,
        initial: Literal["zeros", "copy"] = "zeros",
        confidence: Literal["label", "predicted"] = "label",
        temperature_squared: bool = True,
        alpha_range: tuple[float, float] = (1.0, 0.1),
        beta_range: tuple[float, float] = (0.0, 0.9),
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.mixin_options.take(
            **check_positive(fer_temperature=fer_temperature, fer_mu=fer_mu),
            **check_flags(average=average, temperature_squared=temperature_squared),
            **check_choices(
                restrict=(restrict, ("correct", "all")),
                initial=(initial, ("zeros", "copy")),
                confidence=(confidence, ("label", "predicted")),
            ),
            alpha_range=_ends("alpha_range", alpha_range),
            beta_range=_ends("beta_range", beta_range),
        )

    def method_loss(self, step: SampleStep, reduction: Reduced = "none") -> Tensor:
        """Per sample alpha CE + beta t^2 H(b^, softmax(z / t)) if it has a b^, else CE (Eq. 5)."""
        options = self.mixin_options
        self.require_labels(step)
        table = self.table(TABLE, step, step.num_classes)
        alpha, beta = restriction_weights(
            *self._term_loop.schedule(), alpha_range=options.alpha_range, beta_range=options.beta_range
        )
        return flipping_error_reduction_loss(
            step.logits,
            step.target,
            table.rows(step.index).to(widen(step.logits).dtype),
            table.seen(step.index),
            alpha=alpha,
            beta=beta,
            temperature=options.fer_temperature,
            temperature_squared=options.temperature_squared,
            zeros_elsewhere=True,
            reduction=reduction,
        )

    def observe(self, step: SampleStep) -> None:
        """b^ <- exp(-mu c) b^ + (1 - exp(-mu c)) b for the samples that were right, or all (Eq. 3)."""
        options = self.mixin_options
        table = self.table(TABLE, step, step.num_classes)
        if options.restrict == "correct":
            stored = step.predictions.pred == step.target
        else:
            stored = torch.ones_like(step.target, dtype=torch.bool)
        if step.valid is not None:
            stored = stored & step.valid
        new = behavior(step.logits, temperature=options.fer_temperature)
        pending = None
        if options.average:
            pending = before, known = table.pending(step.index)
            facts = step.predictions
            sure = facts.prob_label if options.confidence == "label" else facts.prob_pred
            first = ~known if options.initial == "copy" else None
            new = average_behavior(before.to(new.dtype), new, sure, mu=options.fer_mu, copy=first)
        table.update(step.index, new, stored, before=pending)

    def new_epoch(self, epoch: int) -> None:
        """Make readable what the previous epoch stored."""
        if TABLE in self._term_loop.tables:
            self._term_loop.tables[TABLE].commit()


def _ends(name: str, ends: Any) -> tuple[float, float]:
    """Both ends of a weight's schedule, checked."""
    expected = f"{name} must be two finite numbers of at least 0, the weight at k = 0 and at k = M; got {ends!r}."
    try:
        first, last = ends
        check_numbers(first=first, last=last)
    except (TypeError, ValueError):
        raise TypeError(expected) from None
    if not (0 <= first < math.inf and 0 <= last < math.inf):
        raise ValueError(expected)
    return float(first), float(last)
