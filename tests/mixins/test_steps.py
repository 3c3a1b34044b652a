"""Forms that a training step takes: what it returns, what it is given, how it is optimized."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention
from lightning.pytorch.tuner.tuning import Tuner
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from lightning_flip.mixins import FlippingErrorReduction, LabelSmoothing, LearningWithRetrospection
from tests.mixins.helpers import (
    EPOCHS,
    LR,
    D,
    H,
    K,
    LitNet,
    N,
    Recorder,
    as_torch,
    data,
    inputs,
    labels,
    loader,
    network,
    quiet,
    shuffled_batches,
    train,
)
from tests.oracles.retrospection import FerOptions, FerTrace, NumpyNet, cross_entropy_loop, fer_loop

FER: dict[str, Any] = {"initial": "copy"}


def oracle(lr: float = LR) -> FerTrace:
    net = NumpyNet.random(D, H, K, seed=0)
    return fer_loop(net, inputs(), labels(K), shuffled_batches(), FerOptions(total_epochs=EPOCHS, initial="copy"), lr)


def is_fer(recorder: Recorder) -> bool:
    return recorder.losses == pytest.approx(oracle().step_losses, abs=1e-10)


# -- what a step returns and takes ----------------------------------------------------------------------


class ReturnsDict(LitNet):
    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return {"loss": super().training_step(batch, batch_idx), "batch_idx": torch.tensor(batch_idx)}


class TakesTheBatchOnly(LitNet):
    def training_step(self, batch: Any) -> Any:  # type: ignore[override]
        return F.cross_entropy(self(batch[0]), batch[1])


class TakesAnything(LitNet):
    def training_step(self, *args: Any, **kwargs: Any) -> Any:
        return F.cross_entropy(self(args[0][0]), args[0][1])


class ForwardGivesDict(LitNet):
    def forward(self, x: Tensor) -> Any:
        return {"features": x, "logits": self.net(x)}

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return F.cross_entropy(self(batch[0])["logits"], batch[1])


class CallsTheNetwork(LitNet):
    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return F.cross_entropy(self.net(batch[0]), batch[1])


class ByHand(LitNet):
    def __init__(self, net: nn.Module) -> None:
        super().__init__(net)
        self.automatic_optimization = False

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        loss = F.cross_entropy(self(batch[0]), batch[1])
        regularized: Any = self.regularized  # the mixin's
        loss = regularized(loss)
        optimizer: Any = self.optimizers()
        optimizer.zero_grad()
        self.manual_backward(loss)
        optimizer.step()
        return {"loss": loss.detach()}


@pytest.mark.parametrize(
    ("module", "options"),
    [
        (ReturnsDict, {}),
        (TakesTheBatchOnly, {}),
        (TakesAnything, {}),
        (ForwardGivesDict, {}),
        (CallsTheNetwork, {"logits_from": "net"}),
        (ByHand, {}),
    ],
)
def test_every_form_of_step_trains_the_same(module: Any, options: dict[str, Any]) -> None:
    class Robust(FlippingErrorReduction, module):
        """FER in front of it."""

    assert is_fer(train(Robust(network(), **FER, **options), data()))


def test_what_a_step_returned_beside_the_loss_stays() -> None:
    class Robust(LabelSmoothing, ReturnsDict):
        """Any term."""

    seen: list[Any] = []

    class Look(pl.Callback):
        def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
            seen.append((set(outputs), int(outputs["batch_idx"]) == batch_idx))

    quiet(callbacks=[Look()], max_epochs=1).fit(Robust(network()), data())
    assert seen == [({"loss", "batch_idx"}, True)] * 5


@pytest.mark.filterwarnings("ignore:`training_step` returned `None`:UserWarning")  # once a process, so never expected
@pytest.mark.parametrize("after_a_forward", [True, False])
def test_a_step_may_return_none(after_a_forward: bool) -> None:
    class Skips(LitNet):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            if batch_idx == 1:
                if after_a_forward:
                    self(batch[0])
                return None
            return super().training_step(batch, batch_idx)

    class Robust(FlippingErrorReduction, Skips):
        """FER in front of it."""

    recorder = train(Robust(network(), **FER), data())
    batches = [[batch for place, batch in enumerate(epoch) if place != 1] for epoch in shuffled_batches()]
    options = FerOptions(total_epochs=EPOCHS, initial="copy")
    trace = fer_loop(NumpyNet.random(D, H, K, seed=0), inputs(), labels(K), batches, options, LR)
    assert recorder.losses == pytest.approx(trace.step_losses, abs=1e-10)


class LitDicts(LitNet):
    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return F.cross_entropy(self(batch["image"]), batch["label"])


class RobustDicts(FlippingErrorReduction, LitDicts):
    """FER in front of a module whose batches are dicts."""


class Stream(IterableDataset[Any]):
    """The same batches as a stream, one epoch after the other; they carry their ids."""

    epoch = -1

    def __iter__(self) -> Any:
        self.epoch += 1
        for batch in shuffled_batches()[self.epoch]:
            yield {"image": torch.from_numpy(inputs()[batch]), "label": torch.from_numpy(labels(K)[batch]), "id": batch}


def test_an_iterable_dataset_may_carry_its_ids() -> None:
    robust = RobustDicts(network(), index_from="id", num_samples=N, **FER)
    assert is_fer(train(robust, DataLoader(Stream(), batch_size=None)))


def test_an_iterable_dataset_without_ids_is_told_what_to_do() -> None:
    with pytest.raises(TypeError, match="index_from="):
        train(RobustDicts(network()), DataLoader(Stream(), batch_size=None))
    with pytest.raises(ValueError, match="num_samples="):
        train(RobustDicts(network(), index_from="id"), DataLoader(Stream(), batch_size=None))


def test_an_id_beyond_num_samples_is_told_before_a_table_is_written() -> None:
    with pytest.raises(ValueError, match=r"the id \d+, and num_samples=3 has room"):
        train(RobustDicts(network(), index_from="id", num_samples=3), DataLoader(Stream(), batch_size=None))


# -- how it is optimized -----------------------------------------------------------------------------------


class Robust(FlippingErrorReduction, LitNet):
    """FER."""


def test_a_closure_that_runs_several_times_counts_a_batch_once() -> None:
    written: list[int] = []
    evaluated: list[int] = []

    class Counted(FlippingErrorReduction, LitNet):
        def method_loss(self, step: Any) -> Tensor:
            evaluated.append(len(step.index))
            return super().method_loss(step)

        def observe(self, step: Any) -> None:
            written.append(len(step.index))
            super().observe(step)

        def configure_optimizers(self) -> Any:
            return torch.optim.LBFGS(self.parameters(), lr=0.1, max_iter=3)

    batches_of_an_epoch = 4
    rng = np.random.default_rng(0)
    batches = [np.split(rng.permutation(N), batches_of_an_epoch) for _ in range(2)]
    train(Counted(network(), total_epochs=4), loader(inputs(), labels(K), batches), max_epochs=2)
    assert written == [6 * batches_of_an_epoch] * 2  # an epoch is a block
    assert len(evaluated) > 8


def test_a_closure_records_what_its_first_evaluation_saw() -> None:
    class Searching(Robust):
        def configure_optimizers(self) -> Any:
            return torch.optim.LBFGS(self.parameters(), lr=0.1, max_iter=3)

    batches = [[np.arange(N)]]
    robust = Searching(network(), restrict="all", average=False)
    train(robust, loader(inputs(), labels(K), batches), max_epochs=1)
    first = (network()(torch.from_numpy(inputs())) / 5.0).softmax(dim=1).detach()
    rows, _ = robust._term_loop.tables["behavior"].pending(torch.arange(N))
    torch.testing.assert_close(rows, first, rtol=0, atol=1e-12)


def test_searching_a_learning_rate_records_nothing() -> None:
    robust = Robust(network(), **FER)
    robust.lr = 1e-9  # so that the weights are restored to what they were, and were hardly moved between
    trainer: Any = quiet(max_epochs=EPOCHS)
    Tuner(trainer).lr_find(robust, data(), num_training=4, min_lr=1e-12, max_lr=1e-9, update_attr=False)
    assert robust._term_loop.tables == {}
    robust.lr = LR
    robust.load_state_dict({f"net.{name}": value for name, value in network().state_dict().items()})
    recorder = Recorder()
    trainer.callbacks.insert(0, recorder)
    trainer.fit(robust, data())
    assert is_fer(recorder)


# -- other losses -----------------------------------------------------------------------------------------


class Binary(LitNet):
    """One logit, and targets that are floats."""

    def forward(self, x: Tensor) -> Any:
        return self.net(x)[:, 1] - self.net(x)[:, 0]

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return F.binary_cross_entropy_with_logits(self(batch[0]), batch[1].double())


@pytest.mark.parametrize("base_loss", ["any", "cross_entropy"])
def test_one_logit_counts_as_two(base_loss: str) -> None:
    class RobustBinary(FlippingErrorReduction, Binary):
        """FER on one logit."""

    # [0, z1 - z0] and [z0, z1] have one softmax, so that two logits are the oracle of one.
    class RobustPair(FlippingErrorReduction, LitNet):
        """FER on two logits."""

    def pair() -> nn.Module:
        return as_torch(NumpyNet.random(D, H, 2, seed=0))

    binary = loader(inputs(), labels(2), shuffled_batches())
    one = train(RobustBinary(pair(), base_loss=base_loss, **FER), binary)
    two = train(RobustPair(pair(), **FER), binary)
    assert one.losses == pytest.approx(two.losses, abs=1e-10)


@pytest.mark.parametrize(
    "options",
    [{"weight": torch.tensor([0.1, 1.0, 2.0, 5.0]).double()}, {"label_smoothing": 0.3}, {"reduction": "sum"}],
    ids=list,
)
def test_another_loss_is_refused_unless_any_is_allowed(options: dict[str, Any]) -> None:
    class Other(LitNet):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return F.cross_entropy(self(batch[0]), batch[1], **options)

    class RobustOther(FlippingErrorReduction, Other):
        """FER on top of it."""

    with pytest.raises(ValueError, match=r"training_step returned .* mean cross entropy .* base_loss='any'"):
        train(RobustOther(network()), data())
    own, any_loss = train(Other(network(), lr=0.0), data()), RobustOther(network(), lr=0.0, base_loss="any", **FER)
    cross = cross_entropy_loop(NumpyNet.random(D, H, K, seed=0), inputs(), labels(K), shuffled_batches(), 0.0)
    added = np.array(oracle(0.0).step_losses) - np.array(cross.step_losses)
    assert np.array(train(any_loss, data()).losses) - np.array(own.losses) == pytest.approx(added, abs=1e-10)


def test_a_loss_of_another_scale_is_refused() -> None:
    class Doubled(LitNet):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return 2 * super().training_step(batch, batch_idx)

    class RobustDoubled(FlippingErrorReduction, Doubled):
        """FER on top of it."""

    with pytest.raises(ValueError, match=r"training_step returned .* mean cross entropy .* base_loss='any'"):
        train(RobustDoubled(network()), data())


def test_what_else_the_module_adds_stays() -> None:
    class Extra(Robust):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return super().training_step(batch, batch_idx) + 7.0

    assert train(Extra(network(), lr=0.0, **FER), data()).losses == pytest.approx(
        [loss + 7.0 for loss in oracle(0.0).step_losses], abs=1e-10
    )


@pytest.mark.parametrize("method", [FlippingErrorReduction, LearningWithRetrospection])
def test_mixed_targets_are_refused_with_the_reason(method: Any) -> None:
    class Mixed(method, LitNet):
        """A method that asks whether a sample was right."""

    q = torch.rand(N, K, dtype=torch.float64).softmax(dim=1)
    mixed = DataLoader(TensorDataset(torch.from_numpy(inputs()), q), batch_size=8)
    with pytest.raises(TypeError, match=r"needs class labels.*float \[B, K\] \(MixUp or CutMix\)"):
        train(Mixed(network()), mixed)


class ReturnsLogits(LitNet):
    """Calls the network around its own forward, and returns the logits."""

    def training_step(self, batch: Any) -> Any:
        logits = self.net(batch[0])
        return {"loss": F.cross_entropy(logits, batch[1]), "logits": logits}


def test_logits_may_come_from_what_the_step_returns() -> None:
    class RobustReturns(FlippingErrorReduction, ReturnsLogits):
        """A mixin in front."""

    assert is_fer(train(RobustReturns(network(), logits_from=lambda output: output["logits"], **FER), data()))


class GrowsAClass(LitNet):
    """Gives one more class from the second epoch on."""

    def forward(self, x: Any) -> Any:
        logits = self.net(x)
        return logits if self.current_epoch == 0 else F.pad(logits, (0, 1), value=-9.0)


def test_another_number_of_classes_is_told() -> None:
    class RobustGrowth(FlippingErrorReduction, GrowsAClass):
        """A mixin in front."""

    with pytest.raises(ValueError, match=f"table has {K} columns, this step's logits have {K + 1} classes"):
        train(RobustGrowth(network(), **FER), data())
