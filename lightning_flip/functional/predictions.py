"""What there is to record about a prediction, and how far its logits are apart."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from jaxtyping import Float, Int, Integer
from torch import Tensor

from lightning_flip.functional.losses import widen

__all__ = [
    "Predictions",
    "describe_predictions",
    "logit_gap",
    "logit_margin",
]


class Predictions(NamedTuple):
    """Per-sample facts about some predictions, each ``[B]``.

    Attributes:
        pred: predicted class.
        prob_label: p_y, in [0, 1].
        prob_pred: the largest probability, in [0, 1].
        logit_margin: z_y - max_{j != y} z_j.
        cross_entropy: -log p_y, in nats.
        best_other: the most probable class that is not the label; of equal ones the first.

    Example:
        >>> describe_predictions(torch.zeros(1, 4), torch.tensor([2])).cross_entropy
        tensor([1.3863])
    """

    pred: Tensor
    prob_label: Tensor
    prob_pred: Tensor
    logit_margin: Tensor
    cross_entropy: Tensor
    best_other: Tensor


def describe_predictions(logits: Float[Tensor, "B K"], target: Int[Tensor, " B"]) -> Predictions:
    """Describe predictions; no host synchronization.

    Args:
        logits: ``[B, K]``, K at least 2.
        target: labels ``[B]``; labels outside [0, K) are read as the nearest class.

    Returns:
        One tensor ``[B]`` per fact.

    Example:
        >>> facts = describe_predictions(torch.tensor([[2.0, 0.0]]), torch.tensor([1]))
        >>> facts.pred.item(), round(facts.prob_label.item(), 4), facts.logit_margin.item()
        (0, 0.1192, -2.0)
    """
    # An index outside the classes would abort the whole process on a GPU.
    target = target.clamp(0, logits.shape[1] - 1)
    wide = widen(logits)
    column = target.long()[:, None]
    log_p = wide.log_softmax(dim=1)
    log_label = log_p.gather(1, column)[:, 0]
    # Of the logits, not of the log-probabilities, which round logits that are almost equal to a tie. The best other
    # class tells the prediction, too: the first of the largest logits, without another pass over all classes.
    own = wide.gather(1, column)[:, 0]
    best, other = wide.scatter(1, column, -math.inf).max(dim=1)
    first = torch.where(own < best, other, torch.minimum(column[:, 0], other))
    pred = torch.where(own > best, column[:, 0], first)
    log_best = log_p.gather(1, pred[:, None])[:, 0]
    return Predictions(pred, log_label.exp(), log_best.exp(), own - best, -log_label, other)


def logit_margin(logits: Float[Tensor, "B K"], target: Integer[Tensor, " B"]) -> Float[Tensor, " B"]:
    r"""The label's logit less the largest other one: :math:`z_y - \max_{j \ne y} z_j`.

    Positive exactly if the sample is classified correctly, 0 on a tie. Its mean over a sample's visits is the area
    under the margin (AUM), which is low for labels that the network learns against its own judgment.

    Args:
        logits: floating point ``[B, K]``, K >= 2. Arithmetic and result are at least float32.
        target: integer labels ``[B]`` in [0, K). Values are checked by the gather, not here: a label outside the range
            is an error on the CPU and a device-side assertion on a GPU.

    Returns:
        ``[B]`` in the units of the logits. Differentiable.

    Raises:
        TypeError: for logits that are not floating point, or targets that are not integers.
        ValueError: for wrong shapes, lengths that differ, or a single class.

    Example:
        >>> logit_margin(torch.tensor([[3.0, 1.0, 0.0], [3.0, 1.0, 0.0]]), torch.tensor([0, 2]))
        tensor([ 2., -3.])
    """
    _check_logits(logits, target)
    logits = widen(logits)
    column = target.long().unsqueeze(1)
    others = logits.scatter(1, column, -math.inf)
    return logits.gather(1, column).squeeze(1) - others.amax(dim=1)


def logit_gap(logits: Float[Tensor, "B K"], target: Integer[Tensor, " B"] | None = None) -> Float[Tensor, " B"]:
    r"""A class's logit less the mean of all logits: :math:`z_y - \frac1K \sum_j z_j`.

    How sure a network is of a label, the true one or a noisy one (Lukasik et al. 2020, Fig. 3 and 7). Types and errors
    are those of :func:`logit_margin`.

    Args:
        logits: floating point ``[B, K]``, K >= 2.
        target: integer labels ``[B]`` in [0, K); None takes each row's largest logit.

    Returns:
        ``[B]`` in the units of the logits. Differentiable.

    Example:
        >>> logits = torch.tensor([[3.0, 0.0, 0.0], [3.0, 0.0, 0.0]])
        >>> logit_gap(logits, torch.tensor([0, 2])), logit_gap(logits)
        (tensor([ 2., -1.]), tensor([2., 2.]))
    """
    _check_logits(logits, logits.new_zeros(len(logits), dtype=torch.int64) if target is None else target)
    logits = widen(logits)
    own = logits.amax(dim=1) if target is None else logits.gather(1, target.long()[:, None])[:, 0]
    return own - logits.mean(dim=1)


def _check_logits(logits: Tensor, target: Tensor) -> None:
    if logits.ndim != 2:
        raise ValueError(f"logits must have the shape [B, K]; got {tuple(logits.shape)}. Flatten all but the classes.")
    if not logits.is_floating_point():
        raise TypeError(f"logits must be floating point; got {logits.dtype}. Convert them with .float().")
    if logits.shape[1] < 2:
        raise ValueError(
            f"logits must have at least two classes, as the margin is taken to another class; got shape "
            f"{tuple(logits.shape)}. Write a single binary logit z as the two logits [0, z]."
        )
    if target.ndim != 1 or target.shape[0] != logits.shape[0]:
        raise ValueError(
            f"target must hold one label for each of the {logits.shape[0]} rows of logits; "
            f"got shape {tuple(target.shape)}."
        )
    if target.is_floating_point() or target.is_complex() or target.dtype == torch.bool:
        raise TypeError(
            f"target must be integer labels; got {target.dtype}. "
            f"Convert class numbers with .long(); mixed labels have no single margin."
        )
