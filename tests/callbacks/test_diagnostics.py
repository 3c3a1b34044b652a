"""What diagnostics share, and what they say of wrong labels: tables against loops, ranks, resumption, refusals."""

from __future__ import annotations

import random
import sys
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.utils.data import ConcatDataset, DataLoader, Dataset, Sampler

from lightning_flip.callbacks import (
    ExactResume,
    FeatureProjection,
    LogitGaps,
    NoiseAccuracy,
    TemperatureScaling,
    TrainingTargets,
    WinningScores,
)
from lightning_flip.cli import training_cli
from lightning_flip.functional import logit_gap
from lightning_flip.reports.noise_figures import logit_gaps
from lightning_flip.steps.checks import ValueChecks
from tests.callbacks.helpers import (
    CLASSES,
    Lookup,
    Memory,
    Watched,
    loader,
    make_trainer,
    points,
    run_ranks,
    some_logits,
)
from tests.callbacks.noisy import PARTS, accuracies, noisy_loader, noisy_points, table

N, EPOCHS = 11, 4
OUT = Path("run/diagnostics")

pytestmark = [
    pytest.mark.filterwarnings("ignore:You defined a `validation_step` but have no `val_dataloader`"),
    pytest.mark.filterwarnings("ignore:TemperatureScaling. T = "),  # logits here say nothing of the labels
]


def looked_up(**options: Any) -> Lookup:
    return Lookup(some_logits(EPOCHS, N), some_logits(EPOCHS, 7, seed=1), **options)


def everything(**options: Any) -> list[Any]:
    """All of them, at the end of every epoch, without figures."""
    settings = {"dirpath": "run", "figures": False, "every_n_epochs": 1} | options
    quiet = {name: value for name, value in settings.items() if name != "figures"}
    return [
        NoiseAccuracy(**quiet),
        LogitGaps(**settings),
        WinningScores(**settings),
        TrainingTargets(**settings),
        TemperatureScaling(**settings),
    ]


TABLES = [
    "train_logit_gaps.csv",
    "train_noise_accuracy.csv",
    "train_training_targets.csv",
    "val_calibration.csv",
    "val_winning_scores.csv",
]


# -- wrong labels ------------------------------------------------------------------------------------------------


def test_accuracies_of_every_epoch_are_those_of_a_loop() -> None:
    data, logits, logger = noisy_points(N), some_logits(EPOCHS, N), Memory()
    assert 0 < int(data.is_noisy.sum()) < N
    trainer = make_trainer(max_epochs=EPOCHS, callbacks=[NoiseAccuracy(dirpath="run")], logger=logger)
    trainer.fit(looked_up(), DataLoader(data, batch_size=4, shuffle=True))
    expected = [accuracies(rows.argmax(dim=1), data.targets, data.true_targets) for rows in logits]
    for part in PARTS:
        assert logger.values(f"train_accuracy_{part}") == pytest.approx([epoch[part] for epoch in expected])
    rows = table(OUT / "train_noise_accuracy.csv")
    assert [row["epoch"] for row in rows] == [epoch for epoch in range(EPOCHS) for _ in range(5)]
    for epoch, found in enumerate(expected):
        cells = {
            (row["part"], row["against"]): (row["accuracy"], row["samples"]) for row in rows if row["epoch"] == epoch
        }
        noisy = int(data.is_noisy.sum())
        assert cells == {
            ("all", "true label"): (pytest.approx(found["all_true"]), N),
            ("clean", "true label"): (pytest.approx(found["clean_true"]), N - noisy),
            ("noisy", "true label"): (pytest.approx(found["noisy_true"]), noisy),
            ("noisy", "given label"): (pytest.approx(found["noisy_label"]), noisy),
            ("all", "given label"): (pytest.approx(found["all_label"]), N),
        }


