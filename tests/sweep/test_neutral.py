"""A term of weight zero leaves training as it is to the last bit, and of weight one it does not; neither draws."""

from __future__ import annotations

import random
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from tests.mixins.helpers import D, H, K, LitNet
from tests.sweep.fits import fit, identical, made, numbers, points
from tests.sweep.settings import Setting, every_setting


class Noise(TensorDataset):
    """Draws from the global generators for every sample, as augmentations do."""

    def __getitem__(self, index: Any) -> Any:
        x, y = super().__getitem__(index)
        return x + 0.1 * torch.randn(x.shape) + 0.1 * random.random() + 0.1 * float(np.random.rand()), y  # noqa: NPY002


def trained(setting: Setting | None, **options: Any) -> tuple[dict[str, Tensor], Tensor]:
    """Weights, and the next numbers that would be drawn; without a setting those of the module alone.

    The order of the samples, their noise and the network's dropout are drawn.
    """
    pl.seed_everything(5, verbose=False)
    net = nn.Sequential(nn.Linear(D, H), nn.Tanh(), nn.Dropout(0.5), nn.Linear(H, K))
    model = LitNet(net, 0.1) if setting is None else made(setting, LitNet, net, 0.1, **options)
    loader = DataLoader(Noise(*points(dtype=torch.float32).tensors), batch_size=5, shuffle=True)
    fit(setting, model, loader)
    drawn = [torch.rand(()).item(), random.random(), float(np.random.rand())]  # noqa: NPY002
    return numbers(model), torch.tensor(drawn, dtype=torch.float64)


@every_setting
def test_weight_zero_is_training_without_the_method_and_one_is_not(setting: Setting) -> None:
    (plain, drawn), (off, drawn_off) = trained(None), trained(setting, term_weight=0.0)
    assert identical(off, plain)
    assert drawn_off.equal(drawn)
    on, drawn_on = trained(setting, term_weight=1.0)
    if not setting.held:  # partners run through the network's dropout as well
        assert drawn_on.equal(drawn)
    assert on.keys() >= plain.keys()
    assert not identical({name: on[name] for name in plain}, plain)


@every_setting
def test_a_run_repeats_itself(setting: Setting) -> None:
    """So that a difference of weight one is the method's, and not chance."""
    assert identical(trained(setting)[0], trained(setting)[0])
