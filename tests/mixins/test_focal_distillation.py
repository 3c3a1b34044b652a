"""Focal distillation through a real Trainer against numpy, and where the reference is and is not."""

from __future__ import annotations

import copy
import pickle
import re
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention
from lightning.pytorch.callbacks import EMAWeightAveraging
from lightning.pytorch.tuner.tuning import Tuner
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_flip.mixins import FlippingErrorReduction, FocalDistillation
from lightning_flip.models import MLP, Classifier
from tests.mixins.helpers import (
    D,
    FixedBatches,
    K,
    LitNet,
    N,
    data,
    differences,
    inputs,
    labels,
    network,
    quiet,
    shuffled_batches,
    train,
)
from tests.mixins.updates import MIXED, Compatible, Focal, Naive, focal_term, new_net, numpy_run, old_network

OPTIONS: list[dict[str, Any]] = [
    {"distance": "kl", "temperature": 2.0, "alpha": 0.3, "beta": 2.0, "weight": 0.4},
    {"distance": "logits", "class_reduction": "sum", "alpha": 0.0, "beta": 0.2},
]
# The table's names are the losses' own; the mixin's have a prefix.
NAMES = {name: f"focal_{name}" for name in ("alpha", "beta", "distance", "temperature", "weight")}


def found(options: dict[str, Any]) -> list[str]:
    """In what a run differs from numpy's."""
    trace = numpy_run(focal_term(**options), lr=0.1)
    mixed = {NAMES.get(name, name): value for name, value in options.items()}
    model = Focal(network(), lr=0.1, reference=old_network(), **mixed)
    return differences(model, train(model, data()), trace)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_a_run_is_the_numpy_loop(options: dict[str, Any]) -> None:
    """tests/sweep has the default options, with two classes as well."""
    assert found(options) == []


def test_the_other_direction_has_the_oracles_losses() -> None:
    options: dict[str, Any] = {"direction": "new_old", "temperature": 2.0}
    trace = numpy_run(focal_term(**options), lr=0.0)
    model = Focal(network(), lr=0.0, reference=old_network(), focal_direction="new_old", focal_temperature=2.0)
    assert train(model, data()).losses == pytest.approx(trace.step_losses, abs=1e-10)


def test_grown_classes_are_masked() -> None:
    old_classes = [3, 1, 0]
    trace = numpy_run(focal_term(K, old_classes=old_classes, temperature=2.0))
    model = Focal(network(), reference=old_network(3), old_classes=old_classes, focal_temperature=2.0)
    assert differences(model, train(model, data()), trace) == []


# -- switched off ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "weight"), MIXED)
@pytest.mark.parametrize("reference", [None, "gone.ckpt"])
def test_without_weight_it_is_ce_training_bit_for_bit(kind: Any, weight: str, reference: Any) -> None:
    """Nothing is loaded, so that the file may be gone."""
    plain, other, zero = LitNet(network()), kind(network(), **{weight: 0.0}, reference=reference), None
    losses = train(plain, data()).losses
    assert train(other, data()).losses == losses
    for name, value in plain.state_dict().items():
        assert value.equal(other.state_dict()[name])
    zero = kind(network(), term_weight=0.0, reference=reference)
    assert train(zero, data()).losses == losses


@pytest.mark.parametrize(("kind", "weight"), MIXED)
def test_single_precision_without_weight_too(kind: Any, weight: str) -> None:
    x, y = torch.from_numpy(inputs()).float(), torch.from_numpy(labels(K))
    results = []
    for model in (LitNet(network().float()), kind(network().float(), **{weight: 0})):
        batches: Any = FixedBatches(shuffled_batches())
        train(model, DataLoader(TensorDataset(x, y), batch_sampler=batches))
        results.append(torch.cat([value.flatten() for value in model.state_dict().values()]))
    assert results[0].equal(results[1])


@pytest.mark.parametrize(("kind", "weight"), MIXED)
def test_half_the_weight_is_half_of_what_is_added(kind: Any, weight: str) -> None:
    plain = np.array(train(LitNet(network(), lr=0.0), data()).losses)
    added = [
        np.array(train(kind(network(), lr=0.0, reference=old_network(), **{weight: value}), data()).losses) - plain
        for value in (0.5, 1.0)
    ]
    assert (added[1] > 1e-6).sum() > 10
    assert 2 * added[0] == pytest.approx(added[1], abs=1e-12)
    halved = train(kind(network(), lr=0.0, reference=old_network(), term_weight=0.5), data()).losses
    assert np.array(halved) - plain == pytest.approx(added[0], abs=1e-12)


