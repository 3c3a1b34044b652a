"""An old network, modules that are trained against it, and the same training in numpy."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from torch import nn

from lightning_flip.mixins import BackwardCompatible, FocalDistillation, NaivePositiveCongruent
from tests.mixins.helpers import LR, D, H, K, LitNet, as_torch, inputs, labels, shuffled_batches
from tests.oracles import positive_congruent as oracle
from tests.oracles.retrospection import Batches, Floats, Ints, NumpyNet, Trace, softmax


class Focal(FocalDistillation, LitNet):
    """Focal distillation in front of a user's module."""


class Naive(NaivePositiveCongruent, LitNet):
    """The naive treatment."""


class Compatible(BackwardCompatible, LitNet):
    """Backward-compatible training."""


MIXED = [(Focal, "focal_weight"), (Naive, "naive_weight"), (Compatible, "backward_weight")]


def new_net(classes: int = K) -> NumpyNet:
    return NumpyNet.random(D, H, classes, seed=0)


def old_net(classes: int = K) -> NumpyNet:
    return NumpyNet.random(D, H, classes, seed=7)


def old_network(classes: int = K) -> nn.Sequential:
    return as_torch(old_net(classes))


# (indices, new logits, hidden features) -> losses [B] beside CE, gradient by the logits, gradient by the features
Term = Callable[[Ints, Floats, Floats], tuple[Floats, Floats, Floats]]


def numpy_run(term: Term, classes: int = K, lr: float = LR, epochs: int = 4, batches: Batches | None = None) -> Trace:
    """SGD on the mean of CE + term."""
    net, x, y, trace = new_net(classes), inputs(), labels(classes), Trace()
    for epoch in batches or shuffled_batches(epochs):
        for batch in epoch:
            logits = net.forward(x[batch])
            hidden = net._hidden
            losses, dlogits, dhidden = term(batch, logits, hidden)
            trace.step_losses.append(float(np.mean(oracle.cross_entropy(logits, y[batch]) + losses)))
            dlogits = dlogits + np.array([softmax(row) for row in logits]) - np.eye(classes)[y[batch]]
            grads = net.backward(dlogits / len(batch))
            dbefore = dhidden / len(batch) * (1.0 - hidden**2)
            grads["W1"] = grads["W1"] + x[batch].T @ dbefore
            grads["b1"] = grads["b1"] + dbefore.sum(axis=0)
            net.sgd(lr)
    trace.weights = net.to_torch_state()
    return trace


def focal_term(
    classes: int = K,
    weight: float = 1.0,
    old_classes: Sequence[int] | None = None,
    old_samples: Any = "batch",
    **options: Any,
) -> Term:
    """lambda F D, its gradient by hand."""
    y, known = labels(classes), list(range(classes)) if old_classes is None else list(old_classes)
    settings = {"distance": "kl", "temperature": 100.0, "class_reduction": "mean"} | options
    t = settings["temperature"]

    def term(batch: Ints, logits: Floats, hidden: Floats) -> tuple[Floats, Floats, Floats]:
        old = old_net(len(known)).forward(inputs()[batch])
        losses = oracle.focal_distillation(logits, old, y[batch], old_classes=old_classes, **options)
        right = oracle.old_is_right(old, y[batch], old_classes)
        alpha, beta = options.get("alpha", 1.0), options.get("beta", 5.0)
        weights = np.array([(alpha + beta * r) * (label in known) for r, label in zip(right, y[batch], strict=True)])
        gradient = np.zeros_like(logits)
        for i, (new_row, old_row) in enumerate(zip(logits[:, known], old, strict=True)):
            if settings["distance"] == "kl":
                row = t * (softmax(new_row / t) - softmax(old_row / t))
            else:
                row = (new_row - old_row) / (len(known) if settings["class_reduction"] == "mean" else 1)
            gradient[i, known] = weight * weights[i] * row
        share = oracle.weight_of_old_samples(y[batch], old_classes, old_samples)
        return share * weight * losses, share * gradient, np.zeros_like(hidden)

    return term


def naive_term(
    weight: float = 1.0, classes: int = K, old_classes: Sequence[int] | None = None, old_samples: Any = "batch"
) -> Term:
    """w [old right] CE."""
    y, outputs = labels(classes), classes if old_classes is None else len(old_classes)

    def term(batch: Ints, logits: Floats, hidden: Floats) -> tuple[Floats, Floats, Floats]:
        old = old_net(outputs).forward(inputs()[batch])
        right = np.array(oracle.old_is_right(old, y[batch], old_classes))[:, None]
        gradient = np.array([softmax(row) for row in logits]) - np.eye(classes)[y[batch]]
        share = weight * oracle.weight_of_old_samples(y[batch], old_classes, old_samples)
        losses = share * oracle.naive(logits, old, y[batch], old_classes)
        return losses, share * right * gradient, np.zeros_like(hidden)

    return term


def compatible_term(
    weight: float = 1.0, classes: int = K, old_classes: Sequence[int] | None = None, old_samples: Any = "batch"
) -> Term:
    """w CE(W_old h)."""
    y, known = labels(classes), list(range(classes)) if old_classes is None else list(old_classes)
    W, b = old_net(len(known)).W2, old_net(len(known)).b2

    def term(batch: Ints, logits: Floats, hidden: Floats) -> tuple[Floats, Floats, Floats]:
        losses, gradient = np.zeros(len(batch)), np.zeros_like(hidden)
        for i, label in enumerate(y[batch]):
            if int(label) not in known:
                continue
            z = hidden[i] @ W + b
            place = known.index(int(label))
            losses[i] = weight * oracle.cross_entropy(z[None], np.array([place]))[0]
            gradient[i] = weight * (W @ (softmax(z) - np.eye(len(known))[place]))
        share = oracle.weight_of_old_samples(y[batch], old_classes, old_samples)
        return share * losses, np.zeros_like(logits), share * gradient

    return term
