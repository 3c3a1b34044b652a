"""Prediction flips: what a new model gets wrong that the old one got right, and the reverse.

Each rate is one division of the integers that :func:`~lightning_flip.functional.flip_counts.count_flips` takes.
"""

from __future__ import annotations

from jaxtyping import Float, Integer
from torch import Tensor

from lightning_flip.functional.correctness import changed_predictions, share
from lightning_flip.functional.flip_counts import count_flips

__all__ = [
    "churn",
    "negative_flip_impact",
    "negative_flip_rate",
    "positive_flip_rate",
    "relative_negative_flip_rate",
    "trust_score",
]


def negative_flip_rate(
    old_preds: Integer[Tensor, " N"] | Float[Tensor, "N K_old"],
    new_preds: Integer[Tensor, " N"] | Float[Tensor, "N K_new"],
    target: Integer[Tensor, " N"],
    *,
    ignore_index: int | None = None,
) -> Float[Tensor, ""]:
    r"""Share of samples that the old model gets right and the new one wrong (NFR).

    Equation 2 of "Positive-Congruent Training":
    :math:`\frac{1}{N}\sum_i 1(\hat y_i^{new} \ne y_i, \hat y_i^{old} = y_i)`.

    Args:
        old_preds: the old model's integer labels ``[N]`` or scores ``[N, K_old]``.
        new_preds: the new model's integer labels ``[N]`` or scores ``[N, K_new]``.
        target: integer labels ``[N]``.
        ignore_index: the label of samples that do not count.

    Returns:
        0-dim float32 tensor in [0, 1]; 0 without samples.

    Raises:
        TypeError: for wrong dtypes.
        ValueError: for wrong shapes, or lengths that differ.

    Example:
        >>> import torch
        >>> old, new, target = torch.tensor([[0, 1, 2, 0], [0, 2, 1, 1], [0, 1, 1, 2]])
        >>> negative_flip_rate(old, new, target)
        tensor(0.2500)
    """
    return count_flips(old_preds, new_preds, target, ignore_index=ignore_index).negative_flip_rate()


def positive_flip_rate(
    old_preds: Integer[Tensor, " N"] | Float[Tensor, "N K_old"],
    new_preds: Integer[Tensor, " N"] | Float[Tensor, "N K_new"],
    target: Integer[Tensor, " N"],
    *,
    ignore_index: int | None = None,
) -> Float[Tensor, ""]:
    """Share of samples that the old model gets wrong and the new one right (PFR).

    ``negative_flip_rate - positive_flip_rate`` is the accuracy that the update lost.

    Args:
        old_preds: the old model's integer labels ``[N]`` or scores ``[N, K_old]``.
        new_preds: the new model's integer labels ``[N]`` or scores ``[N, K_new]``.
        target: integer labels ``[N]``.
        ignore_index: the label of samples that do not count.

    Returns:
        0-dim float32 tensor in [0, 1]; 0 without samples.

    Raises:
        TypeError: for wrong dtypes.
        ValueError: for wrong shapes, or lengths that differ.

    Example:
        >>> import torch
        >>> old, new, target = torch.tensor([[0, 1, 2, 0], [0, 2, 1, 1], [0, 1, 1, 2]])
        >>> positive_flip_rate(old, new, target)
        tensor(0.2500)
    """
    return count_flips(old_preds, new_preds, target, ignore_index=ignore_index).positive_flip_rate()


def relative_negative_flip_rate(
    old_preds: Integer[Tensor, " N"] | Float[Tensor, "N K_old"],
    new_preds: Integer[Tensor, " N"] | Float[Tensor, "N K_new"],
    target: Integer[Tensor, " N"],
    *,
    ignore_index: int | None = None,
) -> Float[Tensor, ""]:
    r"""Negative flips in units of those that two models with independent errors would have.

    "Positive-Congruent Training" divides the NFR by the expected one, from both models' error rates ER:
    :math:`NFR / ((1 - ER_{old}) ER_{new})`.

    Args:
        old_preds: the old model's integer labels ``[N]`` or scores ``[N, K_old]``.
        new_preds: the new model's integer labels ``[N]`` or scores ``[N, K_new]``.
        target: integer labels ``[N]``.
        ignore_index: the label of samples that do not count.

    Returns:
        0-dim float32 tensor, at least 0 and without an upper bound: 1 means as many flips as between independent
        models. 0 where the denominator is 0 (the old model has nothing right or the new one nothing wrong): our
        reading, as there can be no negative flip then.

    Raises:
        TypeError: for wrong dtypes.
        ValueError: for wrong shapes, or lengths that differ.

    Example:
        >>> import torch
        >>> old, new, target = torch.tensor([[0, 1, 2, 0], [0, 2, 1, 1], [0, 1, 1, 2]])
        >>> relative_negative_flip_rate(old, new, target)
        tensor(1.)
    """
    return count_flips(old_preds, new_preds, target, ignore_index=ignore_index).relative_negative_flip_rate()


