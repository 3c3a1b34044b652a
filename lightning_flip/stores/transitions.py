"""Files that hold a matrix of label noise."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lightning_flip.stores.files import ARRAY_DAMAGE, atomic_write, make_directory, read_array

__all__ = ["read_transition", "write_transition"]

NAME = "transition"


def read_transition(path: str | Path) -> NDArray[np.float64]:
    r"""Read a matrix ``[K, K]`` of label noise; its numbers are not checked.

    Args:
        path: ``.npz`` (the array ``transition``, or the only one), ``.npy``, or ``.csv`` (K lines of K numbers with
            commas between them, no header). Pickled arrays are refused.

    Returns:
        float64 ``[K, K]``.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the kind of file is unknown, or it holds no square matrix of numbers.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = Path(folder, "T.csv").write_text("0.9,0.1\n0,1\n")
        ...     read_transition(Path(folder, "T.csv")).tolist()
        [[0.9, 0.1], [0.0, 1.0]]
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in (".npz", ".npy", ".csv"):
        raise ValueError(f"a transition is read from .npz, .npy, .csv; got {path}.")
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path} to read a transition from.")
    try:
        matrix = np.loadtxt(path, delimiter=",", ndmin=2) if suffix == ".csv" else read_array(path, _choose)
        numbers = matrix.astype(np.float64) if matrix.dtype.kind in "fiub" else None
    except ARRAY_DAMAGE as error:
        raise ValueError(f"{path} holds no matrix of numbers: {error}") from error
    if numbers is None or numbers.ndim != 2 or numbers.shape[0] != numbers.shape[1]:
        raise ValueError(
            f"{path} must hold a square matrix of numbers, K x K for K classes; got {matrix.dtype} of shape "
            f"{matrix.shape}."
        )
    return numbers


def write_transition(
    path: str | Path, transition: NDArray[np.floating[Any]], *, overwrite: bool = True, **facts: float
) -> None:
    """Write a matrix atomically, with numbers that belong to it.

    Args:
        path: ends in ``.npz``; its folder is made.
        transition: ``[K, K]``.
        overwrite: replace a file that is there.
        **facts: numbers by name.

    Raises:
        ValueError: for another suffix.
        FileExistsError: if the file is there and ``overwrite`` is not set.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_transition(Path(folder, "T.npz"), np.eye(2), condition_number=1.0)
        ...     with np.load(Path(folder, "T.npz")) as archive:
        ...         sorted(archive), float(archive["condition_number"])
        (['condition_number', 'transition'], 1.0)
    """
    path = Path(path)
    if path.suffix != ".npz":
        raise ValueError(f"path must name a file that ends in .npz; got {str(path)!r}.")
    make_directory(path.absolute().parent)
    arrays: dict[str, Any] = {NAME: np.asarray(transition, dtype=np.float64), **facts}
    with atomic_write(path, replace=overwrite) as temporary, temporary.open("wb") as stream:
        np.savez(stream, **arrays)


def _choose(names: list[str]) -> str:
    if NAME not in names and len(names) != 1:
        raise ValueError(f"it has the arrays {', '.join(names) or 'none'}; name the matrix {NAME!r}.")
    return NAME if NAME in names else names[0]
