"""Five losses on digits of which 40% carry a wrong training label: what each learns of the right and the wrong ones.

Every fit is `lightning-flip fit --config examples/noise/<loss>.yaml` with another seed, without the recording.
"""

from __future__ import annotations

import argparse
import logging
import time
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from rich.box import SIMPLE
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text
from torch import Tensor

from lightning_flip.callbacks import TransitionEstimator
from lightning_flip.cli import training_cli
from lightning_flip.data import NoisyLabels
from lightning_flip.functional import symmetric_transition
from lightning_flip.reports import Spread
from lightning_flip.reports.rates import expected_calibration_error

CONFIGS = Path(__file__).resolve().parent
LOSSES = {
    "standard": "standard",
    "label smoothing": "label_smoothing",
    "forward correction": "forward",
    "forward, estimated": "estimated",
    "backward correction": "backward",
}
COLUMNS = {
    "test": "test acc",
    "right": "right labels: learned",
    "wrong": "wrong labels: learned",
    "true": "wrong labels: undone",
    "ece": "ECE",
}


def positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {number}")
    return number


class EpochsOnBar(pl.Callback):
    def __init__(self, bar: Progress, fits: int, epochs: int) -> None:
        self.bar = bar
        self.task = bar.add_task("", total=fits * epochs, where="")

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.bar.advance(self.task)
        self.bar.update(self.task, where=f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}")


def fit(
    name: str, folder: Path, seed: int, epochs: int, progress: pl.Callback
) -> tuple[dict[str, float], float | None]:
    """Train, and measure; beside the numbers, how far an estimated transition is off."""
    cli = training_cli(
        [
            f"--config={CONFIGS / name}.yaml",
            f"--seed_everything={seed}",
            f"--trainer.max_epochs={epochs}",
            f"--model.init_args.lr_scheduler.init_args.T_max={epochs}",
            f"--trainer.default_root_dir={folder}",
            "--trainer.logger=false",
            "--trainer.limit_val_batches=0",
            "--trainer.enable_checkpointing=false",
            "--trainer.enable_model_summary=false",
            "--trainer.enable_progress_bar=false",
        ],
        run=False,
        save_config_callback=None,
    )
    estimators = [callback for callback in cli.trainer.callbacks if isinstance(callback, TransitionEstimator)]
    for estimator in estimators:
        estimator.overwrite, estimator.warmup_epochs = True, min(estimator.warmup_epochs, epochs)
    cli.trainer.callbacks = [*estimators, progress]
    cli.trainer.fit(cli.model, datamodule=cli.datamodule)
    off = None
    for estimator in estimators:
        assert estimator.transition is not None
        off = float((estimator.transition - symmetric_transition(10, cli.datamodule.noise_rate)).abs().mean())
    return measure(cli.model, cli.datamodule), off


def measure(model: pl.LightningModule, data: Any) -> dict[str, float]:
    """Percentages: accuracy on the clean test split, on training labels by whether they are right, and ECE."""
    train = data.train_set
    assert isinstance(train, NoisyLabels)
    probs = predict(model, train)
    pred, noisy = probs.argmax(dim=1), train.is_noisy
    test = predict(model, data.test_set)
    labels = torch.tensor([int(label) for _, label in data.test_set])
    correct = test.argmax(dim=1) == labels
    shares = {
        "test": correct,
        "right": (pred == train.noisy_targets)[~noisy],
        "wrong": (pred == train.noisy_targets)[noisy],
        "true": (pred == train.true_targets)[noisy],
    }
    result = {name: 100 * float(share.double().mean()) for name, share in shares.items()}
    return result | {"ece": 100 * expected_calibration_error(test.amax(dim=1).double().numpy(), correct.numpy())}


@torch.no_grad()
def predict(model: pl.LightningModule, dataset: Any) -> Tensor:
    images = torch.stack([image for image, _ in dataset])
    probs: Tensor = model.eval()(images.to(model.device)).softmax(dim=1).cpu()
    return probs


def train_all(
    out: Path, seeds: int, epochs: int, console: Console
) -> tuple[dict[str, list[dict[str, float]]], list[float]]:
    columns = (TextColumn("{task.description}"), BarColumn(None), TextColumn("{task.fields[where]}"))
    runs = [(label, name, seed) for label, name in LOSSES.items() for seed in range(seeds)]
    results: dict[str, list[dict[str, float]]] = {label: [] for label in LOSSES}
    errors = []
    with Progress(*columns, TimeRemainingColumn(), console=console, expand=True) as bar:
        progress = EpochsOnBar(bar, len(runs), epochs)
        for number, (label, name, seed) in enumerate(runs, start=1):
            bar.update(progress.task, description=f"fit {number} of {len(runs)}: {label}, seed {seed}")
            result, off = fit(name, out / name / f"seed-{seed}", seed, epochs, progress)
            results[label].append(result)
            errors += [] if off is None else [off]
        bar.update(progress.task, description=f"{len(runs)} fits", where=f"{epochs} epochs each")
    return results, errors


def print_table(results: dict[str, list[dict[str, float]]], console: Console, markdown: bool) -> None:
    rows = []
    for label, runs in results.items():
        cells = [label]
        for name in COLUMNS:
            spread = Spread.over([run[name] for run in runs])
            assert spread is not None
            cells.append(f"{spread.mean:.1f}" + ("" if spread.std is None else f" ± {spread.std:.1f}"))
        rows.append(cells)
    header = ["loss", *COLUMNS.values()]
    if markdown:
        lines = [header, [":---", *["---:"] * len(COLUMNS)], *rows]
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


def main(args: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=positive, default=30, help="epochs of each fit (default: %(default)s)")
    parser.add_argument("--seeds", type=positive, default=3, help="fits of each loss (default: %(default)s)")
    parser.add_argument("--markdown", action="store_true", help="print the table as Markdown")
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("runs/noise-table"),
        help="where the estimated transitions go; replaced if there (default: %(default)s)",
    )
    options = parser.parse_args(args)

    # Lightning tells of devices and seeds at every fit; warnings stay.
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    torch.set_num_threads(1)  # at this size threads wait for each other more than they compute
    console = Console()
    start = time.perf_counter()
    results, errors = train_all(options.out, options.seeds, options.epochs, console)
    print_table(results, console, options.markdown)
    console.print(
        f"Percent, mean ± standard deviation of {options.seeds} seeds, {options.epochs} epochs, "
        f"{time.perf_counter() - start:.0f} s. An entry of the estimated transition is off by "
        f"{sum(errors) / len(errors):.3f} on average.",
        highlight=False,
    )


if __name__ == "__main__":
    main()
