"""Work that the first rank does for all."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import lightning.pytorch as pl

__all__ = ["on_first_rank"]


def on_first_rank(trainer: pl.Trainer, work: Callable[[], Any]) -> Any:
    """What ``work`` gives on the first rank; its exception is raised on all ranks, so that none waits for good."""
    problem: Exception | None = None
    answer, text, exists = None, "", False
    if trainer.is_global_zero:
        try:
            answer = work()
        except Exception as error:  # raised below, when the others know
            problem, exists = error, isinstance(error, FileExistsError)
            text = (
                (str(error) or "a file exists already")
                if exists
                else f"the first rank failed: {type(error).__name__}: {error}"
            )
    answer, text, exists = trainer.strategy.broadcast((answer, text, exists))
    if problem is not None:
        raise problem
    if text:
        raise FileExistsError(text) if exists else RuntimeError(text)
    return answer
