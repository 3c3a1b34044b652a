"""The transition that a fit estimates: what it is made of, where it goes, and that nothing is lost on the way."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from lightning_flip.callbacks import ExactResume, TransitionEstimator
from lightning_flip.data import NoisyLabels
from lightning_flip.functional import condition_number, estimate_transition, symmetric_transition
from lightning_flip.mixins import BackwardCorrection, ForwardCorrection
from lightning_flip.stores import read_transition
from tests.callbacks.helpers import CLASSES, Lookup, Watched, loader, make_trainer, run_ranks, some_logits

pytestmark = [
    pytest.mark.filterwarnings("ignore:You defined a `validation_step`"),
    pytest.mark.filterwarnings("ignore:the transition has a condition number"),  # of three random classes
    pytest.mark.filterwarnings("ignore:Using .DistributedSampler. with the dataloaders"),
]
COUNT = 12


class Corrected(ForwardCorrection, Watched):
    """A network that waits for an estimate."""


class CorrectedLookup(ForwardCorrection, Lookup):
    """Looked-up logits."""


class BackwardLookup(BackwardCorrection, Lookup):
    """The other correction."""


def expected(epoch: int, percentile: float | None = 97.0, rows: Any = slice(None)) -> Tensor:
    return estimate_transition(some_logits(3, COUNT)[epoch, rows].softmax(dim=1), percentile)


def fit(model: Any, estimator: TransitionEstimator, count: int = COUNT, **options: Any) -> pl.Trainer:
    callbacks = [estimator, *options.pop("callbacks", [])]
    trainer = make_trainer(callbacks=callbacks, **options)
    trainer.fit(model, loader(count, shuffle=True))
    return trainer


@pytest.mark.parametrize("warmup", [1, 2, 3])
@pytest.mark.parametrize("percentile", [97.0, 50, None])
def test_the_estimate_is_that_of_the_last_warm_up_epochs_predictions(
    warmup: int, percentile: Any, tmp_path: Path
) -> None:
    estimator = TransitionEstimator(tmp_path / "new" / "T.npz", warmup_epochs=warmup, percentile=percentile)
    fit(Lookup(some_logits(3, COUNT)), estimator)
    T = expected(warmup - 1, percentile)
    torch.testing.assert_close(estimator.transition, T, rtol=0, atol=1e-12)
    assert estimator.condition_number == pytest.approx(condition_number(T))
    np.testing.assert_array_equal(read_transition(tmp_path / "new" / "T.npz"), estimator.transition)
    with np.load(tmp_path / "new" / "T.npz") as archive:
        assert float(archive["condition_number"]) == estimator.condition_number
        assert (int(archive["num_samples"]), int(archive["epoch"])) == (COUNT, warmup)


@pytest.mark.parametrize("kind", [CorrectedLookup, BackwardLookup])
def test_the_correction_begins_with_the_epoch_after_it(kind: Any, tmp_path: Path) -> None:
    waited: list[bool] = []

    class Look(pl.Callback):
        def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
            waited.append(pl_module.awaits_transition)

    model = kind(some_logits(3, COUNT), transition="estimate")
    estimator = TransitionEstimator(tmp_path / "T.npz", warmup_epochs=2)
    fit(model, estimator, callbacks=[Look()])
    assert waited == [True] * 6 + [False] * 3
    assert model._mixin.correction.matrix.equal(estimator.transition)


def test_a_later_fit_takes_the_file(tmp_path: Path) -> None:
    first = TransitionEstimator(tmp_path / "T.npz")
    fit(Lookup(some_logits(3, COUNT)), first)
    model = CorrectedLookup(some_logits(3, COUNT), transition=tmp_path / "T.npz")
    make_trainer().fit(model, loader(COUNT))
    assert model._mixin.correction.matrix.equal(first.transition)


def test_it_leaves_a_plain_fit_as_it_is(tmp_path: Path) -> None:
    plain, watched = Watched(noise=True), Watched(noise=True)
    pl.seed_everything(0, verbose=False)
    make_trainer().fit(plain, loader(COUNT, shuffle=True))
    pl.seed_everything(0, verbose=False)
    fit(watched, TransitionEstimator(tmp_path / "T.npz"))
    assert plain.seen == watched.seen


def test_the_default_file_is_in_the_trainers_folder(tmp_path: Path) -> None:
    fit(Lookup(some_logits(3, COUNT)), TransitionEstimator(), default_root_dir=tmp_path)
    assert (tmp_path / "prediction_history" / "version_0" / "transition.npz").is_file()


def test_a_run_that_saw_part_of_the_data_estimates_from_that(tmp_path: Path) -> None:
    estimator = TransitionEstimator(tmp_path / "T.npz")
    trainer = make_trainer(callbacks=[estimator], limit_train_batches=2)
    trainer.fit(Lookup(some_logits(3, COUNT)), loader(COUNT))
    torch.testing.assert_close(estimator.transition, expected(0, rows=slice(0, 8)), rtol=0, atol=1e-12)


def test_a_second_fit_starts_anew(tmp_path: Path) -> None:
    estimator = TransitionEstimator(tmp_path / "T.npz", overwrite=True)
    fit(Lookup(some_logits(3, COUNT)), estimator)
    fit(Lookup(some_logits(3, COUNT, seed=4)), estimator)
    T = estimate_transition(some_logits(3, COUNT, seed=4)[0].softmax(dim=1))
    torch.testing.assert_close(estimator.transition, T, rtol=0, atol=1e-12)
    np.testing.assert_array_equal(read_transition(tmp_path / "T.npz"), estimator.transition)


# -- resuming -------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:Checkpoint directory")
@pytest.mark.parametrize("name", ["epoch=0", "epoch=1", "epoch=2"])
def test_a_resumed_fit_is_the_whole_one_bit_for_bit(name: str, tmp_path: Path) -> None:
    """Before the estimate, right after it, and an epoch later."""

    def run(folder: str, ckpt: Any = None) -> tuple[Any, TransitionEstimator]:
        model = Corrected(transition="estimate", noise=True)
        estimator = TransitionEstimator(tmp_path / folder / "T.npz", warmup_epochs=2)
        save = ModelCheckpoint(tmp_path / "saved", filename="{epoch}", save_top_k=-1)
        trainer = make_trainer(max_epochs=4, callbacks=[estimator, ExactResume(), save])
        trainer.fit(model, loader(COUNT, shuffle=True), ckpt_path=ckpt, weights_only=True)
        return model, estimator

    pl.seed_everything(0, verbose=False)
    whole, first = run("whole")
    kept = (tmp_path / "saved" / f"{name}.ckpt").rename(tmp_path / "kept.ckpt")
    pl.seed_everything(1, verbose=False)
    again, second = run("again", kept)
    assert whole.seen == again.seen
    assert first.transition is not None
    assert first.transition.equal(second.transition)
    assert first.condition_number == second.condition_number
    assert (tmp_path / "again" / "T.npz").exists() == (name == "epoch=0")


def test_predictions_of_an_epoch_in_two_parts_count_together(tmp_path: Path) -> None:
    """Interrupted after the first of three batches; the plain loader starts over, so that all are seen again."""
    save = ModelCheckpoint(tmp_path, filename="{step}", save_top_k=-1, every_n_train_steps=1)
    fit(Lookup(some_logits(3, COUNT)), TransitionEstimator(tmp_path / "T.npz"), callbacks=[save], max_epochs=1)
    state = torch.load(tmp_path / "step=2.ckpt", weights_only=True)["callbacks"]
    (mine,) = (value for key, value in state.items() if key.startswith("TransitionEstimator"))
    assert int(mine["table"]["seen"].sum()) == 8
    assert mine["transition"] is None


@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`")
def test_the_end_of_an_epoch_that_was_not_seen_is_made_up_for(tmp_path: Path) -> None:
    """Of a checkpoint made at an epoch's last batch, the hooks of its end never run."""
    save = ModelCheckpoint(tmp_path, filename="{step}", save_top_k=-1, every_n_train_steps=1)
    first = TransitionEstimator(tmp_path / "T.npz")
    fit(Lookup(some_logits(3, COUNT)), first, callbacks=[save])
    model = CorrectedLookup(some_logits(3, COUNT), transition="estimate")
    second = TransitionEstimator(tmp_path / "U.npz")
    trainer = make_trainer(callbacks=[second])
    trainer.fit(model, loader(COUNT), ckpt_path=tmp_path / "step=3.ckpt", weights_only=True)
    torch.testing.assert_close(second.transition, first.transition, rtol=0, atol=0)
    assert read_transition(tmp_path / "U.npz").tolist() == first.transition.tolist()  # type: ignore[union-attr]
    assert not model.awaits_transition


