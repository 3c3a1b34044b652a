import itertools
import math
import random
import re
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lightning_flip.stores import HistoryError, read_history
from lightning_flip.stores.claims import open_run
from lightning_flip.stores.history.parts import PartKey, write_part
from lightning_flip.stores.history.samples import write_samples
from lightning_flip.stores.history.suspects import Suspicion, rank_suspects

TARGETS = {0: 2, 3: 0, 4: 1, 7: 1, 9: 0, 11: 2}  # indices with gaps; 11 is never visited


@pytest.fixture
def recorded(tmp_path: Path, write_rows: Callable) -> tuple[Path, list[tuple[tuple[int, int], list[dict[str, float]]]]]:
    """Seven passes by two ranks, samples drawn with replacement, and the same visits in the order of time."""
    open_run(tmp_path, run_id=None, info={"num_classes": 3})
    write_samples(
        tmp_path,
        {
            "split": "train",
            "index": list(TARGETS),
            "target": list(TARGETS.values()),
            "true_target": [2, 0, 0, 1, None, 2],
            "source_index": [10 * index for index in TARGETS],
            "sample_id": [f"{index}.png" for index in TARGETS],
        },
    )
    write_samples(tmp_path, {"split": "train", "loader": 1, "index": [0, 1], "target": [0, 0]})
    draw, step, timeline = random.Random(0), 0, []
    for moment in [(0, 0), (0, 1), (1, 0), (1, 1), (2, 0), (5, 0), (10, 0)]:
        ranks: list[list[dict[str, float]]] = [[], []]
        visits = []
        for _ in range(5):
            step += 1
            for rows in ranks:
                row: dict[str, float] = {
                    "index": draw.choice([0, 3, 4, 7, 9]),
                    "pred": draw.choice([0, 1, 2]),
                    "global_step": step,
                }
                row |= {
                    "prob_label": float(np.float32(draw.random())),
                    "logit_margin": float(np.float32(draw.gauss(0, 3))),
                }
                rows.append(row)
                visits.append(row)
        if moment == (2, 0):  # one pass sees nothing
            ranks, visits = [[], []], []
        for rank, rows in enumerate(ranks):
            other_loader = [{"loader": 1, "index": 1, "pred": 0, "global_step": 10**6}]
            write_rows(tmp_path, rows + other_loader, "train", *moment, rank)
        timeline.append((moment, visits))
    write_rows(tmp_path, [{"index": 0}], "val")  # its sample is not listed: nobody may look at another split's parts
    return tmp_path, timeline


def test_statistics_agree_with_a_loop_over_visits(recorded: tuple) -> None:
    folder, timeline = recorded
    table = read_history(folder).statistics("train")
    assert table.column_names == [
        *("index", "source_index", "sample_id", "target", "true_target", "visits", "times_right", "forgetting_events"),
        *("first_learned", "aum", "confidence", "variability", "last_right"),
    ]
    assert table["index"].to_pylist() == list(TARGETS)
    assert table["true_target"].to_pylist() == [2, 0, 0, 1, None, 2]
    events = 0
    for row in table.to_pylist():
        seen = [(epoch, visit) for (epoch, _), visits in timeline for visit in visits if visit["index"] == row["index"]]
        right = [visit["pred"] == TARGETS[row["index"]] for _, visit in seen]
        assert row["source_index"] == 10 * row["index"]
        assert row["sample_id"] == f"{row['index']}.png"
        assert row["visits"] == len(seen)
        assert row["times_right"] == sum(right)
        assert row["forgetting_events"] == sum(a and not b for a, b in itertools.pairwise(right))
        assert row["first_learned"] == next((epoch for (epoch, _), good in zip(seen, right, strict=True) if good), None)
        assert row["last_right"] is (right[-1] if right else False)
        events += row["forgetting_events"]
        if not seen:
            assert (row["aum"], row["confidence"], row["variability"]) == (None, None, None)
            continue
        probabilities = [visit["prob_label"] for _, visit in seen]
        mean = sum(probabilities) / len(seen)
        assert row["aum"] == pytest.approx(sum(visit["logit_margin"] for _, visit in seen) / len(seen), rel=1e-12)
        assert row["confidence"] == pytest.approx(mean, rel=1e-12)
        assert row["variability"] == pytest.approx(
            math.sqrt(sum((p - mean) ** 2 for p in probabilities) / len(seen)), rel=1e-9
        )
    assert events > 5, "the draw is to hold forgetting, or this test shows nothing"
    assert table["visits"].to_pylist()[-1] == 0


def test_matrices_agree_with_a_loop_over_visits(recorded: tuple) -> None:
    folder, timeline = recorded
    history = read_history(folder)
    assert history.passes("train") == [moment for moment, _ in timeline]
    state, right, visited = dict.fromkeys(TARGETS, False), [], []
    for _, visits in timeline:
        for visit in visits:
            state[visit["index"]] = visit["pred"] == TARGETS[visit["index"]]
        right.append(list(state.values()))
        visited.append([index in {visit["index"] for visit in visits} for index in TARGETS])
    assert history.correct_matrix("train").tolist() == right
    assert history.visited_matrix("train").tolist() == visited
    assert history.correct_matrix("train").dtype == np.bool_
    assert history.correct_matrix("train", loader=1).tolist() == [[False, True]] * 7


