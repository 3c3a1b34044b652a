"""Every error names the argument, what was expected, what came, and the way out."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import IterableDataset, default_collate

from lightning_flip.data.indexed import IndexedCollate
from lightning_flip.steps import StepSource
from tests.steps.helpers import (
    NUM_CLASSES,
    UPSTREAM_WARNINGS,
    AsDict,
    ByName,
    Passing,
    Positions,
    Recorder,
    assert_nothing_left,
    fit,
    loader_over,
    stack_pairs,
    trainer_with,
)

pytestmark = UPSTREAM_WARNINGS

N = 13


def fail(error: type[Exception], match: str, loaders: Any, **options: Any) -> None:
    """The fit ends in this error, and takes everything off."""
    recorder = Recorder(options.pop("source", None))
    module = options.pop("module", None) or Passing()
    trainer = trainer_with(recorder, **options)
    with pytest.raises(error, match=match):
        trainer.fit(module, loaders)
    assert_nothing_left(trainer)


class AnyLoss(Passing):
    """Trains without looking at the targets."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        x = batch["image"] if isinstance(batch, dict) else batch[0]
        return self(x).square().mean()


def drop_first(samples: Any) -> Any:
    return stack_pairs(samples[1:])


def test_a_collate_function_that_drops_samples() -> None:
    fail(
        ValueError,
        r"logits have 4 rows, the batch has 5 indices.*collate function that drops.*Subset.*index_from=",
        loader_over(Positions(N), collate_fn=drop_first),
    )


class Skipping(Positions):
    def __getitems__(self, indices: Any) -> Any:
        return [self[index] for index in indices[1:]]


def test_a_bulk_fetch_that_drops_samples() -> None:
    fail(ValueError, r"logits have 4 rows, the batch has 5 indices", loader_over(Skipping(N)))


def test_a_module_that_pools_its_batch() -> None:
    class Pooled(Passing):
        def forward(self, x: Tensor) -> Any:
            return self.net(x).mean(dim=0, keepdim=True)

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return cross_entropy(self(batch[0]), batch[1][:1])

    fail(ValueError, r"logits have 1 rows, the batch has 5 indices", loader_over(Positions(N)), module=Pooled())


@pytest.mark.parametrize(
    ("target_from", "match"),
    [
        (lambda batch: batch[1][:2], r"target has the shape \(2,\), logits have \(5, 3\).*target_from="),
        (lambda batch: torch.rand(5, 7), r"target has the shape \(5, 7\), logits have \(5, 3\).*target_from="),
    ],
)
def test_targets_of_another_shape(target_from: Any, match: str) -> None:
    fail(ValueError, match, loader_over(Positions(N)), source=StepSource(target_from=target_from))


@pytest.mark.parametrize("label", [-1, NUM_CLASSES])
def test_labels_out_of_range(label: int) -> None:
    source = StepSource(target_from=lambda batch: torch.full_like(batch[1], label))
    fail(
        ValueError,
        r"labels are outside \[0, 3\) in training_step.*target_from=",
        loader_over(Positions(N)),
        source=source,
    )


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_logits_that_are_not_finite(bad: float) -> None:
    class Diverged(Passing):
        def forward(self, x: Tensor) -> Any:
            logits = self.net(x)
            return torch.where(x[:, :1] == 7, bad, logits)

    fail(
        ValueError,
        r"logits are not finite .* in training_step.*learning rate",
        loader_over(Positions(N)),
        module=Diverged(),
    )


def test_no_target() -> None:
    class Anonymous(AsDict):
        def __getitem__(self, index: int) -> Any:
            return {"image": super().__getitem__(index)["image"]}

    fail(
        TypeError,
        r"no target tensor found.*a dict with the keys image.*target_from=",
        loader_over(Anonymous(N)),
        module=AnyLoss(),
    )


class Stream(IterableDataset):
    def __iter__(self) -> Any:
        return iter([AsDict(N)[place] for place in range(4)])


def test_an_iterable_dataset_without_ids() -> None:
    fail(TypeError, r'no index: its dataset is iterable.*index_from="id"', loader_over(Stream()), module=AnyLoss())


def test_batches_that_come_from_no_data_loader() -> None:
    class Batches:
        def __iter__(self) -> Any:
            return iter([default_collate([Positions(N)[place] for place in range(4)])])

    fail(TypeError, r'no index: .*not a torch DataLoader.*index_from="id"', Batches())


