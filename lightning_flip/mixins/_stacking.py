"""Which methods may stand in one class, and what is said of those that pull at the same thing twice."""

from __future__ import annotations

import math
import weakref
from typing import Any

from lightning.pytorch.utilities import rank_zero_warn

from lightning_flip.mixins._names import MixinClass, MixinOptions
from lightning_flip.mixins._options import owners_of
from lightning_flip.steps import SampleStep

__all__ = ["Stacked", "check_corrections", "methods_that", "warn_of_distributions", "warn_of_stack"]

# Each is said once for every class.
_WARNED_OF_STACK: weakref.WeakSet[type] = weakref.WeakSet()
_WARNED_OF_DISTRIBUTIONS: weakref.WeakSet[type] = weakref.WeakSet()


class Stacked(metaclass=MixinClass):
    """What a loss term knows of those that stand in one class with it."""

    mixin_options: MixinOptions
    _mixin: Any

    @classmethod
    def _define(cls) -> None:
        """Check a class when it is defined; overrides call ``super``."""

    @classmethod
    def softening_methods(cls) -> list[str]:
        """Names of the methods in this class that move the target away from the label."""
        return methods_that(cls, "softens_target")

    @classmethod
    def replacing_methods(cls) -> list[str]:
        """Names of the methods in this class that take the place of cross entropy."""
        return methods_that(cls, "replaces_cross_entropy")

    def step_for_methods(self, step: SampleStep) -> SampleStep:
        """The step as the methods are given it, where that is not how the module saw it."""
        return step

    def brings_distributions(self, step: SampleStep) -> bool:
        """Whether the loader's targets are distributions, whatever a method of the class has made of them."""
        return not step.has_labels

    def declare_correction(self, method: type) -> None:
        """Say that a method corrects the loss for label noise, where its options decide that; in its constructor."""
        self._mixin.corrections.append(method.__name__)
        if len(self._mixin.corrections) > 1:
            raise ValueError(_two_corrections(type(self), self._mixin.corrections))

    def require_unmixed(self, known: str) -> None:
        """Refuse a batch that another method of the class has mixed, for methods that have a row for each sample."""


def methods_that(cls: type, attribute: str) -> list[str]:
    """Names of the methods in a class that say something of themselves.

    Example:
        >>> from lightning_flip.mixins import LabelSmoothing, Mixup, NaivePositiveCongruent
        >>> class Stack(LabelSmoothing, NaivePositiveCongruent, Mixup): ...
        >>> methods_that(Stack, "softens_target")
        ['LabelSmoothing', 'Mixup']
    """
    return [owner.__name__ for owner in owners_of(cls, attribute, Stacked) if vars(owner)[attribute]]


def check_corrections(cls: type) -> None:
    """Refuse two corrections of label noise in one class."""
    methods = methods_that(cls, "corrects_noise")
    if len(methods) > 1:
        raise TypeError(_two_corrections(cls, methods))


def warn_of_stack(module: Any) -> None:
    """Say so, once for every class, where methods of one class pull at the same thing.

    Nothing is said where ``term_weight`` makes the loss no more than the mean of theirs.
    """
    softening, replacing = module.softening_methods(), module.replacing_methods()
    problems, most = [], max(1.0, (1 + 1e-9) / module.mixin_options.term_weight)
    if len(softening) > most:
        problems.append(
            f"{', '.join(softening)} each soften the target, and their differences to cross entropy add up: together "
            "they pull further than either paper meant."
        )
    if len(replacing) > most:
        problems.append(
            f"{', '.join(replacing)} each take the place of cross entropy, which is subtracted for each of them: what "
            "is left of it may be negative, and the loss may fall without end."
        )
    if problems and type(module) not in _WARNED_OF_STACK:
        _WARNED_OF_STACK.add(type(module))
        share = math.floor(100 / max(len(softening), len(replacing))) / 100
        advice = f"Use one of them, or pass term_weight={share:g}, with which the loss is the mean of theirs."
        rank_zero_warn(f"{type(module).__name__}: {' '.join([*problems, advice])}")


def warn_of_distributions(module: Stacked) -> None:
    """Say so, once for every class, where batches bring distributions and a method of the class softens them."""
    if type(module) in _WARNED_OF_DISTRIBUTIONS:  # asked in every step
        return
    _WARNED_OF_DISTRIBUTIONS.add(type(module))
    softening = module.softening_methods()
    if not softening:
        return
    names, verb = ", ".join(softening), "soften" if len(softening) > 1 else "softens"
    rank_zero_warn(
        f"{type(module).__name__}: {names} {verb} the target, and the batches bring distributions, float [B, K], where "
        "labels are usual. If MixUp or CutMix in the loader, or smoothing in the dataset, made them, the target is "
        f"softened twice: leave that out, or {names}. If they are what is known of each sample (people's votes, a "
        "table of true probabilities), the network is drawn away from them as it is from labels; leave out "
        f"{names} if it should not be."
    )


def _two_corrections(cls: type, methods: list[str]) -> str:
    return (
        f"{cls.__name__}: {' and '.join(methods)} both correct the loss for label noise, and each would correct what "
        "the other one has already corrected. Use one of them."
    )