def test_a_callback_that_comes_late_estimates_in_its_first_epoch(tmp_path: Path) -> None:
    trainer = make_trainer(max_epochs=2)
    trainer.fit(Lookup(some_logits(3, COUNT)), loader(COUNT))
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    estimator = TransitionEstimator(tmp_path / "T.npz")
    make_trainer(callbacks=[estimator]).fit(
        Lookup(some_logits(3, COUNT)), loader(COUNT), ckpt_path=tmp_path / "a.ckpt", weights_only=True
    )
    torch.testing.assert_close(estimator.transition, expected(2), rtol=0, atol=1e-12)


def test_states_that_are_loaded_outside_of_a_fit_are_ignored(tmp_path: Path) -> None:
    estimator = TransitionEstimator(tmp_path / "T.npz")
    trainer = fit(Lookup(some_logits(3, COUNT)), estimator)
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    other = TransitionEstimator(tmp_path / "U.npz")
    make_trainer(callbacks=[other]).validate(
        Lookup(some_logits(3, COUNT), some_logits(1, COUNT)),
        loader(COUNT),
        ckpt_path=tmp_path / "a.ckpt",
        verbose=False,
    )
    assert other.transition is None


# -- ranks ----------------------------------------------------------------------------------------------------


def fit_on_ranks(world: int) -> None:
    estimator = TransitionEstimator(f"T-{world}.npz")
    model = CorrectedLookup(some_logits(3, 11), transition="estimate")
    trainer = make_trainer(devices=world, strategy="ddp" if world > 1 else "auto", callbacks=[estimator])
    trainer.fit(model, loader(11, 2, shuffle=True))
    assert model._mixin.correction.matrix.equal(estimator.transition)
    torch.save(estimator.transition, f"rank-{world}-{trainer.global_rank}.pt")


