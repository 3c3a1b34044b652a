"""What a class made of mixins must look like, checked when it is defined, and what its options may be."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from typing import Any

import lightning.pytorch as pl
import torch

from lightning_flip.steps.length import training_length

__all__ = [
    "accepted_arguments",
    "check_choices",
    "check_table_dtype",
    "owners_of",
    "schedule",
    "storage_dtype",
]


def accepted_arguments(
    function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Leave out what a step does not take: Lightning passes ``batch_idx`` only to steps that name it.

    Returns the arguments that the step takes.

    Example:
        >>> accepted_arguments(lambda batch: batch, ("batch", 3), {})
        (('batch',), {})
    """
    plain = getattr(function, "__func__", function)
    known = _SIGNATURES.get(plain)  # a plain dictionary, which torch.compile can look into
    if known is None:
        known = _SIGNATURES[plain] = _signature(plain, hasattr(function, "__func__"))
    places, names = known
    if places is not None:
        args = args[:places]
    if names is not None:
        kwargs = {name: value for name, value in kwargs.items() if name in names}
    return args, kwargs


_SIGNATURES: dict[Any, tuple[int | None, frozenset[str] | None]] = {}


@torch.compiler.disable  # type: ignore[untyped-decorator]
def _signature(function: Callable[..., Any], bound: bool) -> tuple[int | None, frozenset[str] | None]:
    """How many positional arguments and which names a step takes; None: any. Looked up once, not in every step."""
    parameters = list(inspect.signature(function).parameters.values())[int(bound) :]
    kinds = {parameter.kind for parameter in parameters}
    places = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    count = sum(parameter.kind in places for parameter in parameters)
    names = frozenset(parameter.name for parameter in parameters)
    return (
        None if inspect.Parameter.VAR_POSITIONAL in kinds else count,
        None if inspect.Parameter.VAR_KEYWORD in kinds else names,
    )


def storage_dtype(name: str | None, logits: torch.Tensor) -> torch.dtype:
    """The type in which a table keeps what was computed from some logits."""
    check_table_dtype(name)
    dtype: torch.dtype = torch.promote_types(logits.dtype, torch.float32) if name is None else getattr(torch, name)
    return dtype


def check_table_dtype(name: str | None) -> None:
    """Refuse a storage type that tables do not have."""
    allowed = ("float16", "bfloat16", "float32", "float64")
    if name is not None and name not in allowed:
        raise ValueError(f"table_dtype must be one of {', '.join(allowed)}, or None; got {name!r}.")


def owners_of(cls: type, name: str, base: type) -> list[type]:
    """The mixins in a class that define a name and stand side by side.

    Example:
        >>> from lightning_flip.mixins import FlippingErrorReduction, LossTerm
        >>> class Mine(FlippingErrorReduction): ...
        >>> owners_of(Mine, "observe", LossTerm) == [FlippingErrorReduction]
        True
    """
    owners: list[type] = []
    for part in cls.__mro__:
        ours = issubclass(part, base) and part is not base  # a name of the user's module is its own
        if ours and name in vars(part) and not any(issubclass(owner, part) for owner in owners):
            owners.append(part)
    return owners


def schedule(trainer: pl.Trainer, total_epochs: int | None) -> tuple[int, int]:
    """k, counted from 1, and M of a schedule. Returns the running epoch and their number."""
    if total_epochs is not None:
        return trainer.current_epoch + 1, total_epochs
    if trainer.max_steps not in (None, -1):
        problem = ""
        if len(trainer.optimizers) > 1:
            problem = f"counts the steps of {len(trainer.optimizers)} optimizers together"
        elif math.isinf(trainer.num_training_batches):
            problem = "says nothing of epochs, as the number of batches in an epoch is not known (iterable data)"
        if problem:
            raise ValueError(
                f"the schedule of this loss needs the number of epochs M, and max_steps={trainer.max_steps} {problem}. "
                "Pass total_epochs=."
            )
    epochs, _ = training_length(trainer)
    if not math.isfinite(epochs):
        raise ValueError(
            "the schedule of this loss needs the number of epochs M, and the Trainer has neither max_epochs nor "
            "max_steps. Pass total_epochs=."
        )
    return trainer.current_epoch + 1, max(1, int(epochs))


def check_choices(**choices: tuple[Any, tuple[str, ...]]) -> None:
    """Refuse a value that an option does not have.

    Example:
        >>> check_choices(restrict=("correct", ("correct", "all")))
    """
    for name, (choice, allowed) in choices.items():
        if choice not in allowed:
            raise ValueError(f"{name} must be one of {', '.join(map(repr, allowed))}; got {choice!r}.")
