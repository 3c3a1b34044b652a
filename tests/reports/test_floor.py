from __future__ import annotations

import json
from pathlib import Path
from random import Random

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from docs.simulations.floor import error_rates
from lightning_flip.reports import compare
from lightning_flip.reports.update._tables import floor_answers
from lightning_flip.reports.update.floor import FloorRank, find_noise_floor
from lightning_flip.stores import PredictionError, PredictionSet

N = 200


def predictions(seed: int, name: str, rows: range | list[int] = range(N), classes: int = 4) -> PredictionSet:
    rng = np.random.default_rng(seed)
    target = np.arange(N) % 4
    pred = np.where(rng.random(N) < 0.7, target, rng.integers(0, classes, N))
    picked = np.asarray(rows)
    table = pa.table({"sample_id": picked.astype(str), "target": target[picked], "pred": pred[picked]})
    return PredictionSet.from_table(table, name)


def by_loop(models: list[PredictionSet], ids: set[str]) -> list[list[float]]:
    right = []
    for model in models:
        rows = model.rows.to_pydict()
        answers = zip(rows["sample_id"], rows["target"], rows["pred"], strict=True)
        right.append({sample: pred == target for sample, target, pred in answers if sample in ids})
    return [
        [sum(1 for sample in ids if before[sample] and not after[sample]) / len(ids) for after in right]
        for before in right
    ]


old, new, seed_1, seed_2 = (predictions(seed, name) for seed, name in enumerate(["old", "new", "seed 1", "seed 2"]))


@pytest.mark.parametrize("shuffle", [False, True])
def test_every_ordered_pair_matches_the_loop(shuffle: bool) -> None:
    order = np.random.default_rng(9).permutation(N).tolist() if shuffle else list(range(N))
    floor = compare(old, new, floor=[predictions(2, "seed 1", order), seed_2]).floor
    assert floor is not None
    expected = by_loop([old, new, seed_1, seed_2], set(map(str, range(N))))
    assert floor.names == ("old", "new", "seed 1", "seed 2")
    assert floor.rates.tolist() == expected
    pairs = [expected[a][b] for a in range(1, 4) for b in range(1, 4) if a != b]
    assert sorted(floor.pairs.tolist()) == sorted(pairs)
    assert (floor.lowest, floor.highest) == (min(pairs), max(pairs))
    assert floor.mean == pytest.approx(sum(pairs) / 6)
    assert floor.update == expected[0][1]
    means = [sum(expected[a][b] + expected[b][a] for b in range(4)) / 6 for a in range(4)]
    assert floor.mean_rates.tolist() == pytest.approx(means)
    assert floor.times_mean == pytest.approx(floor.update / floor.mean)
    for name, accuracy, model in zip(floor.names, floor.accuracies, (old, new, seed_1, seed_2), strict=True):
        rows = model.rows.to_pydict()
        right = sum(pred == target for pred, target in zip(rows["pred"], rows["target"], strict=True))
        assert accuracy == right / N, name


def test_one_further_file_and_paths(tmp_path: Path) -> None:
    paths = []
    for model in (old, new, seed_1):
        paths.append(tmp_path / f"{model.name}.csv")
        rows = zip(*model.rows.to_pydict().values(), strict=True)
        lines = ["sample_id,target,pred", *(",".join(map(str, row)) for row in rows)]
        paths[-1].write_text("\n".join(lines) + "\n")
    alone = compare(*paths[:2], floor=paths[2]).floor
    as_text = compare(*paths[:2], floor=str(paths[2])).floor
    assert alone is not None
    assert as_text is not None
    assert alone.rates.tolist() == as_text.rates.tolist() == by_loop([old, new, seed_1], set(map(str, range(N))))
    assert compare(*paths[:2]).floor is None
    with pytest.raises(PredictionError, match=r"other files than the old and the new model's, .*new\.csv comes twice"):
        compare(*paths[:2], floor=[tmp_path / ".." / tmp_path.name / "new.csv"])
    with pytest.raises(PredictionError, match=r"old\.csv comes twice"):
        compare(*paths[:2], floor=[paths[0]])
    with pytest.raises(PredictionError, match="comes twice"):
        compare(*paths[:2], floor=[paths[2], paths[2]])
    with pytest.raises(PredictionError, match="new comes twice"):
        compare(old, new, floor=[new])


