"""The targets that the loss of a class of mixins has, for reporting."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from lightning_flip.functional.losses import one_hot_targets
from lightning_flip.steps import SampleStep

__all__ = ["training_targets"]


def training_targets(module: Any, step: SampleStep, given: SampleStep, methods: list[type]) -> tuple[Tensor, Tensor]:
    """The true classes of a step's samples and the target of the whole loss, both ``[B, K]`` and without gradient.

    With the module's loss H(e, p) and methods that get the target g, the whole loss H(e, p) + w [H(g, p) - H(e, p) +
    sum_m (H(s_m, p) - H(g, p))] is linear in its targets: it is H(t, p) with t = e + w [g - e + sum_m (s_m - g)].
    """
    own, labels = (_distributions(seen.target, step) for seen in (step, given))
    difference = labels - own
    for method in methods:
        target = vars(method)["soft_target"](module, given) if "soft_target" in vars(method) else None
        if target is None:
            raise TypeError(
                f"the loss of {method.__name__}, with its options here, is not a cross entropy against a target, so "
                "there are no training targets to show. Leave TrainingTargets out of this run."
            )
        difference = difference + _distributions(target, step) - labels
    return labels, own + difference * module.mixin_options.term_weight


def _distributions(target: Tensor, step: SampleStep) -> Tensor:
    return one_hot_targets(target, step.num_classes, step.logits).detach()
