"""Metrics with arguments of their own, logged by a Lightning module."""

from __future__ import annotations

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_flip.metrics import Churn, FlippingError, NegativeFlipRate, RelativeFlippingError
from tests.oracles.flips import flip_rates, flipping_errors

SAMPLES, EPOCHS = 12, 3
LABELS = torch.arange(SAMPLES) % 3


def scripted_predictions() -> Tensor:
    """What the model predicts in each epoch; row 0 is also taken for the old model."""
    generator = torch.Generator().manual_seed(3)
    wrong = torch.rand(EPOCHS, SAMPLES, generator=generator) < 0.5
    return torch.where(wrong, (LABELS + 1) % 3, LABELS)


class Scripted(LightningModule):
    """Predicts by a script, so that each epoch's errors are known beforehand."""

    def __init__(self, by_forward: bool) -> None:
        super().__init__()
        self.by_forward = by_forward
        self.weight = nn.Parameter(torch.zeros(()))
        self.val_flipping_error = FlippingError(SAMPLES)
        self.val_relative_flipping_error = RelativeFlippingError(SAMPLES)
        self.val_negative_flip_rate = NegativeFlipRate()
        self.val_churn = Churn()

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        return self.weight**2

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        if self.trainer.sanity_checking:
            return
        (index,) = batch
        script = scripted_predictions()
        preds, old_preds, target = script[self.current_epoch][index], script[0][index], LABELS[index]
        for name, arguments in {
            "val_flipping_error": (preds, target, index),
            "val_relative_flipping_error": (preds, target, index),
            "val_negative_flip_rate": (preds, target, old_preds),
            "val_churn": (preds, old_preds),
        }.items():
            metric = getattr(self, name)
            if self.by_forward:
                metric(*arguments)
            else:
                metric.update(*arguments)
            self.log(name, metric)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)

    def loader(self) -> DataLoader:
        return DataLoader(TensorDataset(torch.arange(SAMPLES)), batch_size=5)

    train_dataloader = val_dataloader = loader


class Logged(Callback):
    def __init__(self) -> None:
        self.epochs: list[dict[str, float]] = []

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.sanity_checking:
            self.epochs.append({name: value.item() for name, value in trainer.callback_metrics.items()})


def trainer(logged: Logged, epochs: int, sanity: int) -> Trainer:
    return Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=sanity,
        callbacks=[logged],
    )


def expected_epochs() -> list[dict[str, float]]:
    script = scripted_predictions().numpy()
    correct = script == LABELS.numpy()
    epochs = []
    for epoch, preds in enumerate(script):
        fe, rfe = flipping_errors(correct, epoch)
        rates = flip_rates(script[0], preds, LABELS.numpy())
        epochs.append(
            {
                "val_flipping_error": fe,
                "val_relative_flipping_error": rfe,
                "val_negative_flip_rate": rates["nfr"],
                "val_churn": rates["churn"],
            }
        )
    return epochs


quiet = pytest.mark.filterwarnings(
    "ignore:.*does not have many workers:UserWarning",
    "ignore:GPU available but not used:UserWarning",
    "ignore:The number of training batches:UserWarning",
    "ignore:.isinstance.treespec, LeafSpec.. is deprecated:FutureWarning",  # Lightning's call of torch
)


@quiet
@pytest.mark.parametrize("by_forward", [True, False], ids=["forward", "update"])
@pytest.mark.parametrize("sanity", [0, 2])
def test_logged_values_match_the_loop_in_every_epoch(by_forward: bool, sanity: int) -> None:
    logged = Logged()
    trainer(logged, EPOCHS, sanity).fit(Scripted(by_forward))
    expected = expected_epochs()
    assert expected[-1]["val_flipping_error"] > 0
    assert len(logged.epochs) == EPOCHS
    for values, wanted in zip(logged.epochs, expected, strict=True):
        assert values == pytest.approx(wanted)


@quiet
def test_a_resumed_run_goes_on_where_the_checkpoint_was(tmp_path) -> None:
    first = trainer(Logged(), EPOCHS - 1, 0)
    first.fit(Scripted(by_forward=False))
    first.save_checkpoint(tmp_path / "run.ckpt")
    logged = Logged()
    trainer(logged, EPOCHS, 0).fit(Scripted(by_forward=False), ckpt_path=tmp_path / "run.ckpt")
    assert len(logged.epochs) == 1
    assert logged.epochs[0] == pytest.approx(expected_epochs()[-1])
