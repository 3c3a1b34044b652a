import math
import sys
from collections.abc import Callable
from fractions import Fraction

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightning_flip.reports import (
    bootstrap_interval,
    clopper_pearson_lower,
    clopper_pearson_upper,
    mcnemar_exact,
    wilson_interval,
)


def at_most(count: int, total: int, rate: float | Fraction) -> Fraction:
    """P(X <= count), X binomial, in exact arithmetic."""
    rate = Fraction(rate)
    chances = (math.comb(total, hits) * rate**hits * (1 - rate) ** (total - hits) for hits in range(count + 1))
    return sum(chances, Fraction(0))


def root(increasing: Callable[[float], float | Fraction], low: float, high: float, steps: int = 60) -> float:
    """Where a function that grows crosses 0."""
    for _ in range(steps):
        middle = (low + high) / 2
        low, high = (low, middle) if increasing(middle) > 0 else (middle, high)
    return (low + high) / 2


COUNTS = [(count, total) for total in (1, 2, 7, 30, 60) for count in sorted({0, 1, 2, total // 3, total - 1, total})]
COUNTS = [(count, total) for count, total in COUNTS if count <= total]


@pytest.mark.parametrize("error", [0.05, 0.005, 1e-6])
def test_bounds_are_where_the_exact_tails_have_the_error(error: float) -> None:
    for count, total in COUNTS:
        upper, lower = clopper_pearson_upper(count, total, error), clopper_pearson_lower(count, total, error)
        expected = 1.0 if count == total else root(lambda p: error - at_most(count, total, p), 0.0, 1.0)  # noqa: B023
        assert upper == pytest.approx(expected, rel=1e-10), (count, total)
        expected = 0.0 if count == 0 else root(lambda p: 1 - at_most(count - 1, total, p) - error, 0.0, 1.0)  # noqa: B023
        assert lower == pytest.approx(expected, rel=1e-10), (count, total)


def test_bounds_of_many_groups_are_those_of_each() -> None:
    rng = np.random.default_rng(0)
    totals = rng.integers(1, 5000, 1000)
    counts = rng.binomial(totals, 0.02)
    for bound in (clopper_pearson_lower, clopper_pearson_upper):
        together = bound(counts, totals, 0.01)
        assert together.shape == (1000,)
        assert together.tolist() == [float(bound(c, n, 0.01)) for c, n in zip(counts, totals, strict=True)]


def test_a_bound_of_no_flips_has_a_closed_form() -> None:
    totals = np.array([1, 60, 299, 500, 10**6, 10**9])
    np.testing.assert_allclose(clopper_pearson_upper(0, totals), -np.expm1(np.log(0.05) / totals), rtol=1e-9)
    assert (clopper_pearson_lower(0, totals) == 0).all()
    assert (clopper_pearson_upper(totals, totals) == 1).all()


@given(total=st.integers(1, 10**6), share=st.floats(0, 1), confidence=st.floats(0.5, 0.999))
def test_wilson_ends_solve_its_quadratic(total: int, share: float, confidence: float) -> None:
    count = round(share * total)
    # The normal quantile from the error function alone, and the roots of (1 + z^2/n) p^2 - (2 r + z^2/n) p + r^2.
    z = root(lambda z: math.erf(z / math.sqrt(2)) - confidence, 0.0, 10.0)
    rate, square = count / total, z * z / total
    expected = sorted(np.roots([1 + square, -(2 * rate + square), rate * rate]).real)
    low, high = wilson_interval(count, total, confidence)
    assert low == pytest.approx(expected[0], rel=1e-5, abs=1e-7)
    assert high == pytest.approx(expected[1], rel=1e-5, abs=1e-7)
    assert 0 <= low <= rate <= high <= 1


def test_wilson_without_samples_knows_nothing() -> None:
    low, high = wilson_interval([0, 0, 4], [0, 4, 4])
    assert (low[0], high[0]) == (0, 1)
    assert low[1] == 0 < high[1] < 1
    assert high[2] == 1 > low[2] > 0


CASES = [(n, p) for n in (60, 200, 1000, 5000, 20_000) for p in (0.001, 0.003, 0.01, 0.03, 0.05, 0.2) if n * p >= 10]


@pytest.mark.parametrize(("total", "rate"), CASES)
def test_wilson_covers_what_it_promises(total: int, rate: float) -> None:
    count = np.random.default_rng(5).binomial(total, rate, 2000)
    low, high = wilson_interval(count, np.full(2000, total))
    assert 0.93 <= ((low <= rate) & (rate <= high)).mean() <= 0.97
    every = np.arange(total + 1)
    low, high = wilson_interval(every, total)
    assert 0.93 <= probabilities(total, rate)[(low <= rate) & (rate <= high)].sum() <= 0.97


def probabilities(total: int, rate: float) -> npt.NDArray[np.float64]:
    logs = [
        math.lgamma(total + 1) - math.lgamma(k + 1) - math.lgamma(total - k + 1) + k * math.log(rate)
        + (total - k) * math.log1p(-rate)
        for k in range(total + 1)
    ]  # fmt: skip
    return np.array([math.exp(value) for value in logs])


def test_mcnemar_sums_the_fair_tails() -> None:
    for negative in range(8):
        for positive in range(8):
            fewer, trials = min(negative, positive), negative + positive
            expected = min(Fraction(1), 2 * at_most(fewer, trials, Fraction(1, 2)))
            assert mcnemar_exact(negative, positive) == pytest.approx(float(expected), rel=1e-12)
    assert mcnemar_exact([0, 5], [5, 5]).tolist() == pytest.approx([2 / 32, 1.0])
    # A large one, from math.comb.
    tail = Fraction(2 * sum(math.comb(1000, k) for k in range(451)), 2**1000)
    assert mcnemar_exact(450, 550) == pytest.approx(float(tail), rel=1e-10)


def test_bootstrap_agrees_with_drawing_the_samples_again() -> None:
    cells = np.array([12, 40, 148])  # negative flips, wrong in both, others
    low, high = bootstrap_interval(cells, lambda drawn: drawn[:, 0] / np.maximum(drawn[:, :2].sum(-1), 1))
    rng = np.random.default_rng(3)
    samples = np.repeat(np.arange(3), cells)
    values = []
    for _ in range(4000):
        drawn = rng.choice(samples, len(samples))
        values.append((drawn == 0).sum() / (drawn < 2).sum())
    assert low == pytest.approx(np.quantile(values, 0.025), abs=0.012)
    assert high == pytest.approx(np.quantile(values, 0.975), abs=0.012)


def test_bootstrap_is_seeded_and_quick_for_many_samples() -> None:
    def share(drawn: npt.NDArray[np.int64]) -> npt.ArrayLike:
        return np.asarray(drawn[:, 0] / drawn.sum(-1))

    first = bootstrap_interval([10_000, 990_000], share)
    assert first == bootstrap_interval([10_000, 990_000], share)
    assert first != bootstrap_interval([10_000, 990_000], share, seed=1)
    assert first == pytest.approx((0.009805, 0.010195), abs=1e-5)  # 1.96 sqrt(p q / n) about 1%
    narrow = bootstrap_interval([10_000, 990_000], share, confidence=0.5)
    assert first[0] < narrow[0] < 0.01 < narrow[1] < first[1]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: clopper_pearson_upper(5, 4), "5 of 4"),
        (lambda: clopper_pearson_lower([1, -1], [4, 4]), "-1 of 4"),
        (lambda: wilson_interval(1.5, 4), "1.5 of 4"),
        (lambda: wilson_interval(float("nan"), 4), "nan of 4"),
        (lambda: mcnemar_exact(-1, 4), "-1 of 3"),
        (lambda: clopper_pearson_upper(1, 4, 0.5), "error must be between 0 and 0.5"),
        (lambda: clopper_pearson_lower(1, 4, 0), "error must be between 0 and 0.5"),
        (lambda: wilson_interval(1, 4, 95), "confidence must be between 0 and 1"),
        (lambda: bootstrap_interval([0, 0], lambda cells: cells[:, 0]), "cells must be a list of counts"),
        (lambda: bootstrap_interval([0.5], lambda cells: cells[:, 0]), "cells must be a list of counts"),
        (lambda: bootstrap_interval([1, 2], lambda cells: cells[:, 0], draws=0), "draws must be at least 1"),
        (lambda: bootstrap_interval([1, 2], lambda cells: cells[0]), "one finite number per draw"),
        (
            lambda: bootstrap_interval([1, 2], lambda cells: cells[:, 0] * np.inf, draws=5),
            "define it where it divides by 0",
        ),
    ],
)
@pytest.mark.filterwarnings("ignore:invalid value")
def test_wrong_arguments_are_named(call: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


def test_missing_scipy_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "scipy.special", None)
    for call in (clopper_pearson_upper, clopper_pearson_lower):
        with pytest.raises(ModuleNotFoundError, match=r"pip install 'lightning-flip\[report\]'"):
            call(1, 10)
    assert wilson_interval(1, 10)[0] > 0  # needs none
