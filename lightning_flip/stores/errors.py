"""Errors of recording and reading histories, predictions and soft targets."""

from __future__ import annotations

__all__ = ["ClaimLostError", "HistoryError", "PredictionError", "ReviewError"]


class ClaimLostError(RuntimeError):
    """The folder that a run is recorded into is gone, or another run's.

    The message names the folder, what became of it, and what to do. Nothing was written.
    """


class HistoryError(ValueError):
    """A recorded history is missing, damaged or incomplete.

    The message names the file, what is wrong with it, and what to do about it.
    """


class PredictionError(ValueError):
    """A file of predictions cannot be read, or two of them do not belong together.

    The message names the file, what was expected, what came, and the way out.
    """


class ReviewError(ValueError):
    """A reviewed list or a file of corrected labels cannot be read, contradicts itself, or belongs to other data.

    The message names the file and the row, what was expected, what came, and the way out.
    """
