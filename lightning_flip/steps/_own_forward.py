"""The forward of a module on its instance while a step runs, so that ``self.forward(x)`` is seen as well."""

from __future__ import annotations

import copy
import types
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

__all__ = ["OwnForward", "inert_hook"]


class OwnForward:
    """Calls the forward that a module has, and tells what it was given and what it gave.

    Modules copy and save themselves inside of steps (teachers that are averages): a copy has the forward that it would
    have had without this object.
    """

    def __init__(
        self,
        module: nn.Module,
        after: Callable[[Any, Any, Any], None],
        before: Callable[[Any, Any], None] | None = None,
    ) -> None:
        self._module = module
        self._tell_after, self._tell_before = after, before
        self._before: Any = None
        self._forward: Callable[..., Any] = module.forward

    def put(self) -> None:
        """Take the place of the module's forward."""
        if vars(self._module).get("forward") is self:
            return
        self._before = vars(self._module).get("forward")
        self._forward = self._module.forward
        vars(self._module)["forward"] = self

    def take_off(self) -> None:
        """Put back what was there."""
        held = vars(self._module)
        if held.get("forward") is self:
            if self._before is None:
                del held["forward"]
            else:
                held["forward"] = self._before

    def __getattr__(self, name: str) -> Any:
        if name in ("_forward", "_module"):  # while it is copied
            raise AttributeError(name)
        return self._forward if name == "__wrapped__" else getattr(self._forward, name)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The module's forward."""
        # What in_backward() asks, without a call: this runs in every step.
        if torch.compiler.is_compiling() or torch._C._current_graph_task_id() != -1:
            return self._forward(*args, **kwargs)
        if self._tell_before is not None:
            self._tell_before(args, kwargs)
        output = self._forward(*args, **kwargs)
        self._tell_after(args, kwargs, output)
        return output

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        copied = memo.get(id(self._module))
        if self._before is None and isinstance(copied, nn.Module):
            return types.MethodType(type(self._module).forward, copied)
        return copy.deepcopy(self._before if self._before is not None else self._forward, memo)

    def __copy__(self) -> Any:
        return self._before if self._before is not None else self._forward

    def __reduce__(self) -> Any:
        if self._before is not None:
            return _given, (self._before,)
        return getattr, (self._module, "forward")


def _given(forward: Any) -> Any:
    return forward


def inert_hook() -> Callable[..., None]:
    """What a hook of this package is in a pickled copy of a module."""
    return _no_effect


def _no_effect(*args: Any) -> None:
    return None
