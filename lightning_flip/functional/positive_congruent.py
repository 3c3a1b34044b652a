"""Positive-congruent training as functions of tensors: a new model held to what an old one got right.

"Positive-congruent training: towards regression-free model updates", Eq. 5-9 of its paper, and backward-compatible
training (Shen et al. 2020), with which the paper compares.
"""

from __future__ import annotations

import math
from typing import Literal, get_args

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lightning_flip.functional._closed_form import closed_form, fuses
from lightning_flip.functional.losses import MethodReduction, Reduction, cross_entropy, reduce_loss, widen

__all__ = [
    "ClassReduction",
    "Direction",
    "Distance",
    "OldSamples",
    "backward_compatible_loss",
    "focal_distillation_loss",
    "naive_positive_congruent_loss",
    "old_model_right",
]

Distance = Literal["kl", "logits"]
Direction = Literal["old_new", "new_old"]
ClassReduction = Literal["mean", "sum"]
OldSamples = Literal["batch", "mean"]


def old_model_right(
    old_logits: Float[Tensor, "B K_old"],
    target: Int[Tensor, " B"],
    *,
    old_classes: Int[Tensor, " K_old"] | None = None,
) -> Bool[Tensor, " B"]:
    """[old right]: whether the argmax over all of the old model's own outputs is the label, bool ``[B]``.

    Args:
        old_logits: ``[B, K_old]``.
        target: labels ``[B]`` of the new model.
        old_classes: int ``[K_old]``, the new model's class of each of the old model's outputs; None: the same. Samples
            of other classes are False.

    Example:
        >>> old = torch.tensor([[3.0, 0.0], [0.0, 3.0]])
        >>> old_model_right(old, torch.tensor([2, 2]), old_classes=torch.tensor([2, 0]))
        tensor([ True, False])
    """
    pred = old_logits.argmax(dim=1)
    return (pred if old_classes is None else old_classes.to(pred.device, non_blocking=True)[pred]) == target


def focal_distillation_loss(
    new_logits: Float[Tensor, "B K"],
    old_logits: Float[Tensor, "B K_old"],
    target: Int[Tensor, " B"],
    *,
    alpha: float = 1.0,
    beta: float = 5.0,
    distance: Distance = "kl",
    temperature: float = 100.0,
    direction: Direction = "old_new",
    class_reduction: ClassReduction = "mean",
    old_classes: Int[Tensor, " K_old"] | None = None,
    old_samples: OldSamples = "batch",
    reduction: MethodReduction = "mean",
) -> Float[Tensor, ...]:
    """F_i D_i of every sample, Eq. 7-9; cross entropy and the weight lambda are not in it.

    F = alpha + beta [old right]. D is t^2 KL(softmax(z_old / t) || softmax(z_new / t)) ("kl"), or half the squared
    distance of the logits ("logits"). Everything is computed in at least float32: at t = 100, bfloat16 logits give a
    divergence that is wrong by a factor of 2.5.

    Our readings: Eq. 8 prints the new model first and no t^2, while the work that it cites has the old one first
    and t^2. The sum over classes of Eq. 9 diverges at the paper's learning rate of 0.1, hence the mean; at t = 100
    the gradient of "kl" is that of "logits" with the mean, on centered logits.

    Args:
        new_logits: ``[B, K]``.
        old_logits: ``[B, K_old]``; no gradient flows into them.
        target: labels ``[B]``.
        alpha: weight of every sample.
        beta: weight added if the old model is right.
        distance: "kl" or "logits".
        temperature: t > 0, of "kl" alone.
        direction: "old_new" for KL(old || new), "new_old" for KL(new || old).
        class_reduction: "mean" or "sum" over classes, of "logits" alone.
        old_classes: int ``[K_old]``, the new model's class of each of the old model's outputs, if the new model
            knows more classes. D then runs over those logits alone, and F is 0 for samples of all other classes.
        old_samples: what the mean is over with ``old_classes``: the "batch", or the batch's samples of old classes
            ("mean", as the public code). "mean" multiplies each F with B over the number of these samples.
        reduction: "mean", "none" or "sum" over samples; the mean divides by B, samples with F = 0 included. "excess" is
            the mean, too, for there is no CE in it.

    Returns:
        The loss in nats ("kl") or squared logits, >= 0; a scalar, or ``[B]`` for "none".

    Raises:
        ValueError: for another shape, number of classes, or option.

    Example:
        >>> old, new = torch.tensor([[2.0, 0.0], [2.0, 0.0]]), torch.zeros(2, 2)
        >>> options = {"distance": "logits", "reduction": "none"}
        >>> focal_distillation_loss(new, old, torch.tensor([0, 1]), **options)  # the old model is right on the first
        tensor([6., 1.])
    """
    _check_choices(distance=(distance, Distance), direction=(direction, Direction))
    _check_choices(class_reduction=(class_reduction, ClassReduction), old_samples=(old_samples, OldSamples))
    if not (temperature > 0 and math.isfinite(temperature)):
        raise ValueError(f"temperature must be greater than 0 and finite; got {temperature}.")
    old_classes = _check_shapes(new_logits, old_logits, target, old_classes)
    new, old = widen(new_logits), widen(old_logits.detach())
    weights = old_model_right(old, target, old_classes=old_classes).to(new.dtype) * beta + alpha
    if old_classes is not None:
        weights = _of_old_classes(weights, _known(target, old_classes), old_samples)
        new = new.index_select(1, old_classes)
    old = old.to(new.dtype)
    if distance == "logits":
        squares = 0.5 * (new - old) ** 2
        distances = squares.mean(dim=1) if class_reduction == "mean" else squares.sum(dim=1)
    elif reduction == "excess" and direction == "old_new" and fuses(new, target):
        return closed_form(_focal_rule, new, old, weights, temperature=temperature)
    else:
        log_new, log_old = F.log_softmax(new / temperature, dim=1), F.log_softmax(old / temperature, dim=1)
        pair = (log_old, log_new) if direction == "old_new" else (log_new, log_old)
        distances = temperature**2 * _divergence(*pair)
    return reduce_loss(_weighted(weights, distances), "mean" if reduction == "excess" else reduction)


