"""The baselines of label smoothing in front of a user's module, each with its rule in numpy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch.distributed as dist
from torch.utils.data import DataLoader

from lightning_flip.mixins import (
    ConfidencePenalty,
    EarlyLearningRegularization,
    SelfAdaptiveTraining,
    SnapshotDistillation,
    TeacherFreeRegularization,
)
from tests.mixins.helpers import (
    EPOCHS,
    LR,
    D,
    FixedBatches,
    H,
    K,
    LitNet,
    N,
    inputs,
    labels,
    shuffled_batches,
)
from tests.oracles import regularization as oracle
from tests.oracles.retrospection import Batches, Floats, NumpyNet, Trace


class Penalized(ConfidencePenalty, LitNet):
    """Max-Entropy."""


class TeacherFree(TeacherFreeRegularization, LitNet):
    """TF-Reg."""


class Snapshots(SnapshotDistillation, LitNet):
    """SD."""


class Early(EarlyLearningRegularization, LitNet):
    """ELR."""


class Adaptive(SelfAdaptiveTraining, LitNet):
    """SAT."""


@dataclass(frozen=True)
class Case:
    """A method, its options, what the oracle calls them, and the name of its table."""

    kind: Any
    options: dict[str, Any] = field(default_factory=dict)
    oracle: dict[str, Any] = field(default_factory=dict)
    table: str | None = None

    def __str__(self) -> str:
        return "-".join([self.kind.__name__, *map(str, self.options.values())])


CASES = [
    Case(Penalized),
    Case(Penalized, {"entropy_weight": 1}, {"weight": 1.0}),
    Case(TeacherFree),
    Case(
        TeacherFree,
        {"tf_weight": 0.95, "tf_temperature": 0.5, "tf_multiplier": 4, "tf_confidence": 0.9},
        {"weight": 0.95, "temperature": 0.5, "multiplier": 4.0, "sure": 0.9},
    ),
    Case(Snapshots),
    Case(Snapshots, {"sd_cycles": 3, "sd_temperature": 2}, {"cycles": 3, "temperature": 2.0}),
    Case(Early, table="early_learning"),
    Case(Early, {"elr_momentum": 0.9, "elr_weight": 7}, {"momentum": 0.9, "weight": 7.0}, "early_learning"),
    Case(Adaptive, {"sat_warmup": 0}, {"warmup": 0}, "self_adaptive"),
    Case(Adaptive, {"sat_warmup": 2, "sat_momentum": 0.5}, {"warmup": 2, "momentum": 0.5}, "self_adaptive"),
]
DEFAULTS = [case for case in CASES if not case.options or case.options == {"sat_warmup": 0}]


def expected(
    case: Case, classes: int = K, *, lr: float = LR, batches: Batches | None = None, total: int = EPOCHS, **more: Any
) -> tuple[Trace, Floats]:
    """The run in numpy, and the table that it leaves."""
    net, x, y = NumpyNet.random(D, H, classes, seed=0), inputs(), labels(classes)
    options, rows = case.oracle | more, np.zeros((N, classes))
    pair: dict[Any, Callable[..., oracle.Pair]] = {
        Penalized: oracle.confidence_penalty,
        TeacherFree: oracle.teacher_free,
    }
    if case.kind in pair:
        rule = oracle.each(y, lambda z, label: pair[case.kind](z, label, **options))
    elif case.kind is Snapshots:
        rule = oracle.snapshot_rule(net, x, y, total, **options)
    elif case.kind is Early:
        rule = oracle.early_learning_rule(y, rows, **options)
    else:
        rows = np.eye(classes)[y]
        rule = oracle.self_adaptive_rule(y, rows, **options)
    trace = oracle.run(net, x, batches or shuffled_batches(), lr, rule)
    return trace, rows


class Shares(FixedBatches):
    """Each rank's part of every batch, in order."""

    def __init__(self, epochs: Batches, world: int) -> None:
        super().__init__(epochs)
        self.world = world

    def __iter__(self) -> Any:
        rank = dist.get_rank() if dist.is_initialized() else 0
        for batch in self.epochs[self.epoch]:
            yield np.split(batch, self.world)[rank].tolist()


def even_batches(size: int = 8, epochs: int = EPOCHS) -> Batches:
    rng = np.random.default_rng(5)
    return [np.split(rng.permutation(N), N // size) for _ in range(epochs)]


def shared(dataset: Any, world: int) -> DataLoader[Any]:
    return DataLoader(dataset, batch_sampler=Shares(even_batches(), world))
