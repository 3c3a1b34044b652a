"""Diagnostics: what is refused before the first step, what is survived, and what options are."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset

from lightning_flip.callbacks import (
    FeatureProjection,
    LearningPath,
    LogitGaps,
    NoiseAccuracy,
    TemperatureScaling,
    TrainingTargets,
    WinningScores,
)
from lightning_flip.cli import training_cli
from tests.callbacks.helpers import (
    CLASSES,
    Memory,
    Watched,
    loader,
    make_trainer,
)
from tests.callbacks.noisy import noisy_loader, table

N = 11
OUT = Path("run/diagnostics")

pytestmark = [
    pytest.mark.filterwarnings("ignore:You defined a `validation_step` but have no `val_dataloader`"),
    pytest.mark.filterwarnings("ignore:TemperatureScaling. T = "),  # logits here say nothing of the labels
]


def untrained(callbacks: list[Any], error: Any, match: str, data: Any = None, model: Any = None) -> None:
    model = Watched() if model is None else model
    data = noisy_loader(N) if data is None else data
    with pytest.raises(error, match=match):
        make_trainer(max_epochs=1, callbacks=callbacks).fit(model, data, loader(7, seed=1))
    assert [row for row in model.seen if row[0] == "train"] == []


def test_two_of_one_kind_need_a_prefix_or_where_nothing_is_logged_a_name() -> None:
    untrained([NoiseAccuracy(), NoiseAccuracy(passes="eval")], ValueError, "NoiseAccuracy.* would both log .*prefix=")
    elsewhere = NoiseAccuracy(dirpath="elsewhere")  # what is logged has no folder
    untrained([NoiseAccuracy(), elsewhere], ValueError, "NoiseAccuracy.* would both log .*prefix=")
    gaps = [LogitGaps(figures=False), LogitGaps(figures=False, passes="eval")]
    untrained(gaps, ValueError, "two LogitGaps .* same files.*name=.*prefix=")
    trainer = make_trainer(max_epochs=1, callbacks=[NoiseAccuracy(), NoiseAccuracy(passes="eval", prefix="eval_")])
    trainer.fit(Watched(noise=True), noisy_loader(N))
    assert {"train_accuracy_all_true", "eval_train_accuracy_all_true"} <= set(trainer.callback_metrics)


def test_a_missing_matplotlib_is_said_at_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    untrained([WinningScores()], ModuleNotFoundError, r"pip install 'lightning-flip\[report\]'")
    make_trainer(max_epochs=1, callbacks=[WinningScores(figures=False)]).fit(Watched(), loader(8), loader(7, seed=1))


class Named(Dataset[Any]):
    """Batches that are dicts."""

    def __len__(self) -> int:
        return N

    def __getitem__(self, index: int) -> Any:
        return {"image": torch.zeros(5), "label": index % CLASSES}

    def true_target(self, index: int) -> int:
        return index % CLASSES


def test_a_batch_that_the_clean_pass_cannot_ask_about_is_told_at_the_start() -> None:
    with pytest.raises(TypeError, match=r"must be Tensor|not subscriptable|slice|unhashable") as caught:
        make_trainer(max_epochs=1, callbacks=[NoiseAccuracy(passes="eval")]).fit(Watched(), DataLoader(Named()))
    assert any("predict_step(batch, batch_idx) run" in note for note in caught.value.__notes__)


class Numbers(IterableDataset[Any]):
    """Samples that come one after the other, and at no position."""

    def __iter__(self) -> Any:
        return iter([(torch.zeros(5), 0)])


@pytest.mark.parametrize("callback", [NoiseAccuracy(passes="eval"), LearningPath([0], passes="eval", dirpath="run")])
def test_an_evaluation_of_a_stream_is_refused_with_what_the_callback_offers(callback: Any) -> None:
    with pytest.raises(TypeError, match=r'map-style dataset.*got a DataLoader over \w+\. Use passes="train"\.$'):
        make_trainer(max_epochs=1, callbacks=[callback]).fit(Watched(), DataLoader(Numbers()))


def test_data_without_positions_are_told_so() -> None:
    both = [noisy_loader(N), noisy_loader(N)]
    for callback in (NoiseAccuracy(), FeatureProjection()):
        with pytest.raises((TypeError, ValueError), match="loader="):
            make_trainer(max_epochs=1, callbacks=[callback]).fit(Watched(), both)


def test_features_are_asked_by_position_and_the_advice_can_be_followed() -> None:
    with pytest.raises(ValueError, match="index_from does not go with it") as caught:
        FeatureProjection(index_from="id")
    assert "visits" not in str(caught.value)


def test_a_head_that_begins_at_zero_is_left_out_with_a_warning() -> None:
    model = Watched()
    torch.nn.init.zeros_(model.net[-1].weight)
    for part in model.net.parameters():
        part.requires_grad_(False)
    model.net[-1].bias.requires_grad_(True)
    callback = FeatureProjection(samples_per_class=2, dirpath="run")
    with pytest.warns(UserWarning, match="leaves out epoch"):
        make_trainer(max_epochs=1, callbacks=[callback]).fit(model, noisy_loader(N))
    assert not list(Path("run").rglob("*.csv"))


def test_validation_after_a_fit_and_a_second_one_leave_the_fits_tables_alone() -> None:
    callbacks = [WinningScores(figures=False, dirpath="run"), TemperatureScaling(figures=False, dirpath="run")]
    trainer = make_trainer(max_epochs=2, callbacks=callbacks)
    model = Watched()
    trainer.fit(model, noisy_loader(N), loader(7, seed=1))
    before = {path.name: path.read_bytes() for path in OUT.iterdir()}
    for _ in range(2):
        trainer.validate(model, loader(5, seed=2), verbose=False)
    assert {name: (OUT / name).read_bytes() for name in before} == before
    found = table(OUT / "validate_winning_scores.csv")
    assert sum(row["count"] for row in found) == 5


def test_a_logger_that_fails_is_warned_of_and_training_goes_on() -> None:
    class WandbLogger(Memory):
        def log_image(self, *args: Any, **kwargs: Any) -> None:
            raise ConnectionError("no route")

    trainer = make_trainer(max_epochs=2, callbacks=[LogitGaps(every_n_epochs=1, dirpath="run")], logger=WandbLogger())
    with pytest.warns(UserWarning, match=r"WandbLogger did not take the figure 'train_logit_gaps' \(ConnectionError"):
        trainer.fit(Watched(), noisy_loader(N))
    assert len(list(OUT.glob("*.png"))) == 2


def test_they_work_in_pytorch_lightning(tmp_path: Path) -> None:
    import pytorch_lightning

    class Theirs(pytorch_lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = torch.nn.Linear(5, CLASSES)

        def forward(self, x: Any) -> Any:
            return self.net(x)

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return torch.nn.functional.cross_entropy(self(batch[0]), batch[1])

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=0.1)

    callbacks = [NoiseAccuracy(passes="eval", dirpath="run"), FeatureProjection(samples_per_class=2, dirpath="run")]
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = pytorch_lightning.Trainer(
        accelerator="cpu", max_epochs=1, callbacks=callbacks, enable_checkpointing=False, log_every_n_steps=1, **quiet
    )
    trainer.fit(Theirs(), noisy_loader(N))
    assert {path.stem for path in OUT.glob("*.csv")} == {"train_noise_accuracy", "train_feature_projection"}


def test_what_is_held_is_said_and_let_go_of(caplog: pytest.LogCaptureFixture) -> None:
    callback = LogitGaps(figures=False, dirpath="run")
    with caplog.at_level("INFO"):
        make_trainer(max_epochs=1, callbacks=[callback]).fit(Watched(), noisy_loader(N))
    assert "LogitGaps: 28 bytes per train sample" in caplog.text
    assert callback._truth is None
    assert callback._device_truth is None


@pytest.mark.parametrize("kind", [NoiseAccuracy, LogitGaps, WinningScores, TrainingTargets, TemperatureScaling])
def test_what_each_looks_at_is_no_option_and_others_are_on_the_command_line(
    kind: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("train", "val"):
        with pytest.raises(TypeError, match=name):
            kind(**{name: True})
    with pytest.raises(TypeError, match="no_such_option"):
        kind(no_such_option=1)
    with pytest.raises(SystemExit):
        training_cli(["fit", f"--trainer.callbacks.help=lightning_flip.callbacks.{kind.__name__}"])
    text = capsys.readouterr().out
    for name in ("every_n_epochs", "figures", "dirpath", "overwrite", "name", "logits_from", "target_from"):
        assert f".{name} " in text
    assert ".val " not in text


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: NoiseAccuracy(every_n_epochs=0), "every_n_epochs must be at least 1"),
        (lambda: NoiseAccuracy(passes="visits"), 'passes must be "train" or "eval"'),
        (lambda: LogitGaps(passes="eval", logits_from=len), "logits_from must name a submodule"),
        (lambda: WinningScores(low=1.0), r"low must be in \[0, 1\)"),
        (lambda: WinningScores(n_bins=0), "n_bins must be at least 1"),
        (lambda: TrainingTargets(others=0), "others must be at least 1"),
        (lambda: FeatureProjection((1, 1, 2)), "three different classes"),
        (lambda: FeatureProjection((0, 1)), "three different classes"),
        (lambda: FeatureProjection((-1, 1, 2)), "three different classes"),
        (lambda: FeatureProjection(samples_per_class=0), "samples_per_class must be at least 1"),
        (lambda: TemperatureScaling(n_bins=0), "n_bins must be at least 1"),
        (lambda: TemperatureScaling(val_loader=-1), "val_loader must be"),
        (lambda: TemperatureScaling(every_n_epochs=0), "every_n_epochs must be at least 1"),
    ],
)
def test_options_out_of_range_are_named(make: Any, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        make()


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda: NoiseAccuracy(every_n_epochs=1.5), "every_n_epochs"),
        (lambda: WinningScores(n_bins=7.5), "n_bins"),
        (lambda: TrainingTargets(others=2.5), "others"),
        (lambda: FeatureProjection((0.5, 1.2, 2)), r"classes\[0\]"),
        (lambda: FeatureProjection(samples_per_class=2.0), "samples_per_class"),
        (lambda: TemperatureScaling(n_bins=2.5), "n_bins"),
        (lambda: TemperatureScaling(val_loader=0.5), "val_loader"),
    ],
)
def test_options_of_another_kind_are_named(make: Any, name: str) -> None:
    with pytest.raises(TypeError, match=rf"{name} must be a whole number"):
        make()
