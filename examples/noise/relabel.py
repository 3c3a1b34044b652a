"""Find wrong labels, correct the most suspicious tenth, train again: the whole way, with the truth as the reviewer.

Both fits are `lightning-flip fit --config examples/noise/standard.yaml` with less noise. The files are those that
`lightning-flip suspects` and `relabel` write and read; here their functions do it.
"""

from __future__ import annotations

import csv
import sys
import time
from pathlib import Path

import torch
from lightning.pytorch.cli import LightningCLI
from rich.console import Console
from torch import Tensor

from lightning_flip import PredictionHistory
from lightning_flip.data import CorrectedLabels
from lightning_flip.reports import check_review, draw_audit, find_suspects, read_review
from lightning_flip.stores import corrections_text, read_history
from lightning_flip.stores.files import write_text

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from _shared import build_quiet, common_options, on_one_quiet_thread, positive, predict, print_lines, print_table

CONFIG = Path(__file__).resolve().parent / "standard.yaml"
SEED = 0


def prepare(out: Path, epochs: int, noise: float) -> LightningCLI:
    """Network and noisy digits, the same each time."""
    cli = build_quiet(
        CONFIG,
        epochs,
        f"--seed_everything={SEED}",
        f"--trainer.default_root_dir={out}",
        f"--data.init_args.noise_rate={noise}",
        "--trainer.limit_val_batches=0",
        "--trainer.enable_checkpointing=false",
    )
    cli.trainer.callbacks = [PredictionHistory(dirpath=out, overwrite=True)]
    cli.datamodule.setup()
    return cli


def fit(cli: LightningCLI) -> float:
    """Train on the module's training split; the accuracy on its clean test split, in percent."""
    data = cli.datamodule
    cli.trainer.fit(cli.model, data.train_dataloader(), data.val_dataloader())
    labels = torch.tensor([int(label) for _, label in data.test_set])
    return 100 * float((predict(cli.model, data.test_set).argmax(dim=1) == labels).double().mean())


def fill_in(path: Path, truth: Tensor) -> None:
    """What a person does in a spreadsheet, who sees each image, its label, and nothing else of the row."""
    with path.open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    for row in rows:
        label = int(truth[int(row["index"])])
        row["review"] = "right" if label == int(row["given_label"]) else "wrong"
        row["corrected_label"] = str(label)
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def main(args: list[str] | None = None) -> None:
    parser = common_options(__doc__, "runs/relabel", holds="where runs, lists and labels go")
    parser.add_argument("--noise", type=float, default=0.1, help="share of wrong labels (default: %(default)s)")
    parser.add_argument("--looks", type=positive, default=100, help="looks of the audit (default: %(default)s)")
    options = parser.parse_args(args)
    on_one_quiet_thread()
    start, out = time.perf_counter(), options.out
    before = prepare(out / "before", options.epochs, options.noise)
    truth, wrong = before.datamodule.train_set.true_targets, before.datamodule.train_set.is_noisy
    accuracy = fit(before)

    history = read_history(out / "before")
    audit = draw_audit(history.label_scores(), options.looks)
    write_text(out / "audit.csv", audit.to_csv())
    write_text(out / "check.csv", find_suspects(history, len(truth) // 10).to_csv())
    for name in ("audit.csv", "check.csv"):
        fill_in(out / name, truth)
    counted = check_review(history, read_review(out / "audit.csv"))
    review = check_review(history, read_review(out / "check.csv"))
    write_text(out / "labels.csv", corrections_text(review.corrections()))

    after = prepare(out / "after", options.epochs, options.noise)
    after.datamodule.train_set = CorrectedLabels(after.datamodule.train_set, out / "labels.csv")
    corrected = fit(after)
    left = int((after.datamodule.train_set.targets != truth).sum())

    console = Console()
    rows = [
        ["as given", str(int(wrong.sum())), f"{accuracy:.1f}"],
        ["most suspicious tenth corrected", str(left), f"{corrected:.1f}"],
    ]
    print_table(["labels", "wrong", "test acc"], rows, console, options.markdown)
    spent = f"{options.epochs} epochs per fit, {time.perf_counter() - start:.0f} s"
    print_lines([audit.plan(), *counted.sentences(), f"In truth {int(wrong.sum())} are wrong."], console)
    print_lines(["", f"The list: {review.sentences()[0]}", f"Percent, {spent}."], console)


if __name__ == "__main__":
    main()
