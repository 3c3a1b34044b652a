"""What training found out about the logits of a module, for evaluations without a loss and for later processes."""

from __future__ import annotations

import weakref
from typing import Any

from torch import nn

from lightning_flip.steps.logits.choice import Choice
from lightning_flip.steps.outputs import Place

__all__ = ["known_state", "recall", "remember", "restore", "restore_from"]

_CHOICES: weakref.WeakKeyDictionary[nn.Module, dict[Any, Choice]] = weakref.WeakKeyDictionary()
_FOUND = None  # the key of what was found, and not named


def remember(module: nn.Module, source: Any, choice: Choice) -> None:
    """Keep what a training step found for a source."""
    _CHOICES.setdefault(module, {})[source] = choice
    if source.logits_from is None and source.serves_others:
        _CHOICES[module][_FOUND] = choice


def recall(module: nn.Module, source: Any) -> Choice | None:
    """What a training step found for a source, else what one found by itself, else for any."""
    known = _CHOICES.get(module, {})
    if source in known or _FOUND in known:
        return known.get(source) or known[_FOUND]
    return next((choice for other, choice in known.items() if other.serves_others), None)


def known_state(module: Any, source: Any) -> dict[str, Any] | None:
    """The same for a checkpoint."""
    choice = None if module is None else _CHOICES.get(module, {}).get(source)
    if choice is None or choice.place is None:
        return None
    named = source.logits_from is not None
    return {
        "place": str(choice.place),
        "kind": choice.kind,
        "looks": choice.looks,
        "classes": choice.classes,
        "prefix": choice.prefix,
        "ignored": choice.ignored,
        "named": named,
    }


def restore(module: nn.Module, source: Any, state: dict[str, Any] | None) -> None:
    """Take over what a checkpoint says of a source, unless this process knows better."""
    if state is None:
        return
    place = Place.parse(state["place"])
    facts = {"looks": state["looks"], "prefix": state["prefix"], "ignored": state.get("ignored")}
    choice = Choice(place, state["kind"], state["classes"], **facts)
    known = _CHOICES.setdefault(module, {})
    known.setdefault(source, choice)
    if not state["named"]:
        known.setdefault(_FOUND, choice)


def restore_from(module: nn.Module, source: Any, checkpoint: dict[str, Any]) -> None:
    """Take over what any callback or mixin has put into a checkpoint, those that found it by themselves first."""
    states = [checkpoint.get("lightning_flip"), *checkpoint.get("callbacks", {}).values()]
    found = [state["logits"] for state in states if isinstance(state, dict) and _is_state(state.get("logits"))]
    for state in sorted(found, key=lambda state: bool(state["named"])):
        restore(module, source, state)


def _is_state(value: Any) -> bool:
    return isinstance(value, dict) and {"place", "named"} <= value.keys()
