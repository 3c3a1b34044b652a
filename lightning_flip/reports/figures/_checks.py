"""Checks of the arrays and options of figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeVar

import numpy as np
import numpy.typing as npt

__all__ = ["Floats", "as_named", "check_bins", "check_finite", "check_flags", "check_labels", "check_shares"]

Floats = npt.NDArray[np.floating]
_Kind = TypeVar("_Kind")

_ROUNDING = 1e-6  # a mean of float32 probabilities may be that far above 1


def as_named(named: _Kind | Mapping[str, _Kind], kind: type[_Kind], argument: str = "named") -> dict[str, _Kind]:
    """One thing without a name, or several by name, as a dictionary; the name of a single one is ""."""
    if isinstance(named, kind):
        return {"": named}
    if not isinstance(named, Mapping) or not all(isinstance(one, kind) for one in named.values()):
        raise TypeError(
            f"{argument} must be a {kind.__name__}, or several of them by name; got {type(named).__name__}."
        )
    if not named:
        raise ValueError(f"{argument} must hold at least one {kind.__name__}, got none.")
    return {str(name): one for name, one in named.items()}


def check_bins(n_bins: int) -> None:
    """Refuse a number of bins below 1."""
    if n_bins < 1:
        raise ValueError(f"n_bins must be at least 1, got {n_bins}.")


def check_finite(name: str, values: npt.ArrayLike, shape: Sequence[int | None]) -> Floats:
    """Finite float64 values of the given shape, in which None is any length."""
    array = np.asarray(values, dtype=np.float64)
    fits = array.ndim == len(shape) and all(
        want is None or want == length for want, length in zip(shape, array.shape, strict=True)
    )
    if not fits or array.size == 0:
        expected = ", ".join("any" if want is None else str(want) for want in shape)
        raise ValueError(f"{name} must have the shape [{expected}]; got {list(array.shape)}.")
    if not np.isfinite(array).all():
        raise ValueError(f"{name} must be finite; leave out rows that were never visited, or diverged.")
    return array


def check_shares(name: str, values: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Probabilities ``[N]`` as float64 in [0, 1], without what rounding put outside."""
    array = check_finite(name, values, (None,))
    outside = array[(array < -_ROUNDING) | (array > 1 + _ROUNDING)]
    if len(outside):
        raise ValueError(
            f"{name} must be probabilities in [0, 1], got {outside[0]:g} ({len(outside)} such samples);"
            " logits go through a softmax first, and percentages are divided by 100."
        )
    return array.astype(np.float64).clip(0, 1)


def check_labels(name: str, labels: npt.ArrayLike, count: int | None = None) -> npt.NDArray[np.int64]:
    """Classes ``[N]`` as int64, not negative; N is at least 1, or ``count``."""
    array = np.asarray(labels)
    if array.ndim != 1 or array.size == 0 or array.size != (array.size if count is None else count):
        expected = "[N], at least one sample" if count is None else f"[{count}]"
        raise ValueError(f"{name} must have the shape {expected}; got {list(array.shape)}.")
    if array.dtype.kind not in "iu":
        raise ValueError(f"{name} must be integers, the number of a class; got {array.dtype}.")
    if int(array.min()) < 0:
        raise ValueError(f"{name} must not be negative, got {array.min()}; leave out samples whose class is unknown.")
    return array.astype(np.int64)


def check_flags(name: str, flags: npt.ArrayLike, count: int) -> npt.NDArray[np.bool_]:
    """Bool ``[count]``."""
    array = np.asarray(flags)
    if array.dtype != np.bool_:
        raise TypeError(f"{name} must be bool [N], got {array.dtype}; compare predictions and labels first.")
    if array.shape != (count,):
        raise ValueError(f"{name} must have the shape [{count}]; got {list(array.shape)}.")
    return array
