from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from lightning_flip.reports import join_predictions
from lightning_flip.stores import PredictionError, PredictionSet, write_predictions

OLD = {"sample_id": ["a", "b", "c"], "target": [0, 1, 0], "pred": [0, 1, 1]}
NEW = {"sample_id": ["e", "c", "a", "b"], "target": [2, 0, 0, 1], "pred": [2, 2, 0, 2]}


def made(name: str, columns: dict[str, Any], classes: Any = None, **more: Any) -> PredictionSet:
    return PredictionSet.from_table(pa.table(columns | more), name, classes=classes)


def answers(joined: Any) -> dict[str, tuple[Any, Any]]:
    old, new = ([joined.labels[code] for code in codes] for codes in (joined.old_pred, joined.new_pred))
    return dict(zip(joined.ids.to_pylist(), zip(old, new, strict=True), strict=True))


def test_samples_of_new_classes_are_left_out() -> None:
    old, new = made("old", OLD, (0, 1)), made("new", NEW, (0, 1, 2))
    joined = join_predictions(old, new, shared_classes=True)
    assert answers(joined) == {"a": (0, 0), "b": (1, 2), "c": (1, 2)}  # each its best among all of its own classes
    assert (joined.outside_classes, joined.only_old, joined.only_new) == (1, 0, 0)
    with pytest.raises(PredictionError, match="1 samples are only in new"):
        join_predictions(old, new)


def test_samples_that_both_files_have_count_once() -> None:
    old = made("old", {"sample_id": ["a", "b", "e"], "target": [0, 1, 2], "pred": [0, 1, 1]}, (0, 1))
    new = made("new", {"sample_id": ["e", "a", "b"], "target": [2, 0, 1], "pred": [2, 0, 1]}, (0, 1, 2))
    joined = join_predictions(old, new, shared_classes=True)
    assert (joined.outside_classes, joined.num_samples) == (1, 2)
    # without the models' classes, the labels in the file stand in: the old file's targets name class 2 as well
    old = made("old", {"sample_id": ["a", "b", "e"], "target": [0, 1, 2], "pred": [0, 1, 1]})
    assert join_predictions(old, new, shared_classes=True).num_samples == 3


def test_classes_of_files_that_do_not_say() -> None:
    joined = join_predictions(made("old", OLD), made("new", NEW), shared_classes=True)
    assert (joined.outside_classes, joined.num_samples) == (1, 3)
    # a class that the old model never answers is known as long as it is a target
    old = made("old", OLD | {"pred": [1, 1, 1]})
    assert join_predictions(old, made("new", NEW), shared_classes=True).num_samples == 3


def test_missing_samples_of_shared_classes_stay_an_error() -> None:
    old, new = made("old", OLD, (0, 1)), made("new", NEW, (0, 1, 2))
    fewer = PredictionSet(old.rows.slice(1), "old", old.classes)
    with pytest.raises(PredictionError, match=r"1 samples are only in new \(such as 'a'\); 2 are in both"):
        join_predictions(fewer, new, shared_classes=True)
    joined = join_predictions(fewer, new, shared_classes=True, allow_partial=True)
    assert (joined.num_samples, joined.only_new, joined.outside_classes) == (2, 1, 1)


