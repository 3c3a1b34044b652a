"""Refusing options of the wrong kind by name, before anybody compares or computes with them."""

from __future__ import annotations

import numbers
import os
from typing import Any

from torch import Tensor

__all__ = ["check_flags", "check_numbers", "check_paths", "check_whole"]


def check_numbers(**values: Any) -> None:
    """Refuse options that are not numbers; whether they are in range is another question.

    Example:
        >>> check_numbers(fer_mu=0.5, elr_weight=3)
        >>> check_numbers(fer_mu="0.5")
        Traceback (most recent call last):
            ...
        TypeError: fer_mu must be a number; got '0.5'.
    """
    for name, value in values.items():
        scalar = isinstance(value, numbers.Real) or (isinstance(value, Tensor) and value.numel() == 1)
        if isinstance(value, bool) or not scalar:
            raise TypeError(f"{name} must be a number; got {value!r}.")


def check_whole(**values: Any) -> None:
    """Refuse options that are not whole numbers.

    Example:
        >>> check_whole(lwr_interval=5)
    """
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, numbers.Integral):
            raise TypeError(f"{name} must be a whole number; got {value!r}.")


def check_flags(**values: Any) -> None:
    """Refuse options that are neither True nor False: the text "false" would count as True.

    Example:
        >>> check_flags(average=True)
    """
    for name, value in values.items():
        if not isinstance(value, bool):
            raise TypeError(f"{name} must be True or False; got {value!r}.")


def check_paths(what: str, *, files: bool = False, **values: Any) -> None:
    """Refuse options that are not paths.

    Example:
        >>> check_paths("a layer", classifier_from="network.classifier")
    """
    for name, value in values.items():
        if not isinstance(value, (str, os.PathLike) if files else str) and not (files and value is None):
            raise TypeError(f"{name} must be the path of {what}; got {value!r}.")
