"""What the scripts in these folders share: options, quiet fits of configurations, a progress bar, numbers, tables."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
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

from lightning_flip.cli import training_cli
from lightning_flip.data import NoisyLabels
from lightning_flip.reports import Spread, reliability


def positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {number}")
    return number


def common_options(
    description: str | None, out: str, *, holds: str = "where to record", seeds: str = "", markdown: bool = True
) -> argparse.ArgumentParser:
    """``--epochs`` and ``--out``, whose folder ``holds`` something; ``--seeds`` if it is said what they are of."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=positive, default=30, help="epochs of each fit (default: %(default)s)")
    if seeds:
        parser.add_argument("--seeds", type=positive, default=3, help=f"{seeds} (default: %(default)s)")
    if markdown:
        parser.add_argument("--markdown", action="store_true", help="print tables as Markdown")
    parser.add_argument(
        "--out", type=Path, default=Path(out), help=f"{holds}; replaced if there (default: %(default)s)"
    )
    return parser


def on_one_quiet_thread() -> None:
    # Lightning logs devices and seeds at every fit; warnings stay.
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    torch.set_num_threads(1)  # at this size threads wait for each other more than they compute


class EpochsOnBar(pl.Callback):
    """One bar for the epochs of all fits."""

    def __init__(self, bar: Progress, fits: int, epochs: int) -> None:
        self.bar = bar
        self.fits = fits
        self.fit = 0
        self.task = bar.add_task("", total=fits * epochs, where="")

    def __deepcopy__(self, memo: dict[int, object]) -> EpochsOnBar:
        return self  # weight averaging copies the module with its Trainer, and a terminal has no copies

    def announce(self, name: str, number: int, counted: str = "seed") -> None:
        self.fit += 1
        self.bar.update(self.task, description=f"fit {self.fit} of {self.fits}: {name}, {counted} {number}")

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.bar.advance(self.task)
        self.bar.update(self.task, where=f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}")


@contextmanager
def progress_bar(console: Console, fits: int, epochs: int) -> Iterator[EpochsOnBar]:
    columns = (TextColumn("{task.description}"), BarColumn(None), TextColumn("{task.fields[where]}"))
    with Progress(*columns, TimeRemainingColumn(), console=console, expand=True) as bar:
        progress = EpochsOnBar(bar, fits, epochs)
        yield progress
        bar.update(progress.task, description=f"{fits} fits", where=f"{epochs} epochs each")


def build(config: Path, *options: str) -> LightningCLI:
    """Trainer, model and data of a configuration, ready to be fitted."""
    return training_cli([f"--config={config}", *options], run=False, save_config_callback=None)


def build_quiet(config: Path, epochs: int, *options: str) -> LightningCLI:
    """The same for a number of epochs, without loggers and messages."""
    return build(
        config,
        f"--trainer.max_epochs={epochs}",
        f"--model.init_args.lr_scheduler.init_args.T_max={epochs}",
        "--trainer.logger=false",
        "--trainer.enable_model_summary=false",
        "--trainer.enable_progress_bar=false",
        *options,
    )


def measure(model: pl.LightningModule, data: Any) -> dict[str, float]:
    """Percentages: accuracy on the clean test split, on training labels by whether they are right, and ECE."""
    train_set = data.train_set
    assert isinstance(train_set, NoisyLabels)
    pred, noisy = predict(model, train_set).argmax(dim=1), train_set.is_noisy
    test = predict(model, data.test_set)
    correct = test.argmax(dim=1) == torch.tensor([int(label) for _, label in data.test_set])
    shares = {
        "test": correct,
        "right": (pred == train_set.noisy_targets)[~noisy],
        "wrong": (pred == train_set.noisy_targets)[noisy],
        "true": (pred == train_set.true_targets)[noisy],
    }
    result = {name: 100 * float(share.double().mean()) for name, share in shares.items()}
    return result | {"ece": 100 * reliability(test.amax(dim=1).double().numpy(), correct.numpy()).calibration_error}


@torch.no_grad()
def predict(model: pl.LightningModule, dataset: Any) -> Tensor:
    images = torch.stack([image for image, _ in dataset])
    probs: Tensor = model.eval()(images.to(model.device)).softmax(dim=1).cpu()
    return probs


def spread(values: Iterable[float], digits: int = 1, unit: str = "") -> str:
    """Mean ± sample standard deviation, or the only value."""
    found = Spread.over(list(values))
    assert found is not None
    return f"{found.mean:.{digits}f}" + ("" if found.std is None else f" ± {found.std:.{digits}f}") + unit


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


def from_here(path: Path) -> Path:
    """A path as one would type it in the current folder."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def our_command() -> Path:
    """`lightning-flip` of the environment that runs this, which need not be activated."""
    return from_here(Path(sys.executable).with_name("lightning-flip"))


def print_lines(lines: Iterable[str], console: Console) -> None:
    console.print(Text("\n".join(lines)), soft_wrap=True)  # a folded command could not be copied
