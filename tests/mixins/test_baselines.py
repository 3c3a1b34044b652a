"""Max-Entropy, TF-Reg, SD, ELR and SAT: options, repeated samples and closures, against their loops in numpy.

tests/sweep has the default options in batches without repetition, resumed, accumulated, on ranks and in half precision.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_flip import modules
from lightning_flip.functional import _closed_form
from lightning_flip.models import MLP
from tests.mixins.baselines import (
    CASES,
    DEFAULTS,
    Adaptive,
    Case,
    Early,
    Penalized,
    Snapshots,
    TeacherFree,
    expected,
    shared,
)
from tests.mixins.helpers import (
    EPOCHS,
    LR,
    D,
    K,
    LitNet,
    N,
    Recorder,
    data,
    differences,
    inputs,
    labels,
    network,
    quiet,
    shuffled_batches,
    train,
)
from tests.mixins.test_neutral import Plain, identical, plain, trained
from tests.mixins.test_tables import RestOfEpoch, Saver

EVERY = torch.arange(N)
every_case = pytest.mark.parametrize("case", CASES, ids=str)
every_method = pytest.mark.parametrize("case", DEFAULTS, ids=str)
every_table = pytest.mark.parametrize("case", [case for case in DEFAULTS if case.table], ids=str)
pytestmark = pytest.mark.filterwarnings("ignore:.*does not have many workers")


def rows_of(model: Any, table: str) -> Any:
    return model._term_loop.tables[table].pending(EVERY)[0].numpy()


@pytest.mark.parametrize(("classes", "fused"), [(2, True), (K, False)])
@every_case
def test_losses_weights_and_tables_are_the_numpy_loops(
    case: Case, classes: int, fused: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Batches of one, samples twice in a batch and in an epoch, and samples left out are among the data."""
    monkeypatch.setattr(_closed_form, "FUSED", fused)
    trace, rows = expected(case, classes)
    model = case.kind(network(classes), **case.options)
    assert differences(model, train(model, data(classes)), trace) == []
    if case.table is not None:
        np.testing.assert_allclose(rows_of(model, case.table), rows, rtol=0, atol=1e-10)


# The sampler does begin where the run stopped; Lightning only believes loaders that have a state.
@pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before:UserWarning")
@pytest.mark.parametrize("batch", [3, 4])
@every_table
def test_a_run_resumed_inside_an_epoch_is_the_same_to_the_last_bit(case: Case, batch: int, tmp_path: Path) -> None:
    """A sample of the first batch comes again in the fourth."""
    whole = train(case.kind(network(), **case.options), data()).losses
    path, options = tmp_path / "a.ckpt", case.options | {"total_epochs": EPOCHS}
    quiet(callbacks=[Saver(path, 1, batch)], max_epochs=2).fit(case.kind(network(), **options), data())
    batches, recorder = RestOfEpoch(shuffled_batches()), Recorder()
    batches.skip = batch + 1
    rest = DataLoader(data().dataset, batch_sampler=batches)
    quiet(callbacks=[recorder]).fit(case.kind(network(), **options), rest, ckpt_path=path)
    assert recorder.losses == whole[5 + batch + 1 :]


def kind(case: Case, module: Any = Plain) -> Any:
    return type(case.kind.__name__, (case.kind.__bases__[0], module), {})


@pytest.mark.parametrize(
    ("case", "options"),
    list(
        zip(
            DEFAULTS,
            [{"entropy_weight": 0}, {"tf_weight": 0}, {"sd_cycles": 1}, {"elr_weight": 0}, {"sat_warmup": 3}],
            strict=True,
        )
    ),
)
@pytest.mark.filterwarnings("ignore:sat_warmup=3")
def test_options_that_switch_a_method_off_do_so_to_the_last_bit(case: Case, options: dict[str, Any]) -> None:
    assert identical(trained(kind(case), **options), plain())


