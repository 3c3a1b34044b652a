"""Single precision, bf16-mixed and bf16-true: finite, near each other, and not the same."""

from __future__ import annotations

import numpy as np
import torch

from tests.mixins.helpers import LitNet, network
from tests.oracles.retrospection import Floats
from tests.sweep.fits import EPOCHS, data, fit, made, points
from tests.sweep.settings import Setting, every_setting

# bfloat16 keeps 8 bits, so that a logit is wrong by up to 1/256 of itself; over a batch such errors cancel out in part.
# Losses of this network differ by 1/1000 at most.
RELATIVE = 0.01
# Weights of bf16-true are rounded in every step.
ROUNDED = 0.05


def losses(setting: Setting, precision: str) -> Floats:
    model = made(setting, LitNet, network().float(), lr=0.05)
    recorder = fit(setting, model, data(dataset=points(dtype=torch.float32)), precision=precision)
    weights = torch.bfloat16 if precision == "bf16-true" else torch.float32
    assert all(value.dtype == weights for value in model.state_dict().values())
    assert all(table.dtype == torch.float32 for table in model._term_loop.tables.values())
    assert all(value.isfinite().all() for value in model.state_dict().values())
    return np.array(recorder.losses)


@every_setting
def test_half_precision_is_near_single_precision(setting: Setting) -> None:
    single = losses(setting, "32-true")
    assert len(single) == 3 * EPOCHS
    for precision, near in (("bf16-mixed", RELATIVE), ("bf16-true", ROUNDED)):
        half = losses(setting, precision)
        np.testing.assert_allclose(half, single, rtol=near, atol=0)
        assert not np.array_equal(half, single)
