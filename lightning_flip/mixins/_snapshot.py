"""Logits of a network for other inputs, or under other weights."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from lightning_flip.steps import SampleStep
from lightning_flip.steps.logits.choice import Choice
from lightning_flip.steps.outputs import Place, as_logits

__all__ = ["earlier_logits", "evaluating", "exchanged", "logits_of", "logits_part", "weights_of"]


def weights_of(module: nn.Module) -> dict[str, Tensor]:
    """A copy of parameters and buffers, including those outside the ``state_dict``."""
    return {name: value.detach().clone() for name, value in (*module.named_parameters(), *module.named_buffers())}


def logits_part(module: nn.Module, choice: Choice | None) -> nn.Module:
    """The part of a module whose forward gives the logits.

    Example:
        >>> logits_part(nn.Sequential(nn.Linear(2, 3)), Choice(Place("0"), "logits", 3))
        Linear(in_features=2, out_features=3, bias=True)
    """
    return module if choice is None or choice.place is None else module.get_submodule(choice.place.path)


def logits_of(part: nn.Module, choice: Choice | None, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor | None:
    """Logits of a part ``[B, K]`` for some inputs, read as those of the step; None if there are none."""
    place, kind = (Place(), "logits") if choice is None else (choice.place or Place(), choice.kind)
    output = place.tensor_of(part(*args, **kwargs))
    return None if output is None else as_logits(output, kind)


def earlier_logits(module: nn.Module, weights: dict[str, Tensor], step: SampleStep, part: nn.Module) -> Tensor:
    """Logits ``[B, K]`` of a step's samples under other weights, in eval mode and without gradient.

    The part itself runs, with the module's tensors exchanged during the forward: nothing else of it is copied, and
    hooks of its forward run once more.
    """
    for name, value in weights.items():
        if value.device != step.logits.device:
            weights[name] = value.to(step.logits.device)
    args, kwargs = step.inputs
    with evaluating(module), exchanged(module, weights), torch.no_grad():
        logits = logits_of(part, step.choice, args, kwargs)
    assert logits is not None  # the same forward gave the step's own
    return logits


@contextlib.contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Put a module into eval mode; afterwards every part has its own mode again.

    Example:
        >>> network = nn.Sequential(nn.Dropout(), nn.Dropout().eval())
        >>> with evaluating(network):
        ...     print([part.training for part in network])
        [False, False]
        >>> [part.training for part in network]
        [True, False]
    """
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, mode in modes:
            part.training = mode


@contextlib.contextmanager
def exchanged(module: nn.Module, weights: dict[str, Tensor]) -> Iterator[None]:
    """Exchange a module's parameters and buffers.

    ``torch.func.functional_call`` would leave them behind in a module that has two names.

    Example:
        >>> layer = nn.Linear(1, 1, bias=False)
        >>> network = nn.Sequential(layer, layer)
        >>> with exchanged(network, {"0.weight": torch.tensor([[3.0]])}):
        ...     network(torch.ones(1, 1)).item()
        9.0
        >>> isinstance(layer.weight, nn.Parameter)
        True
    """
    own = dict((*module.named_parameters(), *module.named_buffers()))
    if own.keys() != weights.keys():
        raise ValueError(
            f"the copy of the network in this checkpoint has other weights than the {type(module).__name__} that "
            f"trains: {sorted(own.keys() ^ weights.keys())[:5]}. Resume with the network that the run began with."
        )
    other = {id(value): weights[name] for name, value in own.items()}
    places: list[tuple[Any, str, Tensor]] = []
    for part in module.modules():
        for held in (part._parameters, part._buffers):
            places += [(held, name, value) for name, value in held.items() if value is not None]
    try:
        for held, name, value in places:
            held[name] = other[id(value)]
        yield
    finally:
        for held, name, value in places:
            held[name] = value
