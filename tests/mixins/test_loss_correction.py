"""Forward and backward correction through a real Trainer against a numpy loop, and their transition's sources."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from lightning_flip.functional import smoothing_matrix
from lightning_flip.mixins import BackwardCorrection, ForwardCorrection, LabelSmoothing
from lightning_flip.models import MLP, Classifier
from lightning_flip.steps import SampleStep
from lightning_flip.stores import write_transition
from tests.mixins.helpers import (
    LR,
    D,
    H,
    K,
    LitNet,
    N,
    Recorder,
    data,
    differences,
    inputs,
    labels,
    network,
    quiet,
    shuffled_batches,
    train,
)
from tests.oracles import smearing as oracle
from tests.oracles.retrospection import Floats, NumpyNet, Trace

SampleLoss = Callable[[Floats, int], tuple[float, Floats]]


class Forward(ForwardCorrection, LitNet):
    """Forward correction in front of a user's module."""


class Backward(BackwardCorrection, LitNet):
    """Backward correction."""


both = pytest.mark.parametrize("kind", [Forward, Backward])


def skewed(k: int = K) -> Floats:
    noise = np.random.default_rng(5).random((k, k))
    return 0.6 * np.eye(k) + 0.4 * noise / noise.sum(axis=1, keepdims=True)


def sample_loss(kind: Any, transition: Floats, eps: float = 1e-7) -> SampleLoss:
    if kind is Forward:
        return lambda z, y: oracle.forward(z, y, transition)
    return lambda z, y: oracle.smeared(z, y, np.linalg.inv(transition), eps)


def numpy_run(loss: SampleLoss, classes: int = K) -> Trace:
    net, x, y, trace = NumpyNet.random(D, H, classes, seed=0), inputs(), labels(classes), Trace()
    for epoch in shuffled_batches():
        for batch in epoch:
            pairs = [loss(z, int(label)) for z, label in zip(net.forward(x[batch]), y[batch], strict=True)]
            trace.step_losses.append(float(np.mean([value for value, _ in pairs])))
            net.backward(np.stack([gradient for _, gradient in pairs]) / len(batch))
            net.sgd(LR)
    trace.weights = net.to_torch_state()
    return trace


# -- the loss -------------------------------------------------------------------------------------------------


@both
@pytest.mark.parametrize("alpha", [0.0, 0.3])
def test_a_run_with_alpha_is_the_numpy_loop(kind: Any, alpha: float) -> None:
    """tests/sweep has the default, a tenth."""
    model = kind(network(), correction_alpha=alpha)
    assert differences(model, train(model, data()), numpy_run(sample_loss(kind, oracle.smoothing(K, alpha)))) == []
    assert model._term_loop.tables == {}


@pytest.mark.parametrize(
    ("kind", "given"),
    [(Forward, list), (Backward, torch.tensor), (Forward, "npz"), (Backward, "npy"), (Forward, "csv")],
)
def test_a_run_with_a_transition_is_the_numpy_loop_wherever_it_comes_from(
    kind: Any, given: Any, tmp_path: Path
) -> None:
    T = skewed()
    source: Any = T.tolist() if given is list else given(T) if given is torch.tensor else tmp_path / f"T.{given}"
    if given == "npz":
        write_transition(source, T, condition_number=2.0)
    elif given == "npy":
        np.save(source, T)
    elif given == "csv":
        np.savetxt(source, T, delimiter=",", fmt="%.17g")
    model = kind(network(), transition=str(source) if isinstance(source, Path) else source)
    assert differences(model, train(model, data()), numpy_run(sample_loss(kind, T))) == []


def test_the_clipping_is_an_option() -> None:
    trace = numpy_run(sample_loss(Backward, skewed(), eps=0.2))
    model = Backward(network(), transition=skewed().tolist(), backward_eps=0.2)
    assert differences(model, train(model, data()), trace) == []


@both
def test_mixed_targets_are_corrected_as_distributions(kind: Any) -> None:
    q = torch.rand(N, K, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).softmax(dim=1)
    x, net = torch.from_numpy(inputs()), network()
    pairs = [
        oracle.forward(z, s, skewed()) if kind is Forward else oracle.smeared(z, s, np.linalg.inv(skewed()), 1e-7)
        for z, s in zip(net(x).detach().numpy(), q.numpy(), strict=True)
    ]
    recorder = train(
        kind(net, transition=skewed().tolist()), DataLoader(TensorDataset(x, q), batch_size=N), max_epochs=1
    )
    assert recorder.losses == pytest.approx([np.mean([loss for loss, _ in pairs])], abs=1e-12)


# -- the transition -------------------------------------------------------------------------------------------


class Gives(pl.Callback):
    """Hands a transition over when an epoch begins."""

    gives_transition = True

    def __init__(self, transition: Any, epoch: int) -> None:
        self.transition, self.epoch = transition, epoch
        self.waited: list[bool] = []

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        if trainer.current_epoch == self.epoch:
            pl_module.take_transition(torch.as_tensor(self.transition))
        self.waited.append(pl_module.awaits_transition)