@every_table
def test_manual_optimization(case: Case) -> None:
    class Stepping(LitNet):
        def training_step(self, batch: Any, batch_idx: int) -> None:
            loss = self.regularized(F.cross_entropy(self(batch[0]), batch[1]))  # type: ignore[operator]
            optimizer: Any = self.optimizers()
            optimizer.zero_grad()
            self.manual_backward(loss)
            optimizer.step()
            self.found.append(float(loss.detach()))

    class Both(kind(case, Stepping)):  # type: ignore[misc]
        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **options)
            self.automatic_optimization = False
            self.found: list[float] = []

    model = Both(network(), **case.options)
    quiet().fit(model, data())
    assert model.found == pytest.approx(expected(case)[0].step_losses, abs=1e-10)


class Twice(torch.optim.SGD):
    """Asks for the loss twice, as a line search does."""

    pairs: list[tuple[float, float]]

    def step(self, closure: Any = None) -> Any:
        self.pairs.append((float(closure()), float(closure())))
        super().step()


@every_table
def test_a_closure_that_runs_twice_is_one_visit(case: Case) -> None:
    class Searched(case.kind):  # type: ignore[misc]
        def configure_optimizers(self) -> Any:
            optimizer = Twice(self.parameters(), lr=self.lr)
            optimizer.pairs = self.pairs = []
            return optimizer

    model = Searched(network(), **case.options)
    train(model, data())
    assert all(first == second for first, second in model.pairs)
    trace, rows = expected(case)
    assert [first for first, _ in model.pairs] == pytest.approx(trace.step_losses, abs=1e-10)
    if case.table is not None:
        np.testing.assert_allclose(rows_of(model, case.table), rows, rtol=0, atol=1e-10)


@pytest.mark.parametrize(
    ("case", "target"),
    [(Case(Early), "early_learning_target"), (Case(Adaptive, {"sat_warmup": 0}), "self_adaptive_target")],
    ids=str,
)
def test_a_line_search_sees_one_target(case: Case, target: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The row is made in the first evaluation of a batch: what an optimizer searches along is one function."""

    class Searched(case.kind):  # type: ignore[misc]
        evaluations = 0

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            self.evaluations += 1
            return super().training_step(batch, batch_idx)

        def configure_optimizers(self) -> Any:
            return torch.optim.LBFGS(self.parameters(), lr=0.1, max_iter=3)

    calls: list[int] = []
    implementation = importlib.import_module(case.kind.__bases__[0].__module__)
    original = getattr(implementation, target)

    def counted(*args: Any, **options: Any) -> Any:
        calls.append(1)
        return original(*args, **options)

    monkeypatch.setattr(implementation, target, counted)
    whole = DataLoader(TensorDataset(torch.from_numpy(inputs()), torch.from_numpy(labels(K))), batch_size=8)
    model = Searched(network(), **case.options)
    train(model, whole)
    assert len(calls) == 3 * EPOCHS < model.evaluations


# -- ranks -----------------------------------------------------------------------------------------------------


class SaveAtEnd(pl.Callback):
    """Saves, which brings the ranks' rows together."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        trainer.save_checkpoint(self.path)


@every_table
def test_two_ranks_are_one(case: Case, tmp_path: Path) -> None:
    """Their tables, too; SAT scales its weights on each rank, and the oracle then does the same."""
    dataset = TensorDataset(torch.from_numpy(inputs()), torch.from_numpy(labels(K)))
    for world in (1, 2):
        path = tmp_path / f"{world}.ckpt"
        strategy = "ddp_fork" if world > 1 else "auto"
        trainer = quiet(devices=world, strategy=strategy, callbacks=[SaveAtEnd(path)], use_distributed_sampler=False)
        trainer.fit(case.kind(network(), **case.options), shared(dataset, world))
        more = {"ranks": world} if case.kind is Adaptive else {}
        trace, rows = expected(case, batches=shared(dataset, 1).batch_sampler.epochs, **more)  # type: ignore[union-attr]
        saved = torch.load(path, weights_only=True)
        for name, weight in trace.weights.items():
            np.testing.assert_allclose(saved["state_dict"][f"net.{name}"], weight, rtol=0, atol=1e-10)
        if case.table is not None:
            table = saved["lightning_flip"]["tables"][case.table]
            np.testing.assert_allclose(table.get("pending", table["rows"]), rows, rtol=0, atol=1e-10)
            assert saved["lightning_flip"]["partial"] is False


# -- options ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("ConfidencePenalty", {"entropy_weight": -0.1}),
        ("ConfidencePenalty", {"entropy_weight": float("nan")}),
        ("TeacherFreeRegularization", {"tf_weight": 1.5}),
        ("TeacherFreeRegularization", {"tf_temperature": 0}),
        ("TeacherFreeRegularization", {"tf_multiplier": -1}),
        ("TeacherFreeRegularization", {"tf_confidence": 2}),
        ("SnapshotDistillation", {"sd_cycles": 0}),
        ("SnapshotDistillation", {"sd_temperature": 0}),
        ("EarlyLearningRegularization", {"elr_momentum": 1}),
        ("EarlyLearningRegularization", {"elr_weight": -1}),
        ("SelfAdaptiveTraining", {"sat_momentum": 1}),
        ("SelfAdaptiveTraining", {"sat_warmup": -1}),
    ],
)
def test_an_option_out_of_range_is_named(method: str, options: dict[str, Any]) -> None:
    (name,) = options
    with pytest.raises(ValueError, match=rf"^{name} must be .*; got"):
        getattr(modules, f"{method}Classifier")(MLP(D, K), num_classes=K, **options)


