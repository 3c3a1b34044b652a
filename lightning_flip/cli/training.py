"""``fit``, ``validate``, ``test`` and ``predict``: training from a configuration."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any

from lightning_flip.cli._outputs import MissingExtraError

if TYPE_CHECKING:
    from lightning.pytorch.cli import LightningCLI

__all__ = ["SUBCOMMANDS", "training_cli"]

SUBCOMMANDS = {
    "fit": "train, as a configuration says",
    "validate": "evaluate on the validation data",
    "test": "evaluate on the test data",
    "predict": "run on the data to predict",
}
# jsonargparse finds a class by its bare name only once it is loaded.
_NAMED = ("callbacks", "data", "models", "modules")


def training_cli(args: Sequence[str], *, run: bool = True, **options: Any) -> LightningCLI:
    """Build a LightningCLI over any LightningModule and any LightningDataModule.

    In ``class_path`` the package's modules, networks, data and callbacks go by their bare names, unless another
    loaded class has the same one (torchvision has an MLP too), and everything by its import path. A module
    makes its own optimizer: there is no ``--optimizer`` beside ``--model.optimizer``.
    The seed is 0 unless the configuration says otherwise. The whole configuration is kept as ``config.yaml`` in the
    logger's folder, in place of an earlier run's in the same folder.

    Args:
        args: with ``run`` a subcommand and its options; else options alone.
        run: run the subcommand. False only builds the objects.
        **options: for LightningCLI, e.g. ``save_config_callback=None``.

    Returns:
        The LightningCLI, with ``trainer``, ``model`` and ``datamodule``.

    Raises:
        ModuleNotFoundError: if jsonargparse is not installed.
        SystemExit: with status 2 for wrong options.

    Example:
        >>> model = ["--model=LabelSmoothingClassifier", "--model.network=SmallCNN", "--model.num_classes=10"]
        >>> cli = training_cli([*model, "--data=DigitsDataModule", "--trainer.logger=false"], run=False)
        >>> cli.model.mixin_options.smoothing, cli.datamodule.batch_size
        (0.1, 64)
    """
    try:
        import jsonargparse  # noqa: F401
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            "training from a configuration needs jsonargparse, which is not installed; run "
            "pip install 'lightning-flip[cli]'."
        ) from error
    from lightning.pytorch.cli import LightningCLI

    from lightning_flip.data.bundled import BundledDataModule

    for part in _NAMED:
        import_module(f"lightning_flip.{part}")

    class TrainingCLI(LightningCLI):
        def parse_arguments(self, parser: Any, args: Any) -> None:
            # LightningCLI's own warns of args beside a script's own command line; here they are given on purpose.
            self.config = parser.parse_args(args)

        def after_instantiate_classes(self) -> None:
            # Between Lightning and torch: nothing that the user of a command can change.
            warnings.filterwarnings("ignore", r"`isinstance\(treespec, LeafSpec\)` is deprecated", FutureWarning)
            if isinstance(self.datamodule, BundledDataModule) and self.datamodule.num_workers == 0:
                # Data in memory gain nothing from workers.
                warnings.filterwarnings("ignore", "The '.*' does not have many workers")

    strict = {"allow_abbrev": False}  # a misspelled option is an error, not another option
    settings: dict[str, Any] = {
        "subclass_mode_model": True,
        "subclass_mode_data": True,
        "seed_everything_default": 0,
        "auto_configure_optimizers": False,
        "save_config_kwargs": {"overwrite": True},
        "parser_kwargs": {"prog": "lightning-flip", **strict, **dict.fromkeys(SUBCOMMANDS, strict)},
    }
    return TrainingCLI(args=list(args), run=run, **{**settings, **options})
