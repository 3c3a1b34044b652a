from __future__ import annotations

import copy
import pickle

import jaxtyping
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchmetrics import MetricCollection

from lightning_flip.metrics import (
    Churn,
    NegativeFlipImpact,
    NegativeFlipRate,
    PositiveFlipRate,
    RelativeNegativeFlipRate,
    TrustScore,
)
from tests.oracles.flips import flip_rates

RATES = {
    "nfr": NegativeFlipRate,
    "pfr": PositiveFlipRate,
    "relative": RelativeNegativeFlipRate,
    "impact": NegativeFlipImpact,
    "trust": TrustScore,
    "churn": Churn,
}
every_rate = pytest.mark.parametrize("name", RATES)


def arguments(name: str, rows: np.ndarray) -> dict[str, torch.Tensor]:
    """The rows `[N, 3]` of old prediction, new prediction and label, as the metric takes them."""
    old, new, target = torch.from_numpy(np.ascontiguousarray(rows.T))
    both = {"preds": new, "old_preds": old}
    return both if name == "churn" else both | {"target": target}


def expected(name: str, rows: np.ndarray) -> float:
    return flip_rates(*rows.T)[name]


def some_rows(n: int, k: int = 3, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, k, (n, 3))


@every_rate
@settings(deadline=None)
@given(st.lists(st.integers(0, 12), min_size=1, max_size=5), st.integers(0, 99))
def test_batches_add_up_to_the_whole(name: str, sizes: list[int], seed: int) -> None:
    rows = some_rows(sum(sizes), seed=seed)
    metric = RATES[name]()
    for batch in np.split(rows, np.cumsum(sizes)[:-1]):
        metric.update(**arguments(name, batch))
    assert metric.compute().item() == pytest.approx(expected(name, rows), rel=1e-6)


@every_rate
def test_forward_returns_the_batch_and_keeps_the_whole(name: str) -> None:
    metric, batches = RATES[name](), [some_rows(7, seed=seed) for seed in range(3)]
    for batch in batches:
        assert metric(**arguments(name, batch)).item() == pytest.approx(expected(name, batch), rel=1e-6)
    assert metric.compute().item() == pytest.approx(expected(name, np.concatenate(batches)), rel=1e-6)


@every_rate
def test_reset_starts_over(name: str) -> None:
    metric = RATES[name]()
    metric.update(**arguments(name, some_rows(20)))
    metric.reset()
    rows = some_rows(5, seed=1)
    metric.update(**arguments(name, rows))
    assert metric.compute().item() == pytest.approx(expected(name, rows), rel=1e-6)


@every_rate
def test_no_samples(name: str) -> None:
    metric = RATES[name]()
    metric.update(**arguments(name, some_rows(0)))
    assert metric.compute() == (1 if name == "trust" else 0)


@every_rate
def test_new_predictions_come_first(name: str) -> None:
    rows = some_rows(30)
    old, new, target = torch.from_numpy(rows.T.copy())
    metric = RATES[name]()
    metric.update(*((new, old) if name == "churn" else (new, target, old)))
    assert metric.compute().item() == pytest.approx(expected(name, rows), rel=1e-6)


@every_rate
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_scores_and_modules_count_exactly(name: str, dtype: torch.dtype) -> None:
    rows = some_rows(5000)
    given_ = arguments(name, rows)
    for key in ("preds", "old_preds"):
        given_[key] = torch.nn.functional.one_hot(given_[key], 3).to(dtype)
    metric = RATES[name]().to(dtype).half().set_dtype(dtype)
    for _ in range(14):  # 70,000 samples are more than float16 can hold
        metric.update(**given_)
    value = metric.compute()
    assert value.dtype == torch.float32
    assert value.item() == pytest.approx(expected(name, rows), rel=1e-6)


@every_rate
def test_pickle_and_copy_go_on_counting(name: str) -> None:
    metric, first, second = RATES[name](), some_rows(9), some_rows(9, seed=1)
    metric.update(**arguments(name, first))
    for other in (pickle.loads(pickle.dumps(metric)), copy.deepcopy(metric), metric.clone()):
        other.update(**arguments(name, second))
        assert other.compute().item() == pytest.approx(expected(name, np.concatenate((first, second))), rel=1e-6)
    assert metric.compute().item() == pytest.approx(expected(name, first), rel=1e-6)


@every_rate
def test_persistent_state_survives_a_state_dict(name: str) -> None:
    metric, rows = RATES[name](), some_rows(9)
    assert not metric.state_dict()
    metric.persistent(True)
    metric.update(**arguments(name, rows))
    other = RATES[name]()
    other.load_state_dict(metric.state_dict())
    with pytest.warns(UserWarning, match="was called before the ``update`` method"):
        assert other.compute().item() == pytest.approx(expected(name, rows), rel=1e-6)


def test_a_collection_counts_once_for_all_rates() -> None:
    collection = MetricCollection({name: metric() for name, metric in RATES.items()})
    batches = [some_rows(8, seed=seed) for seed in range(3)]
    for batch in batches:
        collection.update(**arguments("nfr", batch))
    assert sorted(map(sorted, collection.compute_groups.values())) == [
        ["churn"],
        ["impact", "nfr", "pfr", "relative", "trust"],
    ]
    whole = flip_rates(*np.concatenate(batches).T)
    assert {name: value.item() for name, value in collection.compute().items()} == pytest.approx(whole, rel=1e-6)


def test_states_made_in_inference_mode_can_be_updated_outside() -> None:
    metric = NegativeFlipRate()
    rows = some_rows(10)
    with torch.inference_mode():
        metric.update(**arguments("nfr", rows))
        metric.reset()
    metric.update(**arguments("nfr", rows))
    assert metric.compute().item() == pytest.approx(expected("nfr", rows), rel=1e-6)


@pytest.mark.parametrize(("metric", "higher"), [(m, m in (TrustScore, PositiveFlipRate)) for m in RATES.values()])
def test_which_way_is_better(metric: type, higher: bool) -> None:
    assert metric.higher_is_better is higher
    assert metric.full_state_update is False


def test_errors_use_the_names_of_update() -> None:
    labels = torch.tensor([0, 1, 1])
    jaxtyping.config.update("jaxtyping_disable", True)
    try:
        with pytest.raises(ValueError, match=r"^preds and target must have one row"):
            NegativeFlipRate().update(preds=labels[:2], target=labels, old_preds=labels)
        with pytest.raises(TypeError, match="old_preds of one dimension must be integer labels"):
            Churn().update(preds=labels, old_preds=labels.float())
    finally:
        jaxtyping.config.update("jaxtyping_disable", False)
