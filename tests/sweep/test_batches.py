"""Batches of one, two classes, batches that are dicts: each run is the numpy loop."""

from __future__ import annotations

import numpy as np
import pytest

from tests.mixins.helpers import LitNet, inputs, network
from tests.mixins.pairing import Notes, replay, start_of
from tests.oracles.retrospection import cross_entropy_loop
from tests.sweep.fits import EPOCHS, LitNamed, Named, batches, data, fit, identical, made, numbers, points
from tests.sweep.oracles import Run
from tests.sweep.settings import Setting, every_setting

LR = 0.05  # a batch of one takes 48 steps

every_size = pytest.mark.parametrize(
    ("classes", "size"), [(4, 8), (4, 1), (2, 8), (2, 1)], ids=lambda number: str(number)
)


@every_size
@every_setting
def test_a_run_is_the_numpy_loop(setting: Setting, classes: int, size: int) -> None:
    run = Run(classes, batches(size), LR)
    model = made(setting, LitNet if setting.replay is None else Notes, network(classes), LR)
    net = start_of(model)
    fit(setting, model, data(size, points(classes)))
    if setting.replay is not None:
        replay(net, [model.given], setting.replay(len(run.batches[0])), LR)
        weights = dict(net.weights)
    else:
        assert setting.oracle is not None
        weights = {f"net.{name}": value for name, value in setting.oracle(run).weights.items()}
    assert model.state_dict().keys() == weights.keys()
    for name, value in model.state_dict().items():
        np.testing.assert_allclose(value, weights[name], rtol=0, atol=setting.tolerance, err_msg=name)
    if size == 1 and setting.together:
        return  # a sample that is mixed with itself is as it was
    plain = cross_entropy_loop(run.net, inputs(), run.y, run.batches, LR).weights
    assert max(np.abs(weights[f"net.{name}"] - value).max() for name, value in plain.items()) > 1e-3


@every_setting
def test_batches_that_are_dicts_train_the_same(setting: Setting) -> None:
    found = []
    for module, dataset in ((LitNet, points()), (LitNamed, Named(*points().tensors))):
        model = made(setting, module)
        found.append((fit(setting, model, data(dataset=dataset)).losses, numbers(model)))
    assert len(found[0][0]) == 3 * EPOCHS
    assert found[0][0] == found[1][0]
    assert identical(found[0][1], found[1][1])
