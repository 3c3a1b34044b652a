"""Three methods, three seeds, 40% wrong training labels: what each does to the predictions on clean test digits.

Every fit is `lightning-flip fit --config examples/digits/<method>.yaml` with another seed and another folder. In the
end every standard model is taken for the update of another seed's, and trained once more, held to that one.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import lightning.pytorch as pl
from rich.console import Console

from lightning_flip.callbacks import PredictionHistory, PredictionWriter
from lightning_flip.reports import compare, compare_runs, write_report

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from _shared import build_quiet, common_options, on_one_quiet_thread, our_command, print_lines, progress_bar, spread

CONFIGS = Path(__file__).resolve().parent
METHODS = {"standard": "standard", "label smoothing": "label_smoothing", "FER": "fer"}
# The standard configuration with focal distillation in front of its model, and nothing recorded on the way.
FOCAL = ("--model=lightning_flip.modules.FocalDistillationClassifier", "--trainer.callbacks=null")


def fit(config: Path, folder: Path, seed: int, epochs: int, progress: pl.Callback, *options: str) -> None:
    places = (f"--seed_everything={seed}", f"--trainer.default_root_dir={folder}")
    cli = build_quiet(config, epochs, *places, "--trainer.enable_checkpointing=false", *options)
    for callback in cli.trainer.callbacks:
        if isinstance(callback, PredictionHistory):
            callback.dirpath, callback.overwrite = folder, True
    cli.trainer.callbacks += [progress, PredictionWriter(folder / "predictions.parquet", overwrite=True)]
    cli.trainer.fit(cli.model, datamodule=cli.datamodule)
    cli.trainer.test(cli.model, datamodule=cli.datamodule, verbose=False)
    cli.trainer.save_checkpoint(folder / "model.ckpt")


def train_all(out: Path, seeds: int, epochs: int, console: Console) -> list[tuple[str, Path]]:
    runs = [(label, name, seed) for label, name in METHODS.items() for seed in range(seeds)]
    further = [("standard", "standard", 1)] if seeds == 1 else []  # one seed alone has no old model
    total = len(runs) + len(further) + seeds
    folders = []
    with progress_bar(console, total, epochs) as progress:
        for label, name, seed in runs + further:
            progress.announce(label, seed)
            folder = out / name / f"seed-{seed}"
            fit(CONFIGS / f"{name}.yaml", folder, seed, epochs, progress)
            folders.append((label, folder))
        for seed in range(seeds):
            progress.announce("focal distillation", seed)
            reference = f"--model.reference={old_model(out, seed, seeds) / 'model.ckpt'}"
            folder = out / "focal_distillation" / f"seed-{seed}"
            fit(CONFIGS / "standard.yaml", folder, seed, epochs, progress, *FOCAL, reference)
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
            cells.append(spread(values, unit="%"))
        console.print(f"  {words:<24} NFR {cells[0]}, relative NFR {cells[1]}", highlight=False)
    console.print()


def write_page(out: Path) -> Path:
    """The report of the first standard run, with its images."""
    cli = build_quiet(CONFIGS / "standard.yaml", 1, "--seed_everything=0", f"--trainer.default_root_dir={out}")
    cli.datamodule.setup()
    run = out / "standard" / "seed-0"
    title = "Digits, 40% wrong labels, standard training"
    return write_report(run, out / "report.html", images=cli.datamodule.train_set, title=title)


def print_next_steps(out: Path, seeds: int, page: Path, console: Console) -> None:
    every = "{" + ",".join(map(str, range(seeds))) + "}" if seeds > 1 else "0"
    runs = [f"{name}={out / name}/seed-{every}" for name in METHODS.values()]
    lines = [
        f"Look at the first standard run in a browser: {page}",
        f"Every prediction of every epoch lies in {out}. Read on with",
        "",
        f"  {our_command()} compare {' '.join(runs)}",
        f"  {our_command()} suspects {out / 'standard' / 'seed-0'}",
        "",
        "or in Python:",
        "",
        "  from lightning_flip import read_history",
        f"  read_history('{out / 'standard' / 'seed-0'}').suspects(20)",
    ]
    print_lines(lines, console)


def main(args: list[str] | None = None) -> None:
    options = common_options(__doc__, "runs/demo", seeds="fits of each method", markdown=False).parse_args(args)
    on_one_quiet_thread()
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
    print_next_steps(options.out, options.seeds, write_page(options.out), console)


if __name__ == "__main__":
    main()
