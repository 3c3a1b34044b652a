"""Old names of objects and arguments: they work for some versions more, and warn."""

from __future__ import annotations

import functools
import inspect
import warnings
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any, ParamSpec, TypeVar

__all__ = ["former_order", "moved", "rename_keywords", "renamed_keywords"]

P = ParamSpec("P")
R = TypeVar("R")


def moved(old: str, home: str, name: str, *, removed: str = "0.4") -> Any:
    """The object ``name`` of the module ``home``, with a FutureWarning that its ``old`` name will be removed."""
    text = f"{old} is now {home}.{name}; the old name will be removed in {removed}."
    warnings.warn(text, FutureWarning, stacklevel=3)
    return getattr(import_module(home), name)


def renamed_keywords(*, removed: str = "0.4", **renamed: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Decorate a function whose keyword arguments have new names: ``old="new"``.

    The old names of an ``__init__`` are also in its signature, with None for "not given", so that configs of the
    command line may have them. Do not decorate the ``__init__`` of a LightningModule, whose ``save_hyperparameters``
    looks at the frames of constructors; it calls :func:`rename_keywords`.

    Example:
        >>> @renamed_keywords(bins="n_bins")
        ... def histogram(*, n_bins: int = 10) -> int:
        ...     return n_bins
        >>> histogram(n_bins=5)
        5
    """

    def decorate(func: Callable[P, R]) -> Callable[P, R]:
        signature = inspect.signature(func)
        defaults = {new: signature.parameters[new].default for new in renamed.values()}

        @functools.wraps(func)
        def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
            rename_keywords(kwargs, _name(func), renamed, defaults, removed=removed)
            return func(*args, **kwargs)

        if func.__name__ == "__init__":
            _add_to_signature(wrapper, signature, renamed)
        return wrapper

    return decorate


def rename_keywords(
    given: dict[str, Any],
    caller: str,
    renamed: dict[str, str],
    defaults: dict[str, Any] | None = None,
    *,
    removed: str = "0.4",
    stacklevel: int = 3,
) -> None:
    """Put the values of old names under the new ones, in place. Old names whose value is None are left out.

    Args:
        given: the keyword arguments of a call.
        caller: what is called, for the warning.
        renamed: ``{old: new}``.
        defaults: of new names. The command line passes these on, so that they do not count as given.
        removed: the version without the old names.
        stacklevel: of the warning; 3 is the caller of the function that calls this one.
    """
    for old, new in renamed.items():
        value = given.pop(old, None)
        if value is None:
            continue
        default = (defaults or {}).get(new, inspect.Parameter.empty)
        if new in given and given[new] != default:
            raise TypeError(
                f"{caller} got {new}={given[new]!r} and {old}={value!r}, the former name of {new}. Pass {new} alone."
            )
        given[new] = value
        text = f"{old} of {caller} is now {new}; the old name will be removed in {removed}."
        warnings.warn(text, FutureWarning, stacklevel=stacklevel)


def former_order(*order: str, removed: str = "0.4", **renamed: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Decorate a function that once took the arguments ``order``, of which some may have new names (``old="new"``).

    A call that fits only the former arguments is taken as one of those and warns. So that no call fits both ways, the
    function must take fewer positional arguments now: the others by keyword.

    Example:
        >>> @former_order("old_preds", "new_preds", new_preds="preds")
        ... def churn(preds: int, *, old_preds: int) -> int:
        ...     return preds - old_preds
        >>> churn(5, old_preds=3)
        2
    """

    def decorate(func: Callable[P, R]) -> Callable[P, R]:
        signature = inspect.signature(func)
        names = {renamed.get(name, name) for name in order}
        others = [parameter for name, parameter in signature.parameters.items() if name not in names]
        positional = [inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD) for name in order]
        former = inspect.Signature(positional + others)
        text = (
            f"{_name(func)}({', '.join(order)}) is now {_name(func)}{_call(signature, names)}; the former arguments, "
            f"which this call has, will be removed in {removed}."
        )

        @functools.wraps(func)
        def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
            if not _fits(signature, args, kwargs) and _fits(former, args, kwargs):
                given = former.bind(*args, **kwargs).arguments
                now = {renamed.get(name, name): value for name, value in given.items()}
                warnings.warn(text, FutureWarning, stacklevel=2)
                return func(**now)  # type: ignore[call-arg]
            return func(*args, **kwargs)

        return wrapper

    return decorate


def _name(func: Callable[..., Any]) -> str:
    return func.__qualname__.removesuffix(".__init__")


def _fits(signature: inspect.Signature, args: Sequence[Any], kwargs: dict[str, Any]) -> bool:
    try:
        signature.bind(*args, **kwargs)
    except TypeError:
        return False
    return True


def _call(signature: inspect.Signature, names: set[str]) -> str:
    """How the arguments ``names`` are passed, as text: those by keyword with a sign of equality."""
    by_keyword = inspect.Parameter.KEYWORD_ONLY
    chosen = [parameter for name, parameter in signature.parameters.items() if name in names]
    return f"({', '.join(p.name + '=...' * (p.kind is by_keyword) for p in chosen)})"


def _add_to_signature(wrapper: Callable[..., Any], signature: inspect.Signature, renamed: dict[str, str]) -> None:
    """Add old names to a signature, behind the other arguments, as jsonargparse reads it."""
    parameters = list(signature.parameters.values())
    end = len(parameters) - any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters)
    for old, new in renamed.items():
        kind = signature.parameters[new].annotation
        optional = f"{kind} | None" if isinstance(kind, str) else kind | None
        parameter = inspect.Parameter(old, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=optional)
        parameters.insert(end, parameter)
        end += 1
        wrapper.__annotations__ = {**wrapper.__annotations__, old: optional}
    wrapper.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
