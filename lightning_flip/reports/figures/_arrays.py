"""Arrays that reports are made of, checked: shares, labels and flags of samples."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from lightning_flip.reports.figures.drawing import checked_probs

__all__ = ["checked_flags", "checked_labels", "checked_shares"]

_ROUNDING = 1e-6  # a mean of float32 probabilities may be that far above 1


def checked_shares(name: str, values: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """See to it that an array holds a probability for each sample.

    Returns float64 ``[N]`` in [0, 1]; what rounding had put outside lies on the end.

    Args:
        name: what messages call it.
        values: ``[N]``, at least one.

    Example:
        >>> checked_shares("scores", [0.25, 1.0000001])
        array([0.25, 1.  ])
    """
    array = checked_probs(name, values, (None,))
    outside = array[(array < -_ROUNDING) | (array > 1 + _ROUNDING)]
    if len(outside):
        raise ValueError(
            f"{name} must be probabilities in [0, 1], got {outside[0]:g} ({len(outside)} such samples);"
            " logits go through a softmax first, and percentages are divided by 100."
        )
    return array.astype(np.float64).clip(0, 1)


def checked_labels(name: str, labels: npt.ArrayLike, count: int | None = None) -> npt.NDArray[np.int64]:
    """See to it that an array holds a class for each sample. Returns int64 ``[N]``.

    Args:
        name: what messages call it.
        labels: integers ``[N]``, not negative, at least one.
        count: N, where another array says it.

    Example:
        >>> checked_labels("label", [0, 2, 1], 3)
        array([0, 2, 1])
    """
    array = np.asarray(labels)
    if array.ndim != 1 or array.size == 0 or array.size != (array.size if count is None else count):
        expected = "[N], at least one sample" if count is None else f"[{count}]"
        raise ValueError(f"{name} must have the shape {expected}; got {list(array.shape)}.")
    if array.dtype.kind not in "iu":
        raise ValueError(f"{name} must be integers, the number of a class; got {array.dtype}.")
    if int(array.min()) < 0:
        raise ValueError(f"{name} must not be negative, got {array.min()}; leave out samples whose class is unknown.")
    return array.astype(np.int64)


def checked_flags(name: str, flags: npt.ArrayLike, count: int) -> npt.NDArray[np.bool_]:
    """See to it that an array says yes or no for each sample. Returns bool ``[N]``.

    Args:
        name: what messages call it.
        flags: bool ``[N]``.
        count: N, as another array says it.

    Example:
        >>> checked_flags("is_noisy", [True, False], 2)
        array([ True, False])
    """
    array = np.asarray(flags)
    if array.dtype != np.bool_:
        raise TypeError(f"{name} must be bool [N], got {array.dtype}; compare predictions and labels first.")
    if array.shape != (count,):
        raise ValueError(f"{name} must have the shape [{count}]; got {list(array.shape)}.")
    return array