def test_two_ranks_estimate_what_one_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    fit_on_ranks(1)
    assert run_ranks(2, fit_on_ranks, 2) == [0, 0]
    one = torch.load("rank-1-0.pt", weights_only=True)
    for rank in range(2):
        assert torch.load(f"rank-2-{rank}.pt", weights_only=True).equal(one)
    assert read_transition("T-2.npz").tolist() == read_transition("T-1.npz").tolist() == one.tolist()


def refused_on_ranks() -> None:
    with pytest.raises((FileExistsError, RuntimeError), match="already there"):
        make_trainer(devices=2, strategy="ddp", callbacks=[TransitionEstimator("T.npz")]).fit(Watched(), loader(8))


def test_a_refusal_reaches_every_rank(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("T.npz").touch()
    assert run_ranks(2, refused_on_ranks) == [0, 0]


# -- the whole way --------------------------------------------------------------------------------------------


def test_known_noise_is_found_by_training(tmp_path: Path) -> None:
    """Three clouds far apart, 30% symmetric noise, and a linear model: it learns the noisy posterior."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(1500) % CLASSES
    x = torch.cat([torch.zeros(1500, 1), 3 * torch.eye(4)[labels] + 0.3 * torch.randn(1500, 4, generator=generator)], 1)
    noisy = NoisyLabels(TensorDataset(x, labels), rate=0.3, seed=1)
    pl.seed_everything(0, verbose=False)
    model, estimator = Corrected(transition="estimate"), TransitionEstimator(tmp_path / "T.npz", warmup_epochs=8)
    make_trainer(max_epochs=16, callbacks=[estimator]).fit(model, DataLoader(noisy, batch_size=100, shuffle=True))
    assert estimator.transition is not None
    assert float((estimator.transition - symmetric_transition(CLASSES, 0.3)).abs().max()) < 0.1
    with torch.no_grad():
        probs = model(x).softmax(dim=1)
    assert float((probs.argmax(dim=1) == labels).float().mean()) == 1.0
    assert float(probs.amax(dim=1).mean()) > 0.85  # sure of the clean labels, not of 70%


# -- refused --------------------------------------------------------------------------------------------------


def test_a_file_is_not_replaced_unasked(tmp_path: Path) -> None:
    (tmp_path / "T.npz").write_bytes(b"mine")
    with pytest.raises(FileExistsError, match=r"T\.npz is already there.*overwrite=True"):
        fit(Lookup(some_logits(3, COUNT)), TransitionEstimator(tmp_path / "T.npz"))
    assert (tmp_path / "T.npz").read_bytes() == b"mine"


def test_a_trial_run_writes_nothing_and_hands_over(tmp_path: Path) -> None:
    model = CorrectedLookup(some_logits(3, COUNT), transition="estimate")
    trainer = make_trainer(
        fast_dev_run=True, callbacks=[TransitionEstimator(tmp_path / "T.npz")], default_root_dir=tmp_path
    )
    trainer.fit(model, loader(COUNT))
    assert list(tmp_path.iterdir()) == []
    assert not model.awaits_transition


def test_a_fit_that_ends_before_the_estimate_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="warmup_epochs=4, and the Trainer ends after max_epochs=3"):
        fit(Watched(), TransitionEstimator(tmp_path / "T.npz", warmup_epochs=4))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"path": "T.npy"}, r"ends in \.npz"),
        ({"warmup_epochs": 0}, "warmup_epochs must be at least 1"),
        ({"percentile": 0}, r"percentile must be in \(0, 100\]"),
        ({"percentile": 101.0}, r"percentile must be in \(0, 100\]"),
    ],
)
def test_options_out_of_range_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TransitionEstimator(**options)
