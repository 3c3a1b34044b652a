"""Mixup as a mixin, through torchvision."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2

from lightning_flip.functional.losses import cross_entropy
from lightning_flip.mixins.batch_mixing import BatchMixing
from lightning_flip.steps import SampleStep
from lightning_flip.steps.options import check_numbers

__all__ = ["Mixup"]


class Mixup(BatchMixing):
    """Trains on weighted sums of two samples and of their labels (Zhang et al. 2018; a baseline of the PLS paper).

    Inputs are l x_i + (1 - l) x_j and targets l e_yi + (1 - l) e_yj, with one l ~ Beta(a, a) a batch and H(q, p) as the
    loss. torchvision's ``v2.MixUp`` computes them, for inputs of any shape; it takes the sample before i in the batch
    for j, so let the loader shuffle.

    Args:
        *args: passed on to the module.
        mixup_alpha: a > 0; 1 makes every l as likely, as in the PLS paper.
        **kwargs: options of :class:`BatchMixing` and :class:`LossTerm`, and the module's.

    Raises:
        ValueError: if ``mixup_alpha`` is not positive and finite.

    Example:
        >>> from lightning_flip.models import MLP, Classifier
        >>> class Mixed(Mixup, Classifier): ...
        >>> Mixed(network=MLP(4, 3), num_classes=3, mixup_alpha=0.2).mixin_options.mixup_alpha
        0.2
    """

    softens_target = True

    def __init__(self, *args: Any, mixup_alpha: float = 1.0, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        check_numbers(mixup_alpha=mixup_alpha)
        if not (mixup_alpha > 0 and math.isfinite(mixup_alpha)):
            raise ValueError(f"mixup_alpha must be greater than 0 and finite; got {mixup_alpha}.")
        self.mixin_options.take(mixup_alpha=mixup_alpha)

    def mix_parts(self, parts: list[Tensor], target: Tensor, seed: int) -> tuple[list[Tensor], Tensor]:
        """What torchvision makes of the batch."""
        mixup = _mixup(self.mixin_options.mixup_alpha)
        # torchvision knows batches of images only, so that each part goes in as images of one row.
        images = [tv_tensors.Image(part.reshape(len(part), 1, 1, -1)) for part in parts]
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)  # torch.manual_seed would seed the accelerators as well
            *mixed, target = mixup(*images, target)
        shapes = [part.shape for part in parts]
        return [image.as_subclass(Tensor).reshape(shape) for image, shape in zip(mixed, shapes, strict=True)], target

    def method_loss(self, step: SampleStep) -> Tensor | None:
        """H(q, p) of every pair; None where it is the module's own loss already."""
        q = self.mixture(step)
        return None if q is step.target else cross_entropy(step.logits, q, reduction="none")

    def soft_target(self, step: SampleStep) -> Tensor:
        """The mixed labels q."""
        return self.mixture(step)


def _mixup(alpha: float) -> v2.MixUp:
    """The transform, whose l is drawn in float32: torch draws none in the half precision of a bf16-true run."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        return v2.MixUp(alpha=alpha, labels_getter=_last)
    finally:
        torch.set_default_dtype(before)


def _last(inputs: tuple[Any, ...]) -> Any:
    """The labels among what a transform is given."""
    return inputs[-1]
