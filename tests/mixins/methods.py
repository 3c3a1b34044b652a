"""All methods, in front of a user's module and with what they need to run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lightning_flip import mixins
from lightning_flip.mixins import LearningWithRetrospection, ReferencedLoss, SelfAdaptiveTraining, SoftTargets
from lightning_flip.stores import write_soft_targets
from tests.mixins.helpers import LR, LitNet, N, labels, network
from tests.mixins.updates import old_network
from tests.oracles.retrospection import Floats

BASES = {mixins.BatchMixing, mixins.CorrectedLoss, mixins.LossTerm, mixins.ReferencedLoss, mixins.StudentLoss}
METHODS = [part for part in (getattr(mixins, name) for name in mixins.__all__) if part not in BASES]

every_method = pytest.mark.parametrize("method", METHODS, ids=lambda method: method.__name__)


def before(method: Any, module: Any = LitNet) -> Any:
    """The class of a method in front of a module."""
    return type(method.__name__, (method, module), {})


def made(kind: Any, lr: float = LR, net: Any = None, **options: Any) -> Any:
    """A model, with a teacher for that network's classes and type if the method has one."""
    net = network() if net is None else net
    *_, last = net.parameters()
    if issubclass(kind, ReferencedLoss) and "reference" not in options:
        with torch.random.fork_rng():  # nn.Linear draws its first weights
            options["reference"] = old_network(len(last)).to(last.dtype)
    if issubclass(kind, SoftTargets):
        options.setdefault("targets", written(len(last)))
    if issubclass(kind, LearningWithRetrospection):
        options.setdefault("lwr_interval", 1)  # the default waits for longer than these runs take
    if issubclass(kind, SelfAdaptiveTraining):
        options.setdefault("sat_warmup", 0)  # the same
    return kind(net, lr, **options)


def written(classes: int) -> Path:
    """A file of soft targets for the fixed points, in the test's own folder."""
    path = Path(f"teacher-of-{classes}.safetensors")
    if not path.exists():
        write_soft_targets(path, soft_targets(classes), target=labels(classes))
    return path


def soft_targets(classes: int) -> Floats:
    """What a teacher said: multiples of 1/64, which float32 holds exactly."""
    counts = np.random.default_rng(11).multinomial(64, np.ones(classes) / classes, size=N)
    return np.asarray(counts / 64)
