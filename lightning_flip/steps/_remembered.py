"""What training found out about the logits of a module, for evaluations without a loss and for later processes."""

from __future__ import annotations

import weakref
from typing import Any

from torch import nn

from lightning_flip.steps._choice import Choice
from lightning_flip.steps._outputs import Place

__all__ = ["known_state", "recall", "remember", "restore", "restore_from"]

_CHOICES: weakref.WeakKeyDictionary[nn.Module, Choice] = weakref.WeakKeyDictionary()


def remember(module: nn.Module, choice: Choice) -> None:
    """Keep what a training step found."""
    _CHOICES[module] = choice


def recall(module: nn.Module) -> Choice | None:
    """What a training step of the module found."""
    return _CHOICES.get(module)


def known_state(module: nn.Module | None) -> dict[str, Any] | None:
    """The same for a checkpoint."""
    choice = None if module is None else recall(module)
    if choice is None or choice.place is None:
        return None
    return {"place": str(choice.place), "kind": choice.kind, "classes": choice.classes, "prefix": choice.prefix}


def restore(module: nn.Module, state: dict[str, Any] | None) -> None:
    """Take over what a checkpoint says, unless this process knows better."""
    if state is not None and module not in _CHOICES:
        place = Place.parse(state["place"])
        _CHOICES[module] = Choice(place, state["kind"], state["classes"], prefix=state["prefix"])


def restore_from(module: nn.Module, checkpoint: dict[str, Any]) -> None:
    """Take over what any callback or mixin has put into a checkpoint."""
    for state in (checkpoint.get("lightning_flip"), *checkpoint.get("callbacks", {}).values()):
        if isinstance(state, dict) and isinstance(state.get("logits"), dict) and "place" in state["logits"]:
            restore(module, state["logits"])
