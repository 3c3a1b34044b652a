from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from lightning_flip.reports import compare
from lightning_flip.reports.update.floor import find_noise_floor
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
    expected = by_loop([new, seed_1, seed_2], set(map(str, range(N))))
    assert floor.names == ("new", "seed 1", "seed 2")
    assert floor.rates.tolist() == expected
    pairs = [expected[a][b] for a in range(3) for b in range(3) if a != b]
    assert sorted(floor.pairs.tolist()) == sorted(pairs)
    assert (floor.lowest, floor.highest) == (min(pairs), max(pairs))
    assert floor.mean == pytest.approx(sum(pairs) / 6)
    assert floor.update == by_loop([old, new], set(map(str, range(N))))[0][1]
    assert floor.times_mean == pytest.approx(floor.update / floor.mean)
    for name, accuracy, model in zip(floor.names, floor.accuracies, (new, seed_1, seed_2), strict=True):
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
    assert alone.rates.tolist() == as_text.rates.tolist() == by_loop([new, seed_1], set(map(str, range(N))))
    assert compare(*paths[:2]).floor is None
    with pytest.raises(PredictionError, match=r"other files than the new model's, .*new\.csv comes twice"):
        compare(*paths[:2], floor=[tmp_path / ".." / tmp_path.name / "new.csv"])
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
    assert update.floor.rates.tolist() == by_loop([new, seed_1, seed_2], common)
    assert update.floor.update == by_loop([old, new], common)[0][1]
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
    assert update.floor.rates.tolist() == by_loop([new, seed_1], common)


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


@pytest.mark.parametrize(("lost", "verdict"), [(0, "below"), (1, "within"), (2, "within"), (3, "above")])
def test_verdict(lost: int, verdict: str) -> None:
    right = np.array([[True] * 8 + [False] * 3, [False] + [True] * 7 + [True] * 2 + [False]])
    old_right = np.array([False] * 8 + [True] * lost + [False] * (3 - lost))
    floor = find_noise_floor(old_right, right, ["new", "seed 1"])
    assert (floor.lowest, floor.highest, floor.update) == (1 / 11, 2 / 11, lost / 11)
    assert floor.verdict == verdict


def test_models_without_flips_among_them() -> None:
    floor = find_noise_floor(np.ones(3, bool), np.zeros((2, 3), bool), ["a", "b"])
    assert (floor.mean, floor.times_mean, floor.update) == (0.0, None, 1.0)
    text = json.dumps(floor.to_dict(), allow_nan=False)
    assert json.loads(text)["update_times_mean"] is None


def test_the_dict_has_every_number() -> None:
    floor = compare(old, new, floor=[seed_1, seed_2]).floor
    assert floor is not None
    found = json.loads(json.dumps(floor.to_dict(), allow_nan=False))
    assert [model["name"] for model in found["models"]] == ["new", "seed 1", "seed 2"]
    assert [model["accuracy"] for model in found["models"]] == floor.accuracies.tolist()
    assert (found["mean"], found["min"], found["max"]) == (floor.mean, floor.lowest, floor.highest)
    assert found["negative_flip_rates"] == floor.rates.tolist()
    assert (found["samples"], found["update"], found["update_is"]) == (N, floor.update, floor.verdict)


def test_refusals() -> None:
    right = np.ones((2, 3), bool)
    with pytest.raises(ValueError, match="got 1 rows and 1 names"):
        find_noise_floor(right[0], right[:1], ["a"])
    with pytest.raises(ValueError, match="got 2 rows and 3 names"):
        find_noise_floor(right[0], right, ["a", "b", "c"])
    with pytest.raises(ValueError, match="one value per sample"):
        find_noise_floor(right[0, :2], right, ["a", "b"])