def negative_flip_impact(
    old_preds: Integer[Tensor, " N"] | Float[Tensor, "N K_old"],
    new_preds: Integer[Tensor, " N"] | Float[Tensor, "N K_new"],
    target: Integer[Tensor, " N"],
    *,
    ignore_index: int | None = None,
) -> Float[Tensor, ""]:
    """Share of the new model's errors that are negative flips (NFI).

    Args:
        old_preds: the old model's integer labels ``[N]`` or scores ``[N, K_old]``.
        new_preds: the new model's integer labels ``[N]`` or scores ``[N, K_new]``.
        target: integer labels ``[N]``.
        ignore_index: the label of samples that do not count.

    Returns:
        0-dim float32 tensor in [0, 1]; 0 where the new model makes no error.

    Raises:
        TypeError: for wrong dtypes.
        ValueError: for wrong shapes, or lengths that differ.

    Example:
        >>> import torch
        >>> old, new, target = torch.tensor([[0, 1, 2, 0], [0, 2, 1, 1], [0, 1, 1, 2]])
        >>> negative_flip_impact(old, new, target)
        tensor(0.5000)
    """
    return count_flips(old_preds, new_preds, target, ignore_index=ignore_index).negative_flip_impact()


def trust_score(
    old_preds: Integer[Tensor, " N"] | Float[Tensor, "N K_old"],
    new_preds: Integer[Tensor, " N"] | Float[Tensor, "N K_new"],
    target: Integer[Tensor, " N"],
    *,
    ignore_index: int | None = None,
) -> Float[Tensor, ""]:
    """Share of what the old model gets right that the new one still gets right.

    Args:
        old_preds: the old model's integer labels ``[N]`` or scores ``[N, K_old]``.
        new_preds: the new model's integer labels ``[N]`` or scores ``[N, K_new]``.
        target: integer labels ``[N]``.
        ignore_index: the label of samples that do not count.

    Returns:
        0-dim float32 tensor in [0, 1]; 1 where the old model has nothing right, as nothing can be lost then.

    Raises:
        TypeError: for wrong dtypes.
        ValueError: for wrong shapes, or lengths that differ.

    Example:
        >>> import torch
        >>> old, new, target = torch.tensor([[0, 1, 2, 0], [0, 2, 1, 1], [0, 1, 1, 2]])
        >>> trust_score(old, new, target)
        tensor(0.5000)
    """
    return count_flips(old_preds, new_preds, target, ignore_index=ignore_index).trust_score()


def churn(
    old_preds: Integer[Tensor, " N"] | Float[Tensor, "N K_old"],
    new_preds: Integer[Tensor, " N"] | Float[Tensor, "N K_new"],
) -> Float[Tensor, ""]:
    """Share of samples whose predicted class differs between two models, right or wrong.

    Args:
        old_preds: the old model's integer labels ``[N]`` or scores ``[N, K_old]``.
        new_preds: the new model's integer labels ``[N]`` or scores ``[N, K_new]``.

    Returns:
        0-dim float32 tensor in [0, 1]; 0 without samples.

    Raises:
        TypeError: for wrong dtypes.
        ValueError: for wrong shapes, or lengths that differ.

    Example:
        >>> import torch
        >>> churn(torch.tensor([0, 1, 2, 0]), torch.tensor([0, 2, 1, 1]))
        tensor(0.7500)
    """
    changed = changed_predictions(old_preds, new_preds)
    return share(changed.sum(), changed.numel())
