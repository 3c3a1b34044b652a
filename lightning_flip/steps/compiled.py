"""Which parts of a module run through ``torch.compile``."""

from __future__ import annotations

import contextlib
from typing import Any

import torch
from torch import nn

__all__ = ["eager", "has_compiled_parts", "is_compiled_whole"]

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
