"""Across ranks every sample is recorded once: what a DistributedSampler pads with is dropped, draws are not."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import BatchSampler, SequentialSampler, WeightedRandomSampler

from lightning_flip.steps import StepSource
from tests.steps.helpers import (
    UPSTREAM_WARNINGS,
    AsDict,
    Assembled,
    EverySecondBatch,
    Passing,
    Positions,
    Recorder,
    Seen,
    Validating,
    loader_over,
    read_seen,
    trainer_with,
)

pytestmark = [
    *UPSTREAM_WARNINGS,
    pytest.mark.skipif(not torch.distributed.is_gloo_available(), reason="needs gloo"),
    # Lightning says once more what the Trainer's arguments said, and PyTorch that a barrier guesses its device.
    pytest.mark.filterwarnings("ignore:It is recommended to use .self.log"),
]

N = 13


def fit_ranks(
    folder: Path,
    ranks: int,
    train: Any,
    val: Any = None,
    *,
    strategy: str = "ddp_fork",
    source: StepSource | None = None,
    **options: Any,
) -> Seen:
    """What all ranks recorded together."""
    trainer = trainer_with(Recorder(source, folder), strategy=strategy, devices=ranks, **options)
    trainer.fit(Passing() if val is None else Validating(), train, val)
    return read_seen(folder, ranks)


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_every_sample_once(tmp_path: Path, ranks: int) -> None:
    # 13 and 7 divide by neither 2 nor 3; drop_last is off, so each split has padding.
    seen = fit_ranks(
        tmp_path, ranks, loader_over(Positions(N), batch_size=2, shuffle=True), loader_over(Positions(7)), max_epochs=2
    )
    seen.assert_agree()
    for epoch in (0, 1):
        assert seen.counts("train", epoch) == Counter(range(N))
        assert seen.counts("val", epoch) == Counter(range(7))


def test_spawned_ranks(tmp_path: Path) -> None:
    """What is spawned is pickled; it takes ten seconds a rank to import everything again."""
    seen = fit_ranks(
        tmp_path, 2, loader_over(Positions(N), shuffle=True), loader_over(Positions(7)), strategy="ddp_spawn"
    )
    seen.assert_agree()
    assert seen.counts("train") == Counter(range(N))
    assert seen.counts("val") == Counter(range(7))


def test_two_ranks_with_two_workers_each(tmp_path: Path) -> None:
    train = loader_over(Positions(N), batch_size=2, shuffle=True, num_workers=2)
    seen = fit_ranks(tmp_path, 2, train)
    seen.assert_agree()
    assert seen.counts("train") == Counter(range(N))


def test_the_last_batch_is_all_padding(tmp_path: Path) -> None:
    """With batches of one, the padded row is a batch of its own."""
    seen = fit_ranks(tmp_path, 2, loader_over(Positions(5), batch_size=1, shuffle=True))
    seen.assert_agree()
    assert seen.counts("train") == Counter(range(5))


def test_padding_in_a_batch_that_is_dropped(tmp_path: Path) -> None:
    """7 places a rank in batches of 3: the last place, which pads, is in no batch."""
    seen = fit_ranks(tmp_path, 2, loader_over(Positions(N), batch_size=3, drop_last=True))
    seen.assert_agree()
    assert sorted(seen.counts("train").values()) == [1] * 12  # of 13, in the shuffled order


def test_a_weighted_sampler_under_ddp_counts_repeats(tmp_path: Path) -> None:
    weights = [0.0, 9.0] + [1.0] * (N - 2)
    generator = torch.Generator().manual_seed(0)
    drawn = Counter(list(WeightedRandomSampler(weights, 21, generator=generator)))
    generator.manual_seed(0)
    train = loader_over(Positions(N), batch_size=4, sampler=WeightedRandomSampler(weights, 21, generator=generator))
    seen = fit_ranks(tmp_path, 2, train)
    seen.assert_agree()
    # 21 draws for two ranks: one place pads, and only that one is dropped.
    assert seen.counts("train") == drawn
    assert drawn[1] > 1


def test_a_batch_sampler_under_ddp(tmp_path: Path) -> None:
    train = loader_over(Positions(12), batch_size=1, batch_sampler=EverySecondBatch(range(12), 2, False))
    seen = fit_ranks(tmp_path, 2, train)
    seen.assert_agree()
    assert seen.counts("train") == Counter(range(12))


def test_assembled_batches_pad_with_a_whole_batch(tmp_path: Path) -> None:
    """With batch_size=None the distributed sampler deals out batches: 3 of them for two ranks pad with one."""
    sampler = BatchSampler(SequentialSampler(range(12)), 4, drop_last=False)
    seen = fit_ranks(tmp_path, 2, loader_over(Assembled(12), batch_size=None, sampler=sampler))
    seen.assert_agree()
    assert seen.counts("train") == Counter(range(12))


def test_ids_carried_by_the_batch_under_ddp(tmp_path: Path) -> None:
    seen = fit_ranks(
        tmp_path, 2, loader_over(AsDict(N), batch_size=2, shuffle=True), source=StepSource(index_from="id")
    )
    seen.assert_agree()
    assert seen.counts("train") == Counter(range(N))


def test_limited_batches_never_reach_the_padding(tmp_path: Path) -> None:
    seen = fit_ranks(tmp_path, 2, loader_over(Positions(N), batch_size=2), limit_train_batches=3)
    seen.assert_agree()
    assert sorted(seen.counts("train").values()) == [1] * 12  # of 13, in the shuffled order


def test_predictions_returned_by_validation_are_not_logits(tmp_path: Path) -> None:
    """The strategy runs validation_step through the module's own forward, which returns [B] predictions there."""
    seen = fit_ranks(tmp_path, 2, loader_over(Positions(N)), loader_over(Positions(8, offset=1)))
    # Were they taken for single logits, the first column would be 0 everywhere.
    assert all(visit.content == [index + 1 for index in visit.index] for visit in seen.of("val"))
    assert seen.counts("val") == Counter(range(8))


class Unseen(Validating):
    """Never calls itself in validation: there are predictions [B], and no logits."""

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> Any:
        return self.net(batch[0]).argmax(dim=1).float()


def test_predictions_alone_are_an_error(tmp_path: Path) -> None:
    trainer = trainer_with(Recorder(folder=tmp_path), strategy="ddp_fork", devices=1)
    with pytest.raises(Exception, match=r"no logits \[B, K\] were found in validation_step"):
        trainer.fit(Unseen(), loader_over(Positions(N)), loader_over(Positions(7)))
