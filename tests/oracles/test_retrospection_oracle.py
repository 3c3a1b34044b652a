"""The numpy oracle against finite differences, hand-computed numbers, closed forms and torch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from torch import nn

from tests.oracles.retrospection import (
    Batches,
    FerOptions,
    Floats,
    Ints,
    LwrOptions,
    NumpyNet,
    cross_entropy,
    cross_entropy_loop,
    fer_loop,
    label_smoothing,
    label_smoothing_loop,
    lwr_loop,
    restricted_loss,
    softmax,
)

N, D, H, K, EPOCHS, LR = 24, 5, 7, 4, 4, 0.5


@pytest.fixture
def net() -> NumpyNet:
    return NumpyNet.random(D, H, K, seed=0)


@pytest.fixture
def x() -> Floats:
    return np.random.default_rng(1).normal(size=(N, D))


@pytest.fixture
def y() -> Ints:
    return np.random.default_rng(2).integers(0, K, size=N)


@pytest.fixture
def batches() -> Batches:
    """Four shuffled epochs of four batches of six."""
    rng = np.random.default_rng(3)
    return [np.split(rng.permutation(N), 4) for _ in range(EPOCHS)]


def frozen_net(logits: list[float]) -> NumpyNet:
    """Answers `logits` to everything; with lr=0 it stays so."""
    k = len(logits)
    return NumpyNet(np.zeros((1, 1)), np.zeros(1), np.zeros((1, k)), np.array(logits))


def numeric_gradient(loss: Callable[[Floats], float], at: Floats, step: float = 1e-6) -> Floats:
    gradient = np.zeros_like(at)
    for position in np.ndindex(at.shape):
        up, down = at.copy(), at.copy()
        up[position] += step
        down[position] -= step
        gradient[position] = (loss(up) - loss(down)) / (2 * step)
    return gradient


def losses_by_name() -> dict[str, Callable[[Floats], tuple[float, Floats]]]:
    full = np.array([0.1, 0.2, 0.3, 0.4])
    return {
        "cross entropy": lambda z: cross_entropy(z, 2),
        "label smoothing": lambda z: label_smoothing(z, 2, 0.1),
        "restricted, full mass": lambda z: restricted_loss(z, 2, full, 0.75, 5.0, True, "cross_entropy"),
        "restricted, 0.3 of the mass": lambda z: restricted_loss(z, 2, 0.3 * full, 0.75, 5.0, True, "cross_entropy"),
        "restricted, no t^2": lambda z: restricted_loss(z, 2, full, 0.5, 5.0, False, "cross_entropy"),
        "restricted, KL": lambda z: restricted_loss(z, 2, full, 0.75, 2.0, True, "kl"),
    }


@pytest.mark.parametrize("name", list(losses_by_name()))
def test_gradient_of_each_loss_is_that_of_finite_differences(name: str) -> None:
    loss = losses_by_name()[name]
    z = np.array([0.4, -1.2, 2.0, 0.7])
    assert_allclose(loss(z)[1], numeric_gradient(lambda at: loss(at)[0], z), atol=1e-7)


@pytest.mark.parametrize("weight", ["W1", "b1", "W2", "b2"])
def test_backward_is_that_of_finite_differences(net: NumpyNet, x: Floats, y: Ints, weight: str) -> None:
    def mean_loss(at: Floats) -> float:
        other = net.copy()
        setattr(other, weight, at)
        return float(np.mean([cross_entropy(z, int(label))[0] for z, label in zip(other.forward(x), y, strict=True)]))

    logits = net.forward(x)
    dlogits = np.array([cross_entropy(z, int(label))[1] for z, label in zip(logits, y, strict=True)]) / N
    assert_allclose(net.backward(dlogits)[weight], numeric_gradient(mean_loss, getattr(net, weight)), atol=1e-8)


@pytest.mark.parametrize("epsilon", [0.0, 0.1])
def test_training_is_that_of_torch(net: NumpyNet, x: Floats, y: Ints, batches: Batches, epsilon: float) -> None:
    model = nn.Sequential(nn.Linear(D, H), nn.Tanh(), nn.Linear(H, K)).double()
    model.load_state_dict({name: torch.from_numpy(value) for name, value in net.to_torch_state().items()})
    optimizer = torch.optim.SGD(model.parameters(), lr=LR)
    steps = []
    for epoch in batches:
        for batch in epoch:
            logits = model(torch.from_numpy(x[batch]))
            loss = nn.functional.cross_entropy(logits, torch.from_numpy(y[batch]), label_smoothing=epsilon)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            steps.append(loss.item())
    trace = label_smoothing_loop(net, x, y, batches, LR, epsilon)
    assert_allclose(trace.step_losses, steps, rtol=1e-12)
    for name, value in model.state_dict().items():
        assert_allclose(trace.weights[name], value.numpy(), rtol=1e-10, atol=1e-12)


def test_no_smoothing_is_cross_entropy(net: NumpyNet, x: Floats, y: Ints, batches: Batches) -> None:
    smooth = label_smoothing_loop(net.copy(), x, y, batches, LR, epsilon=0.0)
    plain = cross_entropy_loop(net, x, y, batches, LR)
    assert_allclose(smooth.step_losses, plain.step_losses, rtol=1e-12)


# Two samples, K = 2, the network always answers (log 3, 0): p = (.75, .25), and at t = 2 b = (r, 1) / (r + 1), r^2 = 3.
# Sample 0 (label 0) is right with c = .75, sample 1 (label 1) is wrong with p_y = .25 and max p = .75.
TWO_X, TWO_Y = np.zeros((2, 1)), np.array([0, 1])
TWO_BATCHES = [[np.array([0, 1])]] * 3
B2 = np.array([0.6339745962155614, 0.36602540378443865])
SOFT = 0.6568063976894718  # -(B2[0] log B2[0] + B2[1] log B2[1])
CE_RIGHT, CE_WRONG = 0.2876820724517809, 1.3862943611198906


def two(**options: object) -> FerOptions:
    return replace(FerOptions(temperature=2.0, total_epochs=3), **options)  # type: ignore[arg-type]


def test_two_samples_by_hand() -> None:
    trace = fer_loop(frozen_net([np.log(3.0), 0.0]), TWO_X, TWO_Y, TWO_BATCHES, two(), lr=0.0)
    mass = [0.5276334472589853, 0.7768698398515702, 0.8946007754381357]  # 1 - exp(-.75 k)
    for k in range(3):
        assert_allclose(trace.behaviors[k], np.array([mass[k] * B2, np.zeros(2)]), rtol=1e-12)
        assert_array_equal(trace.restricted[k], [True, False])
    right = [
        CE_RIGHT,
        0.4 * CE_RIGHT + 0.6 * 4.0 * mass[0] * SOFT,
        0.1 * CE_RIGHT + 0.9 * 4.0 * mass[1] * SOFT,
    ]
    assert_allclose(trace.sample_losses, [[loss, CE_WRONG] for loss in right], rtol=1e-12)
    assert_allclose(trace.step_losses, [(loss + CE_WRONG) / 2 for loss in right], rtol=1e-12)


@pytest.mark.parametrize(
    ("options", "after_first", "after_second"),
    [
        # Masses of the rows of samples 0 and 1; None: never stored.
        ({}, (0.5276334, None), (0.7768698, None)),
        ({"mu": 2.0}, (0.7768698, None), (0.9502129, None)),
        ({"restrict": "all"}, (0.5276334, 0.2211992), (0.7768698, 0.3934693)),
        ({"restrict": "all", "confidence": "predicted"}, (0.5276334, 0.5276334), (0.7768698, 0.7768698)),
        ({"initial": "copy"}, (1.0, None), (1.0, None)),
        ({"restrict": "all", "initial": "copy"}, (1.0, 1.0), (1.0, 1.0)),
        ({"average": False}, (1.0, None), (1.0, None)),
        ({"restrict": "all", "average": False}, (1.0, 1.0), (1.0, 1.0)),
    ],
)
def test_options_on_two_samples_by_hand(
    options: dict[str, object],
    after_first: tuple[float, float | None],
    after_second: tuple[float, float | None],
) -> None:
    trace = fer_loop(frozen_net([np.log(3.0), 0.0]), TWO_X, TWO_Y, TWO_BATCHES, two(**options), lr=0.0)
    for epoch, masses in enumerate([after_first, after_second]):
        for sample, mass in enumerate(masses):
            assert trace.restricted[epoch][sample] == (mass is not None)
            assert_allclose(trace.behaviors[epoch][sample], (mass or 0.0) * B2, rtol=1e-6)
    for sample in (0, 1):
        mass = after_first[sample]
        ce = (CE_RIGHT, CE_WRONG)[sample]
        expected = ce if mass is None else 0.4 * ce + 0.6 * 4.0 * mass * SOFT
        assert_allclose(trace.sample_losses[1][sample], expected, rtol=1e-6)


def test_without_temperature_squared() -> None:
    options = two(initial="copy", temperature_squared=False)
    trace = fer_loop(frozen_net([np.log(3.0), 0.0]), TWO_X, TWO_Y, TWO_BATCHES, options, lr=0.0)
    assert_allclose(trace.sample_losses[1][0], 0.4 * CE_RIGHT + 0.6 * SOFT, rtol=1e-6)


def test_a_tie_is_won_by_the_first_class() -> None:
    trace = fer_loop(frozen_net([0.0, 0.0]), TWO_X, TWO_Y, TWO_BATCHES, two(), lr=0.0)
    assert_array_equal(trace.restricted[0], [True, False])


def test_visits_of_one_epoch_add_up_and_are_read_in_the_next() -> None:
    # In one batch, and over two batches: three visits in epoch 1 leave 1 - exp(-3 c), and all three used cross-entropy.
    epochs: Batches = [[np.array([0, 0, 1]), np.array([0])], [np.array([0, 0])], [np.array([0])]]
    trace = fer_loop(frozen_net([np.log(3.0), 0.0]), TWO_X, TWO_Y, epochs, two(), lr=0.0)
    assert_allclose(trace.sample_losses[0], [CE_RIGHT, CE_RIGHT, CE_WRONG], rtol=1e-12)
    assert_allclose(trace.sample_losses[1], [CE_RIGHT], rtol=1e-12)
    for epoch, visits in enumerate([3, 5, 6]):
        assert_allclose(trace.behaviors[epoch][0].sum(), 1.0 - np.exp(-0.75 * visits), rtol=1e-12)
    second = 0.4 * CE_RIGHT + 0.6 * 4.0 * (1.0 - np.exp(-0.75 * 3)) * SOFT
    assert_allclose(trace.sample_losses[2], [second, second], rtol=1e-12)


@pytest.mark.parametrize("average", [True, False])
def test_visits_count_in_order(net: NumpyNet, x: Floats, y: Ints, average: bool) -> None:
    sample = np.array([3])
    options = FerOptions(total_epochs=2, restrict="all", average=average, initial="copy", mu=0.7)
    trace = fer_loop(net, x, y, [[sample, sample, sample]], options, LR)
    rows = [softmax(z[0] / 5.0) for z in trace.logits]
    c = [softmax(z[0])[y[3]] for z in trace.logits]
    weights = [np.exp(-0.7 * (c[1] + c[2])), (1 - np.exp(-0.7 * c[1])) * np.exp(-0.7 * c[2]), 1 - np.exp(-0.7 * c[2])]
    expected = sum(w * row for w, row in zip(weights, rows, strict=True)) if average else rows[2]
    assert_allclose(trace.behaviors[0][3], expected, rtol=1e-12)
    assert not np.allclose(rows[0], rows[2], rtol=1e-3)


def test_correct_stays_restricted_after_a_flip(net: NumpyNet, x: Floats, y: Ints, batches: Batches) -> None:
    trace = fer_loop(net, x, y, batches, FerOptions(total_epochs=EPOCHS), LR)
    ever, flipped = np.zeros(N, dtype=bool), 0
    mass = np.ones(N)
    for epoch, epoch_batches in enumerate(batches):
        for step, batch in enumerate(epoch_batches):
            for z, i in zip(trace.logits[4 * epoch + step], batch, strict=True):
                if z.argmax() == y[i]:
                    ever[i] = True
                    mass[i] *= np.exp(-softmax(z)[y[i]])
                elif ever[i]:
                    flipped += 1
        assert_array_equal(trace.restricted[epoch], ever)
        assert_allclose(trace.behaviors[epoch].sum(axis=1), 1.0 - mass, atol=1e-12)
    # Otherwise the run shows nothing about flips, or about samples that are never right.
    assert flipped > 0
    assert not ever.all()


def test_uniform_behavior_is_label_smoothing() -> None:
    z = np.array([0.4, -1.2, 2.0, 0.7])
    # 0.9 k / M = 0.1
    loss, gradient = restricted_loss(z, 1, np.full(4, 0.25), 1 / 9, 1.0, True, "cross_entropy")
    smooth, dsmooth = label_smoothing(z, 1, 0.1)
    assert_allclose(loss, smooth, rtol=1e-12)
    assert_allclose(gradient, dsmooth, rtol=1e-12)
    kl, _ = restricted_loss(z, 1, np.full(4, 0.25), 1 / 9, 1.0, True, "kl")
    assert_allclose(kl, smooth - 0.1 * np.log(4.0), rtol=1e-12)


@pytest.mark.parametrize("temperature_squared", [True, False])
def test_lwr_of_interval_one_is_fer_without_both_strategies(
    net: NumpyNet, x: Floats, y: Ints, batches: Batches, temperature_squared: bool
) -> None:
    fer_options = FerOptions(
        total_epochs=EPOCHS, restrict="all", average=False, temperature_squared=temperature_squared, temperature=3.0
    )
    lwr_options = LwrOptions(total_epochs=EPOCHS, temperature_squared=temperature_squared, temperature=3.0)
    fer = fer_loop(net.copy(), x, y, batches, fer_options, LR)
    lwr = lwr_loop(net, x, y, batches, lwr_options, LR)
    for name, value in fer.weights.items():
        assert_allclose(lwr.weights[name], value, rtol=1e-10, atol=1e-12)
    for epoch in range(EPOCHS):
        assert_array_equal(lwr.readable[epoch], fer.restricted[epoch])
        for i in range(N):
            assert_allclose(softmax(lwr.readable_logits[epoch][i] / 3.0), fer.behaviors[epoch][i], rtol=1e-10)


def test_lwr_copies_at_the_end_of_a_round(net: NumpyNet, x: Floats, y: Ints) -> None:
    # Sample 0 in every epoch, sample 1 in epoch 1 only, sample 2 from epoch 3 on; others never.
    first, middle, late = np.array([0, 1]), np.array([0]), np.array([0, 2])
    epochs: Batches = [[first], [middle], [late], [late], [late]]
    trace = lwr_loop(net, x, y, epochs, LwrOptions(total_epochs=10, interval=2, temperature=2.0), LR)
    seen = [[], [0, 1], [0, 1], [0, 1, 2], [0, 1, 2]]
    for epoch, samples in enumerate(seen):
        assert_array_equal(np.flatnonzero(trace.readable[epoch]), samples)
    # The end of epoch 2 copies what epoch 2 wrote for sample 0, and what epoch 1 wrote for sample 1, which stays.
    assert_array_equal(trace.readable_logits[2][0], trace.logits[1][0])
    assert_array_equal(trace.readable_logits[1][1], trace.logits[0][1])
    assert_array_equal(trace.readable_logits[4][1], trace.logits[0][1])
    assert_array_equal(trace.readable_logits[4][0], trace.logits[3][0])

    def ce(step: int, position: int, sample: int) -> float:
        return float(-np.log(softmax(trace.logits[step][position])[y[sample]]))

    def kl(step: int, position: int, written: int, written_at: int = 0) -> float:
        q, p = softmax(trace.logits[written][written_at] / 2.0), softmax(trace.logits[step][position] / 2.0)
        return float((q * np.log(q / p)).sum())

    assert_allclose(trace.sample_losses[1], [ce(1, 0, 0)], rtol=1e-12)  # still the first round
    # Epoch 3: c = 2, reads epoch 2. Sample 2 is new. Epoch 4: c = 4, the same table. Epoch 5: c = 4, reads epoch 4.
    assert_allclose(trace.sample_losses[2], [0.82 * ce(2, 0, 0) + 0.18 * 4 * kl(2, 0, 1), ce(2, 1, 2)], rtol=1e-10)
    assert_allclose(trace.sample_losses[3], [0.64 * ce(3, 0, 0) + 0.36 * 4 * kl(3, 0, 1), ce(3, 1, 2)], rtol=1e-10)
    assert_allclose(
        trace.sample_losses[4],
        [0.64 * ce(4, 0, 0) + 0.36 * 4 * kl(4, 0, 3), 0.64 * ce(4, 1, 2) + 0.36 * 4 * kl(4, 1, 3, 1)],
        rtol=1e-10,
    )


@pytest.mark.parametrize("interval", [4, 5])
def test_lwr_in_its_first_round_is_cross_entropy(
    net: NumpyNet, x: Floats, y: Ints, batches: Batches, interval: int
) -> None:
    lwr = lwr_loop(net.copy(), x, y, batches, LwrOptions(total_epochs=EPOCHS, interval=interval), LR)
    assert lwr.step_losses == cross_entropy_loop(net, x, y, batches, LR).step_losses
