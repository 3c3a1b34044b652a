"""Suspects as records of Argilla (version 2), each with the suggested class."""

from __future__ import annotations

import json
from collections.abc import Sequence

import pyarrow as pa

from lightning_flip.reports.exports._samples import file_below, is_url, sample_places, url_below

__all__ = ["argilla_records"]


def argilla_records(rows: pa.Table, choices: Sequence[str], *, image_root: str | None = None) -> str:
    """The suspects as dictionaries that Argilla's `dataset.records.log` takes, and the labels of its question.

    Args:
        rows: what `History.suspects` gives.
        choices: one text per class, see `class_choices`.
        image_root: folder or URL that the samples' paths (or ids) are below; Argilla reads files when it logs them.

    Returns:
        JSON in ASCII, an object of `labels` (the text of each class by its number, for `rg.LabelQuestion`) and
        `records`. A record has an `id` (the sample's index), the field `image`, the suggestion `label` (the number of
        the class, as text), `score` (the class's mean probability), and the metadata `sample_id`, `given_label` and
        `label_score`. What a sample lacks is left out.

    Raises:
        ExportError: if a sample has neither path nor id, or its file is not below `image_root`.

    Example:
        >>> rows = pa.table({
        ...     "index": [7], "sample_id": ["cat/7.png"], "path": ["cat/7.png"], "given_label": [0],
        ...     "predicted_label": [1], "label_score": [0.1], "mean_prob_predicted": [0.85]})
        >>> content = json.loads(argilla_records(rows, ["cat", "dog"], image_root="pets"))
        >>> content["labels"]
        {'0': 'cat', '1': 'dog'}
        >>> content["records"]
        [{'id': '7', 'image': 'pets/cat/7.png', 'label': '1', 'score': 0.85, 'sample_id': 'cat/7.png',
          'given_label': 'cat', 'label_score': 0.1}]
    """
    records = []
    for row, place in zip(rows.to_pylist(), sample_places(rows), strict=True):
        label, suggestion = row["given_label"], row["predicted_label"]
        record = {
            "id": str(row["index"]),
            "image": _image(place, image_root),
            "label": None if suggestion is None else str(suggestion),
            "score": row["mean_prob_predicted"],
            "sample_id": row["sample_id"],
            "given_label": None if label is None else choices[label],
            "label_score": row["label_score"],
        }
        records.append({name: value for name, value in record.items() if value is not None})
    labels = {str(label): text for label, text in enumerate(choices)}
    return json.dumps({"labels": labels, "records": records}, indent=1, allow_nan=False) + "\n"


def _image(place: str, root: str | None) -> str:
    if root is None or "://" in place:
        return place
    return url_below(root, place) if is_url(root) else file_below(root, place)
