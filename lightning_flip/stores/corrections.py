"""Files of corrected labels: one row per sample whose label was found to be wrong, as CSV."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable

from lightning_flip.stores.errors import ReviewError
from lightning_flip.stores.spreadsheets import csv_text, read_csv, whole_number

__all__ = ["CORRECTION_COLUMNS", "Correction", "corrections_text", "read_corrections"]


@dataclasses.dataclass(frozen=True)
class Correction:
    """A corrected label.

    Attributes:
        split: the split of the run in which the sample was recorded.
        loader: the split's loader.
        index: position in the dataset that the DataLoader was given.
        sample_id: lasting name, as the file has it; "" if the run recorded none.
        given_label: the label that was wrong.
        label: the right one.
    """

    split: str
    loader: int
    index: int
    sample_id: str
    given_label: int
    label: int


CORRECTION_COLUMNS = tuple(field.name for field in dataclasses.fields(Correction))


def corrections_text(corrections: Iterable[Correction]) -> str:
    r"""The file as text.

    Example:
        >>> corrections_text([Correction("train", 0, 12, "cat/1.png", 3, 5)])
        'split,loader,index,sample_id,given_label,label\ntrain,0,12,cat/1.png,3,5\n'
    """
    return csv_text(CORRECTION_COLUMNS, map(dataclasses.astuple, corrections))


def read_corrections(path: str | os.PathLike[str]) -> list[Correction]:
    """Read a file of corrected labels; a `sample_id` keeps the quote that guards a formula.

    Raises:
        ReviewError: if the file is not CSV, lacks a column, or a cell is not what its column holds.
        OSError: if it cannot be read.
    """
    columns, rows = read_csv(path)
    missing = [name for name in CORRECTION_COLUMNS if name not in columns]
    if missing:
        raise ReviewError(
            f"{path} lacks the columns {', '.join(missing)}. Pass a file that `lightning-flip relabel` wrote; a"
            " reviewed list has to go through that command first."
        )
    found = []
    for line, cells in rows:
        numbers = {name: whole_number(cells[name]) for name in ("loader", "index", "given_label", "label")}
        wrong = next((name for name, number in numbers.items() if number is None or number < 0), None)
        if wrong is not None:
            raise ReviewError(
                f"{path}, line {line}: {wrong} must be a whole number from 0, got {cells[wrong]!r}. Write the file"
                " again with `lightning-flip relabel`."
            )
        loader, index, given, label = (number or 0 for number in numbers.values())
        found.append(Correction(cells["split"], loader, index, cells["sample_id"], given, label))
    return found
