"""Mixup as a mixin, through torchvision."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2

from lightning_flip.functional.losses import cross_entropy
from lightning_flip.mixins.batch_mixing import BatchMixing
from lightning_flip.steps import SampleStep
from lightning_flip.steps.options import check_positive

__all__ = ["Mixup"]


class Mixup(BatchMixing):
    """Trains on weighted sums of two samples and of their labels (Zhang et al. 2018; a baseline of the PLS paper).

    Inputs are l x_i + (1 - l) x_j and targets q = l e_yi + (1 - l) e_yj, with one l ~ Beta(a, a) per batch, and the
    loss is H(q, p). torchvision's ``v2.MixUp`` computes them, for inputs of any shape; its j is the sample before i in
    the batch, so let the loader shuffle.

    Args:
        mixup_alpha: a > 0; 1 makes every l equally likely, as in the PLS paper.

    Example:
        >>> from lightning_flip.models import MLP, Classifier
        >>> class Mixed(Mixup, Classifier): ...
        >>> Mixed(network=MLP(4, 3), num_classes=3, mixup_alpha=0.2).mixin_options.mixup_alpha
        0.2
    """

    softens_target = True

    def __init__(self, *args: Any, mixup_alpha: float = 1.0, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.mixin_options.take(**check_positive(mixup_alpha=mixup_alpha))

    def mix_parts(self, parts: list[Tensor], target: Tensor, seed: int) -> tuple[list[Tensor], Tensor]:
        """Mix the batch with torchvision's ``v2.MixUp``."""
        mixup = _mixup(self.mixin_options.mixup_alpha)
        # torchvision mixes batches of images only, so each part is passed as images of one row.
        images = [tv_tensors.Image(part.reshape(len(part), 1, 1, -1)) for part in parts]
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)  # torch.manual_seed would seed the accelerators as well
            *mixed, target = mixup(*images, target)
        shapes = [part.shape for part in parts]
        return [image.as_subclass(Tensor).reshape(shape) for image, shape in zip(mixed, shapes, strict=True)], target

    def method_loss(self, step: SampleStep) -> Tensor | None:
        """H(q, p) per pair; None if that is the module's own loss already."""
        q = self.mixture(step)
        return None if q is step.target else cross_entropy(step.logits, q, reduction="none")

    def soft_target(self, step: SampleStep) -> Tensor:
        """The mixed labels q."""
        return self.mixture(step)


def _mixup(alpha: float) -> v2.MixUp:
    """The transform, which draws l in float32: torch cannot draw it in the half precision of a bf16-true run."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        return v2.MixUp(alpha=alpha, labels_getter=_last)
    finally:
        torch.set_default_dtype(before)


def _last(inputs: tuple[Any, ...]) -> Any:
    """The labels among a transform's inputs."""
    return inputs[-1]
