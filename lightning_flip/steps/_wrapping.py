"""Replaces methods on instances, and restores them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

__all__ = ["MethodWrapper"]

Method = Callable[..., Any]


class MethodWrapper:
    """Wraps methods of instances until :meth:`undo`.

    Example:
        >>> class Greeter:
        ...     def greet(self, name):
        ...         return f"hello {name}"
        >>> greeter, wrapper = Greeter(), MethodWrapper()
        >>> wrapper.wrap(greeter, "greet", lambda original: lambda name: original(name).upper())
        >>> greeter.greet("you"), Greeter().greet("you")
        ('HELLO YOU', 'hello you')
        >>> wrapper.undo()
        >>> greeter.greet("you"), vars(greeter)
        ('hello you', {})
    """

    def __init__(self) -> None:
        self._before: list[tuple[object, str, Method | None]] = []

    def wrap(self, owner: Any, name: str, make: Callable[[Method], Method]) -> None:
        """Replace a method of one instance."""
        self._before.append((owner, name, vars(owner).get(name)))
        setattr(owner, name, make(getattr(owner, name)))

    def undo(self) -> None:
        """Restore everything; earlier wrappers of others stay."""
        for owner, name, before in reversed(self._before):
            if before is None:
                vars(owner).pop(name, None)
            else:
                setattr(owner, name, before)
        self._before = []
