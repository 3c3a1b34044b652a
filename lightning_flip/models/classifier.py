"""A plain classifier: cross-entropy, accuracy, calibration error, and nothing else."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from lightning import LightningModule
from lightning.pytorch.core.mixins.hparams_mixin import HyperparametersMixin, _given_hyperparameters
from lightning.pytorch.utilities.parsing import collect_init_args
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau
from torchmetrics import Metric
from torchmetrics.classification import MulticlassAccuracy, MulticlassCalibrationError

from lightning_flip.models.cyclic_cosine import CyclicCosine

__all__ = ["Classifier", "momentum_sgd"]

_INPUT_KEYS = ("input", "inputs", "x", "image", "images", "pixel_values", "features")
_OBJECTS = ("network", "optimizer", "lr_scheduler")
_TARGET_KEYS = ("target", "label", "labels", "y")


def momentum_sgd(parameters: Iterable[Any]) -> Optimizer:
    """Build the classifier's default optimizer: SGD, learning rate 0.05, momentum 0.9, weight decay 5e-4."""
    # A named function and not a lambda, so that strategies that spawn processes can pickle the module.
    return torch.optim.SGD(parameters, lr=0.05, momentum=0.9, weight_decay=5e-4)


class Classifier(LightningModule):
    """Trains a network with mean cross-entropy and reports how well it classifies and how well it is calibrated.

    Logs ``train_loss`` (mean over the epoch) and, per pass over the data, ``val_loss``, ``val_acc`` and ``val_ece``
    (``test_`` in tests): cross-entropy in nats, top-1 accuracy in [0, 1] and expected calibration error in [0, 1]
    with 15 bins. If there are several validation or test loaders, those after the first append their number:
    ``val_acc_1``. No name has a slash, so that ``monitor=`` takes each of them.

    A batch is a tuple or list ``(input, target, ...)``, or a mapping with the target under target, label, labels or
    y; override :meth:`split_batch` for anything else.

    **Checkpoints.** Hyperparameters keep plain values only (numbers, strings, booleans and lists of them), so
    that the file loads with ``weights_only=True``. Give the objects again to load one:
    ``Classifier.load_from_checkpoint(path, network=MLP(64, 10))``. Under LightningCLI the whole configuration is kept,
    class paths included, and ``Classifier.load_from_checkpoint(path)`` builds the network by itself.

    Args:
        network: maps inputs to logits ``[B, K]``.
        optimizer: called with the module's parameters. In YAML: ``class_path`` and ``init_args`` of an optimizer.
        lr_scheduler: called with the optimizer and stepped once per epoch; ``ReduceLROnPlateau`` follows
            ``val_loss``. None keeps the learning rate. A cosine over the whole run needs ``T_max`` = ``max_epochs``.
            ``CyclicCosine`` with ``steps_per_epoch`` is stepped once per optimizer step.
        num_classes: number of classes ``K``.

    Raises:
        ValueError: if ``num_classes`` is below 2.

    Example:
        >>> from lightning_flip.models import MLP
        >>> model = Classifier(
        ...     MLP(64, 10),
        ...     lr_scheduler=lambda optimizer: torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=30),
        ...     num_classes=10,
        ... )
        >>> model(torch.zeros(2, 1, 8, 8)).shape
        torch.Size([2, 10])
        >>> dict(model.hparams)
        {'num_classes': 10}
    """

    def __init__(
        self,
        network: nn.Module,
        optimizer: Callable[[Iterable[Any]], Optimizer] = momentum_sgd,
        lr_scheduler: Callable[[Optimizer], LRScheduler | ReduceLROnPlateau] | None = None,
        *,
        num_classes: int,
    ) -> None:
        super().__init__()
        if num_classes < 2:
            raise ValueError(
                f"num_classes must be at least 2, got {num_classes}; a binary classifier has two logits here."
            )
        self.save_hyperparameters(ignore=_not_plain(inspect.currentframe()))
        self.network = network
        self.optimizer = optimizer
        self.lr_scheduler = lr_scheduler
        self.num_classes = num_classes
        # One pair of metrics for every evaluation loader, so that several loaders never share a state.
        self.evaluation_metrics = nn.ModuleDict()

    def forward(self, x: Any) -> Tensor:
        """Compute logits ``[B, K]``."""
        logits: Tensor = self.network(x)
        return logits

    def split_batch(self, batch: Any) -> tuple[Any, Tensor]:
        """Take input and target out of a batch; override it for batches of another form.

        Args:
            batch: what the loader yielded, on the module's device.

        Returns:
            The network's input and the target: int64 ``[B]``, or in training also float ``[B, K]``.

        Raises:
            TypeError: if the batch has another form.
        """
        if isinstance(batch, (tuple, list)) and len(batch) >= 2:
            return batch[0], batch[1]
        if isinstance(batch, Mapping):
            key = next((key for key in _TARGET_KEYS if key in batch), None)
            if key is not None:
                return self._input(batch), batch[key]
        raise TypeError(
            "expected a batch (input, target, ...) or a mapping with the target under one of "
            f"{', '.join(_TARGET_KEYS)}; got {_form(batch)}. Override split_batch for batches of this form."
        )

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Compute and log the mean cross-entropy of a batch; returns it, a scalar."""
        x, target = self.split_batch(batch)
        loss = cross_entropy(self(x), target)
        self.log(
            "train_loss", loss, on_step=False, on_epoch=True, prog_bar=True, batch_size=len(target), sync_dist=True
        )
        return loss

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Log ``val_loss``, ``val_acc`` and ``val_ece``."""
        self._evaluate(batch, "val", dataloader_idx)

    def test_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Log ``test_loss``, ``test_acc`` and ``test_ece``."""
        self._evaluate(batch, "test", dataloader_idx)

    def predict_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> Tensor:
        """Compute logits ``[B, K]`` from inputs, alone or in a batch, which need not have a target."""
        if isinstance(batch, Mapping):
            batch = self._input(batch)
        elif isinstance(batch, (tuple, list)):
            batch = batch[0]
        logits: Tensor = self(batch)
        return logits

    def configure_optimizers(self) -> Any:
        """Build the optimizer over all parameters, those that a mixin added included, and the scheduler."""
        optimizer = self.optimizer(self.parameters())
        if self.lr_scheduler is None:
            return optimizer
        scheduler = self.lr_scheduler(optimizer)
        every_step = isinstance(scheduler, CyclicCosine) and scheduler.steps_per_epoch > 1
        interval = "step" if every_step else "epoch"
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": scheduler, "interval": interval, "monitor": "val_loss"},
        }

    def _evaluate(self, batch: Any, split: str, loader: int) -> None:
        x, target = self.split_batch(batch)
        logits = self(x).float()
        suffix = f"_{loader}" if loader else ""

        def log(name: str, value: Any, **options: Any) -> None:
            self.log(
                f"{split}_{name}{suffix}",
                value,
                on_step=False,
                on_epoch=True,
                add_dataloader_idx=False,
                batch_size=len(target),
                **options,
            )

        log("loss", cross_entropy(logits, target), sync_dist=True, prog_bar=not loader)
        # Probabilities, because torchmetrics takes logits that happen to be in [0, 1] for probabilities.
        probabilities = logits.softmax(-1)
        for name in ("acc", "ece"):
            key = f"{split}_{name}{suffix}"
            if key not in self.evaluation_metrics:
                self.evaluation_metrics[key] = self._metric(name).to(self.device)
            metric = self.evaluation_metrics[key]
            assert isinstance(metric, Metric)  # nn.ModuleDict forgets the type
            metric.update(probabilities, target)
            # Named, because Lightning looks for a module's metrics only once, before later loaders have theirs.
            log(name, metric, metric_attribute=f"evaluation_metrics.{key}", prog_bar=name == "acc" and not loader)

    def _metric(self, name: str) -> Metric:
        if name == "acc":
            return MulticlassAccuracy(self.num_classes, average="micro")
        return MulticlassCalibrationError(self.num_classes, n_bins=15, norm="l1")

    def _input(self, batch: Mapping[str, Any]) -> Any:
        key = next((key for key in _INPUT_KEYS if key in batch), None)
        if key is None:
            raise TypeError(
                f"expected the input under one of {', '.join(_INPUT_KEYS)}; got {_form(batch)}. "
                "Override split_batch and predict_step for batches of this form."
            )
        return batch[key]


def _form(batch: Any) -> str:
    if isinstance(batch, Mapping):
        return f"a {type(batch).__name__} with the keys {', '.join(map(str, batch))}"
    return f"a {type(batch).__name__}" + (f" of {len(batch)}" if isinstance(batch, (tuple, list)) else "")


def _not_plain(frame: Any) -> list[str]:
    """Names of constructor arguments, subclasses' included, that do not belong into a checkpoint."""
    if _given_hyperparameters.get() is not None:
        return []  # LightningCLI: what will be saved is the configuration, which is plain throughout
    arguments = collect_init_args(frame, [], classes=(HyperparametersMixin,))
    return [name for given in arguments for name, value in given.items() if name in _OBJECTS or not _is_plain(value)]


def _is_plain(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return all(map(_is_plain, value))
    return value is None or type(value) in (bool, int, float, str)
