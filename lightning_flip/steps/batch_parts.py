"""Putting other inputs and targets into a batch, whatever its form."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping
from typing import Any

from lightning_flip.data.labels import TARGET_KEYS
from lightning_flip.steps.targets import Selector

__all__ = ["INPUT_KEYS", "input_place", "target_place", "with_part"]

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