def test_the_papers_values_are_the_defaults() -> None:
    make = {case.kind: case.kind(network()) for case in DEFAULTS}
    assert make[Penalized].mixin_options.entropy_weight == 0.1
    free = make[TeacherFree]
    options = free.mixin_options
    assert (options.tf_weight, options.tf_temperature, options.tf_multiplier) == (0.1, 20, 100)
    assert (make[Snapshots].mixin_options.sd_cycles, make[Snapshots].mixin_options.sd_temperature) == (4, 3)
    early = next(make[case.kind] for case in DEFAULTS if case.table == "early_learning")
    assert (early.mixin_options.elr_momentum, early.mixin_options.elr_weight) == (0.7, 3)
    assert (make[Adaptive].mixin_options.sat_momentum, make[Adaptive].mixin_options.sat_warmup) == (0.9, 60)


class Mixing(LitNet):
    """Targets are distributions, as with MixUp."""

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return F.cross_entropy(self(batch[0]), batch[1])


@pytest.mark.filterwarnings("ignore:.* softens the target, and the batches bring distributions")
@every_method
def test_targets_that_are_distributions(case: Case) -> None:
    q = torch.from_numpy(inputs(N, 4)[:, :K]).softmax(dim=1)
    mixed = DataLoader(TensorDataset(torch.from_numpy(inputs()), q), batch_size=8)
    model = kind(case, Mixing)(network(), **case.options)
    if case.kind in (Penalized, Snapshots):
        assert np.isfinite(train(model, mixed).losses).all()
        return
    with pytest.raises(TypeError, match="the targets are distributions, float"):
        train(model, mixed)


def test_a_warm_up_longer_than_the_run_is_said() -> None:
    with pytest.warns(UserWarning, match=r"sat_warmup=60 epochs .* the run ends after 4"):
        train(Adaptive(network()), data())


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@every_table
def test_tables_of_half_the_size(case: Case, dtype: str) -> None:
    model = case.kind(network(), table_dtype=dtype, lr=0.1, **case.options)
    losses = train(model, data()).losses
    assert model._term_loop.tables[case.table].dtype == getattr(torch, dtype)
    assert losses == pytest.approx(expected(case, lr=0.1)[0].step_losses, abs=0.05)


def test_a_module_with_one_logit_is_of_two_classes() -> None:
    class Single(LitNet):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            return F.binary_cross_entropy_with_logits(self(batch[0])[:, 0], batch[1].double())

    for case in DEFAULTS:
        torch.manual_seed(0)
        losses = train(kind(case, Single)(nn.Linear(D, 1).double(), lr=LR, **case.options), data(2)).losses
        assert np.isfinite(losses).all()
