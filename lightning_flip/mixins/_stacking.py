"""What methods in one class know of each other, and warnings about those that change the same thing twice."""

from __future__ import annotations

import math
import weakref
from typing import Any

from lightning.pytorch.utilities import rank_zero_warn

from lightning_flip.mixins._definition import TWO_CORRECTIONS, MixinClass, methods_that, refuse_several
from lightning_flip.mixins._options import MixinOptions
from lightning_flip.steps import SampleStep

__all__ = ["Stacked", "warn_of_distributions", "warn_of_stack"]

# Each warning comes once per class.
_WARNED_OF_STACK: weakref.WeakSet[type] = weakref.WeakSet()
_WARNED_OF_DISTRIBUTIONS: weakref.WeakSet[type] = weakref.WeakSet()


class Stacked(metaclass=MixinClass):
    """What a method knows of the others in its class."""

    mixin_options: MixinOptions
    _mixin: Any

    @classmethod
    def _define(cls) -> None:
        """Check a class at its definition; overrides call ``super``."""

    @classmethod
    def softening_methods(cls) -> list[str]:
        """Names of the methods in this class that move the target away from the label."""
        return methods_that(cls, "softens_target")

    @classmethod
    def replacing_methods(cls) -> list[str]:
        """Names of the methods in this class that replace all or part of the cross entropy."""
        return methods_that(cls, "replaces_cross_entropy")

    def step_for_methods(self, step: SampleStep) -> SampleStep:
        """The step as the methods get it, if the module saw another one."""
        return step

    def brings_distributions(self, step: SampleStep) -> bool:
        """Whether the loader's targets are distributions, before any method of the class changed them."""
        return not step.has_labels

    def declare_correction(self, method: type) -> None:
        """Declare that a method corrects for label noise, if an option decides that; call it in the constructor."""
        self._mixin.corrections.append(method.__name__)
        refuse_several(type(self), self._mixin.corrections, TWO_CORRECTIONS, ValueError)

    def require_unmixed(self, known: str) -> None:
        """Refuse a batch that another method of the class mixed, for methods that have something per sample."""


def warn_of_stack(module: Any) -> None:
    """Warn once per class if its methods modify the same part of the loss.

    There is no warning if ``term_weight`` makes the loss at most the mean of theirs.
    """
    softening, replacing = module.softening_methods(), module.replacing_methods()
    problems, most = [], max(1.0, (1 + 1e-9) / module.mixin_options.term_weight)
    if len(softening) > most:
        problems.append(
            f"{', '.join(softening)} each soften the target, and their differences to cross entropy add up: together "
            "they change it more than either paper intends."
        )
    if len(replacing) > most:
        problems.append(
            f"{', '.join(replacing)} each take the place of cross entropy, which is subtracted for each of them: what "
            "is left of it may be negative, and the loss may be unbounded below."
        )
    if problems and type(module) not in _WARNED_OF_STACK:
        _WARNED_OF_STACK.add(type(module))
        share = math.floor(100 / max(len(softening), len(replacing))) / 100
        advice = f"Use one of them, or pass term_weight={share:g}, with which the loss is the mean of theirs."
        rank_zero_warn(f"{type(module).__name__}: {' '.join([*problems, advice])}")


def warn_of_distributions(module: Stacked) -> None:
    """Warn once per class if a method of the class softens targets that are distributions already."""
    if type(module) in _WARNED_OF_DISTRIBUTIONS:  # called in every step
        return
    _WARNED_OF_DISTRIBUTIONS.add(type(module))
    softening = module.softening_methods()
    if not softening:
        return
    names, verb = ", ".join(softening), "soften" if len(softening) > 1 else "softens"
    rank_zero_warn(
        f"{type(module).__name__}: {names} {verb} the target, and the batches bring distributions, float [B, K], "
        "instead of labels. If MixUp or CutMix in the loader, or smoothing in the dataset, made them, the target is "
        f"softened twice: leave that out, or {names}. If they are what is known of each sample (people's votes, a "
        "table of true probabilities), the network is pulled away from them as it is from labels; leave out "
        f"{names} to avoid that."
    )
