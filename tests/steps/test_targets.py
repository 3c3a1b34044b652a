"""Where the targets of a batch are found."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from lightning_flip.steps import find_target
from lightning_flip.steps.targets import TARGET_KEYS, select

X = torch.zeros(3, 2)
Y = torch.tensor([2, 0, 1])


class Named(NamedTuple):
    label: Tensor
    image: Tensor


@dataclass
class Recorded:
    image: Tensor
    y: Tensor


@dataclass
class Pair:
    left: Tensor
    right: Tensor


@pytest.mark.parametrize("batch", [(X, Y), [X, Y], (X, Y, "more"), Named(Y, X), Recorded(X, Y)])
def test_usual_places(batch: Any) -> None:
    assert find_target(batch).tolist() == [2, 0, 1]


@pytest.mark.parametrize("key", TARGET_KEYS)
def test_usual_keys(key: str) -> None:
    assert find_target({"image": X, key: Y}).tolist() == [2, 0, 1]


def test_the_keys_of_the_contract() -> None:
    assert set(TARGET_KEYS) == {"target", "label", "labels", "y"}


@pytest.mark.parametrize(
    ("batch", "where"),
    [
        ((Y, X), 0),
        ((X, X, Y), -1),
        ({"species": Y}, "species"),
        (Pair(X, Y), "right"),
        ({"a": {"b": Y}}, lambda batch: batch["a"]["b"]),
    ],
)
def test_named_places(batch: Any, where: Any) -> None:
    assert find_target(batch, where).tolist() == [2, 0, 1]


@pytest.mark.parametrize(
    "target",
    [
        torch.tensor([1.0, 0.0]),
        torch.tensor([[1], [0]]),
        torch.tensor([1, 0], dtype=torch.uint8),
        torch.tensor([True, False]),
    ],
)
def test_labels_become_int64(target: Tensor) -> None:
    labels = find_target((X, target))
    assert labels.dtype == torch.int64
    assert labels.tolist() == [1, 0]


def test_one_sample_without_a_batch_dimension() -> None:
    assert find_target((X[0], torch.tensor(2))).tolist() == [2]


def test_distributions_stay_as_they_are() -> None:
    mixed = torch.tensor([[0.25, 0.75], [1.0, 0.0]])
    assert find_target((X, mixed)) is mixed


@pytest.mark.parametrize("batch", [X, (X,), {"image": X, "species": Y}, (X, "cat"), None])
def test_no_target(batch: Any) -> None:
    with pytest.raises(TypeError, match=r"no target tensor found.*target, label, labels, y.*target_from="):
        find_target(batch)


@pytest.mark.parametrize("target", [torch.zeros(2, 3, dtype=torch.int64), torch.zeros(2, 3, 4)])
def test_targets_of_another_shape(target: Tensor) -> None:
    with pytest.raises(TypeError, match=r"labels \[B\] or distributions \[B, K\]; got .*target_from="):
        find_target((X, target))


def test_labels_between_the_integers() -> None:
    """Smoothed labels of a binary module would silently become 0."""
    with pytest.raises(ValueError, match=r"whole numbers.*0\.9.*target_from="):
        find_target((X, torch.tensor([0.9, 0.1])))


@pytest.mark.parametrize(
    ("batch", "where", "described"),
    [
        ({"x": 1, "id": 2}, "name", "a dict with the keys x, id"),
        ((X, Y), 5, "a tuple of Tensor, Tensor"),
        ((X, Y), "id", "a tuple of Tensor, Tensor"),
        (Pair(X, Y), "id", "a Pair"),
    ],
)
def test_a_selector_that_selects_nothing(batch: Any, where: Any, described: str) -> None:
    with pytest.raises(KeyError, match=rf"index_from={where!r} is not in the batch, which is {described}"):
        select(batch, where, "index_from")