def test_ranks_are_put_in_the_order_of_global_steps(run_folder: Path, write_rows: Callable) -> None:
    # Rank 0 sees sample 0 (target 0) wrong at step 4 and right at step 5, rank 1 right at step 1 and wrong at step 9.
    write_rows(
        run_folder, [{"index": 0, "pred": 1, "global_step": 4}, {"index": 0, "pred": 0, "global_step": 5}], rank=0
    )
    write_rows(
        run_folder, [{"index": 0, "pred": 0, "global_step": 1}, {"index": 0, "pred": 2, "global_step": 9}], rank=1
    )
    history = read_history(run_folder)
    assert history.correct_matrix("train")[0, 0].item() is False
    assert history.statistics("train")["forgetting_events"][0].as_py() == 2


def test_repeated_visits_at_one_step_stay_in_their_order(run_folder: Path, write_rows: Callable) -> None:
    write_rows(run_folder, [{"index": 2, "pred": pred, "global_step": 5} for pred in (2, 0, 2, 1, 2)])
    row = read_history(run_folder).statistics("train").to_pylist()[2]
    assert (row["visits"], row["times_right"], row["forgetting_events"], row["last_right"]) == (5, 3, 2, True)


def test_a_constant_probability_has_no_variability(run_folder: Path, write_rows: Callable) -> None:
    for epoch in range(50):
        write_rows(run_folder, [{"index": 0, "prob_label": 0.1}], epoch=epoch)
    assert read_history(run_folder).statistics("train")["variability"][0].as_py() < 1e-15


def test_to_arrow_joins_the_targets(recorded: tuple) -> None:
    folder, timeline = recorded
    write_samples(folder, {"split": "val", "index": [0], "target": [5]})
    history = read_history(folder)
    assert history.splits == ["train", "val"]
    table = history.to_arrow("train")
    assert table.column_names[-2:] == ["visit", "target"]
    for row in table.to_pylist():
        assert row["target"] == (TARGETS[row["index"]] if row["loader"] == 0 else 0)
    assert table.num_rows == sum(len(visits) for _, visits in timeline) + 14
    assert history.to_arrow().num_rows == table.num_rows + 1
    assert history.to_arrow("val")["target"].to_pylist() == [5]


def test_half_and_single_precision_parts_read_as_one_table(run_folder: Path, write_rows: Callable) -> None:
    write_rows(run_folder, [{"index": 0, "prob_label": 0.1}])
    half = dict.fromkeys(["prob_label", "prob_pred", "logit_margin", "cross_entropy"], np.array([0.1], np.float16))
    write_part(
        run_folder, PartKey("train", 1, 0, 0), dict.fromkeys(["global_step", "index", "pred"], np.array([0])) | half
    )
    table = read_history(run_folder).to_arrow()
    assert table["prob_label"].to_pylist() == [np.float32(0.1), np.float32(np.float16(0.1))]
    assert read_history(run_folder).statistics("train")["confidence"][0].as_py() == pytest.approx(0.1, abs=1e-4)


@pytest.fixture
def suspicious(run_folder: Path, write_rows: Callable) -> Path:
    # targets 0 1 2 0 1; sample 4 is never seen
    preds = {0: [0, 1, 0, 1], 1: [1, 1, 1, 0], 2: [0, 0, 0, 0], 3: [0, 1, 0, 1]}
    margins = {0: 2.0, 1: 1.0, 2: -5.0, 3: -1.0}
    for epoch in range(4):
        rows = [{"index": i, "pred": preds[i][epoch], "logit_margin": margins[i]} for i in preds]
        write_rows(run_folder, rows, epoch=epoch)
    return run_folder


@pytest.mark.parametrize(
    ("by", "expected"),
    [("mislabelled", [2, 3, 1, 0]), ("confidence", [0, 1, 2, 3]), ("forgotten", [2, 3, 0, 1]), ("flipped", [1, 0, 3])],
)
def test_suspects(suspicious: Path, by: Suspicion, expected: list[int]) -> None:
    history = read_history(suspicious)
    assert history.suspects(99, by=by)["index"].to_pylist() == expected
    assert history.suspects(2, by=by)["index"].to_pylist() == expected[:2]
    statistics = history.statistics("train")
    assert set(statistics.column_names) < set(history.suspects(1, by=by).column_names)
    assert history.suspects(1, by=by).select(statistics.column_names).schema == statistics.schema


def test_what_was_never_learned_is_the_most_forgotten() -> None:
    """Toneva et al. count it as forgotten at every visit; who was learned and kept is not there."""
    rng = np.random.default_rng(0)
    visits = rng.integers(0, 6, size=200)
    right = np.minimum(rng.integers(0, 6, size=200), visits)
    events = np.minimum(rng.integers(0, 3, size=200), right)
    margins = rng.integers(-2, 3, size=200).astype(float)
    table = {"index": np.arange(200), "visits": visits, "times_right": right, "forgetting_events": events}
    found = rank_suspects(pa.table({**table, "aum": margins, "last_right": right > events}), "forgotten")
    often = {i: float("inf") if right[i] == 0 else events[i] for i in range(200) if visits[i]}
    expected = sorted((i for i in often if often[i]), key=lambda i: (-often[i], margins[i], i))
    assert found["index"].to_pylist() == expected
    assert 10 < len(expected) < 190
    assert found.column_names == [*table, "aum", "last_right"]


