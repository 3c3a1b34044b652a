"""Modules that mask classes with minus infinity: a method trains as with a finite mask, or says that it cannot."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from lightning_flip import mixins
from lightning_flip.functional import _closed_form
from lightning_flip.stores import write_soft_targets
from tests.mixins.baselines import Shares
from tests.mixins.helpers import LR, K, LitNet, N, Recorder, inputs, network, quiet, weights
from tests.mixins.updates import old_network
from tests.sweep.fits import batches, kind
from tests.sweep.settings import SETTINGS, Setting, swept

EPOCHS = 3
X = torch.from_numpy(inputs())


def masked_class(x: Tensor) -> Tensor:
    """A class of each sample, which its features tell."""
    return (x[:, 0].abs() * 1000).long() % K


Y = (masked_class(X) + 1 + (X[:, 1].abs() * 1000).long() % (K - 1)) % K  # never the masked one


class Masking(LitNet):
    """A user's module that rules a class of each sample out."""

    value = -math.inf
    begins = 0  # in which epoch
    also: int | None = None  # a sample whose label is masked, too

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.net(x)
        if self.trainer.current_epoch < self.begins:
            return logits
        mask = F.one_hot(masked_class(x), K).bool()
        if self.also is not None:
            mask |= (x == X[self.also]).all(dim=1)[:, None] & F.one_hot(Y[self.also], K).bool()
        return logits.masked_fill(mask, self.value)


class Finite(Masking):
    """The same by a number that is as good in float64: e^-10000 is 0."""

    value = -1e4


INFINITE = (mixins.LabelSmoothing, mixins.TeacherFreeRegularization, mixins.FocalDistillation, mixins.Distillation)
MIXING = (mixins.Mixup, mixins.PairwiseLabelSmoothing)  # targets of two samples, of which each masks another class
FINE = [setting for setting in SETTINGS if not issubclass(setting.method, (*INFINITE, *MIXING))]


@pytest.fixture
def partners(monkeypatch: pytest.MonkeyPatch) -> None:
    """Partners that mask the same classes."""
    same = lambda self, step: 0.5 * step.logits.detach()  # noqa: E731
    monkeypatch.setattr(mixins.ClassWiseSelfDistillation, "_partner_logits", same)


def made(setting: Setting, module: Any, *, spread: bool = False, **options: Any) -> Any:
    if setting.needs == "reference":
        with torch.random.fork_rng():
            options["reference"] = old_network()
    if setting.needs == "targets":
        options["targets"] = Path("spread.safetensors" if spread else "teacher.safetensors")
        counts = np.random.default_rng(11).multinomial(64, np.ones(K) / K, size=N) + 1.0
        if not spread:
            counts[np.arange(N), masked_class(X).numpy()] = 0.0
        if not options["targets"].exists():
            write_soft_targets(options["targets"], counts / counts.sum(1, keepdims=True), target=Y.numpy())
    return kind(setting, module)(network(), LR, **(setting.options | options))


def fit(setting: Setting, module: Any, y: Tensor = Y, **options: Any) -> tuple[Any, list[float]]:
    model, recorder = made(setting, module, **options), Recorder()
    data = DataLoader(TensorDataset(X, y), batch_sampler=Shares(batches(8, EPOCHS), 1))
    quiet(callbacks=[recorder, *setting.callbacks()], max_epochs=EPOCHS).fit(model, data)
    return model, recorder.losses


@pytest.mark.usefixtures("partners")
@pytest.mark.parametrize("setting", [swept(setting) for setting in FINE])
@pytest.mark.parametrize("fused", [True, False])
def test_it_is_the_run_with_a_finite_mask(setting: Setting, fused: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    finite, expected = fit(setting, Finite)
    monkeypatch.setattr(_closed_form, "FUSED", fused)
    model, losses = fit(setting, Masking)
    np.testing.assert_allclose(losses, expected, rtol=0, atol=1e-10)
    for name, value in weights(model).items():
        np.testing.assert_allclose(value, weights(finite)[name], rtol=0, atol=1e-10, err_msg=name)
    for name, table in model._term_loop.tables.items():
        rows = [one.pending(torch.arange(N))[0] for one in (table, finite._term_loop.tables[name])]
        torch.testing.assert_close(*(row.clamp(min=-1e4) for row in rows), rtol=0, atol=1e-10)


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("setting", [swept(setting) for setting in SETTINGS if issubclass(setting.method, INFINITE)])
def test_a_target_with_mass_on_every_class_is_refused(
    setting: Setting, fused: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_closed_form, "FUSED", fused)
    with pytest.raises(ValueError, match=rf"{setting.method.__name__}: .* infinite in batch 0 of epoch 0\. .*masked"):
        fit(setting, Masking)


def test_soft_targets_of_a_teacher_that_masked_nothing_are_refused() -> None:
    setting = next(setting for setting in SETTINGS if setting.method is mixins.SoftTargets)
    with pytest.raises(ValueError, match=r"SoftTargets: .* infinite in batch 0 of epoch 0"):
        fit(setting, Masking, spread=True)


def test_partners_that_mask_other_classes_are_refused() -> None:
    setting = next(setting for setting in SETTINGS if setting.method is mixins.ClassWiseSelfDistillation)
    with pytest.raises(ValueError, match=r"ClassWiseSelfDistillation: .* infinite in batch 0 of epoch 0"):
        fit(setting, Masking)


@pytest.mark.parametrize("method", [mixins.LabelSmoothing, mixins.FlippingErrorReduction])
@pytest.mark.parametrize("manual", [True, False])
def test_a_mask_that_begins_later_is_noticed_with_its_block(method: Any, manual: bool) -> None:
    """What FER has stored by then has mass on every class."""

    class Later(Masking):
        begins = 1

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            loss = super().training_step(batch, batch_idx)
            if manual:
                loss = self.regularized(loss)
                self.optimizers().zero_grad()
                self.manual_backward(loss)
                self.optimizers().step()
            return loss

    class Model(Later):
        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **options)
            self.automatic_optimization = not manual

    setting = next(setting for setting in SETTINGS if setting.method is method)
    options = {"restrict": "all"} if method is mixins.FlippingErrorReduction else {}
    with pytest.raises(ValueError, match=rf"{method.__name__}: .* infinite in batch 0 of epoch 1"):
        fit(setting, Model, **options)


@pytest.mark.usefixtures("partners")
@pytest.mark.parametrize("setting", [swept(setting) for setting in FINE])
def test_a_masked_label_is_an_error_that_names_the_sample(setting: Setting) -> None:
    epoch = batches(8, EPOCHS)[0]
    for batch in (0, 1):
        sample = int(epoch[batch][3])
        wrong = type("Wrong", (Masking,), {"also": sample})
        where = rf"label's class is masked .* sample {sample} in batch {batch} of epoch 0, after {batch} optimizer"
        with pytest.raises(ValueError, match=where):
            fit(setting, wrong, base_loss="any")
        left = Y.clone()
        left[sample] = -100
        if setting.needs != "targets":
            fit(setting, wrong, left)  # samples that the loss leaves out may mask anything


def test_the_modules_own_infinite_loss_is_its_own() -> None:
    class Smoothed(Masking):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            x, y = batch
            return F.cross_entropy(self(x), y, label_smoothing=0.1)

    setting = next(setting for setting in SETTINGS if setting.method is mixins.ConfidencePenalty)
    _, losses = fit(setting, Smoothed, base_loss="any")
    assert np.isinf(losses).all()
