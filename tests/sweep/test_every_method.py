"""What a class may do around any method, and the two ways in which a method says its loss."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention
from torch import Tensor

from lightning_flip import mixins
from lightning_flip.functional import _closed_form
from lightning_flip.functional.losses import cross_entropy
from lightning_flip.mixins import LabelSmoothing
from tests.mixins import methods
from tests.mixins.helpers import K, LitNet, Recorder, inputs, labels, network, quiet
from tests.mixins.methods import before
from tests.sweep.fits import EPOCHS, data, fit, identical, kind, made, numbers, points
from tests.sweep.settings import SETTINGS, Setting, every_setting, swept


@every_setting
def test_a_step_without_super_is_an_error(setting: Setting) -> None:
    class Forgets(kind(setting)):  # type: ignore[misc]
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return F.cross_entropy(self(batch[0]), batch[1])

    with pytest.raises(RuntimeError, match=r"Forgets took a step without its mixins' loss.*super\(\)\.training_step"):
        fit(setting, methods.made(Forgets, **setting.options))


class Careless:
    """Left of a method: overrides the hooks that it could live in."""

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


@every_setting
def test_hooks_overridden_without_super_do_no_harm(setting: Setting, tmp_path: Path) -> None:
    def careless() -> Any:
        overrides = type("Overrides", (Careless, kind(setting)), {})
        return methods.made(overrides, total_epochs=EPOCHS, **setting.options)

    whole = fit(setting, made(setting)).losses
    trainer = quiet(max_epochs=1, callbacks=setting.callbacks())
    trainer.fit(careless(), data())
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    recorder = Recorder()
    quiet(max_epochs=EPOCHS, callbacks=[recorder, *setting.callbacks()]).fit(
        careless(), data(), ckpt_path=tmp_path / "a.ckpt"
    )
    assert recorder.losses == pytest.approx(whole[3:], abs=1e-10)


@every_setting
def test_outside_of_a_trainer_the_module_is_itself(setting: Setting) -> None:
    batch = torch.from_numpy(inputs()), torch.from_numpy(labels(K))
    assert made(setting).training_step(batch, 0).equal(LitNet(network()).training_step(batch, 0))


@every_setting
def test_an_unknown_option_is_refused(setting: Setting) -> None:
    with pytest.raises(TypeError, match="no_such_option"):
        made(setting, no_such_option=1.0)


# -- a method whose own weight is zero -------------------------------------------------------------------------

WEIGHTS = {
    mixins.BackwardCompatible: "backward_weight",
    mixins.Distillation: "kd_weight",
    mixins.FocalDistillation: "focal_weight",
    mixins.NaivePositiveCongruent: "naive_weight",
    mixins.SoftTargets: "kd_weight",
}
weighted = pytest.mark.parametrize("setting", [swept(setting) for setting in SETTINGS if setting.method in WEIGHTS])


class Keeps(LitNet):
    """Keeps the loss of its own step."""

    own: Any = None

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        self.own = super().training_step(batch, batch_idx)
        return self.own  # type: ignore[no-any-return]


@weighted
def test_without_weight_the_loss_is_the_modules_own_graph(setting: Setting) -> None:
    class Watched(kind(setting, Keeps)):  # type: ignore[misc]
        same = 0

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            loss = super().training_step(batch, batch_idx)
            self.same += loss is self.own
            return loss

    for weight, same in ((0.0, 3), (0.5, 0)):
        model = methods.made(Watched, **setting.options, **{WEIGHTS[setting.method]: weight})
        fit(setting, model, max_epochs=1)
        assert model.same == same


@pytest.mark.filterwarnings("ignore:.* each soften the target")
@weighted
def test_without_weight_it_leaves_another_method_as_it_is_bit_for_bit(
    setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    def trained(model: Any) -> dict[str, Tensor]:
        fit(setting, model, data(dataset=points(dtype=torch.float32)))
        return numbers(model)

    def beside() -> dict[str, Tensor]:
        off = {WEIGHTS[setting.method]: 0.0}
        return trained(made(setting, before(LabelSmoothing), network().float(), **off))

    alone = trained(before(LabelSmoothing)(network().float()))
    assert identical(beside(), alone)
    # A method that returned the cross entropy instead of nothing would add zero, and round on the way.
    plain = lambda self, step: cross_entropy(step.logits, step.target, reduction="none")  # noqa: E731
    monkeypatch.setattr(setting.method, "method_loss", plain)
    rounded = beside()
    assert not identical(rounded, alone)
    for name, value in alone.items():
        torch.testing.assert_close(rounded[name], value, rtol=0, atol=1e-4)


# -- two ways to say a loss ------------------------------------------------------------------------------------


def has_a_shorter_way(setting: Setting) -> bool:
    return "reduction" in inspect.signature(setting.method.method_loss).parameters


SHORTENED = [setting for setting in SETTINGS if has_a_shorter_way(setting)]


@pytest.mark.parametrize(
    ("fused", "dtype"), [(True, torch.float64), (False, torch.float64), (True, torch.float32)], ids=str
)
@pytest.mark.parametrize("setting", [swept(setting) for setting in SHORTENED])
def test_both_ways_are_one_loss(
    setting: Setting, fused: bool, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_closed_form, "FUSED", fused)
    excesses: list[tuple[float, float]] = []
    tolerance = 1e-10 if dtype == torch.float64 else 1e-5
    method_loss = setting.method.method_loss

    def compared(self: Any, step: Any, reduction: str = "none") -> Any:
        """Say the loss both ways in every step, and train with the shorter one."""
        losses, excess = method_loss(self, step), method_loss(self, step, reduction="excess")
        if losses is None:
            assert excess is None
            return None
        plain = cross_entropy(step.logits, step.target, reduction="none")
        excesses.append((excess.item(), (losses - plain).mean().item()))
        by_logits = [torch.autograd.grad(value, step.logits, retain_graph=True)[0] for value in (excess, losses.mean())]
        own = torch.autograd.grad(plain.mean(), step.logits)[0]
        torch.testing.assert_close(by_logits[0], by_logits[1] - own, rtol=0, atol=tolerance)
        return excess if reduction == "excess" else losses

    monkeypatch.setattr(setting.method, "method_loss", compared)
    fit(setting, made(setting, LitNet, network().to(dtype)), data(dataset=points(dtype=dtype)))
    assert len(excesses) >= 3
    assert any(abs(one) > 1e-6 for one, _ in excesses)
    for one, other in excesses:
        assert one == pytest.approx(other, abs=2 * tolerance)


def test_most_methods_have_a_shorter_way() -> None:
    assert len({setting.method for setting in SHORTENED}) == 13


class Halved(LabelSmoothing):
    """A subclass that knows the longer way only: it counts."""

    def method_loss(self, step: Any) -> Tensor:  # type: ignore[override]
        return super().method_loss(step) / 2


def test_a_subclass_that_overrides_the_longer_way_is_heard() -> None:
    halved, whole, plain = (
        fit(None, module(network()), max_epochs=1).losses[0]
        for module in (before(Halved), before(LabelSmoothing), LitNet)
    )
    assert halved == pytest.approx(whole / 2, abs=1e-12)
    assert halved != pytest.approx(plain, abs=1e-3)
