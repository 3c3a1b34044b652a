"""Opening a run's folder on all ranks, and giving it up again."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.utilities import rank_zero_warn

from lightning_flip.stores import discard_empty_run, list_parts, open_run, set_aside

__all__ = ["default_folder", "give_up_folder", "open_folder", "overwrite_ignored"]


def default_folder(trainer: pl.Trainer) -> Path:
    """Where a run is recorded if nobody says: beside the logger's files.

    Args:
        trainer: the running Trainer; every rank has to ask, for the answer is broadcast.

    Returns:
        The Trainer's ``log_dir``; without a logger a folder ``prediction_history`` of its own.
    """
    log_dir = trainer.log_dir
    if log_dir is not None and trainer.loggers:
        return Path(log_dir)
    return Path(trainer.default_root_dir) / "prediction_history"


def overwrite_ignored(trainer: pl.Trainer, *, known: bool, overwrite: bool) -> str:
    """Whether ``overwrite=True`` is ignored, because it would delete what a resumed run has recorded.

    A fit that resumes from a checkpoint without the callback's state cannot tell its own run from another one.

    Args:
        trainer: the running Trainer.
        known: whether the checkpoint knew the callback's run.
        overwrite: the callback's option.

    Returns:
        A sentence for the error; "" if the option applies.
    """
    if not overwrite or known or not trainer.ckpt_path:
        return ""
    return (
        " overwrite=True is ignored, because the fit resumes from a checkpoint (ckpt_path=) that holds no state of "
        "this callback. Choose another dirpath=, or move the folder away."
    )


def open_folder(
    trainer: pl.Trainer,
    folder: Path,
    run_id: str | None,
    finished: Sequence[tuple[str, int, int]],
    *,
    overwrite: bool,
    info: dict[str, Any],
) -> str:
    """Begin or continue a run; rank 0 does it, and all ranks hear of a refusal, so that none waits for the others.

    Args:
        trainer: the running Trainer.
        folder: the run's folder.
        run_id: id of the run that a checkpoint continues, or None.
        finished: ``(split, epoch, pass)`` of what the checkpoint knows as written.
        overwrite: remove another run's record.
        info: what ``run.json`` is to keep.

    Returns:
        The run's id.

    Raises:
        FileExistsError: if the folder holds another run.
    """
    problem: Exception | None = None
    if trainer.is_global_zero:
        ignored = overwrite_ignored(trainer, known=run_id is not None, overwrite=overwrite)
        try:
            run_id = open_run(folder, run_id=run_id, overwrite=overwrite and not ignored, info=info)
            orphans = set_aside(folder, finished)
            if orphans:
                rank_zero_warn(f"{len(orphans)} parts newer than the checkpoint were set aside as *.orphan.")
            there = {(key.split, key.epoch, key.pass_) for key in list_parts(folder)}
            missing = sorted(set(finished) - there)
            if missing:
                rank_zero_warn(
                    f"{folder} lacks {len(missing)} passes that were recorded before the checkpoint (the first: "
                    f"{missing[0]}). The history goes on without them, and what it says of earlier epochs is wrong. "
                    "Resume into the folder of the first run, or copy its history there."
                )
        except FileExistsError as error:
            problem = FileExistsError(f"{error}{ignored}")
        except (OSError, ValueError, TypeError) as error:
            problem = error
    run_id, text = trainer.strategy.broadcast((run_id, None if problem is None else str(problem)))
    if problem is not None:
        raise problem
    if text is not None:
        raise FileExistsError(text)
    assert run_id is not None
    return run_id


def give_up_folder(trainer: pl.Trainer, folder: Path, run_id: str) -> None:
    """Leave no trace of a run that failed before it recorded anything: its next attempt needs the folder.

    Args:
        trainer: the Trainer that failed.
        folder: the run's folder.
        run_id: the run's id.
    """
    if trainer.is_global_zero:
        discard_empty_run(folder, run_id)
