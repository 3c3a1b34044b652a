"""What a class made of mixins must look like, checked when it is defined, and which names belong to whom."""

from __future__ import annotations

import difflib
import inspect
import re
from abc import ABCMeta
from collections.abc import Iterable, Iterator
from typing import Any

import lightning.pytorch as pl

from lightning_flip.models.loading import is_lightning_class

__all__ = [
    "GROUP",
    "TWO_CORRECTIONS",
    "MixinClass",
    "check_corrections",
    "check_definition",
    "check_instance",
    "methods_that",
    "mixin_options",
    "owners_of",
    "refuse_several",
]

#: The attribute that holds the options, and the hyperparameter in which they are saved.
GROUP = "mixin_options"
STATE = "_mixin"
#: What a module of manual optimization may define itself, to be the same class with and without mixins.
_OPTIONAL = "regularized"
TWO_CORRECTIONS = (
    "both correct the loss for label noise, and each would correct what the other one has already corrected"
)


class MixinClass(ABCMeta):
    """The metaclass of classes made of mixins, for what goes around their constructor as a whole.

    ``mixin_options={...}``, as in saved hyperparameters, is passed on as single options; an option that is given by
    itself takes precedence. An unknown option is refused with the nearest known one, and so is a name of the mixins
    that the constructor has given to something else. It is an ``ABCMeta`` because modules may be abstract.
    """

    def __init__(cls, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # Not __init_subclass__: an abstract class would keep a refused subclass, which then answers issubclass() for
        # its parents.
        getattr(super(cls, cls), "_define", lambda: None)()  # the first class has no parent with the method

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        """Make an instance."""
        kwargs = {**kwargs.pop(GROUP, {}), **kwargs}
        try:
            made = super().__call__(*args, **kwargs)
        except TypeError as error:
            _refuse_unknown(cls, str(error), kwargs, error)
            raise
        check_instance(made)
        return made

    @property
    def __signature__(cls) -> inspect.Signature:
        """The signature of the constructor."""
        constructor: Any = getattr(cls, "__init__")  # noqa: B009 - mypy would take it for an instance's
        return inspect.Signature(list(inspect.signature(constructor).parameters.values())[1:])


# -- what stands beside what ------------------------------------------------------------------------------


def owners_of(cls: type, name: str, base: type) -> list[type]:
    """The mixins in a class that define a name and stand side by side; subclasses of ``base``, without itself.

    Example:
        >>> from lightning_flip.mixins import FlippingErrorReduction, LossTerm
        >>> class Mine(FlippingErrorReduction): ...
        >>> owners_of(Mine, "observe", LossTerm) == [FlippingErrorReduction]
        True
    """
    owners: list[type] = []
    for part in cls.__mro__:
        ours = issubclass(part, base) and part is not base  # a name of the user's module is its own
        if ours and name in vars(part) and not any(issubclass(owner, part) for owner in owners):
            owners.append(part)
    return owners


def methods_that(cls: type, attribute: str) -> list[str]:
    """Names of the methods in a class that set a class attribute, such as ``softens_target``, to something true."""
    owners = owners_of(cls, attribute, object)
    return [owner.__name__ for owner in owners if isinstance(owner, MixinClass) and vars(owner)[attribute]]


def check_corrections(cls: type) -> None:
    """Refuse two corrections of label noise in one class."""
    refuse_several(cls, methods_that(cls, "corrects_noise"), TWO_CORRECTIONS)


def refuse_several(cls: type, methods: list[str], problem: str, error: type[Exception] = TypeError) -> None:
    """Refuse more than one method in a class that does what only one of them may do."""
    if len(methods) > 1:
        raise error(f"{cls.__name__}: {' and '.join(methods)} {problem}. Use one of them.")


# -- whose a name is --------------------------------------------------------------------------------------


def check_definition(cls: type) -> None:
    """Refuse mixins right of their module, and names that two classes use for different things."""
    mixins = _mixins_of(cls)
    _check_siblings(cls, mixins)
    modules = [part for part in cls.__mro__ if is_lightning_class(part) and not isinstance(part, MixinClass)]
    if not modules:
        return  # a mixin by itself
    for mixin in mixins:
        if cls.__mro__.index(mixin) > cls.__mro__.index(modules[0]):
            raise TypeError(
                f"{mixin.__name__} stands right of {modules[0].__name__} and would never see its training_step. "
                f"Write: class {cls.__name__}({mixin.__name__}, {modules[0].__name__})."
            )
    others = _others_of(cls)
    _check_options(cls, mixins, others)
    owners = _owners(mixins)
    for part in others:
        _refuse_taken(cls.__name__, part.__name__, owners, vars(part).keys() - {_OPTIONAL})
    _check_hooks(cls, mixins, owners)


def check_instance(module: Any, *, made: bool = True) -> None:
    """Refuse attributes of a module that hide a name of its mixins; ``made``: its constructor has returned."""
    held = vars(module)
    found = set(held).union(*(held.get(kind, ()) for kind in ("_modules", "_parameters", "_buffers")))
    mixins = _mixins_of(type(module))
    owners = _owners(mixins)
    if made:
        found -= {GROUP, STATE}.union(*(vars(part).get("__annotations__", ()) for part in mixins))
    _refuse_taken(type(module).__name__, type(module).__name__, owners, found)


def mixin_options(cls: type) -> Iterator[str]:
    """The names of the options of all mixins in a class."""
    for part in _mixins_of(cls):
        yield from _own_options(part, keyword_only=True)


def _mixins_of(cls: type) -> list[type]:
    """The mixins in a class from left to right, with their bases."""
    return [part for part in cls.__mro__ if isinstance(part, MixinClass) and not is_lightning_class(part)]


def _others_of(cls: type) -> list[type]:
    """The user's own classes in a class: modules and helpers."""
    return [part for part in cls.__mro__ if not isinstance(part, MixinClass) and not _is_library(part)]


def _check_hooks(cls: type, mixins: list[type], owners: dict[str, str]) -> None:
    """Refuse a name of a hook in the combined class, unless it has the hook's parameters and so replaces the hook."""
    for name in sorted((vars(cls).keys() & owners.keys()) - {_OPTIONAL}):
        hooks = [vars(part)[name] for part in mixins if name in vars(part)]
        if _parameters(vars(cls)[name]) not in map(_parameters, hooks):
            raise TypeError(
                f"{cls.__name__} uses the name {name!r} for something of its own, and {owners[name]} needs it: one "
                f"would hide the other. Rename it in {cls.__name__}. What replaces a hook needs the hook's parameters."
            )


def _parameters(value: Any) -> list[str] | type:
    """The names of a function's parameters; the type of anything else."""
    return list(inspect.signature(value).parameters) if inspect.isfunction(value) else type(value)


def _owners(mixins: Iterable[type]) -> dict[str, str]:
    """The names that mixins use on a module, each with the mixin that uses it."""
    owners = {GROUP: "LossTerm", STATE: "LossTerm"}
    for part in mixins:
        for name in {*vars(part), *vars(part).get("__annotations__", ())}:
            if not name.startswith("__") and name != "_abc_impl" and not hasattr(pl.LightningModule, name):
                owners[name] = part.__name__
    return owners


def _refuse_taken(cls: str, taker: str, owners: dict[str, str], names: Iterable[str]) -> None:
    taken = sorted(set(owners) & set(names))
    if taken:
        raise TypeError(
            f"{cls}: {taker} uses the name {taken[0]!r} for something of its own, and {owners[taken[0]]} needs it: one "
            f"would hide the other. Rename it in {taker}"
            + (f", and {', '.join(map(repr, taken[1:]))} as well." if taken[1:] else ".")
        )


def _check_siblings(cls: type, mixins: list[type]) -> None:
    """Refuse two mixins if one would hide what the other calls."""
    for place, left in enumerate(mixins):
        for right in mixins[place + 1 :]:
            if issubclass(left, right) or not any(
                part.__module__.startswith("lightning_flip.") for part in (left, right)
            ):
                continue
            shared = {base for base in left.__mro__ if base in right.__mro__}
            for name in vars(left).keys() & vars(right).keys():
                if name.startswith("__") or name == "_abc_impl" or hasattr(pl.LightningModule, name):
                    continue
                if not any(name in vars(base) for base in shared):
                    raise TypeError(
                        f"{cls.__name__}: {left.__name__} and {right.__name__} both define {name!r}, and one would "
                        "hide the other. Rename it in one of them."
                    )


def _check_options(cls: type, mixins: list[type], others: list[type]) -> None:
    owners: dict[str, type] = {}
    for part in [*mixins, *others]:
        for name in _own_options(part, keyword_only=part in mixins):
            other = owners.get(name)
            if other is not None and other in mixins:
                raise TypeError(
                    f"{cls.__name__}: the option {name!r} is {other.__name__}'s and {part.__name__}'s; one would "
                    f"take the other's value. Rename it in {part.__name__}, or do not combine the two."
                )
            owners.setdefault(name, part)


def _own_options(cls: type, *, keyword_only: bool) -> list[str]:
    init = vars(cls).get("__init__")
    if init is None or _is_library(cls):
        return []
    kinds = {inspect.Parameter.KEYWORD_ONLY, *(() if keyword_only else (inspect.Parameter.POSITIONAL_OR_KEYWORD,))}
    parameters = list(inspect.signature(init).parameters.values())[1:]
    return [parameter.name for parameter in parameters if parameter.kind in kinds]


def _is_library(cls: type) -> bool:
    return cls.__module__.split(".")[0] in ("builtins", "abc", "typing", "torch", "lightning", "pytorch_lightning")


def _refuse_unknown(cls: type, message: str, given: dict[str, Any], error: TypeError) -> None:
    """Name the option that was probably meant, if a constructor of the class was given an unknown one."""
    found = re.match(r"(?P<owner>.+)\.__init__\(\) got an unexpected keyword argument '(?P<name>\w+)'", message)
    if found is None or found["name"] not in given:
        return
    if found["owner"] not in {part.__qualname__ for part in cls.__mro__} | {part.__name__ for part in cls.__mro__}:
        return  # of something that a constructor calls
    owners: dict[str, str] = {}
    for part in cls.__mro__:
        for name in _own_options(part, keyword_only=False):
            owners.setdefault(name, part.__name__)
    nearest = difflib.get_close_matches(found["name"], owners, n=1)
    hint = f" Did you mean {nearest[0]}= of {owners[nearest[0]]}?" if nearest else f" It has {', '.join(owners)}."
    raise TypeError(f"{cls.__name__} has no option {found['name']!r}.{hint}") from error
