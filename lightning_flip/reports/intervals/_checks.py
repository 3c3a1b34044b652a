"""Shared by the bounds: checks of their arguments, and scipy's special functions."""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType

import numpy as np
import numpy.typing as npt

__all__ = ["Floats", "Numbers", "check_counts", "check_inside", "check_limit", "scale_counts", "special_functions"]

Floats = npt.NDArray[np.float64]
# One number or an array of numbers.
Numbers = npt.NDArray[np.integer] | npt.NDArray[np.floating] | Sequence[int] | Sequence[float] | int | float


def special_functions() -> ModuleType:
    """Import `scipy.special` at first use: only bounds and tests need it, and it is an optional package."""
    try:
        import scipy.special
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "Exact bounds and tests need scipy, which is not installed: pip install 'lightning-flip[report]'.",
            name=error.name,
        ) from error
    module: ModuleType = scipy.special
    return module


def check_counts(count: Numbers, total: Numbers) -> tuple[Floats, Floats]:
    """Broadcast counts and totals, and check that they are whole numbers with count <= total."""
    counts, totals = np.broadcast_arrays(np.asarray(count, np.float64), np.asarray(total, np.float64))
    # Comparisons with NaN are false, hence the check for what is right.
    right = (counts >= 0) & (counts <= totals) & (counts == np.floor(counts)) & (totals == np.floor(totals))
    right &= np.isfinite(totals)
    if not right.all():
        place = np.flatnonzero(~right.ravel())[0]
        raise ValueError(
            f"Counts must be whole numbers from 0 to their total, got {counts.ravel()[place]:g} of "
            f"{totals.ravel()[place]:g}."
        )
    return counts, totals


def check_inside(name: str, value: Numbers, low: float, high: float) -> None:
    """Check that numbers are strictly between two others."""
    numbers = np.asarray(value)
    if not ((low < numbers) & (numbers < high)).all():
        raise ValueError(f"{name} must be between {low:g} and {high:g}, got {value}.")


def check_limit(limit: float, low: float, high: float) -> None:
    """Check that a limit is a value that the quantity can have."""
    if not low <= limit <= high:
        raise ValueError(f"limit must be in [{low:g}, {high:g}], got {limit}.")


def scale_counts(count: Numbers, total: Numbers, effective: Numbers | None) -> tuple[Floats, Floats]:
    """Check counts, and scale both to the number of independent samples that the total is worth."""
    counts, totals = check_counts(count, total)
    if effective is None:
        return counts, totals
    worth = np.asarray(effective, np.float64)
    counts, totals, worth = np.broadcast_arrays(counts, totals, worth)
    # Comparisons with NaN are false, hence the check for what is right.
    right = ((worth > 0) | (totals == 0)) & (worth <= totals)
    if not right.all():
        place = np.flatnonzero(~right.ravel())[0]
        raise ValueError(
            f"effective must be above 0 and at most the number of samples, got {worth.ravel()[place]:g} for "
            f"{totals.ravel()[place]:g}."
        )
    return counts * (worth / np.maximum(totals, 1)), worth