class Halves(Sampler[int]):
    """The even samples in one pass, the odd ones in the next."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.number = -1

    def __len__(self) -> int:
        return self.count // 2

    def __iter__(self) -> Any:
        self.number += 1
        return iter(range(self.number % 2, self.count, 2))


def test_a_pass_is_described_by_what_it_saw_alone() -> None:
    data, val = noisy_points(12), points(10, seed=1)
    callbacks = [LogitGaps(figures=False, dirpath="run"), WinningScores(figures=False, dirpath="run")]
    trainer = make_trainer(max_epochs=2, callbacks=callbacks, num_sanity_val_steps=0)
    trainer.fit(
        Watched(),
        DataLoader(data, batch_size=3, sampler=Halves(12)),
        DataLoader(val, batch_size=5, sampler=Halves(10)),
    )
    gaps = table(OUT / "train_logit_gaps.csv")
    width = gaps[0]["high"] - gaps[0]["low"]
    assert sum(row["count"] for row in table(OUT / "val_winning_scores.csv") if row["epoch"] == 1) == 5
    noisy = int(data.is_noisy[1::2].sum())
    assert 0 < noisy < 6
    # In a histogram of area 1 over six samples each of them has a sixth.
    sixths = [6 * width * row["all_top"] for row in gaps]
    assert sixths == pytest.approx([round(share) for share in sixths], abs=1e-4)
    assert sum(sixths) == pytest.approx(6)


def test_what_a_device_found_wrong_is_said_before_anything_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    look = ValueChecks.look

    def on_a_device(self: Any, logits: Any, target: Any, name: str, *, deferred: bool) -> Any:
        return look(self, logits, target, name, deferred=True)

    monkeypatch.setattr(ValueChecks, "look", on_a_device)
    logits = some_logits(EPOCHS, N)
    logits[0, 3] = torch.nan
    trainer = make_trainer(max_epochs=1, callbacks=[NoiseAccuracy(dirpath="run")], log_every_n_steps=100)
    with pytest.raises(ValueError, match="logits are not finite"):
        trainer.fit(Lookup(logits), noisy_loader(N))
    assert not Path("run").exists()


def test_a_part_without_samples_is_not_logged() -> None:
    trainer = make_trainer(max_epochs=1, callbacks=[NoiseAccuracy()])
    trainer.fit(looked_up(), DataLoader(noisy_points(N, rate=0.0), batch_size=4))
    assert "train_accuracy_all_true" in trainer.callback_metrics
    assert not [name for name in trainer.callback_metrics if "noisy" in name]


@pytest.mark.parametrize("every", [None, 1, 3])
def test_gaps_are_those_of_the_epochs_that_are_due(every: int | None) -> None:
    data, logits = noisy_points(N), some_logits(EPOCHS, N)
    callback = LogitGaps(dirpath="run", figures=False, every_n_epochs=every)
    make_trainer(max_epochs=EPOCHS, callbacks=[callback]).fit(looked_up(), DataLoader(data, batch_size=4, shuffle=True))
    rows = table(OUT / "train_logit_gaps.csv")
    assert sorted({row["epoch"] for row in rows}) == {None: [3], 1: [0, 1, 2, 3], 3: [2, 3]}[every]
    for epoch in sorted({int(row["epoch"]) for row in rows}):
        z = logits[epoch]
        gaps = logit_gap(z, data.targets), logit_gap(z, data.true_targets), logit_gap(z)
        expected = logit_gaps(*(gap.double().numpy() for gap in gaps), data.is_noisy.numpy()).table()
        for name, column in expected.items():
            assert [row[name] for row in rows if row["epoch"] == epoch] == pytest.approx(column, abs=1e-6)


@pytest.mark.parametrize("kind", [NoiseAccuracy, LogitGaps])
def test_a_clean_pass_asks_the_network_in_eval_mode(kind: Any) -> None:
    data, model = noisy_points(N), Watched(noise=True)
    options = {} if kind is NoiseAccuracy else {"figures": False}
    callback = kind(mode="eval", every_n_epochs=2, dirpath="run", **options)
    make_trainer(max_epochs=EPOCHS, callbacks=[callback]).fit(model, DataLoader(data, batch_size=4, shuffle=True))
    rows = table(OUT / f"train_{kind.title}.csv")
    assert sorted({row["epoch"] for row in rows}) == [1, 3]
    with torch.no_grad():
        z = model.eval()(torch.stack([data[index][0] for index in range(N)]))
    last = [row for row in rows if row["epoch"] == 3]
    if kind is NoiseAccuracy:
        expected = accuracies(z.argmax(dim=1), data.targets, data.true_targets)
        assert last[0]["accuracy"] == pytest.approx(expected["all_true"])
        assert last[3]["accuracy"] == pytest.approx(expected["noisy_label"])
    else:
        gaps = (logit_gap(z, data.targets), logit_gap(z, data.true_targets), logit_gap(z))
        expected = logit_gaps(*(gap.double().numpy() for gap in gaps), data.is_noisy.numpy()).table()
        assert [row["noisy_true"] for row in last] == pytest.approx(expected["noisy_true"], abs=1e-5)


@pytest.mark.parametrize("kind", [NoiseAccuracy, LogitGaps])
def test_data_without_true_labels_are_refused_before_the_first_step(kind: Any) -> None:
    model = Watched()
    with pytest.raises(ValueError, match=r"TensorDataset\) know none.*true_target\(index\).*NoisyLabels"):
        make_trainer(callbacks=[kind()]).fit(model, loader(N))
    assert model.seen == []


def test_data_of_which_some_have_true_labels_are_refused() -> None:
    mixed = ConcatDataset([noisy_points(N), points(5)])
    model = Watched()
    with pytest.raises(ValueError, match=rf"ConcatDataset\) do not know that of sample {N}\."):
        make_trainer(max_epochs=1, callbacks=[NoiseAccuracy()]).fit(model, DataLoader(mixed, batch_size=4))
    assert model.seen == []


# -- what all of them do -------------------------------------------------------------------------------------------


def trained(callbacks: list[Any], **options: Any) -> tuple[Any, ...]:
    pl.seed_everything(3, verbose=False)
    model = Watched(noise=True)
    trainer = make_trainer(max_epochs=2, callbacks=callbacks, **options)
    trainer.fit(model, noisy_loader(N, shuffle=True), loader(7, seed=1))
    drawn = random.random(), float(np.random.rand()), float(torch.rand(1))  # noqa: NPY002
    return model.state_dict(), drawn


def test_training_is_bit_for_bit_undisturbed() -> None:
    watchers = [
        *everything(),
        NoiseAccuracy(mode="eval", name="eval", dirpath="run"),
        LogitGaps(mode="eval", name="eval", every_n_epochs=1, dirpath="run"),
        FeatureProjection(every_n_epochs=1, samples_per_class=2, dirpath="run"),
    ]
    (weights, drawn), (plain, plainly) = trained(watchers), trained([])
    assert drawn == plainly
    assert all(value.equal(plain[name]) for name, value in weights.items())
    assert sorted(path.name for path in OUT.glob("*.csv")) == sorted(
        [*TABLES, "train_feature_projection.csv", "train_logit_gaps_eval.csv", "train_noise_accuracy_eval.csv"]
    )


@pytest.mark.parametrize("world", [2, 3])
def test_ranks_leave_what_one_process_leaves(world: int) -> None:
    for devices, folder in ((1, "one"), (world, "many")):
        strategy = "ddp_fork" if devices > 1 else "auto"
        trainer = make_trainer(
            max_epochs=2, devices=devices, strategy=strategy, callbacks=everything(dirpath=folder), logger=False
        )
        trainer.fit(looked_up(), noisy_loader(N, shuffle=True), loader(7, batch_size=2, seed=1))
    for name in TABLES:
        one, many = (table(Path(folder, "diagnostics", name)) for folder in ("one", "many"))
        assert len(one) == len(many) > 0
        for left, right in zip(one, many, strict=True):
            assert left.keys() == right.keys()
            for column, value in left.items():
                exact = isinstance(value, str) or value is None
                assert right[column] == (value if exact else pytest.approx(value, abs=1e-6, nan_ok=True)), (
                    name,
                    column,
                )


@pytest.mark.parametrize("epochs", [1, 2, 3])
def test_a_resumed_run_continues_the_tables(epochs: int) -> None:
    make_trainer(max_epochs=EPOCHS, callbacks=everything(dirpath="whole")).fit(
        looked_up(), noisy_loader(N), loader(7, seed=1)
    )
    first = make_trainer(max_epochs=epochs, callbacks=everything())
    model = looked_up()
    first.fit(model, noisy_loader(N), loader(7, seed=1))
    first.save_checkpoint("a.ckpt")
    again = looked_up()
    again.val_passes.update(model.val_passes)  # which row of the table a pass is given
    make_trainer(max_epochs=EPOCHS, callbacks=everything()).fit(
        again, noisy_loader(N), loader(7, seed=1), ckpt_path="a.ckpt"
    )
    for name in TABLES:
        assert table(OUT / name) == table(Path("whole/diagnostics", name)), name


@pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty")
def test_rows_of_an_epoch_that_is_run_again_are_replaced() -> None:
    """Killed in its third epoch after the second one's checkpoint: the third begins anew."""

    class Stop(pl.Callback):
        def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
            if trainer.current_epoch == 3:
                raise KeyboardInterrupt

    checkpoint = ModelCheckpoint("ck", save_top_k=-1, filename="{epoch}")
    trainer = make_trainer(max_epochs=EPOCHS, callbacks=[NoiseAccuracy(dirpath="run"), checkpoint, Stop()])
    with pytest.raises(SystemExit):
        trainer.fit(looked_up(), noisy_loader(N))
    before = table(OUT / "train_noise_accuracy.csv")
    assert {row["epoch"] for row in before} == {0, 1, 2}
    again = ModelCheckpoint("ck", save_top_k=-1, filename="{epoch}")
    make_trainer(max_epochs=3, callbacks=[NoiseAccuracy(dirpath="run"), again]).fit(
        looked_up(), noisy_loader(N), ckpt_path="ck/epoch=1.ckpt"
    )
    assert table(OUT / "train_noise_accuracy.csv") == before


