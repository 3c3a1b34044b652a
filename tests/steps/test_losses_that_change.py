"""Modules whose first step says something else than later ones: no row is wrong, and what is left out is said."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_flip.callbacks import FlipTracker, PredictionHistory
from lightning_flip.mixins import FlippingErrorReduction
from lightning_flip.stores import read_history
from tests.steps import module_styles as styles
from tests.steps.helpers import UPSTREAM_WARNINGS
from tests.steps.test_module_styles import (
    BATCH,
    Style,
    assert_recorded,
    expected_rows,
    loader,
    made,
    saying,
    stored_rows,
    trainer_for,
    with_mixin,
)

pytestmark = UPSTREAM_WARNINGS

OTHER_TARGETS = r"the losses of \d+ of \d+ steps .* given other targets than the batch's labels"
OTHER_LOSS = r"the losses of \d+ of \d+ steps .* not what they were in the first step"


class Changes(styles.Style):
    """The base: a body, two heads, and a step in which ``said`` gives the logits and the loss."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(styles.FEATURES, 8), nn.ReLU())
        self.heads = nn.ModuleList([nn.Linear(8, styles.CLASSES) for _ in range(2)])

    def forward(self, x: Tensor) -> Any:
        return self.heads[0](self.body(x[:, 1:]))

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        x, y = batch[:2]
        logits, loss = self.said(x, y, batch_idx)
        if logits is not None:
            self.note(x, y, logits)
        return loss

    def said(self, x: Tensor, y: Tensor, batch_idx: int) -> tuple[Tensor | None, Tensor]:
        raise AssertionError  # each case has its own


class TermFromTheSecondEpoch(Changes):
    def said(self, x, y, batch_idx):
        logits = self(x)
        return logits, F.cross_entropy(logits, y) + (self.current_epoch > 0) * logits.square().mean()


class TermFromTheThirdStep(Changes):
    def said(self, x, y, batch_idx):
        logits = self(x)
        return logits, F.cross_entropy(logits, y) + (self.global_step > 2) * logits.square().mean()


class WeightsFromTheSecondEpoch(Changes):
    def said(self, x, y, batch_idx):
        logits = self(x)
        each = F.cross_entropy(logits, y, reduction="none")
        return logits, (each * (1 if self.current_epoch == 0 else torch.rand(len(y)))).mean()


class HeadByEpoch(Changes):
    def said(self, x, y, batch_idx):
        every = [head(self.body(x[:, 1:])) for head in self.heads]
        return every[self.current_epoch % 2], F.cross_entropy(every[self.current_epoch % 2], y)


class HeadByEpochWithWeights(Changes):
    def said(self, x, y, batch_idx):
        every = [head(self.body(x[:, 1:])) for head in self.heads]
        logits = every[self.current_epoch % 2]
        return logits, F.cross_entropy(logits, y, weight=torch.tensor([1.0, 2.0, 1.0]))


class HeadByBatch(Changes):
    def said(self, x, y, batch_idx):
        every = [head(self.body(x[:, 1:])) for head in self.heads]
        return every[batch_idx % 2], F.cross_entropy(every[batch_idx % 2], y)


class AForwardWithoutGradientFirst(Changes):
    def said(self, x, y, batch_idx):
        if self.current_epoch > 0:
            with torch.no_grad():
                self(x + torch.randn_like(x))
        logits = self(x)
        return logits, F.cross_entropy(logits, y, label_smoothing=0.1)


class UnlabelledRowsFirst(Changes):
    def said(self, x, y, batch_idx):
        if self.current_epoch > 0:
            self(torch.cat([x + 1.0, x + 2.0]))
        logits = self(x)
        return logits, F.cross_entropy(logits, y, label_smoothing=0.1)


class TemperatureFromOne(Changes):
    def __init__(self) -> None:
        super().__init__()
        self.temperature = nn.Parameter(torch.ones(()))

    def said(self, x, y, batch_idx):
        logits = self(x) / self.temperature
        return logits, F.cross_entropy(logits, y, label_smoothing=0.1)


