"""How unsure an ensemble is of each sample, from the logits ``[M, B, K]`` of its M members.

Another shape, and no members or classes, is a ValueError.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from lightning_flip.functional.losses import widen

__all__ = ["predictive_disagreement", "predictive_entropy", "predictive_std"]


def predictive_entropy(member_logits: Float[Tensor, "M B K"]) -> Float[Tensor, " B"]:
    """Entropy of the members' mean probability, H(mean_m p_m): ``[B]`` in nats, in [0, log K].

    Example:
        >>> sure_but_opposed = torch.tensor([[[50.0, 0.0]], [[0.0, 50.0]]])
        >>> predictive_entropy(sure_but_opposed)
        tensor([0.6931])
    """
    log_probs = _log_probabilities(member_logits)
    entropy: Tensor = torch.special.entr(log_probs.exp().mean(dim=0)).sum(dim=1)
    return entropy.clamp(0.0, math.log(log_probs.shape[2]))


def predictive_disagreement(member_logits: Float[Tensor, "M B K"]) -> Float[Tensor, " B"]:
    """Mean over members of KL(p_m || mean_m p_m): what they know apart from each other (Deep Ensembles).

    Lakshminarayanan et al. (2017) take the sum over members; the mean, our reading, has one range for all sizes.

    Returns:
        ``[B]`` in nats, in [0, log M]; 0 if all members agree.

    Example:
        >>> predictive_disagreement(torch.tensor([[[50.0, 0.0]], [[0.0, 50.0]]]))
        tensor([0.6931])
        >>> predictive_disagreement(torch.zeros(4, 1, 3))  # all of them as unsure as can be, and agreed
        tensor([0.])
    """
    log_probs = _log_probabilities(member_logits)
    log_mean = log_probs.logsumexp(dim=0) - math.log(len(log_probs))
    # The mean is at least p_m / M, so that the difference is finite wherever p_m is not 0.
    divergences = (log_probs.exp() * (log_probs - log_mean).masked_fill(log_probs == -math.inf, 0.0)).sum(dim=2)
    return divergences.mean(dim=0).clamp(0.0, math.log(len(log_probs)))


def predictive_std(member_logits: Float[Tensor, "M B K"]) -> Float[Tensor, " B"]:
    """Standard deviation over members of the probability of the class that the ensemble predicts: ``[B]``, in [0, 0.5].

    The ensemble's prediction is the argmax of the mean probability; the deviation is that of the population (over M).

    Example:
        >>> predictive_std(torch.tensor([[[50.0, 0.0]], [[0.0, 50.0]]]))
        tensor([0.5000])
    """
    probs = _log_probabilities(member_logits).exp()
    pred = probs.mean(dim=0).argmax(dim=1)
    chosen = probs.gather(2, pred.expand(len(probs), -1)[:, :, None])[:, :, 0]
    return (chosen - chosen.mean(dim=0)).square().mean(dim=0).sqrt()


def _log_probabilities(member_logits: Tensor) -> Tensor:
    if member_logits.ndim != 3 or member_logits.shape[0] == 0 or member_logits.shape[2] == 0:
        raise ValueError(
            f"expected the logits of M members [M, B, K], with M and K at least 1; got {tuple(member_logits.shape)}. "
            "torch.stack puts the members' logits [B, K] on top of each other."
        )
    return widen(member_logits).log_softmax(dim=2)