def test_another_runs_tables_are_refused_before_the_first_step_and_stay() -> None:
    def fit(**options: Any) -> Watched:
        model = looked_up()
        make_trainer(max_epochs=1, callbacks=everything(**options)).fit(model, noisy_loader(N), loader(7, seed=1))
        return model

    fit()
    before = {name: (OUT / name).read_bytes() for name in TABLES}
    with pytest.raises(FileExistsError, match=r"from another run.*dirpath=.*overwrite=True"):
        fit()
    assert {name: (OUT / name).read_bytes() for name in TABLES} == before
    (OUT / TABLES[0]).write_text("epoch\n9\n")
    fit(overwrite=True)
    assert {name: (OUT / name).read_bytes() for name in TABLES} == before


def test_another_runs_table_of_a_second_loader_is_refused_too() -> None:
    OUT.mkdir(parents=True)
    (OUT / "val_1_winning_scores.csv").write_text("epoch\n9\n")
    (OUT / "val_1_winning_scores_mine.csv").write_text("epoch\n9\n")
    model = looked_up()
    with pytest.raises(FileExistsError, match=r"val_1_winning_scores\.csv: already there"):
        make_trainer(max_epochs=1, callbacks=[WinningScores(figures=False, dirpath="run")]).fit(
            model, noisy_loader(N), loader(7, seed=1)
        )
    assert [row for row in model.seen if row[0] == "train"] == []
    named = WinningScores(figures=False, dirpath="run", name="other")
    make_trainer(max_epochs=1, callbacks=[named]).fit(model, noisy_loader(N), loader(7, seed=1))
    assert len(list(OUT.glob("*.csv"))) == 3


