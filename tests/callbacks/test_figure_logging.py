"""Figures reach the loggers that take them; what W&B and MLflow are given here was tried on the real ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pytest
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from lightning.pytorch.loggers.logger import Logger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lightning_flip.callbacks.diagnostics._figure_logging import log_figure
from lightning_flip.reports.figures.canvas import new_figure


class Recorder(Logger):
    """What a logger must have."""

    name = version = "recorder"

    def __init__(self) -> None:
        super().__init__()
        self.given: list[Any] = []

    def log_metrics(self, *args: Any, **kwargs: Any) -> None: ...

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None: ...


class WandbLogger(Recorder):
    """Called as Lightning's is, whose package need not be there."""

    def log_image(self, key: str, images: list[Any], step: int | None = None, **kwargs: Any) -> None:
        self.given.append((key, images, step))


class MLFlowLogger(Recorder):
    """The same."""

    run_id = "a-run"

    @property
    def experiment(self) -> MLFlowLogger:
        return self

    def log_figure(self, run_id: str, figure: Any, artifact_file: str) -> None:
        self.given.append((run_id, figure, artifact_file))


def trainer_with(*loggers: Any) -> pl.Trainer:
    return pl.Trainer(logger=list(loggers) or False, accelerator="cpu", enable_progress_bar=False)


@pytest.fixture
def figure() -> Any:
    made = new_figure(3, 2)
    made.subplots().plot([1, 2, 3])
    return made


def test_tensorboard_gets_the_picture_under_its_name(figure: Any, tmp_path: Path) -> None:
    logger = TensorBoardLogger(tmp_path)
    assert log_figure(trainer_with(logger), "gaps", figure, step=7, path=Path("a.png")) == ["TensorBoardLogger"]
    logger.finalize("success")
    events = EventAccumulator(logger.log_dir).Reload()
    (found,) = events.Images("gaps")
    assert found.step == 7
    assert found.encoded_image_string.startswith(b"\x89PNG")
    assert not Path("a.png").exists()


def test_wandb_gets_pixels_and_mlflow_the_figure(figure: Any) -> None:
    wandb, mlflow = WandbLogger(), MLFlowLogger()
    took = log_figure(trainer_with(wandb, mlflow), "gaps", figure, step=7, path=Path("a.png"))
    assert took == ["WandbLogger", "MLFlowLogger"]
    ((key, (pixels,), step),) = wandb.given
    assert (key, step, pixels.dtype, pixels.shape[2]) == ("gaps", 7, np.uint8, 4)
    assert len(np.unique(pixels[..., 0])) > 5  # something is drawn
    assert mlflow.given == [("a-run", figure, "figures/gaps-7.png")]
    assert not Path("a.png").exists()


def test_a_subclass_of_a_logger_counts(figure: Any) -> None:
    class Ours(WandbLogger):
        """Somebody's own."""

    assert log_figure(trainer_with(Ours()), "gaps", figure, step=0, path=Path("a.png")) == ["WandbLogger"]


@pytest.mark.parametrize("loggers", [(), ("csv",), ("unknown",)])
def test_else_it_is_a_file(loggers: Any, figure: Any, tmp_path: Path) -> None:
    made = [CSVLogger(tmp_path) if name == "csv" else Recorder() for name in loggers]
    path = tmp_path / "deep" / "gaps.png"
    assert log_figure(trainer_with(*made), "gaps", figure, step=0, path=path) == [str(path)]
    assert path.read_bytes().startswith(b"\x89PNG")
    figure.axes[0].plot([3, 2, 1])
    before = path.read_bytes()
    log_figure(trainer_with(*made), "gaps", figure, step=1, path=path)
    assert path.read_bytes() != before
    assert [file.name for file in path.parent.iterdir()] == ["gaps.png"]
