"""The wrapped dataset, collate function and loader by themselves."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from torch.utils.data import ConcatDataset, DataLoader, Dataset, Subset

from lightning_flip.data import IndexedBatch, IndexedDataset
from lightning_flip.data.indexed import IndexedCollate, unwrap_loader, unwrapped, wrap_loader
from lightning_flip.data.origins import ask_dataset, resolve_source
from tests.steps.helpers import Assembled, Bulk, Positions, stack_pairs


def test_a_sample_with_its_position() -> None:
    data = IndexedDataset(Positions(5))
    assert len(data) == 5
    assert [item.index for item in data] == [0, 1, 2, 3, 4]
    assert int(data[3].sample[0][0]) == 3
    assert data[-1].index == 4
    assert data[torch.tensor(2)].index == 2
    assert not isinstance(data[0], tuple)


def test_a_key_that_is_no_integer_has_no_position() -> None:
    data = IndexedDataset({"a": 1, "b": 2})
    item = data["b"]
    assert (item.sample, item.index) == (2, -1)


def test_what_a_list_of_positions_gives() -> None:
    data = IndexedDataset(Assembled(6))
    for positions in ([4, 1], (4, 1), torch.tensor([4, 1])):
        item = data[positions]
        assert item.index == [4, 1]
        assert item.sample[0][:, 0].tolist() == [4.0, 1.0]


def test_a_dataset_that_fetches_in_bulk_is_asked_once() -> None:
    calls = []

    class Counting(Bulk):
        def __getitems__(self, indices: Any) -> Any:
            calls.append(list(indices))
            return super().__getitems__(indices)

    wrapped = wrap_loader(DataLoader(Counting(5), batch_size=3), 0)
    assert [batch.index.tolist() for batch in wrapped] == [[0, 1, 2], [3, 4]]
    assert calls == [[0, 1, 2], [3, 4]]


def test_a_dataset_whose_bulk_fetch_is_switched_off() -> None:
    class Off(Positions):
        __getitems__ = None

    assert [batch.index.tolist() for batch in wrap_loader(DataLoader(Off(3), batch_size=2), 0)] == [[0, 1], [2]]


def test_attributes_are_the_datasets_own() -> None:
    inner = Positions(5)
    data = IndexedDataset(inner)
    data.offset = 7
    assert inner.offset == data.offset == 7
    with pytest.raises(AttributeError):
        _ = data.nothing
    assert not hasattr(data, "nothing")
    assert unwrapped(data) is unwrapped(inner) is inner


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, lambda data: pickle.loads(pickle.dumps(data))])
def test_copies(duplicate: Any) -> None:
    data = duplicate(IndexedDataset(Positions(5, offset=2)))
    assert type(data) is IndexedDataset
    assert (data[1].index, int(data[1].sample[0][0])) == (1, 3)


def test_a_dataset_without_a_length() -> None:
    class Endless(Dataset):
        def __getitem__(self, index: int) -> torch.Tensor:
            return torch.tensor(index)

    wrapped = wrap_loader(DataLoader(Endless(), sampler=[7, 900, 3], batch_size=2), 0)
    assert [batch.index.tolist() for batch in wrapped] == [[7, 900], [3]]


def test_a_batch_sampler_may_fill_one_list_again_and_again() -> None:
    class Reusing:
        def __iter__(self) -> Any:
            batch = [0, 0]
            for first in (4, 0, 2):
                batch[:] = first, first + 1
                yield batch

    batches = list(wrap_loader(DataLoader(Positions(6), batch_sampler=Reusing()), 0))  # type: ignore[arg-type]
    assert [batch.positions for batch in batches] == [batch.index.tolist() for batch in batches]
    assert [batch.positions for batch in batches] == [[4, 5], [0, 1], [2, 3]]


def test_batch_and_index_are_pinned(monkeypatch: pytest.MonkeyPatch) -> None:
    pinned: list[Any] = []
    monkeypatch.setattr(
        "torch.utils.data._utils.pin_memory.pin_memory", lambda data, device: pinned.append((data, device)) or [data]
    )
    batch = IndexedBatch("batch", [4, 0], loader=3)
    found: Any = batch.pin_memory("cuda")
    assert (found.batch, found.positions, found.loader) == (["batch"], [4, 0], 3)
    assert found.index == [batch.index]
    assert pinned == [("batch", "cuda"), (batch.index, "cuda")]


def test_an_index_is_of_integers_however_many_there_are() -> None:
    for positions in ([], [3], [2, -1]):
        batch = pickle.loads(pickle.dumps(IndexedBatch(None, positions, loader=0)))
        assert (batch.index.tolist(), batch.index.dtype) == (positions, torch.int64)
        assert batch.located == (-1 not in positions)


def test_collate_gets_the_samples_as_they_are() -> None:
    seen = []

    def collate(samples: Any) -> Any:
        seen.append(samples)
        return stack_pairs(samples)

    data = IndexedDataset(Positions(5))
    batch = IndexedCollate(collate, loader=3)([data[4], data[0]])
    assert (batch.index.tolist(), batch.index.dtype, batch.loader) == ([4, 0], torch.int64, 3)
    assert type(seen[0]) is list
    assert all(type(sample) is tuple for sample in seen[0])


@pytest.mark.parametrize("samples", [[1, 2], (), {"x": 1}, torch.zeros(2)])
def test_collate_takes_nothing_else(samples: Any) -> None:
    with pytest.raises(TypeError, match="samples without their index"):
        IndexedCollate(list, loader=0)(samples)


def test_a_wrapped_loader_leaves_the_users_as_it_is() -> None:
    loader = DataLoader(Positions(5), batch_size=2)
    before = dict(vars(loader))
    wrapped = wrap_loader(loader, 4)
    batches = list(wrapped)
    assert all(isinstance(batch, IndexedBatch) for batch in batches)
    assert {batch.loader for batch in batches} == {4}
    assert wrapped.batch_sampler is loader.batch_sampler
    assert vars(loader) == before
    unwrap_loader(wrapped)
    assert all(type(batch) is list for batch in wrapped)
    unwrap_loader(wrapped)
    assert wrapped.dataset is loader.dataset


def test_resolve_source() -> None:
    first, second = Positions(4), Positions(6)
    both: Any = ConcatDataset([Subset(first, [3, 1]), second])
    assert resolve_source(Subset(both, [7, 1, 2]), 0) == (second, 1, 5)
    assert resolve_source(Subset(both, [7, 1, 2]), 1) == (first, 0, 1)
    assert resolve_source(Subset(both, [7, 1, 2]), 2) == (second, 1, 0)
    assert resolve_source(IndexedDataset(first), 2) == (first, 0, 2)


def test_resolve_source_of_an_empty_part() -> None:
    empty, full = Positions(0), Positions(2)
    assert resolve_source(ConcatDataset([empty, full]), 0) == (full, 1, 0)


def test_resolve_source_counts_from_the_end_like_the_datasets() -> None:
    first, second = Positions(4), Positions(6)
    both: Any = ConcatDataset([first, second])
    # Subsets may hold negative indices, which the dataset below understands.
    assert resolve_source(Subset(both, [-1]), 0) == (second, 1, 5)


def test_ask_dataset() -> None:
    class Named(Positions):
        def sample_id(self, index: int) -> str:
            return f"image-{index}"

    data: Any = Subset(ConcatDataset([Positions(3), Named(4)]), [5, 0])
    assert ask_dataset(data, 0, "sample_id") == "image-2"
    assert ask_dataset(data, 1, "sample_id") is None


def test_a_batch_that_somebody_iterates_for_is_like_the_plain_one() -> None:
    pair = IndexedBatch([torch.zeros(2, 3), torch.ones(2)], [4, 1], loader=0)
    inputs, labels = pair
    assert inputs.shape == (2, 3)
    assert labels.tolist() == [1, 1]
    assert len(pair) == 2
    named = pickle.loads(pickle.dumps(IndexedBatch({"x": torch.zeros(2)}, [4, 1], loader=0)))
    assert next(iter(named.items()))[0] == "x"
    assert named["x"].shape == (2,)
    assert copy.deepcopy(named).positions == [4, 1]
    with pytest.raises(AttributeError):
        _ = named.nothing
