"""Hooks that a callback leaves as they are need not be called in every step."""

from __future__ import annotations

import lightning.pytorch as pl

__all__ = ["STEP_HOOKS", "restore_hooks", "skip_unused_hooks"]

STEP_HOOKS = (
    "on_train_batch_start",
    "on_train_batch_end",
    "on_before_zero_grad",
    "on_before_backward",
    "on_after_backward",
    "on_before_optimizer_step",
    "on_validation_batch_start",
    "on_test_batch_start",
)


def skip_unused_hooks(callback: pl.Callback, trainer: pl.Trainer) -> None:
    """Have Lightning pass over a callback in the step hooks that its class does not implement, while a fit runs.

    Lightning enters its profiler and calls a hook wherever ``getattr(callback, hook)`` is callable, about 2 us each. A
    callback that another one forwards its hooks to is not the Trainer's and keeps them.
    """
    if not any(listed is callback for listed in trainer.callbacks):  # type: ignore[attr-defined]
        return
    for name in STEP_HOOKS:
        if getattr(type(callback), name) is getattr(pl.Callback, name):
            vars(callback)[name] = None


def restore_hooks(callback: pl.Callback) -> None:
    """Undo :func:`skip_unused_hooks`."""
    for name in STEP_HOOKS:
        if vars(callback).get(name, callback) is None:
            del vars(callback)[name]
