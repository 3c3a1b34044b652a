"""What the scripts of this folder share: options, a progress bar, training and measuring as a file says, a table."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.cli import LightningCLI
from rich.box import SIMPLE
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text
from torch import Tensor

from lightning_flip.callbacks import TransitionEstimator
from lightning_flip.cli import training_cli
from lightning_flip.data import NoisyLabels
from lightning_flip.reports import Spread
from lightning_flip.reports.runs._rates import expected_calibration_error

CONFIGS = Path(__file__).resolve().parent


def positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {number}")
    return number


def common_options(description: str | None, fits_of: str, *, seeds: bool = True) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=positive, default=30, help="epochs of each fit (default: %(default)s)")
    if seeds:
        parser.add_argument("--seeds", type=positive, default=3, help=f"fits of each {fits_of} (default: %(default)s)")
    parser.add_argument("--markdown", action="store_true", help="print tables as Markdown")
    return parser


def on_one_quiet_thread() -> None:
    # Lightning tells of devices and seeds at every fit; warnings stay.
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    torch.set_num_threads(1)  # at this size threads wait for each other more than they compute


def progress_bar(console: Console) -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(None), TextColumn("{task.fields[where]}"))
    return Progress(*columns, TimeRemainingColumn(), console=console, expand=True)


class EpochsOnBar(pl.Callback):
    def __init__(self, bar: Progress, fits: int, epochs: int) -> None:
        self.bar = bar
        self.fits = fits
        self.fit = 0
        self.epochs = epochs
        self.task = bar.add_task("", total=fits * epochs, where="")

    def announce(self, name: str, seed: int) -> None:
        self.fit += 1
        self.bar.update(self.task, description=f"fit {self.fit} of {self.fits}: {name}, seed {seed}")

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.bar.advance(self.task)
        self.bar.update(self.task, where=f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}")

    def finish(self) -> None:
        self.bar.update(self.task, description=f"{self.fits} fits", where=f"{self.epochs} epochs each")


def train(
    config: str,
    folder: Path,
    seed: int,
    epochs: int,
    progress: pl.Callback,
    options: Sequence[str] = (),
    watchers: Sequence[pl.Callback] = (),
) -> LightningCLI:
    """Fit as the configuration says, but for its callbacks: only what estimates a transition stays, others may come."""
    cli = training_cli(
        [
            f"--config={CONFIGS / config}.yaml",
            f"--seed_everything={seed}",
            f"--trainer.max_epochs={epochs}",
            f"--model.init_args.lr_scheduler.init_args.T_max={epochs}",
            f"--trainer.default_root_dir={folder}",
            "--trainer.logger=false",
            "--trainer.limit_val_batches=0",
            "--trainer.enable_checkpointing=false",
            "--trainer.enable_model_summary=false",
            "--trainer.enable_progress_bar=false",
            *options,
        ],
        run=False,
        save_config_callback=None,
    )
    estimators = [callback for callback in cli.trainer.callbacks if isinstance(callback, TransitionEstimator)]
    for estimator in estimators:
        estimator.path, estimator.overwrite = folder / "transition.npz", True
        estimator.warmup_epochs = min(estimator.warmup_epochs, epochs)
    cli.trainer.callbacks = [*estimators, *watchers, progress]
    cli.trainer.fit(cli.model, datamodule=cli.datamodule)
    return cli


def measure(model: pl.LightningModule, data: Any) -> dict[str, float]:
    """Percentages: accuracy on the clean test split, on training labels by whether they are right, and ECE."""
    train_set = data.train_set
    assert isinstance(train_set, NoisyLabels)
    probs = predict(model, train_set)
    pred, noisy = probs.argmax(dim=1), train_set.is_noisy
    test = predict(model, data.test_set)
    labels = torch.tensor([int(label) for _, label in data.test_set])
    correct = test.argmax(dim=1) == labels
    shares = {
        "test": correct,
        "right": (pred == train_set.noisy_targets)[~noisy],
        "wrong": (pred == train_set.noisy_targets)[noisy],
        "true": (pred == train_set.true_targets)[noisy],
    }
    result = {name: 100 * float(share.double().mean()) for name, share in shares.items()}
    return result | {"ece": 100 * expected_calibration_error(test.amax(dim=1).double().numpy(), correct.numpy())}


@torch.no_grad()
def predict(model: pl.LightningModule, dataset: Any) -> Tensor:
    images = torch.stack([image for image, _ in dataset])
    probs: Tensor = model.eval()(images.to(model.device)).softmax(dim=1).cpu()
    return probs


def spread(values: Iterable[float]) -> str:
    found = Spread.over(list(values))
    assert found is not None
    return f"{found.mean:.1f}" + ("" if found.std is None else f" ± {found.std:.1f}")


def print_table(header: Sequence[str], rows: Sequence[Sequence[str]], console: Console, markdown: bool) -> None:
    if markdown:
        lines = [header, [":---", *["---:"] * (len(header) - 1)], *rows]
        console.print(Text("\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"), soft_wrap=True)
        return
    table = Table(box=SIMPLE, pad_edge=False, show_edge=False, padding=(0, 1, 0, 0))
    table.add_column(header[0], no_wrap=True)
    for title in header[1:]:
        table.add_column(title, justify="right")
    for cells in rows:
        table.add_row(*cells)
    console.print(table)
    console.print()
