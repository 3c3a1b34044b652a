"""Suspects as the `metadata.csv` of an image folder that Hugging Face's `datasets` loads."""

from __future__ import annotations

import os

import pyarrow as pa

from lightning_flip.reports.exports._samples import ExportError, file_below, is_url, sample_places
from lightning_flip.reports.text import quote
from lightning_flip.stores.spreadsheets import csv_text, guarded

__all__ = ["huggingface_metadata"]

_COLUMNS = (
    "index",
    "given_label",
    "given_name",
    "predicted_label",
    "predicted_name",
    "label_score",
    "is_label_issue",
)


def huggingface_metadata(rows: pa.Table, folder: str | os.PathLike[str] = ".", image_root: str | None = None) -> str:
    r"""The suspects as a `metadata.csv`, for `load_dataset("imagefolder", data_dir=folder)`.

    Args:
        rows: what `History.suspects` gives.
        folder: where the file will be; images have to be in this folder or below.
        image_root: folder that the samples' paths (or ids) are below; `folder` if left out.

    Returns:
        CSV with the column `file_name`, relative to `folder`, and `index`, `given_label`, `given_name`,
        `predicted_label`, `predicted_name`, `label_score` and `is_label_issue`. What a spreadsheet would run as a
        formula is guarded: a path by `./`, other text by an apostrophe. Note that `datasets` reads names such as `NA`
        or `null` as missing; the numbers of the classes are beside them.

    Raises:
        ExportError: if a sample has neither path nor id, or its file is not in or below `folder`.

    Example:
        >>> rows = pa.table({
        ...     "index": [7], "sample_id": ["=7.png"], "path": ["=7.png"], "given_label": [0], "given_name": ["cat"],
        ...     "predicted_label": [1], "predicted_name": ["dog"], "label_score": [0.1], "is_label_issue": [True]})
        >>> huggingface_metadata(rows).splitlines()[1]
        './=7.png,7,0,cat,1,dog,0.1,True'
        >>> huggingface_metadata(rows, "pets", image_root="pets/cats").splitlines()[1]
        'cats/=7.png,7,0,cat,1,dog,0.1,True'
    """
    root = os.fspath(folder) if image_root is None or is_url(image_root) else image_root
    cells = [
        [_file_name(place, os.fspath(folder), root), *(row[column] for column in _COLUMNS)]
        for row, place in zip(rows.to_pylist(), sample_places(rows), strict=True)
    ]
    return csv_text(["file_name", *_COLUMNS], cells)


def _file_name(place: str, folder: str, root: str) -> str:
    if "://" in place:
        raise ExportError(
            f"an image folder of Hugging Face has files, and {quote(place)} is a URL. Download the images, and give"
            " the run's dataset their paths."
        )
    relative = os.path.relpath(file_below(root, place), folder).replace(os.sep, "/")
    if relative.startswith("../"):
        raise ExportError(
            f"metadata.csv has to be in a folder above the images, and {quote(place)} below {quote(root)} is not in"
            f" {quote(folder)}. Write it into the folder of the images."
        )
    return relative if guarded(relative) == relative else f"./{relative}"
