"""Checks of options: an option of the wrong kind or out of range is refused by its name.

Checks of a range return the options that they checked, for a constructor to keep.
"""

from __future__ import annotations

import math
import numbers
import os
from collections.abc import Sequence
from typing import Any

from torch import Tensor

__all__ = [
    "check_choices",
    "check_flags",
    "check_fractions",
    "check_not_negative",
    "check_numbers",
    "check_paths",
    "check_positive",
    "check_whole",
]


def check_numbers(**values: Any) -> dict[str, float]:
    """Refuse options that are not numbers, whatever their range. Returns them as floats.

    Example:
        >>> check_numbers(fer_mu=0.5, elr_weight=3)
        {'fer_mu': 0.5, 'elr_weight': 3.0}
        >>> check_numbers(fer_mu="0.5")
        Traceback (most recent call last):
            ...
        TypeError: fer_mu must be a number; got '0.5'.
    """
    for name, value in values.items():
        scalar = isinstance(value, numbers.Real) or (isinstance(value, Tensor) and value.numel() == 1)
        if isinstance(value, bool) or not scalar:
            raise TypeError(f"{name} must be a number; got {value!r}.")
    return {name: float(value) for name, value in values.items()}


def check_positive(**values: Any) -> dict[str, float]:
    """Refuse options that are not finite numbers greater than 0. Returns them as floats."""
    checked = check_numbers(**values)
    for name, value in checked.items():
        if not 0 < value < math.inf:
            raise ValueError(f"{name} must be greater than 0 and finite; got {value}.")
    return checked


def check_not_negative(**values: Any) -> dict[str, float]:
    """Refuse options that are not finite numbers of at least 0. Returns them as floats."""
    checked = check_numbers(**values)
    for name, value in checked.items():
        if not 0 <= value < math.inf:
            raise ValueError(f"{name} must be at least 0 and finite; got {value}.")
    return checked


def check_fractions(*, up_to_one: bool = False, **values: Any) -> dict[str, float]:
    """Refuse options outside [0, 1), or with ``up_to_one`` outside [0, 1]. Returns them as floats.

    Example:
        >>> check_fractions(smoothing=1)
        Traceback (most recent call last):
            ...
        ValueError: smoothing must be in [0, 1); got 1.0.
    """
    checked = check_numbers(**values)
    for name, value in checked.items():
        if not (0 <= value < 1 or (up_to_one and value == 1)):
            raise ValueError(f"{name} must be in {'[0, 1]' if up_to_one else '[0, 1)'}; got {value}.")
    return checked


def check_whole(*, at_least: int | None = None, **values: Any) -> dict[str, int]:
    """Refuse options that are not whole numbers, or below a limit. Returns them.

    Example:
        >>> check_whole(at_least=1, lwr_interval=5)
        {'lwr_interval': 5}
    """
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, numbers.Integral):
            raise TypeError(f"{name} must be a whole number; got {value!r}.")
        if at_least is not None and value < at_least:
            raise ValueError(f"{name} must be at least {at_least}; got {value}.")
    return values


def check_flags(**values: Any) -> dict[str, bool]:
    """Refuse options that are neither True nor False: the text "false" would count as True. Returns them."""
    for name, value in values.items():
        if not isinstance(value, bool):
            raise TypeError(f"{name} must be True or False; got {value!r}.")
    return values


def check_choices(**choices: tuple[Any, Sequence[str]]) -> dict[str, Any]:
    """Refuse options that are not among their choices. Returns them.

    Example:
        >>> check_choices(restrict=("correct", ("correct", "all")))
        {'restrict': 'correct'}
    """
    for name, (choice, allowed) in choices.items():
        if choice not in allowed:
            raise ValueError(f"{name} must be one of {', '.join(map(repr, allowed))}; got {choice!r}.")
    return {name: choice for name, (choice, _) in choices.items()}


def check_paths(what: str, *, files: bool = False, **values: Any) -> dict[str, Any]:
    """Refuse options that are not dotted paths of ``what``, or with ``files`` neither paths of files nor None.

    Returns them.
    """
    for name, value in values.items():
        if not isinstance(value, (str, os.PathLike) if files else str) and not (files and value is None):
            raise TypeError(f"{name} must be the path of {what}; got {value!r}.")
    return values
