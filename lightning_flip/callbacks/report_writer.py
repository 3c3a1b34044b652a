"""The report of a run and its main figures, while it trains."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from lightning.pytorch.utilities.seed import isolate_rng

from lightning_flip.callbacks._evaluation import training_data
from lightning_flip.callbacks.diagnostics._figure_logging import log_figure
from lightning_flip.callbacks.prediction_history import PredictionHistory
from lightning_flip.callbacks.run_folder import writes_files
from lightning_flip.reports.pictures import picture_of
from lightning_flip.reports.plots import plot_dataset_map, plot_flips, plot_suspects
from lightning_flip.steps.options import check_flags, check_whole
from lightning_flip.stores import read_history

__all__ = ["ReportWriter"]

_FILE = "report.html"


class ReportWriter(pl.Callback):
    """Writes the report of a run as ``report.html`` into its folder, and sends its main figures to the loggers.

    The numbers are those that :class:`~lightning_flip.callbacks.PredictionHistory` records: the Trainer needs one,
    before or after this callback. (Of several the first one counts.) A step costs nothing. The report of an epoch is
    written when the next one begins, so that all ranks have written their rows; the last one at the end of the fit.

    The figures are ``train_dataset_map``, ``val_flips`` (``train_flips`` if no validation was recorded) and, with
    ``send_images``, ``train_suspects``. TensorBoard, Weights & Biases and MLflow get them; without such a logger they
    are PNG files in the folder's ``diagnostics``. :func:`lightning_flip.reports.write_report` writes the same report
    later.

    A report or figure that fails is a warning, and training continues. ``fast_dev_run`` writes nothing.

    Args:
        every_n_epochs: how often; None: at the end of the fit alone.
        figures: whether to draw figures.
        send_images: also show pictures of the training samples, in the report and in a figure of suspicious labels.
            They leave with the file, and go to the loggers. The dataset is asked for its items.

    Attributes:
        path: the last report that was written; None before.

    Raises:
        ValueError: when a fit begins, if the Trainer has no ``PredictionHistory``, or another ``ReportWriter``.

    Example:
        >>> from lightning_flip.callbacks import PredictionHistory
        >>> callbacks = [PredictionHistory(), ReportWriter(every_n_epochs=5)]
    """

    def __init__(self, every_n_epochs: int | None = None, *, figures: bool = True, send_images: bool = False) -> None:
        check_whole(at_least=1, **({} if every_n_epochs is None else {"every_n_epochs": every_n_epochs}))
        check_flags(figures=figures, send_images=send_images)
        self.every_n_epochs = every_n_epochs
        self.figures = figures
        self.send_images = send_images
        self.path: Path | None = None
        self._due = False  # an epoch has ended, and its report is not written
        self._told: set[str] = set()

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Refuse a Trainer without the callback whose record is reported."""
        if stage != TrainerFn.FITTING:
            return
        callbacks: list[pl.Callback] = trainer.callbacks  # type: ignore[attr-defined]
        if _recorder(trainer) is None:
            raise ValueError(
                "ReportWriter reports what PredictionHistory records, and this Trainer has none. Add"
                " PredictionHistory() to callbacks=."
            )
        if any(isinstance(other, ReportWriter) and other is not self for other in callbacks):
            raise ValueError("two ReportWriter of this Trainer would write the same file. Keep one of them.")
        self.path, self._due, self._told = None, False, set()

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Remember that an epoch is due; other callbacks may not have written it yet."""
        self._due = self.every_n_epochs is not None and (trainer.current_epoch + 1) % self.every_n_epochs == 0

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Report the epoch before, if it is due."""
        if self._due:
            self._report(trainer)

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Report the whole fit, when every callback has written what it had, and before loggers are closed."""
        if stage == TrainerFn.FITTING:
            self._report(trainer)

    def _report(self, trainer: pl.Trainer) -> None:
        """Write and send on the first rank, when all ranks are here; no error of it stops the run."""
        self._due = False
        if not writes_files(trainer):
            return
        trainer.strategy.barrier("lightning_flip.ReportWriter")
        recorder = _recorder(trainer)
        if recorder is None or not trainer.is_global_zero:
            return
        folder = recorder.folder
        if folder is None:
            self._warn("PredictionHistory has recorded nothing")
            return
        with isolate_rng():  # a dataset may draw random numbers
            self._attempt("report", lambda: self._write(trainer, recorder, folder))

    def _write(self, trainer: pl.Trainer, recorder: PredictionHistory, folder: Path) -> None:
        """Write the report and send the figures, each by itself, if the folder is still this run's."""
        recorder._check_place()
        images = self._pictures(trainer, recorder) if self.send_images else None
        first = self.path is None
        self._attempt("report", lambda: self._write_page(folder, images))
        if first and self.path is not None:
            rank_zero_info(f"ReportWriter: the report is {self.path}")
        if self.figures:
            self._send(trainer, folder, images)

    def _pictures(self, trainer: pl.Trainer, recorder: PredictionHistory) -> Any:
        """The training data, if its first sample has a picture."""
        data = training_data(trainer, recorder.source)
        if data is None:
            self._warn("no pictures are shown: they need a training DataLoader over a map-style dataset")
            return None
        try:
            picture_of(data[0])
        except Exception as error:
            self._warn(f"no pictures are shown: {type(error).__name__}: {error}")
            return None
        return data

    def _write_page(self, folder: Path, images: Any) -> None:
        from lightning_flip.reports.page import write_report

        self.path = write_report([folder], folder / _FILE, images=images)

    def _send(self, trainer: pl.Trainer, folder: Path, images: Any) -> None:
        history = read_history(folder)
        flips = "val" if "val" in history.splits else "train"
        draw: dict[str, Callable[[], Any]] = {f"{flips}_flips": lambda: plot_flips(history, flips)}
        if "train" in history.splits:
            draw["train_dataset_map"] = lambda: plot_dataset_map(history)
            if images is not None:
                draw["train_suspects"] = lambda: plot_suspects(history, images=images)
        for name, figure in draw.items():
            path = folder / "diagnostics" / f"{name}.png"
            self._attempt(
                f"figure {name}",
                lambda name=name, figure=figure, path=path: log_figure(  # type: ignore[misc]
                    trainer, name, figure(), step=trainer.global_step, path=path
                ),
            )

    def _attempt(self, what: str, work: Callable[[], Any]) -> None:
        try:
            work()
        except Exception as error:  # the record is on disk, and a report can be written later
            self._warn(f"the {what} could not be written: {type(error).__name__}: {error}")

    def _warn(self, text: str) -> None:
        if text not in self._told:
            self._told.add(text)
            rank_zero_warn(f"ReportWriter: {text}")


def _recorder(trainer: pl.Trainer) -> PredictionHistory | None:
    callbacks: list[pl.Callback] = trainer.callbacks  # type: ignore[attr-defined]
    return next((callback for callback in callbacks if isinstance(callback, PredictionHistory)), None)
