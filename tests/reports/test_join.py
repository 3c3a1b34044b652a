import dataclasses
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_flip.reports import JoinedPredictions, join_predictions
from lightning_flip.stores import PredictionError, PredictionSet, write_predictions


def predictions(
    name: str, ids: Sequence[Any], target: Sequence[Any], pred: Sequence[Any], classes: Any = None, **more: Any
) -> PredictionSet:
    table = pa.table({"sample_id": ids, "target": target, "pred": pred} | more)
    return PredictionSet.from_table(table, name, classes=classes)


def decoded(joined: JoinedPredictions) -> dict[Any, tuple[Any, Any, Any]]:
    """(target, old answer, new answer) by id."""
    columns = ([joined.labels[code] for code in codes] for codes in (joined.target, joined.old_pred, joined.new_pred))
    return dict(zip(joined.ids.to_pylist(), zip(*columns, strict=True), strict=True))


@st.composite
def pairs(draw: st.DrawFn) -> tuple[list[Any], list[Any]]:
    """Rows (id, target, pred) of an old and a new file that agree on targets, each in an order of its own."""
    ids = draw(st.lists(st.text(max_size=3), unique=True, min_size=1, max_size=12))
    labels = draw(st.sampled_from([[0, 1, 7], ["cat", "<b>", "\n"]]))
    target = {one: draw(st.sampled_from(labels)) for one in ids}
    files = []
    for _ in range(2):
        mine = draw(st.permutations([one for one in ids if draw(st.integers(0, 5))]))
        files.append([(one, target[one], draw(st.sampled_from(labels))) for one in mine])
    return files[0], files[1]


@settings(max_examples=150, deadline=None)
@given(pairs())
def test_against_dicts(files: tuple[list[Any], list[Any]]) -> None:
    old, new = ({one: (target, pred) for one, target, pred in rows} for rows in files)
    if not files[0] or not files[1]:
        return
    # A model whose classes are known may be right on no sample.
    classes = (0, 1, 7) if isinstance(files[0][0][1], int) else ("cat", "<b>", "\n")
    sets = [
        dataclasses.replace(predictions(name, *zip(*rows, strict=True)), classes=classes)
        for name, rows in zip(("old", "new"), files, strict=True)
    ]
    both = [one for one in old if one in new]
    expected = {one: (old[one][0], old[one][1], new[one][1]) for one in both}
    if not both:
        with pytest.raises(PredictionError, match="have no sample to compare"):
            join_predictions(*sets, allow_partial=True)
        return
    joined = join_predictions(*sets, allow_partial=True)
    assert decoded(joined) == expected
    assert joined.ids.to_pylist() == both
    assert joined.num_samples == len(both)
    assert joined.labels == tuple(sorted({label for row in expected.values() for label in row}))
    assert (joined.only_old, joined.only_new) == (len(old) - len(both), len(new) - len(both))
    assert joined.old_right.tolist() == [expected[one][1] == expected[one][0] for one in both]
    assert joined.new_right.tolist() == [expected[one][2] == expected[one][0] for one in both]
    flips = [(row[1] == row[0]) - (row[2] == row[0]) for row in expected.values()]
    assert joined.negative_flips.tolist() == [flip == 1 for flip in flips]
    assert joined.positive_flips.tolist() == [flip == -1 for flip in flips]
    if len(both) == len(old) == len(new):
        assert decoded(join_predictions(*sets)) == expected
    else:
        with pytest.raises(PredictionError, match=f"{len(old) - len(both)} samples are only in old"):
            join_predictions(*sets)


