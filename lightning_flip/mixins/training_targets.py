"""What the loss of a class of mixins pulls each prediction towards."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from lightning_flip.functional.pairwise import one_hot_targets
from lightning_flip.steps import SampleStep

if TYPE_CHECKING:
    from lightning_flip.mixins.base import LossTerm

__all__ = ["training_targets"]


def training_targets(module: LossTerm, step: SampleStep, methods: list[type]) -> tuple[Tensor, Tensor]:
    """The true classes of a step's samples, and the target that the sum of all differences amounts to.

    H(e, p) + w sum_m [H(s_m, p) - H(e, p)] is linear in its targets: it is H(e + w sum_m (s_m - e), p).

    Args:
        module: the module.
        step: the running step.
        methods: the mixins of its class that define a loss.

    Returns:
        Both ``[B, K]``, without gradient.

    Raises:
        TypeError: if one of the methods' losses is no cross entropy against a target.
    """
    labels = one_hot_targets(module.true_classes(step), step.num_classes, step.logits).detach()
    own = one_hot_targets(step.target, step.num_classes, step.logits).detach()
    total = own
    for method in methods:
        target = vars(method)["soft_target"](module, step) if "soft_target" in vars(method) else None
        if target is None:
            raise TypeError(
                f"the loss of {method.__name__}, with its options here, is no cross entropy against a target, so that "
                "there are no training targets to show. Leave TrainingTargets out of this run."
            )
        total = total + module.term_weight * (one_hot_targets(target, step.num_classes, step.logits).detach() - own)
    return labels, total