def test_no_class_in_common() -> None:
    old, new = made("old", OLD, (0, 1)), made("new", OLD | {"pred": [5, 6, 5]}, (5, 6))
    with pytest.raises(PredictionError, match="no sample to compare; 3 samples are of classes that only one"):
        join_predictions(old, new, shared_classes=True)


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_best_shared_class_by_logits(tmp_path: Any, dtype: Any) -> None:
    rng = np.random.default_rng(3)
    count, old_classes, new_classes = 500, [4, 8, 6], [9, 6, 5, 4, 8]
    logits = {"old": rng.normal(size=(count, 3)).astype(dtype), "new": rng.normal(size=(count, 5)).astype(dtype)}
    target = rng.choice([4, 6, 8], count)
    paths, best, sure = {}, {}, {}
    for name, classes in (("old", old_classes), ("new", new_classes)):
        scores = logits[name].astype(np.float64)
        probability = np.exp(scores) / np.exp(scores).sum(1, keepdims=True)
        best[name], sure[name] = [], []
        for row in range(count):
            ranked = [place for place in np.argsort(-scores[row], kind="stable") if classes[place] in (4, 6, 8)]
            best[name].append(classes[ranked[0]])
            sure[name].append(probability[row, ranked[0]])
        paths[name] = write_predictions(
            tmp_path / f"{name}.parquet",
            {"index": np.arange(count), "sample_id": np.arange(count), "target": target, "logits": logits[name],
             "pred": np.array(classes)[scores.argmax(1)], "confidence": probability.max(1)}, classes=classes,
        )  # fmt: skip
    joined = join_predictions(paths["old"], paths["new"], shared_classes=True, shared_argmax=True)
    assert [pair[0] for pair in answers(joined).values()] == best["old"]
    assert [pair[1] for pair in answers(joined).values()] == best["new"]
    np.testing.assert_allclose(joined.new_confidence, sure["new"], rtol=1e-5)
    np.testing.assert_allclose(joined.old_confidence, sure["old"], rtol=1e-5)
    plain = join_predictions(paths["old"], paths["new"], shared_classes=True)
    assert [pair[1] for pair in answers(plain).values()] == np.array(new_classes)[logits["new"].argmax(1)].tolist()


def test_best_shared_class_by_top_classes() -> None:
    old = made("old", OLD, (0, 1))
    top = {"top_classes": [[2, 3], [2, 1], [0, 2], [2, 1]]}  # none of the first row's, which is left out, is shared
    top |= {"top_probs": [[0.6, 0.3], [0.5, 0.4], [0.8, 0.1], [0.9, 0.05]]}
    new = made("new", NEW, (0, 1, 2, 3), confidence=[0.6, 0.5, 0.8, 0.9], **top)
    joined = join_predictions(old, new, shared_classes=True, shared_argmax=True)
    assert answers(joined) == {"a": (0, 0), "b": (1, 1), "c": (1, 1)}
    np.testing.assert_allclose(joined.new_confidence, [0.8, 0.05, 0.4], rtol=1e-6)
    short = {"top_classes": [[2], [2], [0], [2]], "top_probs": [[0.6], [0.5], [0.8], [0.9]]}
    with pytest.raises(PredictionError, match="more than the 1 top classes per row of new: in 2 rows none"):
        join_predictions(old, made("new", NEW, (0, 1, 2), **short), shared_classes=True, shared_argmax=True)


def test_shared_argmax_says_what_it_needs() -> None:
    old, new = made("old", OLD, (0, 1)), made("new", NEW, (0, 1, 2))
    with pytest.raises(ValueError, match="shared_classes=True"):
        join_predictions(old, new, shared_argmax=True)
    with pytest.raises(PredictionError, match=r"needs the logits of new .*: in 2 of its rows .*scores=True"):
        join_predictions(old, new, shared_classes=True, shared_argmax=True)
    logits = np.zeros((4, 2)).tolist()
    with pytest.raises(PredictionError, match="new names 3 classes but has 2 logits per row"):
        join_predictions(old, made("new", NEW, (0, 1, 2), logits=logits), shared_classes=True, shared_argmax=True)
    words = {"sample_id": ["a"], "target": ["x"], "pred": ["y"], "logits": [[0.5, 1.0]]}
    with pytest.raises(PredictionError, match="does not say the class of each"):
        join_predictions(made("old", {"sample_id": ["a"], "target": ["x"], "pred": ["x"]}), made("new", words),
                         shared_classes=True, shared_argmax=True)  # fmt: skip


def test_answers_need_no_scores_where_they_are_shared_already() -> None:
    joined = join_predictions(made("old", OLD), made("new", OLD), shared_classes=True, shared_argmax=True)
    assert answers(joined) == {"a": (0, 0), "b": (1, 1), "c": (1, 1)}
