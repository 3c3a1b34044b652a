"""Datasets whose content encodes the position, a module that passes it through, and a callback that records both."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import BatchSampler, DataLoader, Dataset

from lightning_flip.steps import StepSource, attach

UPSTREAM_WARNINGS = [
    # Lightning 2.6 asks PyTorch's pytree in a way that PyTorch 2.9 deprecated; nothing here can avoid it.
    pytest.mark.filterwarnings("ignore:`isinstance.treespec, LeafSpec.` is deprecated:FutureWarning"),
    # Lightning judges the number of workers by the number of cores of the machine that runs the tests.
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
]

NUM_CLASSES = 3
WIDTH = 4


def sample(content: int) -> tuple[Tensor, Tensor]:
    """The features and label of content: the first feature is the content itself."""
    return torch.tensor([float(content), 0.0, 0.0, 1.0]), torch.tensor(content % NUM_CLASSES)


class Positions(Dataset):
    """Content of sample i: i + offset."""

    def __init__(self, n: int = 13, offset: int = 0) -> None:
        self.n = n
        self.offset = offset

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, index: int) -> Any:
        if not -self.n <= index < self.n:
            raise IndexError(index)
        return sample(int(index) % self.n + self.offset)


class AsList(Positions):
    def __getitem__(self, index: int) -> Any:
        return list(super().__getitem__(index))


class AsDict(Positions):
    def __getitem__(self, index: int) -> Any:
        x, y = super().__getitem__(index)
        return {"image": x, "label": y, "id": index}


class Pair(NamedTuple):
    image: Tensor
    target: Tensor


class AsNamedTuple(Positions):
    def __getitem__(self, index: int) -> Any:
        return Pair(*super().__getitem__(index))


@dataclass
class PairRecord:
    image: Tensor
    y: Tensor


class AsDataclass(Positions):
    def __getitem__(self, index: int) -> Any:
        return PairRecord(*super().__getitem__(index))


def stack_records(records: Sequence[PairRecord]) -> PairRecord:
    assert all(type(record) is PairRecord for record in records)
    return PairRecord(torch.stack([r.image for r in records]), torch.stack([r.y for r in records]))


def stack_pairs(pairs: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """A collate function that knows nothing but the dataset's own tuples."""
    assert all(type(pair) is tuple for pair in pairs)
    return torch.stack([x for x, _ in pairs]), torch.stack([y for _, y in pairs])


class Bulk(Positions):
    """Fetches many samples in one call."""

    def __getitem__(self, index: int) -> Any:
        raise AssertionError("samples of this dataset are fetched in bulk")

    def __getitems__(self, indices: Sequence[int]) -> list[Any]:
        return [Positions.__getitem__(self, index) for index in indices]


class BulkBatch(Bulk):
    """Its bulk answer is a finished batch already, for a collate function that does nothing."""

    def __getitems__(self, indices: Sequence[int]) -> Any:
        return stack_pairs([Positions.__getitem__(self, index) for index in indices])


class Assembled(Positions):
    """Asked with a list of positions, it returns the batch itself (batch_size=None)."""

    def __getitem__(self, index: Any) -> Any:
        return stack_pairs([Positions.__getitem__(self, one) for one in index])


class ByName(Positions):
    """Read by name; its batches carry an integer id."""

    def __getitem__(self, name: Any) -> Any:
        x, y = super().__getitem__(int(name.removeprefix("sample-")))
        return {"image": x, "label": y, "id": int(x[0])}


def unchanged(batch: Any) -> Any:
    return batch


class EverySecondBatch(BatchSampler):
    """Yields the batches at even places first: an order of its own."""

    def __iter__(self) -> Any:
        batches = list(super().__iter__())
        yield from batches[0::2]
        yield from batches[1::2]


def image_of(batch: Any) -> Any:
    if isinstance(batch, dict):
        return batch["image"]
    return batch.image if hasattr(batch, "image") else batch[0]


def target_of(batch: Any) -> Any:
    if isinstance(batch, dict):
        return batch["label"]
    return batch.y if isinstance(batch, PairRecord) else batch[1]


