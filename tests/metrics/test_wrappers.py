"""Metrics with a memory, and those without, in the wrappers of torchmetrics: held to a loop over samples."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import numpy as np
import pytest
import torch
from torchmetrics import MetricCollection
from torchmetrics.wrappers import (
    BootStrapper,
    LambdaInputTransformer,
    MetricTracker,
    MinMaxMetric,
    Running,
)

from lightning_flip.metrics import Churn, FlippingError, NegativeFlipRate, RelativeFlippingError, TrustScore
from tests.oracles.flips import flip_rates, flipping_errors

EPOCHS, N = 5, 20
BOTH = [FlippingError, RelativeFlippingError]
either = pytest.mark.parametrize("kind", [0, 1], ids=["FE", "RFE"])


def history(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random((EPOCHS, N)) < 0.6


def batches(row: np.ndarray) -> list[dict[str, torch.Tensor]]:
    """Two batches, right where the row says so."""
    found = []
    for half in (range(8), range(8, N)):
        index = torch.tensor(half)
        target = index % 3
        preds = torch.where(torch.from_numpy(row[half]), target, (target + 1) % 3)
        found.append({"preds": preds, "target": target, "index": index})
    return found


@either
@pytest.mark.parametrize("by_forward", [False, True])
def test_a_tracker_remembers_the_steps_before(kind: int, by_forward: bool) -> None:
    tracker, rows = MetricTracker(BOTH[kind](N)), history()
    expected = [flipping_errors(rows, epoch)[kind] for epoch in range(EPOCHS)]
    assert max(expected) > 0
    for row in rows:
        tracker.increment()
        for batch in batches(row):
            (tracker if by_forward else tracker.update)(**batch)
    assert tracker.compute_all().tolist() == pytest.approx(expected)
    assert tracker.compute().item() == pytest.approx(expected[-1])
    best, step = tracker.best_metric(return_step=True)
    assert (best, step) == (pytest.approx(min(expected)), int(np.argmin(expected)))


def test_a_tracker_of_a_collection_remembers_for_each_of_its_metrics() -> None:
    base = MetricCollection({"fe": FlippingError(N), "rfe": RelativeFlippingError(N), "nfr": NegativeFlipRate()})
    tracker, rows = MetricTracker(base), history(1)
    for row in rows:
        tracker.increment()
        for batch in batches(row):
            tracker.update(**batch, old_preds=batch["target"])
    values = tracker.compute_all()
    for place, name in enumerate(("fe", "rfe")):
        expected = [flipping_errors(rows, epoch)[place] for epoch in range(EPOCHS)]
        assert values[name].tolist() == pytest.approx(expected)
    assert values["nfr"].tolist() == pytest.approx([(~row).mean() for row in rows])
    assert sorted(map(sorted, tracker[-1].compute_groups.values())) == [["fe", "rfe"], ["nfr"]]
    assert tracker._base_metric["fe"].ever_right.sum() == 0  # the one that is copied stays as it was


@either
def test_copies_of_one_metric_have_memories_of_their_own(kind: int) -> None:
    """For training and validation, say; a tracker of each copies the copy."""
    rows = history(2)
    train, val = BOTH[kind](N), None
    for batch in batches(rows[0]):
        train.update(**batch)
    for copied in (train.clone(), copy.deepcopy(train), pickle.loads(pickle.dumps(train))):
        assert copied.ever_right.equal(train.ever_right)
        before = train.ever_right.clone()
        copied.forget()
        assert train.ever_right.equal(before)
        val = copied
    one, other = MetricTracker(val), MetricTracker(val.clone())
    for row in rows:
        one.increment()
        other.increment()
        for batch in batches(row):
            one.update(**batch)
        for batch in batches(~row):
            other.update(**batch)
    for tracker, seen in ((one, rows), (other, ~rows)):
        expected = [flipping_errors(seen, epoch)[kind] for epoch in range(EPOCHS)]
        assert tracker.compute_all().tolist() == pytest.approx(expected)


@either
def test_a_bootstrap_is_refused(kind: int) -> None:
    with pytest.raises(TypeError, match=r"BootStrapper draws samples anew .*FlippingError would .*flipped\(\)"):
        BootStrapper(BOTH[kind](N), num_bootstraps=3)


@either
def test_the_last_updates_are_the_epoch_of_a_running_metric(kind: int) -> None:
    window, rows = 2, history(3)
    metric = Running(BOTH[kind](N), window=window)
    parts = [batch for row in rows for batch in batches(row)]
    right: set[int] = set()
    visits: list[dict[int, bool]] = []
    for part in parts:
        metric.update(**part)
        hit = (part["preds"] == part["target"]).tolist()
        visits.append(dict(zip(part["index"].tolist(), hit, strict=True)))
        right |= {sample for sample, was_right in visits[-1].items() if was_right}
        last = {sample: was_right for visit in visits[-window:] for sample, was_right in visit.items()}
        wrong = [sample for sample, was_right in last.items() if not was_right]
        flipped = sum(sample in right for sample in wrong)
        whole = len(last) if kind == 0 else len(wrong)
        assert metric.compute().item() == pytest.approx(flipped / whole if whole else 0.0)


@either
def test_extremes_and_transformed_inputs(kind: int) -> None:
    rows = history(4)
    extremes = MinMaxMetric(BOTH[kind](N))
    turned = LambdaInputTransformer(BOTH[kind](N), lambda preds: 2 - preds, lambda target: 2 - target)
    said: list[float] = []
    for epoch, row in enumerate(rows):
        said.append(flipping_errors(rows, epoch)[kind])
        for batch in batches(row):
            extremes.update(**batch)
            turned.update(batch["preds"], batch["target"], batch["index"])
        found = extremes.compute()
        expected = [said[-1], min(said), max(said)]
        assert [float(found[name]) for name in ("raw", "min", "max")] == pytest.approx(expected)
        assert turned.compute().item() == pytest.approx(said[-1])
        extremes.reset()
        turned.reset()


def flips(seed: int = 5) -> list[dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randint(3, (4, 3, 10), generator=generator)
    return [dict(zip(("preds", "target", "old_preds"), part, strict=True)) for part in rows]


def rate(parts: list[dict[str, torch.Tensor]], name: str) -> float:
    joined = {key: torch.cat([part[key] for part in parts]).numpy() for key in parts[0]}
    return flip_rates(joined["old_preds"], joined["preds"], joined["target"])[name]


@pytest.mark.parametrize(("kind", "name"), [(NegativeFlipRate, "nfr"), (TrustScore, "trust")])
def test_metrics_without_a_memory_count_in_any_wrapper(kind: Any, name: str) -> None:
    parts = flips()
    tracker, running, extremes = MetricTracker(kind()), Running(kind(), window=2), MinMaxMetric(kind())
    for number, part in enumerate(parts):
        tracker.increment()
        tracker.update(**part)
        running.update(**part)
        extremes.update(**part)
        assert running.compute().item() == pytest.approx(rate(parts[max(0, number - 1) : number + 1], name))
        assert float(extremes.compute()["raw"]) == pytest.approx(rate(parts[: number + 1], name))
    assert tracker.compute_all().tolist() == pytest.approx([rate([part], name) for part in parts])
    torch.manual_seed(0)
    drawn = BootStrapper(kind(), num_bootstraps=200)
    for part in parts:
        drawn.update(**part)
    found = drawn.compute()
    assert float(found["mean"]) == pytest.approx(rate(parts, name), abs=0.05)
    assert 0 < float(found["std"]) < 0.2


# -- labels that are left out ----------------------------------------------------------------------------------


@either
@pytest.mark.parametrize("none", [-100, 255, 1])
def test_samples_without_a_label_are_neither_counted_nor_remembered(kind: int, none: int) -> None:
    rows = history(6)
    out = np.arange(N) % 4 == 1
    metric, without = BOTH[kind](N, ignore_index=none), BOTH[kind](N)
    for row in rows:
        for batch in batches(row):
            gone = torch.from_numpy(out[batch["index"].numpy()])
            target = torch.where(gone, none, torch.where(batch["target"] == none, (none + 1) % 3, batch["target"]))
            preds = torch.where(batch["preds"] == batch["target"], target, target + 1)
            preds = torch.where(gone, none, preds)  # a prediction of that very label is no right one
            metric.update(preds, target, batch["index"])
            without.update(preds[~gone], target[~gone], batch["index"][~gone])
        assert metric.compute().item() == without.compute().item()
        assert metric.ever_right.equal(without.ever_right)
        metric.reset()
        without.reset()
    assert metric.ever_right[torch.from_numpy(out)].sum() == 0


@pytest.mark.parametrize("none", [-100, 255, 1])
def test_flips_without_the_samples_that_have_no_label(none: int) -> None:
    import lightning_flip.functional as functional
    from lightning_flip import metrics

    names = {
        "NegativeFlipRate": ("negative_flip_rate", "nfr"),
        "PositiveFlipRate": ("positive_flip_rate", "pfr"),
        "RelativeNegativeFlipRate": ("relative_negative_flip_rate", "relative"),
        "NegativeFlipImpact": ("negative_flip_impact", "impact"),
        "TrustScore": ("trust_score", "trust"),
    }
    for kind, (function, name) in names.items():
        metric, parts = getattr(metrics, kind)(ignore_index=none), flips(7)
        kept = []
        for part in parts:
            gone = torch.arange(10) % 3 == 0
            part["target"] = torch.where(gone, none, part["target"])
            metric.update(**part)
            counted = part["target"] != none
            kept.append({key: values[counted] for key, values in part.items()})
            value = getattr(functional, function)(**part, ignore_index=none)
            assert value.item() == pytest.approx(rate(kept[-1:], name))
        assert metric.compute().item() == pytest.approx(rate(kept, name))


def test_a_batch_without_any_label() -> None:
    metric = NegativeFlipRate(ignore_index=-100)
    nothing = torch.full((3,), -100)
    assert metric(preds=torch.arange(3), target=nothing, old_preds=torch.arange(3)) == 0
    assert metric.counts.total == 0


def test_a_collection_does_not_take_other_labels_left_out_for_the_same() -> None:
    """Their first batch may not show it."""
    collection = MetricCollection({"all": NegativeFlipRate(), "some": NegativeFlipRate(ignore_index=2)})
    other = {"preds": torch.tensor([0, 0]), "target": torch.tensor([0, 1]), "old_preds": torch.tensor([0, 1])}
    collection.update(**other)
    collection.update(**{**other, "target": torch.tensor([2, 1])})
    values = collection.compute()
    assert (values["all"].item(), values["some"].item()) == (0.5, pytest.approx(2 / 3))


@pytest.mark.parametrize("wrong", [True, 1.0, "background"])
def test_an_option_that_is_no_label_is_named(wrong: Any) -> None:
    for make in (lambda: NegativeFlipRate(ignore_index=wrong), lambda: FlippingError(3, ignore_index=wrong)):
        with pytest.raises(TypeError, match="ignore_index must be a whole number"):
            make()
    with pytest.raises(TypeError, match="Churn has no ignore_index"):
        Churn(ignore_index=1)


# -- scores that are none -----------------------------------------------------------------------------------------

BAD = [
    torch.tensor([[0.1, 0.9], [float("nan"), 0.2], [0.3, 0.7]]),
    torch.tensor([[0.1, 0.9], [-torch.inf, -torch.inf], [0.3, 0.7]]),
]


@pytest.mark.parametrize("scores", BAD)
def test_scores_that_are_nan_are_no_class(scores: torch.Tensor) -> None:
    labels = torch.tensor([1, 0, 1])
    metric = FlippingError(9)
    metric.update(labels, labels, torch.tensor([3, 4, 5]))
    with pytest.raises(ValueError, match=r"preds must be numbers.* 1 of 3 rows of update 2 .*row 1 \(sample 5\)"):
        metric.update(scores, labels, torch.tensor([3, 5, 8]))
    for kind in (NegativeFlipRate, TrustScore):
        with pytest.raises(ValueError, match=r"old_preds must be numbers.*row 1"):
            kind().update(preds=labels, target=labels, old_preds=scores)
    with pytest.raises(ValueError, match=r"preds must be numbers.*row 1"):
        Churn().update(preds=scores, old_preds=labels)
    left_out = torch.tensor([1, -100, 1])  # of which nothing is counted
    NegativeFlipRate(ignore_index=-100).update(preds=scores, target=left_out, old_preds=labels)
    masked = torch.tensor([[-torch.inf, 0.9], [0.5, -torch.inf], [0.3, torch.inf]])
    assert NegativeFlipRate()(preds=masked, target=labels, old_preds=labels) == 0


@pytest.mark.parametrize("scores", BAD)
def test_on_a_device_it_is_said_when_the_value_is_computed(scores: torch.Tensor, monkeypatch: Any) -> None:
    """The host waits for no device in an update."""
    from lightning_flip.metrics import _counting as counting

    monkeypatch.setattr(counting, "_on_host", lambda values: False)
    labels = torch.tensor([1, 0, 1])
    metric = NegativeFlipRate()
    value = metric(preds=scores, target=labels, old_preds=labels)
    assert value == pytest.approx(1 / 3)  # it equals no label
    with pytest.raises(ValueError, match=r"NegativeFlipRate: 1 rows of scores since the last reset"):
        metric.compute()
    metric.reset()
    metric.update(preds=labels, target=labels, old_preds=labels)
    assert metric.compute() == 0
