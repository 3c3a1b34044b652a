"""Single precision and bf16-mixed: both finite, near each other, and not the same."""

from __future__ import annotations

import numpy as np
import torch

from tests.mixins.helpers import LitNet
from tests.mixins.updates import network
from tests.oracles.retrospection import Floats
from tests.sweep.fits import EPOCHS, data, fit, made, points
from tests.sweep.settings import Setting, every_setting

# bfloat16 keeps 8 bits, so that a logit is wrong by up to 1/256 of itself; over a batch such errors cancel out in part.
# Losses of this network differ by 1/1000 at most.
RELATIVE = 0.01


def losses(setting: Setting, precision: str) -> Floats:
    model = made(setting, LitNet, network().float(), lr=0.05)
    recorder = fit(setting, model, data(dataset=points(dtype=torch.float32)), precision=precision)
    assert all(value.dtype == torch.float32 for value in model.state_dict().values())
    assert all(table.dtype == torch.float32 for table in model._term_loop.tables.values())
    assert all(value.isfinite().all() for value in model.state_dict().values())
    return np.array(recorder.losses)


@every_setting
def test_bf16_mixed_is_near_single_precision(setting: Setting) -> None:
    single, mixed = losses(setting, "32-true"), losses(setting, "bf16-mixed")
    assert len(single) == 3 * EPOCHS
    assert np.isfinite(single).all()
    assert np.isfinite(mixed).all()
    np.testing.assert_allclose(mixed, single, rtol=RELATIVE, atol=0)
    assert not np.array_equal(mixed, single)