@pytest.mark.parametrize(("k", "by"), [(0, "mislabelled"), (3, "odd")])
def test_suspects_refuses(suspicious: Path, k: int, by: Suspicion) -> None:
    with pytest.raises(ValueError, match=r"k must be at least 1 and by one of"):
        read_history(suspicious).suspects(k, by=by)


def test_no_parts(run_folder: Path) -> None:
    with pytest.raises(HistoryError, match=r"history holds no part.*at least one epoch"):
        read_history(run_folder)


def test_no_samples(run_folder: Path, write_rows: Callable) -> None:
    write_rows(run_folder, [{"index": 0}])
    (run_folder / "samples.parquet").unlink()
    with pytest.raises(HistoryError, match=r"samples\.parquet does not exist"):
        read_history(run_folder)


def test_a_split_or_loader_that_was_not_recorded(run_folder: Path, write_rows: Callable) -> None:
    write_rows(run_folder, [{"index": 0}])
    history = read_history(run_folder)
    with pytest.raises(HistoryError, match=r"no split 'val'; it holds 'train'"):
        history.correct_matrix("val")
    with pytest.raises(HistoryError, match=r"loader 3; loaders of this split that it lists: \[0\]"):
        history.statistics("train", loader=3)


def test_a_sample_that_is_not_listed(run_folder: Path, write_rows: Callable) -> None:
    part = write_rows(run_folder, [{"index": 2}, {"index": 17}, {"index": 18}])
    history = read_history(run_folder)
    message = re.escape(str(part)) + r".*2 rows of samples.*index 17"
    with pytest.raises(HistoryError, match=message):
        history.statistics("train")
    with pytest.raises(HistoryError, match=message):
        history.to_arrow()


@pytest.mark.parametrize("keep", [0, 3, 100, -1])
def test_a_truncated_part_is_named_with_the_remedy(run_folder: Path, write_rows: Callable, keep: int) -> None:
    write_rows(run_folder, [{"index": 0}], epoch=0)
    part = write_rows(run_folder, [{"index": 0}], epoch=1)
    part.write_bytes(part.read_bytes()[:keep])
    with pytest.raises(HistoryError, match=r"is damaged.*\.orphan.*checkpoint") as error:
        read_history(run_folder)
    assert str(part) in str(error.value)
    part.rename(part.with_name(part.name + ".orphan"))  # the remedy
    assert read_history(run_folder).passes("train") == [(0, 0)]


def test_a_flipped_bit_is_found(run_folder: Path, write_rows: Callable) -> None:
    part = write_rows(run_folder, [{"index": 0, "logit_margin": 1.5}])
    group = pq.ParquetFile(part).metadata.row_group(0)
    margin = next(column for column in map(group.column, range(12)) if column.path_in_schema == "logit_margin")
    content = bytearray(part.read_bytes())
    end = margin.data_page_offset + margin.total_compressed_size
    content[content.rindex(np.float32(1.5).tobytes(), margin.data_page_offset, end)] ^= 1
    part.write_bytes(content)
    with pytest.raises(HistoryError, match="is damaged"):
        read_history(run_folder).statistics("train")


def test_another_table_under_the_name_of_a_part(run_folder: Path, write_rows: Callable) -> None:
    part = write_rows(run_folder, [{"index": 0}])
    part.write_bytes((run_folder / "samples.parquet").read_bytes())
    with pytest.raises(HistoryError, match="is not a part"):
        read_history(run_folder)


def test_large_histories_take_seconds(run_folder: Path) -> None:
    count, epochs = 50_000, 10
    write_samples(run_folder, {"split": "train", "index": np.arange(count), "target": np.arange(count) % 10})
    generator = np.random.default_rng(0)
    measure = generator.random(count, np.float32)
    for epoch in range(epochs):
        columns: dict[str, np.ndarray] = {"index": generator.permutation(count), "global_step": np.arange(count) // 128}
        columns |= dict.fromkeys(["prob_label", "prob_pred", "logit_margin", "cross_entropy"], measure)
        write_part(run_folder, PartKey("train", epoch, 0, 0), columns | {"pred": generator.integers(0, 10, count)})
    begin = time.process_time()
    history = read_history(run_folder)
    assert history.statistics("train")["visits"].to_numpy().min() == epochs
    assert history.correct_matrix("train").shape == (epochs, count)
    assert time.process_time() - begin < 10


def test_a_history_says_what_it_holds(run_folder: Path, write_rows: Callable) -> None:
    for epoch in range(2):
        write_rows(run_folder, [{"index": 0}, {"index": 1}], epoch=epoch)
    text = repr(read_history(run_folder))
    assert str(run_folder) in text
    assert "train: 5 samples, 2 passes" in text
