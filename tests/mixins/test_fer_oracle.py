"""FER through a real Trainer against the numpy loop: losses, tables, masks and weights, under every option."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest
import torch

from lightning_flip.functional import _closed_form
from lightning_flip.functional.losses import widen
from lightning_flip.mixins import FlippingErrorReduction
from tests.mixins.helpers import (
    EPOCHS,
    LR,
    D,
    H,
    LitNet,
    N,
    as_torch,
    differences,
    inputs,
    labels,
    loader,
    shuffled_batches,
    train,
)
from tests.oracles.retrospection import FerOptions, FerTrace, NumpyNet, cross_entropy_loop, fer_loop

OPTIONS = [
    {"restrict": r, "average": a, "initial": i, "confidence": c, "temperature_squared": s}
    for r, a, i, c, s in product(
        ("correct", "all"), (True, False), ("zeros", "copy"), ("label", "predicted"), (True, False)
    )
]


class Robust(FlippingErrorReduction, LitNet):
    """The mixin in front of a user's module."""


def expected(classes: int, options: dict[str, Any], *, total: int = EPOCHS, batches: Any = None) -> FerTrace:
    net = NumpyNet.random(D, H, classes, seed=0)
    oracle = FerOptions(**options, total_epochs=total)
    return fer_loop(net, inputs(), labels(classes), batches or shuffled_batches(), oracle, LR)


def found(classes: int, trace: FerTrace, options: dict[str, Any], **trainer: Any) -> list[str]:
    names = {"temperature": "fer_temperature", "mu": "fer_mu"}
    net = NumpyNet.random(D, H, classes, seed=0)
    model = Robust(as_torch(net), **{names.get(name, name): value for name, value in options.items()})
    recorder = train(model, loader(inputs(), labels(classes), shuffled_batches()), "behavior", **trainer)
    return differences(model, recorder, trace)


def name_of(options: dict[str, Any]) -> str:
    return "-".join(str(value) for value in options.values())


@pytest.mark.parametrize("options", OPTIONS, ids=name_of)
def test_every_combination_of_options_is_the_numpy_loop(options: dict[str, Any]) -> None:
    """tests/sweep has the default options with two classes."""
    assert found(4, expected(4, options), options) == []


# Whether behaviors are averaged and what they begin with is the table's matter, however a loss is derived.
OPTIONS_OF_THE_LOSS = [options for options in OPTIONS if options["average"] and options["initial"] == "copy"]


@pytest.mark.parametrize("options", OPTIONS_OF_THE_LOSS, ids=name_of)
def test_the_loss_by_autograd_is_the_numpy_loop(options: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_closed_form, "FUSED", False)
    assert found(4, expected(4, options), options) == []


@pytest.mark.parametrize("options", [{"temperature": 2.0}, {"mu": 0.3}, {"temperature": 1.0, "mu": 2.0}])
def test_temperature_and_mu(options: dict[str, Any]) -> None:
    assert found(4, expected(4, options), options) == []


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize(
    "options",
    [
        {"alpha_range": (1.0, 0.5)},
        {"beta_range": (0.1, 2.0)},
        {"alpha_range": (1.0, 1.0), "beta_range": (0.0, 0.5), "restrict": "all"},
        {"alpha_range": (0.0, 0.0), "beta_range": (1.0, 1.0), "temperature_squared": False},  # the behavior alone
    ],
    ids=str,
)
def test_where_the_weights_begin_and_end(options: dict[str, Any], fused: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_closed_form, "FUSED", fused)
    assert found(4, expected(4, options), options) == []
    assert expected(4, options).step_losses != expected(4, {}).step_losses


def test_ends_that_a_file_gives_as_lists_are_the_same() -> None:
    options: dict[str, Any] = {"alpha_range": [1, 0.5], "beta_range": [0, 1]}
    assert found(4, expected(4, {name: tuple(ends) for name, ends in options.items()}), options) == []


def test_total_epochs_stands_above_the_trainers_own_number() -> None:
    assert found(4, expected(4, {}, total=10), {"total_epochs": 10}) == []


