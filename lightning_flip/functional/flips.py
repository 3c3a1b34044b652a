"""Prediction flips: what a new model gets wrong that the old one got right, and the reverse.

Each rate is one division of the integers that :func:`count_flips` takes.
"""

from __future__ import annotations

from typing import NamedTuple, TypeAlias

import torch
from jaxtyping import Bool, Float, Integer
from torch import Tensor

from lightning_flip._deprecate import former_order

__all__ = [
    "FlipCounts",
    "changed_predictions",
    "churn",
    "correct_predictions",
    "count_flips",
    "labels_of_scores",
    "negative_flip_impact",
    "negative_flip_rate",
    "positive_flip_rate",
    "predicted_labels",
    "relative_negative_flip_rate",
    "share",
    "trust_score",
]

Labels: TypeAlias = Integer[Tensor, " N"]
Preds: TypeAlias = Integer[Tensor, " N"] | Float[Tensor, "N K"]  # labels, or scores
OldPreds: TypeAlias = Integer[Tensor, " N"] | Float[Tensor, "N K_old"]
Rate: TypeAlias = Float[Tensor, ""]

#: The class of a row of scores that has none, which is equal to no label.
UNKNOWN = -1

# All arguments have one type, so that another order would only be another number: `old_preds` is passed by name.
_former_order = former_order("old_preds", "new_preds", "target", new_preds="preds")


