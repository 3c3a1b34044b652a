"""Losses of logits in which classes are masked with minus infinity: those of the classes that are left, in numpy.

A masked class has the probability 0, and 0 log 0 = 0. So a loss whose target has no mass on a masked class is the loss
of the other classes by themselves, and no gradient flows into a masked logit.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from tests.oracles.retrospection import Bools, Floats

__all__ = ["left", "margin"]

Pair = tuple[float, Floats]


def left(pair: Callable[..., Pair], z: Floats, label: int, *rows: Floats) -> Pair:
    """The loss of one sample and its gradient by all logits, from a loss that knows nothing of masked classes.

    Args:
        pair: gives loss and gradient of logits, label and rows of classes that are not masked.
        z: logits [K].
        label: not masked.
        rows: [K] each, without mass on masked classes.
    """
    keep: Bools = z > -np.inf
    assert keep[label]
    loss, gradient = pair(z[keep], int(keep[:label].sum()), *(row[keep] for row in rows))
    by_z = np.zeros(len(z))
    by_z[keep] = gradient
    return loss, by_z


def margin(z: NDArray[np.float64], label: int) -> float:
    """z_y - max of the other classes that are not masked; infinite where there is none."""
    others = [value for k, value in enumerate(z) if k != label and value > -np.inf]
    return float(z[label] - max(others)) if others else float(np.inf)
