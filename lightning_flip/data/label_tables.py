"""Files and arrays of label distributions: read, checked, and scaled to sum to 1."""

from __future__ import annotations

import zipfile
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

__all__ = ["as_label_distributions", "load_label_distributions"]

_ARRAY_NAMES = ("probs", "probabilities", "label_distributions", "distributions", "p_star")
_ID_COLUMNS = frozenset({"id", "image_id", "index", "sample", "sample_id"})
_SUM_TOLERANCE = 1e-3  # of rows written with three or more decimals, or in half precision


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
            or p_star; or ``.parquet`` with a column a class, in the order of the classes, or one column of lists.
            Pickled objects are refused.
        num_samples: N that is expected; None takes what there is.
        num_classes: K that is expected; None takes what there is.
        normalize: rows are counts of votes; divide each by its sum.
        name: the array of an ``.npz``, or the column of lists of a Parquet file, where it cannot be told.

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
    """Check a table of label distributions, and make each row sum to 1 exactly.

    Args:
        probs: ``[N, K]``, not negative, finite; rows sum to 1 within 0.001, or are counts of votes (``normalize``).
        num_samples: N that is expected, or None.
        num_classes: K that is expected, or None.
        normalize: divide each row by its sum.
        where: what messages call the table.

    Returns:
        float32 ``[N, K]``.

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
        raise ValueError(f"{where} has the shape {array.shape}; expected [N, K]: a row a sample, a column a class.")
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
        with path.open("rb") as stream:
            loaded = np.load(stream, allow_pickle=False)
            if isinstance(loaded, np.ndarray):
                return loaded
            return np.asarray(loaded[_choose(path, loaded.files, name, "arrays")])
    except _ChoiceError:
        raise
    except (ValueError, EOFError, OSError, MemoryError, zipfile.BadZipFile) as error:
        raise ValueError(
            f"path={path} is not an array of numbers that could be read ({error}). Objects are not unpickled; save the "
            "table again as numbers, with numpy.save(path, numpy.asarray(table, float))."
        ) from error


def _from_parquet(path: Path, name: str | None) -> npt.NDArray[Any]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path)
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"path={path} could not be read as Parquet: {error}") from error
    lists = [field.name for field in table.schema if _is_list(field.type)]
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
    """The array cannot be told from its name."""


def _choose(path: Path, names: list[str], name: str | None, what: str) -> str:
    if name is not None and name in names:
        return name
    if name is None and len(names) == 1:
        return names[0]
    known = next((known for known in _ARRAY_NAMES if known in names), None)
    if name is None and known is not None:
        return known
    raise _ChoiceError(f"path={path} has the {what} {', '.join(names)}; say with name= which has the distributions.")


def _is_list(kind: Any) -> bool:
    import pyarrow.types as types

    return bool(types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind))
