"""An old model and its updates on digits: what each treatment, and each kind of update, breaks that was right.

Every fit is `lightning-flip fit --config examples/update/<name>.yaml` with another seed, another folder and the options
that `plan` lists; predictions are written by `PredictionWriter` and compared by `lightning_flip.reports.compare`.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import lightning.pytorch as pl
import numpy as np
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from rich.console import Console

from lightning_flip.callbacks import PredictionWriter
from lightning_flip.functional import predictive_entropy
from lightning_flip.models import EnsembleClassifier
from lightning_flip.reports import (
    UncertaintyHistogram,
    compare,
    join_predictions,
    plot_uncertainty_histogram,
    uncertainty_histogram,
)
from lightning_flip.stores import read_logits, read_predictions

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from _shared import (
    build,
    build_quiet,
    common_options,
    on_one_quiet_thread,
    our_command,
    print_lines,
    print_table,
    progress_bar,
    spread,
)

CONFIGS = Path(__file__).resolve().parent
MEMBERS = 4  # of each ensemble
COLUMNS = ("error old", "error new", "NFR", "relative NFR", "parameters")
KNOWN = [0, 1, 2, 3, 4, 5, 6]  # what the old model knows where the new one knows all digits

# Name in the table -> folders of the old and of the new model.
TREATMENTS = {
    "no treatment": ("old", "no_treatment"),
    "naive": ("old", "naive"),
    "BCT": ("old", "backward_compatible"),
    "focal distillation, KL": ("old", "focal_kl"),
    "focal distillation, logits": ("old", "focal_lm"),
    f"ensembles of {MEMBERS}": ("old_ensemble", "new_ensemble"),
}
# Name in the table -> folders of the old model, of the new one without treatment, and with focal distillation.
SCENARIOS = {
    "another seed": ("old", "no_treatment", "focal_kl"),
    "larger network": ("old", "larger", "larger_focal"),
    "more samples": ("half_old", "no_treatment", "half_focal"),
    "more classes": ("seven_old", "no_treatment", "seven_focal"),
    "more samples and classes": ("half_seven_old", "no_treatment", "half_seven_focal"),
    "fine-tuning": ("old", "tuned", "tuned_focal"),
}


@dataclass(frozen=True)
class Fit:
    """One fit: folder, configuration, seed, the old model that it is held to, and the one that it starts from."""

    folder: str
    config: str
    seed: int
    options: tuple[str, ...] = ()
    reference: str = ""
    start: str = ""


def plan(seed: int) -> list[Fit]:
    """All fits of one repetition, each after those that it needs. Old models never share a seed with new ones."""
    model, data = "--model.init_args", "--data.init_args"
    wide = (f"{model}.network.init_args.width=64",)
    half = (f"{data}.train_fraction=0.5",)
    seven = (f"{data}.classes={KNOWN}", f"{model}.num_classes=7", f"{model}.network.init_args.num_classes=7")
    grown = (f"{model}.old_classes={KNOWN}",)
    old, new = seed + 100, seed
    return [
        Fit("old", "old", old),
        *(Fit(f"old_{place}", "old", seed + 100 * (place + 1)) for place in range(1, MEMBERS)),
        Fit("no_treatment", "no_treatment", new),
        *(Fit(f"new_{place}", "no_treatment", seed + 100 * (place + MEMBERS)) for place in range(1, MEMBERS)),
        Fit("naive", "naive", new, reference="old"),
        Fit("backward_compatible", "backward_compatible", new, reference="old"),
        Fit("focal_kl", "focal_kl", new, reference="old"),
        Fit("focal_lm", "focal_lm", new, reference="old"),
        Fit("larger", "no_treatment", new, wide),
        Fit("larger_focal", "focal_kl", new, wide, reference="old"),
        Fit("half_old", "old", old, half),
        Fit("half_focal", "focal_kl", new, reference="half_old"),
        Fit("seven_old", "old", old, seven),
        Fit("seven_focal", "focal_kl", new, grown, reference="seven_old"),
        Fit("half_seven_old", "old", old, (*half, *seven)),
        Fit("half_seven_focal", "focal_kl", new, grown, reference="half_seven_old"),
        Fit("tuned", "no_treatment", new, start="old"),
        Fit("tuned_focal", "focal_kl", new, reference="old", start="old"),
    ]


def train(fit: Fit, out: Path, epochs: int, progress: pl.Callback) -> None:
    """Fit as the configuration says, and write the predictions on the test split."""
    folder = out / fit.folder
    for name in ("model.ckpt", "predictions.parquet"):
        (folder / name).unlink(missing_ok=True)
    cli = build_quiet(
        CONFIGS / f"{fit.config}.yaml",
        epochs,
        f"--seed_everything={fit.seed}",
        "--trainer.limit_val_batches=0",  # nothing is selected by it, and the test comes once, at the end
        *fit.options,
        *([f"--model.init_args.reference={out / fit.reference / 'model.ckpt'}"] if fit.reference else []),
    )
    for callback in cli.trainer.callbacks:
        if isinstance(callback, ModelCheckpoint):
            callback.dirpath = str(folder.resolve())  # text: a path would make the checkpoint unsafe to load
        elif isinstance(callback, PredictionWriter):
            callback.path = folder / "predictions.parquet"
    if fit.start:
        weights = torch.load(out / fit.start / "model.ckpt", weights_only=True, map_location="cpu")["state_dict"]
        cli.model.load_state_dict(weights)
    cli.trainer.callbacks.append(progress)
    cli.trainer.fit(cli.model, datamodule=cli.datamodule)
    cli.trainer.test(cli.model, datamodule=cli.datamodule, verbose=False)


def evaluate_ensemble(name: str, folders: Sequence[str], out: Path) -> None:
    """Write the predictions of the mean of several models' logits."""
    data = build(CONFIGS / "old.yaml").datamodule
    members = [str(out / folder / "model.ckpt") for folder in folders]
    trainer = pl.Trainer(
        devices=1,
        callbacks=[PredictionWriter(out / name / "predictions.parquet", overwrite=True)],
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=False,
    )
    trainer.test(EnsembleClassifier(members=members, num_classes=10), datamodule=data, verbose=False)


