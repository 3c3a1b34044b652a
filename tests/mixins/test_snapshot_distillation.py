"""Where a snapshot is taken, what it says, and where it is kept."""

from __future__ import annotations

import copy
import math
import pickle
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
import torch.distributed as dist
from lightning.pytorch.callbacks import WeightAveraging
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_flip.functional import snapshot_distillation_loss
from lightning_flip.mixins import SnapshotDistillation
from lightning_flip.mixins._snapshot import exchanged, weights_of
from lightning_flip.models import MLP, CyclicCosine
from lightning_flip.modules import SnapshotDistillationClassifier
from lightning_flip.steps import StepSource, attach
from tests.mixins.baselines import shared
from tests.mixins.helpers import (
    EPOCHS,
    D,
    K,
    LitNet,
    N,
    Recorder,
    inputs,
    labels,
    loader,
    quiet,
    shuffled_batches,
    train,
)
from tests.mixins.test_tables import RestOfEpoch, Saver

STATE = "snapshot"


class Snapshots(SnapshotDistillation, LitNet):
    """SD in front of a user's module."""


class Features(nn.Sequential):
    """A network with running statistics, dropout and a buffer that no state_dict has."""

    def __init__(self) -> None:
        super().__init__(nn.Linear(D, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Dropout(0.3), nn.Linear(8, K))
        self.register_buffer("seen", torch.zeros(()), persistent=False)
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.seen += len(x)
        out: Tensor = super().forward(x)
        return out + 1e-3 * self.seen


def network() -> Features:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Features()


def tensors() -> TensorDataset:
    return TensorDataset(torch.from_numpy(inputs()), torch.from_numpy(labels(K)))


def data() -> DataLoader[Any]:
    return DataLoader(tensors(), batch_size=8)


def snapshot(model: Any) -> dict[str, Tensor]:
    weights: dict[str, Tensor] = model._term_loop.states[STATE]["weights"]
    return weights


class Watch(pl.Callback):
    """Keeps each epoch's last weights, and in each step the snapshot that taught it."""

    def __init__(self) -> None:
        self.left: list[dict[str, Tensor]] = []
        self.taught: list[dict[str, Tensor] | None] = []
        self.modes: list[bool] = []

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        state = pl_module._term_loop.states.get(STATE)
        self.taught.append(None if state is None else {name: value.clone() for name, value in state["weights"].items()})
        self.modes.append(all(part.training for part in pl_module.modules()))

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        self.left.append(weights_of(pl_module))


def same(one: Any, other: Any) -> bool:
    return one.keys() == other.keys() and all(value.equal(other[name]) for name, value in one.items())


@pytest.mark.parametrize(("cycles", "epochs", "begins"), [(4, 4, [1, 2, 3]), (2, 4, [2]), (3, 5, [2, 4]), (4, 2, [1])])
def test_a_cycle_is_taught_by_what_the_one_before_left(cycles: int, epochs: int, begins: list[int]) -> None:
    """Running statistics included, and not moved by the cycle's own first batch."""
    watch = Watch()
    quiet(callbacks=[watch], max_epochs=epochs).fit(Snapshots(network(), sd_cycles=cycles), data())
    assert all(watch.modes)
    for step, taught in enumerate(watch.taught):
        first = max([epoch for epoch in begins if epoch <= step // 3], default=None)
        if first is None:
            assert taught is None
        else:
            assert taught is not None
            assert same(taught, watch.left[first - 1])
    assert any(name.endswith("running_mean") for name in watch.left[0])
    assert float(watch.left[0]["net.seen"]) == N


def test_the_teacher_answers_in_eval_mode_to_the_same_batch() -> None:
    """The loss of each step, computed again from a copy of the whole network."""
    found = []

    class Again(Snapshots):
        def method_loss(self, step: Any) -> Any:
            loss = super().method_loss(step)
            state = self._term_loop.states.get(STATE)
            if state is not None:
                teacher = network()
                own = {name.removeprefix("net."): value for name, value in state["weights"].items()}
                teacher.seen = own.pop("seen")
                teacher.load_state_dict(own)
                said = teacher.eval()(step.inputs[0][0])
                again = snapshot_distillation_loss(step.logits, step.target, said, reduction="none")
                torch.testing.assert_close(loss, again, rtol=0, atol=1e-12)
                found.append(float((said - step.logits).detach().abs().max()))
            return loss

    train(Again(network()), data())
    assert len(found) == 9
    assert min(found) > 1e-3


def test_it_is_kept_out_of_everything_but_the_loop() -> None:
    model, plain = Snapshots(network()), LitNet(network())
    train(model, data())
    assert snapshot(model)
    assert model.state_dict().keys() == plain.state_dict().keys()
    assert [name for name, _ in model.named_parameters()] == [name for name, _ in plain.named_parameters()]
    assert [name for name, _ in model.named_buffers()] == [name for name, _ in plain.named_buffers()]
    assert len(list(model.modules())) == len(list(plain.modules()))
    assert not any(value.requires_grad for value in snapshot(model).values())
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert twin._term_loop.states == {}


def without_dropout() -> Features:
    net = network()
    net[3] = nn.Identity()
    return net


def test_a_second_fit_begins_without_a_teacher_and_one_that_goes_on_keeps_it() -> None:
    whole = train(Snapshots(without_dropout()), data()).losses
    model, recorder, watch = Snapshots(without_dropout(), total_epochs=EPOCHS), Recorder(), Watch()
    trainer = quiet(callbacks=[recorder], max_epochs=2)
    trainer.fit(model, data())
    trainer.fit_loop.max_epochs = EPOCHS
    trainer.fit(model, data())
    assert recorder.losses == whole
    quiet(callbacks=[watch]).fit(model, data())
    assert watch.taught[:3] == [None] * 3


@pytest.mark.parametrize(("cycles", "epochs"), [(2, 3), (4, 1), (4, 3)])
def test_a_run_with_running_statistics_resumes_to_the_last_bit(tmp_path: Path, epochs: int, cycles: int) -> None:
    def model() -> Snapshots:
        net = without_dropout()
        del net._buffers["seen"]  # what no state_dict has is lost with any checkpoint
        net.seen = torch.zeros(())
        return Snapshots(net, sd_cycles=cycles, total_epochs=EPOCHS)

    whole = train(model(), data()).losses
    trainer = quiet(max_epochs=epochs)
    trainer.fit(model(), data())
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    saved = torch.load(tmp_path / "a.ckpt", weights_only=True)
    assert ("states" in saved.get("lightning_flip", {})) == (epochs > EPOCHS // cycles)
    again, recorder = model(), Recorder()
    again.net.seen += epochs * N
    quiet(callbacks=[recorder]).fit(again, data(), ckpt_path=tmp_path / "a.ckpt")
    assert recorder.losses == whole[3 * epochs :]


# The sampler does begin where the run stopped; Lightning only believes loaders that have a state.
@pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before:UserWarning")
@pytest.mark.parametrize("batch", [0, 2, 4])
def test_a_run_resumed_inside_an_epoch(tmp_path: Path, batch: int) -> None:
    """After batch 4, the epoch's last, its end hooks never run: the next cycle has its teacher all the same."""

    def model() -> Snapshots:
        net = nn.Sequential(nn.Linear(D, 8), nn.Tanh(), nn.Linear(8, K)).double()
        state = nn.Sequential(without_dropout()[0], nn.Tanh(), without_dropout()[4]).state_dict()
        net.load_state_dict(state)
        return Snapshots(net, total_epochs=EPOCHS)

    fixed = loader(inputs(), labels(K), shuffled_batches())
    whole = train(model(), fixed).losses
    path = tmp_path / "a.ckpt"
    quiet(callbacks=[Saver(path, 1, batch)], max_epochs=2).fit(model(), fixed)
    batches, recorder = RestOfEpoch(shuffled_batches()), Recorder()
    batches.skip = batch + 1
    rest = DataLoader(fixed.dataset, batch_sampler=batches)
    quiet(callbacks=[recorder]).fit(model(), rest, ckpt_path=path)
    assert recorder.losses == whole[5 + batch + 1 :]


def test_weight_averaging_goes_along(tmp_path: Path) -> None:
    watch = Watch()
    averaging = WeightAveraging()
    quiet(callbacks=[averaging, watch]).fit(Snapshots(network()), data())
    assert same(watch.taught[-1] or {}, watch.left[-2])


class Ranked(Snapshots):
    """Tells what each rank was taught by."""

    folder = ""

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        if self.trainer.current_epoch == 2 and batch_idx == 0:
            torch.save(snapshot(self), f"{self.folder}/{dist.get_rank()}.pt")


def test_ranks_have_one_teacher(tmp_path: Path) -> None:
    """Running statistics differ between ranks until a forward brings those of the first to all."""
    model = Ranked(network(), sd_cycles=2)
    model.folder = str(tmp_path)
    trainer = quiet(devices=2, strategy="ddp_fork", use_distributed_sampler=False, max_epochs=4)
    trainer.fit(model, shared(tensors(), 2))
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2))
    assert same(first, second)


class Looks(pl.Callback):
    """Takes the step from the network and not from the module, after the loss."""

    def __init__(self) -> None:
        self.source = StepSource(logits_from="net", features_from="net.4")
        self.found: list[tuple[bool, bool]] = []

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        self.attachment = attach(trainer, pl_module, self, self.source)

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        step = self.attachment.sample_step(self.source)
        assert step is not None
        assert step.features is not None
        self.found.append((step.logits.requires_grad, step.features.requires_grad))

    def teardown(self, trainer: Any, pl_module: Any, stage: str) -> None:
        self.attachment.release(self)


def test_the_teachers_forward_is_not_taken_for_the_step() -> None:
    looks = Looks()
    quiet(callbacks=[looks]).fit(Snapshots(network()), data())
    assert looks.found == [(True, True)] * 12


# -- which part answers ----------------------------------------------------------------------------------------


class Aliased(Snapshots):
    """Holds the layers of its network under other names as well, before the network itself."""

    def __init__(self, net: nn.Module, **options: Any) -> None:
        super().__init__(nn.Identity(), **options)
        self.layers = nn.ModuleList(net.children())
        self.net = net


@pytest.mark.parametrize("options", [{}, {"logits_from": "net"}])
def test_a_named_part_answers_alike(options: dict[str, str]) -> None:
    whole = train(Snapshots(without_dropout()), data()).losses
    assert train(Snapshots(without_dropout(), **options), data()).losses == whole
    assert train(Aliased(without_dropout(), **options), data()).losses == whole


class Tied(nn.Module):
    """Two layers with one weight, and one layer under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.last = nn.Linear(D, D), nn.Linear(D, D), nn.Linear(D, K)
        self.second.weight = self.first.weight
        self.head = self.last
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.second(self.first(x).tanh()))
        return out


def test_tied_weights_stay_what_they_are() -> None:
    x, net = torch.from_numpy(inputs()), Tied()
    kept, before = weights_of(net), net(x).detach()
    parameters = [id(parameter) for parameter in net.parameters()]
    torch.nn.init.normal_(net.first.weight)
    moved = net(x).detach()
    with exchanged(net, kept):
        assert net(x).equal(before)
    assert net(x).equal(moved)
    assert not moved.equal(before)
    assert [id(parameter) for parameter in net.parameters()] == parameters
    assert net.second.weight is net.first.weight
    assert len(kept) == 5


def test_a_checkpoint_of_another_network_is_refused() -> None:
    with (
        pytest.raises(ValueError, match=r"other weights than the Linear that trains: \['bias'\]"),
        exchanged(nn.Linear(1, 1, bias=False), weights_of(nn.Linear(1, 1))),
    ):
        pass


def test_a_head_is_no_network() -> None:
    with pytest.raises(ValueError, match=r"come from 'net.4', which is given what 'net.3' .* features"):
        train(Snapshots(network(), logits_from="net.4"), data(), max_epochs=1)


def test_logits_from_a_function_have_no_inputs() -> None:
    with pytest.raises(TypeError, match=r"logits_from is a function .* Name a submodule"):
        Snapshots(network(), logits_from=lambda output: output)


def test_a_forward_without_inputs_is_refused() -> None:
    class Base(LitNet):
        def forward(self, x: Any = None) -> Any:
            return self.net(self.held)

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            self.held = batch[0]
            return nn.functional.cross_entropy(self(), batch[1])

    class Held(SnapshotDistillation, Base):
        """Its forward is given nothing."""

    with pytest.raises(RuntimeError, match="Pass the batch to forward"):
        train(Held(network(), logits_from=""), data(), max_epochs=1)


# -- the schedule ----------------------------------------------------------------------------------------------


class Cosine:
    """A schedule that pickles and has the options given to it."""

    def __init__(self, **options: Any) -> None:
        self.options = options

    def __call__(self, optimizer: Any) -> CyclicCosine:
        return CyclicCosine(optimizer, **self.options)


def classifier(total: int, cycles: int, steps: int = 1, **options: Any) -> Any:
    cosine = Cosine(total_epochs=total, cycles=cycles, steps_per_epoch=steps)
    return SnapshotDistillationClassifier(MLP(D, K), lr_scheduler=cosine, num_classes=K, **options).double()


class Rates(pl.Callback):
    def __init__(self) -> None:
        self.rates: list[float] = []
        self.stepped: list[tuple[int, float]] = []  # the teacher's cycle and the rate of each optimizer step

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        self.rates.append(trainer.optimizers[0].param_groups[0]["lr"])

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        cycle = pl_module._term_loop.states.get(STATE, {"cycle": 0})["cycle"]
        self.stepped.append((cycle, optimizer.param_groups[0]["lr"]))


@pytest.mark.filterwarnings("ignore:You defined a `validation_step` but have no:UserWarning")
def test_the_rate_begins_again_with_each_teacher() -> None:
    rates = Rates()
    quiet(callbacks=[rates], max_epochs=6).fit(classifier(6, 3, sd_cycles=3), data())
    assert rates.rates == pytest.approx([0.05, 0.025] * 3)


@pytest.mark.filterwarnings("ignore:You defined a `validation_step` but have no:UserWarning")
@pytest.mark.parametrize(("total", "cycles"), [(6, 3), (4, 4)])
def test_a_rate_with_other_cycles_than_the_teacher_is_refused(total: int, cycles: int) -> None:
    with pytest.raises(ValueError, match=r"Give CyclicCosine total_epochs=4, cycles=3 and steps_per_epoch=1, or"):
        quiet().fit(classifier(total, cycles, sd_cycles=3), data())


@pytest.mark.filterwarnings("ignore:You defined a `validation_step` but have no:UserWarning")
@pytest.mark.parametrize(("accumulated", "steps"), [(1, 3), (2, 2)])
def test_a_rate_that_falls_in_every_step_begins_again_with_each_teacher(accumulated: int, steps: int) -> None:
    rates, options = Rates(), {"max_epochs": 5, "accumulate_grad_batches": accumulated}
    quiet(callbacks=[rates], **options).fit(classifier(5, 2, steps, sd_cycles=2), data())
    first, second = ([rate for cycle, rate in rates.stepped if cycle == number] for number in (0, 1))
    assert [len(first), len(second)] == [3 * steps, 2 * steps]
    for found in (first, second):
        expected = [0.025 * (1 + math.cos(math.pi * step / len(found))) for step in range(len(found))]
        assert found == pytest.approx(expected, abs=1e-12)
    wrong = quiet(**options | {"accumulate_grad_batches": 3 - accumulated})
    with pytest.raises(ValueError, match=rf"stepped {5 - steps} times\. Give .* steps_per_epoch={5 - steps}, or"):
        wrong.fit(classifier(5, 2, steps, sd_cycles=2), data())


def test_a_run_without_an_end_has_no_cycles() -> None:
    with pytest.raises(ValueError, match="number of epochs M"):
        quiet(max_epochs=-1).fit(Snapshots(network()), data())
