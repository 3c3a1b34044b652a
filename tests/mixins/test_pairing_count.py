"""Pairwise label smoothing alternates over the run, whatever its epochs are and wherever it was stopped."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.tuner import Tuner
from torch import Tensor, nn
from torch.utils.data import DataLoader

from lightning_flip.mixins import PairwiseLabelSmoothing
from lightning_flip.mixins.pairwise_label_smoothing import SmoothingHead
from tests.callbacks.helpers import run_ranks
from tests.mixins.helpers import K, LitNet, N, network, quiet
from tests.mixins.pairing import Paired, PlsGradient, points, replay, same_weights, start_of
from tests.mixins.test_tables import RestOfEpoch, Saver
from tests.oracles.pairwise import is_pairs

# A file is resumed inside an epoch by a sampler that begins there; Lightning only believes loaders that have a state.
pytestmark = pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before:UserWarning")


def batches(count: int) -> DataLoader[Any]:
    """All samples in some number of batches."""
    return DataLoader(points(), batch_size=N // count)


def mixed(model: Any) -> list[bool]:
    """For each batch that the module was given, whether it was one of averages."""
    return [notes["mixed"][1].ndim == 2 for notes in model.given if "mixed" in notes]


def every_other(count: int, first: int = 0) -> list[bool]:
    return [is_pairs(number) for number in range(first, first + count)]


class ALayerWithoutBias(Paired):
    """Its classifier layer has none."""

    def __init__(self, **options: Any) -> None:
        net = network()
        net[2].register_parameter("bias", None)
        super().__init__(net, **options)


# -- over epochs -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [lambda: Paired(network()), ALayerWithoutBias], ids=["bias", "no bias"])
@pytest.mark.parametrize("count", [1, 2, 3])
def test_epochs_of_any_number_of_batches_are_the_oracles(kind: Any, count: int) -> None:
    model = kind()
    net, gradient = start_of(model), PlsGradient()
    quiet(max_epochs=5).fit(model, batches(count))
    assert mixed(model) == every_other(5 * count)
    replay(net, [model.given], gradient)
    same_weights(model, net)


def test_validation_and_the_sanity_check_do_not_count() -> None:
    model = Paired(network())
    model.validation_step = lambda batch, batch_idx: None  # type: ignore[method-assign]
    quiet(num_sanity_val_steps=2, val_check_interval=2).fit(model, batches(3), batches(4))
    assert mixed(model) == every_other(12)


def test_accumulated_batches_count_one_by_one() -> None:
    model = Paired(network())
    quiet(accumulate_grad_batches=2).fit(model, batches(3))
    assert mixed(model) == every_other(12)


def test_a_closure_that_runs_again_is_the_same_batch() -> None:
    seen: list[list[bool]] = []

    class Searched(Paired):
        """LBFGS evaluates a batch several times."""

        def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
            super().on_train_batch_start(batch, batch_idx)
            seen.append([])

        def forward(self, x: Tensor) -> Any:
            seen[-1].append("mixed" in self.given[-1] and self.given[-1]["mixed"][1].ndim == 2)
            return super().forward(x)

        def configure_optimizers(self) -> Any:
            return torch.optim.LBFGS(self.parameters(), lr=0.1, max_iter=3)

    quiet().fit(Searched(network()), batches(3))
    assert all(len(evaluations) > 1 for evaluations in seen)
    assert [set(evaluations) for evaluations in seen] == [{mix} for mix in every_other(12)]


def test_a_batch_that_a_hook_leaves_out_does_not_count() -> None:
    class Leaves(Paired):
        """Ends its second epoch before the second batch."""

        def on_train_batch_start(self, batch: Any, batch_idx: int) -> Any:
            if (self.current_epoch, batch_idx) == (1, 1):
                return -1
            return super().on_train_batch_start(batch, batch_idx)  # type: ignore[func-returns-value]

    model = Leaves(network())
    quiet(max_epochs=3).fit(model, batches(3))
    assert mixed(model) == every_other(7)


def test_a_learning_rate_that_is_searched_does_not_count(tmp_path: Path) -> None:
    model = Paired(network())
    trainer = quiet(max_epochs=3, default_root_dir=tmp_path)
    Tuner(trainer).lr_find(model, batches(3), num_training=3, update_attr=False)
    model.given.clear()
    trainer.fit(model, batches(3))
    assert mixed(model) == every_other(9)


# -- over resumption -------------------------------------------------------------------------------------------


class Fails(Callback):
    """Stops the run while one batch is under way, and saves then; or after it, before it is counted."""

    def __init__(self, path: Path, epoch: int, batch: int) -> None:
        self.path, self.at = path, (epoch, batch)

    def on_before_backward(self, trainer: Any, pl_module: Any, loss: Any) -> None:
        if (trainer.current_epoch, trainer.fit_loop.batch_idx) == self.at:
            raise InterruptedError

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        trainer.save_checkpoint(self.path)


def of_an_epoch(count: int, skip: int, epochs: int = 4) -> DataLoader[Any]:
    """The same samples in each epoch; the second epoch begins after some batches."""
    sampler = RestOfEpoch([[batch.numpy() for batch in torch.arange(N).tensor_split(count)]] * epochs)
    sampler.skip = skip
    return DataLoader(points(), batch_sampler=sampler)


@pytest.mark.parametrize("interrupted", [False, True], ids=["after a batch", "in a batch"])
@pytest.mark.parametrize("batch", [0, 1, 2])
def test_a_run_that_is_resumed_inside_an_epoch_keeps_counting(interrupted: bool, batch: int, tmp_path: Path) -> None:
    whole = Paired(network())
    quiet().fit(whole, of_an_epoch(3, 0))
    assert mixed(whole) == every_other(12)

    path = tmp_path / "a.ckpt"
    if interrupted:
        with pytest.raises(InterruptedError):
            quiet(callbacks=[Fails(path, 1, batch)]).fit(Paired(network()), of_an_epoch(3, 0))
    else:
        quiet(callbacks=[Saver(path, 1, batch)], max_epochs=2).fit(Paired(network()), of_an_epoch(3, 0))
    done = batch if interrupted else batch + 1
    resumed = Paired(network())
    quiet().fit(resumed, of_an_epoch(3, done), ckpt_path=path)
    assert mixed(resumed) == every_other(9 - done, 3 + done)
    assert same(resumed, whole)


def test_a_run_that_fails_twice_keeps_counting(tmp_path: Path) -> None:
    path, resume = tmp_path / "a.ckpt", None
    for done, batch in ((0, 1), (1, 2)):
        with pytest.raises(InterruptedError):
            quiet(callbacks=[Fails(path, 1, batch)]).fit(Paired(network()), of_an_epoch(3, done), ckpt_path=resume)
        resume = path
    resumed, whole = Paired(network()), Paired(network())
    quiet().fit(resumed, of_an_epoch(3, 2), ckpt_path=path)
    quiet().fit(whole, of_an_epoch(3, 0))
    assert mixed(resumed) == every_other(7, 5)
    assert same(resumed, whole)


@pytest.mark.parametrize("epochs", [1, 2, 3])
def test_a_run_that_is_resumed_after_an_epoch_keeps_counting(epochs: int, tmp_path: Path) -> None:
    first, whole, resumed = (Paired(network()) for _ in range(3))
    trainer = quiet(max_epochs=epochs)
    trainer.fit(first, batches(3))
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    quiet().fit(whole, batches(3))
    quiet().fit(resumed, batches(3), ckpt_path=tmp_path / "a.ckpt")
    assert mixed(first) + mixed(resumed) == mixed(whole) == every_other(12)
    assert same(resumed, whole)


def test_weights_that_are_only_loaded_begin_to_count(tmp_path: Path) -> None:
    trainer = quiet(max_epochs=1)
    trainer.fit(Paired(network()), batches(3))
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    model = Paired(network())
    model.load_state_dict(torch.load(tmp_path / "a.ckpt", weights_only=True)["state_dict"])
    quiet(max_epochs=1).fit(model, batches(3))
    assert mixed(model) == every_other(3)


def same(one: nn.Module, other: nn.Module) -> bool:
    weights = other.state_dict()
    return all(value.equal(weights[name]) for name, value in one.state_dict().items())


class Saves(Callback):
    """Saves after the second epoch, and writes each rank's weights and pattern in the end."""

    def __init__(self, folder: Path, name: str) -> None:
        self.folder, self.name = folder, name

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        if trainer.current_epoch == 0:
            trainer.save_checkpoint(self.folder / f"{self.name}.ckpt")

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        torch.save((mixed(pl_module), pl_module.state_dict()), self.folder / f"{self.name}{trainer.global_rank}.pt")


