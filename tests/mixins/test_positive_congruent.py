"""The naive treatment through a real Trainer against numpy; all three on cached logits and among old classes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from lightning_flip.functional import _closed_form
from lightning_flip.mixins import FocalDistillation, NaivePositiveCongruent
from lightning_flip.steps import Reference
from tests.callbacks.helpers import run_ranks
from tests.mixins.helpers import (
    K,
    LitNet,
    N,
    data,
    differences,
    inputs,
    labels,
    network,
    quiet,
    shuffled_batches,
    train,
)
from tests.mixins.updates import (
    Compatible,
    Focal,
    Naive,
    compatible_term,
    focal_term,
    naive_term,
    numpy_run,
    old_network,
)


def test_a_run_is_the_numpy_loop() -> None:
    """tests/sweep has the default weight, 1."""
    model = Naive(network(), reference=old_network(), naive_weight=0.3)
    assert differences(model, train(model, data()), numpy_run(naive_term(0.3))) == []


GROWN: list[Any] = [
    (Focal, focal_term, {"focal_weight": 0.7}, {"weight": 0.7}),
    (Focal, focal_term, {"focal_distance": "logits", "focal_weight": 0.1}, {"distance": "logits", "weight": 0.1}),
    (Focal, focal_term, {"focal_temperature": 2.0, "focal_alpha": 0.5}, {"temperature": 2.0, "alpha": 0.5}),
    (Naive, naive_term, {"naive_weight": 0.7}, {"weight": 0.7}),
    (Compatible, compatible_term, {"backward_weight": 0.7}, {"weight": 0.7}),
]


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("old_samples", ["batch", "mean"])
@pytest.mark.parametrize(("kind", "term", "options", "named"), GROWN)
def test_what_samples_of_old_classes_are_averaged_over(
    kind: Any, term: Any, options: Any, named: Any, old_samples: str, fused: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_closed_form, "FUSED", fused)
    grown: dict[str, Any] = {"old_classes": [3, 1], "old_samples": old_samples}
    shares = {np.isin(labels(K)[batch], [3, 1]).mean() for epoch in shuffled_batches() for batch in epoch}
    assert {0.0, 1.0} < shares  # batches of new classes alone, of old ones alone, and of both
    trace = numpy_run(term(classes=K, **named, **grown))
    model = kind(network(), reference=old_network(2), **options, **grown)
    assert differences(model, train(model, data()), trace) == []
    grown["old_samples"] = {"batch": "mean", "mean": "batch"}[old_samples]
    assert trace.step_losses != numpy_run(term(classes=K, **named, **grown)).step_losses


def test_an_old_model_that_is_never_right_adds_nothing() -> None:
    wrong = old_network(2)  # of no sample's class
    x, y = torch.from_numpy(inputs()), torch.from_numpy(labels(K)).clamp(min=2)
    batches = DataLoader(TensorDataset(x, y), batch_size=5)
    losses = train(Naive(network(), reference=wrong, old_classes=[0, 1]), batches).losses
    assert losses == pytest.approx(train(LitNet(network()), batches).losses, abs=1e-12)


@pytest.mark.parametrize("weight", [-1.0, float("nan"), float("inf")])
def test_a_weight_out_of_range_is_named(weight: float) -> None:
    with pytest.raises(ValueError, match="naive_weight must be at least 0 and finite; got"):
        Naive(network(), naive_weight=weight)


# -- cached logits ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [Focal, Naive])
@pytest.mark.parametrize("suffix", ["npy", "npz"])
def test_cached_logits_are_the_model(kind: Any, suffix: str, tmp_path: Path) -> None:
    logits = old_network()(torch.from_numpy(inputs())).detach().numpy().astype(np.float32)
    if suffix == "npy":
        np.save(tmp_path / "old.npy", logits)
    else:
        order = np.random.default_rng(0).permutation(N)
        np.savez(tmp_path / "old.npz", logits=logits[order], index=order)
    cached = train(kind(network(), lr=0.05, reference=tmp_path / f"old.{suffix}"), data()).losses
    online = train(kind(network(), lr=0.05, reference=old_network()), data()).losses
    assert cached == pytest.approx(online, abs=1e-4)
    assert cached != pytest.approx(train(LitNet(network(), lr=0.05), data()).losses, abs=1e-2)


# -- ranks --------------------------------------------------------------------------------------------------


class Halves(torch.utils.data.Sampler[list[int]]):
    """Whole batches of eight on one rank; on two, each rank has its own half of every batch."""

    def __init__(self, rank: int, world: int) -> None:
        self.rank, self.world = rank, world

    def __iter__(self) -> Any:
        for start in range(0, N, 8):
            batch = list(range(start, start + 8))
            yield batch[self.rank :: self.world]

    def __len__(self) -> int:
        return N // 8


class OneAfterTheOther(Halves):
    """The halves of both ranks on one."""

    def __iter__(self) -> Any:
        for pair in zip(Halves(0, 2), Halves(1, 2), strict=True):
            yield from pair

    def __len__(self) -> int:
        return 2 * N // 8


def fit_on(world: int, kind: Any, folder: str, sampler: Any = Halves, options: Any = (), **trained: Any) -> None:
    strategy = "ddp" if world > 1 else "auto"
    trainer = quiet(devices=world, strategy=strategy, use_distributed_sampler=False, max_epochs=2, **trained)

    class Data(pl.LightningDataModule):
        def train_dataloader(self) -> Any:
            tensors = TensorDataset(torch.from_numpy(inputs()), torch.from_numpy(labels(K)))
            return DataLoader(tensors, batch_sampler=sampler(trainer.global_rank, world))

    model = kind(network(), lr=0.1, **{"reference": old_network(), **dict(options)})
    trainer.fit(model, Data())
    assert all(not name.startswith("reference") for name, _ in model.named_parameters())
    if trainer.is_global_zero:
        torch.save(model.state_dict(), Path(folder, f"{world}.pt"))


@pytest.mark.parametrize("kind", [Focal, Naive, Compatible])
def test_the_mean_over_old_samples_is_of_each_ranks_own_ones(kind: Any, tmp_path: Path) -> None:
    options = {"reference": old_network(2), "old_classes": [3, 1], "old_samples": "mean"}
    assert run_ranks(2, fit_on, 2, kind, str(tmp_path), Halves, options) == [0, 0]
    fit_on(1, kind, str(tmp_path), OneAfterTheOther, options, accumulate_grad_batches=2)
    one, two = (torch.load(tmp_path / f"{world}.pt", weights_only=True) for world in (1, 2))
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, rtol=0, atol=1e-10)
    fit_on(1, kind, str(tmp_path), Halves, options)
    whole = torch.load(tmp_path / "1.pt", weights_only=True)
    assert not whole["net.0.weight"].allclose(one["net.0.weight"], atol=1e-6)


class Both(FocalDistillation, NaivePositiveCongruent, LitNet):
    """Two methods that ask one reference."""


def test_two_methods_share_one_forward_of_the_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    forward = Reference.logits

    def counted(self: Any, step: Any, attachment: Any) -> Any:
        asked.append(step.index.tolist())
        return forward(self, step, attachment)

    plain, focal, naive = (
        np.array(train(model, data()).losses)
        for model in (LitNet(network(), 0.0), Focal(network(), 0.0, reference=old_network()), naive_of(0.0))
    )
    monkeypatch.setattr(Reference, "logits", counted)
    model = Both(network(), 0.0, reference=old_network())
    both = train(model, data()).losses
    assert np.array(both) == pytest.approx(focal + naive - plain, abs=1e-12)
    assert asked == [batch.tolist() for epoch in shuffled_batches() for batch in epoch]
    assert model._mixin.reference._answer is None


def test_an_evaluation_of_the_closure_asks_for_its_own_inputs() -> None:
    """An optimizer may run a step twice for one batch, and the step may augment anew."""

    class Twice(torch.optim.SGD):
        def step(self, closure: Any = None) -> Any:
            closure()
            return super().step(closure)

    class Augments(LitNet):
        seen: list[Any]

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            x = batch[0] + torch.randn_like(batch[0])
            self.seen.append(x.detach())
            return super().training_step([x, batch[1]], batch_idx)

        def configure_optimizers(self) -> Any:
            return Twice(self.parameters(), lr=0.1)

    class Update(FocalDistillation, Augments):
        def method_loss(self, step: Any) -> Any:
            old = self.reference_logits(step)
            torch.testing.assert_close(old, frozen(self.seen[-1]), rtol=0, atol=1e-12)
            return super().method_loss(step)

    frozen = old_network().requires_grad_(False)
    model = Update(network(), reference=old_network())
    model.seen = []
    train(model, data(), max_epochs=1)
    assert len(model.seen) == 2 * 5


def naive_of(lr: float) -> Naive:
    return Naive(network(), lr, reference=old_network())


def test_the_name_of_the_option_is_the_mixins_own() -> None:
    class Weighs(LitNet):
        def __init__(self, net: Any, naive_weight: float = 1.0) -> None:
            super().__init__(net)

    with pytest.raises(TypeError, match="the option 'naive_weight' is NaivePositiveCongruent's and"):

        class Wrong(NaivePositiveCongruent, Weighs):
            """Two options of one name."""