def test_missing_samples() -> None:
    short = predictions(2, "seed 1", range(50, N))
    with pytest.raises(PredictionError, match="50 samples are only in old"):
        compare(old, new, floor=[short, seed_2])
    update = compare(old, new, floor=[short, predictions(3, "seed 2", range(150))], allow_partial=True)
    assert update.floor is not None
    common = set(map(str, range(50, 150)))
    assert update.floor.samples == 100
    assert update.num_samples == N
    assert update.floor.rates.tolist() == by_loop([old, new, seed_1, seed_2], common)
    halves = [predictions(2, "a", range(100)), predictions(3, "b", range(100, N))]
    with pytest.raises(PredictionError, match="no sample in common"):
        compare(old, new, floor=halves, allow_partial=True)


def test_as_many_but_other_samples() -> None:
    update = compare(
        old, predictions(1, "new", range(150)), floor=[predictions(2, "seed 1", range(50, N))], allow_partial=True
    )
    assert update.floor is not None
    common = set(map(str, range(50, 150)))
    assert (update.num_samples, update.floor.samples) == (150, 100)
    assert update.floor.rates.tolist() == by_loop([old, new, seed_1], common)


def test_other_targets_are_refused() -> None:
    rows = seed_1.rows.set_column(1, "target", pa.array((np.arange(N) + 1) % 4))
    with pytest.raises(PredictionError, match="target"):
        compare(old, new, floor=[PredictionSet.from_table(rows, "other")])


def test_a_model_of_fewer_classes_is_refused() -> None:
    names = (0, 1, 2, 3)
    models = [PredictionSet(model.rows, model.name, names) for model in (old, new)]
    few = PredictionSet(seed_1.rows, "few", (0, 1, 2))
    with pytest.raises(PredictionError, match=r"few must know the classes that new knows, but 50 of 200"):
        compare(*models, floor=[few], shared_classes=True)
    partial = compare(*models, floor=[few], shared_classes=True, allow_partial=True)
    assert partial.floor is not None
    assert partial.floor.samples == 150


@pytest.mark.parametrize("copied", ["old", "new", "seed 1"])
def test_a_copy_is_refused(copied: str) -> None:
    model = {"old": old, "new": new, "seed 1": seed_1}[copied]
    order = np.random.default_rng(0).permutation(N)
    rows = {name: np.array(values)[order].tolist() for name, values in model.rows.to_pydict().items()}
    copy = PredictionSet.from_table(pa.table(rows), "copy")
    with pytest.raises(PredictionError, match=f"but copy predicts the same class as {copied} for every one of the 200"):
        compare(old, new, floor=[seed_1, copy])


def test_models_right_on_the_same_samples_are_no_copies() -> None:
    rows = seed_1.rows.to_pydict()
    wrong = next(row for row in range(N) if rows["pred"][row] != rows["target"][row])
    other = next(label for label in range(4) if label not in (rows["pred"][wrong], rows["target"][wrong]))
    rows["pred"][wrong] = other
    floor = compare(old, new, floor=[seed_1, PredictionSet.from_table(pa.table(rows), "nearly")]).floor
    assert floor is not None
    assert floor.rates[2, 3] == 0


def test_a_copy_under_other_label_codes_is_refused() -> None:
    """The labels that occur, and with them their codes, depend on the pair that is joined."""
    target = ["b", "c", "c", "b"]
    few, many = ["b", "c", "b", "b"], ["b", "a", "c", "b"]
    models = [
        PredictionSet.from_table(pa.table({"sample_id": list("wxyz"), "target": target, "pred": pred}), name)
        for name, pred in (("old", many), ("new", few), ("seed 1", few))
    ]
    with pytest.raises(PredictionError, match="but seed 1 predicts the same class as new"):
        compare(*models[:2], floor=models[2:])


