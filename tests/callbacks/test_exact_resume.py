"""ExactResume by itself: all three generators go on where they were."""

from __future__ import annotations

import random

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from lightning_flip.callbacks import ExactResume
from tests.callbacks.helpers import Watched, loader, make_trainer

pytestmark = [
    pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists"),  # a resumed run's always does
    pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before the epoch"),
]
COUNT = 17


def every_batch():
    return ModelCheckpoint("saved", filename="{step}", save_top_k=-1, every_n_train_steps=1)


class Draws(pl.Callback):
    """Notes what the three generators give at every batch."""

    def __init__(self) -> None:
        self.drawn: list[tuple[float, float, float]] = []

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.drawn.append((float(torch.rand(())), float(np.random.rand()), random.random()))  # noqa: NPY002


@pytest.mark.parametrize("after", [3, 6, 5, 10])
def test_exact_resume_alone_goes_on_with_all_three_generators(after):
    def fit(seed, ckpt=None, exact=True):
        pl.seed_everything(seed, verbose=False)
        draws = Draws()
        callbacks = [draws, every_batch(), *([ExactResume()] if exact else [])]
        trainer = make_trainer(callbacks=callbacks, limit_val_batches=0)
        trainer.fit(NoValidation(), loader(COUNT), ckpt_path=ckpt, weights_only=True)
        return draws.drawn

    whole = fit(1)
    assert fit(2, f"saved/step={after}.ckpt") == whole[after:]


class NoValidation(Watched):
    validation_step = pl.LightningModule.validation_step


def test_another_number_of_ranks_gets_fresh_random_states(tmp_path):
    trainer = make_trainer(max_epochs=1, callbacks=[ExactResume()])
    trainer.fit(Watched(), loader(COUNT), loader(6, seed=1))
    trainer.save_checkpoint("end.ckpt")
    checkpoint = torch.load("end.ckpt", weights_only=True)
    checkpoint["callbacks"]["ExactResume"]["ranks"] *= 2
    torch.save(checkpoint, "two.ckpt")
    with pytest.warns(UserWarning, match="random states of 2 ranks, this run has 1"):
        make_trainer(callbacks=[ExactResume()]).fit(
            Watched(), loader(COUNT), loader(6, seed=1), ckpt_path="two.ckpt", weights_only=True
        )


def test_exact_resume_ignores_checkpoints_outside_of_fit():
    trainer = make_trainer(max_epochs=1, callbacks=[ExactResume()])
    trainer.fit(Watched(), loader(COUNT), loader(6, seed=1))
    trainer.save_checkpoint("end.ckpt")
    exact = ExactResume()
    trainer = make_trainer(callbacks=[exact])
    trainer.validate(Watched(), loader(6, seed=1), ckpt_path="end.ckpt", verbose=False, weights_only=True)
    assert exact._loaded is None


def test_a_checkpoint_saved_after_the_fit_holds_the_random_states():
    def fit(epochs, seed, ckpt=None):
        pl.seed_everything(seed, verbose=False)
        model = Watched(noise=True)
        trainer = make_trainer(max_epochs=epochs, callbacks=[ExactResume()])
        train = loader(COUNT, shuffle=True)
        trainer.fit(model, train, loader(6, seed=1), ckpt_path=ckpt, weights_only=True)
        trainer.save_checkpoint(f"{epochs}.ckpt")
        return model.seen

    whole = fit(3, 1)
    fit(2, 1)
    assert fit(3, 2, "2.ckpt") == whole
