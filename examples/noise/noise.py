"""Five losses on digits of which 40% carry a wrong training label: what each learns of the right and the wrong ones.

Every fit is `lightning-flip fit --config examples/noise/<loss>.yaml` with another seed, without the recording.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from lightning.pytorch.cli import LightningCLI
from rich.console import Console
from training import train

from lightning_flip.callbacks import TransitionEstimator
from lightning_flip.functional import symmetric_transition

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from _shared import common_options, measure, on_one_quiet_thread, print_table, progress_bar, spread

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


def transition_error(cli: LightningCLI) -> float | None:
    """How far an entry of the estimated transition is off on average; None where nothing was estimated."""
    for callback in cli.trainer.callbacks:
        if isinstance(callback, TransitionEstimator):
            assert callback.transition is not None
            return float((callback.transition - symmetric_transition(10, cli.datamodule.noise_rate)).abs().mean())
    return None


def train_all(
    out: Path, seeds: int, epochs: int, console: Console
) -> tuple[dict[str, list[dict[str, float]]], list[float]]:
    results: dict[str, list[dict[str, float]]] = {label: [] for label in LOSSES}
    errors = []
    with progress_bar(console, len(LOSSES) * seeds, epochs) as progress:
        for label, name in LOSSES.items():
            for seed in range(seeds):
                progress.announce(label, seed)
                cli = train(name, out / name / f"seed-{seed}", seed, epochs, progress)
                results[label].append(measure(cli.model, cli.datamodule))
                off = transition_error(cli)
                errors += [] if off is None else [off]
    return results, errors


def main(args: list[str] | None = None) -> None:
    holds = "where the estimated transitions go"
    parser = common_options(__doc__, "runs/noise-table", holds=holds, seeds="fits of each loss")
    options = parser.parse_args(args)
    on_one_quiet_thread()
    console = Console()
    start = time.perf_counter()
    results, errors = train_all(options.out, options.seeds, options.epochs, console)
    rows = [[label, *(spread(run[name] for run in runs) for name in COLUMNS)] for label, runs in results.items()]
    print_table(["loss", *COLUMNS.values()], rows, console, options.markdown)
    console.print(
        f"Percent, mean ± standard deviation of {options.seeds} seeds, {options.epochs} epochs, "
        f"{time.perf_counter() - start:.0f} s. An entry of the estimated transition is off by "
        f"{sum(errors) / len(errors):.3f} on average.",
        highlight=False,
    )


if __name__ == "__main__":
    main()