def naive_positive_congruent_loss(
    new_logits: Float[Tensor, "B K"],
    old_logits: Float[Tensor, "B K_old"],
    target: Int[Tensor, " B"],
    *,
    old_classes: Int[Tensor, " K_old"] | None = None,
    old_samples: OldSamples = "batch",
    reduction: Reduction = "mean",
) -> Float[Tensor, ...]:
    """[old right] CE: samples that the old model gets right count once more (Eq. 5-6, "naive").

    Shapes, ``old_classes``, ``old_samples`` and errors are those of :func:`focal_distillation_loss`.

    Returns:
        The loss in nats.

    Example:
        >>> old = torch.tensor([[2.0, 0.0], [2.0, 0.0]])
        >>> naive_positive_congruent_loss(torch.zeros(2, 2), old, torch.tensor([0, 1]), reduction="none")
        tensor([0.6931, 0.0000])
    """
    _check_choices(old_samples=(old_samples, OldSamples))
    old_classes = _check_shapes(new_logits, old_logits, target, old_classes)
    losses = cross_entropy(new_logits, target, reduction="none")
    weights = old_model_right(old_logits, target, old_classes=old_classes).to(losses.dtype)
    if old_classes is not None and old_samples == "mean":
        weights = _of_old_classes(weights, _known(target, old_classes), old_samples)
    return reduce_loss(_weighted(weights, losses), reduction)


def backward_compatible_loss(
    features: Float[Tensor, "B D"],
    weight: Float[Tensor, "K_old D_old"],
    bias: Float[Tensor, " K_old"] | None,
    target: Int[Tensor, " B"],
    *,
    old_classes: Int[Tensor, " K_old"] | None = None,
    old_samples: OldSamples = "batch",
    reduction: Reduction = "mean",
) -> Float[Tensor, ...]:
    """CE(W_old h): the old classifier layer reads the new model's features (backward-compatible training).

    Args:
        features: h ``[B, D]``, what enters the new model's classifier layer.
        weight: W_old ``[K_old, D]``, frozen.
        bias: ``[K_old]`` or None, frozen.
        target: labels ``[B]`` of the new model, below K_old unless ``old_classes`` is given.
        old_classes: int ``[K_old]``, the new model's class of each row of W_old; samples of other classes have the
            loss 0.
        old_samples: with ``old_classes``, the mean over the "batch", or over its samples of old classes ("mean").
        reduction: "mean", "none" or "sum"; the mean divides by B.

    Returns:
        The loss in nats.

    Raises:
        ValueError: if the features have another width than the layer takes, or for another option.

    Example:
        >>> weight = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
        >>> target = torch.tensor([5, 1])  # the old model knows the classes 5 and 2
        >>> backward_compatible_loss(
        ...     torch.zeros(2, 2), weight, None, target, old_classes=torch.tensor([5, 2]), reduction="none"
        ... )
        tensor([0.6931, 0.0000])
    """
    _check_choices(old_samples=(old_samples, OldSamples))
    if features.ndim != 2 or features.shape[1] != weight.shape[1]:
        raise ValueError(
            f"the old classifier layer takes {weight.shape[1]} features, the new model's features have the shape "
            f"{tuple(features.shape)}; backward-compatible training needs the same width in both. Give the new model "
            "that width, or name the layers (features_from, classifier_from)."
        )
    h = widen(features)
    # Mixed precision would multiply in half precision; this layer is the old model's and stays as it was.
    with torch.autocast(h.device.type, enabled=False):
        logits = F.linear(h, weight.detach().to(h.dtype), None if bias is None else bias.detach().to(h.dtype))
    if old_classes is None:
        return cross_entropy(logits, target, reduction=reduction)
    old_classes = _check_old_classes(old_classes, weight.shape[0]).to(target.device, non_blocking=True)
    matches = target[:, None] == old_classes[None, :]
    known = matches.any(dim=1)
    losses = cross_entropy(logits, matches.to(torch.uint8).argmax(dim=1), reduction="none")
    return reduce_loss(_of_old_classes(losses, known, old_samples), reduction)


