"""A dataset with corrected labels, from a file that `lightning-flip relabel` wrote."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from os import PathLike
from typing import Any

import torch
from torch import Tensor

from lightning_flip.data._wrapped import WrappedDataset
from lightning_flip.data.indexed import unwrapped
from lightning_flip.data.labels import check_label, find_labels, with_label
from lightning_flip.data.origins import first_attribute, origins, positions_in
from lightning_flip.data.sample_names import IdsFrom, sample_names
from lightning_flip.stores.corrections import Correction, read_corrections
from lightning_flip.stores.spreadsheets import cell_key

__all__ = ["CorrectedLabels"]

_SHOWN = 3  # rows that an error names


class CorrectedLabels(WrappedDataset):
    """Hands out the samples of a map-style dataset with some of their labels corrected.

    The counterpart of :class:`NoisyLabels`: train on the reviewed labels of a run. The dataset is the one that the run
    was recorded with. A sample is found by its id if the file has ids (the dataset's ``sample_id(index)``, the paths of
    a folder dataset, or ``sample_id_from``), so that the order may differ; else by its position. The wrapped dataset is
    only read.

    Labels are found and replaced as in :class:`NoisyLabels`, whose samples may be corrected, too. ``targets``,
    ``labels`` and ``tensors`` of the wrapper give the corrected labels; all other attributes are the wrapped dataset's.

    Args:
        dataset: map-style dataset of ``N`` samples with integer labels.
        file: path of the CSV file, with the columns ``split``, ``loader``, ``index``, ``sample_id``, ``given_label``
            and ``label``.
        sample_id_from: as in the callback that recorded the run.
        scan: read the given labels from the samples even if the dataset has an attribute for them.

    Attributes:
        given_targets: int64 ``[N]``, the labels of the wrapped dataset.
        corrected_targets: int64 ``[N]``.
        corrected: bool ``[N]``, whether the two differ.

    Raises:
        TypeError: if a sample has no integer label.
        ValueError: if the file is damaged, or is of other data: an id or a position that the dataset lacks, another
            label than the one that was corrected, or a class that it does not have.

    Example:
        >>> import tempfile
        >>> from torch.utils.data import TensorDataset
        >>> from lightning_flip.stores.corrections import Correction, corrections_text
        >>> from lightning_flip.stores.files import write_text
        >>> given = TensorDataset(torch.zeros(4, 2), torch.tensor([0, 1, 1, 0]))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     file = write_text(f"{folder}/labels.csv", corrections_text([Correction("train", 0, 2, "", 1, 0)]))
        ...     corrected = CorrectedLabels(given, file)
        >>> corrected.targets, corrected.corrected.tolist(), int(corrected[2][1])
        (tensor([0, 1, 0, 0]), [False, False, True, False], 0)
    """

    def __init__(
        self,
        dataset: Any,
        file: str | PathLike[str],
        *,
        sample_id_from: IdsFrom | None = None,
        scan: bool = False,
    ) -> None:
        self.dataset = unwrapped(dataset)
        rows = read_corrections(file)
        self.given_targets = find_labels(self.dataset, scan=scan)
        self.corrected_targets = self.given_targets.clone()
        places = _places_by_id(self.dataset, rows, sample_id_from) if any(row.sample_id for row in rows) else None
        classes = first_attribute(self.dataset, "classes") if len(self.dataset) else None
        _check_rows(file, rows, len(classes) if isinstance(classes, (list, tuple)) and classes else None)
        strange = []
        for row in rows:
            if places is None:
                at = [row.index] if row.index < len(self.dataset) else []
            else:
                at = places.get(cell_key(row.sample_id), [])
            where = torch.tensor(at, dtype=torch.int64)
            found = sorted(set(self.given_targets[where].tolist()))
            if found == [row.given_label]:
                self.corrected_targets[where] = row.label
            else:
                here = f"label {', '.join(map(str, found))}" if found else "no such sample"
                strange.append(f"{_name(row)}: label {row.given_label} in the file, {here} here")
        if strange:
            raise ValueError(
                f"file={file} has labels of other data: {len(strange)} of {len(rows)} rows do not fit this dataset of"
                f" {len(self.dataset)} samples, looked up by {'position' if places is None else 'id'}."
                f" {'; '.join(strange[:_SHOWN])}. Pass the dataset that the run was recorded with, with the labels"
                " that it had then; for a part of it, correct the whole and take the Subset of CorrectedLabels."
            )

    @property
    def corrected(self) -> Tensor:
        """Whether given and corrected label differ: bool ``[N]``."""
        return self.corrected_targets != self.given_targets

    @property
    def targets(self) -> Tensor:
        """The corrected labels, under the name that torchvision's datasets use."""
        return self.corrected_targets

    @property
    def labels(self) -> Tensor:
        """The corrected labels, under another usual name."""
        return self.corrected_targets

    def __getattr__(self, name: str) -> Any:
        if name == "tensors":  # the wrapped dataset's would have the given labels
            inputs, _, *others = self.dataset.tensors
            return (inputs, self.corrected_targets, *others)
        return super().__getattr__(name)

    def _changed(self, sample: Any, index: int) -> Any:
        """The sample with its corrected label."""
        position = operator.index(index)
        check_label(sample, int(self.given_targets[position]), position)
        return with_label(sample, int(self.corrected_targets[position]))


def _check_rows(file: object, rows: Sequence[Correction], classes: int | None) -> None:
    """Refuse a file of several splits, with two labels for a sample, or with a class that the data do not have."""
    parts = sorted({(row.split, row.loader) for row in rows})
    if len(parts) > 1:
        raise ValueError(
            f"file={file} has labels of several datasets: {', '.join(f'{split} {loader}' for split, loader in parts)}"
            " (split and loader). Keep the rows of one in a file of their own."
        )
    known: dict[tuple[int, str], int] = {}
    for row in rows:
        if known.setdefault((row.index, row.sample_id), row.label) != row.label:
            raise ValueError(
                f"file={file} has the labels {known[row.index, row.sample_id]} and {row.label} for {_name(row)}; keep"
                " one row."
            )
        if classes is not None and row.label >= classes:
            raise ValueError(
                f"file={file} has the label {row.label} for {_name(row)}; the dataset has {classes} classes, from 0 to"
                f" {classes - 1}."
            )


def _places_by_id(dataset: Any, rows: Sequence[Correction], ids_from: IdsFrom | None) -> dict[str, list[int]]:
    """The positions of the samples that rows name, by `cell_key` of their id. A sample may occur several times."""
    names = sample_names(dataset, ids_from)
    if names.kind == "positions":
        raise ValueError(
            f"the file names samples by id ({_name(rows[0])}), and this dataset ({type(dataset).__name__}) has no ids."
            " Give it a method sample_id(index), or pass sample_id_from= as the run's callback had it."
        )
    wanted = {cell_key(row.sample_id) for row in rows}
    source, position = positions_in(origins(dataset))
    places: dict[str, list[int]] = {}
    for place, name in enumerate(names.names):
        key = cell_key(name)
        if key in wanted:
            first = places.setdefault(key, [place])[0]
            if (source[first], position[first]) != (source[place], position[place]):
                raise ValueError(
                    f"the id {name[:80]!r} is that of sample {first} and of sample {place}, so that it is not known"
                    " which of them the file means. Give every sample an id of its own and record the run again."
                )
            if place != first:
                places[key].append(place)
    return places


def _name(row: Correction) -> str:
    return f"sample {row.index}" + (f" ({row.sample_id[:80]!r})" if row.sample_id else "")
