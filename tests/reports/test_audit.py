"""An audit: its limits against every population there is, its draw, and what it is worth on a ranking like CIFAR's."""

from __future__ import annotations

import csv
import itertools
import math
from fractions import Fraction

import numpy as np
import pyarrow as pa
import pytest

from lightning_flip.reports.audit import AUDIT_COLUMNS, draw_audit, estimate_wrong
from lightning_flip.reports.intervals import stratified_count_lower
from lightning_flip.stores.spreadsheets import parse_csv


def chance_of(found: int, looks: int, marked: int, size: int) -> Fraction:
    """P(X = found), X hypergeometric, by counting."""
    return Fraction(math.comb(marked, found) * math.comb(size - marked, looks - found), math.comb(size, looks))


def lower_by_counting(count: list[int], looks: list[int], size: list[int], error: float) -> int:
    """The smallest total of all populations whose tails multiply to more than Fisher's threshold."""
    strata = sum(n < N for n, N in zip(looks, size, strict=True))
    low, high = 0.0, 500.0  # -log of the threshold: P(a sum of H exponentials > c) = error
    for _ in range(200):
        c = (low + high) / 2
        tail = math.exp(-c) * sum(c**k / math.factorial(k) for k in range(strata)) if strata else 0.0
        low, high = (c, high) if tail > error else (low, c)
    best = sum(size)
    for marked in itertools.product(*(range(N + 1) for N in size)):
        tails = [
            sum(chance_of(k, n, M, N) for k in range(x, n + 1))
            for x, n, M, N in zip(count, looks, marked, size, strict=True)
        ]
        product = math.prod(tails)
        if product > 0 and (strata == 0 or -math.log(product) <= high + 1e-9):
            best = min(best, sum(marked))
    return best


STRATA = [
    ([2], [5], [20]),
    ([0], [5], [20]),
    ([5], [5], [20]),
    ([3, 0], [5, 4], [9, 14]),
    ([0, 0], [3, 3], [8, 9]),
    ([4, 4], [4, 4], [10, 12]),
    ([2, 3], [6, 4], [6, 15]),  # the first is known completely
    ([2, 4], [6, 4], [6, 4]),
    ([1, 2, 3], [3, 3, 3], [5, 6, 7]),
    ([0, 3, 1], [2, 3, 4], [6, 3, 9]),
]


@pytest.mark.parametrize(("count", "looks", "size"), STRATA)
@pytest.mark.parametrize("error", [0.025, 0.2])
def test_the_lower_limit_is_that_of_all_populations(
    count: list[int], looks: list[int], size: list[int], error: float
) -> None:
    assert stratified_count_lower(count, looks, size, error) == lower_by_counting(count, looks, size, error)


@pytest.mark.parametrize("marked", [(0, 0), (1, 3), (4, 0), (8, 2), (5, 9), (8, 12)])
def test_the_limit_is_too_high_with_the_promised_chance_at_most(marked: tuple[int, int]) -> None:
    size, looks, error = (8, 12), (3, 4), 0.1
    too_high = Fraction(0)
    for found in itertools.product(*(range(n + 1) for n in looks)):
        chance = math.prod(chance_of(*facts) for facts in zip(found, looks, marked, size, strict=True))
        if chance and stratified_count_lower(found, looks, size, error) > sum(marked):
            too_high += chance
    assert too_high <= error


def test_one_stratum_is_clopper_and_pearson_without_replacement() -> None:
    low = stratified_count_lower([7], [40], [300], 0.05)
    tail = [sum(chance_of(k, 40, M, 300) for k in range(7, 41)) for M in (low - 1, low)]
    assert tail[0] < 0.05 <= tail[1]


def test_a_large_stratum_neither_overflows_nor_underflows() -> None:
    low = stratified_count_lower([5000, 0], [10_000, 10], [1_000_000, 280_000])
    assert 480_000 < low < 500_000


