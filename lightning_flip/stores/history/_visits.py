"""From the parts of one pass to its visits in order of time."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from lightning_flip.stores.errors import HistoryError
from lightning_flip.stores.history._part_reader import read_part
from lightning_flip.stores.history.dynamics import PassRows
from lightning_flip.stores.history.parts import TARGET
from lightning_flip.stores.history.samples import labels_of

__all__ = ["locate_samples", "read_pass"]

_COLUMNS = ("loader", "index", "global_step", "visit", "pred")


def read_pass(
    epoch_pass: tuple[int, int],
    paths: Sequence[Path],
    samples: pa.Table,
    *,
    loader: int,
    measures: Sequence[str] = (),
) -> PassRows:
    """Read what all ranks saw in one pass. Returns the visits, sorted by sample, then global step, visit and rank.

    Args:
        epoch_pass: (epoch, pass).
        paths: the parts of that pass, at least one, by rank.
        samples: the samples of split and loader, sorted by index, with the columns `index` and `target`.
        loader: which loader's rows to keep.
        measures: columns to read besides.

    Example:
        >>> import tempfile
        >>> from lightning_flip.stores import PartKey, write_part
        >>> half = np.full(2, 0.5, np.float32)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = write_part(folder, PartKey("val", 0, 0, 0), {
        ...         "global_step": np.array([3, 3]), "index": np.array([8, 4]), "pred": np.array([1, 0]),
        ...         "prob_label": half, "prob_pred": half, "logit_margin": half, "cross_entropy": half})
        ...     rows = read_pass((0, 0), [path], pa.table({"index": [4, 8], "target": [0, 0]}), loader=0)
        >>> rows.position.tolist(), rows.correct.tolist()
        ([0, 1], [True, False])
    """
    known, targets = np.asarray(samples["index"]), labels_of(samples)
    read: list[dict[str, npt.NDArray[Any]]] = []
    for path in paths:
        table = read_part(path, [*_COLUMNS, *measures])
        rows = {name: np.asarray(table[name]) for name in table.column_names}
        mine = rows["loader"] == loader
        rows = {name: values[mine] for name, values in rows.items()}
        rows["position"] = locate_samples(known, rows["index"], path)
        rows.setdefault(TARGET, targets[rows["position"]])  # else each visit has its own
        read.append(rows)
    joined = {name: np.concatenate([rows[name] for rows in read]) for name in read[0]}
    # Time first: ranks that drew the same sample count its visits independently. The sort is stable: ranks keep order.
    order = np.lexsort((joined["visit"], joined["global_step"], joined["position"]))
    joined = {name: values[order] for name, values in joined.items()}
    return PassRows(
        *epoch_pass,
        position=joined["position"],
        pred=joined["pred"].astype(np.int64),
        correct=joined["pred"] == joined[TARGET],
        measures={name: joined[name].astype(np.float64) for name in measures},
    )


def locate_samples(known: npt.NDArray[np.int64], index: npt.NDArray[np.int64], path: Path) -> npt.NDArray[np.int64]:
    """Find the place of each sample in the sorted list of samples. Returns [V], places in `known`.

    Example:
        >>> locate_samples(np.array([2, 5, 9]), np.array([9, 2]), Path("part.parquet")).tolist()
        [2, 0]
    """
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
