"""Files that are no evidence for an update: labels written in two ways, other data, copies, missing labels."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars
import pyarrow as pa
import pytest
from pyarrow import csv

from lightning_flip.reports import compare, gate, join_predictions
from lightning_flip.stores import PredictionError, PredictionSet, read_predictions


def predictions(name: str, target: Sequence[Any], pred: Sequence[Any], **options: Any) -> PredictionSet:
    ids = [f"s{place}" for place in range(len(target))]
    table = pa.table({"sample_id": ids, "target": list(target), "pred": list(pred)})
    return PredictionSet.from_table(table, name, **options)


STRANGE = {
    "names against numbers": (["cat", "dog"] * 5, ["0", "1"] * 5, "one column holds class numbers and the other names"),
    "other case": (["cat", "dog"] * 5, ["Cat", "Dog"] * 5, "upper and lower case"),
    "truths": (["True", "False"] * 5, ["1", "0"] * 5, "true and false"),
    "blanks": (["cat", "dog"] * 5, ["cat ", "dog "] * 5, "blanks around the names"),
    "other words": (["cat", "dog"] * 5, ["Katze", "Hund"] * 5, "write the same labels in both columns"),
    "numbers": ([0, 1] * 5, [7, 8] * 5, "write the same labels in both columns"),
    "counted from 1": (list(range(10)) * 2, list(range(1, 11)) * 2, "the target's number plus 1"),
    "counted from 0": (list(range(1, 11)) * 2, list(range(10)) * 2, "the target's number minus 1"),
}


@pytest.mark.parametrize("case", STRANGE)
@pytest.mark.parametrize("side", ["old", "new", "both"])
def test_predictions_that_no_label_can_match_are_refused(case: str, side: str) -> None:
    target, pred, reason = STRANGE[case]
    good, bad = predictions("good", target, target), predictions("bad", target, pred)
    pair = {"old": (bad, good), "new": (good, bad), "both": (bad, bad)}[side]
    with pytest.raises(
        PredictionError, match=r"bad must write predictions and targets alike, but in (10|20) rows"
    ) as e:
        join_predictions(*pair)
    assert reason in str(e.value)
    assert "right on 0 of them" in str(e.value)


def test_a_model_that_is_right_on_no_sample_is_accepted_if_its_classes_are_known() -> None:
    good = predictions("good", [0, 0, 1], [0, 0, 1])
    bad = predictions("bad", [0, 0, 1], [2, 2, 2], classes=(0, 1, 2))
    assert join_predictions(bad, good).old_right.sum() == 0


def test_an_old_model_that_does_not_know_a_class_is_accepted() -> None:
    """All samples are of a new class; the new model knows it, and the old one's classes as well."""
    old = predictions("old", ["new"] * 4, ["a", "b", "a", "b"])
    new = predictions("new", ["new"] * 4, ["new", "new", "new", "b"])
    assert join_predictions(old, new).positive_flips.sum() == 3


def test_an_ordinal_error_of_some_samples_is_no_shift() -> None:
    target = np.arange(100) % 10
    pred = np.where(np.arange(100) % 4 > 0, np.minimum(target + 1, 9), target)
    assert join_predictions(predictions("a", target, pred), predictions("b", target, target)).num_samples == 100


@pytest.mark.parametrize("text", ["NA", "NaN", "null", "None", ""])
def test_missing_targets_are_refused_or_left_out(tmp_path: Path, text: str) -> None:
    rows = [("a", "cat", "cat"), ("b", text, "dog"), ("c", "dog", "dog"), ("d", text, "cat")]
    path = tmp_path / "old.csv"
    path.write_text("sample_id,target,pred\n" + "".join(",".join(row) + "\n" for row in rows))
    old = read_predictions(path)
    with pytest.raises(PredictionError, match=r"2 of 4 have none \(such as 'b'\).*--drop-unlabelled"):
        join_predictions(old, old)
    joined = join_predictions(old, old, drop_unlabelled=True)
    assert (joined.num_samples, joined.unlabelled, joined.ids.to_pylist()) == (2, 2, ["a", "c"])


