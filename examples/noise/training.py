"""A fit of a configuration of this folder without its recording."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import lightning.pytorch as pl
from lightning.pytorch.cli import LightningCLI

from lightning_flip.callbacks import TransitionEstimator

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from _shared import build_quiet

CONFIGS = Path(__file__).resolve().parent


def train(
    config: str,
    folder: Path,
    seed: int,
    epochs: int,
    progress: pl.Callback,
    options: Sequence[str] = (),
    watchers: Sequence[pl.Callback] = (),
) -> LightningCLI:
    """Fit as the configuration says, but for its callbacks: only what estimates a transition stays, others may come."""
    cli = build_quiet(
        CONFIGS / f"{config}.yaml",
        epochs,
        f"--seed_everything={seed}",
        f"--trainer.default_root_dir={folder}",
        "--trainer.limit_val_batches=0",
        "--trainer.enable_checkpointing=false",
        *options,
    )
    estimators = [callback for callback in cli.trainer.callbacks if isinstance(callback, TransitionEstimator)]
    for estimator in estimators:
        estimator.path, estimator.overwrite = folder / "transition.npz", True
        estimator.warmup_epochs = min(estimator.warmup_epochs, epochs)
    cli.trainer.callbacks = [*estimators, *watchers, progress]
    cli.trainer.fit(cli.model, datamodule=cli.datamodule)
    return cli
