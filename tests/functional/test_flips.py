from __future__ import annotations

import doctest
import inspect
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lightning_flip.functional.flips import (
    FlipCounts,
    churn,
    count_flips,
    negative_flip_impact,
    negative_flip_rate,
    positive_flip_rate,
    relative_negative_flip_rate,
    share,
    trust_score,
)
from tests.oracles.flips import flip_rates

FUNCTIONS = {
    "nfr": negative_flip_rate,
    "pfr": positive_flip_rate,
    "relative": relative_negative_flip_rate,
    "impact": negative_flip_impact,
    "trust": trust_score,
    "churn": churn,
}


def rate_of(name: str) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """A rate as a function of the case (old, new, target)."""
    if name == "churn":
        return lambda old, new, target: churn(new, old_preds=old)
    return lambda old, new, target: FUNCTIONS[name](new, target, old_preds=old)


RATES = {name: rate_of(name) for name in FUNCTIONS}


def assert_rates(old: Tensor, new: Tensor, target: Tensor) -> None:
    expected = flip_rates(old.float().numpy(), new.float().numpy(), target.numpy())
    for name, rate in RATES.items():
        value = rate(old, new, target)
        assert value.dtype == torch.float32
        assert value.shape == ()
        assert value.item() == pytest.approx(expected[name], rel=1e-6, abs=1e-7), name


triples = (
    st.integers(2, 4)
    .flatmap(lambda k: st.lists(st.tuples(*[st.integers(0, k - 1)] * 3), min_size=0, max_size=40))
    .map(lambda rows: tuple(torch.tensor(rows, dtype=torch.int64).reshape(-1, 3).T))
)


@settings(deadline=None)
@given(triples)
def test_every_rate_matches_the_loop(case: tuple[Tensor, Tensor, Tensor]) -> None:
    assert_rates(*case)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("k", [2, 7])
def test_scores_are_taken_by_argmax(dtype: torch.dtype, k: int) -> None:
    generator = torch.Generator().manual_seed(k)
    old = torch.randn(50, k, generator=generator).to(dtype)
    new = (old.float() + torch.randn(50, k, generator=generator)).to(dtype)
    assert_rates(old, new, torch.randint(k, (50,), generator=generator))


def test_models_may_have_different_classes() -> None:
    old = torch.tensor([[0.9, 0.1], [0.2, 0.8], [0.2, 0.8]])
    new = torch.tensor([[0.2, 0.1, 0.7], [0.2, 0.8, 0.0], [0.0, 0.1, 0.9]])
    target = torch.tensor([0, 1, 1])
    assert_rates(old, new, target)
    assert negative_flip_rate(new, target, old_preds=old) == pytest.approx(2 / 3)


def test_labels_and_scores_and_integer_dtypes_mix() -> None:
    scores = torch.tensor([[0.9, 0.1], [0.2, 0.8]])
    labels = torch.tensor([1, 1], dtype=torch.uint8)
    assert negative_flip_rate(labels, torch.tensor([0, 1], dtype=torch.int32), old_preds=scores) == 0.5


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ([0, 1, 1], [0, 1, 1], {"nfr": 0, "pfr": 0, "relative": 0, "impact": 0, "trust": 1, "churn": 0}),
        ([1, 0, 0], [1, 0, 0], {"nfr": 0, "pfr": 0, "relative": 0, "impact": 0, "trust": 1, "churn": 0}),
        ([1, 0, 0], [0, 1, 1], {"nfr": 0, "pfr": 1, "relative": 0, "impact": 0, "trust": 1, "churn": 1}),
        ([0, 1, 1], [1, 0, 0], {"nfr": 1, "pfr": 0, "relative": 1, "impact": 1, "trust": 0, "churn": 1}),
    ],
    ids=["both all right", "both all wrong", "everything fixed", "everything lost"],
)
def test_extremes(old: list[int], new: list[int], expected: dict[str, float]) -> None:
    target = torch.tensor([0, 1, 1])
    values = {name: rate(torch.tensor(old), torch.tensor(new), target).item() for name, rate in RATES.items()}
    assert values == expected