@both
def test_until_the_estimate_comes_training_is_plain_bit_for_bit(kind: Any) -> None:
    giver, recorder = Gives(skewed(), 2), Recorder()
    model = kind(network(), transition="estimate")
    quiet(callbacks=[giver, recorder]).fit(model, data())
    plain = train(LitNet(network()), data()).losses
    assert recorder.losses[:10] == plain[:10]
    assert recorder.losses[10] != plain[10]
    assert giver.waited == [True, True, False, False]
    quiet(callbacks=[giver, recorder]).fit(model, data())  # a new fit waits again
    assert giver.waited[4:] == [True, True, False, False]


@both
def test_a_transition_of_its_own_is_not_replaced(kind: Any) -> None:
    trace = numpy_run(sample_loss(kind, skewed()))
    model, recorder = kind(network(), transition=skewed().tolist()), Recorder()
    quiet(callbacks=[Gives(np.eye(K), 1), recorder]).fit(model, data())
    assert differences(model, recorder, trace) == []


@both
def test_an_estimate_that_nobody_gives_is_an_error(kind: Any) -> None:
    with pytest.raises(ValueError, match=r'transition="estimate" waits.*Add TransitionEstimator\(\)'):
        train(kind(network(), transition="estimate"), data())


@both
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"correction_alpha": 1.0}, r"correction_alpha must be in \[0, 1\)"),
        ({"correction_alpha": -0.1}, r"correction_alpha must be in \[0, 1\)"),
        ({"correction_alpha": 0.1, "transition": [[1.0, 0.0], [0.0, 1.0]]}, "not both"),
        ({"transition": [[0.9, 0.2], [0.0, 1.0]]}, "rows that sum to 1"),
        ({"transition": [[1.5, -0.5], [0.0, 1.0]]}, "at least 0"),
        ({"transition": [[0.5, 0.5]]}, "must be square"),
        ({"transition": [0.5, 0.5]}, r"must be a matrix \[K, K\]; got the shape \(2,\)"),
        ({"transition": [[0.5, 0.5], [1.0]]}, "must be a matrix of numbers"),
    ],
)
def test_options_out_of_range_are_named(kind: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        kind(network(), **options)


def test_backward_correction_refuses_what_it_cannot_invert_and_a_bad_eps() -> None:
    half = [[0.5, 0.5], [0.5, 0.5]]
    Forward(network(2), transition=half)
    with pytest.raises(ValueError, match="transition is singular"):
        Backward(network(2), transition=half)
    with pytest.raises(ValueError, match=r"backward_eps must be in \[0, 1\)"):
        Backward(network(), backward_eps=-1e-7)


@both
def test_a_transition_of_other_classes_is_an_error(kind: Any) -> None:
    with pytest.raises(ValueError, match="transition is of 3 classes, the logits are of 4"):
        train(kind(network(), transition=skewed(3).tolist()), data())


@both
def test_a_file_is_read_when_a_fit_begins(kind: Any, tmp_path: Path) -> None:
    model = kind(network(), transition=tmp_path / "T.npy")  # a model that is only loaded needs no file
    with pytest.raises(FileNotFoundError, match=r"no file .*T\.npy"):
        train(model, data())
    np.save(tmp_path / "T.npy", 2 * skewed())
    with pytest.raises(ValueError, match="rows that sum to 1"):
        train(model, data())


@pytest.mark.filterwarnings("ignore:.* each take the place of cross entropy")
def test_it_adds_up_with_label_smoothing() -> None:
    """The differences to cross entropy of label smoothing and of forward correction add up, each on its own."""

    class Both(LabelSmoothing, ForwardCorrection, LitNet):
        """Two methods."""

    def loss(z: Floats, y: int) -> tuple[float, Floats]:
        parts = [
            oracle.smeared(z, y, oracle.smoothing(K, 0.2)),
            oracle.forward(z, y, oracle.smoothing(K, 0.3)),
            oracle.smeared(z, y, -np.eye(K)),
        ]
        return sum(value for value, _ in parts), np.sum([gradient for _, gradient in parts], axis=0)

    model = Both(network(), smoothing=0.2, correction_alpha=0.3)
    assert differences(model, train(model, data()), numpy_run(loss)) == []


@both
def test_copies_and_plain_hyperparameters(kind: Any) -> None:
    class Corrected(kind.__bases__[0], Classifier):  # type: ignore[misc]
        """In front of our classifier."""

    matrix = smoothing_matrix(3, 0.2)
    model = Corrected(network=MLP(4, 3), num_classes=3, transition=matrix)
    assert "transition" not in model.hparams["mixin_options"]  # a tensor is no plain value
    assert (
        Corrected(network=MLP(4, 3), num_classes=3, transition="estimate").hparams["mixin_options"]["transition"]
        == "estimate"
    )
    assert copy.deepcopy(model)._mixin.correction.matrix.equal(matrix)
    assert not any("correction" in name for name in model.state_dict())


def test_another_transition_takes_the_place_of_the_one_at_hand():
    class Corrected(ForwardCorrection, Classifier):
        """Forward correction of a plain classifier."""

    model = Corrected(network=MLP(4, 2), num_classes=2, transition="estimate")
    step = SampleStep(torch.arange(1), torch.zeros(1, 2), torch.tensor([1]))
    for wrong in (0.25, 0.5):  # the first one is on the device already when the second comes
        model.take_transition(torch.tensor([[1.0, 0.0], [wrong, 1 - wrong]]))
        assert model.method_loss(step).item() == pytest.approx(-math.log((1 - wrong) / 2), abs=1e-6)
