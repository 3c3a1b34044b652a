"""The options of a module's mixins: kept, saved, and what follows from them."""

from __future__ import annotations

import copy
import inspect
import math
from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any

import lightning.pytorch as pl
import torch

from lightning_flip.mixins._definition import GROUP, mixin_options
from lightning_flip.steps.length import training_length

__all__ = [
    "MixinOptions",
    "accepted_arguments",
    "check_table_dtype",
    "group_hyperparameters",
    "schedule",
    "storage_dtype",
]

_ABSENT = object()


class MixinOptions(SimpleNamespace):
    """The options of all mixins of a module, as attributes.

    Example:
        >>> options = MixinOptions(fer_mu=1.0)
        >>> options.take(fer_mu=0.5)
        >>> options.fer_mu
        0.5
    """

    def take(self, **options: Any) -> None:
        """Set options."""
        vars(self).update(options)


def group_hyperparameters(module: pl.LightningModule, before: Mapping[str, Any]) -> None:
    """Move the options of mixins among a module's hyperparameters into a group of their own.

    What LightningCLI saves stays as it is: the configuration from which it makes the module again.
    """
    hparams: Any = module.hparams
    fields: dict[str, Any] = vars(module)
    if not isinstance(hparams, dict) or "_instantiator" in hparams:
        return
    options = [name for name in mixin_options(type(module)) if name in hparams]
    taken = {name: hparams.pop(name) for name in options if hparams[name] is not before.get(name, _ABSENT)}
    if taken:
        hparams.update({name: before[name] for name in taken if name in before})
        hparams[GROUP] = {**hparams.get(GROUP, {}), **taken}
        fields["_hparams_initial"] = copy.deepcopy(hparams)


def accepted_arguments(
    function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments that a step takes: Lightning passes ``batch_idx`` only to steps that name it.

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
    """How many positional arguments and which names a step takes; None: any."""
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
    """The type of a table of what is computed from some logits."""
    check_table_dtype(name)
    dtype: torch.dtype = torch.promote_types(logits.dtype, torch.float32) if name is None else getattr(torch, name)
    return dtype


def check_table_dtype(name: str | None) -> None:
    """Refuse a storage type that tables do not have."""
    allowed = ("float16", "bfloat16", "float32", "float64")
    if name is not None and name not in allowed:
        raise ValueError(f"table_dtype must be one of {', '.join(allowed)}, or None; got {name!r}.")


def schedule(trainer: pl.Trainer, total_epochs: int | None) -> tuple[int, int]:
    """The running epoch k of a schedule, counted from 1, and its number of epochs M."""
    if total_epochs is not None:
        return trainer.current_epoch + 1, total_epochs
    if trainer.max_steps not in (None, -1):
        problem = ""
        if len(trainer.optimizers) > 1:
            problem = f"counts the steps of {len(trainer.optimizers)} optimizers together"
        elif math.isinf(trainer.num_training_batches):
            problem = "gives no number of epochs, as the number of batches in an epoch is not known (iterable data)"
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