def test_a_sample_without_a_target_in_either_file_is_left_out() -> None:
    old = predictions("old", [0, None, 1, 1], [0, 0, 1, 1])
    new = predictions("new", [0, 1, None, 1], [0, 0, 1, 0])
    joined = join_predictions(old, new, drop_unlabelled=True)
    assert (joined.ids.to_pylist(), joined.unlabelled) == (["s0", "s3"], 2)


def test_coverage_below_the_minimum_is_refused() -> None:
    old, new = predictions("old", [0, 1] * 5, [0, 1] * 5), predictions("new", [0, 1] * 4, [0, 1] * 4)
    assert join_predictions(old, new, allow_partial=True, min_coverage=0.8).num_samples == 8
    for pair in ((old, new), (new, old)):
        with pytest.raises(
            PredictionError, match=r"80\.0% of the 10 samples of old are in both files.*asks for 81\.0%"
        ):
            join_predictions(*pair, allow_partial=True, min_coverage=0.81)
    with pytest.raises(ValueError, match="min_coverage needs allow_partial=True"):
        join_predictions(old, new, min_coverage=0.5)
    with pytest.raises(ValueError, match=r"min_coverage must be in \[0, 1\]"):
        join_predictions(old, new, allow_partial=True, min_coverage=80)


def test_a_copy_is_doubtful() -> None:
    old, new = (predictions(name, [0, 1, 1], [0, 1, 0]) for name in ("old", "new"))
    assert "Both files predict the same class for every one of the 3 samples" in join_predictions(old, new).warnings[0]
    assert join_predictions(old, predictions("new", [0, 1, 1], [0, 1, 1])).warnings == ()


def test_flips_beyond_independent_errors_are_doubtful() -> None:
    generator = np.random.default_rng(0)
    target = generator.integers(0, 10, 1000)
    pred = np.where(generator.random(1000) < 0.9, target, (target + 3) % 10)
    mixed = generator.permutation(1000)
    aligned = join_predictions(predictions("a", target, pred), predictions("b", target, (pred)))
    assert not any("misaligned" in text for text in aligned.warnings)
    shuffled = join_predictions(predictions("a", target, pred), predictions("b", target, pred[mixed]))
    assert "Such files are often misaligned" in " ".join(shuffled.warnings)


FACTS = {"length": 3, "dataset": "D", "labels": "l", "positions": "p", "ids": None, "ids_are": "positions"}


def positional(name: str, **data: Any) -> PredictionSet:
    rows = {"index": [0, 1, 2], "target": [0, 1, 1], "pred": [0, 1, 0 if name == "old" else 1]}
    options = {} if data.pop("unknown", False) else {"data": {**FACTS, **data}}
    return PredictionSet.from_table(pa.table(rows), name, **options)


@pytest.mark.parametrize(
    ("fact", "words"), [("length", "number of samples"), ("labels", "labels"), ("positions", "pos")]
)
def test_other_data_joined_by_position_are_refused(fact: str, words: str) -> None:
    with pytest.raises(PredictionError, match=f"joined by position.*different data: the {words}"):
        join_predictions(positional("old"), positional("new", **{fact: 4 if fact == "length" else "x"}))
    partial = join_predictions(positional("old"), positional("new", **{fact: "x"}), allow_partial=True)
    assert "the fingerprints of the data differ" in " ".join(partial.warnings)


def named(name: str, **data: Any) -> PredictionSet:
    """Ids of a file by PredictionWriter: positions in the innermost dataset, or what `ids_are` says."""
    rows = {"sample_id": ["4", "2", "9"], "target": [0, 1, 1], "pred": [0, 1, 0 if name == "old" else 1]}
    return PredictionSet.from_table(pa.table(rows), name, data={**FACTS, **data})


def test_lasting_ids_allow_other_positions_and_labels() -> None:
    other = {"ids_are": "paths", "positions": "x", "labels": "x"}
    assert join_predictions(named("old", ids_are="paths"), named("new", **other)).warnings == ()


def test_subsets_of_one_dataset_are_joined_by_the_position_in_it() -> None:
    other = {"positions": "x", "labels": "x", "length": 8}
    assert join_predictions(named("old"), named("new", **other)).warnings == ()


