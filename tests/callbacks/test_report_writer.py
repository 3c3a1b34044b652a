"""Reports and figures while a model trains: when, of what, where to, and what happens if they fail."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils.data import DataLoader, Dataset

from lightning_flip.callbacks import PredictionHistory, ReportWriter
from lightning_flip.reports import page
from lightning_flip.stores import read_history
from tests.callbacks.helpers import Memory, Watched, loader, make_trainer, points, run_ranks


class Seen:
    """Stands for the report, and notes what was on disk when it was written."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.passes: list[dict[str, list[tuple[int, int]]]] = []
        self.images: list[Any] = []
        self.original = page.write_report
        monkeypatch.setattr(page, "write_report", self)

    def __call__(self, runs: list[Path], out: Path, *, images: Any = None) -> Path:
        (folder,) = runs
        history = read_history(folder)
        self.passes.append({split: history.passes(split) for split in history.splits})
        self.images.append(images)
        return self.original(runs, out, images=images)

    def epochs(self, split: str = "train") -> list[int]:
        """Of each report, how many epochs it has."""
        return [len({epoch for epoch, _ in passes.get(split, [])}) for passes in self.passes]


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> Seen:
    return Seen(monkeypatch)


def fit(*callbacks: pl.Callback, model: pl.LightningModule | None = None, val: bool = True, **options: Any) -> Any:
    trainer = make_trainer(callbacks=list(callbacks), **options)
    trainer.fit(model or Watched(), loader(12), loader(8, seed=1) if val else None)
    return trainer


@pytest.mark.parametrize("first", [True, False])
def test_every_nth_epoch_and_the_end_are_reported_wherever_the_callback_is(first: bool, seen: Seen) -> None:
    both = [ReportWriter(every_n_epochs=2), PredictionHistory("run")]
    fit(*(both if first else both[::-1]), max_epochs=5)
    assert seen.epochs() == seen.epochs("val") == [2, 4, 5]
    text = Path("run/report.html").read_text(encoding="utf-8")
    assert "<html" in text
    writer = both[0]
    assert isinstance(writer, ReportWriter)
    assert writer.path == Path("run/report.html").absolute()


def test_by_default_the_end_alone_is_reported(seen: Seen) -> None:
    fit(ReportWriter(figures=False), PredictionHistory("run"), max_epochs=3)
    assert seen.epochs() == [3]
    assert not Path("run/diagnostics").exists()


def test_a_step_costs_nothing() -> None:
    steps = {"on_train_batch_start", "on_train_batch_end", "on_before_backward", "on_before_optimizer_step"}
    assert not steps & set(vars(ReportWriter))