# -- where the reference is, and is not ----------------------------------------------------------------------


class Saves(LitNet):
    """A user's module that saves all of its constructor's arguments, its subclasses' included."""

    def __init__(self, hidden: int = 7, lr: float = 0.5) -> None:
        super().__init__(nn.Sequential(nn.Linear(D, hidden), nn.Tanh(), nn.Linear(hidden, K)).double(), lr)
        self.save_hyperparameters()


class FocalSaves(FocalDistillation, Saves):
    """Focal distillation in front of it."""


class FocalClassifier(FocalDistillation, Classifier):
    """Focal distillation in front of the plain classifier."""


def test_the_reference_is_in_nothing_of_the_new_model() -> None:
    old, plain = old_network(), LitNet(network())
    model = Focal(network(), reference=old)
    frozen = copy.deepcopy(old.state_dict())
    train(model, data())
    assert model.state_dict().keys() == plain.state_dict().keys()
    assert [name for name, _ in model.named_modules()] == [name for name, _ in plain.named_modules()]
    assert len(list(model.parameters())) == len(list(plain.parameters()))
    assert old.training
    assert all(weight.requires_grad and weight.grad is None for weight in old.parameters())
    for name, value in old.state_dict().items():
        assert value.equal(frozen[name])
    assert model._mixin.reference.loaded is None


@pytest.mark.parametrize("save", ["all", "names", "own"])
def test_hyperparameters_do_not_hold_the_reference(save: str, tmp_path: Path) -> None:
    class Chooses(FocalSaves):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            if save == "names":
                self.save_hyperparameters("lr", "reference")
            elif save == "own":
                self.save_hyperparameters("reference", "reference_network")

    old = Saves(hidden=9)
    model = Chooses(hidden=5, lr=0.1, reference=old, reference_class=Saves, focal_beta=2.0)
    assert not {"reference", "reference_class", "reference_network"} & {*model.hparams, *model.hparams["mixin_options"]}
    assert model.hparams["lr"] == 0.1
    trainer = quiet(max_epochs=1)
    trainer.fit(model, data())
    trainer.save_checkpoint(tmp_path / "new.ckpt")
    content = torch.load(tmp_path / "new.ckpt", weights_only=True)
    assert not {"reference", "reference_class", "reference_network"} & set(content["hyper_parameters"])
    again = Chooses.load_from_checkpoint(tmp_path / "new.ckpt")
    assert again.mixin_options.focal_beta == 2.0
    assert again.net[0].out_features == 5


def test_the_plain_classifier_keeps_plain_hyperparameters() -> None:
    model = FocalClassifier(MLP(4, 3), num_classes=3, reference=MLP(4, 3), reference_network=MLP(4, 3))
    with_path = FocalClassifier(MLP(4, 3), num_classes=3, reference="old.ckpt", focal_beta=2.0)
    assert not {"network", "reference", "reference_class", "reference_network"} & {
        *model.hparams,
        *model.hparams["mixin_options"],
    }
    assert dict(with_path.hparams["mixin_options"]) == {**model.hparams["mixin_options"], "focal_beta": 2.0}