def _fit(folder: Path) -> None:
    torch.set_num_threads(1)
    for name, resume in (("whole", None), ("resumed", folder / "whole.ckpt")):
        pl.seed_everything(0, verbose=False)
        trainer = quiet(devices=2, strategy="ddp", max_epochs=3, callbacks=[Saves(folder, name)])
        trainer.fit(Paired(network()), DataLoader(points(), batch_size=4), ckpt_path=resume)


def test_two_ranks_count_the_batches_that_each_of_them_has(tmp_path: Path) -> None:
    assert run_ranks(2, _fit, tmp_path) == [0, 0]
    for rank in range(2):
        whole, weights = torch.load(tmp_path / f"whole{rank}.pt", weights_only=True)
        rest, resumed = torch.load(tmp_path / f"resumed{rank}.pt", weights_only=True)
        assert whole == every_other(9)
        assert rest == whole[3:]
        assert all(value.equal(resumed[name]) for name, value in weights.items())


# -- the second head's bias ------------------------------------------------------------------------------------


@pytest.mark.parametrize("bias", [True, False])
def test_the_head_has_a_bias_where_the_classifier_layer_has_one(bias: bool) -> None:
    layer = nn.Linear(8, 3, bias=bias)
    head = SmoothingHead(layer, 3)
    assert [name for name, _ in head.named_parameters()] == (["weight", "bias"] if bias else ["weight"])
    features = torch.randn(2, 8)
    expected = features @ head.weight.T + (head.bias if bias else 0)
    torch.testing.assert_close(head(features), expected)


