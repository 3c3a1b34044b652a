"""What all exports need of the suspects: a name for every sample, a place below a root, and a text for every class."""

from __future__ import annotations

import collections
import os
from collections.abc import Sequence
from urllib.parse import quote

import pyarrow as pa

from lightning_flip.reports.text import quote as quoted
from lightning_flip.reports.text import shorten

__all__ = ["ExportError", "class_choices", "file_below", "is_url", "sample_places", "url_below"]

_LONGEST_CHOICE = 100


class ExportError(ValueError):
    """Another tool cannot use these suspects as they are; the message has the way out."""


def class_choices(
    rows: pa.Table, class_names: Sequence[str] | None = None, num_classes: int | None = None
) -> list[str]:
    r"""One text for each class, for a person to choose from: one line, all different; the place is the class.

    Args:
        rows: what `History.suspects` gives.
        class_names: names of the classes; the number stands for a class without a name.
        num_classes: the number K of classes; at least as many as `rows` and `class_names` have.

    Returns:
        K texts. Line breaks become spaces, what cannot be printed is left out, and a name over 100 characters is cut in
        the middle. Names that are equal then get the number of their class.

    Example:
        >>> rows = pa.table({"given_label": [0], "predicted_label": [2]})
        >>> class_choices(rows, ["crane", "two\nlines", "crane"], num_classes=4)
        ['crane (0)', 'two lines', 'crane (2)', '3']
    """
    names = list(class_names or ())
    known = [label for name in ("given_label", "predicted_label") for label in rows[name].to_pylist()]
    count = max([num_classes or 0, len(names), *(label + 1 for label in known if label is not None)])
    texts = [shorten(names[label], _LONGEST_CHOICE) if label < len(names) else str(label) for label in range(count)]
    numbered = texts
    while len(set(numbered)) < count:  # a name may look like another one with its number
        often = collections.Counter(numbered)
        numbered = [f"{text} ({label})" if often[text] > 1 else text for label, text in enumerate(numbered)]
    return numbered


def sample_places(rows: pa.Table) -> list[str]:
    """The path of each sample, else its id.

    Raises:
        ExportError: if a sample has neither.
    """
    index = rows["index"].to_pylist()
    names = [path or name for path, name in zip(rows["path"].to_pylist(), rows["sample_id"].to_pylist(), strict=True)]
    missing = [number for number, name in zip(index, names, strict=True) if not name]
    if missing:
        raise ExportError(
            f"{len(missing)} of {len(names)} samples have neither a path nor an id (the first one: index {missing[0]}),"
            " so that another tool could not find them. Give the training dataset a method sample_id(index) that"
            " returns the sample's file, or name an attribute or column with PredictionHistory(sample_id_from=...);"
            " torchvision's ImageFolder has paths by itself. Then record the run again."
        )
    return [str(name) for name in names]


def is_url(place: str) -> bool:
    """Whether a place is a URL, or a path of Label Studio's own server, and not a file."""
    return "://" in place or place.startswith("/data/")


def url_below(root: str, place: str) -> str:
    """The URL of a sample's place below a root that is a URL; a place that is a URL already stays as it is.

    Example:
        >>> url_below("/data/local-files/?d=birds", "crane/a b&c.png")
        '/data/local-files/?d=birds/crane/a%20b%26c.png'
        >>> url_below("https://example.org/birds/", "https://other.org/1.png")
        'https://other.org/1.png'
    """
    if "://" in place:
        return place
    if ".." in place.split("/"):
        raise _outside(root, place)
    return f"{root}{'' if root.endswith(('/', '=')) else '/'}{quote(place.lstrip('/'))}"


def file_below(root: str, place: str) -> str:
    """The path of a sample's file below a folder.

    Raises:
        ExportError: if the file would be outside of the folder.
    """
    folder = os.path.normpath(root)
    path = os.path.normpath(os.path.join(folder, place))
    if os.path.commonpath([os.path.abspath(folder), os.path.abspath(path)]) != os.path.abspath(folder):
        raise _outside(root, place)
    return path


def _outside(root: str, place: str) -> ExportError:
    return ExportError(
        f"{quoted(place)} is not below {quoted(root)}, so that it is not exported. Give as image root the folder or"
        " URL that all samples are below."
    )
