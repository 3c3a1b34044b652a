"""A copy of a network's weights, and what the network says with them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from lightning_flip.steps import SampleStep
from lightning_flip.steps.capture import as_logits

__all__ = ["answering_part", "check_inputs", "evaluating", "exchanged", "said_by", "weights_of"]


def weights_of(module: nn.Module) -> dict[str, Tensor]:
    """A copy of parameters and buffers, those outside of the ``state_dict`` included.

    Args:
        module: any module.

    Returns:
        Tensors by name, without gradient, where the module's are.

    Example:
        >>> layer = nn.Linear(1, 1)
        >>> kept = weights_of(layer)
        >>> _ = layer.weight.data.zero_()
        >>> bool(kept["weight"] != 0), kept["weight"].requires_grad
        (True, False)
    """
    return {name: value.detach().clone() for name, value in (*module.named_parameters(), *module.named_buffers())}


def answering_part(module: nn.Module, logits_from: str) -> nn.Module:
    """The part of a module whose forward gives the logits.

    Args:
        module: the module that trains.
        logits_from: path of a submodule, "" for the module itself.

    Returns:
        The part.

    Example:
        >>> answering_part(nn.Sequential(nn.Linear(2, 3)), "0")
        Linear(in_features=2, out_features=3, bias=True)
    """
    return module.get_submodule(logits_from) if logits_from else module


def check_inputs(step: SampleStep, logits_from: str) -> None:
    """Make sure that a copy of the network can be given what the network is given.

    Args:
        step: the running step, which holds the inputs of its forward.
        logits_from: path of the submodule whose inputs they are.

    Raises:
        RuntimeError: if the step does not hold the inputs of its forward.
        ValueError: if ``logits_from`` names a part that works on features which the network computed.

    Example:
        >>> x = torch.ones(3, 1)
        >>> check_inputs(SampleStep(torch.arange(3), x, torch.zeros(3), inputs=((x,), {})), "net")
    """
    args, kwargs = step.inputs
    inputs = [*args, *kwargs.values()]
    if not inputs:
        raise RuntimeError(
            "the inputs of the network's forward are not known, so that its copy cannot be given the same. Pass the "
            "batch to forward(), or name a submodule that is given it: logits_from=."
        )
    if logits_from and any(isinstance(value, Tensor) and value.grad_fn is not None for value in inputs):
        raise ValueError(
            f"logits_from={logits_from!r} names a part of the network that is given features which the network "
            "computed; its copy would be run on those. Name the whole network, or leave logits_from out."
        )


def said_by(part: nn.Module, weights: dict[str, Tensor], step: SampleStep) -> Tensor:
    """Logits of the samples of a step under other weights, in eval mode and without gradient.

    The part itself runs, with its tensors exchanged for the time of the forward: nothing else of it is copied, and
    hooks of its forward run once more.

    Args:
        part: what gave the step's logits.
        weights: what :func:`weights_of` gave for it; those from a checkpoint are moved to the logits' device in place.
        step: the running step, which holds the inputs of its forward.

    Returns:
        ``[B, K]``.

    Example:
        >>> layer, x = nn.Linear(1, 2), torch.ones(3, 1)
        >>> kept, step = weights_of(layer), SampleStep(torch.arange(3), layer(x), torch.zeros(3), inputs=((x,), {}))
        >>> _ = layer.weight.data.zero_()
        >>> said_by(layer, kept, step).equal(step.logits)
        True
    """
    for name, value in weights.items():
        if value.device != step.logits.device:
            weights[name] = value.to(step.logits.device)
    args, kwargs = step.inputs
    with evaluating(part), exchanged(part, weights), torch.no_grad():
        logits = as_logits(part(*args, **kwargs))
    assert logits is not None  # the same forward gave the step's own
    return logits


@contextlib.contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """A context in which a module is in eval mode; every part then goes back to the mode that it had.

    Args:
        module: any module.

    Yields:
        None.

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
    """A context in which a module has other parameters and buffers.

    ``torch.func.functional_call`` would leave them behind in a module that is known under two names.

    Args:
        module: any module.
        weights: what :func:`weights_of` gave for it.

    Yields:
        None.

    Raises:
        ValueError: if the weights are of another module.

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
            f"trains: {sorted(own.keys() ^ weights.keys())[:5]}. Resume with the network that it was made with."
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
