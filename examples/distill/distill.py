"""Students on digits of which 40% carry a wrong training label: what a filtered teacher is worth.

Every fit is `lightning-flip fit --config examples/distill/<name>.yaml` with another seed and another folder; a teacher
is trained once a seed, and `lightning-flip experiment distill --config examples/distill/filterkd.yaml` is one of the
pairs. Validation labels, of which 40% are wrong too, choose the best epoch; the test labels choose nothing.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.cli import LightningCLI
from rich.console import Console
from torch import Tensor
from torch.nn.functional import one_hot
from torch.utils.data import DataLoader

from lightning_flip.callbacks import PredictionFilter
from lightning_flip.functional import label_recovery
from lightning_flip.stores import read_soft_targets

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from _shared import (
    build,
    build_quiet,
    common_options,
    from_here,
    on_one_quiet_thread,
    our_command,
    print_lines,
    print_table,
    progress_bar,
    spread,
)

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
    cli = build_quiet(CONFIGS / f"{config}.yaml", epochs, f"--seed_everything={seed}", *options)
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
    data = build(CONFIGS / f"{method.config}.yaml").datamodule
    data.setup("fit")
    if not method.teacher:  # the label is the most likely class, smoothed or not
        return recovered(one_hot(data.train_set.noisy_targets, 10).float(), data)
    return recovered(torch.from_numpy(read_soft_targets(targets(method, folder)).probs), data)


def targets(method: Method, folder: Path) -> Path:
    return folder / method.teacher / "soft_targets" / f"{method.soft_targets}.safetensors"


def train_all(out: Path, seeds: int, epochs: int, alpha: float | None, console: Console) -> Results:
    results: Results = {label: [] for label in METHODS}
    with progress_bar(console, seeds * (len(TEACHERS) + len(METHODS)), epochs) as progress:
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
    return results


def print_next_steps(out: Path, console: Console) -> None:
    lines = [
        f"Checkpoints and soft targets lie in {out}.",
        "A teacher and its student by one command, which can be stopped and started again:",
        "",
        f"  {our_command()} experiment distill --config {from_here(CONFIGS) / 'filterkd.yaml'}",
    ]
    print_lines(lines, console)


def main(args: list[str] | None = None) -> None:
    parser = common_options(__doc__, "runs/distillation", seeds="fits of each method")
    parser.add_argument("--alpha", type=share, help="of the filter (default: that of the teachers' configurations)")
    options = parser.parse_args(args)
    on_one_quiet_thread()
    console = Console()
    start = time.perf_counter()
    results = train_all(options.out, options.seeds, options.epochs, options.alpha, console)
    rows = [
        [label, *(spread(100 * seed[name] for seed in found) for name in COLUMNS)] for label, found in results.items()
    ]
    print_table(["method", *COLUMNS.values()], rows, console, options.markdown)
    console.print(
        f"Percent, mean ± standard deviation of {options.seeds} seeds: clean test digits, and training digits with a "
        f"wrong label; {options.epochs} epochs, {time.perf_counter() - start:.0f} s.\n",
        highlight=False,
    )
    print_next_steps(options.out, console)


if __name__ == "__main__":
    main()
