"""Asking a network between two steps, in eval mode and without leaving a trace."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor, nn

from lightning_flip.callbacks.exact_resume import random_states, restore_random_states
from lightning_flip.functional.losses import widen
from lightning_flip.steps import Attachment, StepSource
from lightning_flip.steps.capture import LogitCapture
from lightning_flip.steps.compiled import is_compiled_whole
from lightning_flip.steps.outputs import Place, as_logits, kind_of_values, two_dimensional

__all__ = ["clean_capture", "clean_logits", "clean_probabilities", "transferred", "undisturbed"]


def clean_capture(module: pl.LightningModule, attachment: Attachment, source: StepSource) -> LogitCapture:
    """What catches the logits of forwards outside of steps, where training found them or a source says they are."""
    choice = attachment.choice(source)
    place = Place()
    if isinstance(source.logits_from, str):
        place = Place.parse(source.logits_from)
    elif choice is not None and choice.place is not None:
        place = choice.place
    elif choice is not None:
        raise ValueError(
            f"the logits of {type(module).__name__} are made in its training_step and are the output of no module, so "
            "that a clean evaluation pass cannot ask for them. Compute them in forward(), or name a submodule that "
            "gives logits: logits_from=."
        )
    kind = source.outputs or (None if choice is None else choice.kind)
    part = module.get_submodule(place.path)
    own = part is module and not is_compiled_whole(module)
    return LogitCapture(part, replace(place, call=1), kind, own=own)


@contextlib.contextmanager
def undisturbed(module: nn.Module, attachment: Attachment) -> Iterator[None]:
    """A context for forwards that training must not notice: eval mode, no gradient, nothing caught as a step.

    Afterwards random states and training modes are what they were.
    """
    states = random_states()
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        # A validation runs in inference mode, and what that makes cannot be trained with.
        with attachment.paused(), torch.inference_mode(False), torch.no_grad():
            yield
    finally:
        for part, mode in modes:
            part.training = mode
        restore_random_states(states)


def transferred(trainer: pl.Trainer, module: pl.LightningModule, batch: Any) -> Any:
    """Take a batch the way of the loop's own: precision, transfer hooks, device.

    Returns the batch as a step would be given it.
    """
    plugin = trainer.precision_plugin
    # The class's own method: the one of this plugin is wrapped, and would take the batch for a step's.
    batch = type(plugin).convert_input(plugin, batch)
    batch = module._on_before_batch_transfer(batch, dataloader_idx=0)
    return trainer.strategy.batch_to_device(batch, dataloader_idx=0)


def clean_logits(
    trainer: pl.Trainer, module: pl.LightningModule, capture: LogitCapture, batch: Any, *, rows: int, number: int
) -> Tensor:
    """What the network says of one batch, inside of :func:`undisturbed`.

    The batch goes through ``predict_step`` where the module has one of its own, else through its forward (the first
    part of a tuple or list).

    Returns logits ``[rows, K]`` on the device, in at least float32.

    Args:
        trainer: the running Trainer.
        module: its module.
        capture: catches the logits.
        batch: a batch of the training loader, on the device.
        rows: number of its samples.
        number: its number, for ``predict_step``.
    """
    capture.arm(rows, outermost_is_step=False)
    try:
        with trainer.precision_plugin.forward_context():
            if _has_own(module, "predict_step"):
                module.predict_step(batch, number)
            else:
                # A module without a forward of its own has its network called by its steps.
                asked = module if _has_own(module, "forward") else capture.module
                asked(batch[0] if isinstance(batch, (tuple, list)) else batch)
    except Exception as error:
        error.add_note(
            f"A clean evaluation pass called {type(module).__name__}: its predict_step where it has one of its own, "
            "else its forward with the first part of a tuple or list, or with the batch. Let predict_step(batch, "
            'batch_idx) run the network on a training batch, or use mode="visits" where there is such a mode.'
        )
        raise
    finally:
        capture.disarm()
    if capture.kind is None and capture.output is not None:
        columns = two_dimensional(capture.output)
        capture.kind = None if columns is None else kind_of_values(columns)
        if capture.kind is None:
            raise ValueError(
                f"a clean evaluation pass got one column from {type(module).__name__}, and nobody has said whether it "
                'is a logit or a probability. Pass outputs="logits" or outputs="probs".'
            )
        logits = as_logits(capture.output, capture.kind)
    else:
        logits = capture.logits
    capture.clear()
    if logits is None:
        raise ValueError(
            f"a clean evaluation pass caught no logits [{rows}, K] from {type(module).__name__}. It calls predict_step "
            "where the module has one, else the module with the first part of the batch: let predict_step(batch, "
            "batch_idx) run the network on a training batch, and name the submodule that gives logits (logits_from=)."
        )
    return widen(logits)


def clean_probabilities(
    trainer: pl.Trainer, module: pl.LightningModule, capture: LogitCapture, batch: Any, *, rows: int, number: int
) -> Tensor:
    """The softmax of :func:`clean_logits`. Returns probabilities float32 ``[rows, K]`` on the device.

    Args:
        trainer: the running Trainer.
        module: its module.
        capture: catches the logits.
        batch: a batch of the training loader, on the device.
        rows: number of its samples.
        number: its number, for ``predict_step``.
    """
    return clean_logits(trainer, module, capture, batch, rows=rows, number=number).softmax(dim=1).float()


def _has_own(module: pl.LightningModule, name: str) -> bool:
    """Whether the module overrides a method of its base, which is lightning's or pytorch_lightning's."""
    base: Any = next(part for part in type(module).__mro__ if part.__name__ == "LightningModule")
    return getattr(type(module), name) is not getattr(base, name)
