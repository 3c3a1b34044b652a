"""Exit statuses, the same for every subcommand."""

from __future__ import annotations

import enum

__all__ = ["Status"]


class Status(enum.IntEnum):
    """What the process ends with.

    Attributes:
        PASS: done; of a gate, every limit holds.
        FAIL: a gate's limit is broken. Nothing but a gate returns it.
        MISUSE: wrong usage, input that cannot be read, output that cannot be written, something not installed.
        INCONCLUSIVE: a gate has too few samples to decide.

    Example:
        >>> int(Status.INCONCLUSIVE)
        3
    """

    PASS = 0
    FAIL = 1
    MISUSE = 2
    INCONCLUSIVE = 3
