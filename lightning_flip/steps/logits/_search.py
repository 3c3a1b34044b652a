"""The first step of each kind: every output of every module, and every call of a loss."""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from lightning_flip.steps.logits.forward import in_backward, inert_hook
from lightning_flip.steps.logits.loss_calls import LossCalls
from lightning_flip.steps.outputs import Place, tensors_in, two_dimensional

__all__ = ["Output", "Search"]


@dataclass(eq=False)
class Output:
    """A tensor that a module gave."""

    place: Place
    depth: int
    tensor: Tensor
    values: Tensor  # as the module gave them: they may be edited afterwards
    inputs: tuple[tuple[Any, ...], dict[str, Any]]
    made_by: str | None
    graded: bool = True  # False in training for forwards without gradient: a teacher's, a metric's, a checkpoint's

    def __str__(self) -> str:
        return f'logits_from="{self.place}" {list(self.tensor.shape)}'


class _Hook:
    """A hook for the time of a search; copies of the module carry it along without effect."""

    def __init__(self, search: Search, part: nn.Module, note: Callable[..., None]) -> None:
        self._search = weakref.ref(search)
        self._part = weakref.ref(part)
        self._note = weakref.WeakMethod(note)

    def __call__(self, part: nn.Module, *args: Any) -> None:
        search, note = self._search(), self._note()
        if search is not None and note is not None and part is self._part() and search.wanted:
            search.note(note, search.names[id(part)], *args)

    def __deepcopy__(self, memo: dict[int, Any]) -> _Hook:
        return self

    def __reduce__(self) -> Any:
        return inert_hook, ()


class Search:
    """Watches one step: as a context, with hooks on all modules that exist only meanwhile."""

    def __init__(self, module: nn.Module, calls: LossCalls) -> None:
        self.names = {id(part): name for name, part in module.named_modules()}
        self._module = module
        self.calls = calls
        self.outputs: list[Output] = []
        self._counts: dict[tuple[str, bool], int] = {}
        self._entered: list[str | None] = []  # what made the inputs of the modules that are running
        self._made: dict[int, tuple[weakref.ref[Tensor], str]] = {}  # by memory, while that is in use
        self._given: set[int] = set()
        self.closed = False

    @contextlib.contextmanager
    def watching(self, batch: Any) -> Iterator[None]:
        """A context for the step."""
        self._given = {_memory(part) for part in tree_leaves(batch) if isinstance(part, Tensor)}
        handles = []
        for part in self._module.modules():
            if part is not self._module:
                handles.append(part.register_forward_pre_hook(_Hook(self, part, self._before), with_kwargs=True))
                handles.append(part.register_forward_hook(_Hook(self, part, self._after), with_kwargs=True))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def own_entered(self, args: Any, kwargs: Any) -> None:
        """The module's own forward begins, however it was called."""
        if self.wanted:
            self.note(self._before, "", args, kwargs)

    def own_left(self, args: Any, kwargs: Any, output: Any) -> None:
        """The module's own forward ends."""
        if self.wanted:
            self.note(self._after, "", args, kwargs, output)

    def note(self, note: Callable[..., None], *args: Any) -> None:
        """Note what a module was given or gave; raises an error unless all users tolerate it."""
        try:
            note(*args)
        except Exception as error:
            if not self.calls.tolerate(error):
                raise

    def close(self) -> None:
        """Stop: later calls do not belong to the step."""
        self.closed = True

    def outputs_of(self, rows: int) -> list[Output]:
        """The outputs that have as many rows as the batch."""
        return [output for output in self.outputs if len(output.tensor) == rows and output.graded]

    @property
    def wanted(self) -> bool:
        """Whether the current call belongs to the step."""
        return self.calls.armed and not self.closed and not in_backward()

    def _before(self, path: str, args: Any, kwargs: Any) -> None:
        self._entered.append(self._maker((args, kwargs)))

    def _after(self, path: str, args: Any, kwargs: Any, output: Any) -> None:
        if self._entered:
            self._note(path, args, kwargs, output)

    def _maker(self, inputs: Any) -> str | None:
        for value in tree_leaves(inputs):
            if not isinstance(value, Tensor) or _memory(value) in self._given:
                continue
            alive, name = self._made.get(_memory(value), (_nothing, None))
            if alive() is not None:
                return name
        return None

    def _note(self, path: str, args: Any, kwargs: Any, output: Any) -> None:
        made_by, depth = self._entered.pop(), len(self._entered)
        graded = torch.is_grad_enabled() or not self.calls.needs_gradient
        call = self._counts[path, graded] = self._counts.get((path, graded), 0) + 1
        for keys, tensor in tensors_in(output):
            self._made[_memory(tensor)] = weakref.ref(tensor), path
            if two_dimensional(tensor) is not None:
                place = Place(path, keys, call)
                values = tensor.detach().clone()
                self.outputs.append(Output(place, depth, tensor, values, (args, kwargs), made_by, graded))


def _nothing() -> None:
    return None


def _memory(tensor: Tensor) -> int:
    try:
        return tensor.untyped_storage().data_ptr() or id(tensor)
    except (RuntimeError, NotImplementedError):  # sparse tensors have none
        return id(tensor)
