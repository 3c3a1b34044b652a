"""What diagnostics share, and what they say of wrong labels: tables against loops, ranks, resumption, refusals."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.utils.data import ConcatDataset, DataLoader, Sampler

from lightning_flip.callbacks import (
    ExactResume,
    FeatureProjection,
    LogitGaps,
    NoiseAccuracy,
    TemperatureScaling,
    TrainingTargets,
    WinningScores,
)
from lightning_flip.functional import logit_gap
from lightning_flip.reports.figures.noise import logit_gaps
from lightning_flip.steps.checks import ValueChecks
from tests.callbacks.helpers import (
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
    scores = WinningScores(figures=False, dirpath="run", every_n_epochs=2)  # the first pass is not described
    callbacks = [LogitGaps(figures=False, dirpath="run"), scores]
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

    def on_a_device(self: Any, *args: Any, **options: Any) -> Any:
        return look(self, *args, **options | {"deferred": True})

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
    callback = kind(passes="eval", every_n_epochs=2, dirpath="run", **options)
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
        NoiseAccuracy(passes="eval", prefix="eval_", dirpath="run"),
        LogitGaps(passes="eval", name="eval", every_n_epochs=1, dirpath="run"),
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
