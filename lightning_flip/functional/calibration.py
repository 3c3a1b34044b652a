"""Temperature scaling: the one number that logits are divided by, so that their softmax is as sure as it is right."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lightning_flip.functional.cross_entropy import cross_entropy

__all__ = ["LARGEST_TEMPERATURE", "SMALLEST_TEMPERATURE", "fit_temperature", "refuse_probabilities"]

#: Where the search ends; labels that are all right, or no better than chance, have no best temperature in between.
SMALLEST_TEMPERATURE, LARGEST_TEMPERATURE = 1e-3, 1e3

_SUM_TOLERANCE = 0.03  # rows may have been bfloat16 before they were widened


def fit_temperature(logits: Float[Tensor, "N K"], target: Int[Tensor, " N"]) -> float:
    """T with the lowest mean of -log softmax(z / T)_y (Guo et al. 2017), by L-BFGS on log T in float64.

    The loss is convex in 1 / T, so that there is one minimum. Where labels agree with the largest logit throughout it
    lies at T = 0, and where the logits say nothing of the labels at infinity: the bound of the search is returned then.
    T < 1 makes predictions surer, T > 1 less sure; which class is the largest stays. Waits for the device.

    Args:
        logits: z of held-out samples, ``[N, K]``, finite; probabilities are refused.
        target: labels ``[N]`` in ``[0, K)``.

    Returns:
        T in [0.001, 1000].

    Raises:
        ValueError: for no samples, logits that are not finite, labels out of range, or probabilities.

    Example:
        Three of four are right, at logits that claim 98%:

        >>> round(fit_temperature(torch.tensor([[4.0, 0.0]]).expand(4, 2), torch.tensor([0, 0, 0, 1])), 3)
        3.641
    """
    if not len(logits):
        raise ValueError("a temperature needs samples, got none: look at what the validation data hold.")
    if not torch.isfinite(logits).all():
        raise ValueError("logits must be finite to fit a temperature; got NaN or infinity. Look for bad inputs.")
    low, high = target.aminmax()
    if int(low) < 0 or int(high) >= logits.shape[1]:
        raise ValueError(f"labels must be in [0, {logits.shape[1]}); got {int(low)} to {int(high)}.")
    refuse_probabilities(logits)
    z, y = logits.detach().double(), target.long()
    z = z - z.mean(dim=1, keepdim=True)
    spread = float(z.abs().mean())
    if spread == 0:
        return LARGEST_TEMPERATURE
    # Both ends: with 1 / T = b the slope of the convex loss is mean(sum_k p_k z_k - z_y).
    own = z.gather(1, y[:, None])[:, 0].mean()
    for bound, beyond in ((SMALLEST_TEMPERATURE, torch.le), (LARGEST_TEMPERATURE, torch.ge)):
        slope = ((z / bound).softmax(dim=1) * z).sum(dim=1).mean() - own
        if beyond(slope, 0):
            return bound
    # A validation may run in inference mode, and what that makes cannot be differentiated.
    with torch.inference_mode(False), torch.enable_grad():
        best = _minimum(z.clone(), y.clone(), math.log(spread))
    return min(max(math.exp(best), SMALLEST_TEMPERATURE), LARGEST_TEMPERATURE)


def _minimum(z: Tensor, y: Tensor, start: float) -> float:
    """The log T of the lowest loss, searched from the log of the logits' size, where their unit does not matter."""
    log_t = torch.tensor(start, dtype=torch.float64, device=z.device, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [log_t], max_iter=200, tolerance_grad=1e-10, tolerance_change=1e-14, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = cross_entropy(z / log_t.exp(), y)
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    optimizer.step(closure)  # type: ignore[no-untyped-call]
    return float(log_t.detach())


def refuse_probabilities(logits: Float[Tensor, "N K"]) -> None:
    """Tell probabilities from logits: dividing them by a temperature would mean nothing. Waits for the device.

    Args:
        logits: ``[N, K]``.

    Raises:
        ValueError: if no value is negative and every row sums to 1, to within 3%.

    Example:
        >>> refuse_probabilities(torch.tensor([[2.0, -1.0]]))
        >>> refuse_probabilities(torch.tensor([[0.8, 0.2], [0.5, 0.5]]))
        Traceback (most recent call last):
        ...
        ValueError: expected logits, got what looks like probabilities: ...
    """
    sums = logits.double().sum(dim=1)
    if len(logits) and bool((logits >= 0).all()) and bool(((sums - 1).abs() < _SUM_TOLERANCE).all()):
        raise ValueError(
            "expected logits, got what looks like probabilities: no value is negative and every row sums to 1. A "
            "temperature divides logits. Name the layer before the softmax with logits_from=, or pass log "
            "probabilities."
        )