class ZeroHeadAndTemperature(Changes):
    def __init__(self) -> None:
        super().__init__()
        nn.init.zeros_(self.heads[0].weight)
        nn.init.zeros_(self.heads[0].bias)

    def said(self, x, y, batch_idx):
        logits = self(x) / 0.05
        return logits, F.cross_entropy(logits, y, weight=torch.tensor([1.0, 2.0, 1.0]))


class SmoothedMixUpSometimes(Changes):
    def said(self, x, y, batch_idx):
        one_hot = F.one_hot(y, styles.CLASSES).float()
        if batch_idx % 2 == 0:
            logits = self(x)
            return logits, F.cross_entropy(logits, y, label_smoothing=0.1)
        other = y.argsort().flip(0)
        mixed = 0.6 * one_hot + 0.4 * one_hot[other]
        return None, F.cross_entropy(self(0.6 * x + 0.4 * x[other]), mixed, label_smoothing=0.1)


class MergedWhereTheFirstBatchHasOneClass(Changes):
    def __init__(self) -> None:
        super().__init__()
        self.heads = nn.ModuleList([nn.Linear(8, 2)])

    def training_step(self, batch, batch_idx):
        x, y = batch
        logits = self(x)
        self.note(x, y.clamp(max=1), logits)
        return F.cross_entropy(logits, y.clamp(max=1))


class CleanLabels(Changes):
    """The loss is of the batch's third part, which equals the second one in the first batch."""

    def training_step(self, batch, batch_idx):
        x, _, clean = batch
        logits = self(x)
        self.note(x, clean, logits)
        return F.cross_entropy(logits, clean.clone(), label_smoothing=0.1)


class TeacherWithGradient(Changes):
    def __init__(self) -> None:
        super().__init__()
        self.teacher = copy.deepcopy(self.heads[0]).requires_grad_(False)

    def said(self, x, y, batch_idx):
        self.log("teacher", F.cross_entropy(self.teacher(self.body(x[:, 1:]).detach()), y))
        logits = self(x)
        return logits, F.cross_entropy(logits, y)


class RotationAndHinge(Changes):
    """A pretext task by cross entropy, and the classes by another loss."""

    def __init__(self) -> None:
        super().__init__()
        self.rotation = nn.Linear(8, 4)

    def said(self, x, y, batch_idx):
        turns = torch.randint(0, 4, (len(y),))
        logits = self(x)
        return logits, F.multi_margin_loss(logits, y) + F.cross_entropy(self.rotation(self.body(x[:, 1:])), turns)


class AuxiliaryPart(Changes):
    """Gives logits and auxiliary logits, both against the labels, as Inception does."""

    def forward(self, x):
        return tuple(head(self.body(x[:, 1:])) for head in self.heads)

    def said(self, x, y, batch_idx):
        logits, other = self(x)
        return logits, F.cross_entropy(logits, y) + 0.4 * F.cross_entropy(other, y)


def in_order(seed: int = 0) -> TensorDataset:
    """The first batch has samples of one class."""
    x, y = (part.clone() for part in styles.parts(seed))
    first = (y == 0).nonzero()[:BATCH, 0]
    order = torch.cat([first, torch.tensor([n for n in range(len(y)) if n not in first.tolist()])])
    positions = x[:, 0].clone()
    x, y = x[order], y[order]
    x[:, 0] = positions
    return TensorDataset(x, y)


def noisy_later(seed: int = 0) -> TensorDataset:
    x, y = styles.parts(seed)
    noisy = y.clone()
    noisy[BATCH:] = (noisy[BATCH:] + 1) % styles.CLASSES
    return TensorDataset(x, noisy, y)


