"""Forgetting across epochs: which samples were right once and are wrong in the end, and how often on the way.

All functions read one boolean matrix ``correct [epochs, N]``: row e says which samples epoch e classified correctly.
Another dtype is a TypeError, another shape a ValueError.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from lightning_flip.functional.flips import share

__all__ = ["flipping_error", "forgetting_events", "never_learned", "relative_flipping_error", "wrongly_flipped"]


def wrongly_flipped(correct: Bool[Tensor, "epochs N"], selected: int = -1) -> Bool[Tensor, " N"]:
    """Samples that the selected epoch gets wrong and some earlier epoch had right (WFS).

    Args:
        correct: boolean ``[epochs, N]``.
        selected: the row of the epoch to judge; negative rows count from the end. Rows after it play no part.

    Returns:
        Boolean ``[N]``; all False for the first epoch, which has no earlier one.

    Raises:
        ValueError: if ``correct`` has no row ``selected``.

    Example:
        >>> correct = torch.tensor([[True, False, False], [False, True, False]])
        >>> wrongly_flipped(correct), wrongly_flipped(correct, selected=0)
        (tensor([ True, False, False]), tensor([False, False, False]))
    """
    _check_selected(correct, selected)
    return correct[:selected].any(dim=0) & ~correct[selected]


def flipping_error(correct: Bool[Tensor, "epochs N"], selected: int = -1) -> Float[Tensor, ""]:
    """Share of samples that are wrongly flipped (FE): #WFS / #samples, Equation 7 of "Flipping Error Reduction".

    Args:
        correct: boolean ``[epochs, N]``, of held-out samples for the paper's number.
        selected: the row of the epoch to judge; the paper takes the last one, which is the default.

    Returns:
        0-dim float32 tensor in [0, 1], at most the selected epoch's error rate; 0 without samples.

    Example:
        >>> flipping_error(torch.tensor([[True, True, False, False], [False, True, False, True]]))
        tensor(0.2500)
    """
    return share(wrongly_flipped(correct, selected).sum(), correct.shape[1])


def relative_flipping_error(correct: Bool[Tensor, "epochs N"], selected: int = -1) -> Float[Tensor, ""]:
    """Share of the selected epoch's errors that are wrongly flipped (RFE): #WFS / #misclassified samples.

    Arguments are those of :func:`flipping_error`.

    Returns:
        0-dim float32 tensor in [0, 1]; 0 if the selected epoch makes no error (our reading).

    Example:
        >>> relative_flipping_error(torch.tensor([[True, True, False, False], [False, True, False, True]]))
        tensor(0.5000)
    """
    flipped = wrongly_flipped(correct, selected).sum()
    return share(flipped, (~correct[selected]).sum())


def forgetting_events(correct: Bool[Tensor, "epochs N"]) -> Int64[Tensor, " N"]:
    """How often each sample went from right to wrong between consecutive visits, int64 ``[N]`` in [0, epochs / 2].

    A sample that was never right has no event; report it apart, with :func:`never_learned`.

    Example:
        >>> forgetting_events(torch.tensor([[True, False], [False, False], [True, False], [False, True]]))
        tensor([2, 0])
    """
    _check_correct(correct)
    return (correct[:-1] & ~correct[1:]).sum(dim=0)


def never_learned(correct: Bool[Tensor, "epochs N"]) -> Bool[Tensor, " N"]:
    """Which samples no epoch classified correctly, boolean ``[N]``; all True without epochs.

    Example:
        >>> never_learned(torch.tensor([[True, False], [False, False]]))
        tensor([False,  True])
    """
    _check_correct(correct)
    return ~correct.any(dim=0)


def _check_correct(correct: Tensor) -> None:
    if correct.ndim != 2:
        raise ValueError(
            f"correct must be a boolean matrix [epochs, N]; got shape {tuple(correct.shape)}. "
            f"Stack one row [N] for each epoch: torch.stack(rows)."
        )
    if correct.dtype != torch.bool:
        raise TypeError(
            f"correct must be boolean; got {correct.dtype}. "
            f"Compare predictions with labels (preds == target), or convert zeros and ones with .bool()."
        )


def _check_selected(correct: Tensor, selected: int) -> None:
    _check_correct(correct)
    if not -correct.shape[0] <= selected < correct.shape[0]:
        raise ValueError(
            f"selected must be an epoch of correct, which has shape {tuple(correct.shape)}; got {selected}. "
            f"Rows count from 0, or from the end with -1."
        )
