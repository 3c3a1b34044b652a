"""The loops over visits, on numbers that can be worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tests.oracles.suspects import (
    Visit,
    chosen_epochs,
    other_probability,
    probability_margin,
    product_form,
    suspects,
    visits_of,
)


def test_probabilities_of_three_classes() -> None:
    (visit,) = visits_of(np.log([[[0.2, 0.5, 0.3]]]), np.array([2]))
    assert (visit.epoch, visit.sample, visit.label, visit.best_other) == (0, 0, 2, 1)
    assert visit.prob_label == pytest.approx(0.3)
    assert other_probability(visit) == pytest.approx(0.5)
    assert probability_margin(visit) == pytest.approx(-0.2)


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_the_product_form_fails_where_the_sum_of_logarithms_does_not(dtype: type) -> None:
    (hopeless,) = visits_of(np.array([[[0.0, 100.0]]]), np.array([0]), dtype)
    assert probability_margin(hopeless) == -1
    product = product_form(dtype([hopeless.prob_label]), dtype([hopeless.logit_margin]))
    assert not np.isfinite(product).all() or product[0] == 0


def test_the_epochs_that_count() -> None:
    # Ranks by accuracy 1, 2.5, 4, 2.5; by NLL 1 (NaN), 3, 4, 2: sums 2, 5.5, 8, 4.5, median 5.
    assert chosen_epochs([0.1, 0.5, 0.9, 0.5], [math.nan, 0.6, 0.5, 0.7]) == [1, 2]
    assert chosen_epochs([0.5], [1.0]) == [0]
    assert chosen_epochs([0.5, 0.5], [1.0, 1.0]) == [0, 1]


@pytest.mark.parametrize(("wrong", "sure"), [((0.98, 0.94), True), ((0.95, 0.85), False)])
def test_two_classes_and_a_sample_that_is_not_seen(wrong: tuple[float, float], sure: bool) -> None:
    rows = [[[0.9, 0.1], [0.8, 0.2], [x, 1 - x], [y, 1 - y]] for x, y in zip(wrong, (0.3, 0.1), strict=True)]
    rows[1][:2] = [[0.7, 0.3], [0.6, 0.4]]
    visits = visits_of(np.log(rows), np.array([0, 0, 1, 1]))
    found = suspects(visits, 5, 2)
    low = 1 - sum(wrong) / 2
    assert found.label_score[4] is None
    assert found.label_score[:4] == pytest.approx([0.8, 0.7, low, 0.8])
    assert found.suggestion == [1, 1, 0, 0, None]
    # Thresholds .75 and (.8 + low) / 2: sample 2 is confidently of class 0, all others of their own class, or of none.
    # Its label has .04 on average, or .1, which leaves a doubt.
    assert found.surely_wrong == [False, False, sure, False, False]
    assert found.disagrees == [False, False, True, False, False]
    assert suspects(visits, 4, 2, epochs=[1]).label_score == pytest.approx([0.7, 0.6, 1 - wrong[1], 0.9])


def test_an_unknown_best_other_class_suggests_nothing() -> None:
    visit = Visit(0, 0, 0, 0.9, math.log(9), -math.log(0.9), None)
    found = suspects([visit], 1, 3)
    assert found.label_score == [pytest.approx(0.9)]
    assert found.suggestion == [None]
