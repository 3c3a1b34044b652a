"""The four counts in which two models can agree or differ about the labels; every flip rate is a ratio of them."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float, Integer
from torch import Tensor

from lightning_flip.functional.correctness import correct_predictions, share

__all__ = ["FlipCounts", "count_flips"]


class FlipCounts(NamedTuple):
    """How two models agree about the labels: four 0-dim int64 counts that add up to the number of samples.

    Attributes:
        both_right: samples that both models classify correctly.
        negative: negative flips, right before and wrong now.
        positive: positive flips, wrong before and right now.
        both_wrong: samples that both models classify wrongly.

    Example:
        >>> import torch
        >>> counts = FlipCounts(*torch.tensor([6, 1, 2, 1]))
        >>> counts.negative_flip_rate(), counts.trust_score()
        (tensor(0.1000), tensor(0.8571))
    """

    both_right: Tensor
    negative: Tensor
    positive: Tensor
    both_wrong: Tensor

    @property
    def total(self) -> Tensor:
        """The number of samples."""
        return self.both_right + self.negative + self.positive + self.both_wrong

    @property
    def old_right(self) -> Tensor:
        """The number of samples that the old model classifies correctly."""
        return self.both_right + self.negative

    @property
    def new_wrong(self) -> Tensor:
        """The number of samples that the new model classifies wrongly."""
        return self.negative + self.both_wrong

    def negative_flip_rate(self) -> Tensor:
        """Negative flips over all samples."""
        return share(self.negative, self.total)

    def positive_flip_rate(self) -> Tensor:
        """Positive flips over all samples."""
        return share(self.positive, self.total)

    def relative_negative_flip_rate(self) -> Tensor:
        """Negative flips over those of two independent models."""
        # The rates' common denominators cancel, so the ratio is taken of integers.
        return share(self.negative * self.total, self.old_right * self.new_wrong)

    def negative_flip_impact(self) -> Tensor:
        """Negative flips over the new model's errors."""
        return share(self.negative, self.new_wrong)

    def trust_score(self) -> Tensor:
        """Samples that stayed right over those that were right."""
        return share(self.both_right, self.old_right, empty=1.0)


def count_flips(
    old_preds: Integer[Tensor, " N"] | Float[Tensor, "N K_old"],
    new_preds: Integer[Tensor, " N"] | Float[Tensor, "N K_new"],
    target: Integer[Tensor, " N"],
    arguments: tuple[str, str] = ("old_preds", "new_preds"),
    *,
    ignore_index: int | None = None,
) -> FlipCounts:
    """Count in which of the four ways two models agree or differ about each label.

    Returns the counts, on the device of the arguments. Of labels nothing is copied to the host; scores are looked at.

    Args:
        old_preds: the old model's integer labels ``[N]`` or scores ``[N, K_old]``.
        new_preds: the new model's. The number of classes may differ: each model's prediction is its own argmax over
            all of its own classes.
        target: integer labels ``[N]``.
        arguments: the names of ``old_preds`` and ``new_preds`` in errors.
        ignore_index: the label of samples that are not counted.

    Example:
        >>> import torch
        >>> old, new, target = torch.tensor([[0, 1, 2, 0], [0, 2, 1, 1], [0, 1, 1, 2]])
        >>> count_flips(old, new, target)
        FlipCounts(both_right=tensor(1), negative=tensor(1), positive=tensor(1), both_wrong=tensor(1))
    """
    old = correct_predictions(old_preds, target, arguments[0])
    new = correct_predictions(new_preds, target, arguments[1])
    ways = torch.stack([old & new, old & ~new, ~old & new, ~old & ~new])
    if ignore_index is not None:
        ways = ways & (target != ignore_index)
    return FlipCounts(*ways.sum(dim=1))