class TestFigures:
    def test_without_a_logger_that_takes_them_they_are_files_whose_folder_is_printed_once(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        with caplog.at_level(logging.INFO):
            fit(ReportWriter(every_n_epochs=1), PredictionHistory("run"), max_epochs=3)
        names = sorted(path.name for path in Path("run/diagnostics").iterdir())
        assert names == ["train_dataset_map.png", "val_flips.png"]
        told = [line for line in caplog.messages if "PNG files in" in line]
        assert len(told) == 1
        assert str(Path("run/diagnostics").absolute()) in told[0]
        assert len([line for line in caplog.messages if "report.html" in line]) == 1

    def test_tensorboard_gets_them_at_every_report(self, tmp_path: Path) -> None:
        logger = TensorBoardLogger(tmp_path)
        fit(ReportWriter(every_n_epochs=2), PredictionHistory("run"), max_epochs=3, logger=logger)
        events = EventAccumulator(logger.log_dir).Reload()
        assert sorted(events.Tags()["images"]) == ["train_dataset_map", "val_flips"]
        assert [event.step for event in events.Images("val_flips")] == [6, 9]
        assert not Path("run/diagnostics").exists()

    @pytest.mark.filterwarnings("ignore:You defined a `validation_step`")
    def test_without_validation_flips_are_those_of_training(self) -> None:
        fit(ReportWriter(), PredictionHistory("run"), val=False)
        assert Path("run/diagnostics/train_flips.png").exists()
        assert Path("run/report.html").exists()

    def test_without_training_rows_there_is_no_map(self) -> None:
        fit(ReportWriter(), PredictionHistory("run", train=False))
        assert [path.name for path in Path("run/diagnostics").iterdir()] == ["val_flips.png"]


class Drawn(Dataset[Any]):
    """Pictures that are drawn at random each time, as an augmentation does."""

    def __init__(self) -> None:
        self.points = points(12)

    def __len__(self) -> int:
        return 12

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        x, y = self.points[index]
        return torch.cat([x, torch.rand(1)]).reshape(1, 2, 3), y


class Flat(Watched):
    """Takes pictures."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x.flatten(1)[:, :5])

    def note(self, *args: Any) -> None:
        pass


@pytest.mark.filterwarnings("ignore:You defined a `validation_step`")
class TestPictures:
    def run(self, *callbacks: pl.Callback) -> list[torch.Tensor]:
        torch.manual_seed(3)
        model = Flat()
        trainer = make_trainer(callbacks=list(callbacks), max_epochs=3)
        trainer.fit(model, DataLoader(Drawn(), 4, shuffle=True))
        return [weight.detach().clone() for weight in model.parameters()]

    def test_they_are_sent_only_if_asked_for(self, seen: Seen) -> None:
        self.run(ReportWriter(), PredictionHistory("run"))
        assert seen.images == [None]
        assert not Path("run/diagnostics/train_suspects.png").exists()

    def test_they_are_those_of_the_training_data_and_training_does_not_notice(self, seen: Seen) -> None:
        plain = self.run(PredictionHistory("plain"))
        sent = self.run(ReportWriter(every_n_epochs=1, send_images=True), PredictionHistory("run"))
        assert all(torch.equal(one, other) for one, other in zip(plain, sent, strict=True))
        assert [type(images) for images in seen.images] == [Drawn] * 3
        assert Path("run/diagnostics/train_suspects.png").exists()

    def test_data_without_pictures_are_a_warning(self) -> None:
        with pytest.warns(UserWarning, match="no pictures are shown: TypeError: images must give a picture") as caught:
            fit(ReportWriter(every_n_epochs=1, send_images=True), PredictionHistory("run"))
        assert len([one for one in caught if "no pictures" in str(one.message)]) == 1
        assert Path("run/report.html").exists()
        names = sorted(path.name for path in Path("run/diagnostics").iterdir())
        assert names == ["train_dataset_map.png", "val_flips.png"]


class TestFailures:
    def test_a_report_that_fails_is_one_warning_and_training_goes_on(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def broken(*args: Any, **kwargs: Any) -> None:
            raise OSError("the disk is full")

        monkeypatch.setattr(page, "write_report", broken)
        model = Watched()
        with pytest.warns(UserWarning, match="report could not be written: OSError: the disk is full") as caught:
            trainer = fit(ReportWriter(every_n_epochs=1), PredictionHistory("run"), model=model)
        assert len([one for one in caught if "disk is full" in str(one.message)]) == 1
        assert trainer.current_epoch == 3
        assert Path("run/diagnostics/val_flips.png").exists()
        assert read_history("run").passes("train") == [(0, 0), (1, 0), (2, 0)]

    def test_a_report_of_another_hand_is_not_replaced(self) -> None:
        Path("run").mkdir()
        Path("run/report.html").write_text("mine", encoding="utf-8")
        with pytest.warns(UserWarning, match="FileExistsError"):
            fit(ReportWriter(), PredictionHistory("run"))
        assert Path("run/report.html").read_text(encoding="utf-8") == "mine"

    def test_a_folder_that_is_gone_is_a_warning(self, monkeypatch: pytest.MonkeyPatch) -> None:
        class Lost(pl.Callback):
            def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
                Path("run/run.json").unlink()

        with pytest.warns(UserWarning, match=r"ClaimLostError: .*run\.json is gone"):
            fit(ReportWriter(), PredictionHistory("run"), Lost())
        assert not Path("run/report.html").exists()

    def test_a_fit_without_epochs_has_nothing_to_report(self) -> None:
        with pytest.warns(UserWarning, match="ReportWriter: "):
            fit(ReportWriter(), PredictionHistory("run"), max_epochs=0)


class TestRefusals:
    def test_without_a_history_the_way_out_is_named(self) -> None:
        with pytest.raises(ValueError, match=r"Add PredictionHistory\(\) to callbacks="):
            fit(ReportWriter())

    def test_two_would_write_the_same_file(self) -> None:
        with pytest.raises(ValueError, match="two ReportWriter"):
            fit(ReportWriter(), ReportWriter(), PredictionHistory("run"))

    @pytest.mark.parametrize(
        ("options", "kind"),
        [({"every_n_epochs": 0}, ValueError), ({"every_n_epochs": 1.5}, TypeError), ({"send_images": "no"}, TypeError)],
    )
    def test_options(self, options: dict[str, Any], kind: type[Exception]) -> None:
        with pytest.raises(kind, match=next(iter(options))):
            ReportWriter(**options)


class TestStages:
    def test_a_fast_dev_run_writes_nothing(self, seen: Seen) -> None:
        fit(ReportWriter(every_n_epochs=1), PredictionHistory(), fast_dev_run=True)
        assert seen.passes == []
        assert list(Path().rglob("*.html")) == []

    def test_neither_the_sanity_check_nor_a_validation_is_reported(self, seen: Seen) -> None:
        trainer = fit(ReportWriter(every_n_epochs=1), PredictionHistory("run"), max_epochs=1, num_sanity_val_steps=2)
        assert seen.epochs() == [1]
        trainer.validate(Watched(), loader(8, seed=1), verbose=False)
        assert seen.epochs() == [1]

    def test_overfitting_one_batch(self, seen: Seen) -> None:
        trainer = make_trainer(callbacks=[ReportWriter(), PredictionHistory("run")], overfit_batches=1)
        trainer.fit(Watched(), loader(12), loader(12))
        assert seen.epochs() == [3]

    @pytest.mark.filterwarnings("ignore:Checkpoint directory")
    def test_a_resumed_fit_continues_the_report(self, seen: Seen) -> None:
        def callbacks() -> list[pl.Callback]:
            saver = ModelCheckpoint("saved", save_top_k=-1)
            return [ReportWriter(every_n_epochs=2), PredictionHistory("run"), saver]

        fit(*callbacks(), max_epochs=3)
        assert seen.epochs() == [2, 3]
        last = sorted(Path("saved").glob("*.ckpt"))[-1]
        trainer = make_trainer(callbacks=callbacks(), max_epochs=5)
        trainer.fit(Watched(), loader(12), loader(8, seed=1), ckpt_path=last)
        assert seen.epochs() == [2, 3, 4, 5]

    def test_a_second_fit_of_the_trainer_is_reported(self, seen: Seen) -> None:
        trainer = fit(ReportWriter(), PredictionHistory("run"), max_epochs=2)
        trainer.fit_loop.max_epochs = 3
        trainer.fit(trainer.lightning_module, loader(12), loader(8, seed=1))
        assert seen.epochs() == [2, 3]

    def test_an_exception_is_the_users_own(self, seen: Seen) -> None:
        class Broken(Watched):
            def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
                if self.trainer.current_epoch == 2:
                    raise RuntimeError("the user's own")
                return super().training_step(batch, batch_idx)

        with pytest.raises(RuntimeError, match="the user's own"):
            fit(ReportWriter(every_n_epochs=1), PredictionHistory("run"), model=Broken())
        assert seen.epochs() == [1, 2]


def fit_as_rank(folder: str, first: bool) -> None:
    both = [ReportWriter(every_n_epochs=1), PredictionHistory(folder)]
    counted = []
    original = page.write_report

    def count(runs: list[Path], out: Path, **options: Any) -> Path:
        counted.append([len(rows.position) for rows in read_history(runs[0]).visits("train")])
        return original(runs, out, **options)

    page.write_report = count  # type: ignore[assignment]
    trainer = make_trainer(callbacks=both if first else both[::-1], devices=2, strategy="ddp", max_epochs=3)
    trainer.fit(Watched(), loader(12), loader(8, seed=1))
    np.save(Path(folder, f"counted-{trainer.global_rank}.npy"), np.array([len(one) for one in counted]))
    np.save(Path(folder, f"rows-{trainer.global_rank}.npy"), np.array([sum(one) for one in counted]))


@pytest.mark.parametrize("first", [True, False])
def test_the_first_of_two_ranks_reports_the_rows_of_both(first: bool, tmp_path: Path) -> None:
    assert run_ranks(2, fit_as_rank, str(tmp_path / "run"), first) == [0, 0]
    assert np.load(tmp_path / "run" / "counted-0.npy").tolist() == [1, 2, 3]
    assert np.load(tmp_path / "run" / "rows-0.npy").tolist() == [12, 24, 36]
    assert np.load(tmp_path / "run" / "counted-1.npy").tolist() == []
    assert (tmp_path / "run" / "report.html").exists()


def test_figures_reach_a_logger_that_takes_pictures() -> None:
    class WandbLogger(Memory):
        """Called as Lightning's is."""

        def __init__(self) -> None:
            super().__init__()
            self.figures: list[str] = []

        def log_image(self, key: str, **_: Any) -> None:
            self.figures.append(key)

    logger = WandbLogger()
    fit(ReportWriter(every_n_epochs=1), PredictionHistory("run"), max_epochs=2, logger=logger)
    assert logger.figures == ["val_flips", "train_dataset_map"] * 2
