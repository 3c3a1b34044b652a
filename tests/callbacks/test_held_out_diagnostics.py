"""Winning scores, training targets and projected features against loops."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention
from torch import nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

from lightning_flip.callbacks import FeatureProjection, TemperatureScaling, TrainingTargets, WinningScores
from lightning_flip.mixins import (
    FlippingErrorReduction,
    LabelSmoothing,
    LossTerm,
    Mixup,
)
from lightning_flip.reports.figures.projection import project_features
from tests.callbacks.helpers import CLASSES, Lookup, Memory, Watched, loader, make_trainer, some_logits
from tests.callbacks.noisy import noisy_loader, noisy_points, table
from tests.mixins.helpers import K, LitNet, labels, network
from tests.mixins.pairing import Mixed, Notes, Paired, shuffled

OUT = Path("run/diagnostics")


def scores_of(logits: torch.Tensor) -> list[float]:
    return [max(row) for row in logits.softmax(dim=1).tolist()]


def counts(scores: list[float], lowest: float, bins: int) -> list[int]:
    """How many scores are in each bin, those under the lowest in front."""
    width = (1 - lowest) / bins
    found = [0] * (bins + 1)
    for score in scores:
        found[0 if score < lowest else 1 + min(bins - 1, int((score - lowest) / width))] += 1
    return found


# -- winning scores ----------------------------------------------------------------------------------------------


def test_scores_of_every_pass_and_loader_are_counted() -> None:
    one, two, logger = some_logits(3, 9, seed=1), some_logits(3, 5, seed=2), Memory()
    callback = WinningScores(low=0.4, n_bins=4, every_n_epochs=1, figures=False, dirpath="run")
    trainer = make_trainer(callbacks=[callback], logger=logger)
    trainer.fit(Lookup(some_logits(3, 8), one, two), loader(8), [loader(9, seed=1), loader(5, seed=2)])
    for name, logits in (("val", one), ("val_1", two)):
        rows = table(OUT / f"{name}_winning_scores.csv")
        for epoch in range(3):
            found = [row["count"] for row in rows if row["epoch"] == epoch]
            assert found == counts(scores_of(logits[epoch]), 0.4, 4)
        means = [float(np.mean(scores_of(rows))) for rows in logits]
        assert logger.values(f"{name}_mean_winning_score") == pytest.approx(means, abs=1e-6)


def test_a_test_has_a_table_of_its_own() -> None:
    class Tested(Watched):
        def test_step(self, batch: Any, batch_idx: int) -> None:
            self(batch[0])

    model, callback = Tested(), WinningScores(low=0.0, n_bins=5, dirpath="run")
    (found,) = make_trainer(callbacks=[callback]).test(model, loader(9), verbose=False)
    with torch.no_grad():
        scores = scores_of(model.eval()(loader(9).dataset.tensors[0]))
    assert [row["count"] for row in table(OUT / "test_winning_scores.csv")] == counts(scores, 0.0, 5)[1:]
    assert found["test_mean_winning_score"] == pytest.approx(np.mean(scores), abs=1e-6)
    assert [path.name for path in OUT.glob("*.png")] == ["test_winning_scores-epoch-0000.png"]


# -- training targets --------------------------------------------------------------------------------------------


class Smoothed(LabelSmoothing, Notes):
    """Label smoothing."""


class SmoothedMixed(LabelSmoothing, Mixup, Notes):
    """Both: the mixed label is smoothed."""


def profile(soft: np.ndarray, pairs: np.ndarray, count: int, others: int = 5) -> list[tuple[Any, ...]]:
    """Rows of the table for samples with so many labels: means over samples of sorted masses."""
    mine = [(row, q) for row, q in zip(soft, pairs, strict=True) if (q > 0).sum() == count]
    if not mine:
        return []
    true = np.mean([sorted(row[q > 0], reverse=True) for row, q in mine], axis=0)
    rest = np.mean([sorted(row[q <= 0], reverse=True)[:others] for row, q in mine], axis=0)
    found = [(count, "true", place, mass, len(mine)) for place, mass in enumerate(true, start=1)]
    return found + [(count, "other", place, mass, len(mine)) for place, mass in enumerate(rest, start=1)]


def table_of(model: Any, **options: Any) -> list[tuple[Any, ...]]:
    """Train for an epoch in which no weight moves."""
    callback = TrainingTargets(figures=False, dirpath="run", **options)
    make_trainer(max_epochs=1, callbacks=[callback]).fit(model, shuffled())
    rows = table(OUT / "train_training_targets.csv")
    return [(row["labels"], row["kind"], row["place"], row["mass"], row["samples"]) for row in rows]


def same(found: list[tuple[Any, ...]], expected: list[tuple[Any, ...]]) -> bool:
    def near(one: Any, other: Any) -> bool:
        return one == (pytest.approx(other, abs=1e-6) if isinstance(other, float) else other)

    return len(found) == len(expected) and all(
        near(one, other)
        for left, right in zip(found, expected, strict=True)
        for one, other in zip(left, right, strict=True)
    )


def given_of(model: Any) -> tuple[np.ndarray, np.ndarray]:
    """Inputs and targets that the steps were given, targets as distributions."""
    x = np.concatenate([notes["mixed"][0] for notes in model.given])
    q = [notes["mixed"][1] for notes in model.given]
    return x, np.concatenate([part if part.ndim == 2 else np.eye(K)[part] for part in q])


@pytest.mark.parametrize("options", [{}, {"smoothing_weight": 0.3}, {"alternate": False}])
def test_pairwise_smoothing_pulls_towards_labels_and_the_learned_distribution(options: dict[str, Any]) -> None:
    model = Paired(network(), lr=0.0, **options)
    found = table_of(model)
    x, q = given_of(model)
    with torch.no_grad():
        hidden = model.net[:-1](torch.from_numpy(x))
        head = model.smoothing_head(hidden).numpy()
    bounded = 1 / (1 + np.exp(-head))
    learned = np.exp(bounded) / np.exp(bounded).sum(axis=1, keepdims=True)
    w = options.get("smoothing_weight", 0.5)
    soft = (1 - w) * q + w * learned
    assert same(found, profile(soft, q, 1) + profile(soft, q, 2))
    assert {row[0] for row in found} == {1, 2}


def test_ablations_of_pairwise_smoothing() -> None:
    for kind, spread in (("uniform", 0.2), ("none", 0.0)):
        model = Paired(network(), lr=0.0, smoothing_distribution=kind, smoothing_weight=0.2)
        found = table_of(model, overwrite=True)
        q = given_of(model)[1]
        soft = (1 - spread) * q + spread / K
        assert same(found, profile(soft, q, 1) + profile(soft, q, 2)), kind


def test_label_smoothing_mixup_and_both_and_neither() -> None:
    smooth = 0.3
    one_hot = np.eye(K)[labels(K)]
    smoothed = (1 - smooth) * one_hot + smooth / K
    assert same(table_of(Smoothed(network(), lr=0.0, smoothing=smooth)), profile(smoothed, one_hot, 1))
    assert same(table_of(LitNet(network(), lr=0.0), overwrite=True), profile(one_hot, one_hot, 1))
    off = Smoothed(network(), lr=0.0, smoothing=smooth, term_weight=0.0)
    assert same(table_of(off, overwrite=True), profile(one_hot, one_hot, 1))
    half = Smoothed(network(), lr=0.0, smoothing=smooth, term_weight=0.5)
    assert same(table_of(half, overwrite=True), profile((one_hot + smoothed) / 2, one_hot, 1))
    mixed = Mixed(network(), lr=0.0)
    found = table_of(mixed, overwrite=True)
    q = given_of(mixed)[1]
    assert same(found, profile(q, q, 1) + profile(q, q, 2))


@pytest.mark.filterwarnings("ignore:.* soften the target")
def test_the_differences_of_two_methods_add_up() -> None:
    model = SmoothedMixed(network(), lr=0.0, smoothing=0.3)
    found = table_of(model)
    q = given_of(model)[1]
    soft = 0.7 * q + 0.3 / K
    assert same(found, profile(soft, q, 1) + profile(soft, q, 2))


def test_modules_that_want_labels_are_told_of_the_same_targets() -> None:
    """The pairs are known to the method alone there."""
    first = table_of(Paired(network(), lr=0.0, smoothing_distribution="none"))
    second = table_of(Paired(network(), lr=0.0, smoothing_distribution="none", mixed_targets="labels"), overwrite=True)
    assert same(second, first)


def test_the_loss_is_the_cross_entropy_against_the_targets() -> None:
    """Which is what they claim to be."""

    class Kept(Paired):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            loss = super().training_step(batch, batch_idx)
            step = self._term_loop.attachment.sample_step(self._mixin.source)
            _, target = self.kept_training_targets
            errors.append(
                float(loss.detach() - (-(target * step.logits.detach().log_softmax(dim=1)).sum(dim=1)).mean())
            )
            return loss

    errors: list[float] = []
    table_of(Kept(network(), lr=0.5))
    assert len(errors) == 5
    assert errors == pytest.approx([0.0] * 5, abs=1e-12)


class Reduced(FlippingErrorReduction, Notes):
    """A loss at a temperature, against a table."""


class Own(LossTerm):
    """A method that says nothing of a target."""

    def method_loss(self, step: Any) -> Any:
        return F.cross_entropy(step.logits, step.target, reduction="none") * 2


class WithOwn(Own, Notes):
    """In front of a module."""


@pytest.mark.parametrize(("kind", "name"), [(Reduced, "FlippingErrorReduction"), (WithOwn, "Own")])
def test_a_loss_of_another_form_is_an_error(kind: Any, name: str) -> None:
    with pytest.raises(TypeError, match=f"the loss of {name}.*not a cross entropy against a target.*TrainingTargets"):
        table_of(kind(network()))


def test_nobody_pays_who_does_not_look() -> None:
    model = Paired(network())
    make_trainer(max_epochs=1).fit(model, shuffled())
    assert model.kept_training_targets is None
    table_of(model)
    assert model.kept_training_targets is None
    assert not model._term_loop.keeps_targets  # looked at once, and no more


# -- features ----------------------------------------------------------------------------------------------------


class Calm(Watched):
    """Learns so slowly that no unit dies: samples of equal features could not be told apart."""

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.01)


def test_features_of_the_chosen_samples_are_projected() -> None:
    data, model = noisy_points(60), Calm(noise=True)
    callback = FeatureProjection(samples_per_class=5, every_n_epochs=1, figures=False, dirpath="run")
    make_trainer(max_epochs=2, callbacks=[callback]).fit(model, DataLoader(data, batch_size=4, shuffle=True), loader(4))
    rows = [row for row in table(OUT / "train_feature_projection.csv") if row["epoch"] == 1]
    assert [sum(row["label"] == label for row in rows) for label in range(CLASSES)] == [5, 5, 5]
    model.eval()
    with torch.no_grad():
        hidden = model.net[:-1](data.dataset.tensors[0][:, 1:]).double().numpy()
    points = project_features(hidden, model.net[-1].weight.detach().double().numpy())
    for row in rows:
        distance = np.abs(points - [row["x"], row["y"]]).max(axis=1)
        place = int(distance.argmin())
        assert distance[place] < 1e-5
        assert row["label"] == int(data.targets[place])
        assert row["true_label"] == int(data.true_targets[place])
        assert row["noisy"] == str(bool(data.is_noisy[place]))
    first = [row for row in table(OUT / "train_feature_projection.csv") if row["epoch"] == 0]
    assert [row["label"] for row in first] == [row["label"] for row in rows]  # the same samples


@pytest.mark.filterwarnings("ignore:You defined a `validation_step` but have no `val_dataloader`")
@pytest.mark.parametrize("world", [2, 3])
def test_ranks_project_what_one_process_projects(world: int) -> None:
    """After no update at all, for batches differ."""

    class Still(Watched):
        asked = 0

        def forward(self, x: Any) -> Any:
            self.asked += 0 if self.training else len(x)
            return super().forward(x)

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=0.0)

        def on_fit_end(self) -> None:
            Path(f"{self.trainer.world_size}-{self.global_rank}.txt").write_text(str(self.asked))

    for devices, folder in ((1, "one"), (world, "many")):
        callback = FeatureProjection(samples_per_class=3, figures=False, dirpath=folder)
        strategy = "ddp_fork" if devices > 1 else "auto"
        trainer = make_trainer(max_epochs=1, devices=devices, strategy=strategy, callbacks=[callback])
        trainer.fit(Still(), noisy_loader(31))
        asked = sum(int(path.read_text()) for path in Path().glob(f"{devices}-*.txt"))
        assert asked == 9 + devices  # one a rank before the fit
    one, many = (table(f"{folder}/diagnostics/train_feature_projection.csv") for folder in ("one", "many"))
    assert len(one) == len(many) == 9
    for left, right in zip(one, many, strict=True):
        assert right == left | {axis: pytest.approx(left[axis], abs=1e-5) for axis in "xy"}


def test_data_without_true_labels_have_no_black_points_and_names_are_the_data_sets() -> None:
    class Animals(TensorDataset):
        classes = ("cat", "dog", "owl")

    data = Animals(*loader(30).dataset.tensors)
    callback = FeatureProjection((2, 0, 1), samples_per_class=2, dirpath="run")
    make_trainer(max_epochs=1, callbacks=[callback]).fit(Watched(), DataLoader(data, batch_size=4), loader(4))
    rows = table(OUT / "train_feature_projection.csv")
    assert sorted({row["label"] for row in rows}) == ["cat", "dog", "owl"]
    assert {row["noisy"] for row in rows} == {"False"}
    assert [path.suffix for path in OUT.glob("*.png")] == [".png"]


class Nameless(Dataset):
    """Keeps its labels nowhere."""

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> Any:
        return torch.zeros(5), index % 3


class Convolved(Watched):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Unflatten(1, (1, 4)), nn.Conv1d(1, CLASSES, 4), nn.Flatten())


@pytest.mark.parametrize(
    ("callback", "model", "data", "error", "match"),
    [
        (FeatureProjection((0, 1, 7)), Watched, noisy_points(12), ValueError, "layer has 3 outputs"),
        (FeatureProjection(), Watched, noisy_points(2), ValueError, "no training sample has the label"),
        (FeatureProjection(), Watched, Nameless(), TypeError, "Nameless keeps none.*attribute targets"),
        (
            FeatureProjection(),
            Convolved,
            noisy_points(12),
            AttributeError,
            "has no nn.Linear to be its classifier layer",
        ),
        (
            FeatureProjection(classifier_from="net.1"),
            Watched,
            noisy_points(12),
            ValueError,
            r"a layer without a weight",
        ),
        (FeatureProjection(classifier_from="gone"), Watched, noisy_points(12), AttributeError, "no submodule 'gone'"),
    ],
)
def test_what_cannot_be_projected_is_refused_before_the_first_step(
    callback: Any, model: Any, data: Any, error: Any, match: str
) -> None:
    made = model()
    with pytest.raises(error, match=match):
        make_trainer(max_epochs=1, callbacks=[callback]).fit(made, DataLoader(data, batch_size=4), loader(4))
    assert [row for row in made.seen if row[0] == "train"] == []


def test_old_names_of_options_warn() -> None:
    with pytest.warns(FutureWarning, match="removed in 0.4"):
        callback = WinningScores(lowest=0.4, bins=4)
    assert (callback.low, callback.n_bins) == (0.4, 4)
    with pytest.warns(FutureWarning, match="n_bins"):
        assert TemperatureScaling(bins=5).n_bins == 5
