"""Wrong labels on purpose: symmetric and class-conditional label noise, drawn from an explicit generator."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lightning_flip.functional.transitions import check_transition

__all__ = ["class_conditional_noise", "symmetric_noise"]


def symmetric_noise(
    target: Int[Tensor, N],
    rate: float,
    num_classes: int,
    *,
    include_true_class: bool = False,
    exact: bool = False,
    generator: torch.Generator,
) -> Int[Tensor, N]:
    r"""Replace labels by uniformly drawn ones, each with probability ``rate``.

    With probability :math:`r` the label becomes one of the other :math:`K - 1` classes (the label smoothing and the
    Filter-KD papers). With ``include_true_class`` it is redrawn over all :math:`K` classes (the FER paper), so
    that only :math:`r (1 - 1/K)` of the labels end up wrong.

    The random numbers that choose the samples do not depend on the rate: with the same seed, what is replaced
    at a low rate is replaced by the same class at every higher rate. That, and ``exact``, are our own choices.

    Args:
        target: true labels ``[N]`` in ``[0, num_classes)``.
        rate: probability that a label is replaced, in ``[0, 1]``.
        num_classes: number of classes ``K``.
        include_true_class: redraw over all classes instead of the other ones.
        exact: replace exactly ``round(rate * N)`` labels, instead of each one independently.
        generator: where the random numbers come from; it is advanced.

    Returns:
        New labels ``[N]``, of the dtype and on the device of ``target``, which is left as it is.

    Raises:
        ValueError: if the rate is outside ``[0, 1]``, a label outside ``[0, num_classes)``, or there is no
            other class to change to.

    Example:
        >>> target = torch.zeros(1000, dtype=torch.int64)
        >>> noisy = symmetric_noise(target, 0.4, 10, exact=True, generator=torch.Generator().manual_seed(0))
        >>> int((noisy != target).sum())
        400
    """
    if not 0 <= rate <= 1:
        raise ValueError(f"rate is a probability: expected a number in [0, 1], got {rate}; 40% noise is rate=0.4.")
    if num_classes < 2 and not include_true_class:
        raise ValueError(f"num_classes must be at least 2, so that there is another class to draw, got {num_classes}.")
    _check_labels(target, num_classes)
    score = torch.rand(target.shape, dtype=torch.float64, device=generator.device, generator=generator)
    low = 0 if include_true_class else 1
    shift = torch.randint(low, num_classes, target.shape, device=generator.device, generator=generator)
    chosen = score.argsort().argsort() < round(rate * target.numel()) if exact else score < rate
    chosen, shift = chosen.to(target.device), shift.to(target.device)
    # A uniform shift modulo K is a uniform class, and a shift of at least 1 never comes back to the same one.
    replaced = (target.to(torch.int64) + shift) % num_classes
    return torch.where(chosen, replaced.to(target.dtype), target)


def class_conditional_noise(
    target: Int[Tensor, N], transition: Float[Tensor, "K K"], *, generator: torch.Generator
) -> Int[Tensor, N]:
    """Redraw every label from the row of a transition matrix that belongs to its class.

    Args:
        target: true labels ``[N]`` in ``[0, K)``.
        transition: row-stochastic matrix ``[K, K]``: ``transition[true, noisy]`` is the probability that a sample
            of class ``true`` is labeled ``noisy``.
        generator: where the random numbers come from; it is advanced.

    Returns:
        New labels ``[N]``, of the dtype and on the device of ``target``, which is left as it is.

    Raises:
        ValueError: if the matrix is not row-stochastic (entries at least 0, rows that sum to 1 within 1e-6), or
            a label is outside ``[0, K)``.

    Example:
        >>> always_the_other = torch.tensor([[0.0, 1.0], [1.0, 0.0]])
        >>> class_conditional_noise(torch.tensor([0, 1, 1]), always_the_other, generator=torch.Generator())
        tensor([1, 0, 0])
    """
    transition = transition.to(generator.device, torch.float64)
    check_transition(transition)
    _check_labels(target, len(transition))
    cumulative = transition.cumsum(1)
    # Dividing makes the last class with a probability end at exactly 1, so that rounding never draws one without.
    cumulative = cumulative / cumulative[:, -1:]
    labels = target.to(generator.device, torch.int64)
    uniform = torch.rand(labels.shape, dtype=torch.float64, device=generator.device, generator=generator)
    noisy = labels.clone()
    for label in torch.unique(labels).tolist():  # class by class: [N, K] at once is gigabytes for a thousand classes
        rows = labels == label
        noisy[rows] = torch.searchsorted(cumulative[label], uniform[rows], right=True)
    return noisy.to(target.device, target.dtype)


def _check_labels(target: Tensor, num_classes: int) -> None:
    if target.numel() and not 0 <= int(target.min()) <= int(target.max()) < num_classes:
        raise ValueError(
            f"target must hold labels in [0, {num_classes}), got labels from {int(target.min())} to "
            f"{int(target.max())}. Count classes from 0, or give the right number of classes."
        )
