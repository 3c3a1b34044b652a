"""Files of labels and of label distributions, one row per sample in the dataset's order."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from lightning_flip.stores.files import ARRAY_DAMAGE, read_array

__all__ = ["as_label_distributions", "load_label_distributions", "read_labels"]

_LABELS = ("noisy_targets", "noisy_labels", "noisy_label", "targets", "target", "labels", "label", "y")
_DISTRIBUTIONS = ("probs", "probabilities", "label_distributions", "distributions", "p_star")
_ID_COLUMNS = frozenset({"id", "image_id", "index", "sample", "sample_id"})
_SUM_TOLERANCE = 1e-3  # of rows written with three or more decimals, or in half precision


def read_labels(path: Path, length: int, num_classes: int | None = None) -> Tensor:
    """Read the label of each of ``length`` samples, int64 ``[length]``, from .npy, .npz, .txt or .csv."""
    suffix = path.suffix.lower()
    if suffix in (".npy", ".npz"):
        array = read_array(path, lambda names: _choose_labels(path, names, "arrays"))
    elif suffix == ".txt":
        array = np.loadtxt(path, ndmin=1)
    elif suffix == ".csv":
        array = _labels_from_csv(path)
    else:
        raise ValueError(f"file={path} must end in one of .npy, .npz, .txt, .csv; save the labels with numpy.save.")
    array = np.squeeze(array)
    array = array.reshape(1) if array.size == 1 else array
    if array.shape != (length,):
        raise ValueError(
            f"file={path} has labels of shape {array.shape}; expected {length}, one for each sample, in the "
            "order of the dataset. For a Subset, wrap the whole dataset and take the subset of NoisyLabels."
        )
    if array.dtype.kind not in "iub" and not (array.dtype.kind == "f" and np.equal(array, np.round(array)).all()):
        raise ValueError(f"file={path} holds {array.dtype} values; expected class numbers (integers from 0).")
    top = num_classes if num_classes is not None else np.iinfo(np.int64).max
    if length and not 0 <= array.min() <= array.max() < top:
        allowed = f"[0, {num_classes})" if num_classes is not None else "numbers from 0"
        raise ValueError(
            f"file={path} holds labels from {array.min()} to {array.max()}; expected {allowed}. "
            "Count classes from 0, or give num_classes=."
        )
    return torch.from_numpy(array.astype(np.int64))


def _labels_from_csv(path: Path) -> npt.NDArray[np.float64]:
    with path.open(newline="", encoding="utf-8") as stream:
        rows = [row for row in csv.reader(stream) if row]
    column = 0
    if rows and not all(_is_number(cell) for cell in rows[0]):
        header = [cell.strip() for cell in rows.pop(0)]
        column = header.index(_choose_labels(path, header, "columns"))
    elif rows and len(rows[0]) > 1:
        raise ValueError(f"file={path} has {len(rows[0])} columns without names; add a header with a column label.")
    try:
        return np.array([float(row[column]) for row in rows])
    except (ValueError, IndexError) as error:
        raise ValueError(f"file={path} has a row without a class number in its label column: {error}.") from None


def _choose_labels(path: Path, names: list[str], what: str) -> str:
    chosen = _usual(names, _LABELS)
    if chosen is not None:
        return chosen
    raise ValueError(f"file={path} has the {what} {', '.join(names)}; name the one with the labels 'label'.")


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def load_label_distributions(
    path: str | PathLike[str],
    *,
    num_samples: int | None = None,
    num_classes: int | None = None,
    normalize: bool = False,
    name: str | None = None,
) -> Tensor:
    """Read a table of label distributions, row = sample, column = class.

    CIFAR-10H (Peterson et al. 2019) is read as it comes: ``cifar10h-probs.npy`` is a ``[10000, 10]`` array of the votes
    of about 51 people for each image of CIFAR-10's *test* set, in its order, classes in CIFAR-10's order;
    ``cifar10h-counts.npy`` holds the votes themselves (``normalize=True``).

    Args:
        path: ``.npy``; ``.npz`` with one array, or one named probs, probabilities, label_distributions, distributions
            or p_star; or ``.parquet`` with a column per class, in the order of the classes, or one column of lists.
            Pickled objects are refused.
        num_samples: N that is expected, or None.
        num_classes: K that is expected, or None.
        normalize: rows are counts of votes; divide each by its sum.
        name: the array of an ``.npz``, or the column of lists of a Parquet file, if it is ambiguous.

    Returns:
        float32 ``[N, K]``; rows sum to 1.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it cannot be read, has another form, or its rows are not distributions; the message names file
            and row.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     np.save(f"{folder}/votes.npy", np.array([[48, 3], [0, 51]]))
        ...     load_label_distributions(f"{folder}/votes.npy", normalize=True, num_samples=2)
        tensor([[0.9412, 0.0588],
                [0.0000, 1.0000]])
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"path={path} is not a file; expected a table of label distributions.")
    suffix = path.suffix.lower()
    if suffix in (".npy", ".npz"):
        table = _from_numpy(path, name)
    elif suffix in (".parquet", ".pq"):
        table = _from_parquet(path, name)
    else:
        raise ValueError(f"path={path} must end in .npy, .npz or .parquet; save the table with numpy.save.")
    return as_label_distributions(
        table, num_samples=num_samples, num_classes=num_classes, normalize=normalize, where=f"path={path}"
    )


