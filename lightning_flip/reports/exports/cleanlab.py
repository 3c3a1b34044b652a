"""Labels and history-averaged probabilities as arrays for cleanlab."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

from lightning_flip.reports.exports._samples import ExportError
from lightning_flip.stores import History, PassRows
from lightning_flip.stores.history.parts import UNKNOWN, other_probability
from lightning_flip.stores.history.samples import labels_of

__all__ = ["CleanlabArrays", "cleanlab_arrays"]

Integers = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]
# Cells of the table [samples of a chunk, K]: 8 MB in float64.
_CELLS = 2**20
_MEASURES = ("prob_label", "logit_margin", "cross_entropy", "best_other")


def cleanlab_arrays(history: History, split: str = "train", loader: int = 0) -> CleanlabArrays:
    """What `cleanlab.filter.find_label_issues` and `cleanlab.dataset.health_summary` need, from a recorded run.

    The probabilities are means over the visits of `History.chosen_epochs`. They come from the training itself, not from
    cross-validation, which cleanlab recommends.

    A history knows the probability of two classes at each visit: the label, and the best other class. The rest is
    spread evenly over the remaining classes, none of which can have been more probable than the best other one. So
    rows sum to 1, and the class that a visit predicted stays its most probable one.

    Args:
        history: a recorded run.
        split: which split.
        loader: which of its loaders.

    Raises:
        ExportError: if no sample has both a label and a visit.

    Example:
        A run of one epoch, two samples and three classes; both samples have label 0.

        >>> import tempfile
        >>> from lightning_flip.stores import read_history
        >>> from lightning_flip.stores.claims import claim
        >>> from lightning_flip.stores.history.parts import PartKey, write_part
        >>> from lightning_flip.stores.history.samples import write_samples
        >>> folder = tempfile.TemporaryDirectory()
        >>> _ = claim(folder.name, info={"num_classes": 3})
        >>> _ = write_samples(folder.name, {"split": "train", "index": [0, 1], "target": [0, 0]})
        >>> probs = np.array([[0.5, 0.375, 0.125], [0.25, 0.25, 0.5]])
        >>> _ = write_part(folder.name, PartKey("train", 0, 0, 0), {
        ...     "global_step": np.zeros(2, int), "index": np.arange(2), "pred": np.array([0, 2]),
        ...     "best_other": np.array([1, 2]), "prob_label": probs[:, 0].astype("f4"),
        ...     "logit_margin": np.log(probs[:, 0] / probs[:, 1:].max(axis=1)).astype("f4"),
        ...     "cross_entropy": -np.log(probs[:, 0]).astype("f4")})
        >>> cleanlab_arrays(read_history(folder.name)).pred_probs().round(3).tolist()
        [[0.5, 0.375, 0.125], [0.25, 0.25, 0.5]]
        >>> folder.cleanup()
    """
    arrays = CleanlabArrays(history, split, loader)
    if not len(arrays.labels):
        raise ExportError(
            f"no sample of split {split!r}, loader {loader}, has both a label and a visit, so that there is nothing"
            " for cleanlab. Name another split."
        )
    return arrays


class CleanlabArrays:
    """Labels and probabilities of N samples; `cleanlab_arrays` makes it.

    Samples that no chosen epoch saw, or whose label is unknown, are left out. Sums of the visits are kept, 16 bytes a
    visit; the table [N, K] is made in chunks of 8 MB.

    Attributes:
        labels: the given labels, int64 [N].
        index: the place of each sample in the dataset, int64 [N].
        num_classes: the number K of classes: `num_classes` of the run, or the largest class seen plus one.
    """

    labels: Integers
    index: Integers
    num_classes: int

    def __init__(self, history: History, split: str = "train", loader: int = 0) -> None:
        samples = history.samples(split, loader)
        self._target = labels_of(samples)
        count = len(self._target)
        self._visits, self._label = np.zeros(count, np.int64), np.zeros(count)
        self._passes: list[tuple[npt.NDArray[np.int32], npt.NDArray[np.int32], Floats, Floats]] = []
        self.num_classes = max(history.num_classes or 0, int(self._target.max(initial=-1)) + 1)
        chosen = set(history.chosen_epochs(split))
        for rows in history.visits(split, loader, measures=_MEASURES):
            if rows.epoch in chosen:
                self._add(rows)
        self._kept = (self._target >= 0) & (self._visits > 0) & np.isfinite(self._label)
        self.labels = self._target[self._kept].astype(np.int64)
        self.index = np.asarray(samples["index"])[self._kept].astype(np.int64)

    def pred_probs(self) -> Floats:
        """The probabilities, float32 [N, K]; rows sum to 1."""
        chunks = list(self._chunks())
        return np.concatenate(chunks) if chunks else np.zeros((0, self.num_classes), np.float32)

    def write(self, stream: BinaryIO) -> None:
        """Write an `.npz` file with `labels`, `index` and `pred_probs`, 4 K N bytes, chunk by chunk."""
        with zipfile.ZipFile(stream, "w") as archive:
            for name, array in (("labels", self.labels), ("index", self.index)):
                with archive.open(f"{name}.npy", "w") as file:
                    np.lib.format.write_array(file, array, allow_pickle=False)
            with archive.open("pred_probs.npy", "w", force_zip64=True) as file:
                shape = (len(self.labels), self.num_classes)
                header = {"descr": "<f4", "fortran_order": False, "shape": shape}
                np.lib.format.write_array_header_1_0(file, header)
                for chunk in self._chunks():
                    file.write(chunk.astype("<f4").tobytes())

    def _add(self, rows: PassRows) -> None:
        label, best = rows.measures["prob_label"], rows.measures["best_other"].astype(np.int32)
        other = other_probability(rows.measures["logit_margin"], rows.measures["cross_entropy"])
        other = np.where(best == UNKNOWN, 0.0, np.nan_to_num(other))
        rest = np.clip(1.0 - label - other, 0.0, 1.0)
        self._visits += np.bincount(rows.position, minlength=len(self._target))
        self._label += np.bincount(rows.position, weights=label, minlength=len(self._target))
        self.num_classes = max(self.num_classes, int(best.max(initial=-1)) + 1)
        self._passes.append((rows.position.astype(np.int32), best, other.astype(np.float32), rest.astype(np.float32)))

    def _chunks(self) -> Iterator[Floats]:
        """Probabilities of the samples that are kept, [samples of a chunk, K]."""
        width = self.num_classes
        size = max(1, _CELLS // width)
        for start in range(0, len(self._target), size):
            stop = min(start + size, len(self._target))
            table, shared = np.zeros((stop - start) * width), np.zeros(stop - start)
            for where, best, other, rest in self._passes:  # each sorted by sample
                part = slice(*np.searchsorted(where, [start, stop]))
                row, told = where[part].astype(np.int64) - start, best[part] >= 0
                # Of the classes that share the rest, the label is none, and neither is the best other class if known.
                share = rest[part] / np.maximum(width - 1 - told, 1)
                shared += np.bincount(row, weights=share, minlength=stop - start)
                cell = row[told] * width + best[part][told]
                table += np.bincount(cell, weights=(other[part] - share)[told], minlength=len(table))
            kept = np.flatnonzero(self._kept[start:stop])
            found = np.maximum(table.reshape(-1, width)[kept] + shared[kept, None], 0.0)  # a difference of sums
            found[np.arange(len(kept)), self._target[start:stop][kept]] = self._label[start:stop][kept]
            yield (found / found.sum(axis=1, keepdims=True)).astype(np.float32)
