"""Holders of what a fit needs, kept out of copies of the module and out of pickles."""

from __future__ import annotations

import dataclasses
from typing import Any, Self

__all__ = ["Holder", "SharedHolder"]


class Holder:
    """A dataclass whose ``init=False`` fields are its content: copied or pickled it is made anew, without them."""

    def __reduce__(self) -> Any:
        kept: Any = dataclasses.fields(self)  # type: ignore[arg-type]
        return type(self), tuple(getattr(self, field.name) for field in kept if field.init)


class SharedHolder(Holder):
    """A holder that copies of the module (weight averaging) share, with its content."""

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self
