"""What a run with mixed or paired batches saw, and the same run in numpy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from torch.utils.data import DataLoader, TensorDataset

from lightning_flip.mixins import ClassWiseSelfDistillation, Mixup, PairwiseLabelSmoothing
from tests.mixins.helpers import LR, K, LitNet, inputs, labels
from tests.oracles import pairwise as oracle
from tests.oracles.class_wise import class_wise_gradient
from tests.oracles.pairwise import Floats, TwoHeads


class Notes(LitNet):
    """Notes what each step was given, before mixing and after."""

    def __init__(self, net: Any, lr: float = LR) -> None:
        super().__init__(net, lr)
        self.given: list[dict[str, Any]] = []
        self.start = {name: value.clone().numpy() for name, value in net.state_dict(prefix="net.").items()}

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        self.given.append({"original": tuple(part.clone().numpy() for part in batch), "partners": []})

    def forward(self, x: Any) -> Any:
        if self.training and not torch.is_grad_enabled():
            self.given[-1]["partners"].append(x.clone().numpy())
        return super().forward(x)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        self.given[-1]["mixed"] = tuple(part.clone().numpy() for part in batch)
        return super().training_step(batch, batch_idx)


class Paired(PairwiseLabelSmoothing, Notes):
    """PLS."""


class Mixed(Mixup, Notes):
    """Mixup."""


class Consistent(ClassWiseSelfDistillation, Notes):
    """CS-KD."""


class Keep(pl.Callback):
    """Writes down, for every rank, what its module noted."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        torch.save((pl_module.given, pl_module.state_dict()), self.folder / f"rank{trainer.global_rank}.pt")


def points(classes: int = K) -> TensorDataset:
    return TensorDataset(torch.from_numpy(inputs()), torch.from_numpy(labels(classes)))


def shuffled(classes: int = K, batch_size: int = 5, seed: int = 11, **options: Any) -> DataLoader[Any]:
    """Five batches, the last one of four samples, in an order that a seed says."""
    generator = torch.Generator().manual_seed(seed)
    return DataLoader(points(classes), batch_size=batch_size, shuffle=True, generator=generator, **options)


def start_of(model: Any) -> TwoHeads:
    """The numpy network with the weights that a model has now."""
    return TwoHeads({name: value.numpy() for name, value in model.state_dict().items()})


def classes_of(net: TwoHeads) -> int:
    """K."""
    return len(net.weights["net.2.weight"])


def partners_of(x: Floats, mixed: Floats, share: float = 0.5) -> list[int]:
    """j of every row of mixed = share x_i + (1 - share) x_j."""
    partners = []
    for i in range(len(x)):
        errors = [float(np.abs(share * x[i] + (1 - share) * x[j] - mixed[i]).max()) for j in range(len(x))]
        assert min(errors) < 1e-12, "a row that is not a mixture of rows of its own batch"
        partners.append(int(np.argmin(errors)))
    return partners


def replay(net: TwoHeads, ranks: list[list[dict[str, Any]]], gradient: Any, lr: float = LR) -> None:
    """Train on what each rank was given, in step.

    Args:
        net: trained in place.
        ranks: for every rank, what its steps noted.
        gradient: of the network and one step's notes; gives the step's inputs and each sample's gradients by logits
            and by the second head.
        lr: learning rate.
    """
    for number in range(len(ranks[0])):
        net.step([net.gradients(*gradient(net, number, notes[number])) for notes in ranks], lr)


class PlsGradient:
    """What pairwise label smoothing computes from a step's notes; keeps the partners that it found."""

    def __init__(self, w: float = 0.5, distribution: str = "learned", alternate: bool = True) -> None:
        self.w, self.distribution, self.alternate = w, distribution, alternate
        self.partners: list[list[int]] = []

    def __call__(self, net: TwoHeads, number: int, notes: dict[str, Any]) -> Any:
        x, y = notes["original"]
        given, target = notes["mixed"]
        partner = list(range(len(x)))
        if oracle.is_pairs(number) or not self.alternate:
            partner = partners_of(x, given)
            assert sorted(partner) == list(range(len(x)))
            self.partners.append(partner)
        classes = classes_of(net)
        pair, q = oracle.mixed(x, oracle.one_hot(y, classes), partner)
        np.testing.assert_allclose(given, pair, rtol=0, atol=1e-15)
        np.testing.assert_array_equal(target, q if target.ndim == 2 else y)
        _, logits, head = net.forward(pair)
        if self.distribution == "learned":
            return pair, *oracle.pairwise_gradients(logits, q, head, self.w)
        w = self.w if self.distribution == "uniform" else 0.0
        p = np.array([oracle.softmax(list(row)) for row in logits])
        return pair, p - (1 - w) * q - w / classes, np.zeros((len(x), 0))


class MixupGradient:
    """What Mixup computes from a step's notes; keeps the weights that it found."""

    def __init__(self) -> None:
        self.shares: list[float] = []

    def __call__(self, net: TwoHeads, number: int, notes: dict[str, Any]) -> Any:
        x, y = notes["original"]
        given, target = notes["mixed"]
        partner = [i - 1 if i else len(x) - 1 for i in range(len(x))]
        share = 1.0
        if len(x) > 1:
            share = float((given[0] - x[partner[0]])[0] / (x[0] - x[partner[0]])[0])
            self.shares.append(share)
        pair, q = oracle.mixed(x, oracle.one_hot(y, classes_of(net)), partner, share)
        np.testing.assert_allclose(given, pair, rtol=0, atol=1e-12)
        np.testing.assert_allclose(target, q if target.ndim == 2 else y, rtol=0, atol=1e-12)
        _, logits, head = net.forward(given)
        p = np.array([oracle.softmax(list(row)) for row in logits])
        return given, p - q, head


class ClassWiseGradient:
    """What class-wise self-distillation computes from a step's notes; keeps the partners that it found."""

    def __init__(self, t: float = 4.0, w: float = 1.0) -> None:
        self.t, self.w = t, w
        self.positions: list[int] = []

    def __call__(self, net: TwoHeads, number: int, notes: dict[str, Any]) -> Any:
        x, y = notes["original"]
        np.testing.assert_array_equal(notes["mixed"][0], x)
        (partner,) = notes["partners"]  # one pass
        for row, label in zip(partner, y, strict=True):
            (position,) = np.flatnonzero((inputs() == row).all(axis=1))
            assert labels(classes_of(net))[position] == label
            self.positions.append(int(position))
        _, logits, head = net.forward(x)
        teacher = net.forward(partner)[1]
        return x, np.array(class_wise_gradient(logits, y, teacher, self.t, self.w)), head


def same_weights(model: Any, net: TwoHeads) -> None:
    got = model if isinstance(model, dict) else model.state_dict()
    assert got.keys() == net.weights.keys()
    for name, value in got.items():
        np.testing.assert_allclose(value, net.weights[name], rtol=0, atol=1e-10, err_msg=name)