def _divergence(log_q: Float[Tensor, "B K"], log_p: Float[Tensor, "B K"]) -> Float[Tensor, " B"]:
    """KL(q || p). With x = log p - log q it is the sum of q (e^x - 1 - x), because q and p both sum to one.

    Near x = 0 those terms are small and positive, where those of -q x are large and cancel: at t = 100 and in float32
    they would leave noise as large as the divergence.
    """
    x = log_p - log_q
    q, near = log_q.exp(), x.abs() < 1
    small = torch.where(near, x, torch.zeros_like(x))  # no overflow where the other branch is taken
    # A class that q masks has x = inf, or NaN if p masks it as well, and q x is 0.
    far = log_p.exp() - q - q * x.masked_fill(q == 0, 0.0)
    return torch.where(near, q * (torch.expm1(small) - small), far).sum(dim=1)


def _focal_rule(z: Tensor, old: Tensor, weights: Tensor, *, temperature: float) -> tuple[Tensor, Tensor]:
    """The mean over the batch of F t^2 KL(old || new), as :func:`_divergence` has it, and its gradient F t (p - q)."""
    log_p, log_q = F.log_softmax(z / temperature, dim=1), F.log_softmax(old / temperature, dim=1)
    x, q = log_p - log_q, log_q.exp()
    apart = torch.where(x < 1, q * torch.expm1(x.clamp(max=1)), log_p.exp() - q)
    # q x is 0 for a class that q masks, where x is inf or NaN; NaN logits show in the first part.
    parts = apart - torch.nan_to_num(q * x, nan=0.0, posinf=math.inf, neginf=-math.inf)
    value = torch.dot(weights, parts.sum(dim=1)) * (temperature**2 / z.shape[0])
    return value, apart * (weights * (temperature / z.shape[0]))[:, None]


def _weighted(weights: Float[Tensor, " B"], values: Float[Tensor, " B"]) -> Float[Tensor, " B"]:
    """F_i D_i. A weight of the shape [B, 1] would give [B, B], whose mean is mean F mean D: no focus is left."""
    if weights.ndim != 1 or weights.shape != values.shape:
        raise ValueError(f"weights {tuple(weights.shape)} and distances {tuple(values.shape)} must both be [B].")
    return weights * values


def _known(target: Int[Tensor, " B"], old_classes: Int[Tensor, " K_old"]) -> Bool[Tensor, " B"]:
    return (target[:, None] == old_classes[None, :]).any(dim=1)


def _of_old_classes(
    values: Float[Tensor, " B"], known: Bool[Tensor, " B"], old_samples: OldSamples
) -> Float[Tensor, " B"]:
    """Values of samples of old classes, and 0; with "mean", the mean over the batch is that over these samples."""
    values = torch.where(known, values, torch.zeros_like(values))
    if old_samples == "batch":
        return values
    return values * (len(known) / known.sum().clamp(min=1).to(values.dtype))


def _check_shapes(new: Tensor, old: Tensor, target: Tensor, old_classes: Tensor | None) -> Tensor | None:
    """Check what must fit together; returns ``old_classes`` on the device of the logits."""
    if new.ndim != 2 or old.ndim != 2 or target.ndim != 1 or not len(new) == len(old) == len(target):
        raise ValueError(
            f"expected new_logits [B, K], old_logits [B, K_old] and labels [B] of one batch; got {tuple(new.shape)}, "
            f"{tuple(old.shape)} and {tuple(target.shape)}. For a target of shape [B, 1], pass target[:, 0]."
        )
    if old_classes is None:
        if old.shape[1] != new.shape[1]:
            raise ValueError(
                f"the old model has {old.shape[1]} outputs, the new one {new.shape[1]}. Pass old_classes=, the new "
                "model's class of each of the old model's outputs."
            )
        return None
    old_classes = _check_old_classes(old_classes, old.shape[1], new.shape[1])
    return old_classes.to(new.device, non_blocking=True)


def _check_old_classes(old_classes: Tensor, outputs: int, num_classes: int | None = None) -> Tensor:
    if old_classes.ndim != 1 or len(old_classes) != outputs:
        raise ValueError(
            f"old_classes must name one class for each of the old model's {outputs} outputs; got the shape "
            f"{tuple(old_classes.shape)}."
        )
    if old_classes.device.type != "cpu":
        return old_classes  # reading it would make the host wait for the device
    below = math.inf if num_classes is None else num_classes
    values = old_classes.tolist()
    if len(set(values)) != len(values) or not all(0 <= value < below for value in values):
        upper = "" if num_classes is None else f", in [0, {num_classes})"
        raise ValueError(f"old_classes must be different classes of the new model{upper}; got {values}.")
    return old_classes


def _check_choices(**choices: tuple[str, object]) -> None:
    for name, (value, literal) in choices.items():
        if value not in get_args(literal):
            raise ValueError(f"{name} must be one of {', '.join(map(repr, get_args(literal)))}; got {value!r}.")