def test_keys_that_are_no_integers() -> None:
    loader = loader_over(ByName(N), sampler=["sample-3", "sample-4"])
    fail(
        TypeError,
        r'asks ByName for keys that are not integers.*integer position.*index_from="id"',
        loader,
        module=AnyLoss(),
    )


def test_a_sampler_of_floats_is_not_rounded() -> None:
    class Lenient(Positions):
        def __getitem__(self, index: Any) -> Any:
            return super().__getitem__(int(index))

    loader = loader_over(Lenient(N), sampler=[0.0, 1.5])
    fail(TypeError, r"asks Lenient for keys that are not integers", loader)


def test_two_training_loaders() -> None:
    class Both(Passing):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return cross_entropy(self(batch[0][0]), batch[0][1])

    loaders = [loader_over(Positions(N)), loader_over(Positions(N))]
    fail(ValueError, r"draws from 2 loaders.*loader= one of \[0, 1\]", loaders, module=Both())
    fail(
        ValueError,
        r"loader='b' is not one of the training loaders \[0, 1\]",
        loaders,
        module=Both(),
        source=StepSource(loader="b"),
    )


@pytest.mark.parametrize(
    ("error", "index_from", "match"),
    [
        (KeyError, "name", r"index_from='name' is not in the batch, .* keys image, label, id"),
        (
            TypeError,
            lambda batch: batch["id"] + 0.5,
            r"index_from=.* gave torch\.float.*expected one integer per sample",
        ),
        (TypeError, lambda batch: batch["id"] > 3, r"gave torch\.bool .*expected one integer per sample, \[B\]"),
        (TypeError, lambda batch: batch["id"][:, None], r"of shape \(5, 1\); expected one integer per sample, \[B\]"),
        (ValueError, lambda batch: batch["id"] - 2, r"gave a negative index; ids count from 0"),
        (TypeError, lambda batch: ["a.png"] * 5, r"index_from=.* gave a list.*expected one integer per sample, \[B\]"),
        (TypeError, lambda batch: None, r"index_from=.* gave a NoneType.*expected one integer per sample, \[B\]"),
        (ValueError, lambda batch: batch["id"][1:], r"logits have 5 rows, the batch has 4 indices"),
    ],
)
def test_ids_that_are_none(error: type[Exception], index_from: Any, match: str) -> None:
    fail(error, match, loader_over(AsDict(N)), module=AnyLoss(), source=StepSource(index_from=index_from))


class Inner(Passing):
    """Calls its network, not itself."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(4, 3)
        self.embedding = nn.Linear(4, 2)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        self.embedding(batch[0])
        return cross_entropy(self.head(batch[0]), batch[1])


class Unknown(Inner):
    """Has a loss in which nobody recognizes logits."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        self.embedding(batch[0])
        return (self.head(batch[0]) ** 2).mean()


def test_a_step_without_a_loss_that_says_where_its_logits_are() -> None:
    fail(
        RuntimeError,
        r"no logits \[B, K\] were found in training_step.*cross_entropy.*"
        r'logits_from="embedding" \[5, 2\], logits_from="head" \[5, 3\]',
        loader_over(Positions(N)),
        module=Unknown(),
    )


def test_what_the_message_names_works() -> None:
    fit(loader_over(Positions(N)), module=Inner(), source=StepSource(logits_from="head"))


def test_a_function_of_the_output_that_finds_nothing() -> None:
    source = StepSource(logits_from=lambda loss: loss)
    fail(
        RuntimeError,
        r"no logits \[B, K\] were found from logits_from=<function",
        loader_over(Positions(N)),
        source=source,
    )


def test_a_submodule_that_does_not_exist() -> None:
    fail(
        AttributeError,
        r"logits_from='body\.fc' is not a submodule of Inner; its children are \['net', 'head', 'embedding'\]",
        loader_over(Positions(N)),
        module=Inner(),
        source=StepSource(logits_from="body.fc"),
    )


def test_a_collate_function_is_never_given_samples_without_their_index() -> None:
    collate = IndexedCollate(default_collate, loader=0)
    with pytest.raises(TypeError, match=r"samples without their index.*list.*index_from="):
        collate([(torch.zeros(2), 1)])