def test_confidences_and_slices_follow_their_samples() -> None:
    old = predictions("old", ["a", "b", "c"], [0, 1, 1], [0, 0, 1], confidence=[0.25, None, float("nan")],
                      light=["day", None, "night"], camera=[1, 2, 3])  # fmt: skip
    new = predictions("new", ["c", "a", "b"], [1, 0, 1], [1, 0, 0], confidence=[0.5, 0.75, 1.0],
                      camera=pa.array([6.5, 4.0, None], pa.float16()), wet=pa.array([True, False, None]))  # fmt: skip
    joined = join_predictions(old, new, slices=("camera", "light", "wet"))
    assert joined.old_confidence is not None
    assert joined.new_confidence is not None
    assert joined.old_confidence.dtype == joined.new_confidence.dtype == np.float64
    np.testing.assert_array_equal(joined.old_confidence, [0.25, np.nan, np.nan])
    np.testing.assert_array_equal(joined.new_confidence, [0.75, 1.0, 0.5])
    assert {name: values.tolist() for name, values in joined.slices.items()} == {
        "camera": ["4", "", "6.5"],  # the new file's
        "light": ["day", "", "night"],
        "wet": ["false", "", "true"],
    }
    assert list(joined.slices) == ["camera", "light", "wet"]
    names, codes = joined.slice_codes("camera")
    assert names == ("", "4", "6.5")
    assert codes.tolist() == [1, 0, 2]
    unsure = predictions("old", ["a"], [0], [0], confidence=[float("nan")])
    assert join_predictions(unsure, predictions("new", ["a"], [0], [0])).old_confidence is None
    assert join_predictions(unsure, predictions("new", ["a"], [0], [0])).new_confidence is None


def test_slices_that_are_none() -> None:
    old = predictions("old", ["a"], [0], [0], light=["day"])
    new = predictions("new", ["a"], [0], [0], camera=["x"], logits=[[0.5]])
    for name in ("weather", "target", "sample_id"):
        with pytest.raises(PredictionError, match=rf"got '{name}'; they have \['camera', 'light', 'logits'\]"):
            join_predictions(old, new, slices=["camera", name])
    with pytest.raises(PredictionError, match="one value per row"):
        join_predictions(old, new, slices="logits")
    with pytest.raises(PredictionError, match="they have none"):
        join_predictions(predictions("old", ["a"], [0], [0]), predictions("new", ["a"], [0], [0]), slices=["x"])


def test_files_of_three_kinds(tmp_path: Path) -> None:
    parquet = write_predictions(
        tmp_path / "old.parquet",
        {"index": [0, 1, 2], "sample_id": [7, 8, 9], "target": [0, 1, 1], "pred": [0, 1, 0], "confidence": [1, 1, 1],
         "camera": ["x", "y", "x"]}, model_parameters=12,
    )  # fmt: skip
    csv = tmp_path / "new.csv"
    csv.write_text("sample_id,target,pred\n9,1,1\n7,0,0\n8,1,0\n")
    npz = tmp_path / "new.npz"
    np.savez(npz, sample_id=[9, 7, 8], target=[1, 0, 1], pred=[1, 0, 0])
    for new in (csv, npz, str(csv)):
        joined = join_predictions(parquet, new, slices=["camera"])
        assert decoded(joined) == {"7": (0, 0, 0), "8": (1, 1, 0), "9": (1, 0, 1)}
        assert joined.slices["camera"].tolist() == ["x", "y", "x"]
        assert (joined.old_name, joined.new_name) == (str(parquet), str(new))
        assert (joined.old_parameters, joined.new_parameters) == (12, None)


