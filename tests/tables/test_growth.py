"""Tables that grow in mid-run are what a table of the final size would be."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from lightning_flip.tables import PredictionSums, RunningAverage, SampleTable, VisitStatistics

SMALL, LARGE, K = 5, 9, 3


def visits(size: int, seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Samples without repeats, their probabilities and labels."""
    generator = torch.Generator().manual_seed(seed)
    index = torch.randperm(size, generator=generator)[: size - 1]
    return index, torch.rand(len(index), K, generator=generator).softmax(1), torch.arange(len(index)) % K


def fill(table: Any, size: int, seed: int) -> None:
    index, probs, target = visits(size, seed)
    if isinstance(table, RunningAverage):
        table.visit(index, probs)
    elif isinstance(table, SampleTable):
        table.update(index, probs)
        table.commit()
    elif isinstance(table, PredictionSums):
        table.add(index, probs, target)
    else:
        right, margin = probs.argmax(1) == target, probs[:, 0] - probs[:, 1]
        table.update(index, right, margin, probs[:, 0], epoch=seed, pred=probs.argmax(1))


MAKE = {
    "table": lambda size: SampleTable(size, K),
    "average": lambda size: RunningAverage(size, K, alpha=0.3),
    "sums": lambda size: PredictionSums(size, K),
    "statistics": VisitStatistics,
}


@pytest.mark.parametrize("name", MAKE)
def test_a_table_that_grew_is_one_of_the_final_size(name: str) -> None:
    grown, whole = MAKE[name](SMALL), MAKE[name](LARGE)
    for seed in range(3):
        fill(grown, SMALL, seed)
        fill(whole, SMALL, seed)
    grown.grow(LARGE)
    for seed in range(3, 6):
        fill(grown, LARGE, seed)
        fill(whole, LARGE, seed)
    for key, expected in whole.state_dict().items():
        torch.testing.assert_close(grown.state_dict()[key], expected, rtol=0, atol=0, msg=key)
    assert grown.num_samples == LARGE


def test_an_average_that_began_with_a_pass_does_not_grow() -> None:
    average = RunningAverage(SMALL, K, alpha=0.3)
    average.begin(torch.full((SMALL, K), 1 / K))
    average.grow(SMALL)  # as many as there are
    with pytest.raises(ValueError, match="grown to 9"):
        average.grow(LARGE)
