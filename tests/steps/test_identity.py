"""The recorded index is the position of the sample that the network saw, however the data is loaded."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.utils.data import BatchSampler, ConcatDataset, RandomSampler, Subset, WeightedRandomSampler, random_split

from lightning_flip.data.indexed import IndexedBatch
from lightning_flip.data.origins import resolve_source
from lightning_flip.steps import StepSource
from tests.steps.helpers import (
    UPSTREAM_WARNINGS,
    AsDataclass,
    AsDict,
    AsList,
    AsNamedTuple,
    Assembled,
    Bulk,
    BulkBatch,
    ByName,
    EverySecondBatch,
    Passing,
    Positions,
    fit,
    image_of,
    loader_over,
    stack_pairs,
    stack_records,
    target_of,
    unchanged,
)

pytestmark = UPSTREAM_WARNINGS

N = 13
ONCE = Counter(range(N))


def set_offset(worker: int) -> None:
    """Reads and writes the dataset of its worker, as user code does to open files there."""
    data: Any = torch.utils.data.get_worker_info().dataset  # type: ignore[union-attr]
    assert data.n == N
    data.offset = 100


CASES: dict[str, tuple[Any, dict[str, Any]]] = {
    "tuple": (Positions, {}),
    "list": (AsList, {}),
    "dict": (AsDict, {}),
    "namedtuple": (AsNamedTuple, {}),
    "dataclass": (AsDataclass, {"collate_fn": stack_records}),
    "custom collate": (Positions, {"collate_fn": stack_pairs}),
    "getitems": (Bulk, {}),
    "getitems that collates": (BulkBatch, {"collate_fn": unchanged}),
    "drop_last": (Positions, {"drop_last": True}),
}


@pytest.mark.parametrize("case", CASES)
def test_kinds_of_samples(case: str) -> None:
    dataset, options = CASES[case]
    recorder, _ = fit(loader_over(dataset(N), shuffle=True, **options), max_epochs=2)
    recorder.seen.assert_agree()
    expected = 10 if "drop_last" in options else N
    assert len(recorder.seen.counts("train", 0)) == len(recorder.seen.counts("train", 1)) == expected
    assert set(recorder.seen.counts("train", 0).values()) == {1}
    # Shuffled, so that an index that only counts up would have been noticed.
    assert [visit.index for visit in recorder.seen.of("train", 0)] != [
        visit.index for visit in recorder.seen.of("train", 1)
    ]


@pytest.mark.parametrize("case", ["tuple", "dataclass", "getitems that collates"])
def test_two_workers(case: str) -> None:
    dataset, options = CASES[case]
    recorder, _ = fit(loader_over(dataset(N), shuffle=True, num_workers=2, **options))
    recorder.seen.assert_agree()
    assert recorder.seen.counts("train") == ONCE


def test_getitems_that_collates_two_samples() -> None:
    """A pair (x, y) for two samples is not two samples."""
    recorder, _ = fit(loader_over(BulkBatch(N), batch_size=2, collate_fn=unchanged, drop_last=True))
    recorder.seen.assert_agree()
    assert set(recorder.plain_batches) == {tuple}


@pytest.mark.filterwarnings("ignore:Consider setting `persistent_workers=True`")  # one epoch gains nothing from it
def test_spawned_workers() -> None:
    loader = loader_over(Positions(N), shuffle=True, num_workers=1, multiprocessing_context="spawn")
    recorder, _ = fit(loader)
    recorder.seen.assert_agree()
    assert recorder.seen.counts("train") == ONCE


def test_a_worker_reads_and_writes_its_dataset() -> None:
    data = Positions(N)
    recorder, _ = fit(loader_over(data, num_workers=1, worker_init_fn=set_offset))
    recorder.seen.assert_agree(lambda index: index + 100)
    assert data.offset == 0


def test_persistent_workers_used_before() -> None:
    loader = loader_over(Positions(N), shuffle=True, num_workers=2, persistent_workers=True)
    assert len(list(loader)) == 3
    theirs: Any = loader._iterator
    recorder, _ = fit(loader, max_epochs=2)
    recorder.seen.assert_agree()
    assert recorder.seen.counts("train", 1) == ONCE
    assert loader._iterator is theirs
    assert all(type(batch) is list for batch in loader)
    # The workers of the Trainer's copy are gone; the user's end here, not in some later test's garbage collection.
    workers: Any = theirs
    assert set(torch.multiprocessing.active_children()) == set(workers._workers)
    workers._shutdown_workers()


def expected_in(data: Any) -> Any:
    """Content of a position of a nested dataset of Positions."""

    def content(index: int) -> int:
        inner, _, place = resolve_source(data, index)
        assert type(inner) is Positions
        return place + inner.offset

    return content


NESTED: dict[str, Callable[[], Any]] = {
    "Subset": lambda: Subset(Positions(20), [19, 3, 7, 0, 11, 4]),
    "ConcatDataset": lambda: ConcatDataset([Positions(4), Positions(6, offset=50), Positions(3, offset=70)]),
    "random_split": lambda: random_split(Positions(17), [7, 10], torch.Generator().manual_seed(3))[1],
    "Subset of ConcatDataset of Subset": lambda: Subset(
        ConcatDataset([Subset(Positions(9), [8, 1, 5]), Positions(4, offset=30)]), [6, 2, 0, 3]
    ),
}


@pytest.mark.parametrize("case", NESTED)
def test_nested_datasets(case: str) -> None:
    data = NESTED[case]()
    recorder, _ = fit(loader_over(data, shuffle=True, batch_size=4))
    recorder.seen.assert_agree(expected_in(data))
    assert recorder.seen.counts("train") == Counter(range(len(data)))


def test_the_innermost_dataset_of_a_subset_of_a_concatenation() -> None:
    data = NESTED["Subset of ConcatDataset of Subset"]()
    found = [resolve_source(data, position) for position in range(4)]
    expected = [(30, 1, 3), (0, 0, 5), (0, 0, 8), (30, 1, 0)]
    assert [(source.offset, number, place) for source, number, place in found] == expected


def test_batch_sampler_subclass() -> None:
    data = Positions(N)
    recorder, _ = fit(loader_over(data, batch_size=1, batch_sampler=EverySecondBatch(range(N), 4, False)))
    recorder.seen.assert_agree()
    assert [visit.index for visit in recorder.seen.of("train")] == [[0, 1, 2, 3], [8, 9, 10, 11], [4, 5, 6, 7], [12]]


def test_negative_positions_of_a_sampler() -> None:
    recorder, _ = fit(loader_over(Positions(N), sampler=[-1, 0, -N, 5]))
    assert [visit.index for visit in recorder.seen.of("train")] == [[12, 0, 0, 5]]
    recorder.seen.assert_agree()


def test_weighted_sampling_counts_every_draw() -> None:
    weights = [0.0, 5.0] + [1.0] * (N - 2)
    sampler = WeightedRandomSampler(weights, 40, generator=torch.Generator().manual_seed(0))
    drawn = Counter(list(sampler))
    sampler.generator.manual_seed(0)
    # The Trainer draws what was drawn above.
    recorder, _ = fit(loader_over(Positions(N), batch_size=20, sampler=sampler))
    recorder.seen.assert_agree()
    assert recorder.seen.counts("train") == drawn
    assert drawn[1] > 1
    assert drawn[0] == 0


@pytest.mark.parametrize("workers", [0, 2])
def test_batch_size_none_one_sample(workers: int) -> None:
    class One(Passing):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            x, y = batch
            assert x.ndim == 1
            return torch.nn.functional.cross_entropy(self(x[None]), y[None])

    loader = loader_over(Positions(N), batch_size=None, sampler=RandomSampler(range(N)), num_workers=workers)
    recorder, _ = fit(loader, module=One())
    recorder.seen.assert_agree()
    assert recorder.seen.counts("train") == ONCE


@pytest.mark.parametrize("workers", [0, 2])
def test_batch_size_none_the_dataset_assembles_the_batch(workers: int) -> None:
    sampler = BatchSampler(RandomSampler(range(N)), 4, drop_last=False)
    recorder, _ = fit(loader_over(Assembled(N), batch_size=None, sampler=sampler, num_workers=workers))
    recorder.seen.assert_agree()
    assert recorder.seen.counts("train") == ONCE
    assert [len(visit.index) for visit in recorder.seen.of("train")] == [4, 4, 4, 1]


def test_samples_read_by_name_with_ids_of_their_own() -> None:
    """Datasets without integer positions are fine where the batch carries an id."""
    loader = loader_over(ByName(N), sampler=[f"sample-{place}" for place in (7, 2, 12, 0, 3, 4)])
    recorder, _ = fit(loader, source=StepSource(index_from="id"))
    recorder.seen.assert_agree()
    assert [visit.index for visit in recorder.seen.of("train")] == [[7, 2, 12, 0, 3], [4]]


class Stream(torch.utils.data.IterableDataset):
    def __iter__(self) -> Any:
        data = AsDict(N)
        return iter([data[place] for place in (5, 1, 9, 2, 12)])


def test_iterable_dataset_that_carries_ids() -> None:
    recorder, _ = fit(loader_over(Stream(), batch_size=2), source=StepSource(index_from="id"))
    recorder.seen.assert_agree()
    assert [visit.index for visit in recorder.seen.of("train")] == [[5, 1], [9, 2], [12]]


def test_ids_of_the_batch_may_be_a_list_of_integers() -> None:
    def collate(samples: Any) -> Any:
        return {**torch.utils.data.default_collate(samples), "id": [one["id"] for one in samples]}

    recorder, _ = fit(loader_over(AsDict(N), shuffle=True, collate_fn=collate), source=StepSource(index_from="id"))
    recorder.seen.assert_agree()
    assert recorder.seen.counts("train") == ONCE


class PlainOnly(Passing):
    """Overrides every transfer hook; each must see the batch as the collate function made it."""

    def __init__(self) -> None:
        super().__init__()
        self.hooks: list[str] = []

    def see(self, hook: str, batch: Any) -> Any:
        assert type(batch) is dict
        assert not isinstance(batch, IndexedBatch)
        assert set(batch) == {"image", "label", "id"}
        self.hooks.append(hook)
        return batch

    def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        return self.see("before", batch)

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        return self.see("transfer", batch)

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        return self.see("after", batch)

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        self.see("start", batch)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        self.see("step", batch)
        return torch.nn.functional.cross_entropy(self(image_of(batch)), target_of(batch))


def test_overridden_transfer_hooks_see_the_plain_batch() -> None:
    module = PlainOnly()
    recorder, _ = fit(loader_over(AsDict(N), shuffle=True), module=module)
    recorder.seen.assert_agree()
    assert module.hooks == ["before", "transfer", "after", "start", "step"] * 3
    assert set(recorder.plain_batches) == {dict}


def test_a_transfer_hook_may_replace_the_batch() -> None:
    class AsPair(Passing):
        def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
            return batch["image"], batch["label"]

    recorder, _ = fit(loader_over(AsDict(N), shuffle=True), module=AsPair())
    recorder.seen.assert_agree()
    assert set(recorder.plain_batches) == {tuple}


@pytest.mark.parametrize("precision", ["32-true", "64-true", "bf16-mixed"])
def test_precisions(precision: Any) -> None:
    recorder, _ = fit(loader_over(Positions(N), shuffle=True), precision=precision)
    recorder.seen.assert_agree()
    assert recorder.seen.counts("train") == ONCE
