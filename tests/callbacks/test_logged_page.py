"""docs/logged.md lists exactly the keys that every callback and the classifier log."""

from __future__ import annotations

import re
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

import lightning_flip.callbacks
from lightning_flip.callbacks import (
    Diagnostic,
    ExactResume,
    FeatureProjection,
    FlipTracker,
    LearningPath,
    LogitGaps,
    NegativeFlipMonitor,
    NoiseAccuracy,
    PredictionFilter,
    PredictionHistory,
    PredictionWriter,
    ReportWriter,
    TemperatureScaling,
    TrainingTargets,
    TransitionEstimator,
    WinningScores,
    ZigZag,
)
from lightning_flip.callbacks.log_keys import LoggingWatcher
from lightning_flip.models import MLP, Classifier
from tests.callbacks.helpers import CLASSES, Memory, loader, make_trainer, points
from tests.callbacks.noisy import noisy_loader

PAGE = Path(__file__).resolve().parents[2] / "docs" / "logged.md"


class Row(NamedTuple):
    """A key of the page."""

    owner: str
    is_figure: bool
    low: float
    high: float
    with_low: bool
    with_high: bool


def listed() -> dict[tuple[str, str], Row]:
    """Every row of the page's tables, by author and key."""
    found: dict[tuple[str, str], Row] = {}
    for section in PAGE.read_text(encoding="utf-8").split("\n## ")[1:]:
        lines = [line for line in section.splitlines() if line.startswith("|")]
        if not lines:
            continue
        header, rows = _cells(lines[0]), [_cells(line) for line in lines[2:]]
        for cells in rows:
            row = dict(zip(header, cells, strict=True))
            keys = re.findall(r"`([^`]+)`", row["key"])
            owner = row.get("callback", row.get("module", "")).strip("`")
            assert [key.split("_")[0] for key in keys] == row["split"].split(", "), keys
            assert row["meaning"], keys
            assert row["when"], keys
            bounds = re.fullmatch(r"([\[(])(\d+), (\d+|inf)([\])])", row.get("range", "[0, inf)"))
            assert bounds, row
            opening, low, high, closing = bounds.groups()
            for key in keys:
                assert (owner, key) not in found, key
                found[owner, key] = Row(
                    owner, "range" not in row, float(low), float(high), opening == "[", closing == "]"
                )
    return found


def _cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|").split("|")]


class WandbLogger(Memory):
    """Takes figures; Lightning's logger of that name is given the same."""

    def __init__(self) -> None:
        super().__init__()
        self.figures: list[str] = []

    def log_image(self, key: str, **_: Any) -> None:
        self.figures.append(key)


def every_callback() -> list[pl.Callback]:
    """One of each, with all that it can log."""
    torch.manual_seed(1)
    old = Classifier(MLP(5, CLASSES), num_classes=CLASSES)
    return [
        FlipTracker(train=True),
        NegativeFlipMonitor(old, train=True),
        PredictionHistory(),
        PredictionFilter(0.5),
        PredictionWriter(),
        ReportWriter(send_images=True),
        LearningPath(k=2),
        ZigZag(),
        TransitionEstimator("transition.npz", warmup_epochs=1),
        ExactResume(),
        NoiseAccuracy(),
        LogitGaps(every_n_epochs=1),
        FeatureProjection(every_n_epochs=1, samples_per_class=2),
        TrainingTargets(every_n_epochs=1),
        WinningScores(),
        TemperatureScaling(),
    ]


@pytest.fixture(scope="module")
def logged(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """What a fit, a validation and a test log with all callbacks together, and what each that logs does by itself."""
    together = run(every_callback(), tmp_path_factory.mktemp("together"))
    alone = {"Classifier": run([], tmp_path_factory.mktemp("alone"))}
    for place, callback in enumerate(filter(lambda one: isinstance(one, LoggingWatcher), every_callback())):
        alone[type(callback).__name__] = run([callback], tmp_path_factory.mktemp(f"alone-{place}"))
    return together, alone


def run(callbacks: list[pl.Callback], folder: Path) -> WandbLogger:
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # such as that T ends where the search ends: the keys are the test
        patch.chdir(folder)
        for module in ("callbacks.report_writer", "reports.pictures"):  # the samples are no pictures
            patch.setattr(f"lightning_flip.{module}.picture_of", lambda item: np.zeros((2, 2), np.uint8))
        torch.manual_seed(0)
        torch.set_num_threads(1)
        logger, model = WandbLogger(), Classifier(MLP(5, CLASSES), num_classes=CLASSES)
        trainer = make_trainer(max_epochs=2, callbacks=callbacks, logger=logger)
        trainer.fit(model, noisy_loader(12), loader(9, seed=1))
        trainer.validate(model, loader(9, seed=1), verbose=False)
        trainer.test(model, DataLoader(points(7, 2), batch_size=4), verbose=False)
    return logger


def keys_of(logger: WandbLogger) -> set[str]:
    return {key for metrics in logger.logged for key in metrics} - {"epoch"}


def test_every_callback_of_the_package_runs_here() -> None:
    exported = [getattr(lightning_flip.callbacks, name) for name in lightning_flip.callbacks.__all__]
    kinds = {kind for kind in exported if isinstance(kind, type) and issubclass(kind, pl.Callback)} - {Diagnostic}
    assert {type(callback) for callback in every_callback()} == kinds


def test_the_page_lists_all_that_is_logged_and_nothing_else(logged: Any) -> None:
    together, _ = logged
    rows = listed()
    assert keys_of(together) == {key for (_, key), row in rows.items() if not row.is_figure}
    assert set(together.figures) == {key for (_, key), row in rows.items() if row.is_figure}


def test_every_key_is_listed_under_its_author(logged: Any) -> None:
    _, alone = logged
    rows = listed()
    plain = keys_of(alone["Classifier"])
    assert plain == {key for owner, key in rows if owner == "Classifier"}
    for name, logger in alone.items():
        if name != "Classifier":
            mine = {(key, row.is_figure) for (owner, key), row in rows.items() if owner == name}
            found = {(key, False) for key in keys_of(logger) - plain} | {(key, True) for key in logger.figures}
            assert found == mine, name


def test_every_value_is_in_the_range_that_is_listed(logged: Any) -> None:
    together, _ = logged
    for (_, key), row in listed().items():
        for value in () if row.is_figure else together.values(key):
            assert row.low <= value <= row.high, key
            assert row.with_low or value > row.low, key
            assert row.with_high or value < row.high, key


def test_the_names_that_are_compared_beforehand_are_the_listed_ones() -> None:
    """``logs`` is what two callbacks are compared by when a fit begins."""
    rows = listed()
    for callback in every_callback():
        names = {
            key.partition("_")[2]
            for (owner, key), row in rows.items()
            if owner == type(callback).__name__ and not row.is_figure
        }
        assert names == set(getattr(callback, "logs", ())), callback