class FlipCounts(NamedTuple):
    """How two models agree about the labels: four 0-dim int64 counts that add up to the number of samples.

    Attributes:
        both_right: samples that both models classify correctly.
        negative: negative flips, right before and wrong now.
        positive: positive flips, wrong before and right now.
        both_wrong: samples that both models classify wrongly.

    Example:
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


def count_flips(preds: Preds, target: Labels, old_preds: OldPreds, *, ignore_index: int | None = None) -> FlipCounts:
    """Count in which of the four ways two models agree or differ about each label, on the device of the arguments.

    Labels are not copied to the host; scores are, see :func:`predicted_labels`. Arguments are those of
    :func:`negative_flip_rate`.

    Example:
        >>> old, new, target = torch.tensor([[0, 1, 2, 0], [0, 2, 1, 1], [0, 1, 1, 2]])
        >>> count_flips(new, target, old)
        FlipCounts(both_right=tensor(1), negative=tensor(1), positive=tensor(1), both_wrong=tensor(1))
    """
    old = correct_predictions(old_preds, target, "old_preds")
    new = correct_predictions(preds, target, "preds")
    ways = torch.stack([old & new, old & ~new, ~old & new, ~old & ~new])
    if ignore_index is not None:
        ways = ways & (target != ignore_index)
    return FlipCounts(*ways.sum(dim=1))


@_former_order
def negative_flip_rate(preds: Preds, target: Labels, *, old_preds: OldPreds, ignore_index: int | None = None) -> Rate:
    r"""Share of samples that the old model gets right and the new one wrong (NFR).

    Equation 2 of "Positive-Congruent Training":
    :math:`\frac{1}{N}\sum_i 1(\hat y_i^{new} \ne y_i, \hat y_i^{old} = y_i)`.

    Args:
        preds: the new model's integer labels ``[N]`` or scores ``[N, K]``.
        target: integer labels ``[N]``.
        old_preds: the old model's integer labels ``[N]`` or scores ``[N, K_old]``. Each model's prediction is the
            argmax over its own classes, whose numbers may differ.
        ignore_index: the label of samples that do not count.

    Returns:
        0-dim float32 tensor in [0, 1]; 0 without samples.

    Raises:
        TypeError: for wrong dtypes.
        ValueError: for wrong shapes, lengths that differ, or a row of scores without a largest one (NaN).

    Example:
        >>> old, new, target = torch.tensor([[0, 1, 2, 0], [0, 2, 1, 1], [0, 1, 1, 2]])
        >>> negative_flip_rate(new, target, old_preds=old)
        tensor(0.2500)
    """
    return count_flips(preds, target, old_preds, ignore_index=ignore_index).negative_flip_rate()


@_former_order
def positive_flip_rate(preds: Preds, target: Labels, *, old_preds: OldPreds, ignore_index: int | None = None) -> Rate:
    """Share of samples that the old model gets wrong and the new one right (PFR).

    ``negative_flip_rate - positive_flip_rate`` is the accuracy that the update lost. Arguments and errors are those of
    :func:`negative_flip_rate`.

    Returns:
        0-dim float32 tensor in [0, 1]; 0 without samples.

    Example:
        >>> old, new, target = torch.tensor([[0, 1, 2, 0], [0, 2, 1, 1], [0, 1, 1, 2]])
        >>> positive_flip_rate(new, target, old_preds=old)
        tensor(0.2500)
    """
    return count_flips(preds, target, old_preds, ignore_index=ignore_index).positive_flip_rate()


@_former_order
def relative_negative_flip_rate(
    preds: Preds, target: Labels, *, old_preds: OldPreds, ignore_index: int | None = None
) -> Rate:
    r"""Negative flips in units of those that two models with independent errors would have.

    "Positive-Congruent Training" divides the NFR by the expected one, from both models' error rates ER:
    :math:`NFR / ((1 - ER_{old}) ER_{new})`. Arguments and errors are those of :func:`negative_flip_rate`.

    Returns:
        0-dim float32 tensor, at least 0 and without an upper bound: 1 means as many flips as between independent
        models. 0 if the denominator is 0 (the old model has nothing right or the new one nothing wrong): our
        reading, as there can be no negative flip then.

    Example:
        >>> old, new, target = torch.tensor([[0, 1, 2, 0], [0, 2, 1, 1], [0, 1, 1, 2]])
        >>> relative_negative_flip_rate(new, target, old_preds=old)
        tensor(1.)
    """
    return count_flips(preds, target, old_preds, ignore_index=ignore_index).relative_negative_flip_rate()


@_former_order
def negative_flip_impact(preds: Preds, target: Labels, *, old_preds: OldPreds, ignore_index: int | None = None) -> Rate:
    """Share of the new model's errors that are negative flips (NFI).

    Arguments and errors are those of :func:`negative_flip_rate`.

    Returns:
        0-dim float32 tensor in [0, 1]; 0 if the new model makes no error.

    Example:
        >>> old, new, target = torch.tensor([[0, 1, 2, 0], [0, 2, 1, 1], [0, 1, 1, 2]])
        >>> negative_flip_impact(new, target, old_preds=old)
        tensor(0.5000)
    """
    return count_flips(preds, target, old_preds, ignore_index=ignore_index).negative_flip_impact()


@_former_order
def trust_score(preds: Preds, target: Labels, *, old_preds: OldPreds, ignore_index: int | None = None) -> Rate:
    """Share of what the old model gets right that the new one still gets right.

    Arguments and errors are those of :func:`negative_flip_rate`.

    Returns:
        0-dim float32 tensor in [0, 1]; 1 if the old model has nothing right, as nothing can be lost then.

    Example:
        >>> old, new, target = torch.tensor([[0, 1, 2, 0], [0, 2, 1, 1], [0, 1, 1, 2]])
        >>> trust_score(new, target, old_preds=old)
        tensor(0.5000)
    """
    return count_flips(preds, target, old_preds, ignore_index=ignore_index).trust_score()


@former_order("old_preds", "new_preds", new_preds="preds")
def churn(preds: Preds, *, old_preds: OldPreds) -> Rate:
    """Share of samples whose predicted class differs between two models, right or wrong.

    Arguments and errors are those of :func:`negative_flip_rate`.

    Returns:
        0-dim float32 tensor in [0, 1]; 0 without samples.

    Example:
        >>> churn(torch.tensor([0, 2, 1, 1]), old_preds=torch.tensor([0, 1, 2, 0]))
        tensor(0.7500)
    """
    changed = changed_predictions(preds, old_preds)
    return share(changed.sum(), changed.numel())


def share(part: Integer[Tensor, ""], whole: Integer[Tensor, ""] | int, empty: float = 0.0) -> Rate:
    """The ratio of two counts as float32, whatever the default dtype is; ``empty`` if ``whole`` is 0.

    Example:
        >>> share(torch.tensor(1), torch.tensor(4)), share(torch.tensor(0), torch.tensor(0), empty=1.0)
        (tensor(0.2500), tensor(1.))
    """
    # Two integer tensors would divide to the default dtype, which is bfloat16 inside a true half precision step.
    part = part.to(torch.float32)
    if isinstance(whole, int):
        return part / whole if whole else torch.full_like(part, empty)
    return (part / whole.clamp(min=1).to(torch.float32)).masked_fill(whole == 0, empty)


def predicted_labels(preds: Preds, argument: str = "preds") -> Labels:
    """The predicted class of each sample: integer labels as they are, or the first of the largest scores, K >= 2.

    Half precision is fine, and so is minus infinity, which rules a class out. A row of scores without a largest one is
    refused under the name ``argument``; to check them waits for the device.

    Example:
        >>> predicted_labels(torch.tensor([[0.1, 0.9], [0.8, 0.2]]))
        tensor([1, 0])
    """
    labels = labels_of_scores(preds, argument)
    if preds.ndim == 2:
        refuse_unknown(labels == UNKNOWN, argument)
    return labels


def labels_of_scores(preds: Preds, argument: str = "preds") -> Labels:
    """As :func:`predicted_labels`, but :data:`UNKNOWN` for rows without a predicted class, and without waiting.

    Example:
        >>> labels_of_scores(torch.tensor([[0.1, torch.nan], [-torch.inf, 0.2]]))
        tensor([-1,  1])
    """
    if preds.ndim == 1:
        _check_labels(preds, argument)
        return preds
    if preds.ndim != 2:
        raise ValueError(
            f"{argument} must be integer labels [N] or scores [N, K]; got shape {tuple(preds.shape)}. "
            f"Move the classes last and flatten the rest, so that one row is one sample."
        )
    if not preds.is_floating_point():
        raise TypeError(
            f"{argument} of two dimensions must be floating point scores [N, K]; got {preds.dtype}. "
            f"Labels have one dimension; convert integer scores with .float()."
        )
    if preds.shape[1] < 2:
        raise ValueError(
            f"{argument} must score at least two classes; got shape {tuple(preds.shape)}. Turn the single score of a "
            f"binary classifier into labels first: (score > threshold).long()."
        )
    best, labels = preds.max(dim=1)
    return labels.masked_fill(~(best > -torch.inf), UNKNOWN)


def refuse_unknown(unknown: Bool[Tensor, " N"], argument: str, where: str = "", names: Tensor | None = None) -> None:
    """Refuse rows of scores that have no predicted class, of the samples ``names`` [N]; waits for a device."""
    rows = unknown.nonzero()[:, 0]
    if len(rows):
        row = int(rows[0])
        sample = "" if names is None else f" (sample {int(names[row])})"
        raise ValueError(
            f"{argument} must be numbers, of which one is the largest; {len(rows)} of {len(unknown)} rows{where} have "
            f"NaN in them or minus infinity for all classes, first row {row}{sample}, counted from 0. They have no "
            "predicted class. Look at the training (learning rate, bad inputs), or leave such rows out."
        )


def correct_predictions(preds: Preds, target: Labels, argument: str = "preds") -> Bool[Tensor, " N"]:
    """Which samples are classified correctly. A label that is not a class counts as predicted wrong.

    Example:
        >>> correct_predictions(torch.tensor([[0.1, 0.9], [0.8, 0.2]]), torch.tensor([1, 1]))
        tensor([ True, False])
    """
    labels = predicted_labels(preds, argument)
    _check_labels(target, "target")
    _check_lengths({argument: labels, "target": target})
    return labels == target


def changed_predictions(preds: Preds, old_preds: OldPreds) -> Bool[Tensor, " N"]:
    """Which samples two models put into different classes.

    Example:
        >>> changed_predictions(torch.tensor([0, 1]), torch.tensor([0, 2]))
        tensor([False,  True])
    """
    old, new = predicted_labels(old_preds, "old_preds"), predicted_labels(preds, "preds")
    _check_lengths({"old_preds": old, "preds": new})
    return old != new


def _check_labels(labels: Tensor, argument: str) -> None:
    if labels.ndim != 1:
        raise ValueError(
            f"{argument} must be integer labels [N]; got shape {tuple(labels.shape)}. "
            f"Flatten it, or take .argmax(dim=1) of one-hot rows."
        )
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise TypeError(
            f"{argument} of one dimension must be integer labels; got {labels.dtype}. "
            f"Convert class numbers with .long(), and scores of one class with (scores > threshold).long()."
        )


def _check_lengths(rows: dict[str, Tensor]) -> None:
    lengths = {argument: tensor.shape[0] for argument, tensor in rows.items()}
    if len(set(lengths.values())) > 1:
        raise ValueError(
            f"{' and '.join(lengths)} must have one row for each sample; got lengths {tuple(lengths.values())}. "
            f"Pass predictions and labels of the same samples, in the same order."
        )
