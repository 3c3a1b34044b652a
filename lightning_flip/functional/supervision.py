"""How good a supervision is: its distance from the true distribution, and supervisions at chosen distances.

Paper: "Better supervisory signals by observing learning paths" (Filter-KD), Section 2 and appendix B.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lightning_flip.functional.flips import predicted_labels
from lightning_flip.functional.losses import widen
from lightning_flip.functional.paths import one_hot

__all__ = [
    "Distance",
    "SupervisionBounds",
    "blended_supervision",
    "label_recovery",
    "noisy_supervision",
    "supervision_bounds",
    "supervision_distance",
]

Distance = Literal["jeffreys", "kl", "l1", "l2", "reverse_kl", "tv"]


class SupervisionBounds(NamedTuple):
    """The seven values of xi in Proposition 2 (appendix B), for a loss of at most ``l``; each is a scalar.

    E[(R_tar - R)^2] <= Var / N + xi. KL is of the supervision from p*, reverse KL of p* from the supervision.

    Attributes:
        l2: l^2 K (E ||p_tar - p*||_2)^2.
        l1: l^2 (E ||p_tar - p*||_1)^2.
        root_kl: 2 l^2 (E sqrt KL(p_tar || p*))^2.
        kl: 2 l^2 E KL(p_tar || p*).
        root_reverse_kl: 2 l^2 (E sqrt KL(p* || p_tar))^2.
        reverse_kl: 2 l^2 E KL(p* || p_tar).
        jeffreys: l^2 E [KL(p_tar || p*) + KL(p* || p_tar)].

    Example:
        >>> supervision_bounds(torch.tensor([[1.0, 0.0]]), torch.tensor([[0.5, 0.5]])).l1
        tensor(1.)
    """

    l2: Tensor
    l1: Tensor
    root_kl: Tensor
    kl: Tensor
    root_reverse_kl: Tensor
    reverse_kl: Tensor
    jeffreys: Tensor


def supervision_distance(
    p_tar: Float[Tensor, "N K"], p_star: Float[Tensor, "N K"], kind: Distance = "l2"
) -> Float[Tensor, " N"]:
    """How far each sample's supervision is from its true distribution; the mean is what Hypothesis 1 is about.

    The horizontal axis of the paper's Fig. 1 is the norm of all N samples together, ``distance.square().sum().sqrt()``.

    Args:
        p_tar: supervision ``[N, K]``: labels as one-hot rows, smoothed labels, a teacher's predictions.
        p_star: true distributions ``[N, K]``.
        kind: ``"l2"`` ||p_tar - p*||_2, ``"l1"``, ``"tv"`` half of it (total variation), ``"kl"`` KL(p_tar || p*),
            ``"reverse_kl"`` KL(p* || p_tar), ``"jeffreys"`` their sum. Divergences are in nats, and infinite if
            the first argument has mass that the second has not: reverse KL of one-hot labels is.

    Returns:
        Distances ``[N]``, at least 0.

    Raises:
        ValueError: for another kind.

    Example:
        >>> label, truth = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.5, 0.5]])
        >>> [round(supervision_distance(label, truth, kind).item(), 4) for kind in ("l2", "tv", "kl")]
        [0.7071, 0.5, 0.6931]
    """
    p_tar, p_star = widen(p_tar), widen(p_star)
    if kind == "l2":
        return _norm(p_tar - p_star, 2)
    if kind == "l1":
        return _norm(p_tar - p_star, 1)
    if kind == "tv":
        return _norm(p_tar - p_star, 1) / 2
    if kind == "kl":
        return _divergence(p_tar, p_star)
    if kind == "reverse_kl":
        return _divergence(p_star, p_tar)
    if kind == "jeffreys":
        return _divergence(p_tar, p_star) + _divergence(p_star, p_tar)
    raise ValueError(f'kind must be "jeffreys", "kl", "l1", "l2", "reverse_kl" or "tv"; got {kind!r}.')


def supervision_bounds(
    p_tar: Float[Tensor, "N K"], p_star: Float[Tensor, "N K"], loss_bound: float = 1.0
) -> SupervisionBounds:
    """Seven bounds on what a supervision adds to the squared error of the estimated risk (Proposition 2).

    They shrink to 0 as the supervision nears p*; ``l2`` and ``l1`` are always finite, ``l1 <= l2``,
    ``l1 <= root_kl <= kl``, and ``l1 <= jeffreys``.

    Args:
        p_tar: supervision ``[N, K]``.
        p_star: true distributions ``[N, K]``.
        loss_bound: l > 0, the largest value that the loss can take.

    Raises:
        ValueError: if ``loss_bound`` is not positive.

    Example:
        >>> bounds = supervision_bounds(torch.tensor([[1.0, 0.0]]), torch.tensor([[0.5, 0.5]]))
        >>> [round(float(bound), 3) for bound in bounds]
        [1.0, 1.0, 1.386, 1.386, inf, inf, inf]
    """
    if not loss_bound > 0:
        raise ValueError(f"loss_bound must be greater than 0; got {loss_bound}.")
    square = loss_bound**2
    kl, reverse = (supervision_distance(p_tar, p_star, kind) for kind in ("kl", "reverse_kl"))
    return SupervisionBounds(
        l2=square * p_tar.shape[1] * supervision_distance(p_tar, p_star, "l2").mean() ** 2,
        l1=square * supervision_distance(p_tar, p_star, "l1").mean() ** 2,
        root_kl=2 * square * kl.sqrt().mean() ** 2,
        kl=2 * square * kl.mean(),
        root_reverse_kl=2 * square * reverse.sqrt().mean() ** 2,
        reverse_kl=2 * square * reverse.mean(),
        jeffreys=square * (kl + reverse).mean(),
    )


def label_recovery(
    probs: Float[Tensor, "N K"], true_target: Int[Tensor, " N"], given_target: Int[Tensor, " N"]
) -> Float[Tensor, ""]:
    """Share of the samples with a wrong label whose most likely class is the true one (Fig. 6).

    Args:
        probs: predictions ``[N, K]``, raw or filtered; logits give the same. Checking them waits for the device.
        true_target: right labels ``[N]``.
        given_target: labels that the model was trained with ``[N]``.

    Returns:
        A share in [0, 1]; NaN if no label is wrong.

    Raises:
        ValueError: if a row has NaN in it, and so no most likely class.

    Example:
        >>> probs = torch.tensor([[0.9, 0.1], [0.9, 0.1], [0.2, 0.8]])
        >>> label_recovery(probs, torch.tensor([0, 0, 0]), torch.tensor([0, 1, 1]))
        tensor(0.5000)
    """
    corrupted = true_target != given_target
    recovered = corrupted & (predicted_labels(probs, "probs") == true_target)
    return recovered.sum() / corrupted.sum()


def noisy_supervision(
    p_star: Float[Tensor, "N K"], variance: float, *, generator: torch.Generator | None = None
) -> Float[Tensor, "N K"]:
    """P* with noise: normalized clamp(p* + N(0, v), 1e-6, 2), independently for each entry.

    The paper adds noise and normalizes (Section 2.2); the limits are our reading, they keep rows distributions. Large
    noise changes which class is the most likely.

    Args:
        p_star: true distributions ``[N, K]``.
        variance: v >= 0; 0.005 to 0.8 span the paper's Fig. 1.
        generator: source of random numbers on the device of ``p_star``; None takes the global one.

    Returns:
        Distributions ``[N, K]``.

    Raises:
        ValueError: if ``variance`` is negative.

    Example:
        >>> noisy = noisy_supervision(torch.tensor([[0.5, 0.5]]), 0.1, generator=torch.Generator().manual_seed(0))
        >>> round(noisy.sum().item(), 4), bool((noisy > 0).all())
        (1.0, True)
    """
    if not variance >= 0:
        raise ValueError(f"variance must be at least 0; got {variance}.")
    p_star = widen(p_star)
    noise = torch.randn(p_star.shape, generator=generator, dtype=p_star.dtype, device=p_star.device)
    noisy: Tensor = (p_star + variance**0.5 * noise).clamp(1e-6, 2)
    return noisy / noisy.sum(dim=1, keepdim=True)


def blended_supervision(
    p_star: Float[Tensor, "N K"], target: Int[Tensor, " N"], label_weight: float
) -> Float[Tensor, "N K"]:
    """Between label and truth: e e_y + (1 - e) p*, distributions ``[N, K]``.

    Args:
        p_star: true distributions ``[N, K]``.
        target: labels ``[N]``.
        label_weight: e in [0, 1]; 1 gives the labels as one-hot rows.

    Raises:
        ValueError: if ``label_weight`` is outside [0, 1].

    Example:
        >>> blended_supervision(torch.tensor([[0.5, 0.5]]), torch.tensor([0]), 0.5)
        tensor([[0.7500, 0.2500]])
    """
    if not 0 <= label_weight <= 1:
        raise ValueError(f"label_weight must be in [0, 1]; got {label_weight}.")
    p_star = widen(p_star)
    return label_weight * one_hot(target, p_star) + (1 - label_weight) * p_star


def _norm(difference: Tensor, order: int) -> Tensor:
    norm: Tensor = torch.linalg.vector_norm(difference, ord=order, dim=1)
    return norm


def _divergence(p: Tensor, q: Tensor) -> Tensor:
    # Rounding may take a divergence of equal rows under 0, whose root would be NaN.
    divergence: Tensor = (torch.xlogy(p, p) - torch.xlogy(p, q)).sum(dim=1).clamp_min(0)
    return divergence
