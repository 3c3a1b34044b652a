"""ExactResume by itself: all three generators go on where they were."""

from __future__ import annotations

import random
from pathlib import Path

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from lightning_flip.callbacks import ExactResume
from tests.callbacks.helpers import Watched, loader, make_trainer, run_ranks

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


class RankDraws(Draws):
    """Every rank begins with a seed of its own, and writes down what it drew."""

    def __init__(self, seed: int, folder: str) -> None:
        super().__init__()
        self.seed, self.folder = seed, folder

    def setup(self, trainer, pl_module, stage):
        own = self.seed + trainer.global_rank  # here, because Lightning gives all ranks of a started group one seed
        torch.manual_seed(own)
        np.random.seed(own)  # noqa: NPY002 - what libraries draw from
        random.seed(own)

    def on_fit_end(self, trainer, pl_module):
        torch.save(self.drawn, Path(self.folder, f"drawn-{trainer.global_rank}.pt"))


def fit_on_two_ranks(folder, seed, ckpt=None):
    callbacks = [RankDraws(seed, folder), every_batch(), ExactResume()]
    trainer = make_trainer(devices=2, strategy="ddp", callbacks=callbacks, limit_val_batches=0)
    trainer.fit(NoValidation(), loader(2 * COUNT - 1), ckpt_path=ckpt, weights_only=True)


@pytest.mark.parametrize("after", [3, 5])
def test_every_rank_goes_on_with_its_own_random_states(after):
    """Five batches an epoch: resumed inside of the first one and at its end."""
    drawn = {}
    for folder, seed, ckpt in (("whole", 10, None), ("resumed", 20, f"saved/step={after}.ckpt")):
        Path(folder).mkdir()
        assert run_ranks(2, fit_on_two_ranks, folder, seed, ckpt) == [0, 0]
        drawn[folder] = [torch.load(Path(folder, f"drawn-{rank}.pt")) for rank in range(2)]
    whole, resumed = drawn["whole"], drawn["resumed"]
    assert [len(draws) for draws in whole] == [15, 15]
    for mine, other in zip(*whole, strict=True):  # else a rank could not tell its states from the other's
        assert all(left != right for left, right in zip(mine, other, strict=True))
    assert resumed == [draws[after:] for draws in whole]


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