# What is recorded, of all rows that the steps noted, and what is said.
CASES: list[tuple[type[Any], float, str | None, Any]] = [
    (TermFromTheSecondEpoch, 1.0, None, styles.three_classes),
    (TermFromTheThirdStep, 0.8, OTHER_LOSS, styles.three_classes),
    (WeightsFromTheSecondEpoch, 1.0, None, styles.three_classes),
    (HeadByEpoch, 0.8, OTHER_LOSS, styles.three_classes),
    (HeadByEpochWithWeights, 0.8, OTHER_LOSS, styles.three_classes),
    (HeadByBatch, 0.4, OTHER_LOSS, styles.three_classes),
    (AForwardWithoutGradientFirst, 1.0, None, styles.three_classes),
    (UnlabelledRowsFirst, 1.0, None, styles.three_classes),
    (TemperatureFromOne, 0.9, OTHER_LOSS, styles.three_classes),
    (ZeroHeadAndTemperature, 1.0, None, styles.three_classes),
    (SmoothedMixUpSometimes, 1.0, OTHER_TARGETS, styles.three_classes),
    (MergedWhereTheFirstBatchHasOneClass, 1.0, None, in_order),
    (CleanLabels, 1.0, None, noisy_later),
    (TeacherWithGradient, 1.0, None, styles.three_classes),
    (RotationAndHinge, 1.0, None, styles.three_classes),
    (AuxiliaryPart, 1.0, None, styles.three_classes),
]


@pytest.mark.parametrize(("module_class", "share", "said", "data"), CASES, ids=[case[0].__name__ for case in CASES])
def test_no_row_is_wrong(module_class: type[Any], share: float, said: str | None, data: Any, tmp_path: Path) -> None:
    module, style = made(module_class), Style(module_class, data=data)
    with saying(said):
        trainer_for(module, PredictionHistory(tmp_path), max_epochs=4).fit(module, loader(style, shuffle=False))
    expected, stored = expected_rows(module.seen, "logits"), stored_rows(tmp_path)
    assert stored.keys() <= expected.keys()
    assert len(stored) >= share * len(expected)
    assert (len(stored) < len(expected)) == (share < 1)
    keys = sorted(stored)
    found, right = (np.array([rows[key] for key in keys]) for rows in (stored, expected))
    np.testing.assert_array_equal(found[:, :2], right[:, :2])
    np.testing.assert_allclose(found[:, 2:], right[:, 2:], rtol=1e-3, atol=1e-4)


@pytest.mark.filterwarnings("ignore:FlippingErrorReductionTerm.*The mixin's term was added as before")
@pytest.mark.parametrize("module_class", [TermFromTheSecondEpoch, TermFromTheThirdStep, AuxiliaryPart])
def test_a_mixin_goes_on_where_only_a_term_is_added(module_class: type[Any]) -> None:
    options = {"base_loss": "any"} if module_class is AuxiliaryPart else {}
    module = made(with_mixin(FlippingErrorReduction, module_class), **options)
    trainer_for(module, max_epochs=4).fit(module, loader(Style(module_class)))


def test_a_mixin_refuses_a_mixture_that_comes_later() -> None:
    module = made(with_mixin(FlippingErrorReduction, styles.MixUpSometimes))
    with pytest.raises(ValueError, match=OTHER_TARGETS):
        trainer_for(module, max_epochs=4).fit(module, loader(Style(styles.MixUpSometimes)))


# -- evaluation ------------------------------------------------------------------------------------------------


class SoftmaxInEvaluation(Changes):
    def forward(self, x):
        logits = super().forward(x)
        return logits if self.training else logits.softmax(dim=1)

    def said(self, x, y, batch_idx):
        logits = self(x)
        return logits, F.cross_entropy(logits, y)

    def validation_step(self, batch, batch_idx):
        x, y = batch
        probs = self(x)
        self.note(x, y, probs.log())
        self.log("accuracy", (probs.argmax(dim=1) == y).float().mean())


