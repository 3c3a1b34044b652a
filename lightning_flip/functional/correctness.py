"""Predictions compared with labels, or against other predictions, one row a sample; and the ratio of two counts."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Integer
from torch import Tensor

__all__ = ["changed_predictions", "correct_predictions", "labels_of_scores", "predicted_labels", "share"]

#: The class of a row of scores that has none, which is equal to no label.
UNKNOWN = -1


def share(part: Integer[Tensor, ""], whole: Integer[Tensor, ""] | int, empty: float = 0.0) -> Float[Tensor, ""]:
    """The ratio of two counts as float32, whatever the default dtype is.

    Example:
        >>> share(torch.tensor(1), torch.tensor(4)), share(torch.tensor(0), torch.tensor(0), empty=1.0)
        (tensor(0.2500), tensor(1.))
    """
    # Two integer tensors would divide to the default dtype, which is bfloat16 inside a true half precision step.
    part = part.to(torch.float32)
    if isinstance(whole, int):
        return part / whole if whole else torch.full_like(part, empty)
    return (part / whole.clamp(min=1).to(torch.float32)).masked_fill(whole == 0, empty)


def predicted_labels(
    preds: Integer[Tensor, " N"] | Float[Tensor, "N K"], argument: str = "preds"
) -> Integer[Tensor, " N"]:
    """The predicted class of each sample. Returns integer labels ``[N]``.

    Args:
        preds: integer labels ``[N]``, returned as they are, or floating point scores ``[N, K]``, K >= 2, of which the
            class with the largest score is taken (the first one of a tie). Half precision scores are fine, and so is
            minus infinity, which rules a class out. Scores are looked at, which waits for a device.
        argument: the name of ``preds`` in errors.

    Example:
        >>> predicted_labels(torch.tensor([[0.1, 0.9], [0.8, 0.2]]))
        tensor([1, 0])
    """
    labels = labels_of_scores(preds, argument)
    if preds.ndim == 2:
        refuse_unknown(labels == UNKNOWN, argument)
    return labels


def refuse_unknown(unknown: Bool[Tensor, " N"], argument: str, where: str = "", names: Tensor | None = None) -> None:
    """Refuse rows of scores that have no predicted class; waits for a device.

    Args:
        unknown: which rows have none.
        argument: the name of the scores in the error.
        where: what the rows are of, for the error.
        names: the samples of the rows, int64 ``[N]``.
    """
    rows = unknown.nonzero()[:, 0]
    if len(rows):
        row = int(rows[0])
        sample = "" if names is None else f" (sample {int(names[row])})"
        raise ValueError(
            f"{argument} must be numbers, of which one is the largest; {len(rows)} of {len(unknown)} rows{where} have "
            f"NaN in them or minus infinity for all classes, first row {row}{sample}, counted from 0. They have no "
            "predicted class. Look at the training (learning rate, bad inputs), or leave such rows out."
        )


def labels_of_scores(
    preds: Integer[Tensor, " N"] | Float[Tensor, "N K"], argument: str = "preds"
) -> Integer[Tensor, " N"]:
    """As :func:`predicted_labels`, but :data:`UNKNOWN` for rows without a predicted class, and without waiting.

    Returns integer labels ``[N]``.

    Args:
        preds: integer labels ``[N]`` or scores ``[N, K]``.
        argument: the name of ``preds`` in errors.

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


def correct_predictions(
    preds: Integer[Tensor, " N"] | Float[Tensor, "N K"], target: Integer[Tensor, " N"], argument: str = "preds"
) -> Bool[Tensor, " N"]:
    """Which samples are classified correctly.

    Scores are looked at as in :func:`predicted_labels`.

    Returns boolean ``[N]``.

    Args:
        preds: integer labels ``[N]`` or scores ``[N, K]``.
        target: integer labels ``[N]``. Values are not checked: a label that is not a class counts as predicted wrong.
        argument: the name of ``preds`` in errors.

    Example:
        >>> correct_predictions(torch.tensor([[0.1, 0.9], [0.8, 0.2]]), torch.tensor([1, 1]))
        tensor([ True, False])
    """
    labels = predicted_labels(preds, argument)
    _check_labels(target, "target")
    _check_lengths({argument: labels, "target": target})
    return labels == target


def changed_predictions(
    old_preds: Integer[Tensor, " N"] | Float[Tensor, "N K_old"],
    new_preds: Integer[Tensor, " N"] | Float[Tensor, "N K_new"],
    arguments: tuple[str, str] = ("old_preds", "new_preds"),
) -> Bool[Tensor, " N"]:
    """Which samples two models put into different classes. Returns boolean ``[N]``.

    Args:
        old_preds: the old model's integer labels ``[N]`` or scores ``[N, K_old]``.
        new_preds: the new model's integer labels ``[N]`` or scores ``[N, K_new]``.
        arguments: the names of ``old_preds`` and ``new_preds`` in errors.

    Example:
        >>> changed_predictions(torch.tensor([0, 1]), torch.tensor([0, 2]))
        tensor([False,  True])
    """
    old = predicted_labels(old_preds, arguments[0])
    new = predicted_labels(new_preds, arguments[1])
    _check_lengths({arguments[0]: old, arguments[1]: new})
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
