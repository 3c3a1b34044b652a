"""Two ranks against one: the same weights, or for methods that look at a rank's batch as a whole, those of numpy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.mixins.helpers import LitNet
from tests.mixins.pairing import Keep, Notes, replay, start_of
from tests.sweep.fits import EPOCHS, data, fit, made
from tests.sweep.settings import SETTINGS, Setting, swept

ALONE = pytest.mark.parametrize("setting", [swept(setting) for setting in SETTINGS if not setting.together])
TOGETHER = pytest.mark.parametrize("setting", [swept(setting) for setting in SETTINGS if setting.together])


class Kept(Keep):
    """Writes down weights; and notes, where a module makes any."""

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        pl_module.given = getattr(pl_module, "given", [])
        super().on_train_end(trainer, pl_module)


def of_ranks(setting: Setting, world: int, folder: Path, module: Any = LitNet) -> list[Any]:
    """Notes and weights of every rank; each has its share of the same batches."""
    folder.mkdir()
    strategy = "ddp_fork" if world > 1 else "auto"
    options = {"devices": world, "strategy": strategy, "use_distributed_sampler": False}
    fit(setting, made(setting, module), data(world=world), Kept(folder), **options)
    return [torch.load(folder / f"rank{rank}.pt", weights_only=False) for rank in range(world)]


def close(one: Any, other: Any) -> None:
    assert one.keys() == other.keys()
    for name, value in one.items():
        np.testing.assert_allclose(value, other[name], rtol=0, atol=1e-5, err_msg=name)


@ALONE
def test_two_ranks_are_one(setting: Setting, tmp_path: Path) -> None:
    ((_, one),) = of_ranks(setting, 1, tmp_path / "one")
    for _, weights in of_ranks(setting, 2, tmp_path / "two"):
        close(weights, one)


@TOGETHER
def test_two_ranks_are_the_replay_of_what_each_of_them_saw(setting: Setting, tmp_path: Path) -> None:
    ranks = of_ranks(setting, 2, tmp_path / "two", Notes)
    net = start_of(made(setting))
    assert setting.replay is not None
    notes = [given for given, _ in ranks]
    assert [len(steps) for steps in notes] == [3 * EPOCHS] * 2
    replay(net, notes, setting.replay(3))
    for _, weights in ranks:
        close(weights, net.weights)


@TOGETHER
def test_two_ranks_are_not_one_for_methods_that_are_replayed(setting: Setting, tmp_path: Path) -> None:
    """Otherwise they had to be compared with one."""
    ((_, one),) = of_ranks(setting, 1, tmp_path / "one")
    (_, two), _ = of_ranks(setting, 2, tmp_path / "two")
    assert max(float((two[name] - value).abs().max()) for name, value in one.items()) > 1e-5
