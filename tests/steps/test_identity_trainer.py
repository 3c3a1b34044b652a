"""The recorded index is right in every way of running a Trainer, and nothing is left behind."""

from __future__ import annotations

import copy
from collections import Counter
from typing import Any

import lightning.pytorch as pl
import pytest
import pytorch_lightning
import torch
from lightning.pytorch.tuner.tuning import Tuner
from lightning.pytorch.utilities import CombinedLoader
from torch.nn.functional import cross_entropy
from torchdata.stateful_dataloader import StatefulDataLoader

from lightning_flip.steps import StepSource
from tests.steps.helpers import (
    QUIET,
    UPSTREAM_WARNINGS,
    Passing,
    PassThrough,
    Positions,
    Recorder,
    Recording,
    Validating,
    assert_nothing_left,
    fit,
    loader_over,
    trainer_with,
)

pytestmark = UPSTREAM_WARNINGS

N = 13
ONCE = Counter(range(N))


class WithLoaders(Validating):
    def train_dataloader(self) -> Any:
        return loader_over(Positions(N), shuffle=True)

    def val_dataloader(self) -> Any:
        return loader_over(Positions(7, offset=30))


class Data(pl.LightningDataModule):
    def __init__(self, workers: int = 0) -> None:
        super().__init__()
        self.workers = workers
        self.made = 0

    def train_dataloader(self) -> Any:
        self.made += 1
        return loader_over(Positions(N), shuffle=True, num_workers=self.workers, persistent_workers=self.workers > 0)

    def val_dataloader(self) -> Any:
        return loader_over(Positions(7, offset=30))


def assert_both_splits(recorder: Any, epochs: int = 1) -> None:
    for epoch in range(epochs):
        assert recorder.seen.counts("train", epoch) == ONCE
        assert recorder.seen.counts("val", epoch) == Counter(range(7))
    for visit in recorder.seen.visits:
        offset = 30 if visit.split == "val" else 0
        assert visit.content == [index + offset for index in visit.index]


def test_loaders_of_the_module() -> None:
    recorder, _ = fit(None, module=WithLoaders())
    assert_both_splits(recorder)


def test_loaders_of_a_data_module() -> None:
    recorder, _ = fit(Data(), module=Validating())
    assert_both_splits(recorder)


def test_the_sanity_check_changes_nothing() -> None:
    recorder, _ = fit(None, module=WithLoaders(), num_sanity_val_steps=2)
    assert_both_splits(recorder)


@pytest.mark.parametrize("workers", [0, 1])
def test_loaders_made_anew_every_epoch(workers: int) -> None:
    data = Data(workers)
    alive = []

    class Watch(pl.Callback):
        def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
            alive.append(len(torch.multiprocessing.active_children()))

    recorder = Recorder()
    trainer = trainer_with(recorder, Watch(), max_epochs=3, reload_dataloaders_every_n_epochs=1)
    trainer.fit(Validating(), data)
    assert_both_splits(recorder, epochs=3)
    assert data.made == 3
    # Loaders that Lightning has dropped must not be kept alive, with their workers, by the attachment.
    assert alive[-1] <= alive[0]


def test_several_fits_of_one_trainer() -> None:
    recorder = Recorder()
    trainer = trainer_with(recorder)
    module, other = Passing(), Passing()
    loader = loader_over(Positions(N), shuffle=True)
    trainer.fit(module, loader)
    trainer.fit_loop.max_epochs = 2
    trainer.fit(module, loader)
    assert recorder.seen.counts("train", 0) == recorder.seen.counts("train", 1) == ONCE
    trainer.fit_loop.max_epochs = 3
    trainer.fit(other, loader_over(Positions(9), batch_size=4, shuffle=True))
    assert recorder.seen.counts("train", 2) == Counter(range(9))
    recorder.seen.assert_agree()
    for one in (module, other):
        assert not one._forward_hooks
    assert type(loader.dataset) is Positions


