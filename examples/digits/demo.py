"""Three methods, three seeds, 40% wrong training labels: what each does to the predictions on clean test digits.

Every fit is `lightning-flip fit --config examples/digits/<method>.yaml` with another seed and another folder. In the
end every standard model is taken for the update of another seed's, and trained once more, held to that one.
"""

from __future__ import annotations

import argparse
import logging
import sys
import time
from pathlib import Path

import lightning.pytorch as pl
import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

from lightning_flip.callbacks import PredictionHistory, PredictionWriter
from lightning_flip.cli import training_cli
from lightning_flip.reports import Spread, compare, compare_runs

CONFIGS = Path(__file__).resolve().parent
METHODS = {"standard": "standard", "label smoothing": "label_smoothing", "FER": "fer"}
# The standard configuration with focal distillation in front of its model, and nothing recorded on the way.
FOCAL = ("--model=lightning_flip.modules.FocalDistillationClassifier", "--trainer.callbacks=null")


def positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {number}")
    return number


def fit(config: Path, folder: Path, seed: int, epochs: int, progress: pl.Callback, *options: str) -> None:
    cli = training_cli(
        [
            f"--config={config}",
            f"--seed_everything={seed}",
            f"--trainer.max_epochs={epochs}",
            f"--model.init_args.lr_scheduler.init_args.T_max={epochs}",
            f"--trainer.default_root_dir={folder}",
            "--trainer.logger=false",
            "--trainer.enable_checkpointing=false",
            "--trainer.enable_model_summary=false",
            "--trainer.enable_progress_bar=false",
            *options,
        ],
        run=False,
        save_config_callback=None,
    )
    for callback in cli.trainer.callbacks:
        if isinstance(callback, PredictionHistory):
            callback.dirpath, callback.overwrite = folder, True
    cli.trainer.callbacks += [progress, PredictionWriter(folder / "predictions.parquet", overwrite=True)]
    cli.trainer.fit(cli.model, datamodule=cli.datamodule)
    cli.trainer.test(cli.model, datamodule=cli.datamodule, verbose=False)
    cli.trainer.save_checkpoint(folder / "model.ckpt")


class EpochsOnBar(pl.Callback):
    def __init__(self, bar: Progress, fits: int, epochs: int) -> None:
        self.bar = bar
        self.fits = fits
        self.task = bar.add_task("", total=fits * epochs, where="")

    def announce(self, label: str, seed: int, fit: int) -> None:
        self.bar.update(self.task, description=f"fit {fit} of {self.fits}: {label}, seed {seed}")

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.bar.advance(self.task)
        self.bar.update(self.task, where=f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}")


def train_all(out: Path, seeds: int, epochs: int, console: Console) -> list[tuple[str, Path]]:
    columns = (TextColumn("{task.description}"), BarColumn(None), TextColumn("{task.fields[where]}"))
    runs = [(label, name, seed) for label, name in METHODS.items() for seed in range(seeds)]
    further = [("standard", "standard", 1)] if seeds == 1 else []  # one seed alone has no old model
    total = len(runs) + len(further) + seeds
    folders = []
    with Progress(*columns, TimeRemainingColumn(), console=console, expand=True) as bar:
        progress = EpochsOnBar(bar, total, epochs)
        for number, (label, name, seed) in enumerate(runs + further, start=1):
            progress.announce(label, seed, number)
            folder = out / name / f"seed-{seed}"
            fit(CONFIGS / f"{name}.yaml", folder, seed, epochs, progress)
            folders.append((label, folder))
        for seed in range(seeds):
            progress.announce("focal distillation", seed, total - seeds + seed + 1)
            reference = f"--model.reference={old_model(out, seed, seeds) / 'model.ckpt'}"
            folder = out / "focal_distillation" / f"seed-{seed}"
            fit(CONFIGS / "standard.yaml", folder, seed, epochs, progress, *FOCAL, reference)
        bar.update(progress.task, description=f"{total} fits", where=f"{epochs} epochs each")
    return folders[: len(runs)]


def old_model(out: Path, seed: int, seeds: int) -> Path:
    """The standard model of the next seed, which that of this seed is to replace."""
    return out / "standard" / f"seed-{(seed + 1) % max(seeds, 2)}"


def print_updates(out: Path, seeds: int, console: Console) -> None:
    console.print("A standard model is replaced by another seed's (NFR: right before, wrong now):")
    for name, words in (("standard", "without treatment"), ("focal_distillation", "with focal distillation")):
        cells = []
        for rate in ("negative_flip_rate", "relative_negative_flip_rate"):
            values = []
            for seed in range(seeds):
                old, new = (
                    path / "predictions.parquet" for path in (old_model(out, seed, seeds), out / name / f"seed-{seed}")
                )
                values.append(100 * compare(old, new).rates[rate].value)
            spread = Spread.over(values)
            assert spread is not None
            cells.append(f"{spread.mean:.1f}" + ("" if spread.std is None else f" ± {spread.std:.1f}") + "%")
        console.print(f"  {words:<24} NFR {cells[0]}, relative NFR {cells[1]}", highlight=False)
    console.print()


def print_next_steps(out: Path, seeds: int, console: Console) -> None:
    # The command of the environment that runs this; nobody need have activated it.
    command = Path(sys.executable).with_name("lightning-flip")
    command = command.relative_to(Path.cwd()) if command.is_relative_to(Path.cwd()) else command
    every = "{" + ",".join(map(str, range(seeds))) + "}" if seeds > 1 else "0"
    runs = [f"{name}={out / name}/seed-{every}" for name in METHODS.values()]
    suspects = f"read_history('{out / 'fer' / 'seed-0'}').suspects(5)"
    lines = [
        f"Every prediction of every epoch lies in {out}. Read on with",
        "",
        f"  {command} compare {' '.join(runs)}",
        "",
        "or ask for the labels to look at first, in Python:",
        "",
        "  from lightning_flip import read_history",
        f"  print({suspects}.select(['index', 'target', 'true_target', 'aum']).to_pandas())",
    ]
    console.print(Text("\n".join(lines)), soft_wrap=True)  # a folded command could not be copied


def main(args: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=positive, default=30, help="epochs of each fit (default: %(default)s)")
    parser.add_argument("--seeds", type=positive, default=3, help="fits of each method (default: %(default)s)")
    parser.add_argument(
        "--out", type=Path, default=Path("runs/demo"), help="where to record; replaced if there (default: %(default)s)"
    )
    options = parser.parse_args(args)

    # Lightning tells of devices and seeds at every fit; warnings stay.
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    torch.set_num_threads(1)  # at this size threads wait for each other more than they compute
    console = Console()
    start = time.perf_counter()
    folders = train_all(options.out, options.seeds, options.epochs, console)
    compare_runs(folders, accuracy_header="test acc").render(console)
    print_updates(options.out, options.seeds, console)
    console.print(
        f"Clean test labels, 40% wrong training labels, {options.epochs} epochs, mean ± standard deviation of "
        f"{options.seeds} seeds, {time.perf_counter() - start:.0f} s.\n",
        highlight=False,
    )
    print_next_steps(options.out, options.seeds, console)


if __name__ == "__main__":
    main()
