"""What FER, LWR and label smoothing compute, in plain numpy and plain loops.

The library is held against this file, so it shares no code with it: float64, one sample at a time, gradients by hand.
A network is trained in place, by mini-batch SGD on the mean loss, over a fixed list of index batches. Epochs count
from 1.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Ints = NDArray[np.int64]
Batches = Sequence[Sequence[Ints]]
# (epoch, sample index, logits of the sample) -> loss, gradient by the logits.
SampleLoss = Callable[[int, int, Floats], tuple[float, Floats]]


def log_softmax(logits: Floats) -> Floats:
    """log softmax of one row [K]."""
    shifted = logits - logits.max()
    return np.asarray(shifted - np.log(np.exp(shifted).sum()))


def softmax(logits: Floats) -> Floats:
    """Softmax of one row [K]."""
    return np.exp(log_softmax(logits))


class NumpyNet:
    """Linear, tanh, linear: x [B, D] -> logits [B, K], with the gradients written out."""

    def __init__(self, W1: Floats, b1: Floats, W2: Floats, b2: Floats) -> None:
        self.W1, self.b1, self.W2, self.b2 = (np.array(w, dtype=np.float64) for w in (W1, b1, W2, b2))
        self._grads: dict[str, Floats] = {}

    @classmethod
    def random(cls, inputs: int, hidden: int, classes: int, seed: int) -> NumpyNet:
        """Normal weights from a seed, large enough that predictions differ between samples at the start."""
        rng = np.random.default_rng(seed)
        return cls(
            rng.normal(size=(inputs, hidden)) / np.sqrt(inputs),
            rng.normal(size=hidden) * 0.1,
            rng.normal(size=(hidden, classes)) / np.sqrt(hidden),
            rng.normal(size=classes) * 0.1,
        )

    def copy(self) -> NumpyNet:
        """A network of its own with the same weights."""
        return NumpyNet(self.W1, self.b1, self.W2, self.b2)

    def forward(self, x: Floats) -> Floats:
        """Logits [B, K]; keeps what `backward` needs."""
        self._x = np.asarray(x, dtype=np.float64)
        self._hidden = np.tanh(self._x @ self.W1 + self.b1)
        return np.asarray(self._hidden @ self.W2 + self.b2)

    def backward(self, dlogits: Floats) -> dict[str, Floats]:
        """Gradients by each weight, for the batch of the last `forward`."""
        dbefore = (dlogits @ self.W2.T) * (1.0 - self._hidden**2)
        self._grads = {
            "W1": self._x.T @ dbefore,
            "b1": dbefore.sum(axis=0),
            "W2": self._hidden.T @ dlogits,
            "b2": dlogits.sum(axis=0),
        }
        return self._grads

    def sgd(self, lr: float) -> None:
        """One plain step: no momentum, no weight decay."""
        for name, grad in self._grads.items():
            setattr(self, name, getattr(self, name) - lr * grad)

    def to_torch_state(self) -> dict[str, Floats]:
        """Weights by the names and in the layout [out, in] of nn.Sequential(Linear, Tanh, Linear)."""
        return {
            "0.weight": self.W1.T.copy(),
            "0.bias": self.b1.copy(),
            "2.weight": self.W2.T.copy(),
            "2.bias": self.b2.copy(),
        }


@dataclass(frozen=True, kw_only=True)
class FerOptions:
    """Options of FER; `total_epochs` is the M of the schedule."""

    temperature: float = 5.0
    mu: float = 1.0
    restrict: Literal["correct", "all"] = "correct"
    average: bool = True
    initial: Literal["zeros", "copy"] = "zeros"
    confidence: Literal["label", "predicted"] = "label"
    temperature_squared: bool = True
    alpha_range: tuple[float, float] = (1.0, 0.1)
    beta_range: tuple[float, float] = (0.0, 0.9)
    total_epochs: int


@dataclass(frozen=True, kw_only=True)
class LwrOptions:
    """Options of LWR; `total_epochs` is the M of the schedule."""

    interval: int = 1
    unvisited: Literal["cross_entropy", "uniform"] = "cross_entropy"
    temperature: float = 5.0
    temperature_squared: bool = True
    total_epochs: int


@dataclass
class Trace:
    """What a run did: one entry a step, in order, and the weights at its end."""

    step_losses: list[float] = field(default_factory=list)
    sample_losses: list[Floats] = field(default_factory=list)
    logits: list[Floats] = field(default_factory=list)
    weights: dict[str, Floats] = field(default_factory=dict)


@dataclass
class FerTrace(Trace):
    """Adds, after each epoch, b^ [N, K] and T [N]: what the next epoch reads. Rows never stored are zero."""

    behaviors: list[Floats] = field(default_factory=list)
    restricted: list[Bools] = field(default_factory=list)


@dataclass
class LwrTrace(Trace):
    """Adds, after each epoch, the logits [N, K] and the mask [N] that the next epoch reads. Other rows are zero."""

    readable_logits: list[Floats] = field(default_factory=list)
    readable: list[Bools] = field(default_factory=list)


def soft_target_loss(logits: Floats, target: Floats, temperature: float = 1.0) -> tuple[float, Floats]:
    """H(target, softmax(z / t)) and its gradient by z; the target may have any mass, and is a constant."""
    log_p = log_softmax(logits / temperature)
    loss = -sum(q * lp for q, lp in zip(target, log_p, strict=True))
    # Only a target of mass 1 gives the familiar p - q; one of mass m gives m p - q.
    return float(loss), (target.sum() * np.exp(log_p) - target) / temperature


def cross_entropy(logits: Floats, label: int) -> tuple[float, Floats]:
    """-log p_y and its gradient by z."""
    gradient = softmax(logits)
    gradient[label] -= 1.0
    return -float(log_softmax(logits)[label]), gradient


def label_smoothing(logits: Floats, label: int, epsilon: float) -> tuple[float, Floats]:
    """H((1 - epsilon) e_y + epsilon u, p) and its gradient by z."""
    target = np.full(len(logits), epsilon / len(logits))
    target[label] += 1.0 - epsilon
    return soft_target_loss(logits, target)


def restricted_loss(
    logits: Floats,
    label: int,
    behavior: Floats,
    progress: float,
    temperature: float,
    temperature_squared: bool,
    divergence: Literal["cross_entropy", "kl"],
    alpha_range: tuple[float, float] = (1.0, 0.1),
    beta_range: tuple[float, float] = (0.0, 0.9),
) -> tuple[float, Floats]:
    """alpha CE + beta t^2 D(b^, softmax(z / t)) and its gradient by z.

    Where s is `progress` = k / M, a weight is (1 - s) times where its range begins and s times where it ends; so alpha
    is 1 - 0.9 s and beta 0.9 s.
    """
    alpha, beta = ((1.0 - progress) * first + progress * last for first, last in (alpha_range, beta_range))
    scale = temperature**2 if temperature_squared else 1.0
    hard, dhard = cross_entropy(logits, label)
    soft, dsoft = soft_target_loss(logits, behavior, temperature)
    if divergence == "kl":
        soft += float(sum(q * np.log(q) for q in behavior if q > 0.0))
    return alpha * hard + beta * scale * soft, alpha * dhard + beta * scale * dsoft


def _run(
    net: NumpyNet,
    x: Floats,
    batches_per_epoch: Batches,
    lr: float,
    trace: Trace,
    sample_loss: SampleLoss,
    visit: Callable[[int, Floats], None] = lambda index, logits: None,
    end_of_epoch: Callable[[int], None] = lambda epoch: None,
) -> None:
    """Mini-batch SGD; `visit` sees the logits of the training forward, which are from before the update of the step."""
    for epoch, batches in enumerate(batches_per_epoch, start=1):
        for batch in batches:
            logits = net.forward(x[batch])
            losses = np.zeros(len(batch))
            dlogits = np.zeros_like(logits)
            for position, index in enumerate(batch):
                losses[position], gradient = sample_loss(epoch, int(index), logits[position])
                dlogits[position] = gradient / len(batch)
                visit(int(index), logits[position])
            net.backward(dlogits)
            net.sgd(lr)
            trace.step_losses.append(float(losses.mean()))
            trace.sample_losses.append(losses)
            trace.logits.append(logits)
        end_of_epoch(epoch)
    trace.weights = net.to_torch_state()


def cross_entropy_loop(net: NumpyNet, x: Floats, y: Ints, batches_per_epoch: Batches, lr: float) -> Trace:
    """Ordinary training."""
    trace = Trace()
    _run(net, x, batches_per_epoch, lr, trace, lambda epoch, index, logits: cross_entropy(logits, int(y[index])))
    return trace


def label_smoothing_loop(
    net: NumpyNet, x: Floats, y: Ints, batches_per_epoch: Batches, lr: float, epsilon: float = 0.1
) -> Trace:
    """Training with the label smoothing regularizer, LSR."""
    trace = Trace()

    def sample_loss(epoch: int, index: int, logits: Floats) -> tuple[float, Floats]:
        return label_smoothing(logits, int(y[index]), epsilon)

    _run(net, x, batches_per_epoch, lr, trace, sample_loss)
    return trace


def fer_loop(net: NumpyNet, x: Floats, y: Ints, batches_per_epoch: Batches, options: FerOptions, lr: float) -> FerTrace:
    """Flipping error reduction."""
    trace = FerTrace()
    # The losses of an epoch read the first pair, its visits write the second one.
    behavior, restricted = np.zeros((len(y), net.b2.size)), np.zeros(len(y), dtype=np.bool_)
    next_behavior, next_restricted = behavior.copy(), restricted.copy()

    def sample_loss(epoch: int, index: int, logits: Floats) -> tuple[float, Floats]:
        if not restricted[index]:
            return cross_entropy(logits, int(y[index]))
        return restricted_loss(
            logits,
            int(y[index]),
            behavior[index],
            epoch / options.total_epochs,
            options.temperature,
            options.temperature_squared,
            "cross_entropy",
            options.alpha_range,
            options.beta_range,
        )

    def visit(index: int, logits: Floats) -> None:
        if options.restrict == "correct" and logits.argmax() != y[index]:
            return
        observed = softmax(logits / options.temperature)
        p = softmax(logits)
        confidence = p[y[index]] if options.confidence == "label" else p.max()
        first = not next_restricted[index]
        if not options.average or (first and options.initial == "copy"):
            next_behavior[index] = observed
        else:
            keep = np.exp(-options.mu * confidence)
            next_behavior[index] = keep * next_behavior[index] + (1.0 - keep) * observed
        next_restricted[index] = True

    def end_of_epoch(epoch: int) -> None:
        behavior[:], restricted[:] = next_behavior, next_restricted
        trace.behaviors.append(behavior.copy())
        trace.restricted.append(restricted.copy())

    _run(net, x, batches_per_epoch, lr, trace, sample_loss, visit, end_of_epoch)
    return trace


def lwr_loop(net: NumpyNet, x: Floats, y: Ints, batches_per_epoch: Batches, options: LwrOptions, lr: float) -> LwrTrace:
    """Learning with retrospection."""
    trace = LwrTrace()
    stored, readable = np.zeros((len(y), net.b2.size)), np.zeros(len(y), dtype=np.bool_)
    next_stored, visited = stored.copy(), readable.copy()

    def sample_loss(epoch: int, index: int, logits: Floats) -> tuple[float, Floats]:
        if epoch <= options.interval or (options.unvisited == "cross_entropy" and not readable[index]):
            return cross_entropy(logits, int(y[index]))
        uniform = np.full(len(logits), 1.0 / len(logits))
        return restricted_loss(
            logits,
            int(y[index]),
            softmax(stored[index] / options.temperature) if readable[index] else uniform,
            (epoch // options.interval) * options.interval / options.total_epochs,
            options.temperature,
            options.temperature_squared,
            "kl",
        )

    def visit(index: int, logits: Floats) -> None:
        next_stored[index] = logits
        visited[index] = True

    def end_of_epoch(epoch: int) -> None:
        if epoch % options.interval == 0:
            # Rows that this round did not visit keep what an earlier round wrote.
            stored[:], readable[:] = next_stored, visited
        trace.readable_logits.append(stored.copy())
        trace.readable.append(readable.copy())

    _run(net, x, batches_per_epoch, lr, trace, sample_loss, visit, end_of_epoch)
    return trace