class PassThrough(nn.Module):
    """Logits [content, 0, 0]; with a learning rate of 0 they stay so."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor) -> Any:
        return x[:, :NUM_CLASSES] * self.scale


class Passing(pl.LightningModule):
    """Its logits say which samples it saw."""

    def __init__(self) -> None:
        super().__init__()
        self.net = PassThrough()

    def forward(self, x: Tensor) -> Any:
        return self.net(x)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return cross_entropy(self(image_of(batch)), target_of(batch))

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.0)


class Validating(Passing):
    """The same with steps for validation and test."""

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> Any:
        # What a step returns must not be mistaken for logits: [B] looks like one logit per sample.
        return self(image_of(batch)).argmax(dim=1).float()

    def test_step(self, batch: Any, batch_idx: int) -> None:
        self(image_of(batch))


@dataclass
class Visit:
    """What one step said."""

    split: str
    loader: int
    epoch: int
    index: list[int]
    content: list[int]
    target: list[int]


@dataclass
class Seen:
    visits: list[Visit] = field(default_factory=list)

    def of(self, split: str, epoch: int | None = None, loader: int | None = None) -> list[Visit]:
        return [
            visit
            for visit in self.visits
            if visit.split == split and epoch in (None, visit.epoch) and loader in (None, visit.loader)
        ]

    def counts(self, split: str, epoch: int | None = None, loader: int | None = None) -> Counter[int]:
        return Counter(index for visit in self.of(split, epoch, loader) for index in visit.index)

    def assert_agree(self, expected: Callable[[int], int] = lambda index: index) -> None:
        """Every recorded index names the sample whose content the network saw."""
        assert self.visits
        for visit in self.visits:
            assert visit.content == [expected(index) for index in visit.index]
            assert visit.target == [content % NUM_CLASSES for content in visit.content]


class Recording:
    """Records every step; with a folder, each process writes what it saw into a file of its own."""

    def __init__(self, source: StepSource | None = None, folder: Path | None = None) -> None:
        self.source = source or StepSource()
        self.folder = folder
        self.seen = Seen()
        self.plain_batches: list[type] = []
        self.attachment: Any = None

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        self.attachment = attach(trainer, pl_module, self, self.source)

    def _record(self, trainer: Any, split: str, batch: Any, loader: int) -> None:
        if trainer.sanity_checking:
            return
        assert self.attachment is not None
        self.plain_batches.append(type(batch))
        step = self.attachment.sample_step(self.source)
        if step is None:
            return
        step = step.detached().recorded()
        for part in step.once():
            assert len(set(part.index.tolist())) == len(part.index)
        self.seen.visits.append(
            Visit(
                split,
                loader,
                trainer.current_epoch,
                step.index.tolist(),
                step.logits[:, 0].long().tolist(),
                step.target.tolist(),
            )
        )

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self._record(trainer, "train", batch, 0)

    def on_validation_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        self._record(trainer, "val", batch, dataloader_idx)

    def on_test_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        self._record(trainer, "test", batch, dataloader_idx)

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        self._release(trainer)

    def teardown(self, trainer: Any, pl_module: Any, stage: str) -> None:
        self._release(trainer)

    def _release(self, trainer: Any) -> None:
        if self.attachment is None:
            return
        self.attachment.release(self)
        self.attachment = None
        if self.folder is not None:
            write_seen(self.folder / f"rank-{trainer.global_rank}.npz", self.seen)


class Recorder(Recording, pl.Callback):
    pass


def write_seen(path: Path, seen: Seen) -> None:
    rows = [
        (visit.split, visit.loader, visit.epoch, *row)
        for visit in seen.visits
        for row in zip(visit.index, visit.content, visit.target, strict=True)
    ]
    np.savez(path, split=np.array([row[0] for row in rows]), rows=np.array([row[1:] for row in rows]))


def read_seen(folder: Path, ranks: int) -> Seen:
    """All ranks' rows as one; fails when a rank wrote nothing."""
    seen = Seen()
    for rank in range(ranks):
        with np.load(folder / f"rank-{rank}.npz") as file:
            splits, rows = file["split"], file["rows"]
        seen.visits += [
            Visit(str(split), loader, epoch, [index], [content], [target])
            for split, (loader, epoch, index, content, target) in zip(splits, rows.tolist(), strict=True)
        ]
    return seen


QUIET: dict[str, Any] = {
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "accelerator": "cpu",
    "devices": 1,
    "log_every_n_steps": 1,
    "num_sanity_val_steps": 0,
}


def trainer_with(*callbacks: Any, **options: Any) -> pl.Trainer:
    return pl.Trainer(**{**QUIET, "max_epochs": 1, "callbacks": list(callbacks), **options})


def fit(
    loaders: Any, *, module: Any = None, val: Any = None, source: StepSource | None = None, **options: Any
) -> tuple[Any, pl.Trainer]:
    """Fit with a recorder; returns what it saw and the Trainer."""
    recorder = Recorder(source)
    trainer = trainer_with(recorder, **options)
    if module is None:
        module = Passing() if val is None else Validating()
    trainer.fit(module, loaders, val)
    assert_nothing_left(trainer)
    return recorder, trainer


def assert_nothing_left(trainer: Any) -> None:
    """Strategy, precision plugin and module carry nothing of ours."""
    ours = {"process_dataloader", "convert_input", "training_step", "validation_step", "test_step"}
    assert not ours & set(vars(trainer.strategy))
    assert not ours & set(vars(trainer.strategy.precision_plugin))
    for part in trainer.lightning_module.modules():
        assert not part._forward_hooks
        assert not part._forward_pre_hooks


def loader_over(data: Any, *, batch_size: Any = 5, **options: Any) -> DataLoader:
    return DataLoader(data, batch_size=batch_size, **options)
