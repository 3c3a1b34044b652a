"""Backward-compatible training through a real Trainer against numpy, and the features that it is given."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_flip.mixins import BackwardCompatible
from lightning_flip.models import EnsembleClassifier
from lightning_flip.steps import SampleStep, StepSource
from lightning_flip.steps.logits.capture import classifier_layer
from tests.mixins.helpers import D, H, K, LitNet, as_torch, data, differences, inputs, labels, network, quiet, train
from tests.mixins.updates import Compatible, compatible_term, numpy_run, old_net, old_network
from tests.steps.helpers import Passing, Positions, Recorder, assert_nothing_left, loader_over, trainer_with


@pytest.mark.parametrize("classes", [2, K])
@pytest.mark.parametrize("weight", [1.0, 0.3])
def test_a_run_is_the_numpy_loop(weight: float, classes: int) -> None:
    trace = numpy_run(compatible_term(weight, classes), classes)
    old = old_network(classes)
    frozen = old[2].weight.detach().clone()
    model = Compatible(network(classes), reference=old, backward_weight=weight)
    assert differences(model, train(model, data(classes)), trace) == []
    assert old[2].weight.equal(frozen)


def test_grown_classes_have_no_part() -> None:
    old_classes = [3, 1, 0]
    trace = numpy_run(compatible_term(1.0, K, old_classes))
    model = Compatible(network(), reference=old_network(3), old_classes=old_classes)
    assert differences(model, train(model, data()), trace) == []


def test_the_layers_may_be_named() -> None:
    trace = numpy_run(compatible_term())
    old = nn.Sequential(old_network(), nn.Linear(3, 3))  # the last Linear is not the classifier
    model = Compatible(network(), reference=old, features_from="net.2", classifier_from="0.2")
    assert differences(model, train(model, data()), trace) == []
    model = Compatible(network(), reference=old_network(), features_from="net.0")
    with pytest.raises(ValueError, match=rf"takes {H} features, .*\(8, {D}\).*the same width"):
        train(model, data())


def test_one_logit_counts_as_two() -> None:
    class Binary(LitNet):
        def forward(self, x: Tensor) -> Any:
            return self.net(x)[:, 0]

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return F.binary_cross_entropy_with_logits(self(batch[0]), batch[1].double())

    class CompatibleBinary(BackwardCompatible, Binary):
        """In front of it."""

    def one_logit(net: Any) -> nn.Sequential:
        """[z1 - z0] of a network with two logits."""
        last = nn.Linear(H, 1).double()
        last.weight.data, last.bias.data = net[2].weight.data.diff(dim=0), net[2].bias.data.diff(dim=0)
        return nn.Sequential(net[0], net[1], last)

    model = CompatibleBinary(one_logit(network(2)), lr=0.0, reference=one_logit(old_network(2)))
    two = Compatible(network(2), lr=0.0, reference=old_network(2))
    assert train(model, data(2)).losses == pytest.approx(train(two, data(2)).losses, abs=1e-10)


def test_an_old_layer_without_bias() -> None:
    net = old_net()
    net.b2[:] = 0
    old = as_torch(net)
    old[2].bias = None
    with_zeros = train(Compatible(network(), reference=as_torch(net)), data()).losses
    assert train(Compatible(network(), reference=old), data()).losses == pytest.approx(with_zeros, abs=1e-12)


def test_the_first_of_several_forwards_counts() -> None:
    """Of the batch's number of rows; a forward of a part of the batch comes before."""

    class Twice(LitNet):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            self.net(torch.zeros(1 + len(batch[1]), D).double())
            loss = F.cross_entropy(self(batch[0]), batch[1])
            self.net(torch.zeros_like(batch[0]))
            return loss

    class CompatibleTwice(BackwardCompatible, Twice):
        """In front of it."""

    model = CompatibleTwice(network(), reference=old_network())
    assert differences(model, train(model, data()), numpy_run(compatible_term())) == []


