"""What there is to record about a prediction."""

from __future__ import annotations

from typing import NamedTuple

from jaxtyping import Float, Int
from torch import Tensor

from lightning_flip.functional.cross_entropy import widen
from lightning_flip.functional.margins import logit_margin

__all__ = ["Predictions", "describe_predictions"]


class Predictions(NamedTuple):
    """Per-sample facts about some predictions, each ``[B]``.

    Attributes:
        pred: predicted class.
        prob_label: p_y, in [0, 1].
        prob_pred: the largest probability, in [0, 1].
        logit_margin: z_y - max_{j != y} z_j.
        cross_entropy: -log p_y, in nats.

    Example:
        >>> import torch
        >>> describe_predictions(torch.zeros(1, 4), torch.tensor([2])).cross_entropy
        tensor([1.3863])
    """

    pred: Tensor
    prob_label: Tensor
    prob_pred: Tensor
    logit_margin: Tensor
    cross_entropy: Tensor


def describe_predictions(logits: Float[Tensor, "B K"], target: Int[Tensor, " B"]) -> Predictions:
    """Describe predictions; no host synchronization.

    Args:
        logits: ``[B, K]``, K at least 2.
        target: labels ``[B]``; labels outside [0, K) are read as the nearest class.

    Returns:
        One tensor a fact.

    Example:
        >>> import torch
        >>> facts = describe_predictions(torch.tensor([[2.0, 0.0]]), torch.tensor([1]))
        >>> facts.pred.item(), round(facts.prob_label.item(), 4), facts.logit_margin.item()
        (0, 0.1192, -2.0)
    """
    # An index outside the classes would abort the whole process on a GPU.
    target = target.clamp(0, logits.shape[1] - 1)
    log_p = widen(logits).log_softmax(dim=1)
    log_label = log_p.gather(1, target[:, None])[:, 0]
    pred = logits.argmax(dim=1)  # not of the log-probabilities, which round logits that are almost equal to a tie
    log_best = log_p.gather(1, pred[:, None])[:, 0]
    return Predictions(pred, log_label.exp(), log_best.exp(), logit_margin(logits, target), -log_label)
