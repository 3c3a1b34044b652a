"""What a run knows of its samples: labels as steps saw them, names and origins as the dataset tells them."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from lightning.pytorch.utilities.seed import isolate_rng

from lightning_flip.data.labels import kept_labels
from lightning_flip.data.origins import origins, positions_in, true_targets
from lightning_flip.data.sample_names import sample_names
from lightning_flip.steps.identity import LoaderData
from lightning_flip.stores.history.samples import labels_of

__all__ = ["KnownSamples"]

Integers = npt.NDArray[np.int64]
_UNKNOWN, _ABSENT = -1, -2  # no label; not in the file


class _Samples:
    """The samples of one split and loader, sorted: the first label that steps saw, and what the file says."""

    def __init__(self) -> None:
        self.index, self.seen, self.written = (np.zeros(0, np.int64) for _ in range(3))

    def at(self, index: Integers) -> npt.NDArray[np.intp]:
        """Places of samples, which are added if they are new."""
        fresh = np.setdiff1d(index, self.index)
        if len(fresh):
            order = np.argsort(np.concatenate([self.index, fresh]), kind="stable")
            self.index = np.concatenate([self.index, fresh])[order]
            self.seen = np.concatenate([self.seen, np.full(len(fresh), _UNKNOWN)])[order]
            self.written = np.concatenate([self.written, np.full(len(fresh), _ABSENT)])[order]
        return np.searchsorted(self.index, index)


class KnownSamples:
    """The samples of a run by split and loader, and which rows have to go into ``samples.parquet``."""

    def __init__(self) -> None:
        self._samples: dict[tuple[str, int], _Samples] = {}

    def adopt(self, samples: pa.Table) -> None:
        """Go on with a file that is there."""
        labels, splits, loaders = labels_of(samples), np.asarray(samples["split"]), np.asarray(samples["loader"])
        for split, loader in {*zip(splits.tolist(), loaders.tolist(), strict=True)}:
            mine = (splits == split) & (loaders == loader)
            known = self._samples.setdefault((split, loader), _Samples())
            places = known.at(np.asarray(samples["index"])[mine])
            known.written[places] = known.seen[places] = labels[mine]

    def forget(self, split: str) -> None:
        """Forget the samples of a split, which others take the place of."""
        self._samples = {key: known for key, known in self._samples.items() if key[0] != split}

    def see(self, split: str, loader: int, index: Integers, target: Integers) -> str:
        """Learn labels ``[V]`` of samples ``[V]``; returns how they differ from those of before, or "".

        Example:
            >>> known = KnownSamples()
            >>> known.see("val", 0, np.array([3, 1]), np.array([0, 2]))
            ''
            >>> known.see("val", 0, np.array([3]), np.array([1]))
            '1 of 1 val samples (loader 0) have other labels than before, sample 3 for one: it had 0, now 1'
        """
        known = self._samples.setdefault((split, loader), _Samples())
        values, first = np.unique(index, return_index=True)
        places, labels = known.at(values), target[first]
        before = known.seen[places]
        known.seen[places] = np.where(before < 0, labels, before)
        changed = np.flatnonzero((before >= 0) & (before != labels))
        if not len(changed):
            return ""
        one = changed[0]
        return (
            f"{len(changed)} of {len(values)} {split} samples (loader {loader}) have other labels than before, sample "
            f"{values[one]} for one: it had {before[one]}, now {labels[one]}"
        )

    def has(self, split: str, loader: npt.NDArray[np.integer], index: Integers) -> npt.NDArray[np.bool_]:
        """Whether the labels of samples are known, bool ``[V]``; loaders and index are ``[V]``.

        Example:
            >>> known = KnownSamples()
            >>> known.see("val", 0, np.array([3, 1]), np.array([0, 0]))
            ''
            >>> known.has("val", np.array([0, 0, 1]), np.array([1, 2, 1])).tolist()
            [True, False, False]
        """
        found = np.zeros(len(index), bool)
        for (name, place), known in self._samples.items():
            if name == split:
                found |= (loader == place) & np.isin(index, known.index[known.seen >= 0])
        return found

    def rows(self, split: str, loader: int, data: LoaderData | None) -> dict[str, Any] | None:
        """Rows for ``samples.parquet``: every sample of the dataset, visited or not.

        Returns one list per column, of the samples that the file lacks or has otherwise; None for none.
        """
        known = self._samples.setdefault((split, loader), _Samples())
        dataset = None if data is None else data.dataset
        if dataset is not None:
            known.at(np.arange(len(dataset)))
        labels = known.seen if data is None else _with_listed(known, data)
        known_more = (labels >= 0) & (known.written != labels)
        index = np.flatnonzero((known.written == _ABSENT) | known_more)
        if not len(index):
            return None
        rows: dict[str, Any] = {"split": split, "loader": loader, "index": known.index[index]}
        rows["target"] = pa.array(labels[index], pa.int32(), mask=labels[index] < 0)
        if dataset is None or data is None or known.index[-1] >= len(dataset):
            return rows
        with isolate_rng():  # a dataset may read a sample to name it
            places, names = positions_in(origins(dataset)), sample_names(dataset, data.ids_from)
            true = true_targets(dataset)
        rows["source"], rows["source_index"] = places.source[index], places.position[index]
        lasting = names.kind != "positions"
        rows["sample_id"] = [names.names[place] for place in index.tolist()] if lasting else None
        rows["true_target"] = pa.array(true[index], pa.int32(), mask=true[index] < 0)
        return rows

    def wrote(self, rows: dict[str, Any]) -> None:
        """Count rows as written."""
        known = self._samples[rows["split"], rows["loader"]]
        known.written[known.at(rows["index"])] = np.asarray(rows["target"].fill_null(_UNKNOWN))


def _with_listed(known: _Samples, data: LoaderData) -> Integers:
    """What steps saw, else what the dataset lists, under the names that steps have for its labels; -1 for neither."""
    labels = known.seen.copy()
    counts = data.labels is not None and data.labels.list_counts
    listed = kept_labels(data.dataset) if counts or not data.labels_count else None
    if listed is None or len(listed) != len(labels):
        return labels
    seen = labels >= 0
    classes, first = np.unique(listed[seen], return_index=True)
    names = dict(zip(classes.tolist(), labels[seen][first].tolist(), strict=True))
    renamed = any(before != after for before, after in names.items())
    labels[~seen] = [names.get(label, _UNKNOWN if renamed else label) for label in listed[~seen].tolist()]
    return labels