@pytest.mark.parametrize(("steps", "total"), [(20, 4), (16, 4), (15, 3)])
def test_max_steps_gives_the_number_of_epochs(steps: int, total: int) -> None:
    model = Robust(as_torch(NumpyNet.random(D, H, 4, seed=0)))
    recorder = train(model, loader(inputs(), labels(4), shuffled_batches()), max_epochs=-1, max_steps=steps)
    assert recorder.losses == pytest.approx(expected(4, {}, total=total).step_losses[:steps], abs=1e-10)


def test_max_steps_count_accumulated_batches_together() -> None:
    net, batches = NumpyNet.random(D, H, 4, seed=0), [list(shuffled_batches()[0][:4])] * EPOCHS
    model = Robust(as_torch(net), lr=0.0)
    data = loader(inputs(), labels(4), batches)
    recorder = train(model, data, max_epochs=-1, max_steps=8, accumulate_grad_batches=2)
    trace = fer_loop(net, inputs(), labels(4), batches, FerOptions(total_epochs=4), 0.0)
    assert 2 * np.array(recorder.losses) == pytest.approx(trace.step_losses, abs=1e-10)


@pytest.mark.parametrize(
    ("batches", "accumulated", "options", "total"),
    [
        (
            5,
            4,
            {"max_epochs": -1, "max_steps": 10},
            5,
        ),  # an epoch has two steps: Lightning steps on its last batch, too
        (5, 1, {"max_epochs": -1, "max_steps": 10}, 2),
        (5, 1, {"max_epochs": -1, "max_steps": 11}, 3),
        (5, 1, {"max_epochs": 2, "max_steps": 100}, 2),
        (5, 1, {"max_epochs": 7, "max_steps": 10}, 2),
        (5, 2, {"max_epochs": 7}, 7),
    ],
)
def test_m_is_the_number_of_epochs_that_there_will_be(
    batches: int, accumulated: int, options: dict[str, Any], total: int
) -> None:
    seen = []

    class Watched(Robust):
        def on_train_batch_end(self, *args: Any) -> None:
            seen.append(self._term_loop.schedule())

    model = Watched(as_torch(NumpyNet.random(D, H, 4, seed=0)))
    data = loader(inputs(), labels(4), [[np.array([n, n + 1]) for n in range(batches)]] * 8)
    train(model, data, accumulate_grad_batches=accumulated, **options)
    assert {m for _, m in seen} == {total}
    assert max(k for k, _ in seen) == total


def test_the_data_make_the_comparison_mean_something() -> None:
    """Samples repeat in a batch and in an epoch, some are left out, and T neither holds everywhere nor nowhere."""
    for epoch in shuffled_batches():
        assert min(map(len, epoch)) == 1
        assert any(len(set(batch.tolist())) < len(batch) for batch in epoch)
        assert len({int(index) for batch in epoch for index in batch}) < N < sum(map(len, epoch)) + 4
    for classes in (2, 4):
        trace = expected(classes, {})
        assert all(0 < mask.sum() < N for mask in trace.restricted[:-1])
        net = NumpyNet.random(D, H, classes, seed=0)
        plain = cross_entropy_loop(net, inputs(), labels(classes), shuffled_batches(), LR)
        assert abs(plain.step_losses[-1] - trace.step_losses[-1]) > 1e-3


@pytest.mark.parametrize(
    "other",
    [
        {"restrict": "all"},
        {"average": False},
        {"initial": "copy"},
        {"restrict": "all", "confidence": "predicted"},  # of a right prediction they are one
        {"temperature_squared": False},
        {"mu": 0.9},
        {"temperature": 4.9},
    ],
    ids=str,
)
def test_every_option_has_an_effect(other: dict[str, Any]) -> None:
    options = {"restrict": "all"} if "confidence" in other else {}
    losses, others = (expected(4, chosen).step_losses for chosen in (options, other))
    assert np.abs(np.array(losses) - others).max() > 1e-6


def test_halved_table_stays_near_the_double_one() -> None:
    trace = expected(4, {})
    model = Robust(as_torch(NumpyNet.random(D, H, 4, seed=0)), table_dtype="float16")
    recorder = train(model, loader(inputs(), labels(4), shuffled_batches()), "behavior")
    table = model._term_loop.tables["behavior"]
    assert table.dtype == torch.float16
    assert widen(table.rows(torch.arange(N))).dtype == torch.float32
    assert recorder.losses == pytest.approx(trace.step_losses, abs=0.05)
    assert recorder.losses != pytest.approx(trace.step_losses, abs=1e-10)