def as_label_distributions(
    probs: npt.ArrayLike | Tensor,
    *,
    num_samples: int | None = None,
    num_classes: int | None = None,
    normalize: bool = False,
    where: str = "probs",
) -> Tensor:
    """Check a table of label distributions ``[N, K]``, and make each row sum to 1 exactly.

    Rows are finite, not negative and sum to 1 within 0.001, or with ``normalize`` are counts of votes. Other options
    are those of :func:`load_label_distributions`; ``where`` is the table's name in errors.

    Raises:
        ValueError: if the shape or a row is not as expected.

    Example:
        >>> as_label_distributions([[0.9996, 0.0], [0.25, 0.75]])
        tensor([[1.0000, 0.0000],
                [0.2500, 0.7500]])
    """
    array = probs.detach().cpu().double().numpy() if isinstance(probs, Tensor) else np.asarray(probs)
    if array.dtype.kind not in "iuf":
        raise ValueError(f"{where} holds {array.dtype} values; expected numbers [N, K].")
    if array.ndim != 2 or array.shape[1] < 2:
        raise ValueError(f"{where} has the shape {array.shape}; expected [N, K], a row for each sample.")
    if num_samples is not None and len(array) != num_samples:
        raise ValueError(
            f"{where} has {len(array)} rows; expected {num_samples}, one for each sample in the dataset's order. "
            "For a Subset, wrap the whole dataset and take the subset of LabelDistributions."
        )
    if num_classes is not None and array.shape[1] != num_classes:
        raise ValueError(f"{where} has {array.shape[1]} columns; expected {num_classes}, one for each class.")
    array = array.astype(np.float64)
    _refuse_rows(where, ~np.isfinite(array).all(axis=1), array, "is not finite; every class needs a number")
    _refuse_rows(where, (array < 0).any(axis=1), array, "is negative somewhere; expected probabilities or counts")
    sums = array.sum(axis=1, keepdims=True)
    if normalize:
        _refuse_rows(where, sums[:, 0] == 0, array, "has no votes; leave the sample out, or give it a distribution")
    else:
        wrong = np.abs(sums[:, 0] - 1) > _SUM_TOLERANCE
        _refuse_rows(where, wrong, array, "does not sum to 1; pass normalize=True if the rows are counts of votes")
    return torch.from_numpy((array / sums).astype(np.float32))


def _refuse_rows(where: str, wrong: Any, array: npt.NDArray[np.float64], what: str) -> None:
    if wrong.any():
        row = int(wrong.argmax())
        shown = np.array2string(array[row], precision=4, threshold=12, edgeitems=4, max_line_width=1000)
        others = f" ({int(wrong.sum())} rows are like this)" if wrong.sum() > 1 else ""
        raise ValueError(f"{where}: row {row}, {shown}, {what}{others}.")


def _from_numpy(path: Path, name: str | None) -> npt.NDArray[Any]:
    try:
        return read_array(path, lambda names: _choose(path, names, name, "arrays"))
    except _ChoiceError:
        raise
    except ARRAY_DAMAGE as error:
        raise ValueError(
            f"path={path} is not an array of numbers that could be read ({error}). Objects are not unpickled; save the "
            "table again as numbers, with numpy.save(path, numpy.asarray(table, float))."
        ) from error


def _from_parquet(path: Path, name: str | None) -> npt.NDArray[Any]:
    try:
        table = pq.read_table(path)
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"path={path} could not be read as Parquet: {error}") from error
    kinds = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
    lists = [field.name for field in table.schema if any(is_kind(field.type) for is_kind in kinds)]
    if lists:
        column = table[_choose(path, lists, name, "columns of lists")].combine_chunks()
        if column.null_count:
            raise ValueError(f"path={path}: {column.null_count} rows of the column of lists are null.")
        rows = column.to_pylist()
        widths = {len(row) for row in rows}
        if len(widths) > 1:
            raise ValueError(f"path={path}: rows have {min(widths)} to {max(widths)} values; expected K everywhere.")
        return np.array([[np.nan if cell is None else cell for cell in row] for row in rows])
    names = [column for column in table.column_names if not column.startswith("__index_level_")]
    identifying = [column for column in names if column.lower() in _ID_COLUMNS]
    if identifying or name is not None:
        raise ValueError(
            f"path={path} has the columns {', '.join(names)}; expected one for each class and no other, or one column "
            "of lists. Rows are taken in the dataset's order: sort them, then drop columns that name samples."
        )
    arrays = [np.asarray(table[column].to_numpy()) for column in names]
    return np.stack(arrays, axis=1) if arrays else np.zeros((table.num_rows, 0))


class _ChoiceError(ValueError):
    """It is not clear which array holds the distributions."""


def _choose(path: Path, names: list[str], name: str | None, what: str) -> str:
    chosen = _usual(names, _DISTRIBUTIONS) if name is None else name
    if chosen is not None and chosen in names:
        return chosen
    raise _ChoiceError(f"path={path} has the {what} {', '.join(names)}; say with name= which has the distributions.")


def _usual(names: Sequence[str], known: Sequence[str]) -> str | None:
    """The only name, or else the first of the known ones that is among them."""
    return names[0] if len(names) == 1 else next((name for name in known if name in names), None)