class OtherThingsLogged(Changes):
    """Logs the entropy of another head and a divergence at a temperature."""

    said = SoftmaxInEvaluation.said

    def validation_step(self, batch, batch_idx):
        x, y = batch
        other = self.heads[1](self.body(x[:, 1:])).log_softmax(dim=1)
        self.log("entropy", -(other.exp() * other).sum(dim=1).mean())
        logits = self(x)
        self.note(x, y, logits)
        self.log("divergence", F.kl_div((logits / 4).log_softmax(dim=1), other.exp(), reduction="batchmean"))


class LossOfTheAverageToo(Changes):
    """Logs the loss of the network and that of another one."""

    said = SoftmaxInEvaluation.said

    def validation_step(self, batch, batch_idx):
        x, y = batch
        self.log("other", F.cross_entropy(self.heads[1](self.body(x[:, 1:])), y))
        logits = self.heads[0](self.body(x[:, 1:]))
        self.note(x, y, logits)
        self.log("loss", F.cross_entropy(logits, y))

    def forward(self, x):
        return self.heads[0](self.body(x[:, 1:]))

    def training_step(self, batch, batch_idx):
        x, y = batch
        logits = self.heads[0](self.body(x[:, 1:]))
        self.note(x, y, logits)
        return F.cross_entropy(logits, y)


@pytest.mark.parametrize("module_class", [SoftmaxInEvaluation, OtherThingsLogged, LossOfTheAverageToo])
def test_validation_follows_what_training_chose(module_class: type[Any], tmp_path: Path) -> None:
    module, style = made(module_class), Style(module_class)
    with saying():
        trainer_for(module, PredictionHistory(tmp_path)).fit(
            module, loader(style), loader(style, seed=1, shuffle=False)
        )
    assert {note.split for note in module.seen} == {"train", "val"}
    assert_recorded(tmp_path, module)


class HeadByLoader(Changes):
    said = SoftmaxInEvaluation.said

    def validation_step(self, batch, batch_idx, dataloader_idx=0):
        x, y = batch
        every = [head(self.body(x[:, 1:])) for head in self.heads]
        self.kept = {**getattr(self, "kept", {}), dataloader_idx: every[dataloader_idx].log_softmax(dim=1)}
        self.log("loss", F.cross_entropy(every[dataloader_idx], y))


def test_every_validation_loader_may_have_a_head_of_its_own(tmp_path: Path) -> None:
    module, style = made(HeadByLoader), Style(HeadByLoader)
    whole = DataLoader(styles.three_classes(1), batch_size=styles.COUNT)
    trainer_for(module, PredictionHistory(tmp_path), max_epochs=1).fit(module, loader(style), [whole, whole])
    rows = read_history(tmp_path).to_arrow("val")
    for number in (0, 1):
        mine = np.array(rows["loader"].to_pylist()) == number
        pred = np.array(rows["pred"].to_pylist())[mine]
        np.testing.assert_array_equal(pred, module.kept[number].argmax(dim=1).numpy())


class TwoViewsWithoutALoss(Changes):
    said = SoftmaxInEvaluation.said

    def validation_step(self, batch, batch_idx):
        x, y = batch
        probs = (self(x).softmax(dim=1) + self(1.1 * x).softmax(dim=1)) / 2
        self.log("accuracy", (probs.argmax(dim=1) == y).float().mean())


def test_several_outputs_without_a_loss_are_told_of(tmp_path: Path) -> None:
    module, style = made(TwoViewsWithoutALoss), Style(TwoViewsWithoutALoss)
    with saying(r"has no loss, and the module's own forward gives 2 outputs in it; the first one is recorded"):
        trainer_for(module, PredictionHistory(tmp_path)).fit(
            module, loader(style), loader(style, seed=1, shuffle=False)
        )


# -- what is refused ---------------------------------------------------------------------------------------------


class TwoFunctionalHeads(Changes):
    def said(self, x, y, batch_idx):
        features = self.body(x[:, 1:])
        first, second = (features @ head.weight.t() for head in self.heads)
        return None, F.cross_entropy(first, y) + F.cross_entropy(second, y)


