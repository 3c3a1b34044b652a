"""Samples whose label the module's loss leaves out: a method trains as if they were not in the batches."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from lightning_flip import mixins
from lightning_flip.mixins import FlippingErrorReduction, LossTerm
from tests.callbacks.helpers import run_ranks
from tests.mixins.baselines import Shares
from tests.mixins.helpers import LR, K, LitNet, N, Recorder, inputs, labels, quiet, weights
from tests.oracles.retrospection import Batches
from tests.sweep.fits import made
from tests.sweep.oracles import Run
from tests.sweep.settings import SETTINGS, Setting, swept

EPOCHS = 3
MIXING = [setting for setting in SETTINGS if issubclass(setting.method, mixins.Mixup | mixins.PairwiseLabelSmoothing)]
EVERY = pytest.mark.parametrize("setting", [swept(setting) for setting in SETTINGS if setting not in MIXING])


class Ignoring(LitNet):
    """A user's module: the mean over samples that have a label."""

    ignore_index = -100

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x, y = batch
        return F.cross_entropy(self(x), y, ignore_index=self.ignore_index)


def batches(first: bool) -> tuple[Batches, set[int]]:
    """Fixed batches, one of which is left out as a whole, and the samples to leave out, in the first batch or not."""
    rng = np.random.default_rng(5)
    epochs = [[rng.permutation(N)] for _ in range(EPOCHS)]
    whole = [3, 4, 5, 6]
    out = {*whole, 8, 11}
    parts = []
    for (order,) in epochs:
        rest = np.array([sample for sample in order if sample not in whole])
        lone = [sample for sample in rest if sample in out]
        others = [sample for sample in rest if sample not in out]
        head = [*others[:6], lone[0], lone[0]] if first else others[:8]  # one of them twice in a batch
        tail = np.array([sample for sample in rest if sample not in head] + [others[0]])
        parts.append([np.array(head), np.array(whole), tail[:7], tail[7:]])
    return parts, out


def without(given: Batches, out: set[int]) -> Batches:
    kept = [[np.array([sample for sample in batch if sample not in out]) for batch in epoch] for epoch in given]
    return [[batch for batch in epoch if len(batch)] for epoch in kept]


def loader(given: Batches, y: Any, world: int = 1) -> DataLoader[Any]:
    return DataLoader(
        TensorDataset(torch.from_numpy(inputs()), torch.from_numpy(y)), batch_sampler=Shares(given, world)
    )


def targets(out: set[int], label: int = -100) -> Any:
    y = labels(K).copy()
    y[list(out)] = label
    return y


def fit(setting: Setting, given: Batches, y: Any, module: Any = Ignoring, **options: Any) -> tuple[Any, list[float]]:
    model = made(setting, module, **options)
    recorder = Recorder()
    quiet(callbacks=[recorder, *setting.callbacks()], max_epochs=EPOCHS).fit(model, loader(given, y))
    return model, recorder.losses


def close(one: Any, other: Any, tolerance: float = 1e-12) -> None:
    assert one.keys() == other.keys()
    for name, value in one.items():
        np.testing.assert_allclose(value, other[name], rtol=0, atol=tolerance, err_msg=name)


@pytest.fixture(autouse=True)
def _partners_follow_from_the_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    """Which partners are drawn depends on the samples of the batch, also on those that are left out."""
    reverse = lambda self, step: step.logits.detach().flip(1)  # noqa: E731
    monkeypatch.setattr(mixins.ClassWiseSelfDistillation, "_partner_logits", reverse)


@EVERY
@pytest.mark.parametrize("first", [True, False])
def test_it_is_as_if_they_were_not_in_the_batches(setting: Setting, first: bool) -> None:
    given, out = batches(first)
    model, losses = fit(setting, given, targets(out))
    other, expected = fit(setting, without(given, out), labels(K), LitNet)
    close(weights(model), weights(other))
    assert [math.isnan(loss) for loss in losses] == [place % 4 == 1 for place in range(4 * EPOCHS)]
    np.testing.assert_allclose([loss for loss in losses if not math.isnan(loss)], expected, rtol=0, atol=1e-12)


@EVERY
def test_numpy_says_the_same(setting: Setting) -> None:
    if setting.oracle is None or setting.name == "estimated":  # an estimate is over samples that were visited
        return
    given, out = batches(first=False)
    model, losses = fit(setting, given, targets(out))
    trace = setting.oracle(Run(K, without(given, out), LR))
    close(weights(model), trace.weights, 1e-10)
    steps = [loss for loss in losses if not math.isnan(loss)]
    np.testing.assert_allclose(steps, trace.step_losses, rtol=0, atol=1e-10)


FER, LSR, SAT, KD = (
    next(setting for setting in SETTINGS if setting.method is method)
    for method in (
        mixins.FlippingErrorReduction,
        mixins.LabelSmoothing,
        mixins.SelfAdaptiveTraining,
        mixins.SoftTargets,
    )
)
SOME = pytest.mark.parametrize("setting", [swept(setting) for setting in (FER, LSR, SAT, KD)])


