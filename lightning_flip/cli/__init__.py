"""The command ``lightning-flip``: train from a configuration, compare what was recorded, gate a new model.

Only the training subcommands import torch and lightning.
"""

from lightning_flip.cli.command import main
from lightning_flip.cli.training import training_cli

__all__ = ["main", "training_cli"]