def test_one_class_in_the_data() -> None:
    target = torch.zeros(6, dtype=torch.int64)
    assert_rates(torch.tensor([0, 0, 0, 1, 1, 0]), torch.tensor([0, 1, 0, 1, 0, 0]), target)


@pytest.mark.parametrize("preds", [torch.zeros(0, dtype=torch.int64), torch.zeros(0, 3)])
def test_no_samples(preds: Tensor) -> None:
    target = torch.zeros(0, dtype=torch.int64)
    values = {name: rate(preds, preds, target).item() for name, rate in RATES.items()}
    assert values == {"nfr": 0, "pfr": 0, "relative": 0, "impact": 0, "trust": 1, "churn": 0}


def test_relative_rate_of_published_error_rates() -> None:
    """Errors 30.24% and 30.29% with 6.44% negative flips are a relative rate of 30.48%."""
    total, old_wrong, new_wrong, lost = 10_000, 3024, 3029, 644
    both_wrong = new_wrong - lost
    counts = FlipCounts(
        *torch.tensor([total - old_wrong - lost, lost, old_wrong - both_wrong, both_wrong], dtype=torch.int64)
    )
    target = torch.zeros(total, dtype=torch.int64)
    old, new = target.clone(), target.clone()
    old[:old_wrong] = 1
    new[old_wrong - both_wrong : old_wrong + lost] = 1
    assert count_flips(new, target, old) == counts
    assert 100 * relative_negative_flip_rate(new, target, old_preds=old).item() == pytest.approx(30.48, abs=0.05)


@settings(deadline=None)
@given(triples)
def test_identities_and_bounds(case: tuple[Tensor, Tensor, Tensor]) -> None:
    old, new, target = case
    n = max(len(target), 1)
    right_old, right_new = (old == target).sum().item() / n, (new == target).sum().item() / n
    wrong_new = (new != target).sum().item() / n
    nfr, pfr = RATES["nfr"](*case).item(), RATES["pfr"](*case).item()
    assert nfr <= min(right_old, wrong_new) + 1e-6
    assert nfr - pfr == pytest.approx(right_old - right_new, abs=1e-6)
    assert nfr + pfr <= churn(new, old_preds=old).item() + 1e-6
    assert negative_flip_rate(old, target, old_preds=new).item() == pfr


@settings(deadline=None)
@given(triples, st.randoms(use_true_random=False))
def test_order_does_not_matter(case: tuple[Tensor, Tensor, Tensor], random: object) -> None:
    order = list(range(len(case[0])))
    random.shuffle(order)  # type: ignore[attr-defined]
    shuffled = [tensor[torch.tensor(order, dtype=torch.int64)] for tensor in case]
    for name, rate in RATES.items():
        assert rate(*shuffled) == rate(*case), name


def test_counts_stay_exact_where_half_precision_would_round() -> None:
    counts = FlipCounts(*torch.tensor([16_777_217, 1, 0, 4_000_000_000]))
    assert counts.total.item() == 4_016_777_218
    expected = 4_016_777_218 / (16_777_218 * 4_000_000_001)
    assert counts.relative_negative_flip_rate().item() == pytest.approx(expected, rel=1e-6)


def test_default_dtype_does_not_round_the_rates() -> None:
    old = torch.zeros(1001, dtype=torch.int64)
    new = (torch.arange(1001) < 333).long()
    torch.set_default_dtype(torch.bfloat16)
    try:
        values = {name: rate(old, new, old) for name, rate in RATES.items()}
    finally:
        torch.set_default_dtype(torch.float32)
    expected = flip_rates(old.numpy(), new.numpy(), old.numpy())
    for name, value in values.items():
        assert value.dtype == torch.float32
        assert value.item() == pytest.approx(expected[name], rel=1e-6), name


def test_share_takes_tensors_and_ints() -> None:
    assert [share(torch.tensor(3), whole).item() for whole in (torch.tensor(4), 4, 0)] == [0.75, 0.75, 0.0]
    assert share(torch.tensor(0), torch.tensor(0), empty=1.0) == 1.0


LABELS = torch.tensor([0, 1, 1])