def test_a_new_model_is_loaded_and_run_where_the_old_file_is_gone(tmp_path: Path) -> None:
    first = quiet(max_epochs=1)
    first.fit(Saves(hidden=9), data())
    first.save_checkpoint(tmp_path / "old.ckpt")
    second = quiet(max_epochs=1)
    second.fit(FocalSaves(hidden=5, reference=str(tmp_path / "old.ckpt")), data())
    second.save_checkpoint(tmp_path / "new.ckpt")
    (tmp_path / "old.ckpt").unlink()
    model = FocalSaves.load_from_checkpoint(tmp_path / "new.ckpt")
    batches = DataLoader(TensorDataset(torch.from_numpy(inputs())), batch_size=8)
    assert len(quiet().predict(model, [batch[0] for batch in batches]) or []) == 3
    model = FocalSaves.load_from_checkpoint(tmp_path / "new.ckpt", reference=str(tmp_path / "old.ckpt"))
    with pytest.raises((FileNotFoundError, ValueError), match=r"old\.ckpt"):
        quiet().fit(model, data())
    with pytest.raises(ValueError, match=r"FocalSaves compares the new model with an old one.*Pass reference="):
        quiet().fit(FocalSaves(), data())


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
@pytest.mark.parametrize("kind", [Focal, Compatible])
def test_copies_train_the_same(kind: Any, copied: Any) -> None:
    model = kind(network(), reference=old_network())
    losses = train(copied(model), data()).losses
    assert losses == train(model, data()).losses
    assert losses != train(LitNet(network()), data()).losses
    again = copied(model)
    assert (again._mixin.reference is model._mixin.reference) == (
        copied is copy.deepcopy
    )  # averaging needs no second old model
    assert again.state_dict().keys() == model.state_dict().keys()


def test_weight_averaging_copies_no_reference() -> None:
    averages: list[Any] = []

    class Average(EMAWeightAveraging):
        def on_train_start(self, trainer: Any, pl_module: Any) -> None:
            averages.append(dict(self._average_model.module.state_dict()))  # type: ignore[union-attr]
            super().on_train_start(trainer, pl_module)

    model = Focal(network(), reference=old_network())
    plain = LitNet(network())
    losses = train(Focal(network(), reference=old_network()), data()).losses
    recorder_losses: list[float] = []

    class Losses(pl.Callback):
        def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
            recorder_losses.append(float(outputs["loss"]))

    quiet(callbacks=[Average(), Losses()]).fit(model, data())
    assert averages[0].keys() == plain.state_dict().keys()
    assert recorder_losses == losses


def test_a_checkpoint_of_the_class_right_of_the_mixin_is_the_default(tmp_path: Path) -> None:
    """With dropout in the old model: it is in eval mode."""
    torch.manual_seed(0)
    old = Saves(hidden=9)
    trainer = quiet(max_epochs=1)
    trainer.fit(old, data())
    trainer.save_checkpoint(tmp_path / "old.ckpt")
    runs = []
    for reference in (tmp_path / "old.ckpt", str(tmp_path / "old.ckpt"), old, old.net):
        torch.manual_seed(1)
        runs.append(train(FocalSaves(hidden=5, reference=reference), data()).losses)
    assert runs[0] == runs[1] == runs[2] == runs[3]
    torch.manual_seed(1)
    assert runs[0] != train(Saves(hidden=5), data()).losses


def test_the_new_network_itself_may_be_the_reference() -> None:
    """Fine-tuning: the old model is the network as it was given, in a second fit too."""
    net = network()
    model = Focal(net, lr=0.1, reference=net, focal_weight=1.0)
    losses = train(model, data()).losses
    assert losses == train(Focal(network(), lr=0.1, reference=network()), data()).losses
    model.lr = 0.0
    again = train(model, data()).losses
    assert again == train(Focal(copy.deepcopy(net), lr=0.0, reference=network()), data()).losses
    assert again != train(LitNet(copy.deepcopy(net), lr=0.0), data()).losses


@pytest.mark.parametrize("kind", [Focal, Compatible])
def test_searching_a_learning_rate_needs_no_reference(kind: Any) -> None:
    model = kind(network(), lr=1e-9, reference="gone.ckpt")
    trainer: Any = quiet()
    Tuner(trainer).lr_find(model, data(), num_training=4, min_lr=1e-12, max_lr=1e-9, update_attr=False)
    assert model._term_loop.divergence.first_loss is None


def test_manual_optimization() -> None:
    class ByHand(LitNet):
        automatic_optimization = False

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            regularized: Any = self.regularized  # type: ignore[attr-defined]
            loss = regularized(F.cross_entropy(self(batch[0]), batch[1]))
            optimizer: Any = self.optimizers()
            optimizer.zero_grad()
            self.manual_backward(loss)
            optimizer.step()
            return {"loss": loss.detach()}

    class FocalByHand(FocalDistillation, ByHand):
        """In front of it."""

    model = FocalByHand(network(), reference=old_network())
    assert differences(model, train(model, data()), numpy_run(focal_term())) == []


