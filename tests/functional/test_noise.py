"""Label noise against counts: binomial bounds, uniformity over the other classes, rows of a transition matrix."""

import math

import pytest
import torch

from lightning_flip.functional.noise import class_conditional_noise, symmetric_noise

N, K = 20_000, 8


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def labels():
    return torch.arange(N) % K


def within_binomial(count, trials, probability, sigmas=5):
    spread = math.sqrt(trials * probability * (1 - probability))
    return abs(count - trials * probability) <= sigmas * spread


def counts(true, noisy, classes=K):
    table = [[0] * classes for _ in range(classes)]
    for a, b in zip(true.tolist(), noisy.tolist(), strict=True):
        table[a][b] += 1
    return table


@pytest.mark.parametrize("rate", [0.1, 0.4, 0.8])
def test_symmetric_noise_changes_the_rate_and_spreads_it_over_the_other_classes(rate):
    table = counts(labels(), symmetric_noise(labels(), rate, K, generator=generator()))
    assert within_binomial(N - sum(table[k][k] for k in range(K)), N, rate)
    for true in range(K):
        for noisy in range(K):
            if noisy != true:
                assert within_binomial(table[true][noisy], N // K, rate / (K - 1)), (true, noisy)


@pytest.mark.parametrize("rate", [0.3, 0.8])
def test_including_the_true_class_leaves_a_share_of_one_over_k_right(rate):
    noisy = symmetric_noise(labels(), rate, K, include_true_class=True, generator=generator())
    table = counts(labels(), noisy)
    for true in range(K):
        for label in range(K):
            expected = rate / K + (1 - rate if label == true else 0)
            assert within_binomial(table[true][label], N // K, expected), (true, label)


def test_rates_of_zero_and_one():
    assert torch.equal(symmetric_noise(labels(), 0.0, K, generator=generator()), labels())
    assert not (symmetric_noise(labels(), 1.0, K, generator=generator()) == labels()).any()


@pytest.mark.parametrize("rate", [0.0, 0.02, 0.123, 1.0])
def test_exact_replaces_exactly(rate):
    noisy = symmetric_noise(labels(), rate, K, exact=True, generator=generator())
    assert int((noisy != labels()).sum()) == round(rate * N)


@pytest.mark.parametrize("exact", [False, True])
def test_a_higher_rate_keeps_what_a_lower_one_replaced(exact):
    low = symmetric_noise(labels(), 0.2, K, exact=exact, generator=generator(3))
    high = symmetric_noise(labels(), 0.6, K, exact=exact, generator=generator(3))
    replaced = low != labels()
    assert torch.equal(low[replaced], high[replaced])
    assert int((high != labels()).sum()) > 2 * int(replaced.sum())


def test_the_seed_decides_and_the_input_stays():
    target = labels()
    first = symmetric_noise(target, 0.4, K, generator=generator(1))
    assert torch.equal(first, symmetric_noise(target, 0.4, K, generator=generator(1)))
    assert not torch.equal(first, symmetric_noise(target, 0.4, K, generator=generator(2)))
    assert torch.equal(target, labels())


def test_the_global_random_state_is_not_touched():
    before = torch.get_rng_state()
    symmetric_noise(labels(), 0.4, K, generator=generator())
    class_conditional_noise(labels(), torch.eye(K), generator=generator())
    assert torch.equal(before, torch.get_rng_state())


def test_class_conditional_noise_follows_every_row():
    transition = torch.tensor([[0.7, 0.3, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0], [0.1, 0.2, 0.3, 0.4], [0.0, 0.0, 0.5, 0.5]])
    target = torch.arange(N) % 4
    table = counts(target, class_conditional_noise(target, transition, generator=generator()), 4)
    for true in range(4):
        for noisy in range(4):
            probability = float(transition[true, noisy])
            if probability in (0.0, 1.0):
                assert table[true][noisy] == probability * (N // 4)
            else:
                assert within_binomial(table[true][noisy], N // 4, probability), (true, noisy)


def test_the_direction_of_a_transition_is_true_to_noisy():
    forward = torch.tensor([[0.0, 1.0, 0.0], [0.0, 0.0, 1.0], [1.0, 0.0, 0.0]])
    assert class_conditional_noise(torch.tensor([0, 1, 2]), forward, generator=generator()).tolist() == [1, 2, 0]


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.uint8])
def test_dtypes_are_kept(dtype):
    target = labels().to(dtype)
    assert symmetric_noise(target, 0.5, K, generator=generator()).dtype == dtype
    assert class_conditional_noise(target, torch.eye(K), generator=generator()).equal(target)


def test_no_labels_at_all():
    empty = torch.zeros(0, dtype=torch.int64)
    assert symmetric_noise(empty, 0.5, K, generator=generator()).shape == (0,)
    assert class_conditional_noise(empty, torch.eye(K), generator=generator()).shape == (0,)


@pytest.mark.parametrize("rate", [-0.01, 1.01, 40.0, math.nan])
def test_rates_outside_the_unit_interval_are_refused(rate):
    with pytest.raises(ValueError, match=r"rate .*\[0, 1\]"):
        symmetric_noise(labels(), rate, K, generator=generator())


@pytest.mark.parametrize(
    ("matrix", "message"),
    [
        ([[1.1, -0.1], [0.0, 1.0]], "at least 0"),
        ([[math.nan, 1.0], [0.0, 1.0]], "at least 0"),
        ([[0.9, 0.2], [0.0, 1.0]], "sum to 1"),
        ([[0.9, 0.1], [0.9, 0.1 - 3e-6]], "sum to 1"),
    ],
)
def test_matrices_that_are_not_row_stochastic_are_refused(matrix, message):
    with pytest.raises(ValueError, match=message):
        class_conditional_noise(torch.tensor([0, 1]), torch.tensor(matrix), generator=generator())


def test_labels_outside_the_classes_are_refused():
    for target in (torch.tensor([0, K]), torch.tensor([-1, 0])):
        with pytest.raises(ValueError, match="target must hold labels"):
            symmetric_noise(target, 0.5, K, generator=generator())
        with pytest.raises(ValueError, match="target must hold labels"):
            class_conditional_noise(target, torch.eye(K), generator=generator())


def test_one_class_has_no_other_class():
    with pytest.raises(ValueError, match="num_classes must be at least 2"):
        symmetric_noise(torch.zeros(3, dtype=torch.int64), 0.5, 1, generator=generator())