def test_errors_have_counts_and_an_example() -> None:
    ids = ["a", "b\n", "c", "d"]
    old = predictions("OLD", ids, [0, 1, 1, 0], [0, 1, 0, 0])

    def refused(message: str, first: PredictionSet, second: PredictionSet, **options: Any) -> None:
        with pytest.raises(PredictionError, match=message):
            join_predictions(first, second, **options)

    repeats = predictions("NEW", ["a", "b\n", "b\n", "b\n", "c", "c", "d"], [0, 1, 1, 1, 1, 1, 0], [0] * 7)
    said = r"NEW must hold every sample once, but 2 of 4 ids come more than once, in 5 rows \(such as 'b\\n', in 3\)"
    for options in ({}, {"allow_partial": True}):
        refused(said, old, repeats, **options)
        refused(said, repeats, old, **options)
        refused(said, repeats, repeats, **options)
    # as many rows as the old file, and no id that it lacks
    hidden = predictions("NEW", ["a", "b\n", "c", "c"], [0, 1, 1, 1], [0] * 4)
    refused("NEW must hold every sample once, but 1 of 3", old, hidden, allow_partial=True)
    refused("NEW must hold every sample once, but 1 of 3", hidden, old, allow_partial=True)
    outside = predictions("NEW", ["a", "e", "e"], [0, 1, 1], [0] * 3)
    refused("NEW must hold every sample once", old, outside, allow_partial=True)
    refused("NEW must hold every sample once", outside, old, allow_partial=True)

    part = predictions("NEW", ["c", "e\n", "b\n"], [1, 1, 1], [1, 1, 1])
    said = r"2 samples are only in OLD \(such as 'a'\) and 1 samples are only in NEW \(such as 'e\\n'\); 2 are in both"
    refused(said, old, part)
    refused(r"allow_partial=True \(--allow-partial\)", old, part)
    refused("0 samples are only in NEW; 1 are", old, predictions("NEW", ["c"], [1], [1]))
    assert join_predictions(old, part, allow_partial=True).num_samples == 2

    other = predictions("NEW", ids[::-1], [1, 1, 0, 0], [0, 1, 0, 0])
    said = r"agree on the target of every sample, but differ on 2 of 4 \(such as 'b\\n': 1 in the old, 0 in the new\)"
    refused(said, old, other)
    refused(said, old, other, allow_partial=True)

    unlabelled = predictions("NEW", ids, [0, None, None, 0], [0] * 4)
    refused(r"NEW must have a target for every .* but 2 of 4 have none \(such as 'b\\n'\)", old, unlabelled)
    refused("NEW must have a target for every", unlabelled, old)
    nothing = predictions("NEW", [], [], [])
    refused("NEW has 0 rows", old, nothing)
    refused("NEW has 0 rows", nothing, old, allow_partial=True)
    refused(r"OLD \(4 rows\) and NEW \(1 rows\) have no sample to compare", old, predictions("NEW", ["x"], [1], [1]),
            allow_partial=True)  # fmt: skip


def test_labels_of_two_kinds() -> None:
    old = predictions("OLD", ["a", "b"], [0, 1], [0, 1])
    said = r"OLD, column 'target' holds integers \(such as 0\) and NEW, column 'target' text \(such as 'cat'\)"
    with pytest.raises(PredictionError, match=said):
        join_predictions(old, predictions("NEW", ["a", "b"], ["0", "cat"], ["0", "1"]))
    with pytest.raises(PredictionError, match="Labels must be of one kind"):
        join_predictions(predictions("NEW", ["a", "b"], ["0", "1"], ["0", "dog"]), old)
    same = predictions("NEW", ["a", "b"], ["0", "01"], ["1", "1"], classes=("0", "1", "2"))
    for joined in (join_predictions(old, same), join_predictions(old, same, shared_classes=True)):
        assert decoded(joined) == {"a": (0, 0, 1), "b": (1, 1, 1)}


def test_names_with_separators_and_markup_are_only_names() -> None:
    labels = ["<b>|x|</b>", "../..\\", 'two\n"lines"']
    ids = ["/etc/passwd", "c:\\x\n", "<img src=x>"]
    joined = join_predictions(predictions("old", ids, labels, labels), predictions("new", ids, labels, labels[::-1]))
    assert joined.ids.to_pylist() == ids
    assert set(joined.labels) == set(labels)
    assert joined.negative_flips.tolist() == [True, False, True]


def test_a_million_samples_are_joined_within_seconds(tmp_path: Path) -> None:
    count, rng = 1_000_000, np.random.default_rng(0)
    ids = pa.array(np.char.add("val/image-", np.arange(count).astype(str)))
    target = rng.integers(0, 1000, count)
    order = rng.permutation(count)
    for name, rows in (("old", np.arange(count)), ("new", order)):
        pred = np.where(np.arange(count) % 4 == (name == "new"), 1000, target)
        table = pa.table({"sample_id": ids.take(pa.array(rows)), "target": target[rows], "pred": pred[rows]})
        pq.write_table(table, tmp_path / f"{name}.parquet")
    start = time.process_time()
    joined = join_predictions(tmp_path / "old.parquet", tmp_path / "new.parquet")
    took = time.process_time() - start
    assert joined.num_samples == count
    assert int(joined.negative_flips.sum()) == int(joined.positive_flips.sum()) == count // 4
    assert np.array_equal(np.array(joined.labels)[joined.target], target)
    assert took < 10  # a second where nothing else runs