def placed(right: list[list[bool]]) -> tuple[int, int]:
    """The places of both ranks, by comparing with every other arrangement of the models."""
    models, samples = len(right), range(len(right[0]))

    def flips(one: int, other: int) -> int:
        return sum(right[one][n] and not right[other][n] for n in samples)

    seeds = range(1, models)
    first = [flips(0, 1) <= flips(0, put) for put in seeds]  # `put` in the new model's place
    both = [sum(flips(one, other) + flips(other, one) for other in range(models)) for one in range(models)]
    second = [both[0] <= both[put] for put in range(models)]  # `put` in the old model's place
    return sum(first), sum(second)


@settings(max_examples=100, deadline=None)
@given(st.integers(3, 6), st.integers(1, 6), st.randoms(use_true_random=False))
def test_places_match_all_arrangements(models: int, samples: int, random: Random) -> None:
    right = [[random.random() < 0.6 for _ in range(samples)] for _ in range(models)]
    floor = find_noise_floor(np.array(right), [str(model) for model in range(models)])
    found = (floor.unlucky_seed, floor.more_than_reseed)
    assert tuple(rank.place for rank in found) == placed(right)
    assert tuple(rank.among for rank in found) == (models - 1, models)
    accuracies = [sum(row) for row in right]
    assert floor.accuracies_agree == (min(accuracies[1:]) <= accuracies[0] <= max(accuracies[1:]))


def test_ties_count_against_the_model() -> None:
    rank = FloorRank(0.3, (0.3, *[0.2] * 18))
    assert (rank.place, rank.p_value, rank.verdict) == (2, 0.1, False)
    alone = FloorRank(0.3, (0.2,) * 19)
    assert (alone.place, alone.p_value, alone.verdict) == (1, 0.05, True)