def test_other_labels_at_the_same_positions_are_other_data() -> None:
    with pytest.raises(PredictionError, match="different data: the labels differ"):
        join_predictions(named("old"), named("new", labels="x"))


def test_a_position_without_a_fingerprint_is_an_assumption() -> None:
    known, unknown = positional("old"), positional("new", unknown=True)
    assert "it is assumed" in " ".join(join_predictions(known, unknown).warnings)
    assert join_predictions(known, positional("new")).warnings == ()


def test_a_comparison_repeats_the_doubts() -> None:
    old, new = (predictions(name, [0, 1, 1], [0, 1, 0]) for name in ("old", "new"))
    update = compare(old, new)
    assert update.to_dict()["warnings"] == list(update.warnings)
    assert "Both files predict the same class" in update.to_markdown()


def test_tables_of_every_library_are_compared_and_gated(tmp_path: Path) -> None:
    """A path, a PredictionSet, and tables of Arrow, pandas (with an index of its own) and polars: one result."""
    rows = {"sample_id": [f"s{n}" for n in range(40)], "target": [n % 3 for n in range(40)]}
    old, new = pa.table(rows | {"pred": rows["target"]}), pa.table(rows | {"pred": [0] * 40})
    for name, table in (("old", old), ("new", new)):
        csv.write_csv(table, tmp_path / f"{name}.csv")
    frame = new.to_pandas()
    frame.index = frame["sample_id"] + "x"
    kinds = {
        "path": (tmp_path / "old.csv", str(tmp_path / "new.csv")),
        "set": (PredictionSet.from_table(old, "old"), PredictionSet.from_table(new, "new")),
        "arrow": (old, new),
        "pandas": (old.to_pandas(), frame),
        "polars": (polars.from_arrow(old), polars.from_arrow(new)),
    }
    for kind, (one, other) in kinds.items():
        update = compare(one, other)
        assert update.cells.negative == 26, kind
        result = gate(one, other, max_nfr=0.5, min_old_accuracy=0.5)
        assert (result.flips, result.samples, result.status) == (26, 40, "fail"), kind


@pytest.mark.parametrize("wrong", [3, None, [1, 2], {"sample_id": [1]}])
def test_another_kind_of_predictions_is_refused_by_name(wrong: Any) -> None:
    table = pa.table({"sample_id": ["a"], "target": [0], "pred": [0]})
    with pytest.raises(TypeError, match=r"new must be .*predictions"):
        gate(table, wrong, max_nfr=0.5)
    with pytest.raises(TypeError, match=f"old must be predictions: the path of a file, .* got {type(wrong).__name__}"):
        compare(wrong, table)


def test_joined_predictions_are_not_joined_again() -> None:
    table = pa.table({"sample_id": ["a"], "target": [0], "pred": [0]})
    joined = join_predictions(table, table)
    assert gate(joined, max_nfr=0.5).samples == 1
    with pytest.raises(TypeError, match="so new, slices cannot be given"):
        gate(joined, table, max_nfr=0.5, slices=["site"])


def test_results_are_pandas_tables() -> None:
    rows = {"sample_id": ["a", "b", "c"], "target": [0, 1, 1], "site": ["x", "y", "y"]}
    old, new = pa.table(rows | {"pred": [0, 1, 1]}), pa.table(rows | {"pred": [0, 1, 0]})
    frame = compare(old, new).to_frame()
    assert frame.set_index("rate").loc["negative_flip_rate", ["value", "count", "among"]].tolist() == [1 / 3, 1, 3]
    limits = {"max_nfr": 0.5, "max_nfr_per_slice": 0.5, "must_not_flip": ["a"]}
    frame = gate(old, new, slices=["site"], **limits).to_frame()
    assert frame["limit"].tolist() == ["max_nfr", "max_nfr_per_slice", "max_nfr_per_slice", "must_not_flip"]
    assert frame["group"].tolist()[:3] == ["all samples", "site=x", "site=y"]
    assert frame["count"].tolist()[:3] == [1, 0, 1]
