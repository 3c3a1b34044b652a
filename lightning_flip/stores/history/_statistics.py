"""What happened to every sample of a run: the visits of a pass, and statistics over all passes."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from lightning_flip.stores.errors import HistoryError
from lightning_flip.stores.history.parts import TARGET, first_rows, last_rows, read_part
from lightning_flip.stores.history.samples import labels_of

__all__ = [
    "PassRows",
    "last_known",
    "locate_samples",
    "read_pass",
    "sample_statistics",
]

Bools = npt.NDArray[np.bool_]
Integers = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
_COLUMNS = ("loader", "index", "global_step", "visit", "pred")


@dataclasses.dataclass(frozen=True)
class PassRows:
    """The V visits of one pass, sorted by sample and, within a sample, by time.

    Attributes:
        epoch: counted from 0.
        pass_: number of the pass within the epoch, from 0.
        position: [V], the sample's place among the split's N samples.
        pred: [V], predicted class.
        correct: [V], whether `pred` is the sample's target.
        measures: further columns [V] by name.

    Example:
        >>> rows = PassRows(0, 0, np.array([0, 0, 2]), np.array([1, 0, 5]), np.array([False, True, True]), {})
        >>> rows.is_last.tolist()
        [False, True, True]
    """

    epoch: int
    pass_: int
    position: Integers
    pred: Integers
    correct: Bools
    measures: dict[str, Floats]

    @property
    def is_first(self) -> Bools:
        """[V], whether the row is its sample's first visit in this pass."""
        return first_rows(self.position)

    @property
    def is_last(self) -> Bools:
        """[V], whether the row is its sample's last visit in this pass."""
        return last_rows(self.position)


def read_pass(
    epoch_pass: tuple[int, int],
    paths: Sequence[Path],
    samples: pa.Table,
    *,
    loader: int,
    measures: Sequence[str] = (),
) -> PassRows:
    """Read one loader's visits of an (epoch, pass) from all ranks' parts, sorted by sample, step, visit and rank.

    `samples` are those of split and loader, sorted by index; `measures` are further columns to read.
    """
    known, targets = np.asarray(samples["index"]), labels_of(samples)
    read: list[dict[str, npt.NDArray[Any]]] = []
    for path in paths:
        table = read_part(path, [*_COLUMNS, *measures])
        rows = {name: np.asarray(table[name]) for name in table.column_names}
        mine = rows["loader"] == loader
        rows = {name: values[mine] for name, values in rows.items()}
        rows["position"] = locate_samples(known, rows["index"], path)
        rows.setdefault(TARGET, targets[rows["position"]])  # unless each visit has its own
        read.append(rows)
    joined = {name: np.concatenate([rows[name] for rows in read]) for name in read[0]}
    # Time first: ranks that drew the same sample count its visits independently. The sort is stable: ranks keep order.
    keys = joined["position"], joined["global_step"], joined["visit"]
    if not _is_sorted(*keys):
        order = np.lexsort(keys[::-1])
        joined = {name: values[order] for name, values in joined.items()}
    return PassRows(
        *epoch_pass,
        position=joined["position"],
        pred=joined["pred"].astype(np.int64),
        correct=joined["pred"] == joined[TARGET],
        measures={name: joined[name].astype(np.float64) for name in measures},
    )


def _is_sorted(*keys: npt.NDArray[Any]) -> bool:
    """Whether rows are sorted by keys, the first one first, as those of a part are; such a check is no sort."""
    equal: npt.NDArray[np.bool_] | None = None  # rows that the keys so far do not tell from the row before
    for key in keys:
        now, before = (key[1:], key[:-1]) if equal is None else (key[1:][equal], key[:-1][equal])
        if (now < before).any():
            return False
        same = now == before
        if not same.any():
            return True
        if equal is None:
            equal = same
        else:
            equal[equal] = same
    return True