def test_two_inputs_that_no_module_gave_cannot_be_told_apart() -> None:
    module = made(TwoFunctionalHeads)
    with pytest.raises(ValueError, match="2 losses against the same labels"):
        trainer_for(module, PredictionHistory("run")).fit(module, loader(Style(TwoFunctionalHeads)))


class SeveralLabels(Changes):
    """One label a sample in the first batch, several in later ones."""

    def training_step(self, batch, batch_idx):
        x, y = batch
        return F.binary_cross_entropy_with_logits(self(x), y)


def several_labels(seed: int = 0) -> TensorDataset:
    x, y = styles.parts(seed)
    labels = F.one_hot(y, styles.CLASSES).float()
    labels[BATCH:, 0] = 1.0
    return TensorDataset(x, labels)


def test_several_labels_are_not_followed_when_they_come_later(tmp_path: Path) -> None:
    module = made(SeveralLabels)
    with saying(OTHER_TARGETS):
        trainer_for(module, PredictionHistory(tmp_path)).fit(
            module, loader(Style(SeveralLabels, data=several_labels), shuffle=False)
        )
    assert {sample for _, _, sample in stored_rows(tmp_path)} == set(range(BATCH))


class Regularized(Changes):
    """A network whose log-probabilities enter the loss through a function, and a term beside it."""

    def said(self, x, y, batch_idx):
        logits = self(x)
        return logits, F.nll_loss(logits.log_softmax(dim=1), y) + 0.01 * logits.square().mean()

    def validation_step(self, batch, batch_idx):
        x, y = batch
        logits = self(x)
        self.note(x, y, logits)
        self.log("loss", F.nll_loss(logits.log_softmax(dim=1), y))


class Squeezed(Regularized):
    """One logit, squeezed as labels are: of a batch of one sample it is a number."""

    def __init__(self) -> None:
        super().__init__()
        self.heads = nn.ModuleList([nn.Linear(8, 1)])

    def training_step(self, batch, batch_idx):
        x, y = batch
        logit = self(x)
        self.note(x, (y > 0).long(), torch.cat([torch.zeros_like(logit), logit], dim=1))
        return F.binary_cross_entropy_with_logits(logit.squeeze(), (y > 0).float().squeeze())

    def validation_step(self, batch, batch_idx):
        self.log("loss", self.training_step(batch, batch_idx))


def one_more(seed: int = 0) -> TensorDataset:
    """A last batch of one sample."""
    x, y = styles.parts(seed)
    return TensorDataset(x[: 2 * BATCH + 1], y[: 2 * BATCH + 1])


@pytest.mark.parametrize(("module_class", "said"), [(Regularized, None), (Squeezed, "renames the labels")])
def test_a_last_batch_of_one_sample_is_followed(module_class: type[Any], said: str | None, tmp_path: Path) -> None:
    module, style = made(module_class), Style(module_class, data=one_more)
    with saying(said):
        trainer_for(module, PredictionHistory(tmp_path), max_epochs=4).fit(
            module, loader(style, shuffle=False), loader(style, seed=1, shuffle=False)
        )
    assert {note.split for note in module.seen} == {"train", "val"}
    assert_recorded(tmp_path, module)


class TeacherAtTemperatureOne(Changes):
    """Cross entropy, and a divergence of the same logits from a teacher's."""

    def said(self, x, y, batch_idx):
        logits, other = self(x), self.heads[1](self.body(x[:, 1:])).detach()
        term = F.kl_div(logits.log_softmax(dim=1), other.softmax(dim=1), reduction="batchmean")
        return logits, F.cross_entropy(logits, y) + term


class SampleWeights(Changes):
    """Written out, with weights of the samples in the targets."""

    def said(self, x, y, batch_idx):
        logits = self(x)
        weighted = F.one_hot(y, styles.CLASSES) * torch.rand(len(y), 1)
        return logits, -(weighted * logits.log_softmax(dim=1)).sum(dim=1).mean()