@pytest.mark.usefixtures("own_checks")
@pytest.mark.parametrize(
    ("old", "new", "target", "error", "message"),
    [
        (LABELS[:2], LABELS, LABELS, ValueError, r"old_preds and target must have one row .* \(2, 3\)"),
        (LABELS, torch.zeros(4, 2), LABELS, ValueError, r"^preds and target must have one row .* \(4, 3\)"),
        (LABELS.float(), LABELS, LABELS, TypeError, r"old_preds of one dimension must be integer .* torch.float32"),
        (
            LABELS,
            LABELS.bool(),
            LABELS,
            TypeError,
            r"^preds of one dimension .* got torch.bool",
        ),
        (LABELS, torch.zeros(3, 2, dtype=torch.int64), LABELS, TypeError, "^preds of two dimensions must be float"),
        (LABELS, torch.zeros(3, 1), LABELS, ValueError, "^preds must score at least two classes"),
        (LABELS, torch.zeros(3, 0), LABELS, ValueError, "^preds must score at least two classes"),
        (torch.zeros(3, 2, 4), LABELS, LABELS, ValueError, r"old_preds must be integer labels \[N\] or scores"),
        (torch.tensor(1), LABELS, LABELS, ValueError, r"old_preds must be .* got shape \(\)"),
        (LABELS, LABELS, LABELS.float(), TypeError, "target of one dimension must be integer labels"),
        (LABELS, LABELS, torch.zeros(3, 2), ValueError, r"target must be integer labels \[N\]; got shape \(3, 2\)"),
    ],
)
def test_errors_name_the_argument(
    old: Tensor, new: Tensor, target: Tensor, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        negative_flip_rate(new, target, old_preds=old)


@pytest.mark.usefixtures("own_checks")
def test_churn_checks_its_lengths() -> None:
    with pytest.raises(ValueError, match="old_preds and preds must have one row"):
        churn(LABELS[:1], old_preds=LABELS)


def test_a_label_that_is_no_class_is_wrong() -> None:
    target = torch.tensor([-1, 0])
    assert count_flips(torch.tensor([0, 0]), target, torch.zeros(2, 3)).both_wrong == 1


class TestCallsOfTheFirstRelease:
    """Old before new, by position or by the names ``old_preds, new_preds, target``."""

    OLD, NEW, TARGET = torch.tensor([[0, 1, 2, 0, 1], [0, 2, 1, 1, 2], [0, 1, 1, 2, 1]])

    @pytest.mark.parametrize("name", [name for name in FUNCTIONS if name != "churn"])
    def test_they_give_the_same_number_and_warn(self, name):
        rate, expected = FUNCTIONS[name], RATES[name](self.OLD, self.NEW, self.TARGET)
        text = (
            rf"{name_of(rate)}\(old_preds, new_preds, target\) is now {name_of(rate)}\(preds, target, old_preds=...\)"
        )
        for call in (
            lambda: rate(self.OLD, self.NEW, self.TARGET),
            lambda: rate(self.OLD, self.NEW, target=self.TARGET, ignore_index=None),
            lambda: rate(old_preds=self.OLD, new_preds=self.NEW, target=self.TARGET),
        ):
            with pytest.warns(FutureWarning, match=text):
                assert call() == expected

    def test_churn(self):
        for call in (lambda: churn(self.OLD, self.NEW), lambda: churn(old_preds=self.OLD, new_preds=self.NEW)):
            with pytest.warns(
                FutureWarning, match=r"churn\(old_preds, new_preds\) is now churn\(preds, old_preds=...\)"
            ):
                assert call() == churn(self.NEW, old_preds=self.OLD)

    def test_an_order_that_never_was_is_an_error(self):
        with pytest.raises(TypeError, match="old_preds"):
            negative_flip_rate(self.NEW, self.TARGET)


@pytest.mark.parametrize("rate", FUNCTIONS.values())
def test_the_examples_of_decorated_functions_hold(rate):
    """doctest looks only at functions whose globals are the module's."""
    (example,) = doctest.DocTestFinder().find(inspect.unwrap(rate), name_of(rate))
    assert example.examples
    assert doctest.DocTestRunner().run(example).failed == 0


def name_of(function: Callable[..., Tensor]) -> str:
    return function.__name__