class FirstRankOnly(Sampler[int]):
    """What a custom sampler may do: one rank gets everything."""

    def __iter__(self) -> Any:
        rank = torch.distributed.get_rank() if torch.distributed.is_initialized() else 0
        return iter(range(7) if rank == 0 else ())

    def __len__(self) -> int:
        return 7


def test_a_rank_without_a_batch_does_not_keep_the_others_waiting() -> None:
    val = DataLoader(points(7, seed=1), batch_size=7, sampler=FirstRankOnly())
    codes = run_ranks(2, fit_two_ranks, val)
    assert codes == [0, 0]
    assert sum(row["count"] for row in table(OUT / "val_winning_scores.csv")) == 7


def fit_two_ranks(val: Any) -> None:
    trainer = make_trainer(
        max_epochs=1,
        devices=2,
        strategy="ddp",
        callbacks=[WinningScores(figures=False, dirpath="run"), TemperatureScaling(figures=False, dirpath="run")],
        use_distributed_sampler=False,
        num_sanity_val_steps=0,
    )
    trainer.fit(Watched(), loader(8, batch_size=4), val)


def test_fast_dev_run_writes_nothing() -> None:
    trainer = make_trainer(callbacks=everything(), fast_dev_run=True)
    trainer.fit(looked_up(), noisy_loader(N), loader(7, seed=1))
    assert not Path("run").exists()


def test_the_default_place_is_the_loggers() -> None:
    from lightning.pytorch.loggers import CSVLogger

    callbacks = [NoiseAccuracy(), TemperatureScaling(figures=False)]
    trainer = make_trainer(max_epochs=1, callbacks=callbacks, logger=CSVLogger("logs"))
    trainer.fit(looked_up(), noisy_loader(N), loader(7, seed=1))
    assert sorted(path.name for path in Path(trainer.log_dir, "diagnostics").iterdir()) == [
        "train_noise_accuracy.csv",
        "val_calibration.csv",
    ]


def test_figures_are_drawn_where_no_logger_takes_them() -> None:
    callbacks = everything(figures=True, every_n_epochs=2)
    projection = FeatureProjection(samples_per_class=2, dirpath="run")
    trainer = make_trainer(max_epochs=EPOCHS, callbacks=[*callbacks, projection])
    trainer.fit(Watched(), noisy_loader(N), loader(7, seed=1))
    assert sorted(path.stem for path in OUT.glob("*.png")) == [
        "train_feature_projection-epoch-0003",
        "train_logit_gaps-epoch-0001",
        "train_logit_gaps-epoch-0003",
        "train_training_targets-epoch-0001",
        "train_training_targets-epoch-0003",
        "val_calibration-epoch-0003",  # of the last pass alone
        "val_winning_scores-epoch-0003",
    ]


