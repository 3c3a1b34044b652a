"""Losses that know how labels were spoiled: forward and backward correction (Patrini et al. 2017)."""

from __future__ import annotations

from jaxtyping import Float, Int
from torch import Tensor

from lightning_flip.functional.losses import Reduction, reduce_loss, weighted_sum, widen
from lightning_flip.functional.smearing import smeared_loss
from lightning_flip.functional.transitions import check_transition, inverse_transition

__all__ = ["backward_correction_loss", "forward_correction_loss", "noisy_label_loss"]


def forward_correction_loss(
    logits: Float[Tensor, "B K"],
    target: Int[Tensor, " B"] | Float[Tensor, "B K"],
    transition: Float[Tensor, "K K"],
    *,
    reduction: Reduction = "mean",
) -> Float[Tensor, ...]:
    """-log (p T)_y: the cross entropy of the label that noise makes of the model's class.

    Computed as -logsumexp_i(log p_i + log T[i, y]), so that no probability underflows on the way. T = I is cross
    entropy. The loss of a label is bounded by -log min_i T[i, y] if every class can become it, and infinite if
    none can.

    Args:
        logits: ``[B, K]``.
        target: labels ``[B]``, or distributions s ``[B, K]``, whose loss is H(s, p T); those take ``[B, K, K]``
            numbers on the way.
        transition: T ``[K, K]``, row-stochastic, ``transition[true, noisy]``; no gradient flows into it. It is checked
            on the CPU; on another device it is taken as it is, for a check would wait for the device.
        reduction: "mean", "none" or "sum".

    Returns:
        The loss in nats.

    Raises:
        ValueError: if the transition is not row-stochastic.

    Example:
        >>> import torch
        >>> T = torch.tensor([[0.9, 0.1], [0.1, 0.9]])
        >>> forward_correction_loss(torch.tensor([[50.0, -50.0]]), torch.tensor([1]), T)
        tensor(2.3026)
    """
    transition = transition.detach()
    if transition.device.type == "cpu":
        check_transition(transition)
    log_columns = transition.to(widen(logits).dtype).to(logits.device).log().T
    return noisy_label_loss(logits, target, log_columns, reduction=reduction)


def noisy_label_loss(
    logits: Float[Tensor, "B K"],
    target: Int[Tensor, " B"] | Float[Tensor, "B K"],
    log_columns: Float[Tensor, "K K"],
    *,
    reduction: Reduction = "mean",
) -> Float[Tensor, ...]:
    """Forward correction with log T known, ``log_columns[noisy, true]``, so that a training loop takes it once.

    It has the computation's device and type, and -inf if a true class never gets a label.

    Example:
        >>> import torch
        >>> noisy_label_loss(torch.tensor([[0.0, 0.0]]), torch.tensor([1]), torch.eye(2).log())
        tensor(0.6931)
    """
    log_p = widen(logits).log_softmax(dim=1)
    if not target.is_floating_point():
        return reduce_loss(-(log_p + log_columns[target]).logsumexp(dim=1), reduction)
    log_noisy = (log_p[:, None, :] + log_columns).logsumexp(dim=2)
    return reduce_loss(-weighted_sum(target.to(log_p.dtype), log_noisy), reduction)


def backward_correction_loss(
    logits: Float[Tensor, "B K"],
    target: Int[Tensor, " B"] | Float[Tensor, "B K"],
    transition: Float[Tensor, "K K"],
    *,
    eps: float = 1e-7,
    reduction: Reduction = "mean",
) -> Float[Tensor, ...]:
    """sum_j T^-1[y, j] (-log p_j): over the noise, its expectation is the loss of the true label.

    The inverse has negative entries, which would make the loss unbounded below: log p is clipped at log eps. That
    expectation, sum_y T[true, y] loss(y) = -log p_true, is exact if no log p is clipped.

    The matrix is checked and inverted in every call, which waits for its device; a training loop inverts it once
    (:func:`~lightning_flip.functional.inverse_transition`) and calls
    :func:`~lightning_flip.functional.smeared_loss`.

    Args:
        logits: ``[B, K]``.
        target: labels ``[B]``, or distributions ``[B, K]``.
        transition: T ``[K, K]``, row-stochastic and invertible, ``transition[true, noisy]``; no gradient flows into
            it.
        eps: where log p is clipped, in [0, 1); 0 does not clip.
        reduction: "mean", "none" or "sum".

    Returns:
        The loss in nats; it may be negative.

    Raises:
        ValueError: if the transition is not row-stochastic, or singular, or ``eps`` is out of range.

    Example:
        >>> import torch
        >>> T = torch.tensor([[0.75, 0.25], [0.25, 0.75]])
        >>> backward_correction_loss(torch.tensor([[3.0, 1.0]]).log(), torch.tensor([0]), T)
        tensor(-0.2616)
    """
    inverse = inverse_transition(transition.detach())
    return smeared_loss(logits, target, inverse.to(widen(logits).dtype), eps=eps, reduction=reduction)
