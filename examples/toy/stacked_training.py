"""Many small MLPs trained side by side: the weights of M networks are stacked, and a layer is one batched product.

A step of one network of this size is mostly overhead: sixteen at once take a third of the time of sixteen one after
the other. Network m becomes what :class:`lightning_flip.models.MLP` becomes alone under torch.optim.SGD; a test holds
one to the other.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from lightning_flip.models import MLP
from lightning_flip.reports import reliability

Weights = list[Tensor]  # of every layer, first to last: weight [M, in, out], bias [M, 1, out]


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How the paper trains (appendix C); 40 epochs are ours."""

    epochs: int = 40
    batch_size: int = 32
    lr: float = 0.01
    momentum: float = 0.9
    hidden: tuple[int, ...] = (128, 128, 128)


@dataclasses.dataclass
class Trained:
    """M trained networks; the best epoch is the one with the highest validation accuracy, epochs count from 1."""

    initial: Weights
    best: Weights
    last: Weights
    best_epoch: list[int]
    val_accuracy: list[float]  # of the best epoch


def start(networks: list[nn.Module]) -> Weights:
    """Stack the weights of MLPs of one shape."""
    layers = [[layer for layer in network.modules() if isinstance(layer, nn.Linear)] for network in networks]
    stacked = []
    for same in zip(*layers, strict=True):
        stacked += [
            torch.stack([layer.weight.detach().T for layer in same]),
            torch.stack([layer.bias.detach()[None] for layer in same]),
        ]
    return stacked


def network(weights: Weights, number: int) -> MLP:
    """One of the networks as a module."""
    widths = [weights[0].shape[1], *(bias.shape[2] for bias in weights[1::2])]
    module = MLP(widths[0], widths[-1], hidden=widths[1:-1])
    linear = [layer for layer in module.modules() if isinstance(layer, nn.Linear)]
    with torch.no_grad():
        for layer, weight, bias in zip(linear, weights[::2], weights[1::2], strict=True):
            layer.weight.copy_(weight[number].T)
            layer.bias.copy_(bias[number, 0])
    return module


def fresh(count: int, num_features: int, num_classes: int, hidden: tuple[int, ...], seed: int) -> Weights:
    """M copies of one network: what is compared starts alike."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = MLP(num_features, num_classes, hidden=hidden)
    return start([module] * count)


def logits(weights: Weights, inputs: Tensor) -> Tensor:
    """Logits [M, B, K] of inputs [B, D] or [M, B, D]."""
    hidden = inputs.expand(weights[0].shape[0], -1, -1)
    last = len(weights) - 2
    for place in range(0, last, 2):
        hidden = torch.baddbmm(weights[place + 1], hidden, weights[place]).relu()
    return torch.baddbmm(weights[last + 1], hidden, weights[last])


def probabilities(weights: Weights, inputs: Tensor) -> Tensor:
    """Predictions [M, N, K]."""
    with torch.no_grad():
        return logits(weights, inputs).softmax(dim=2)


def train(
    weights: Weights,
    inputs: Tensor,
    supervision: Tensor,
    val_inputs: Tensor,
    val_target: Tensor,
    recipe: Recipe,
    *,
    seed: int,
    temperature: Tensor | None = None,
    scale: Tensor | None = None,
    after_epoch: Callable[[int, Weights], None] | None = None,
) -> Trained:
    """Train all networks on the same batches, each against its own supervision.

    Args:
        weights: where they start.
        inputs: [N, D], or [M, N, D] where each network has its own data.
        supervision: [M, N, K].
        val_inputs: [V, D] or [M, V, D].
        val_target: labels [V] or [M, V].
        recipe: the optimizer's numbers.
        seed: of the order of the batches.
        temperature: [M], of the student's softmax; the supervision is as it is given.
        scale: [M], factors of the losses.
        after_epoch: called with the number of finished epochs, from 0, and the weights.
    """
    generator = torch.Generator().manual_seed(seed)
    leaves = [weight.clone().requires_grad_() for weight in weights]
    velocity = [torch.zeros_like(weight) for weight in weights]
    count = supervision.shape[0]
    softness = torch.ones(count) if temperature is None else temperature
    factor = torch.ones(count) if scale is None else scale
    best, best_epoch, best_accuracy = (
        [w.clone() for w in weights],
        torch.zeros(count, dtype=torch.int64),
        -torch.ones(count),
    )
    if after_epoch is not None:
        after_epoch(0, leaves)
    for epoch in range(1, recipe.epochs + 1):
        order = torch.randperm(inputs.shape[-2], generator=generator)
        for chosen in order.split(recipe.batch_size):
            log_p = (logits(leaves, inputs[..., chosen, :]) / softness[:, None, None]).log_softmax(dim=2)
            loss = -((supervision[:, chosen] * log_p).sum(dim=2).mean(dim=1) * factor).sum()
            gradients = torch.autograd.grad(loss, leaves)
            with torch.no_grad():
                torch._foreach_mul_(velocity, recipe.momentum)
                torch._foreach_add_(velocity, gradients)
                torch._foreach_add_(leaves, velocity, alpha=-recipe.lr)
        with torch.no_grad():
            accuracy = (logits(leaves, val_inputs).argmax(dim=2) == val_target).float().mean(dim=1)
            better = accuracy > best_accuracy
            for kept, now in zip(best, leaves, strict=True):
                kept[better] = now[better]
        best_accuracy = torch.where(better, accuracy, best_accuracy)
        best_epoch[better] = epoch
        if after_epoch is not None:
            after_epoch(epoch, leaves)
    last = [leaf.detach() for leaf in leaves]
    return Trained(weights, best, last, best_epoch.tolist(), best_accuracy.tolist())


def evaluate(weights: Weights, inputs: Tensor, target: Tensor, bins: int = 10) -> list[tuple[float, float]]:
    """Accuracy and calibration error of every network, on shares of the data that fit into the cache."""
    results = []
    for number in range(weights[0].shape[0]):
        own = [weight[number : number + 1] for weight in weights]
        probs = torch.cat([probabilities(own, part)[0] for part in inputs.split(5000)])
        confidence, pred = probs.max(dim=1)
        correct = (pred == target).numpy()
        error = reliability(confidence.numpy().astype(np.float64), correct, bins).calibration_error
        results.append((float(correct.mean()), error))
    return results
