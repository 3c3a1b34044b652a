"""Files of weights: read without running code in them, and put into a network that they fit."""

from __future__ import annotations

import contextlib
import os
import pickle
import re
from collections.abc import Mapping, Sequence
from pathlib import Path, PosixPath, WindowsPath
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["find_state_dict", "fit_state_dict", "mismatch", "paths_allowed", "read_weights"]

_SHOWN = 5
_NESTED = ("state_dict", "model_state_dict", "model")
# torch.compile puts this part into the names of what it wraps.
_COMPILED = "_orig_mod."


def read_weights(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read what ``torch.save`` wrote onto the CPU with ``weights_only=True``, so that no code in the file is run."""
    path = Path(path)
    if path.is_dir():
        raise ValueError(
            f"{path} is a folder. Name the checkpoint file in it; a sharded checkpoint has to be consolidated into one "
            "file first."
        )
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist (looked for in {Path.cwd()}); only local files are read.")
    try:
        with paths_allowed():
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        reason = str(error).splitlines()[0][:200] if str(error) else "not readable"
        raise ValueError(
            f"{path} is neither a checkpoint nor a state_dict that can be loaded without running code in it "
            f"(weights_only=True): {reason} Save the weights alone, torch.save(model.state_dict(), path), and pass "
            "network=; or load the file yourself and pass the module."
        ) from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, AssertionError) as error:
        raise ValueError(
            f"{path} cannot be read as a checkpoint or state_dict; it may be cut off or of another format: {error}"
        ) from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} must hold a checkpoint or a state_dict, got a {type(content).__name__}.")  # noqa: TRY004
    return content


def paths_allowed() -> contextlib.AbstractContextManager[None]:
    """Let ``weights_only=True`` read paths too: hyperparameters often hold one, and a path runs nothing."""
    context: contextlib.AbstractContextManager[None] = torch.serialization.safe_globals([PosixPath, WindowsPath])
    return context


def find_state_dict(content: Mapping[str, Any]) -> dict[str, Tensor] | None:
    """The weights in a file: its ``state_dict``, ``model_state_dict`` or ``model``, or all of it; else None."""
    for candidate in (*(content.get(key) for key in _NESTED), content):
        if isinstance(candidate, Mapping) and any(isinstance(value, Tensor) for value in candidate.values()):
            return {str(name).replace(_COMPILED, ""): value for name, value in candidate.items()}
    return None


def fit_state_dict(network: nn.Module, state: Mapping[str, Tensor], name: str) -> None:
    """Load weights into a network, in place, without a prefix that all of the network's names have in the file.

    Other prefixes are ignored: a Lightning checkpoint may hold more than its network.
    """
    wanted = list(network.state_dict())
    scores = _prefixes(wanted, state)
    best = max(scores.values(), default=0)
    # If weights were saved twice, such as an average beside the model, it is ambiguous which are meant.
    found = [prefix for prefix, score in scores.items() if score == best and best]
    if len(found) > 1 and "" not in found and best == len(wanted):
        raise ValueError(
            f"{name} holds {len(found)} sets of weights that fit {type(network).__name__}, under the prefixes "
            f"{', '.join(map(repr, found))}. Save the one that is meant as a state_dict of its own."
        )
    prefix = "" if "" in found or not found else found[0]
    chosen = {key[len(prefix) :]: value for key, value in state.items() if key.startswith(prefix)}
    try:
        network.load_state_dict(chosen)
    except RuntimeError as error:
        under = f" under {prefix!r}" if prefix else ""
        raise ValueError(f"{name} does not fit {type(network).__name__}{under}: {mismatch(str(error))}") from error


def _prefixes(wanted: Sequence[str], state: Mapping[str, Tensor]) -> dict[str, int]:
    """How many of the wanted names each prefix finds."""
    last = {key.rpartition(".")[2] for key in wanted}
    names = set(wanted)
    scores: dict[str, int] = {}
    for key in state:
        if key.rpartition(".")[2] not in last:
            continue
        parts = key.split(".")
        for cut in range(len(parts)):
            if ".".join(parts[cut:]) in names:
                prefix = "".join(f"{part}." for part in parts[:cut])
                scores[prefix] = scores.get(prefix, 0) + 1
    return scores


def mismatch(text: str) -> str:
    """What ``load_state_dict`` complained of, with the first five names and the count of each kind."""
    parts = []
    for title, word in (("Missing", "missing"), ("Unexpected", "unexpected")):
        listed = re.search(rf"{title} key\(s\) in state_dict: (.*)", text)
        if listed:
            parts.append(_counted(re.findall(r'"([^"]*)"', listed[1]), word))
    shapes = re.findall(r"size mismatch for (\S+): .*?Size\((\[.*?\])\).*?Size\((\[.*?\])\)", text)
    if shapes:
        parts.append(_counted([f"{key}: {old} instead of {new}" for key, old, new in shapes], "of another shape"))
    return "; ".join(parts) + "." if parts else text


def _counted(names: list[str], what: str) -> str:
    more = ", ..." if len(names) > _SHOWN else ""
    return f"{len(names)} {what} ({', '.join(names[:_SHOWN])}{more})"
