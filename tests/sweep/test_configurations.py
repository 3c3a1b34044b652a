"""Every method's configuration: it trains, and a run that is stopped, saved and resumed is the whole one bit for bit.

This is the case (a) of the contract: a shuffled DataLoader without workers, at an epoch's end.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.callbacks.helpers import assert_same
from tests.mixins.helpers import Recorder
from tests.sweep.configured import built
from tests.sweep.settings import Setting, every_setting

pytestmark = [
    pytest.mark.usefixtures("runs"),
    pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty"),  # resumed where it was begun
]

# What a resumed run has to have in common with the whole one: weights, optimizer, schedule, and the method's own.
KEPT = ("state_dict", "optimizer_states", "lr_schedulers", "lightning_flip", "epoch", "global_step")


def fitted(setting: Setting, root: str, epochs: int, *words: str, resume: str | None = None) -> tuple[Any, list[float]]:
    """A fit of ``epochs`` epochs from the configuration, in a module and Trainer of its own; and its losses."""
    run = built(
        setting.config,
        "--trainer.logger=false",  # its folder has a new number in each run
        f"--trainer.default_root_dir={root}",
        f"--trainer.max_epochs={epochs}",
        f"--model.init_args.total_epochs={setting.epochs}",  # the M of a run that is stopped early
        *(f"--model.init_args.{name}={value}" for name, value in setting.options.items()),
        *setting.overrides,
        "--trainer.callbacks+=lightning_flip.ExactResume",
        *words,
    )
    assert isinstance(run.model, setting.method)
    recorder = Recorder()
    run.trainer.callbacks.insert(0, recorder)
    run.trainer.fit(run.model, run.datamodule, ckpt_path=resume, weights_only=True if resume else None)
    return run.trainer, recorder.losses


def kept(trainer: Any, name: str) -> dict[str, Any]:
    """What of a finished run is in a checkpoint."""
    trainer.save_checkpoint(name)
    saved = torch.load(name, weights_only=True)
    return {key: saved[key] for key in KEPT if key in saved}


@every_setting
def test_a_configuration_trains_and_a_resumed_run_is_the_whole_one(setting: Setting) -> None:
    trainer, losses = fitted(setting, "whole", setting.epochs)
    assert torch.tensor(losses).isfinite().all()
    whole, first = kept(trainer, "whole.ckpt"), setting.epochs - 1
    trainer, before = fitted(setting, "parts", first)
    trainer.save_checkpoint("first.ckpt")
    # Seeded otherwise, another network is built and would see the data in another order.
    resumed, after = fitted(setting, "parts", setting.epochs, "--seed_everything=7", resume="first.ckpt")
    assert before + after == losses
    assert_same(kept(resumed, "resumed.ckpt"), whole)
    # What was saved and resumed was the method at work.
    _, plain = fitted(setting, "plain", setting.epochs, "--model.init_args.term_weight=0")
    assert len(losses) == len(plain)
    assert losses[-1] != pytest.approx(plain[-1], abs=1e-4)
