import random
from collections.abc import Callable
from pathlib import Path

import pytest

from lightning_flip.reports import summarize_run
from lightning_flip.stores import HistoryError
from lightning_flip.stores.history.parts import set_aside


@pytest.mark.parametrize("seed", range(4))
def test_a_run_by_a_loop(record: Callable[..., Path], seed: int) -> None:
    draw = random.Random(seed)
    target = [draw.randrange(3) for _ in range(40)]
    passes = [[draw.choice([0, 1, 2, t, t, None]) for t in target] for _ in range(5)]
    confidence = [draw.random() for _ in target]
    found = summarize_run(record("run", target, passes, confidence=confidence), n_bins=10)

    accuracies = []
    for preds in passes:
        seen = [(pred, t) for pred, t in zip(preds, target, strict=True) if pred is not None]
        accuracies.append(sum(pred == t for pred, t in seen) / len(seen))
    last = [i for i in range(40) if passes[-1][i] is not None]
    wrong = [i for i in last if passes[-1][i] != target[i]]
    flipped = [i for i in wrong if any(preds[i] == target[i] for preds in passes[:-1])]
    both = [i for i in last if passes[-2][i] is not None]
    assert found.accuracy_last == pytest.approx(accuracies[-1])
    assert found.accuracy_best == pytest.approx(max(accuracies))
    assert found.flipping_error == pytest.approx(len(flipped) / len(last))
    assert found.relative_flipping_error == pytest.approx(len(flipped) / len(wrong))
    assert found.churn == pytest.approx(sum(passes[-1][i] != passes[-2][i] for i in both) / len(both))
    gaps = [0.0] * 10
    for i in last:
        gaps[min(int(confidence[i] * 10), 9)] += (passes[-1][i] == target[i]) - confidence[i]
    assert found.calibration_error == pytest.approx(sum(map(abs, gaps)) / len(last), abs=1e-6)
    assert (found.epochs, found.samples, found.coverage) == (5, 40, len(last) / 40)
    assert found.mislabelled_auroc is None


def test_the_last_pass_itself_is_no_earlier_pass(record: Callable[..., Path]) -> None:
    found = summarize_run(record("run", [1, 1], [[0, 1], [1, 0]]))
    assert (found.flipping_error, found.relative_flipping_error, found.accuracy_best) == (0.5, 1.0, 0.5)
    found = summarize_run(record("right", [1, 1], [[0, 1], [1, 1]]))
    assert (found.flipping_error, found.relative_flipping_error) == (0.0, 0.0)


def test_several_passes_an_epoch(record: Callable[..., Path]) -> None:
    moments = [(0, 0), (0, 1), (1, 0), (1, 1)]
    found = summarize_run(record("run", [0, 0], [[1, 1], [1, 1], [0, 1], [1, 1]], moments=moments))
    assert (found.epochs, found.flipping_error, found.churn) == (2, 0.5, 0.5)


def test_one_pass_has_no_churn(record: Callable[..., Path]) -> None:
    assert summarize_run(record("run", [0], [[0]])).churn is None


def test_passes_without_a_common_sample_have_no_churn(record: Callable[..., Path]) -> None:
    assert summarize_run(record("run", [0, 0], [[0, None], [None, 0]])).churn is None


def test_wrong_labels_are_found_by_their_margins(record: Callable[..., Path]) -> None:
    folder = record("run", [0, 1], [[0, 1]])
    record(
        "run",
        [0, 0, 0, 0, 0, 0],
        [[0, 0, 0, 0, 0, None]] * 2,
        split="train",
        margin=[-2.0, 1.0, 3.0, 1.0, -9.0, 0.0],
        true_target=[1, 1, 0, 0, None, 1],  # the fifth's truth is unknown, the sixth was never seen
    )
    # of the four pairs (wrong, right): -2 < 3, -2 < 1, 1 < 3 are won, 1 = 1 is half won
    assert summarize_run(folder).mislabelled_auroc == pytest.approx(3.5 / 4)


@pytest.mark.parametrize("true_target", [None, [0, 0], [1, 1], [None, None]])
def test_without_both_kinds_of_labels_there_is_no_auroc(record: Callable[..., Path], true_target: list | None) -> None:
    folder = record("run", [0, 1], [[0, 1]])
    record("run", [0, 0], [[0, 1]], split="train", true_target=true_target)
    assert summarize_run(folder).mislabelled_auroc is None


def test_a_diverged_run_still_has_an_auroc_of_what_is_finite(record: Callable[..., Path]) -> None:
    folder = record("run", [0, 1], [[0, 1]])
    nan, inf = float("nan"), float("inf")
    record("run", [0] * 4, [[0] * 4] * 2, split="train", margin=[nan, -inf, 1.0, 2.0], true_target=[1, 1, 0, 0])
    assert summarize_run(folder).mislabelled_auroc == 1.0


def test_an_unknown_split_is_named(record: Callable[..., Path]) -> None:
    with pytest.raises(HistoryError, match="no split 'test'; it holds 'val'"):
        summarize_run(record("run", [0], [[0]]), split="test")


def test_a_last_pass_that_saw_nothing(record: Callable[..., Path]) -> None:
    folder = record("run", [0], [[0], [None]])
    with pytest.raises(HistoryError, match="saw no sample"):
        summarize_run(folder)
    set_aside(folder, {("val", 0, 0)})
    assert summarize_run(folder).accuracy_last == 1.0
