"""What is recorded about a prediction, against plain loops."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from lightning_flip.functional.predictions import Predictions, describe_predictions
from tests.oracles.retrospection import log_softmax

B = 9


def logits(k: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return (torch.randn(B, k, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 3).to(dtype)


def labels(k: int) -> torch.Tensor:
    return torch.arange(B) % k


@pytest.mark.parametrize("k", [2, 3, 10])
def test_every_fact_is_the_plain_loop(k: int) -> None:
    facts = describe_predictions(logits(k), labels(k))
    assert all(fact.shape == (B,) for fact in facts)
    for i, (row, y) in enumerate(zip(logits(k).numpy(), labels(k).tolist(), strict=True)):
        log_p = log_softmax(row)
        others = [value for j, value in enumerate(row) if j != y]
        assert facts.pred[i].item() == int(np.argmax(row))
        assert facts.prob_label[i].item() == pytest.approx(math.exp(log_p[y]), abs=1e-14)
        assert facts.prob_pred[i].item() == pytest.approx(math.exp(max(log_p)), abs=1e-14)
        assert facts.logit_margin[i].item() == pytest.approx(row[y] - max(others), abs=1e-12)
        assert facts.cross_entropy[i].item() == pytest.approx(-log_p[y], abs=1e-13)
        assert facts.best_other[i].item() == max((j for j in range(k) if j != y), key=lambda j, row=row: row[j])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_of_equal_logits_the_first_class_counts(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(1)
    tied = torch.randint(0, 2, (200, 4), generator=generator).to(dtype)
    y = torch.randint(0, 4, (200,), generator=generator)
    facts = describe_predictions(tied, y)
    assert facts.pred.tolist() == np.argmax(tied.numpy(), axis=1).tolist()
    others = np.where(np.arange(4) == y.numpy()[:, None], -np.inf, tied.float().numpy())
    assert facts.best_other.tolist() == others.argmax(axis=1).tolist()
    assert facts.logit_margin.tolist() == (tied.float().numpy()[np.arange(200), y] - others.max(axis=1)).tolist()


def test_facts_agree_with_each_other() -> None:
    y = labels(4)
    facts = describe_predictions(logits(4), y)
    right = facts.pred == y
    assert right.any()
    assert not right.all()
    assert ((facts.logit_margin > 0) == right).all()
    assert facts.prob_label[right].equal(facts.prob_pred[right])
    assert (facts.prob_label[~right] < facts.prob_pred[~right]).all()
    assert ((facts.prob_pred >= 1 / 4) & (facts.prob_pred <= 1)).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_widened(dtype: torch.dtype) -> None:
    narrow = logits(4, dtype)
    facts, wide = describe_predictions(narrow, labels(4)), describe_predictions(narrow.float(), labels(4))
    assert facts.best_other.equal(wide.best_other)
    for name in Predictions._fields[1:-1]:
        assert getattr(facts, name).dtype == torch.float32, name
        assert getattr(facts, name).equal(getattr(wide, name)), name


def test_a_label_outside_of_the_classes_is_read_as_the_nearest() -> None:
    outside = describe_predictions(logits(3)[:2], torch.tensor([-100, 7]))
    inside = describe_predictions(logits(3)[:2], torch.tensor([0, 2]))
    assert all(a.equal(b) for a, b in zip(outside, inside, strict=True))


def test_a_batch_of_one_and_an_empty_one_keep_their_dimension() -> None:
    for b in (1, 0):
        assert {tuple(fact.shape) for fact in describe_predictions(logits(3)[:b], labels(3)[:b])} == {(b,)}


def test_a_sure_mistake_costs_much_and_stays_finite() -> None:
    facts = describe_predictions(torch.tensor([[1e4, 0.0]]), torch.tensor([1]))
    assert facts.cross_entropy.item() == 1e4
    assert facts.prob_label.item() == 0.0
    assert facts.logit_margin.item() == -1e4