@SOME
def test_another_label_than_that_of_torch(setting: Setting) -> None:
    given, out = batches(first=False)
    other, _ = fit(setting, without(given, out), labels(K), LitNet)
    for label in (255, -1):
        model, _ = fit(setting, given, targets(out, label), type("Mine", (Ignoring,), {"ignore_index": label}))
        close(weights(model), weights(other))


@SOME
def test_a_class_may_be_left_out(setting: Setting) -> None:
    given, _ = batches(first=False)
    out = set(np.flatnonzero(labels(K) == 2).tolist())
    other, _ = fit(setting, without(given, out), labels(K), LitNet)
    model, _ = fit(setting, given, labels(K), type("Mine", (Ignoring,), {"ignore_index": 2}))
    close(weights(model), weights(other))


class Selecting(LitNet):
    """Leaves them out by hand."""

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x, y = batch
        logits, known = self(x), y >= 0
        return F.cross_entropy(logits[known], y[known])


class Written(LitNet):
    """Does not call a loss, so that nobody sees what it leaves out."""

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x, y = batch
        logits, known = self(x), (y >= 0).double()
        picked = logits.gather(1, y.clamp(min=0)[:, None])[:, 0] - logits.logsumexp(dim=1)
        return -(picked * known).sum() / known.sum().clamp(min=1)


@SOME
@pytest.mark.filterwarnings("ignore:.*the losses of .* steps .* were not what they were in the first step")
@pytest.mark.parametrize("module", [Selecting, Written])
def test_losses_that_are_written_out_need_the_option(setting: Setting, module: Any) -> None:
    from lightning_flip.steps import StepSource

    given, out = batches(first=False)
    named = type("Named", (module,), {"flip_source": StepSource(ignore_index=-100)})
    model, _ = fit(setting, given, targets(out), named)
    other, _ = fit(setting, without(given, out), labels(K), LitNet)
    close(weights(model), weights(other), 1e-10)
    with pytest.raises(ValueError, match=r"labels are outside \[0, 4\) .*Its label is -100\..*ignore_index=") as caught:
        fit(setting, given, targets(out), Written)
    assert "in batch 1 of epoch 0" in str(caught.value)


@SOME
def test_labels_out_of_range_that_the_loss_does_not_leave_out_stay_an_error(setting: Setting) -> None:
    given, out = batches(first=True)
    y = targets(out)
    y[int(given[0][0][0])] = -1
    with pytest.raises((ValueError, IndexError)):
        fit(setting, given, y)


@SOME
def test_any_base_loss(setting: Setting) -> None:
    """The difference is over the samples that have a label, whatever it is added to."""

    class Weighted(Ignoring):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            return 0.5 * super().training_step(batch, batch_idx)

    class Alone(LitNet):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            return 0.5 * super().training_step(batch, batch_idx)

    given, out = batches(first=True)
    model, _ = fit(setting, given, targets(out), Weighted, base_loss="any")
    other, _ = fit(setting, without(given, out), labels(K), Alone, base_loss="any")
    close(weights(model), weights(other))
    with pytest.raises(ValueError, match="the mean cross entropy of its logits is"):
        fit(setting, given, targets(out), Weighted)


class Noted(LossTerm):
    """Asks for each sample's loss alone, and notes what it is given."""

    def method_loss(self, step: Any) -> Tensor:
        self.steps = [*getattr(self, "steps", []), step]
        return 2 * F.cross_entropy(step.logits, step.target, reduction="none")


def test_a_method_of_the_users_own_is_given_some_label_and_told_who_counts() -> None:
    given, out = batches(first=False)
    model = type("Own", (Noted, Ignoring), {})(made(FER).net, LR)
    quiet(max_epochs=1).fit(model, loader(given, targets(out)))
    for step, batch in zip(model.steps, given[0], strict=True):
        assert step.target.min() >= 0
        valid = [sample not in out for sample in batch.tolist()]
        assert step.valid.tolist() == valid if step.valid is not None else all(valid)


def test_every_loss_without_a_label_leaves_the_weights_as_they_are() -> None:
    given = [[np.arange(6), np.arange(6, 12)]]
    model = made(FER, Ignoring)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    quiet(max_epochs=1).fit(model, loader(given, np.full(N, -100)))
    assert all(value.equal(before[name]) for name, value in model.state_dict().items())


def test_a_loss_that_is_watched_does_not_run_away_by_a_batch_without_labels() -> None:
    setting = next(setting for setting in SETTINGS if setting.method is mixins.BackwardCorrection)
    given, out = batches(first=False)
    fit(setting, given, targets(out))  # it looks in every step, and one in four is NaN


@pytest.mark.parametrize("setting", [swept(setting) for setting in MIXING])
@pytest.mark.parametrize("mixed", ["distributions", "labels"])
def test_samples_without_a_label_cannot_be_mixed(setting: Setting, mixed: str) -> None:
    given, out = batches(first=True)
    with pytest.raises(ValueError, match=r"mixes labels, and that of sample \d+ in batch \d of epoch 0 is -100"):
        fit(setting, given, targets(out), mixed_targets=mixed)


