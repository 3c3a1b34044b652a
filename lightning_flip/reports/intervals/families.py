"""Several claims at once: p-values that are adjusted for their number."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from lightning_flip.reports.intervals._checks import Floats

__all__ = ["holm"]


def holm(p: npt.ArrayLike) -> Floats:
    r"""Adjusted p-values of a family of claims (Holm, 1979, "A simple sequentially rejective multiple test procedure").

    With :math:`p_{(1)} \le \dots \le p_{(G)}`, the j-th smallest becomes :math:`\max_{i \le j} \min(1, (G - i + 1)
    p_{(i)})`. Rejecting those of at most `error` rejects any true claim with a chance of at most `error`, however the
    p-values depend on each other, and rejects whatever Bonferroni does.

    Args:
        p: [G], p-values in [0, 1].

    Returns:
        [G], adjusted p-values in [0, 1], in the order of `p`.

    Raises:
        ValueError: if `p` is not a list of numbers in [0, 1].

    Example:
        >>> holm([0.01, 0.04, 0.03, 0.005])
        array([0.03, 0.06, 0.06, 0.02])
    """
    values = np.asarray(p, np.float64)
    if values.ndim != 1 or not ((values >= 0) & (values <= 1)).all():
        raise ValueError(f"p must be a list of numbers in [0, 1], got {p!r}.")
    order = np.argsort(values, kind="stable")
    adjusted = np.empty_like(values)
    adjusted[order] = np.maximum.accumulate(np.minimum(values[order] * np.arange(len(values), 0, -1), 1.0))
    return adjusted
