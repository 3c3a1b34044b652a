"""Every method's run on fixed batches in numpy, put together from ``tests/oracles``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from tests.mixins.helpers import D, H, N, inputs, labels
from tests.mixins.methods import soft_targets
from tests.mixins.updates import Term, numpy_run, old_net
from tests.oracles import filter_kd, regularization, smearing
from tests.oracles.pairwise import TwoHeads
from tests.oracles.retrospection import (
    Batches,
    FerOptions,
    Floats,
    Ints,
    LwrOptions,
    NumpyNet,
    Trace,
    cross_entropy,
    fer_loop,
    label_smoothing_loop,
    lwr_loop,
    softmax,
)


@dataclass(frozen=True)
class Run:
    """What is trained on what: the network of seed 0 on the points and labels of ``tests/mixins/helpers.py``."""

    classes: int
    batches: Batches
    lr: float

    @property
    def net(self) -> NumpyNet:
        """A new one at every read."""
        return NumpyNet.random(D, H, self.classes, seed=0)

    @property
    def y(self) -> Ints:
        """Labels."""
        return labels(self.classes)


Oracle = Callable[[Run], Trace]
SamplesLoss = Callable[[Run], regularization.Rule]


def ruled(rule: SamplesLoss) -> Oracle:
    """The oracle of a method whose losses follow from epoch, indices and logits."""
    return lambda run: regularization.run(run.net, inputs(), run.batches, run.lr, rule(run))


def each(pair: Callable[[Run, Floats, int], regularization.Pair]) -> Oracle:
    """The oracle of a method that looks at one sample alone."""
    return ruled(lambda run: regularization.each(run.y, lambda z, label: pair(run, z, label)))


def added(term: Callable[[int], Term]) -> Oracle:
    """The oracle of a method that adds something to cross entropy."""
    return lambda run: numpy_run(term(run.classes), run.classes, run.lr, batches=run.batches)


def smoothed(run: Run) -> Trace:
    """LSR."""
    return label_smoothing_loop(run.net, inputs(), run.y, run.batches, run.lr)


def reduced(run: Run) -> Trace:
    """FER."""
    return fer_loop(run.net, inputs(), run.y, run.batches, FerOptions(total_epochs=len(run.batches)), run.lr)


def retrospective(run: Run) -> Trace:
    """LWR in rounds of one epoch."""
    return lwr_loop(run.net, inputs(), run.y, run.batches, LwrOptions(total_epochs=len(run.batches)), run.lr)


def snapshots(run: Run) -> Trace:
    """SD in two cycles."""
    net, x = run.net, inputs()
    rule = regularization.snapshot_rule(net, x, run.y, len(run.batches), cycles=2)
    return regularization.run(net, x, run.batches, run.lr, rule)


def forward(run: Run, z: Floats, label: int) -> regularization.Pair:
    """Forward correction for symmetric noise, a = 0.1."""
    return smearing.forward(z, label, smearing.smoothing(run.classes, 0.1))


def backward(run: Run, z: Floats, label: int) -> regularization.Pair:
    """Backward correction for symmetric noise, a = 0.1."""
    return smearing.smeared(z, label, smearing.backward(run.classes, 0.1), 1e-7)


def estimated(run: Run) -> regularization.Rule:
    """Forward correction with the transition that the predictions of the first epoch give."""
    said = np.zeros((N, run.classes))

    def rule(epoch: int, batch: Ints, z: Floats) -> tuple[Floats, Floats]:
        if epoch == 1:
            for index, row in zip(batch, z, strict=True):
                said[index] = softmax(row)
            return regularization.each(run.y, cross_entropy)(epoch, batch, z)
        transition = smearing.estimate(said)
        return regularization.each(run.y, lambda row, label: smearing.forward(row, label, transition))(epoch, batch, z)

    return rule


def distilled(run: Run) -> regularization.Rule:
    """KD from the old network."""
    teacher = old_net(run.classes)

    def rule(epoch: int, batch: Ints, z: Floats) -> tuple[Floats, Floats]:
        return filter_kd.distillation(z, teacher.forward(inputs()[batch]), run.y[batch])

    return rule


def taught(run: Run) -> regularization.Rule:
    """The student of a file."""
    probs = soft_targets(run.classes)

    def rule(epoch: int, batch: Ints, z: Floats) -> tuple[Floats, Floats]:
        return filter_kd.distillation(z, probs[batch], run.y[batch], teacher_is="probs")

    return rule


class AdaptiveGradient:
    """What SAT computes from a step's notes; one object for all ranks, whose samples have their targets in it."""

    def __init__(self, steps: int, momentum: float = 0.9) -> None:
        self.momentum = momentum
        self.targets: dict[int, Floats] = {}

    def __call__(self, net: TwoHeads, number: int, notes: dict[str, Any]) -> Any:
        x, y = notes["original"]
        _, logits, head = net.forward(x)
        rows = []
        for sample, label, z in zip(x, y, logits, strict=True):
            (position,) = np.flatnonzero((inputs() == sample).all(axis=1))
            row = self.targets.get(int(position), np.eye(len(z))[label])
            rows.append(self.momentum * row + (1 - self.momentum) * softmax(z))
            self.targets[int(position)] = rows[-1]
        return x, regularization.self_adaptive(logits, np.stack(rows))[1], head
