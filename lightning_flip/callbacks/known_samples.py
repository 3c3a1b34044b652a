"""What a run knows of its samples: labels as steps saw them, names and origins as the dataset tells them."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from lightning_flip.data.identity import kept_labels
from lightning_flip.data.origins import positions_in, true_targets
from lightning_flip.data.sample_names import sample_names
from lightning_flip.steps._identity import LoaderData
from lightning_flip.stores.samples import labels_of

__all__ = ["KnownSamples"]

Integers = npt.NDArray[np.int64]


class KnownSamples:
    """The samples of a split and loader that are in ``samples.parquet``, and the ones that have to go there."""

    def __init__(self) -> None:
        self._seen: dict[tuple[str, int], dict[int, int]] = {}  # the first label of each sample
        self._written: dict[tuple[str, int], dict[int, int]] = {}  # what the file says of it, -1 for no label
        self._complete: dict[tuple[str, int], int] = {}  # number of samples, where the file has all their labels

    def adopt(self, samples: pa.Table) -> None:
        """Go on with a file that is there.

        Args:
            samples: what ``read_samples`` gave.
        """
        columns = (samples["split"].to_pylist(), samples["loader"].to_pylist(), samples["index"].to_pylist())
        for split, loader, index, label in zip(*columns, labels_of(samples).tolist(), strict=True):
            self._written.setdefault((split, loader), {})[index] = label
            if label >= 0:
                self._seen.setdefault((split, loader), {})[index] = label

    def forget(self, split: str) -> None:
        """Forget the samples of a split, which others take the place of.

        Args:
            split: "train" or "val".
        """
        for known in (self._seen, self._written, self._complete):
            for key in [key for key in known if key[0] == split]:
                del known[key]

    def wrote(self, rows: dict[str, Any], data: LoaderData | None) -> None:
        """Count rows as written.

        Args:
            rows: what :meth:`rows` gave.
            data: of the loader.
        """
        key = (rows["split"], rows["loader"])
        labels = np.asarray(pa.array(rows["target"]).fill_null(-1)).tolist()
        written = self._written.setdefault(key, {})
        written.update(zip(rows["index"].tolist(), labels, strict=True))
        if data is not None and len(written) == data.num_samples and min(written.values()) >= 0:
            self._complete[key] = len(written)

    def see(self, split: str, loader: int, index: Integers, target: Integers) -> None:
        """Learn the labels of samples that are not known yet.

        Args:
            split: "train" or "val".
            loader: position of the loader.
            index: ``[V]``.
            target: ``[V]`` labels.
        """
        seen = self._seen.setdefault((split, loader), {})
        values, first = np.unique(index, return_index=True)
        for number, label in zip(values.tolist(), target[first].tolist(), strict=True):
            seen.setdefault(number, label)

    def has(self, split: str, loader: npt.NDArray[np.integer], index: Integers) -> npt.NDArray[np.bool_]:
        """Whether the labels of samples are known.

        Args:
            split: "train" or "val".
            loader: ``[V]`` positions of the loaders.
            index: ``[V]``.

        Returns:
            ``[V]``.

        Example:
            >>> known = KnownSamples()
            >>> known.see("val", 0, np.array([3, 1]), np.array([0, 0]))
            >>> known.has("val", np.array([0, 0, 1]), np.array([1, 2, 1])).tolist()
            [True, False, False]
        """
        pairs = zip(loader.tolist(), index.tolist(), strict=True)
        return np.array([number in self._seen.get((split, place), ()) for place, number in pairs], dtype=bool)

    def rows(self, split: str, loader: int, data: LoaderData | None) -> dict[str, Any] | None:
        """Rows for ``samples.parquet``: every sample of the dataset, visited or not.

        Args:
            split: "train" or "val".
            loader: position of the loader.
            data: of the loader; without a dataset, what steps saw is all there is.

        Returns:
            One list a column, of the samples that the file lacks or knows less of; None if there are none.
        """
        seen, written = self._seen.get((split, loader), {}), self._written.get((split, loader), {})
        dataset = None if data is None else data.dataset
        if dataset is not None and self._complete.get((split, loader)) == len(dataset):
            return None
        if dataset is None:
            index = np.array(sorted(number for number in seen if number not in written), np.int64)
            labels = np.array([seen[number] for number in index.tolist()], np.int64)
        else:
            everything = _labels(seen, dataset, len(dataset))
            known = np.array([written.get(number, -2) for number in range(len(dataset))])
            index = np.flatnonzero((known == -2) | ((known == -1) & (everything >= 0)))
            labels = everything[index]
        if not len(index):
            return None
        rows: dict[str, Any] = {"split": split, "loader": loader, "index": index}
        rows["target"] = pa.array(labels, pa.int32(), mask=labels < 0)
        if dataset is not None and data is not None:
            origins, names, true = positions_in(dataset), sample_names(dataset, data.ids_from), true_targets(dataset)
            lasting = names.kind != "positions"
            rows["source"], rows["source_index"] = origins.source[index], origins.position[index]
            rows["sample_id"] = [names.names[place] for place in index.tolist()] if lasting else None
            rows["true_target"] = pa.array(true[index], pa.int32(), mask=true[index] < 0)
        return rows


def _labels(seen: dict[int, int], dataset: Any, count: int) -> Integers:
    """What steps saw, else what the dataset lists, under the names that steps have for its labels; -1 for neither."""
    labels = np.full(count, -1, np.int64)
    labels[list(seen)] = list(seen.values())
    listed = kept_labels(dataset)
    if listed is None or len(listed) != count:
        return labels
    known = labels >= 0
    classes, first = np.unique(listed[known], return_index=True)
    names = dict(zip(classes.tolist(), labels[known][first].tolist(), strict=True))
    renamed = any(before != after for before, after in names.items())
    labels[~known] = [names.get(label, -1 if renamed else label) for label in listed[~known].tolist()]
    return labels
