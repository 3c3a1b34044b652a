"""Cycles of equal length in a fixed number of epochs, and the cosine within each."""

from __future__ import annotations

import math

__all__ = ["cosine_of_cycle", "cycle_of"]


def cycle_of(epoch: int, total_epochs: int, cycles: int) -> int:
    """The cycle that an epoch is in, counted from 0: floor(e C / M); beyond M that of the last epoch.

    If M is not a multiple of C, the cycles' lengths differ by one epoch; if M is under C, each epoch is a cycle and
    some numbers are left out.

    Args:
        epoch: e, counted from 0.
        total_epochs: M >= 1.
        cycles: C >= 1.

    Raises:
        ValueError: if an argument is out of range.

    Example:
        >>> [cycle_of(epoch, 10, 4) for epoch in range(12)]
        [0, 0, 0, 1, 1, 2, 2, 2, 3, 3, 3, 3]
    """
    if total_epochs < 1 or cycles < 1 or epoch < 0:
        raise ValueError(
            f"cycles need total_epochs >= 1, cycles >= 1 and an epoch >= 0; got {total_epochs}, {cycles} and {epoch}."
        )
    return min(epoch, total_epochs - 1) * cycles // total_epochs


def cosine_of_cycle(epoch: int | float, total_epochs: int, cycles: int) -> float:
    """(1 + cos(pi i / n)) / 2 in the i-th of the n epochs of a cycle, i from 0.

    Args:
        epoch: e, counted from 0; 2.5 is half of the third epoch.
        total_epochs: M.
        cycles: C.

    Returns:
        1 in the first epoch of each cycle, falling towards 0 in its last one; 0 from M on.

    Example:
        >>> [round(cosine_of_cycle(epoch, 8, 2), 3) for epoch in range(9)]
        [1.0, 0.854, 0.5, 0.146, 1.0, 0.854, 0.5, 0.146, 0.0]
    """
    cycle = cycle_of(math.floor(epoch), total_epochs, cycles)
    if epoch >= total_epochs:
        return 0.0
    start, end = (-(-number * total_epochs // cycles) for number in (cycle, cycle + 1))
    return (1 + math.cos(math.pi * (epoch - start) / (end - start))) / 2