def locate_samples(known: npt.NDArray[np.int64], index: npt.NDArray[np.int64], path: Path) -> npt.NDArray[np.int64]:
    """The place of each sample in the sorted index [N] of known samples: [V]."""
    position = np.searchsorted(known, index)
    strange = np.ones(len(index), bool)
    inside = position < len(known)
    strange[inside] = known[position[inside]] != index[inside]
    if strange.any():
        raise HistoryError(
            f"{path} holds {int(strange.sum())} rows of samples that samples.parquet does not list (the first: index"
            f" {int(index[strange][0])}), so their labels are unknown. Restore samples.parquet from a copy, or"
            " resume the run: the recording callback completes it when it starts."
        )
    return position.astype(np.int64)


def sample_statistics(samples: pa.Table, passes: Iterable[PassRows]) -> pa.Table:
    """The samples with what happened to them in the passes; see :meth:`History.statistics` for the columns.

    Passes have the measures `logit_margin` and `prob_label`. Forgetting events are those of Toneva et al., the area
    under the margin that of Pleiss et al. over logits, confidence and variability those of dataset cartography
    (Swayamdipta et al.). Our own reading: a visit counts, not an epoch, so that a sample drawn twice in an epoch can be
    forgotten within it.
    """
    count = samples.num_rows
    visits, right, events = (np.zeros(count, np.int64) for _ in range(3))
    first_learned = np.full(count, -1, np.int64)
    last_right = np.zeros(count, bool)
    margin_sum, mean, squares = (np.zeros(count, np.float64) for _ in range(3))
    for rows in passes:
        where = rows.position
        before = np.empty(len(where), bool)
        before[1:] = rows.correct[:-1]
        before[rows.is_first] = last_right[where[rows.is_first]]
        events += np.bincount(where[before & ~rows.correct], minlength=count)
        got_right = np.bincount(where[rows.correct], minlength=count)
        right += got_right
        first_learned[(first_learned < 0) & (got_right > 0)] = rows.epoch
        last_right[where[rows.is_last]] = rows.correct[rows.is_last]
        with np.errstate(invalid="ignore", over="ignore"):  # a run that diverged holds inf and NaN; so does its mean
            margin_sum += np.bincount(where, weights=rows.measures["logit_margin"], minlength=count)
            visits, mean, squares = _merge_moments(visits, mean, squares, where, rows.measures["prob_label"])
    never, share = visits == 0, 1 / np.maximum(visits, 1)
    table = samples.select(["index", "source_index", "sample_id", "target", "true_target"])
    table = table.replace_schema_metadata(None)  # the mark of samples.parquet is not this table's
    for name, values, missing in (
        ("visits", visits, None),
        ("times_right", right, None),
        ("forgetting_events", events, None),
        ("first_learned", first_learned, first_learned < 0),
        ("aum", margin_sum * share, never),
        ("confidence", mean, never),
        ("variability", np.sqrt(squares * share), never),
        ("last_right", last_right, None),
    ):
        table = table.append_column(name, pa.array(values, mask=missing))
    return table


def last_known(passes: Iterable[PassRows], count: int) -> tuple[Bools, Bools]:
    """After each of P passes, whether each of `count` samples was right when last seen, and whether the pass saw it.

    Returns two bool arrays [P, count]; a sample not seen so far is not right.
    """
    state = np.zeros(count, bool)
    right, visited = [], []
    for rows in passes:
        where = rows.position[rows.is_last]
        state = state.copy()
        state[where] = rows.correct[rows.is_last]
        seen = np.zeros(count, bool)
        seen[where] = True
        right.append(state)
        visited.append(seen)
    return np.array(right, bool).reshape(-1, count), np.array(visited, bool).reshape(-1, count)


def _merge_moments(
    visits: Integers, mean: Floats, squares: Floats, where: Integers, values: Floats
) -> tuple[Integers, Floats, Floats]:
    """Add one pass to counts, means and sums of squared deviations (Chan et al.; sums of squares would cancel)."""
    count = len(visits)
    added = np.bincount(where, minlength=count)
    divisor = np.maximum(added, 1)
    added_mean = np.bincount(where, weights=values, minlength=count) / divisor
    added_squares = np.bincount(where, weights=(values - added_mean[where]) ** 2, minlength=count)
    total = visits + added
    step = np.where(added > 0, added_mean - mean, 0.0)
    share = added / np.maximum(total, 1)
    return total, mean + step * share, squares + added_squares + step**2 * visits * share