class Headed(PairwiseLabelSmoothing, LitNet):
    """A classifier layer with or without a bias."""

    def __init__(self, bias: bool = False, **options: Any) -> None:
        super().__init__(nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, K, bias=bias)).double(), **options)


@pytest.mark.parametrize("bias", [True, False])
def test_a_head_of_0_1_keeps_its_bias(bias: bool, tmp_path: Path) -> None:
    """There it had one in any case; the optimizer knows it, and a run that is resumed trains it."""
    old = Headed(bias)
    with torch.no_grad():
        old.smoothing_head.bias = nn.Parameter(torch.linspace(-1, 1, K, dtype=torch.float64))
    whole = quiet(max_epochs=1)
    whole.fit(old, batches(3))
    whole.save_checkpoint(tmp_path / "old.ckpt")
    kept = old.smoothing_head.bias.detach().clone()

    loaded = Headed.load_from_checkpoint(tmp_path / "old.ckpt", bias=bias, map_location="cpu")
    assert loaded.smoothing_head.bias.equal(kept)
    assert loaded.smoothing_head.bias.requires_grad
    resumed = Headed(bias)
    quiet(max_epochs=2).fit(resumed, batches(3), ckpt_path=tmp_path / "old.ckpt")
    assert not resumed.smoothing_head.bias.equal(kept)
    assert resumed.smoothing_head.bias.dtype == torch.float64


def test_a_head_without_bias_loads_its_own_checkpoints(tmp_path: Path) -> None:
    trainer, model = quiet(max_epochs=1), Headed()
    trainer.fit(model, batches(3))
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    loaded = Headed.load_from_checkpoint(tmp_path / "a.ckpt", map_location="cpu")
    assert loaded.smoothing_head.bias is None
    assert same(loaded, model)
