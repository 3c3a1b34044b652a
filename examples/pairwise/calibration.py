"""Targets, winning scores and calibration of pairwise label smoothing: Fig. 4 to 7 of its paper, on digits.

Every fit is `lightning-flip fit --config examples/pairwise/<method>.yaml --data.init_args.val_size 200` with the
callbacks TrainingTargets, WinningScores and TemperatureScaling in the place of the recording. The temperature is fitted
on the 200 validation digits; scores and calibration are those of the 500 test digits.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from lightning_flip.callbacks import TemperatureScaling, TrainingTargets, WinningScores
from lightning_flip.reports import plot_reliability, plot_training_targets, plot_winning_scores

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from _shared import build_quiet, common_options, on_one_quiet_thread

CONFIGS = Path(__file__).resolve().parent
METHODS = {"standard": "standard", "ULS": "uls", "Mixup": "mixup", "PLS": "pls"}


def fit(config: str, folder: Path, epochs: int) -> tuple[dict[str, float], dict[str, Any]]:
    """Train, test, and give what the test logged and what the callbacks found."""
    places = ("--data.init_args.val_size=200", f"--trainer.default_root_dir={folder}")
    cli = build_quiet(CONFIGS / f"{config}.yaml", epochs, *places, "--trainer.enable_checkpointing=false")
    options: dict[str, Any] = {"figures": False, "dirpath": folder, "overwrite": True}
    watchers = {"targets": TrainingTargets(**options), "scores": WinningScores(**options)}
    watchers["scaling"] = TemperatureScaling(**options)
    cli.trainer.callbacks = list(watchers.values())
    cli.trainer.fit(cli.model, datamodule=cli.datamodule)
    (logged,) = cli.trainer.test(cli.model, datamodule=cli.datamodule, verbose=False)
    return logged, {name: callback.found for name, callback in watchers.items()}


def main(args: list[str] | None = None) -> None:
    parser = common_options(__doc__, "runs/pairwise-calibration", holds="where figures and tables go", markdown=False)
    options = parser.parse_args(args)
    on_one_quiet_thread()
    found: dict[str, dict[str, Any]] = {}
    print("| method | test acc | mean winning score | ECE | temperature | ECE after scaling |")
    print("| :--- | ---: | ---: | ---: | ---: | ---: |")
    for label, config in METHODS.items():
        logged, found[label] = fit(config, options.out / config, options.epochs)
        percent = [f"{100 * logged[f'test_{name}']:.1f}" for name in ("acc", "mean_winning_score", "ece_unscaled")]
        scaled = [f"{logged['test_temperature']:.2f}", f"{100 * logged['test_ece_scaled']:.1f}"]
        print(f"| {' | '.join([label, *percent, *scaled])} |", flush=True)
    targets = {f"{label}, {kind}": part for label, run in found.items() for kind, part in run["targets"].items()}
    figures = {
        "targets.png": plot_training_targets({name: part for name, part in targets.items() if name.startswith("PLS")}),
        "scores.png": plot_winning_scores({label: run["scores"] for label, run in found.items()}),
        "reliability.png": plot_reliability(found["PLS"]["scaling"]),
    }
    print()
    for name, figure in figures.items():
        figure.savefig(options.out / name, dpi=110)
        print(options.out / name)


if __name__ == "__main__":
    main()
