from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torch import nn
from torchmetrics import MetricCollection

from lightning_flip.metrics import FlippingError, NegativeFlipRate, RelativeFlippingError
from tests.oracles.flips import EpochMemory, flipping_errors

BOTH = [FlippingError, RelativeFlippingError]
either = pytest.mark.parametrize("kind", [0, 1], ids=["FE", "RFE"])


def feed(metric, index, correct) -> None:
    """Predictions that are right where `correct` says so."""
    target = torch.tensor(list(index), dtype=torch.int64) % 3
    preds = torch.where(torch.tensor(list(correct), dtype=torch.bool), target, (target + 1) % 3)
    metric.update(preds, target, torch.tensor(list(index), dtype=torch.int64))


def random_history(epochs: int = 5, samples: int = 20, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random((epochs, samples)) < 0.6


@either
@settings(deadline=None)
@given(arrays(np.bool_, st.tuples(st.integers(1, 5), st.integers(1, 8))), st.integers(1, 4))
def test_every_epoch_matches_the_loop(kind: int, history: np.ndarray, batch: int) -> None:
    metric = BOTH[kind](history.shape[1])
    for epoch, row in enumerate(history):
        for start in range(0, len(row), batch):
            feed(metric, range(start, min(start + batch, len(row))), row[start : start + batch])
        assert metric.compute().item() == pytest.approx(flipping_errors(history, epoch)[kind])
        metric.reset()


@either
@settings(deadline=None)
@given(st.lists(st.lists(st.tuples(st.integers(0, 5), st.booleans()), max_size=9), min_size=1, max_size=5))
def test_epochs_of_some_samples_some_twice(kind: int, epochs: list[list[tuple[int, bool]]]) -> None:
    metric, memory = BOTH[kind](6), EpochMemory()
    for visits in epochs:
        feed(metric, [], [])  # an epoch may have no visit at all
        for index, right in visits:  # one visit a batch
            feed(metric, [index], [right])
        expected = memory.epoch([index for index, _ in visits], [right for _, right in visits])[kind]
        assert metric.compute().item() == pytest.approx(expected)
        metric.reset()


@either
@pytest.mark.parametrize("right", [True, False])
def test_all_right_and_all_wrong(kind: int, right: bool) -> None:
    metric = BOTH[kind](4)
    for _ in range(3):
        feed(metric, range(4), [right] * 4)
        assert metric.compute() == 0
        metric.reset()
    feed(metric, range(4), [False] * 4)
    assert metric.compute() == (1 if right else 0)


@either
def test_reset_twice_or_without_compute_loses_nothing(kind: int) -> None:
    history = random_history()
    metric = BOTH[kind](20)
    for row in history[:-1]:
        feed(metric, range(20), row)
        metric.reset()
        metric.reset()
    feed(metric, range(20), history[-1])
    assert metric.compute().item() == pytest.approx(flipping_errors(history, 4)[kind])


@either
def test_forget_drops_the_memory(kind: int) -> None:
    metric = BOTH[kind](3)
    feed(metric, range(3), [True] * 3)
    metric.forget()
    feed(metric, range(3), [False] * 3)
    assert metric.compute() == 0


@either
def test_forward_returns_the_batch_and_keeps_epoch_and_memory(kind: int) -> None:
    history = random_history()
    by_forward, by_update = BOTH[kind](20), BOTH[kind](20)
    for epoch, row in enumerate(history):
        for half in (range(10), range(10, 20)):
            target = torch.zeros(10, dtype=torch.int64)
            preds = torch.from_numpy(~row[half]).long()
            value = by_forward(preds, target, torch.tensor(half))
            assert value.item() == pytest.approx(flipping_errors(history[:, half], epoch)[kind])
            by_update.update(preds, target, torch.tensor(half))
        expected = flipping_errors(history, epoch)[kind]
        assert by_forward.compute().item() == by_update.compute().item() == pytest.approx(expected)
        for name in ("outcome", "ever_right"):
            assert torch.equal(getattr(by_forward, name), getattr(by_update, name))
        by_forward.reset()
        by_update.reset()


@either
@pytest.mark.parametrize("where", ["between epochs", "within an epoch"])
@pytest.mark.parametrize("how", [lambda m: pickle.loads(pickle.dumps(m)), copy.deepcopy, lambda m: m.clone()])
def test_pickle_and_copies_keep_epoch_and_memory(kind: int, where: str, how) -> None:
    history = random_history()
    metric = BOTH[kind](20)
    for row in history[:-1]:
        feed(metric, range(20), row)
        metric.reset()
    if where == "within an epoch":
        feed(metric, range(7), history[-1][:7])
    metric = how(metric)
    feed(metric, range(20), history[-1])
    assert metric.compute().item() == pytest.approx(flipping_errors(history, 4)[kind])


@either
def test_a_checkpoint_carries_the_memory_into_a_resumed_run(kind: int) -> None:
    history = random_history()
    module = nn.ModuleDict({"metric": BOTH[kind](20)})
    with torch.inference_mode():  # where Lightning validates
        for row in history[:-1]:
            module["metric"].reset()
            feed(module["metric"], range(20), row)
            module["metric"].compute()
    state = copy.deepcopy(module.state_dict())  # as a checkpoint callback saves it: before the epoch's reset
    assert list(state) == ["metric.ever_right"]
    resumed = nn.ModuleDict({"metric": BOTH[kind](20)})
    resumed.load_state_dict(state)
    feed(resumed["metric"], range(20), history[-1])
    assert resumed["metric"].compute().item() == pytest.approx(flipping_errors(history, 4)[kind])
    assert torch.equal(state["metric.ever_right"], torch.from_numpy(history[:-1].any(0)).byte())


def test_the_memory_can_stay_out_of_checkpoints() -> None:
    metric = FlippingError(3)
    metric.persistent(False)
    assert not metric.state_dict()
    metric.persistent(True)
    assert list(metric.state_dict()) == ["ever_right"]  # an epoch resumed would be mixed with the one that was saved


def test_a_computed_value_does_not_outlive_a_load() -> None:
    metric = FlippingError(2)
    feed(metric, [0, 1], [False, False])
    assert metric.compute() == 0
    metric.load_state_dict({"ever_right": torch.tensor([1, 0])})
    assert metric.ever_right.dtype == torch.uint8
    assert metric.compute() == 0.5


def test_a_checkpoint_of_another_dataset_is_refused() -> None:
    with pytest.raises(RuntimeError, match=r"metric.ever_right has shape \(5,\), but .* num_samples=4"):
        nn.ModuleDict({"metric": FlippingError(4)}).load_state_dict({"metric.ever_right": torch.zeros(5)})


@either
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_scores_and_modules(kind: int, dtype: torch.dtype) -> None:
    history = random_history(3)
    metric = BOTH[kind](20).to(dtype).half().set_dtype(dtype)
    index = torch.arange(20)
    for row in history:
        metric.reset()
        scores = torch.stack((torch.from_numpy(row), torch.from_numpy(~row)), dim=1).to(dtype)
        metric.update(preds=scores, target=torch.zeros_like(index), index=index)
    value = metric.compute()
    assert value.dtype == torch.float32
    assert value.item() == pytest.approx(flipping_errors(history, 2)[kind])


def test_states_move_with_the_metric() -> None:
    metric = FlippingError(4).to("meta")
    assert {metric.outcome.device.type, metric.ever_right.device.type} == {"meta"}
    metric.reset()
    assert metric.ever_right.device.type == "meta"


def test_a_collection_shares_the_memory_and_resets_it_rightly() -> None:
    history = random_history()
    collection = MetricCollection(
        {"fe": FlippingError(20), "rfe": RelativeFlippingError(20), "nfr": NegativeFlipRate()}
    )
    for epoch, row in enumerate(history):
        for half in (range(10), range(10, 20)):
            target = torch.zeros(10, dtype=torch.int64)
            preds = torch.from_numpy(~row[half]).long()
            batch = {"preds": preds, "target": target, "index": torch.tensor(half), "old_preds": target}
            if epoch % 2:
                collection(**batch)
            else:
                collection.update(**batch)
        values = collection.compute()
        assert (values["fe"].item(), values["rfe"].item()) == pytest.approx(flipping_errors(history, epoch))
        assert values["nfr"].item() == pytest.approx((~row).mean())
        collection.reset()
    assert sorted(map(sorted, collection.compute_groups.values())) == [["fe", "rfe"], ["nfr"]]


def test_merging_two_metrics_unites_what_they_saw() -> None:
    left, right = FlippingError(4), FlippingError(4)
    for metric, index in ((left, [0, 1]), (right, [2, 3])):
        feed(metric, index, [True, True])
        metric.reset()
        feed(metric, index, [True, False])
    left.merge_state(right)
    assert left.compute() == 0.5


@pytest.mark.parametrize("num_samples", [0, -1, 2.0, True, None])
def test_num_samples_is_checked(num_samples: object) -> None:
    with pytest.raises(ValueError, match="num_samples must be a positive integer"):
        FlippingError(num_samples)


@pytest.mark.usefixtures("own_checks")
@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"index": torch.arange(3).int()}, TypeError, "index must be int64; got torch.int32"),
        ({"index": torch.arange(3).bool()}, TypeError, "index must be int64; got torch.bool"),
        ({"index": torch.arange(2)}, ValueError, r"index must hold one position for each of the 3 .*\(2,\)"),
        ({"index": torch.tensor([0, 1, 9])}, RuntimeError, "out of bounds"),
        ({"index": torch.tensor([0, 1, -1])}, RuntimeError, "out of bounds"),
        ({"preds": torch.arange(2)}, ValueError, "preds and target must have one row"),
        ({"target": torch.zeros(3, 2)}, ValueError, "target must be integer labels"),
    ],
)
def test_errors_name_the_argument(change: dict[str, torch.Tensor], error: type[Exception], message: str) -> None:
    good = {"preds": torch.arange(3), "target": torch.arange(3), "index": torch.arange(3)}
    with pytest.raises(error, match=message):
        FlippingError(4).update(**(good | change))
