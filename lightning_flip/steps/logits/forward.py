"""The forward of a module while a step runs: seen from outside, run by autograd again, or compiled."""

from __future__ import annotations

import contextlib
import copy
import types
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

__all__ = ["OwnForward", "eager", "has_compiled_parts", "in_backward", "inert_hook", "is_compiled_whole"]


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


def in_backward() -> bool:
    """Whether the caller runs inside of a backward pass."""
    # The way in which torch.autograd.graph's multi-grad hooks tell; nothing public does.
    return not torch.compiler.is_compiling() and torch._C._current_graph_task_id() != -1


_COMPILED = "_torchdynamo_orig_callable"


def is_compiled_whole(module: Any) -> bool:
    """Whether the module, its steps or a method of it are compiled, so that its forward may run inside of a graph."""
    if getattr(module, "_compiler_ctx", None) is not None or getattr(module, "_compiled_call_impl", None) is not None:
        return True
    mine = [value for value in vars(module).values() if _is_code(value)]
    methods = [value for part in type(module).__mro__ for value in vars(part).values() if _is_code(value)]
    return bool(methods) or any(getattr(getattr(value, _COMPILED), "__self__", None) is module for value in mine)


def has_compiled_parts(module: nn.Module) -> bool:
    """Whether anything of the module is compiled: it, a submodule, or a method."""
    return is_compiled_whole(module) or any(_is_compiled(part) for part in module.modules())


def _is_compiled(part: nn.Module) -> bool:
    if isinstance(part, torch._dynamo.eval_frame.OptimizedModule) or getattr(part, "_compiled_call_impl", None):
        return True
    return any(_is_code(value) for value in (*vars(part).values(), *vars(type(part)).values()))


def _is_code(value: Any) -> bool:
    """Whether it is a compiled function, and not one that ``torch.compiler.disable`` wraps in the same way."""
    return hasattr(value, _COMPILED) and not getattr(value, "_torchdynamo_disable", False)


def eager() -> contextlib.AbstractContextManager[Any]:
    """A context in which compiled code runs as it was written."""
    stance: contextlib.AbstractContextManager[Any] = torch.compiler.set_stance("force_eager")
    return stance