def test_a_copy_of_a_trained_callback_can_be_pickled() -> None:
    import pickle

    callbacks = everything(figures=True)
    make_trainer(max_epochs=1, callbacks=callbacks).fit(looked_up(), noisy_loader(N), loader(7, seed=1))
    for callback in callbacks:
        assert pickle.loads(pickle.dumps(callback)).state_key == callback.state_key


def test_with_exact_resume_beside_it_a_checkpoint_loads_safely() -> None:
    trainer = make_trainer(max_epochs=1, callbacks=[*everything(), ExactResume()])
    trainer.fit(looked_up(), noisy_loader(N), loader(7, seed=1))
    trainer.save_checkpoint("a.ckpt")
    assert any("TemperatureScaling" in key for key in torch.load("a.ckpt", weights_only=True)["callbacks"])


# -- what is refused before the first step, and what is survived ---------------------------------------------------


def untrained(callbacks: list[Any], error: Any, match: str, data: Any = None, model: Any = None) -> None:
    model = Watched() if model is None else model
    data = noisy_loader(N) if data is None else data
    with pytest.raises(error, match=match):
        make_trainer(max_epochs=1, callbacks=callbacks).fit(model, data, loader(7, seed=1))
    assert [row for row in model.seen if row[0] == "train"] == []


def test_two_of_one_kind_need_names() -> None:
    untrained([NoiseAccuracy(), NoiseAccuracy(mode="eval")], ValueError, "two NoiseAccuracy .* same names.*name=")
    trainer = make_trainer(max_epochs=1, callbacks=[NoiseAccuracy(), NoiseAccuracy(mode="eval", name="eval")])
    trainer.fit(Watched(noise=True), noisy_loader(N))
    assert {"train_accuracy_all_true", "train_accuracy_all_true_eval"} <= set(trainer.callback_metrics)


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
        make_trainer(max_epochs=1, callbacks=[NoiseAccuracy(mode="eval")]).fit(Watched(), DataLoader(Named()))
    assert any("predict_step(batch, batch_idx) run" in note for note in caught.value.__notes__)


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

    callbacks = [NoiseAccuracy(mode="eval", dirpath="run"), FeatureProjection(samples_per_class=2, dirpath="run")]
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
    assert "LogitGaps: 28 bytes a train sample" in caplog.text
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
        training_cli(["fit", f"--trainer.callbacks.help=lightning_flip.{kind.__name__}"])
    text = capsys.readouterr().out
    for name in ("every_n_epochs", "figures", "dirpath", "overwrite", "name", "logits_from", "target_from"):
        assert f".{name} " in text
    assert ".val " not in text


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: NoiseAccuracy(every_n_epochs=0), "every_n_epochs must be at least 1"),
        (lambda: NoiseAccuracy(mode="train"), 'mode must be "visits" or "eval"'),
        (lambda: LogitGaps(mode="eval", logits_from=len), "logits_from must name a submodule"),
        (lambda: WinningScores(lowest=1.0), r"lowest must be in \[0, 1\)"),
        (lambda: WinningScores(bins=0), "bins must be at least 1"),
        (lambda: TrainingTargets(others=0), "others must be at least 1"),
        (lambda: FeatureProjection((1, 1, 2)), "three different classes"),
        (lambda: FeatureProjection((0, 1)), "three different classes"),
        (lambda: FeatureProjection((-1, 1, 2)), "three different classes"),
        (lambda: FeatureProjection(samples_per_class=0), "samples_per_class must be at least 1"),
        (lambda: TemperatureScaling(bins=0), "bins must be at least 1"),
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
        (lambda: WinningScores(bins=7.5), "bins"),
        (lambda: TrainingTargets(others=2.5), "others"),
        (lambda: FeatureProjection((0.5, 1.2, 2)), r"classes\[0\]"),
        (lambda: FeatureProjection(samples_per_class=2.0), "samples_per_class"),
        (lambda: TemperatureScaling(bins=2.5), "bins"),
        (lambda: TemperatureScaling(val_loader=0.5), "val_loader"),
    ],
)
def test_options_of_another_kind_are_named(make: Any, name: str) -> None:
    with pytest.raises(TypeError, match=rf"{name} must be a whole number"):
        make()
