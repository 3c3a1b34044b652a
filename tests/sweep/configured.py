"""Configurations of ``examples/`` on a tenth of their digits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lightning_flip import cli

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
SHORT = (
    "--trainer.accelerator=cpu",
    "--trainer.enable_progress_bar=false",
    "--trainer.enable_model_summary=false",
    "--trainer.limit_val_batches=1",
    "--trainer.log_every_n_steps=1",
    "--data.init_args.train_fraction=0.1",
    "--data.init_args.batch_size=32",
)


def built(config: str, *words: str) -> Any:
    """Trainer, model and data of a configuration, as ``lightning-flip fit`` builds them.

    Args:
        config: below ``examples/``.
        words: more of the command line.

    Returns:
        The LightningCLI.
    """
    return cli.training_cli([f"--config={EXAMPLES / config}", *SHORT, *words], run=False, save_config_callback=None)