def test_a_training_step_without_batch_idx() -> None:
    class Short(Passing):
        def training_step(self, batch: Any) -> Any:  # type: ignore[override]
            return cross_entropy(self(batch[0]), batch[1])

    recorder, _ = fit(loader_over(Positions(N), shuffle=True), module=Short())
    recorder.seen.assert_agree()
    assert recorder.seen.counts("train") == ONCE


class Tunable(Passing):
    def __init__(self) -> None:
        super().__init__()
        self.lr = 0.0

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=self.lr)


# lr_find saves and restores weights itself, and Lightning warns of its own attribute.
@pytest.mark.filterwarnings("ignore:.*lr_find:UserWarning")
def test_lr_find_before_a_fit() -> None:
    recorder = Recorder()
    trainer = trainer_with(recorder)
    loader = loader_over(Positions(N), shuffle=True)
    before = dict(vars(loader))
    module = Tunable()
    Tuner(trainer).lr_find(module, loader, num_training=5, update_attr=False)
    assert_nothing_left(trainer)
    assert dict(vars(loader)) == before
    assert type(next(iter(loader))) is list
    recorder.seen.visits.clear()
    trainer.fit(module, loader)
    recorder.seen.assert_agree()
    assert recorder.seen.counts("train") == ONCE


def test_an_exception_in_the_middle() -> None:
    class Failing(Passing):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            if batch_idx == 1 and not self.trainer.current_epoch:
                raise ArithmeticError("in the middle")
            return super().training_step(batch, batch_idx)

    recorder = Recorder()
    trainer = trainer_with(recorder)
    loader = loader_over(Positions(N), shuffle=True)
    before, strategy, precision = dict(vars(loader)), set(vars(trainer.strategy)), vars(trainer.precision_plugin).copy()
    with pytest.raises(ArithmeticError):
        trainer.fit(Failing(), loader)
    assert_nothing_left(trainer)
    assert dict(vars(loader)) == before
    assert set(vars(trainer.strategy)) == strategy
    assert vars(trainer.precision_plugin) == precision
    assert type(next(iter(loader))) is list

    again = Recorder()
    trainer = trainer_with(again)
    trainer.fit(Passing(), loader)
    again.seen.assert_agree()
    assert again.seen.counts("train") == ONCE


def test_wrappers_of_others_on_the_same_instances_stay() -> None:
    recorder = Recorder()
    trainer = trainer_with(recorder)
    calls = []
    original = trainer.strategy.process_dataloader

    def theirs(loader: Any) -> Any:
        calls.append(loader)
        return original(loader)

    trainer.strategy.process_dataloader = theirs  # type: ignore[assignment, method-assign]
    trainer.fit(Passing(), loader_over(Positions(N)))
    recorder.seen.assert_agree()
    assert calls
    assert trainer.strategy.process_dataloader is theirs


def test_stateful_data_loader() -> None:
    loader = StatefulDataLoader(Positions(N), batch_size=5, shuffle=True)
    recorder, _ = fit(loader, max_epochs=2)
    recorder.seen.assert_agree()
    assert recorder.seen.counts("train", 0) == recorder.seen.counts("train", 1) == ONCE
    assert all(type(batch) is list for batch in loader)


class Several(Passing):
    """Trains on whatever loaders there are, the one that is followed last."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        parts = list(batch.values()) if isinstance(batch, dict) else list(batch)
        return sum(cross_entropy(self(part[0]), part[1]) for part in parts if part is not None)


class FollowedFirst(Several):
    """Runs the second of its loaders first, whose logits are then the step's."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return super().training_step(list(batch)[::-1], batch_idx)


def test_the_first_of_two_training_loaders() -> None:
    loaders = [loader_over(Positions(N), shuffle=True), loader_over(Positions(9, offset=40), shuffle=True)]
    recorder, _ = fit(loaders, module=Several(), source=StepSource(loader=0))
    recorder.seen.assert_agree()
    assert recorder.seen.counts("train") == ONCE
    assert set(recorder.plain_batches) == {list}