def test_a_compiled_reference_says_the_same() -> None:
    compiled = train(Focal(network(), reference=old_network(), reference_compile="eager"), data(), max_epochs=1).losses
    assert compiled == pytest.approx(train(Focal(network(), reference=old_network()), data(), max_epochs=1).losses)


# -- forms of training -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [Focal, Naive, Compatible])
def test_mixed_targets_are_refused(kind: Any) -> None:
    q = torch.rand(N, K, dtype=torch.float64).softmax(dim=1)
    mixed = DataLoader(TensorDataset(torch.from_numpy(inputs()), q), batch_size=8)
    with pytest.raises(TypeError, match=r"needs class labels.*float \[B, K\] \(MixUp or CutMix\)"):
        quiet().fit(kind(network(), reference=old_network()), mixed)


def test_beside_another_method_both_differences_add_up() -> None:
    class Both(FocalDistillation, FlippingErrorReduction, LitNet):
        """Two methods in one class."""

    class Fer(FlippingErrorReduction, LitNet):
        """The other one alone."""

    plain, focal, fer = (
        np.array(train(model, data()).losses)
        for model in (LitNet(network(), 0.0), Focal(network(), 0.0, reference=old_network()), Fer(network(), 0.0))
    )
    with pytest.warns(UserWarning, match="FocalDistillation, FlippingErrorReduction each soften the target"):
        both = train(Both(network(), 0.0, reference=old_network()), data()).losses
    assert np.array(both) == pytest.approx(focal + fer - plain, abs=1e-12)


# -- wrong use ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"focal_weight": -1.0}, "focal_weight must be at least 0 and finite; got -1.0"),
        ({"focal_alpha": float("nan")}, "focal_alpha must be at least 0"),
        ({"focal_beta": float("inf")}, "focal_beta must be at least 0 and finite"),
        ({"focal_temperature": 0.0}, "focal_temperature must be greater than 0"),
        ({"focal_distance": "cosine"}, "focal_distance must be one of 'kl', 'logits'; got 'cosine'"),
        ({"focal_direction": "both"}, "focal_direction must be one of 'old_new', 'new_old'"),
        ({"class_reduction": "none"}, "class_reduction must be one of 'mean', 'sum'"),
        ({"old_classes": [0, 0]}, "old_classes must be different classes"),
        ({"old_classes": [0, -1]}, "old_classes must be different classes, counted from 0"),
    ],
)
def test_an_option_out_of_range_is_named(options: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        Focal(network(), **options)


@pytest.mark.parametrize("kind", [Focal, Compatible])
def test_errors_of_loading_name_the_mixins_options(kind: Any, tmp_path: Path) -> None:
    """``network=`` and ``model_class=`` would be the module's own options, or nobody's."""
    torch.save(old_network().state_dict(), tmp_path / "old.pt")
    trainer = quiet(max_epochs=1)
    trainer.fit(LitNet(network()), data())
    trainer.save_checkpoint(tmp_path / "old.ckpt")
    for name, said in (
        ("old.pt", "Pass reference_network="),
        ("old.ckpt", "Pass reference_class=.* reference_network="),
    ):
        with pytest.raises(ValueError, match=said) as caught:
            quiet().fit(kind(network(), reference=tmp_path / name), data())
        assert not re.search(r"(?<!reference_)(network|model_class)=", str(caught.value))
    with pytest.raises(TypeError, match="reference_network must be a module"):
        quiet().fit(kind(network(), reference=tmp_path / "old.pt", reference_network=3), data())


@pytest.mark.parametrize("kind", [Focal, Naive, Compatible])
@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({}, r"the reference has 3 outputs, \w+ has 4\. Pass old_classes="),
        ({"old_classes": [0, 1]}, "one of 4 classes for each of the reference's 3 outputs"),
        ({"old_classes": [0, 1, 4]}, r"one of 4 classes .* got \[0, 1, 4\]"),
    ],
)
def test_classes_that_do_not_fit_are_named(kind: Any, options: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        quiet().fit(kind(network(), reference=old_network(3), **options), data())


def test_the_numpy_loop_means_something() -> None:
    right = [row.argmax() for row in old_net_logits()] == labels(K)
    assert 4 < right.sum() < N - 4
    assert new_net().W1.shape == (D, 7)


def old_net_logits() -> Any:
    return old_network()(torch.from_numpy(inputs())).detach().numpy()