class Stops(pl.Callback):
    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        trainer.should_stop = trainer.current_epoch == 1


@SOME
@pytest.mark.filterwarnings("ignore:Be aware that when using .ckpt_path")
def test_a_resumed_run_is_the_whole_one(setting: Setting) -> None:
    given, out = batches(first=False)
    whole, _ = fit(setting, given, targets(out))
    save = ModelCheckpoint("saved", filename="{epoch}", save_top_k=-1)
    quiet(callbacks=[save, Stops()], max_epochs=EPOCHS, enable_checkpointing=True).fit(
        made(setting, Ignoring), loader(given, targets(out))
    )
    resumed = made(setting, Ignoring)
    quiet(max_epochs=EPOCHS).fit(
        resumed, loader(given, targets(out)), ckpt_path="saved/epoch=1.ckpt", weights_only=True
    )
    close(weights(resumed), weights(whole), 0.0)


def shares() -> tuple[Batches, set[int]]:
    """Batches in which each of two ranks has as many samples without a label: the mean is that of one rank."""
    rng = np.random.default_rng(2)
    out = set(range(0, N, 4))
    epochs = []
    for _ in range(EPOCHS):
        lone, others = (rng.permutation([n for n in range(N) if (n in out) == part]) for part in (True, False))
        halves = [np.concatenate([others[3 * part : 3 * part + 3], lone[part : part + 1]]) for part in range(6)]
        epochs.append([np.concatenate(halves[part : part + 2]) for part in (0, 2, 4)])
    return epochs, out


def on_two_ranks(setting: Setting, folder: Path) -> None:
    given, out = shares()
    model = made(setting, Ignoring)
    options = {"devices": 2, "strategy": "ddp", "use_distributed_sampler": False, "max_epochs": EPOCHS}
    trainer = quiet(callbacks=setting.callbacks(), **options)
    trainer.fit(model, loader(given, targets(out), world=2))
    torch.save(model.state_dict(), folder / f"rank{trainer.global_rank}.pt")


@pytest.mark.parametrize("setting", [swept(setting) for setting in (FER, LSR, KD)])
def test_two_ranks_are_one(setting: Setting, tmp_path: Path) -> None:
    given, out = shares()
    if setting.needs:
        made(setting)  # writes the file
    assert run_ranks(2, on_two_ranks, setting, tmp_path) == [0, 0]
    one, _ = fit(setting, without(given, out), labels(K), LitNet)
    for rank in range(2):
        close(torch.load(tmp_path / f"rank{rank}.pt"), one.state_dict(), 1e-10)


def test_the_comparison_sees_a_mean_over_all_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lightning_flip.mixins.base.mean_over", lambda values, counted: values.mean())
    with pytest.raises(AssertionError):
        test_it_is_as_if_they_were_not_in_the_batches(LSR, first=True)


def test_the_comparison_sees_labels_that_are_noticed_late(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lightning_flip.mixins._loop.holds", lambda labels, label: False)
    with pytest.raises(ValueError, match="the mixins counted the sample"):
        test_it_is_as_if_they_were_not_in_the_batches(LSR, first=False)


class Robust(FlippingErrorReduction, Ignoring): ...


def test_visits_without_a_label_leave_the_table_alone() -> None:
    given, out = batches(first=False)
    model = made(FER, Ignoring, restrict="all")
    quiet(max_epochs=EPOCHS).fit(model, loader(given, targets(out)))
    (table,) = model._term_loop.tables.values()
    seen = table.pending(torch.arange(N))[1]
    assert set((~seen).nonzero()[:, 0].tolist()) == out


class Hooked(Ignoring):
    """Labels are taken away when the batch is moved, so that the dataset lists others."""

    out: set[int] = set()

    def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        x, y = batch
        gone = torch.from_numpy(inputs()[sorted(self.out)])
        return x, y.masked_fill((x[:, None] == gone).all(dim=2).any(dim=1), -100)


@SOME
def test_labels_that_a_hook_takes_away_are_seen_in_the_first_step(setting: Setting) -> None:
    given, out = batches(first=True)
    model = made(setting, Hooked)
    model.out = out
    quiet(max_epochs=EPOCHS).fit(model, loader(given, labels(K)))
    expected, _ = fit(setting, given, targets(out))
    close(weights(model), weights(expected))


@SOME
@pytest.mark.parametrize("first", [True, False])
def test_on_a_device_the_first_step_of_a_fit_is_looked_at(
    setting: Setting, first: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lightning_flip.steps._running_step.RunningStep.labels_on_host", lambda *args: None)
    if first:
        test_it_is_as_if_they_were_not_in_the_batches(setting, first)
    else:
        with pytest.raises(ValueError, match="the mixins counted the sample"):
            test_it_is_as_if_they_were_not_in_the_batches(setting, first)
