"""Students on digits of which 40% carry a wrong training label: what a filtered teacher is worth.

Every fit is `lightning-flip fit --config examples/distill/<name>.yaml` with another seed and another folder; a teacher
is trained once a seed, and `lightning-flip experiment distill --config examples/distill/filterkd.yaml` is one of the
pairs. Validation labels, of which 40% are wrong too, choose the best epoch; the test labels choose nothing.
"""

from __future__ import annotations

import argparse
import logging
import shutil
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.cli import LightningCLI
from rich.box import SIMPLE
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text
from torch import Tensor
from torch.nn.functional import one_hot
from torch.utils.data import DataLoader

from lightning_flip.callbacks import PredictionFilter
from lightning_flip.cli import training_cli
from lightning_flip.functional.supervision import label_recovery
from lightning_flip.reports import Spread
from lightning_flip.stores import read_soft_targets

CONFIGS = Path(__file__).resolve().parent
Results = dict[str, list[dict[str, float]]]  # method -> what each seed gave
TEACHERS = ("teacher", "averaged_teacher")


@dataclass(frozen=True)
class Method:
    """A row of the table: its folder, its configuration, and for a student its teacher and the file it learns from."""

    folder: str
    config: str
    teacher: str = ""
    soft_targets: str = ""


METHODS = {
    "OHT": Method("onehot", "onehot"),
    "LS": Method("label_smoothing", "label_smoothing"),
    "KD": Method("kd", "student", "teacher", "eval_last"),
    "ESKD": Method("eskd", "student", "teacher", "eval_best"),
    "Filter-KD": Method("filterkd", "student", "teacher", "filtered_best"),
    "EMA teacher": Method("ema", "student", "averaged_teacher", "eval_best"),
}
COLUMNS = {
    "test_acc": "accuracy",
    "test_ece": "ECE",
    "best_acc": "accuracy, best epoch",
    "model": "recovered by the model",
    "targets": "by its targets",
}


def positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {number}")
    return number


def share(text: str) -> float:
    number = float(text)
    if not 0 < number <= 1:
        raise argparse.ArgumentTypeError(f"must be in (0, 1], got {number}")
    return number


def train(
    config: str,
    folder: Path,
    seed: int,
    epochs: int,
    progress: pl.Callback,
    *options: str,
    alpha: float | None = None,
) -> dict[str, float]:
    """Fit as the configuration says; what tests of the last and the best epoch say, and how labels are recovered."""
    if folder.exists():
        shutil.rmtree(folder)
    cli = training_cli(
        [
            f"--config={CONFIGS / config}.yaml",
            f"--seed_everything={seed}",
            f"--trainer.max_epochs={epochs}",
            f"--model.init_args.lr_scheduler.init_args.T_max={epochs}",
            "--trainer.logger=false",
            "--trainer.enable_model_summary=false",
            "--trainer.enable_progress_bar=false",
            *options,
        ],
        run=False,
        save_config_callback=None,
    )
    for callback in cli.trainer.callbacks:
        if isinstance(callback, (ModelCheckpoint, PredictionFilter)):
            callback.dirpath = str(folder.resolve())  # text: a path would make the checkpoint unsafe to load
        if isinstance(callback, PredictionFilter) and alpha is not None:
            callback.alpha = alpha
    cli.trainer.callbacks.append(progress)
    cli.trainer.fit(cli.model, datamodule=cli.datamodule)
    if config in TEACHERS:
        return {}
    results = {name: value for name, value in evaluate(cli, None).items() if name in COLUMNS}
    results["model"] = recovered(predict(cli), cli.datamodule)
    results["best_acc"] = evaluate(cli, str(folder / "best.ckpt"))["test_acc"]
    return results


def evaluate(cli: LightningCLI, checkpoint: str | None) -> dict[str, float]:
    """What the test split says, of a checkpoint or of the model as it is."""
    (results,) = cli.trainer.test(cli.model, datamodule=cli.datamodule, ckpt_path=checkpoint, verbose=False)
    return results


def predict(cli: LightningCLI) -> Tensor:
    """What the model says of its training samples, in eval mode."""
    loader = DataLoader(cli.datamodule.train_set, batch_size=256)
    return torch.cat(cli.trainer.predict(cli.model, loader))


def recovered(probs: Tensor, data: pl.LightningDataModule) -> float:
    """Share of the wrong training labels in whose place the true one is the most likely."""
    return float(label_recovery(probs, data.train_set.true_targets, data.train_set.noisy_targets))


def recovered_by_targets(method: Method, folder: Path) -> float:
    """The same of what a model was trained on."""
    data = training_cli([f"--config={CONFIGS / method.config}.yaml"], run=False, save_config_callback=None).datamodule
    data.setup("fit")
    if not method.teacher:  # the label is the most likely class, smoothed or not
        return recovered(one_hot(data.train_set.noisy_targets, 10).float(), data)
    return recovered(torch.from_numpy(read_soft_targets(targets(method, folder)).probs), data)


