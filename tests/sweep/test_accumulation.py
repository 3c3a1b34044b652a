"""``accumulate_grad_batches=2``: one step on the mean of the gradients of two batches, and each visit counts once."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tests.callbacks.helpers import assert_same
from tests.mixins.helpers import LitNet, network
from tests.sweep.fits import EPOCHS, data, fit, made
from tests.sweep.settings import Setting, every_setting

STEPS = 6 * EPOCHS


class Stepping(LitNet):
    """Notes the gradient of every optimizer step."""

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        self.stepped: list[Tensor] = getattr(self, "stepped", [])
        gradients = [weight.grad for weight in self.parameters() if weight.grad is not None]
        self.stepped.append(torch.cat([gradient.flatten() for gradient in gradients]))


def kept(model: Any) -> dict[str, Any]:
    """What the method's tables hold."""
    return {name: table.state_dict() for name, table in model._term_loop.tables.items()}


@every_setting
def test_two_batches_are_one_step_on_the_mean_of_their_gradients(setting: Setting) -> None:
    """The weights stand still, so that the steps of two runs can be compared."""
    single, double = (made(setting, Stepping, lr=0.0) for _ in range(2))
    one, two = fit(setting, single, data(4)), fit(setting, double, data(4), accumulate_grad_batches=2)
    assert [len(model.stepped) for model in (single, double)] == [STEPS, STEPS // 2]
    means = (torch.stack(single.stepped[::2]) + torch.stack(single.stepped[1::2])) / 2
    torch.testing.assert_close(torch.stack(double.stepped), means, rtol=1e-10, atol=1e-14)
    # Lightning divides the loss that it hands on.
    torch.testing.assert_close(2 * torch.tensor(two.losses), torch.tensor(one.losses), rtol=1e-12, atol=0)
    assert_same(kept(double), kept(single))


@every_setting
def test_the_gradients_are_the_methods(setting: Setting) -> None:
    """Otherwise they could be compared as well without it."""
    method, plain = made(setting, Stepping, lr=0.0), Stepping(network(), lr=0.0)
    fit(setting, method, data(4), accumulate_grad_batches=2)
    fit(None, plain, data(4), accumulate_grad_batches=2)
    width = len(plain.stepped[-1])  # what a method adds comes after the module's own
    assert not method.stepped[-1][:width].allclose(plain.stepped[-1], rtol=1e-3)
