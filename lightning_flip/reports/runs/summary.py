"""A run in a few numbers."""

from __future__ import annotations

import dataclasses
import os
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from lightning_flip._deprecate import renamed_keywords
from lightning_flip.reports.runs._rates import area_under_roc, expected_calibration_error, flipping_errors
from lightning_flip.reports.text import PlainTable
from lightning_flip.stores import History, HistoryError, PassRows, read_history
from lightning_flip.stores.history.samples import labels_of

__all__ = ["RunSummary", "summarize_run"]

_Value = TypeVar("_Value", bound=np.generic)


@dataclasses.dataclass(frozen=True)
class RunSummary:
    """A run's numbers on one split. Rates are shares in [0, 1] of the samples that the pass saw.

    Attributes:
        accuracy_last: accuracy of the last pass.
        accuracy_best: best accuracy of any pass.
        flipping_error: FE, share that the last pass has wrong and some earlier pass had right.
        relative_flipping_error: RFE, the same as a share of what the last pass has wrong; 0 without errors.
        churn: share whose prediction differs between the last two passes, of those that both saw; None without such.
        calibration_error: ECE of the last pass.
        mislabelled_auroc: how well a low area under the margin in training finds the samples whose target is not their
            true target: 1 is perfect, 0.5 chance. None if true targets are unknown, or all targets or none are true.
        epochs: number of epochs that have a pass over the split.
        samples: number of samples of the split.
        coverage: share of them that the last pass saw.

    Example:
        >>> RunSummary(0.9, 0.92, 0.04, 0.4, 0.02, 0.05, None, 30, 500, 1.0).flipping_error
        0.04
    """

    accuracy_last: float
    accuracy_best: float
    flipping_error: float
    relative_flipping_error: float
    churn: float | None
    calibration_error: float
    mislabelled_auroc: float | None
    epochs: int
    samples: int
    coverage: float

    def _repr_html_(self) -> str:
        rates = [
            ("accuracy, last epoch", self.accuracy_last),
            ("accuracy, best epoch", self.accuracy_best),
            ("flipping error (FE)", self.flipping_error),
            ("relative flipping error (RFE)", self.relative_flipping_error),
            ("churn of the last two passes", self.churn),
            ("calibration error (ECE)", self.calibration_error),
            ("coverage of the last pass", self.coverage),
        ]
        rows = [(name, "-" if rate is None else f"{rate:.1%}") for name, rate in rates]
        found = "-" if self.mislabelled_auroc is None else f"{self.mislabelled_auroc:.3f}"
        rows += [("mislabelled found (AUROC)", found), ("epochs", f"{self.epochs:,}"), ("samples", f"{self.samples:,}")]
        return PlainTable("", ("number", "value"), tuple(rows)).html()


@renamed_keywords(bins="n_bins")
def summarize_run(
    path: str | os.PathLike[str],
    split: str = "val",
    n_bins: int = 15,
    *,
    loader: int = 0,
    train_split: str = "train",
) -> RunSummary:
    """Compute a run's numbers from its recorded history.

    Args:
        path: the run's folder.
        split: the held-out split that accuracy, flips and calibration are about. Where a pass saw a sample several
            times, its last visit counts.
        n_bins: number of bins of the calibration error.
        loader: which of the split's loaders.
        train_split: the split whose margins are to find wrong labels (its loader 0). It need not have been recorded.

    Raises:
        HistoryError: if the history cannot be read, lacks the split, or its last pass saw no sample.
        ValueError: if `n_bins` is under 1.

    Example:
        >>> import tempfile
        >>> from lightning_flip.stores.claims import open_run
        >>> from lightning_flip.stores.history.parts import PartKey, write_part
        >>> from lightning_flip.stores.history.samples import write_samples
        >>> folder = tempfile.TemporaryDirectory()
        >>> _ = open_run(folder.name, run_id=None, info={})
        >>> _ = write_samples(folder.name, {"split": "val", "index": [0, 1], "target": [1, 0]})
        >>> for epoch, pred in enumerate([[1, 1], [0, 0]]):
        ...     measure = np.array([0.5, 1.0], np.float32)
        ...     _ = write_part(folder.name, PartKey("val", epoch, 0, 0), {
        ...         "global_step": np.full(2, epoch), "index": np.arange(2), "pred": np.array(pred),
        ...         "prob_label": measure, "prob_pred": measure, "logit_margin": measure, "cross_entropy": measure})
        >>> found = summarize_run(folder.name)
        >>> found.accuracy_last, found.flipping_error, found.relative_flipping_error, found.churn
        (0.5, 0.5, 1.0, 1.0)
        >>> folder.cleanup()
    """
    history = read_history(path)
    count = history.samples(split, loader).num_rows
    right_before = np.zeros(count, bool)
    best = 0.0
    previous: PassRows | None = None
    current: PassRows | None = None
    for rows in history.visits(split, loader, measures=("prob_pred",)):
        if current is not None:
            right_before[_last(current, current.position)[_last(current, current.correct)]] = True
        previous, current = current, rows
        if len(rows.position):
            best = max(best, float(_last(rows, rows.correct).mean()))
    if current is None or not len(current.position):
        raise HistoryError(
            f"The last pass over split {split!r}, loader {loader}, in {os.fspath(path)} saw no sample, so it has no"
            " accuracy. Rename its parts to *.orphan to go by the pass before, or ask for another loader."
        )
    where, correct = _last(current, current.position), _last(current, current.correct)
    flipping, relative = flipping_errors(right_before[where], correct)
    return RunSummary(
        accuracy_last=float(correct.mean()),
        accuracy_best=best,
        flipping_error=flipping,
        relative_flipping_error=relative,
        churn=None if previous is None else _churn(previous, current),
        calibration_error=expected_calibration_error(_last(current, current.measures["prob_pred"]), correct, n_bins),
        mislabelled_auroc=_mislabelled_auroc(history, train_split),
        epochs=len({epoch for epoch, _ in history.passes(split)}),
        samples=count,
        coverage=len(where) / count,
    )


def _last(rows: PassRows, values: npt.NDArray[_Value]) -> npt.NDArray[_Value]:
    return values[rows.is_last]


def _churn(previous: PassRows, current: PassRows) -> float | None:
    _, before, now = np.intersect1d(
        _last(previous, previous.position), _last(current, current.position), assume_unique=True, return_indices=True
    )
    if not len(now):
        return None
    return float((_last(previous, previous.pred)[before] != _last(current, current.pred)[now]).mean())


def _mislabelled_auroc(history: History, split: str) -> float | None:
    if split not in history.splits or _all_null(history.samples(split)["true_target"]):
        return None
    table = history.statistics(split)
    aum = np.asarray(table["aum"].to_numpy(zero_copy_only=False), np.float64)
    true_target = np.asarray(table["true_target"].fill_null(-1))
    usable = (true_target >= 0) & ~np.isnan(aum)  # never seen, diverged, or of unknown truth: nothing to rank
    return area_under_roc(-aum[usable], (labels_of(table) != true_target)[usable])


def _all_null(column: pa.ChunkedArray) -> bool:
    return bool(column.null_count == len(column))