def train_all(out: Path, seeds: int, epochs: int, console: Console) -> None:
    fits = [(seed, fit) for seed in range(seeds) for fit in plan(seed)]
    with progress_bar(console, len(fits), epochs) as progress:
        for seed, fit in fits:
            progress.announce(fit.folder, seed, "repetition")
            train(fit, out / f"seed-{seed}", epochs, progress)
        for seed in range(seeds):
            for name, first in (("old", "old"), ("new", "no_treatment")):
                members = [first, *(f"{name}_{place}" for place in range(1, MEMBERS))]
                evaluate_ensemble(f"{name}_ensemble", members, out / f"seed-{seed}")


def predictions(out: Path, seed: int, folder: str) -> Path:
    return out / f"seed-{seed}" / folder / "predictions.parquet"


def row(label: str, old: str, new: str, out: Path, seeds: int) -> list[str]:
    """One line of a table: mean and sample standard deviation over the repetitions."""
    # A new model that knows more classes is judged on the samples of those that both know.
    updates = [
        compare(predictions(out, seed, old), predictions(out, seed, new), shared_classes=True) for seed in range(seeds)
    ]
    rates = ("old_error", "new_error", "negative_flip_rate", "relative_negative_flip_rate")
    cells = [spread([100 * update.rates[name].value for update in updates], digits=2) for name in rates]
    return [label, *cells, f"{updates[0].new_parameters:,}"]


def count_by_uncertainty(out: Path, seeds: int) -> dict[str, UncertaintyHistogram]:
    """How unsure the old ensemble was of what an update flips, over all repetitions."""
    entropies: list[dict[str, float]] = []
    for seed in range(seeds):
        files = [predictions(out, seed, folder) for folder in ("old", *(f"old_{i}" for i in range(1, MEMBERS)))]
        # Every file is sorted by index, and all members saw the same data.
        logits = np.stack([read_logits(file)[1] for file in files])
        ids = read_predictions(files[0]).rows["sample_id"].to_pylist()
        entropy = predictive_entropy(torch.from_numpy(logits).float()).tolist()
        entropies.append(dict(zip(ids, entropy, strict=True)))
    highest = max(max(values.values()) for values in entropies)
    histograms = {}
    for label in ("no treatment", "focal distillation, KL"):
        old, new = TREATMENTS[label]
        values: list[float] = []
        flips: list[bool] = []
        for seed in range(seeds):
            joined = join_predictions(predictions(out, seed, old), predictions(out, seed, new))
            values += [entropies[seed][name] for name in joined.ids.to_pylist()]
            flips += joined.negative_flips.tolist()
        histograms[label] = uncertainty_histogram(values, flips, high=highest)
    return histograms


def print_next_steps(out: Path, console: Console) -> None:
    old, plain, focal = (predictions(out, 0, folder) for folder in ("old", "no_treatment", "focal_kl"))
    command = our_command()
    lines = [
        f"Checkpoints and predictions lie in {out}. Look at one update, and decide on it:",
        "",
        f"  {command} compare --old {old} --new {plain}",
        f"  {command} gate --old {old} --new {plain} --max-nfr 0.03",
        f"  {command} gate --old {old} --new {focal} --max-nfr 0.03",
    ]
    print_lines(lines, console)


def main(args: list[str] | None = None) -> None:
    options = common_options(__doc__, "runs/updates", seeds="repetitions").parse_args(args)
    on_one_quiet_thread()
    console = Console()
    start = time.perf_counter()
    out, seeds = options.out, options.seeds
    train_all(out, seeds, options.epochs, console)
    rows = [row(label, old, new, out, seeds) for label, (old, new) in TREATMENTS.items()]
    print_table(["treatment", *COLUMNS], rows, console, options.markdown)
    rows = []
    for label, (old, plain, focal) in SCENARIOS.items():
        rows.append(row(label, old, plain, out, seeds))
        rows.append(row("+ focal distillation", old, focal, out, seeds))
    print_table(["update", *COLUMNS], rows, console, options.markdown)
    figure = plot_uncertainty_histogram(
        count_by_uncertainty(out, seeds), measure=f"predictive entropy of {MEMBERS} old models (nats)"
    )
    figure.savefig(out / "uncertainty.png", dpi=150)
    console.print(
        f"Percent of clean test digits, mean ± standard deviation of {seeds} repetitions; 600 training digits, "
        f"40% of them with a wrong label, {options.epochs} epochs, {time.perf_counter() - start:.0f} s.\n"
        f"How unsure the old models were of what flipped: {out / 'uncertainty.png'}\n",
        highlight=False,
    )
    print_next_steps(out, console)


if __name__ == "__main__":
    main()