def test_the_second_of_two_training_loaders_is_cycled() -> None:
    loaders = [loader_over(Positions(N), shuffle=True), loader_over(Positions(10, offset=40), shuffle=True)]
    recorder, _ = fit(loaders, module=FollowedFirst(), source=StepSource(loader=1))
    recorder.seen.assert_agree(lambda index: index + 40)
    assert sum(recorder.seen.counts("train").values()) == 15
    assert set(recorder.seen.counts("train")) == set(range(10))


def test_a_dict_of_training_loaders() -> None:
    loaders = {"plain": loader_over(Positions(N), shuffle=True), "other": loader_over(Positions(N, offset=40))}
    recorder, _ = fit(loaders, module=Several(), source=StepSource(loader="plain"))
    recorder.seen.assert_agree()
    assert recorder.seen.counts("train") == ONCE


def test_a_list_of_one_training_loader_needs_no_name() -> None:
    recorder, _ = fit([loader_over(Positions(N), shuffle=True)], module=Several())
    recorder.seen.assert_agree()
    assert recorder.seen.counts("train") == ONCE


def test_a_combined_loader_whose_followed_part_ends_early() -> None:
    """mode="max_size" gives None for a loader that is exhausted: there is nothing to record then."""
    parts = [loader_over(Positions(5), batch_size=5, shuffle=True), loader_over(Positions(N, offset=40))]
    combined = CombinedLoader(parts, mode="max_size")
    recorder, _ = fit(combined, module=Several(), source=StepSource(loader=0))
    recorder.seen.assert_agree()
    assert recorder.seen.counts("train") == Counter(range(5))
    # Lightning puts its own copies into the user's CombinedLoader; they yield plain batches again.
    assert all(type(part) in (list, type(None)) for batch, _, _ in combined for part in batch)
    assert type(parts[0].dataset) is Positions


def test_several_validation_loaders() -> None:
    loaders = [loader_over(Positions(7)), loader_over(Positions(4, offset=50), batch_size=3)]
    recorder, _ = fit(loader_over(Positions(N)), val=loaders)
    assert recorder.seen.counts("val", loader=0) == Counter(range(7))
    assert recorder.seen.counts("val", loader=1) == Counter(range(4))
    for visit in recorder.seen.of("val"):
        assert visit.content == [index + 50 * visit.loader for index in visit.index]


def test_validation_inside_an_epoch() -> None:
    recorder, _ = fit(loader_over(Positions(N), shuffle=True), val=loader_over(Positions(7)), val_check_interval=1)
    recorder.seen.assert_agree()
    assert recorder.seen.counts("train") == ONCE
    assert recorder.seen.counts("val") == Counter(dict.fromkeys(range(7), 3))


def test_accumulated_gradients() -> None:
    recorder, _ = fit(loader_over(Positions(N), shuffle=True), accumulate_grad_batches=2)
    recorder.seen.assert_agree()
    assert recorder.seen.counts("train") == ONCE


def test_manual_optimization() -> None:
    class Manual(Passing):
        automatic_optimization = False

        def __init__(self) -> None:
            super().__init__()
            self.automatic_optimization = False

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            optimizer: Any = self.optimizers()
            optimizer.zero_grad()
            self.manual_backward(cross_entropy(self(batch[0]), batch[1]))
            optimizer.step()

    recorder, _ = fit(loader_over(Positions(N), shuffle=True), module=Manual())
    recorder.seen.assert_agree()
    assert recorder.seen.counts("train") == ONCE


def test_an_optimizer_that_runs_the_step_several_times() -> None:
    runs = []

    class Repeated(Passing):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            runs.append(batch_idx)
            return super().training_step(batch, batch_idx)

        def configure_optimizers(self) -> Any:
            return torch.optim.LBFGS(self.parameters(), lr=1e-12, max_iter=3, tolerance_grad=0, tolerance_change=0)

    recorder, _ = fit(loader_over(Positions(N), shuffle=True), module=Repeated())
    recorder.seen.assert_agree()
    assert recorder.seen.counts("train") == ONCE
    assert len(runs) > 3


