"""What goes wrong while a recorded history is read."""

from __future__ import annotations

__all__ = ["HistoryError"]


class HistoryError(ValueError):
    """A recorded history is missing, damaged or incomplete.

    The message names the file, what is wrong with it, and what to do about it.

    Example:
        >>> import tempfile
        >>> from lightning_flip.stores import read_history
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     try:
        ...         read_history(folder)
        ...     except HistoryError as error:
        ...         print("run.json" in str(error))
        True
    """
