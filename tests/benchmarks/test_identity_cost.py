"""What it costs to know that samples are the same: fingerprints of a million samples, and the labels of a block.

``make bench`` prints the table: seconds a fingerprint, with and without ids, median of rounds that take turns; and
microseconds a step for the comparison of labels, of a block of 64 steps of 128 samples.
"""

from __future__ import annotations

import statistics
import time
from typing import Any

import pytest
import torch
from torch.utils.data import ConcatDataset, Dataset, Subset, TensorDataset

from lightning_flip.data.identity import describe_data
from lightning_flip.steps._labels import KnownLabels

MILLION, ROUNDS, STEPS = 1_000_000, 5, 64


class Folder(Dataset[Any]):
    """A folder dataset as torchvision has it, without the files."""

    root = "/data/imagenet/train"

    def __init__(self, size: int) -> None:
        self.samples = [(f"{self.root}/n{i % 1000:08d}/n{i % 1000:08d}_{i}.JPEG", i % 1000) for i in range(size)]
        self.targets = [label for _, label in self.samples]

    def __len__(self) -> int:
        return len(self.samples)


@pytest.mark.benchmark(group="the same samples")
def test_seconds_of_a_fingerprint(benchmark: Any) -> None:
    size, rounds = (2_000, 1) if benchmark.disabled else (MILLION, ROUNDS)
    folder, halves = Folder(size), (range(size // 2), range(size // 2, size))
    datasets: dict[str, Dataset[Any]] = {
        "tensors": TensorDataset(torch.zeros(size, 1), torch.arange(size) % 10),
        "folder": folder,
        "shuffled subset of a folder": Subset(folder, torch.randperm(size).tolist()),
        "two halves of a folder": ConcatDataset([Subset(folder, part) for part in halves]),
    }
    times: dict[tuple[str, bool], list[float]] = {(name, ids): [] for name in datasets for ids in (True, False)}

    def measure() -> None:
        for _ in range(rounds):
            for (name, ids), seconds in times.items():
                begin = time.perf_counter()
                facts = describe_data(datasets[name], ids=ids)
                seconds.append(time.perf_counter() - begin)
                assert facts["length"] == size

    benchmark.pedantic(measure, rounds=1)
    print(f"\nseconds for {size:,} samples       with ids   without")
    for name in datasets:
        print(f"{name:30} {statistics.median(times[name, True]):9.2f} {statistics.median(times[name, False]):9.2f}")


@pytest.mark.benchmark(group="the same samples")
@pytest.mark.parametrize("listed", [True, False])
def test_microseconds_of_the_labels(listed: bool, benchmark: Any) -> None:
    rows, labels = STEPS * 128, torch.arange(50_000) % 100
    dataset = TensorDataset(torch.zeros(50_000, 1), labels) if listed else None
    known = KnownLabels(dataset, 50_000, torch.device("cpu"))
    index = torch.randperm(50_000)[:rows]

    def compare() -> bool:
        return all(bool(each.same.all()) for each in known.compare(index, labels[index], None, listed=True))

    assert benchmark(compare)
    if not benchmark.disabled:
        per_step = benchmark.stats["median"] / STEPS * 1e6
        print(f"\nlabels, {'with' if listed else 'without'} a list: {per_step:.1f} us a step")
