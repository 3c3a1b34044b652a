"""What goes wrong while histories and predictions are recorded or read."""

from __future__ import annotations

__all__ = ["ClaimLostError", "HistoryError", "PredictionError"]


class ClaimLostError(RuntimeError):
    """The folder that a run is recorded into is gone, or another run's.

    The message names the folder, what became of it, and what to do. Nothing was written.

    Example:
        >>> import shutil, tempfile
        >>> from lightning_flip.stores import claim
        >>> folder = tempfile.mkdtemp()
        >>> ours = claim(folder)
        >>> shutil.rmtree(folder)
        >>> try:
        ...     ours.check()
        ... except ClaimLostError as error:
        ...     print("Nothing was written" in str(error))
        True
    """


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


class PredictionError(ValueError):
    """A file of predictions cannot be read, or two of them do not belong together.

    The message names the file, what was expected, what came, and the way out.

    Example:
        >>> from lightning_flip.stores import read_predictions
        >>> try:
        ...     read_predictions("no-such-file.parquet")
        ... except PredictionError as error:
        ...     print(str(error)[:35])
        no-such-file.parquet does not exist
    """