def test_validate_and_test_by_themselves() -> None:
    recorder = Recorder()
    trainer = trainer_with(recorder)
    module = Validating()
    trainer.fit(module, loader_over(Positions(N)), loader_over(Positions(7)))
    assert recorder.seen.counts("val") == Counter(range(7))
    recorder.seen.visits.clear()
    trainer.validate(module, loader_over(Positions(8)), verbose=False)
    trainer.test(module, loader_over(Positions(9)), verbose=False)
    recorder.seen.assert_agree()
    assert recorder.seen.counts("val") == Counter(range(8))
    assert recorder.seen.counts("test") == Counter(range(9))
    assert_nothing_left(trainer)


def test_fast_dev_run() -> None:
    recorder, _ = fit(loader_over(Positions(N), shuffle=True), fast_dev_run=True)
    recorder.seen.assert_agree()
    assert sum(recorder.seen.counts("train").values()) == 5


# overfit_batches replaces the shuffling sampler and says so.
@pytest.mark.filterwarnings("ignore:.*overfit_batches")
@pytest.mark.parametrize("options", [{"overfit_batches": 2}, {"limit_train_batches": 2}])
def test_a_part_of_the_data(options: dict[str, Any]) -> None:
    recorder, _ = fit(loader_over(Positions(N)), max_epochs=2, **options)
    recorder.seen.assert_agree()
    assert recorder.seen.counts("train", 0) == recorder.seen.counts("train", 1) == Counter(range(10))


class Compiled(Passing):
    def __init__(self) -> None:
        super().__init__()
        self.net: Any = torch.compile(PassThrough(), backend="eager")

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return cross_entropy(self.net(batch[0]), batch[1])


# Importing the compiler warns of deprecated parts of PyTorch itself.
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.filterwarnings("ignore:Guards may run slower on Python 3.13.0:RuntimeWarning")
def test_a_compiled_network() -> None:
    recorder, _ = fit(
        loader_over(Positions(N), shuffle=True), module=Compiled(), source=StepSource(logits_from="net"), max_epochs=2
    )
    recorder.seen.assert_agree()
    assert recorder.seen.counts("train", 0) == recorder.seen.counts("train", 1) == ONCE


class OtherDistribution(pytorch_lightning.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.net = PassThrough()

    def forward(self, x: Any) -> Any:
        return self.net(x)

    training_step = Passing.training_step
    configure_optimizers = Passing.configure_optimizers


def test_the_trainer_of_pytorch_lightning() -> None:
    class OtherRecorder(Recording, pytorch_lightning.Callback):
        pass

    recorder = OtherRecorder()
    trainer = pytorch_lightning.Trainer(**QUIET, max_epochs=2, callbacks=[recorder])
    trainer.fit(OtherDistribution(), loader_over(Positions(N), shuffle=True))
    recorder.seen.assert_agree()
    assert recorder.seen.counts("train", 0) == recorder.seen.counts("train", 1) == ONCE
    assert_nothing_left(trainer)


def test_two_owners_share_one_attachment() -> None:
    first, second = Recorder(), Recorder(StepSource(logits_from="net"))
    shared = []

    class Look(pl.Callback):
        def on_train_start(self, trainer: Any, pl_module: Any) -> None:
            shared.append(first.attachment is second.attachment)
            first.attachment.release(first)  # one owner leaves, the other stays

    trainer = trainer_with(first, second, Look())
    trainer.fit(Passing(), loader_over(Positions(N), shuffle=True))
    assert shared == [True]
    second.seen.assert_agree()
    assert second.seen.counts("train") == ONCE
    assert_nothing_left(trainer)


def test_a_trainer_and_module_can_be_copied_after_a_fit() -> None:
    recorder, trainer = fit(loader_over(Positions(N)))
    copy.deepcopy(trainer.lightning_module)
    assert recorder.attachment is None