def targets(method: Method, folder: Path) -> Path:
    return folder / method.teacher / "soft_targets" / f"{method.soft_targets}.safetensors"


class EpochsOnBar(pl.Callback):
    def __init__(self, bar: Progress, fits: int, epochs: int) -> None:
        self.bar = bar
        self.fits = fits
        self.fit = 0
        self.task = bar.add_task("", total=fits * epochs, where="")

    def __deepcopy__(self, memo: dict[int, object]) -> EpochsOnBar:
        return self  # weight averaging copies the module with its Trainer, and a terminal has no copies

    def announce(self, name: str, seed: int) -> None:
        self.fit += 1
        self.bar.update(self.task, description=f"fit {self.fit} of {self.fits}: {name}, seed {seed}")

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.bar.advance(self.task)
        self.bar.update(self.task, where=f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}")


def train_all(out: Path, seeds: int, epochs: int, alpha: float | None, console: Console) -> Results:
    columns = (TextColumn("{task.description}"), BarColumn(None), TextColumn("{task.fields[where]}"))
    results: Results = {label: [] for label in METHODS}
    with Progress(*columns, TimeRemainingColumn(), console=console, expand=True) as bar:
        progress = EpochsOnBar(bar, seeds * (len(TEACHERS) + len(METHODS)), epochs)
        for seed in range(seeds):
            folder = out / f"seed-{seed}"
            for name in TEACHERS:
                progress.announce(name.replace("_", " "), seed)
                # A student never starts like its teacher.
                train(name, folder / name, seed + 100, epochs, progress, alpha=alpha)
            for label, method in METHODS.items():
                progress.announce(label, seed)
                options = [f"--model.init_args.targets={targets(method, folder)}"] if method.teacher else []
                found = train(method.config, folder / method.folder, seed, epochs, progress, *options)
                results[label].append({**found, "targets": recovered_by_targets(method, folder)})
        bar.update(progress.task, description=f"{progress.fits} fits", where=f"{epochs} epochs each")
    return results


def spread(values: list[float]) -> str:
    found = Spread.over([100 * value for value in values])
    assert found is not None
    return f"{found.mean:.1f}" + ("" if found.std is None else f" ± {found.std:.1f}")


def print_table(results: Results, console: Console, markdown: bool) -> None:
    header = ["method", *COLUMNS.values()]
    rows = [[label, *(spread([seed[name] for seed in found]) for name in COLUMNS)] for label, found in results.items()]
    if markdown:
        lines = [header, [":---", *["---:"] * (len(header) - 1)], *rows]
        console.print(Text("\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"), soft_wrap=True)
        return
    table = Table(box=SIMPLE, pad_edge=False, show_edge=False, padding=(0, 1, 0, 0))
    table.add_column(header[0], no_wrap=True)
    for name in header[1:]:
        table.add_column(name, justify="right")
    for cells in rows:
        table.add_row(*cells)
    console.print(table)
    console.print()


def print_next_steps(out: Path, console: Console) -> None:
    # The command of the environment that runs this; nobody need have activated it.
    command = Path(sys.executable).with_name("lightning-flip")
    command = command.relative_to(Path.cwd()) if command.is_relative_to(Path.cwd()) else command
    config = CONFIGS.relative_to(Path.cwd()) if CONFIGS.is_relative_to(Path.cwd()) else CONFIGS
    lines = [
        f"Checkpoints and soft targets lie in {out}.",
        "A teacher and its student by one command, which can be stopped and started again:",
        "",
        f"  {command} experiment distill --config {config / 'filterkd.yaml'}",
    ]
    console.print(Text("\n".join(lines)), soft_wrap=True)  # a folded command could not be copied


def main(args: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=positive, default=30, help="epochs of each fit (default: %(default)s)")
    parser.add_argument("--seeds", type=positive, default=3, help="fits of each method (default: %(default)s)")
    parser.add_argument("--alpha", type=share, help="of the filter (default: that of the teachers' configurations)")
    parser.add_argument("--markdown", action="store_true", help="print the table as Markdown")
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("runs/distillation"),
        help="where to record; replaced if there (default: %(default)s)",
    )
    options = parser.parse_args(args)

    # Lightning tells of devices and seeds at every fit; warnings stay.
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    torch.set_num_threads(1)  # at this size threads wait for each other more than they compute
    console = Console()
    start = time.perf_counter()
    results = train_all(options.out, options.seeds, options.epochs, options.alpha, console)
    print_table(results, console, options.markdown)
    console.print(
        f"Percent, mean ± standard deviation of {options.seeds} seeds: clean test digits, and training digits with a "
        f"wrong label; {options.epochs} epochs, {time.perf_counter() - start:.0f} s.\n",
        highlight=False,
    )
    print_next_steps(options.out, console)


if __name__ == "__main__":
    main()