def test_features_in_half_precision_meet_the_old_layer_in_single() -> None:
    seen: list[torch.dtype] = []

    class Looks(Compatible):
        def method_loss(self, step: SampleStep) -> Tensor | None:
            assert step.features is not None
            seen.append(step.features.dtype)
            loss = super().method_loss(step)
            assert loss is not None
            assert loss.dtype == torch.float32
            return loss

    class Wider(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.bfloat16()

    net = network().float()
    model = Looks(nn.Sequential(net[0], net[1], Wider(), net[2]), reference=old_network().float())
    tensors = TensorDataset(torch.from_numpy(inputs()).float(), torch.from_numpy(labels(K)))
    train(model, DataLoader(tensors, batch_size=8), precision="bf16-mixed", max_epochs=1)
    assert seen == [torch.bfloat16] * 3


# -- the reference -----------------------------------------------------------------------------------------


def test_other_widths_are_told() -> None:
    narrow = nn.Sequential(nn.Linear(D, 3), nn.Tanh(), nn.Linear(3, K)).double()
    with pytest.raises(ValueError, match=rf"takes 3 features, .*\(8, {H}\); .*same width in both"):
        quiet().fit(Compatible(network(), reference=narrow), data())


def test_an_ensemble_has_a_layer_for_each_member() -> None:
    ensemble = EnsembleClassifier([old_network(), old_network()], num_classes=K)
    with pytest.raises(ValueError, match=r"Compatible is an EnsembleClassifier.*one of the members.*classifier_from"):
        quiet().fit(Compatible(network(), reference=ensemble), data())
    named = Compatible(network(), reference=ensemble, classifier_from="network.members.1.2")
    assert train(named, data()).losses == train(Compatible(network(), reference=old_network()), data()).losses


def test_cached_logits_have_no_layer(tmp_path: Path) -> None:
    np.save(tmp_path / "old.npy", np.zeros((24, K), np.float32))
    with pytest.raises(ValueError, match=r"classifier layer, and .*old\.npy holds cached logits"):
        quiet().fit(Compatible(network(), reference=tmp_path / "old.npy"), data())


@pytest.mark.parametrize(
    ("options", "error", "named"),
    [
        ({"classifier_from": "head"}, AttributeError, r"no submodule 'head'.*classifier_from=; candidates: '0', '2'"),
        ({"classifier_from": "1"}, TypeError, r"classifier_from='1' is a Tanh .* expected an nn\.Linear"),
        ({"features_from": "head"}, AttributeError, r"no submodule 'head'.*features_from=; candidates: .*'net\.2'"),
        ({"features_from": "net.1"}, None, ""),
    ],
)
def test_layers_that_are_not_there_are_told_with_candidates(options: Any, error: Any, named: str) -> None:
    model = Compatible(network(), reference=old_network(), **options)
    if error is None:
        train(model, data())  # what enters the activation has the right width, too
        return
    with pytest.raises(error, match=named):
        quiet().fit(model, data())


def test_without_a_linear_layer_the_name_is_asked_for() -> None:
    class Cosine(nn.Module):
        """A classifier layer of its own kind."""

        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(3, 4))

    nothing = r"There is no layer with a weight \[K, D\] that features_from could name: end the network in"
    for net, advice in (
        (nn.Sequential(nn.Embedding(9, 4), nn.Tanh(), nn.Sequential(Cosine())), "features_from=; candidates: '2.0'"),
        (nn.Sequential(nn.Embedding(9, 4), nn.Conv2d(1, 1, 1)), nothing),
        (nn.Tanh(), nothing),
    ):
        with pytest.raises(AttributeError, match=rf"has no nn\.Linear to be its classifier layer\. .*{advice}"):
            classifier_layer(net, "", "features_from")
        with pytest.raises(AttributeError, match=r"There is no nn\.Linear that classifier_from could name"):
            classifier_layer(net, "head", "classifier_from", linear=True)


def test_features_that_never_come_are_told() -> None:
    class UsesTheWeight(LitNet):
        def forward(self, x: Tensor) -> Any:
            return F.linear(self.net[:2](x), self.net[2].weight, self.net[2].bias)

    class Lost(BackwardCompatible, UsesTheWeight):
        """In front of it."""

    with pytest.raises(RuntimeError, match=r"no features \[B, D\] entered the layer 'net\.2'.*candidates: .*'net\.0'"):
        quiet().fit(Lost(network(), reference=old_network()), data())


@pytest.mark.parametrize("weight", [-1.0, float("nan")])
def test_a_weight_out_of_range_is_named(weight: float) -> None:
    with pytest.raises(ValueError, match="backward_weight must be at least 0 and finite; got"):
        Compatible(network(), backward_weight=weight)


def test_after_a_fit_no_hook_and_no_layer_is_left() -> None:
    model = Compatible(network(), reference=old_network())
    trainer = quiet(max_epochs=1)
    trainer.fit(model, data())
    assert_nothing_left(trainer)
    assert model._mixin.old_layer.weight is None
    assert Compatible(network(), backward_weight=0.0)._mixin.source.features_from is None


# -- features of a step -------------------------------------------------------------------------------------


class Featured(Passing):
    """Its features say which samples it saw."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Any:
        return self.head(input=x)


class Looks(Recorder):
    features: list[Any]

    def _record(self, trainer: Any, split: str, batch: Any, loader: int) -> None:
        step = self.attachment.sample_step(self.source)
        assert step.features is not None
        for part in step.observed.once():
            assert part.features[:, 0].tolist() == part.index.tolist()
            assert not part.features.requires_grad
            self.features.append(part.index.tolist())


@pytest.mark.parametrize("path", ["", "head"])
def test_features_belong_to_their_samples(path: str) -> None:
    class Repeats(torch.utils.data.Sampler[int]):
        def __iter__(self) -> Any:
            return iter([3, 1, 3, 0, 3, 2, 2])

        def __len__(self) -> int:
            return 7

    recorder = Looks(StepSource(features_from=path))
    recorder.features = []
    trainer_with(recorder).fit(Featured(), loader_over(Positions(5), batch_size=4, sampler=Repeats()))
    assert recorder.features == [[3, 1, 0], [3], [3, 2], [2]]


def test_padding_is_cut_from_features_too() -> None:
    step = SampleStep(
        torch.arange(3), torch.zeros(3, 2), torch.zeros(3).long(), features=torch.arange(6.0).view(3, 2), num_padding=1
    )
    recorded = step.recorded()
    assert recorded.features is not None
    assert recorded.features.tolist() == [[0.0, 1.0], [2.0, 3.0]]
