"""What holds for every method that the package has, those that are added later included."""

from __future__ import annotations

import inspect
import sys
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from lightning_flip import mixins
from lightning_flip.functional import _closed_form
from lightning_flip.functional.cross_entropy import cross_entropy
from lightning_flip.mixins import (
    BatchMixing,
    CorrectedLoss,
    Distillation,
    LabelSmoothing,
    LearningWithRetrospection,
    LossTerm,
    ReferencedLoss,
    SelfAdaptiveTraining,
    SnapshotDistillation,
    SoftTargets,
    StudentLoss,
)
from lightning_flip.stores import write_soft_targets
from tests.mixins.helpers import EPOCHS, LR, LitNet, Recorder, inputs, labels, quiet, train
from tests.mixins.updates import MIXED, K, data, network, old_network

BASES = {BatchMixing, CorrectedLoss, LossTerm, ReferencedLoss, StudentLoss}
METHODS = [part for part in (getattr(mixins, name) for name in mixins.__all__) if part not in BASES]

FILE = "teacher.safetensors"

every_method = pytest.mark.parametrize("method", METHODS, ids=lambda method: method.__name__)


@pytest.fixture(autouse=True)
def teacher(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Soft targets of the samples that the sweep trains on."""
    monkeypatch.chdir(tmp_path)
    probs = np.random.default_rng(0).dirichlet(np.ones(K), size=len(inputs()))
    write_soft_targets(FILE, probs, target=labels(K))


def before(method: Any, module: Any) -> Any:
    """The class of a method in front of a module."""
    return type(method.__name__, (method, module), {})


def made(kind: Any, lr: float = 0.5, net: Any = None, **options: Any) -> Any:
    if issubclass(kind, ReferencedLoss):
        options.setdefault("reference", old_network())
    if issubclass(kind, SoftTargets):
        options["targets"] = FILE
    if issubclass(kind, LearningWithRetrospection):
        options["lwr_interval"] = 1  # the default waits for longer than these runs take
    if issubclass(kind, SelfAdaptiveTraining):
        options["sat_warmup"] = 0  # the same
    return kind(network() if net is None else net, lr, **options)


def test_all_methods_are_swept() -> None:
    found: set[Any] = set()
    waiting = [LossTerm]
    while waiting:
        subclasses = waiting.pop().__subclasses__()
        waiting += subclasses
        ours = {cls for cls in subclasses if cls.__module__.startswith("lightning_flip.mixins.")}
        # Classes of doctests come from the same modules.
        found |= {cls for cls in ours if getattr(sys.modules[cls.__module__], cls.__name__, None) is cls}
    assert found - BASES == set(METHODS)


@every_method
def test_it_changes_training_and_every_step_is_asked(method: Any) -> None:
    losses = train(made(before(method, LitNet)), data()).losses
    assert len(losses) == 5 * EPOCHS
    assert losses != train(LitNet(network()), data()).losses


@every_method
def test_a_step_without_super_is_an_error(method: Any) -> None:
    class Forgets(before(method, LitNet)):  # type: ignore[misc]
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return F.cross_entropy(self(batch[0]), batch[1])

    with pytest.raises(RuntimeError, match=r"Forgets took a step without its mixins' loss.*super\(\)\.training_step"):
        quiet().fit(made(Forgets), data())


@every_method
def test_hooks_overridden_without_super_do_no_harm(method: Any, tmp_path: Any) -> None:
    class Careless(before(method, LitNet)):  # type: ignore[misc]
        """Overrides the hooks that a method could live in."""

        def setup(self, stage: str) -> None: ...
        def teardown(self, stage: str) -> None: ...
        def on_fit_start(self) -> None: ...
        def on_fit_end(self) -> None: ...
        def on_train_start(self) -> None: ...
        def on_train_epoch_start(self) -> None: ...
        def on_train_epoch_end(self) -> None: ...
        def on_train_batch_start(self, batch: Any, batch_idx: int) -> None: ...
        def on_save_checkpoint(self, checkpoint: Any) -> None: ...
        def on_load_checkpoint(self, checkpoint: Any) -> None: ...
        def configure_callbacks(self) -> Any:
            return []

    whole = train(made(before(method, LitNet)), data()).losses
    trainer, recorder = quiet(max_epochs=2), Recorder()
    trainer.fit(made(Careless, total_epochs=EPOCHS), data())
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    quiet(callbacks=[recorder]).fit(made(Careless, total_epochs=EPOCHS), data(), ckpt_path=tmp_path / "a.ckpt")
    assert recorder.losses == pytest.approx(whole[10:], abs=1e-10)


@every_method
def test_outside_of_a_trainer_the_module_is_itself(method: Any) -> None:
    x, y = torch.from_numpy(inputs()), torch.from_numpy(labels(K))
    assert made(before(method, LitNet)).training_step((x, y), 0).equal(LitNet(network()).training_step((x, y), 0))


@every_method
def test_an_unknown_option_is_refused(method: Any) -> None:
    with pytest.raises(TypeError, match="no_such_option"):
        made(before(method, LitNet), no_such_option=1.0)


# -- a method of weight zero ---------------------------------------------------------------------------------


class Taught(SoftTargets, LitNet):
    """A student of a file."""


class Distilled(Distillation, LitNet):
    """A student of a teacher that answers."""


WEIGHTED = [*MIXED, (Taught, "kd_weight"), (Distilled, "kd_weight")]


class Keeps(LitNet):
    """Keeps the loss of its own step."""

    own: Any = None

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        self.own = super().training_step(batch, batch_idx)
        return self.own  # type: ignore[no-any-return]


@pytest.mark.parametrize(("kind", "weight"), WEIGHTED)
def test_without_weight_the_loss_is_the_modules_own_graph(kind: Any, weight: str) -> None:
    class Watched(kind.__bases__[0], Keeps):  # type: ignore[misc]
        same = 0

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            loss = super().training_step(batch, batch_idx)
            self.same += loss is self.own
            return loss

    for value, same in ((0.0, 5), (0.5, 0)):
        model = made(Watched, **{weight: value})
        train(model, data(), max_epochs=1)
        assert model.same == same


def smoothed(kind: Any, **options: Any) -> Tensor:
    """Weights after training in single precision with another method in the class."""

    class Both(kind.__bases__[0], LabelSmoothing, LitNet):  # type: ignore[misc]
        """The method of weight zero on the left."""

    model = made(Both if options else before(LabelSmoothing, LitNet), LR, network().float(), **options)
    tensors = TensorDataset(torch.from_numpy(inputs()).float(), torch.from_numpy(labels(K)))
    train(model, DataLoader(tensors, batch_size=8))
    return torch.cat([value.flatten() for value in model.state_dict().values()])


@pytest.mark.filterwarnings("ignore:.* each soften the target")
@pytest.mark.parametrize(("kind", "weight"), WEIGHTED)
def test_without_weight_it_leaves_another_method_as_it_is_bit_for_bit(
    kind: Any, weight: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = smoothed(kind)
    assert smoothed(kind, **{weight: 0.0}).equal(alone)
    # A method that returned the cross entropy instead of nothing would add zero, and round on the way.
    plain = lambda self, step: cross_entropy(step.logits, step.target, reduction="none")  # noqa: E731
    monkeypatch.setattr(kind.__bases__[0], "method_loss", plain)
    rounded = smoothed(kind, **{weight: 0.0})
    assert not rounded.equal(alone)
    torch.testing.assert_close(rounded, alone, rtol=0, atol=1e-4)


# -- two ways to say a loss ------------------------------------------------------------------------------------


def compared(method: Any, module: Any, excesses: list[tuple[float, float]]) -> Any:
    """The class of a method that says its loss both ways in every step, and trains with the shorter one."""

    class Compared(before(method, module)):  # type: ignore[misc]
        def method_loss(self, step: Any, reduction: str = "none") -> Any:
            losses, excess = method.method_loss(self, step), method.method_loss(self, step, reduction="excess")
            if losses is None:
                assert excess is None
                return None
            plain = cross_entropy(step.logits, step.target, reduction="none")
            excesses.append((excess.item(), (losses - plain).mean().item()))
            by_logits = [
                torch.autograd.grad(value, step.logits, retain_graph=True)[0] for value in (excess, losses.mean())
            ]
            own = torch.autograd.grad(plain.mean(), step.logits)[0]
            tolerance = 1e-10 if step.logits.dtype == torch.float64 else 1e-5
            torch.testing.assert_close(by_logits[0], by_logits[1] - own, rtol=0, atol=tolerance)
            return excess if reduction == "excess" else losses

    return Compared


SHORTENED = [method for method in METHODS if "reduction" in inspect.signature(method.method_loss).parameters]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("method", SHORTENED, ids=lambda method: method.__name__)
def test_both_ways_are_one_loss(method: Any, fused: bool, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_closed_form, "FUSED", fused)
    excesses: list[tuple[float, float]] = []
    tensors = TensorDataset(torch.from_numpy(inputs()).to(dtype), torch.from_numpy(labels(K)))
    options: dict[str, Any] = {"sd_cycles": 2} if method is SnapshotDistillation else {}
    if issubclass(method, ReferencedLoss):
        options["reference"] = old_network().to(dtype)
    model = made(compared(method, LitNet, excesses), net=network().to(dtype), **options)
    train(model, DataLoader(tensors, batch_size=8), max_epochs=3)
    assert len(excesses) >= 3
    assert any(abs(one) > 1e-6 for one, _ in excesses)
    for one, other in excesses:
        assert one == pytest.approx(other, abs=1e-10 if dtype == torch.float64 else 2e-5)


def test_most_methods_have_a_shorter_way() -> None:
    assert len(SHORTENED) == 13


class Halved(LabelSmoothing):
    """A subclass that knows the longer way only: it counts."""

    def method_loss(self, step: Any) -> Tensor:  # type: ignore[override]
        return super().method_loss(step) / 2


def test_a_subclass_that_overrides_the_longer_way_is_heard() -> None:
    losses = train(made(before(Halved, LitNet)), data(), max_epochs=1).losses
    plain = train(LitNet(network(), 0.5), data(), max_epochs=1).losses
    whole = train(made(before(LabelSmoothing, LitNet)), data(), max_epochs=1).losses
    assert losses[0] == pytest.approx(whole[0] / 2, abs=1e-12)
    assert losses[0] != pytest.approx(plain[0], abs=1e-3)