@pytest.mark.parametrize(
    ("arguments", "said"),
    [(([3], [2], [9]), "3 of 2"), (([1], [9], [4]), "9 of 4"), (([1], [2], [9], 0.7), "error must be between")],
)
def test_impossible_counts_are_refused(arguments: tuple, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        stratified_count_lower(*arguments)


def scores_of(score: np.ndarray, sure: np.ndarray, disagrees: np.ndarray) -> pa.Table:
    count = len(score)
    return pa.table(
        {
            "index": np.arange(count),
            "sample_id": [f"img/{place}.png" for place in range(count)],
            "path": pa.nulls(count, pa.string()),
            "given_label": np.arange(count) % 10,
            "given_name": pa.nulls(count, pa.string()),
            "visits": np.ones(count, int),
            "label_score": pa.array(score, mask=np.isnan(score)),
            "is_label_issue": sure,
            "disagrees": disagrees,
        }
    )


def like_cifar(count: int = 12_000, rate: float = 0.2) -> tuple[pa.Table, np.ndarray]:
    """A ranking with an AUROC of .92, as measured on CIFAR-10, and whether each label is wrong."""
    generator = np.random.default_rng(5)
    wrong = np.arange(count) < rate * count
    logit = np.where(wrong, generator.normal(-1.0, 1.5, count), generator.normal(1.9, 1.4, count))
    noisy = logit + generator.normal(0, 0.5, count)
    order = generator.permutation(count)
    table = scores_of(1 / (1 + np.exp(-logit[order])), noisy[order] < -0.85, noisy[order] < 0)
    return table, wrong[order]


def review(rows: pa.Table, wrong: np.ndarray) -> pa.Table:
    answers = np.where(wrong[np.asarray(rows["index"])], "wrong", "right")
    return rows.set_column(rows.column_names.index("review"), "review", pa.array(answers))


def test_the_count_is_unbiased_and_the_limits_hold() -> None:
    table, wrong = like_cifar()
    found = [estimate_wrong(review(draw_audit(table, 100, seed).rows, wrong)) for seed in range(80)]
    estimates = np.array([one.wrong for one in found])
    assert abs(estimates.mean() - wrong.sum()) < 3 * estimates.std() / len(found) ** 0.5
    assert np.mean([one.low <= wrong.sum() <= one.high for one in found]) >= 0.95
    half_widths = np.array([(one.high - one.low) / 2 for one in found])
    assert half_widths.mean() < 950  # 4 equal strata: see below
    plan = draw_audit(table, 100)
    assert plan.half_width == pytest.approx(half_widths.mean(), rel=0.15)


def test_unequal_strata_tell_more_than_equal_ones() -> None:
    table, wrong = like_cifar()
    order = np.argsort(np.asarray(table["label_score"]))
    strata = np.array_split(wrong[order], 4)
    generator = np.random.default_rng(1)
    widths = []
    for _ in range(30):
        found = [int(generator.choice(part, 25, replace=False).sum()) for part in strata]
        low = stratified_count_lower(found, [25] * 4, [3000] * 4)
        widths.append(12_000 - stratified_count_lower([25 - x for x in found], [25] * 4, [3000] * 4) - low)
    assert np.mean(widths) / 2 > 1150
    ours = [estimate_wrong(review(draw_audit(table, 100, seed).rows, wrong)) for seed in range(30)]
    assert np.mean([one.high - one.low for one in ours]) < 0.8 * np.mean(widths)


def test_limits_hold_though_the_history_is_wrong_about_everything() -> None:
    table, wrong = like_cifar(2000)
    score = np.asarray(table["label_score"])
    upside_down = scores_of(1 - score, ~np.asarray(table["disagrees"]), ~np.asarray(table["disagrees"]))
    found = [estimate_wrong(review(draw_audit(upside_down, 60, seed).rows, wrong)) for seed in range(100)]
    assert np.mean([one.low <= wrong.sum() <= one.high for one in found]) >= 0.95
    estimates = np.array([one.wrong for one in found])
    assert abs(estimates.mean() - wrong.sum()) < 3 * estimates.std() / 10


def test_unsure_answers_widen_the_limits_to_those_of_either_answer() -> None:
    table, wrong = like_cifar(1000)
    rows = review(draw_audit(table, 80, 3).rows, wrong)
    place, answers = rows.column_names.index("review"), rows["review"].to_pylist()

    def with_first_ten(answer: str) -> pa.Table:
        return rows.set_column(place, "review", pa.array([answer] * 10 + answers[10:]))

    unsure, low, high = (estimate_wrong(with_first_ten(answer)) for answer in ("unsure", "right", "wrong"))
    assert (unsure.low, unsure.high, unsure.unsure) == (low.low, high.high, 10)
    assert low.high < unsure.high
    assert low.wrong < unsure.wrong < high.wrong
    assert unsure.wrong == pytest.approx((low.wrong + high.wrong) / 2)


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_none_or_all_wrong(share: float) -> None:
    table, _ = like_cifar(1000)
    found = estimate_wrong(review(draw_audit(table, 50).rows, np.full(1000, share == 1)))
    assert found.wrong == 1000 * share
    assert (found.low == 0, found.high == 1000) == (share == 0, share == 1)
    assert 0 < found.high - found.low < 200


def test_a_draw_has_distinct_samples_in_random_order_and_hides_what_the_model_thinks() -> None:
    table, _ = like_cifar(3000)
    drawn = draw_audit(table, 200, seed=1)
    assert tuple(drawn.rows.column_names) == AUDIT_COLUMNS
    assert len(set(drawn.rows["index"].to_pylist())) == drawn.rows.num_rows == 200
    score = np.asarray(table["label_score"])[np.asarray(drawn.rows["index"])]
    assert abs(np.corrcoef(score, np.arange(200))[0, 1]) < 0.2
    assert drawn.rows["review"].null_count == drawn.rows["corrected_label"].null_count == 200
    by_stratum = {name: np.asarray(drawn.rows["stratum"]) == name for name in ("1 of 2", "2 of 2")}
    for mask in by_stratum.values():
        (size,) = set(np.asarray(drawn.rows["stratum_size"])[mask].tolist())
        assert np.asarray(drawn.rows["weight"])[mask] == pytest.approx(size / mask.sum())
        assert 2 <= mask.sum() <= size
    assert np.asarray(drawn.rows["weight"]).sum() == pytest.approx(3000)


def test_the_number_of_a_stratum_does_not_tell_where_it_is() -> None:
    table, _ = like_cifar(3000)
    smaller = {int(np.argmin([part.size for part in draw_audit(table, 50, seed).strata])) for seed in range(3)}
    numbers = set()
    for seed in range(20):
        rows = draw_audit(table, 50, seed).rows
        numbers.add(rows["stratum"].to_pylist()[int(np.argmin(np.asarray(rows["stratum_size"])))])
    assert smaller == {0}  # the strata themselves are in the order of the ranking
    assert numbers == {"1 of 2", "2 of 2"}


def test_a_seed_draws_the_same_again_and_another_one_does_not() -> None:
    table, _ = like_cifar(500)
    assert draw_audit(table, 30, 4).rows.equals(draw_audit(table, 30, 4).rows)
    assert not draw_audit(table, 30, 4).rows.equals(draw_audit(table, 30, 5).rows)


@pytest.mark.parametrize("strata", [1, 2, 3, 5])
def test_looks_are_in_proportion_to_size_and_spread(strata: int) -> None:
    table, _ = like_cifar(6000)
    drawn = draw_audit(table, 400, strata=strata)
    assert len(drawn.strata) == strata
    assert sum(part.size for part in drawn.strata) == 6000
    share = np.array([part.wrong / part.looks for part in drawn.strata])
    weight = np.array([part.size for part in drawn.strata]) * np.sqrt(share * (1 - share))
    looks = np.array([part.looks for part in drawn.strata])
    assert np.abs(looks - 400 * weight / weight.sum()).max() <= 1


def test_the_cut_is_the_best_one_there_is() -> None:
    sure = np.array([1, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], bool)
    disagrees = sure | (np.arange(20) < 10)
    (first, second) = draw_audit(scores_of(np.linspace(0, 1, 20), sure, disagrees), 10).strata
    guess = np.clip((sure * 1.0 + disagrees) / 2, 0.05, 0.95)

    def spread(part: np.ndarray) -> float:
        return len(part) * float(np.sqrt(part.mean() * (1 - part.mean())))

    best = min(range(2, 19), key=lambda cut: spread(guess[:cut]) + spread(guess[cut:]))
    assert (first.size, second.size) == (best, 20 - best)


def test_unscored_samples_are_not_drawn() -> None:
    score = np.linspace(0, 1, 60)
    score[::2] = np.nan
    drawn = draw_audit(scores_of(score, score < 0.2, score < 0.4), 25)
    assert all(place % 2 for place in drawn.rows["index"].to_pylist())
    assert sum(part.size for part in drawn.strata) == 30


@pytest.mark.parametrize("count", [1, 2, 3, 5, 40])
def test_with_fewer_samples_than_looks_all_are_drawn_and_the_count_is_exact(count: int) -> None:
    score, wrong = np.linspace(0, 1, count), np.arange(count) % 3 == 0
    drawn = draw_audit(scores_of(score, score < 0.2, score < 0.4), 50)
    assert sorted(drawn.rows["index"].to_pylist()) == list(range(count))
    assert "exactly" in drawn.plan()
    found = estimate_wrong(review(drawn.rows, wrong))
    assert (found.wrong, found.low, found.high) == (wrong.sum(), wrong.sum(), wrong.sum())
    assert "all samples" in found.sentence()


def test_what_a_number_of_looks_can_tell_is_said() -> None:
    table, _ = like_cifar()
    few, many = draw_audit(table, 100), draw_audit(table, 400)
    assert few.half_width_of_four == pytest.approx(many.half_width)
    assert many.half_width < few.half_width / 2
    assert few.plan().startswith("100 looks at 12,000 samples will tell the number of wrong labels to about ±9")
    assert f"{few.strata[0].looks} of the {few.strata[0].size:,}, " in few.plan()


def test_too_few_looks_strata_or_samples_are_refused() -> None:
    table, _ = like_cifar(100)
    for arguments, said in [((1,), "2 per stratum, 4 for 2; got 1"), ((3,), "got 3"), ((50, 0, 0), "strata")]:
        with pytest.raises(ValueError, match=said):
            draw_audit(table, *arguments)
    with pytest.raises(ValueError, match="No sample has a score"):
        draw_audit(scores_of(np.full(4, np.nan), np.zeros(4, bool), np.zeros(4, bool)), 10)


def test_rows_without_review_or_of_a_torn_draw_are_refused() -> None:
    table, wrong = like_cifar(400)
    blank = draw_audit(table, 40).rows
    with pytest.raises(ValueError, match=r"40 of 40 rows of the audit have no review"):
        estimate_wrong(blank)
    rows = review(blank, wrong)
    first = np.asarray(rows["stratum"]) == "1 of 2"
    with pytest.raises(ValueError, match=r"was drawn with \d+ of \d+ looks .* and \d+ rows are here"):
        estimate_wrong(rows.slice(1))
    with pytest.raises(ValueError, match=r"strata are '1 of 2'"):
        estimate_wrong(rows.filter(pa.array(first)))
    with pytest.raises(ValueError, match=r"each with one size and one weight"):
        estimate_wrong(pa.concat_tables([rows, review(draw_audit(table, 60).rows, wrong)]))


def test_the_file_has_an_empty_cell_for_each_answer_and_no_formula() -> None:
    table, _ = like_cifar(50)
    table = table.set_column(1, "sample_id", pa.array(['=1+1,"x"\n', *["a"] * 49]))
    text = draw_audit(table, 50).to_csv()
    assert tuple(next(csv.reader(text.splitlines()))) == AUDIT_COLUMNS
    _, rows = parse_csv(text)
    assert '\'=1+1,"x"\n' in {cells["sample_id"] for _, cells in rows}
    assert {(cells["review"], cells["corrected_label"]) for _, cells in rows} == {("", "")}
