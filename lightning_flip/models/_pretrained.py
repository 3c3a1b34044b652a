"""torchvision's networks by name, with its weights or without."""

from __future__ import annotations

import difflib

import torchvision
from torch import nn

__all__ = ["TORCHVISION", "torchvision_model", "torchvision_network"]

TORCHVISION = "torchvision:"


def torchvision_network(text: str) -> nn.Module:
    """Build a network of torchvision's 1,000 classes without weights, for a file that has them."""
    name, weights = _parsed(text)
    if weights:
        raise ValueError(f"network={text!r} names weights, and the file has them; pass {TORCHVISION}{name}.")
    network: nn.Module = torchvision.models.get_model(name, weights=None)
    return network


def torchvision_model(text: str) -> nn.Module:
    """Build a network with torchvision's weights, which are downloaded once and kept in torch's hub folder."""
    name, weights = _parsed(text)
    if not weights:
        raise ValueError(
            f"{text!r} names no weights, and the network would be untrained. Say {text}:DEFAULT; or pass the path of "
            f"your own weights, and network={text!r}."
        )
    known = list(torchvision.models.get_model_weights(name).__members__)
    if weights not in known:
        raise ValueError(f"torchvision has no weights {weights!r} for {name}; it has {', '.join(known) or 'none'}.")
    network: nn.Module = torchvision.models.get_model(name, weights=weights)
    return network


def _parsed(text: str) -> tuple[str, str]:
    name, _, weights = text.removeprefix(TORCHVISION).partition(":")
    known = torchvision.models.list_models()
    if name not in known:
        close = difflib.get_close_matches(name.lower(), known, n=5)
        listed = f"Close to it: {', '.join(close)}." if close else "torchvision.models.list_models() names them all."
        raise ValueError(f"torchvision has no network {name!r}. {listed}")
    return name, weights
