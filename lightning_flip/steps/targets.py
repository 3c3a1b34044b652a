"""Where a batch keeps its labels, inputs and sample ids, and how others are put in their place."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

import torch
from torch import Tensor

from lightning_flip.data.labels import TARGET_KEYS

__all__ = ["INPUT_KEYS", "Selector", "find_target", "input_place", "select", "target_place", "with_part"]


Selector = str | int | Callable[[Any], Any]


def select(batch: Any, where: Selector, option: str) -> Any:
    """Take one part out of a batch.

    Args:
        batch: the batch.
        where: a key or attribute name, a position, or a function of the batch.
        option: the option's name, for the error.

    Returns:
        The part.

    Raises:
        KeyError: if the batch has no such part.

    Example:
        >>> select({"x": 1, "id": 7}, "id", "index_from")
        7
    """
    if callable(where):
        return where(batch)
    try:
        if isinstance(where, int) or isinstance(batch, Mapping):
            return batch[where]
        return getattr(batch, where)
    except (KeyError, IndexError, AttributeError, TypeError):
        raise KeyError(
            f"{option}={where!r} is not in the batch, which is {_describe(batch)}. "
            f"Name a key, an attribute or a position of it, or pass a function of the batch."
        ) from None


def find_target(batch: Any, target_from: Selector | None = None) -> Tensor:
    """The targets of a batch: the second element of a tuple or list, or the key target, label, labels or y.

    Args:
        batch: what ``training_step`` or ``validation_step`` received.
        target_from: where to look instead.

    Returns:
        int64 ``[B]`` or float ``[B, K]``.

    Raises:
        TypeError: if there is no target where one is expected.
        ValueError: if labels are not whole numbers (checked on the host only).

    Example:
        >>> find_target((torch.zeros(2, 3), torch.tensor([1, 0]))).tolist()
        [1, 0]
        >>> find_target({"x": torch.zeros(2, 3), "label": torch.tensor([[0], [1]])}).tolist()
        [0, 1]
    """
    if target_from is not None:
        target = select(batch, target_from, "target_from")
    elif type(batch) in (tuple, list) and len(batch) >= 2:  # nearly always, and in every step
        target = batch[1]
    else:
        target = _usual_target(batch)
    if not isinstance(target, Tensor):
        raise TypeError(
            f"no target tensor found: got {type(target).__name__} in {_describe(batch)}. "
            f"Expected the second element of a tuple or list, or one of the keys {', '.join(TARGET_KEYS)}; "
            "pass target_from= (a key, a position, or a function of the batch)."
        )
    if target.ndim == 0:  # DataLoader(batch_size=None) gives single samples
        target = target[None]
    if target.ndim == 2 and target.shape[1] == 1:
        target = target[:, 0]
    if target.ndim == 1:
        if target.dtype == torch.int64:
            return target
        # Binary modules with one logit keep 0. and 1. for binary_cross_entropy_with_logits.
        labels = target.to(torch.int64)
        if target.is_floating_point() and target.device.type == "cpu" and bool((labels != target).any()):
            odd = float(target[labels != target][0])
            raise ValueError(
                f"labels [B] must be whole numbers; got {odd:g}. Smoothed or mixed targets of a binary module have no "
                "single right class: pass target_from= to name the labels before that, or give distributions [B, K]. "
                "Regression is not supported."
            )
        return labels
    if target.ndim == 2 and target.is_floating_point():
        return target
    raise TypeError(
        f"target must be labels [B] or distributions [B, K]; got {target.dtype} of shape {tuple(target.shape)}. "
        "Pass target_from= to name the right part of the batch."
    )


def _usual_target(batch: Any) -> Any:
    named = batch if isinstance(batch, Mapping) else None
    if named is None and (is_dataclass(batch) or hasattr(batch, "_fields")):
        names = [field.name for field in fields(batch)] if is_dataclass(batch) else list(batch._fields)
        named = {name: getattr(batch, name) for name in names}
    if named is not None:
        for key in TARGET_KEYS:
            if key in named:
                return named[key]
    if isinstance(batch, (tuple, list)) and len(batch) >= 2:
        return batch[1]
    # Graphs of PyTorch Geometric, for example.
    parts = (getattr(batch, key, None) for key in TARGET_KEYS)
    return next((part for part in parts if isinstance(part, Tensor)), None)


def _describe(batch: Any) -> str:
    if isinstance(batch, Mapping):
        return f"a {type(batch).__name__} with the keys {', '.join(map(str, batch))}"
    if isinstance(batch, (tuple, list)):
        return f"a {type(batch).__name__} of {', '.join(type(part).__name__ for part in batch)}"
    return f"a {type(batch).__name__}"


INPUT_KEYS = ("input", "inputs", "x", "image", "images", "pixel_values", "features")

Place = str | int


def input_place(batch: Any, input_from: Selector | None = None) -> Place:
    """Where a batch keeps the network's inputs: the first element, or the key input, inputs, x, image and so on.

    Example:
        >>> input_place(("pixels", 3)), input_place({"label": 3, "image": "pixels"})
        (0, 'image')
    """
    return _place(batch, input_from, "input_from", INPUT_KEYS, 0)


def target_place(batch: Any, target_from: Selector | None = None) -> Place:
    """Where a batch keeps its targets: the second element, or the key target, label, labels or y.

    Example:
        >>> target_place(["pixels", 3]), target_place({"label": 3, "image": "pixels"})
        (1, 'label')
    """
    return _place(batch, target_from, "target_from", TARGET_KEYS, 1)


def with_part(batch: Any, place: Place, part: Any) -> Any:
    """Copy a batch with something else in one place; the rest is shared, and the batch itself left as it is.

    Returns a batch of the same form.

    Example:
        >>> with_part(("pixels", 3), 1, 5), with_part({"x": "pixels", "y": 3}, "y", 5)
        (('pixels', 5), {'x': 'pixels', 'y': 5})
    """
    if isinstance(batch, tuple):
        at = place if isinstance(place, int) else batch._fields.index(place)  # type: ignore[attr-defined]
        parts = list(batch)
        parts[at] = part
        return type(batch)._make(parts) if hasattr(batch, "_make") else tuple(parts)
    changed = copy.copy(batch)
    if isinstance(place, int) or isinstance(batch, Mapping):
        changed[place] = part
    else:
        object.__setattr__(changed, place, part)  # dataclasses may be frozen
    return changed


def _place(batch: Any, given: Selector | None, option: str, keys: tuple[str, ...], position: int) -> Place:
    if isinstance(given, (str, int)):
        return given
    if given is not None:
        raise TypeError(
            f"{option} is a function, and this method writes into the batch what it has mixed. Give a key, an "
            "attribute or a position of the batch."
        )
    names: list[str] = []
    if isinstance(batch, Mapping):
        names = list(batch)
    elif dataclasses.is_dataclass(batch):
        names = [field.name for field in dataclasses.fields(batch)]
    elif hasattr(batch, "_fields"):
        names = list(batch._fields)
    found = next((key for key in keys if key in names), None)
    if found is not None:
        return found
    if isinstance(batch, (tuple, list)) and len(batch) > 1:
        return position
    described = f" with {', '.join(map(str, names))}" if names else ""
    raise TypeError(
        f"cannot tell where the batch, a {type(batch).__name__}{described}, keeps what {option} names; expected a "
        f"tuple or list (input, target, ...), or one of the keys {', '.join(keys)}. Pass {option}=, a key, an "
        "attribute or a position."
    )