@pytest.mark.parametrize(("seeds", "missing"), [(1, (18, 17)), (17, (2, 1)), (18, (1, 0)), (19, (0, 0)), (30, (0, 0))])
def test_no_verdict_from_too_few_seeds(seeds: int, missing: tuple[int, int]) -> None:
    rng = np.random.default_rng(1)
    right = rng.random((seeds + 2, 50)) < 0.7
    right[0] = np.arange(50) < np.sort(right[1:].sum(axis=1))[seeds // 2]  # as accurate as the others
    floor = find_noise_floor(right, [str(model) for model in range(seeds + 2)])
    ranks = (floor.unlucky_seed, floor.more_than_reseed)
    assert floor.accuracies_agree
    assert tuple(rank.missing for rank in ranks) == missing
    assert [rank.verdict is None for rank in ranks] == [count > 0 for count in missing]


def test_no_verdict_on_a_reseed_where_accuracies_differ() -> None:
    right = np.random.default_rng(1).random((25, 400)) < 0.9
    right[0] &= np.random.default_rng(2).random(400) < 0.8
    floor = find_noise_floor(right, [str(model) for model in range(25)])
    assert (floor.more_than_reseed.place, floor.more_than_reseed.verdict, floor.accuracies_agree) == (1, None, False)
    assert floor.unlucky_seed.verdict is not None
    accuracy = f"{100 * right[0].mean():.1f}%"
    assert (
        f"No verdict: the old model's accuracy, {accuracy}, is outside"
        in floor_answers(floor, 1)["More than a reseed?"]
    )


def test_answers_say_how_many_seeds_are_missing() -> None:
    floor = compare(old, new, floor=[seed_1, seed_2]).floor
    assert floor is not None
    answers = floor_answers(floor, 2)
    assert answers["An unlucky seed?"].endswith("No verdict: it takes 17 more seeds.")
    assert f"is {100 * floor.update:.2f}% (place" in answers["An unlucky seed?"]
    assert "of 3, p = " in answers["An unlucky seed?"]
    assert "of 4, p = " in answers["More than a reseed?"]


def test_a_yes_and_a_no_in_words() -> None:
    right = np.ones((21, 50), bool)
    right[np.arange(21), np.arange(21)] = False  # all as accurate, each with an error of its own
    floor = find_noise_floor(right, [str(model) for model in range(21)])
    assert all(answer.endswith("Not shown (level 5%).") for answer in floor_answers(floor, 2).values())
    right[1:, 40:44] = False  # seeds share these errors
    right[0, 44:48] = False
    floor = find_noise_floor(right, [str(model) for model in range(21)])
    said = floor_answers(floor, 2)["More than a reseed?"]
    assert said.endswith("Yes: the update flips more than another seed of the new recipe would (level 5%).")


@pytest.mark.parametrize("tau", [0.0, 0.1])
def test_both_statements_err_at_most_at_their_level(tau: float) -> None:
    found = error_rates(draws=600, seeds=19, samples=200, spread=tau)
    # 3 standard errors of 600 draws above the level
    assert 0 < found.unlucky_seed < 0.05 + 3 * (0.05 * 0.95 / 600) ** 0.5
    assert found.more_than_reseed < 0.05 + 3 * (0.05 * 0.95 / 600) ** 0.5
    assert error_rates(draws=200, seeds=19, samples=400, spread=tau, other=1.0).more_than_reseed > 0.6
    assert error_rates(draws=100, seeds=1, samples=200).more_than_reseed == 0
    assert 0.15 < error_rates(draws=600, seeds=1, samples=2000, spread=tau).above_all < 0.4


def test_models_without_flips_among_them() -> None:
    floor = find_noise_floor(np.array([[True] * 3, [False] * 3, [False] * 3]), ["a", "b", "c"])
    assert (floor.mean, floor.times_mean, floor.update) == (0.0, None, 1.0)
    text = json.dumps(floor.to_dict(), allow_nan=False)
    assert json.loads(text)["update_times_mean"] is None


def test_the_dict_has_every_number() -> None:
    floor = compare(old, new, floor=[seed_1, seed_2]).floor
    assert floor is not None
    found = json.loads(json.dumps(floor.to_dict(), allow_nan=False))
    assert [model["name"] for model in found["models"]] == ["old", "new", "seed 1", "seed 2"]
    assert [model["accuracy"] for model in found["models"]] == floor.accuracies.tolist()
    assert [model["mean_negative_flip_rate"] for model in found["models"]] == floor.mean_rates.tolist()
    assert (found["mean"], found["min"], found["max"]) == (floor.mean, floor.lowest, floor.highest)
    assert found["negative_flip_rates"] == floor.rates.tolist()
    assert (found["samples"], found["update"], found["level"]) == (N, floor.update, 0.05)
    for name, rank in (("unlucky_seed", floor.unlucky_seed), ("more_than_reseed", floor.more_than_reseed)):
        assert found[name] == {
            "rate": rank.value,
            "others_min": min(rank.others),
            "others_max": max(rank.others),
            "rank": rank.place,
            "among": rank.among,
            "p_value": rank.p_value,
            "comparable": rank.comparable,
            "verdict": None,
            "further_seeds_needed": rank.missing,
        }


def test_many_samples_are_counted_exactly() -> None:
    right = np.random.default_rng(0).random((3, (1 << 16) + 1000)) < 0.7
    floor = find_noise_floor(right, ["a", "b", "c"])
    assert floor.flips.tolist() == [[int((one & ~other).sum()) for other in right] for one in right]


def test_refusals() -> None:
    right = np.ones((3, 3), bool)
    with pytest.raises(ValueError, match="got 2 rows and 2 names"):
        find_noise_floor(right[:2], ["a", "b"])
    with pytest.raises(ValueError, match="got 3 rows and 2 names"):
        find_noise_floor(right, ["a", "b"])
    with pytest.raises(ValueError, match="at least one column"):
        find_noise_floor(right[:, :0], ["a", "b", "c"])
