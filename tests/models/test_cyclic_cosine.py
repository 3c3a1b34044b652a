"""The cyclic learning rate, and the cycles that it shares with snapshot distillation."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch.optim.lr_scheduler import CosineAnnealingLR, CosineAnnealingWarmRestarts

from lightning_flip.functional import cosine_of_cycle, cycle_of
from lightning_flip.models import CyclicCosine


def rates(make: Any, epochs: int, lr: float = 0.2) -> list[float]:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=lr)
    scheduler, found = make(optimizer), []
    for _ in range(epochs):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return found


@pytest.mark.parametrize(("total", "cycles"), [(12, 4), (12, 1), (4, 4), (30, 3)])
def test_equal_cycles_are_torchs_warm_restarts(total: int, cycles: int) -> None:
    ours = rates(lambda optimizer: CyclicCosine(optimizer, total, cycles, min_lr=0.01), total)
    torchs = rates(lambda optimizer: CosineAnnealingWarmRestarts(optimizer, total // cycles, eta_min=0.01), total)
    assert ours == pytest.approx(torchs)


def test_one_cycle_is_torchs_cosine() -> None:
    ours = rates(lambda optimizer: CyclicCosine(optimizer, 10, 1), 11)
    assert ours == pytest.approx(rates(lambda optimizer: CosineAnnealingLR(optimizer, T_max=10), 11), abs=1e-12)


@pytest.mark.parametrize(("total", "cycles"), [(30, 4), (10, 3), (7, 5), (2, 4), (1, 4), (5, 5)])
def test_uneven_cycles_begin_at_the_full_rate_exactly_where_the_number_changes(total: int, cycles: int) -> None:
    numbers = [cycle_of(epoch, total, cycles) for epoch in range(total)]
    assert numbers == sorted(numbers)
    assert numbers[0] == 0
    assert max(numbers) < cycles
    full = [epoch for epoch in range(total) if cosine_of_cycle(epoch, total, cycles) == 1]
    assert full == [epoch for epoch in range(total) if epoch == 0 or numbers[epoch] != numbers[epoch - 1]]
    if total >= cycles:
        lengths = [numbers.count(cycle) for cycle in range(cycles)]
        assert max(lengths) - min(lengths) <= 1
    else:
        assert len(set(numbers)) == total
    for epoch in range(1, total):
        if numbers[epoch] == numbers[epoch - 1]:
            assert cosine_of_cycle(epoch, total, cycles) < cosine_of_cycle(epoch - 1, total, cycles)


def annealed(step: int, total: int, cycles: int, steps: int, lr: float, least: float) -> float:
    """The rate of a step by counting: the cycle of its epoch, and which of the cycle's steps it is."""
    numbers = [epoch * cycles // total for epoch in range(total) for _ in range(steps)]  # of every step its cycle
    own = [number for number, cycle in enumerate(numbers) if cycle == numbers[step]]
    return least + (lr - least) * (1 + math.cos(math.pi * own.index(step) / len(own))) / 2


@pytest.mark.parametrize(("total", "cycles"), [(12, 4), (10, 3), (7, 5), (2, 4), (1, 1)])
@pytest.mark.parametrize("steps", [1, 3, 7])
def test_stepped_with_the_optimizer_it_falls_within_epochs(total: int, cycles: int, steps: int) -> None:
    options: dict[str, Any] = {"min_lr": 0.01, "steps_per_epoch": steps}
    ours = rates(lambda optimizer: CyclicCosine(optimizer, total, cycles, **options), total * steps)
    expected = [annealed(step, total, cycles, steps, 0.2, 0.01) for step in range(total * steps)]
    assert ours == pytest.approx(expected, abs=1e-14)


def test_stepped_with_the_optimizer_equal_cycles_are_torchs_warm_restarts() -> None:
    ours = rates(lambda optimizer: CyclicCosine(optimizer, 6, 3, steps_per_epoch=5), 30)
    torchs = rates(lambda optimizer: CosineAnnealingWarmRestarts(optimizer, 10), 30)
    assert ours == pytest.approx(torchs)


def test_beyond_the_end_the_last_cycle_stays_at_its_end() -> None:
    assert rates(lambda optimizer: CyclicCosine(optimizer, 4, 2, min_lr=0.05), 7)[4:] == [0.05] * 3
    assert cycle_of(100, 4, 2) == 1


def test_a_scheduler_that_is_restored_goes_on() -> None:
    whole = rates(lambda optimizer: CyclicCosine(optimizer, 9, 3), 9)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.2)
    first = CyclicCosine(optimizer, 9, 3)
    for _ in range(4):
        optimizer.step()
        first.step()
    other = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.2)
    second = CyclicCosine(other, 9, 3)
    other.load_state_dict(optimizer.state_dict())
    second.load_state_dict(first.state_dict())
    other.step()
    second.step()
    assert other.param_groups[0]["lr"] == whole[5]


def test_groups_keep_rates_of_their_own() -> None:
    groups = [{"params": [torch.nn.Parameter(torch.zeros(1))], "lr": lr} for lr in (0.1, 0.4)]
    optimizer = torch.optim.SGD(groups)
    scheduler = CyclicCosine(optimizer, 4, 1)
    optimizer.step()
    scheduler.step()
    factor = (1 + math.cos(math.pi / 4)) / 2
    assert scheduler.get_last_lr() == pytest.approx([0.1 * factor, 0.4 * factor])


@pytest.mark.parametrize("options", [{"total_epochs": 0}, {"total_epochs": 4, "cycles": 0}])
@pytest.mark.parametrize("more", [{}, {"min_lr": -0.1}])
def test_numbers_that_are_none(options: dict[str, Any], more: dict[str, Any]) -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.2)
    with pytest.raises(ValueError, match="CyclicCosine needs total_epochs >= 1, cycles >= 1 and min_lr >= 0"):
        CyclicCosine(optimizer, **options, **more)


def test_an_epoch_has_a_step() -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.2)
    with pytest.raises(ValueError, match="steps_per_epoch must be at least 1; got 0"):
        CyclicCosine(optimizer, 4, steps_per_epoch=0)


@pytest.mark.parametrize("numbers", [(0, 0, 1), (0, 1, 0), (-1, 4, 2)])
def test_cycles_of_nothing(numbers: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match="cycles need total_epochs >= 1"):
        cycle_of(*numbers)
