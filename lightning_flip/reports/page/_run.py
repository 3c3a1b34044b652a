"""The numbers of one run that its page shows, each with a reason where there is none."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from lightning_flip.reports.dynamics import (
    ClassPairs,
    FlipTimeline,
    Forgetting,
    class_flips,
    confused_labels,
    flip_timeline,
    forgetting,
)
from lightning_flip.reports.text import shorten
from lightning_flip.stores import History, HistoryError, read_history

__all__ = ["RunNumbers", "read_numbers"]

_Value = TypeVar("_Value")
_LONGEST_NAME = 28


@dataclasses.dataclass(frozen=True)
class RunNumbers:
    """What a page shows of a run.

    Attributes:
        label: what the run is called.
        folder: where it is.
        history: its recorded history.
        split: the split whose flips are shown.
        train_split: the split whose labels are judged.
        scores: `History.label_scores` of the training split; None if that was not recorded.
        order: rows of `scores` that have a score, the worst label first, [S].
        pairs: labels that are almost certainly wrong, by label and suggestion; None without scores.
        forgetting: of the training split; None without scores.
        timeline: flips of the other split; None if that was not recorded.
        flips: who flips there.
        reasons: why something is None, by split.
    """

    label: str
    folder: Path
    history: History
    split: str
    train_split: str
    scores: pa.Table | None
    order: npt.NDArray[np.int64]
    pairs: ClassPairs | None
    forgetting: Forgetting | None
    timeline: FlipTimeline | None
    flips: ClassPairs | None
    reasons: dict[str, str]

    @property
    def class_names(self) -> list[str] | None:
        """Names of the classes, if the run recorded them."""
        names = self.history.run.info.get("class_names")
        return [str(name) for name in names] if isinstance(names, list) else None

    def name(self, label: int) -> str:
        """A class by its name, else by its number."""
        names = self.class_names or []
        return shorten(names[label], _LONGEST_NAME) if 0 <= label < len(names) else "?" if label < 0 else str(label)

    def column(self, name: str, missing: float = -1) -> npt.NDArray[np.float64]:
        """A column of the scores as numbers, [N]."""
        assert self.scores is not None
        values = self.scores[name].cast(pa.float64())
        return np.asarray(values.fill_null(float(missing)), np.float64)


def read_numbers(
    path: str | os.PathLike[str], label: str | None = None, split: str = "val", train_split: str = "train"
) -> RunNumbers:
    """Compute what the page of a run shows.

    Raises:
        HistoryError: if the history cannot be read, or has neither split.
    """
    folder, history, reasons = Path(path), read_history(path), {}

    def tried(part: str, compute: Callable[[], _Value]) -> _Value | None:
        if part in history.splits:
            return compute()
        reasons[part] = f"The run has no split {part!r}; it recorded {', '.join(map(repr, history.splits))}."
        return None

    if split not in history.splits and train_split not in history.splits:
        raise HistoryError(
            f"{folder} has neither split {train_split!r} nor {split!r}; it recorded"
            f" {', '.join(map(repr, history.splits))}. Name the splits to report on."
        )
    scores = tried(train_split, lambda: history.label_scores(train_split))
    order = np.zeros(0, np.int64)
    if scores is not None:
        score = scores["label_score"].to_numpy(zero_copy_only=False)  # NaN for none
        order = np.argsort(score, kind="stable")[: int((~np.isnan(score)).sum())]
    return RunNumbers(
        label=shorten(folder.resolve().name if label is None else label, _LONGEST_NAME),
        folder=folder,
        history=history,
        split=split,
        train_split=train_split,
        scores=scores,
        order=order.astype(np.int64),
        pairs=None if scores is None else confused_labels(scores),
        forgetting=None if scores is None else forgetting(scores),
        timeline=tried(split, lambda: flip_timeline(history, split)),
        flips=tried(split, lambda: class_flips(history, split)),
        reasons=reasons,
    )