class RegularizedMixUp(Changes):
    """Mixes from the second epoch on, now and then, beside a regularizer."""

    def said(self, x, y, batch_idx):
        if self.current_epoch == 0 or batch_idx % 3:
            logits = self(x)
            return logits, F.cross_entropy(logits, y) + 0.1 * logits.square().mean()
        other = y.argsort().flip(0)
        mixed = self(0.6 * x + 0.4 * x[other])
        loss = 0.6 * F.cross_entropy(mixed, y) + 0.4 * F.cross_entropy(mixed, y[other])
        return None, loss + 0.1 * mixed.square().mean()


class RegularizedHeads(Changes):
    """Beside a regularizer, the head of the loss changes every other epoch."""

    def said(self, x, y, batch_idx):
        every = [head(self.body(x[:, 1:])) for head in self.heads]
        logits = every[self.current_epoch // 2 % 2]
        return logits, F.cross_entropy(logits, y) + 0.1 * logits.square().mean()


LATER = [
    (TeacherAtTemperatureOne, None),
    (SampleWeights, None),
    (RegularizedMixUp, OTHER_TARGETS),
    (RegularizedHeads, OTHER_LOSS),
]


@pytest.mark.parametrize(("module_class", "said"), LATER, ids=[case[0].__name__ for case in LATER])
def test_no_row_is_wrong_in_long_runs(module_class: type[Any], said: str | None, tmp_path: Path) -> None:
    module, style = made(module_class), Style(module_class)
    with saying(said):
        trainer_for(module, PredictionHistory(tmp_path), max_epochs=9).fit(module, loader(style, shuffle=False))
    expected, stored = expected_rows(module.seen, "logits"), stored_rows(tmp_path)
    assert stored.keys() <= expected.keys()
    assert len(stored) >= 0.85 * len(expected)
    assert said is not None or len(stored) == len(expected)
    found, right = (np.array([rows[key] for key in sorted(stored)]) for rows in (stored, expected))
    np.testing.assert_array_equal(found[:, :2], right[:, :2])


def test_each_callback_has_its_own_place_in_validation(tmp_path: Path) -> None:
    """What another callback is told to follow is not what this one found."""
    module, style = made(SoftmaxInEvaluation), Style(SoftmaxInEvaluation)
    module.also = lambda x: module.heads[1](module.body(x[:, 1:]))
    trainer = trainer_for(module, PredictionHistory(tmp_path), FlipTracker(train=True, logits_from="heads.0"))
    with saying():
        trainer.fit(module, loader(style), loader(style, seed=1, shuffle=False))
    assert_recorded(tmp_path, module)


def test_one_place_may_be_two_kinds_for_two_callbacks(tmp_path: Path) -> None:
    class Probabilities(Changes):
        """Has softmax outputs under cross entropy, which is what its loss takes them for."""

        def forward(self, x):
            return super().forward(x).softmax(dim=1)

        said = SoftmaxInEvaluation.said

    module, style = made(Probabilities), Style(Probabilities)
    callbacks = [PredictionHistory(tmp_path, outputs="probs"), FlipTracker(train=True)]
    with saying():
        trainer_for(module, *callbacks).fit(module, loader(style))
    for note in module.seen:
        note.said = note.said.log()
    assert_recorded(tmp_path, module)


def test_a_search_keeps_no_activations(tmp_path: Path) -> None:
    class Watched(Changes):
        alive: list[int] = []

        def said(self, x, y, batch_idx):
            logits = self(x)
            return logits, F.cross_entropy(logits, y)

        def on_train_batch_end(self, *args: Any) -> None:
            search = self.trainer.strategy.training_step.__closure__  # what the wrapped step holds
            captures = next(c.cell_contents for c in search if type(c.cell_contents).__name__ == "StepCapture")
            self.alive.append(0 if captures._search is None else len(captures._search.outputs))

    module = made(Watched)
    trainer_for(module, PredictionHistory(tmp_path)).fit(module, loader(Style(Watched)))
    assert set(module.alive) == {0}
