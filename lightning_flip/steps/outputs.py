"""What a forward gave: where in it the logits are, and what kind of numbers they are."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

__all__ = ["KINDS", "Place", "address", "as_logits", "kind_of_values", "tensors_in", "two_dimensional"]

#: What outputs may be; one column counts as the logit or the probability of the second of two classes.
KINDS = ("logits", "log_probs", "probs")

_PLACE = re.compile(r"(?P<path>[A-Za-z_0-9.]*)(?P<keys>(\[[^\[\]]+\])*)(#(?P<call>[1-9][0-9]*))?")


@dataclasses.dataclass(frozen=True)
class Place:
    """The output of a submodule, a part of it, or that of a later call: written ``net``, ``net[logits]``, ``net#2``."""

    path: str = ""
    keys: tuple[str | int, ...] = ()
    call: int = 1

    @classmethod
    def parse(cls, text: str) -> Place:
        """Read what :meth:`__str__` writes."""
        match = _PLACE.fullmatch(text)
        if match is None:
            raise ValueError(
                f"logits_from={text!r} is not a place; expected the path of a submodule, with a part of its output in "
                'brackets and the number of the call if need be: "net", "[1]", "net[logits]", "net#2".'
            )
        keys = tuple(
            int(key) if key.lstrip("-").isdigit() else key for key in re.findall(r"\[([^\[\]]+)\]", match["keys"])
        )
        return cls(match["path"], keys, int(match["call"] or 1))

    def __str__(self) -> str:
        keys = "".join(f"[{key}]" for key in self.keys)
        return f"{self.path}{keys}" + (f"#{self.call}" if self.call > 1 else "")

    def part_of(self, output: Any) -> Any:
        """The part that the keys name; None if there is none."""
        for key in self.keys:
            try:
                indexed = isinstance(key, int) or isinstance(output, Mapping)
                output = output[key] if indexed else getattr(output, str(key))
            except (KeyError, IndexError, AttributeError, TypeError):
                return None
        return output

    def tensor_of(self, output: Any) -> Tensor | None:
        """The tensor at the place; where no key is given, the first of a sequence or what is called ``logits``."""
        part = self.part_of(output)
        if isinstance(part, Tensor):
            return part
        if isinstance(part, Mapping):
            part = part.get("logits")
        elif hasattr(part, "logits"):
            part = part.logits
        else:
            part = part[0] if isinstance(part, (tuple, list)) and part else None
        return part if isinstance(part, Tensor) else None


def tensors_in(output: Any, depth: int = 2) -> Iterator[tuple[tuple[str | int, ...], Tensor]]:
    """The tensors of an output with the keys that lead to them."""
    if isinstance(output, Tensor):
        yield (), output
        return
    if depth == 0 or output is None or isinstance(output, (str, bytes, int, float)):
        return
    parts: list[tuple[str | int, Any]] = []
    if isinstance(output, Mapping):
        parts = [(key, part) for key, part in output.items() if isinstance(key, (str, int))]
    elif isinstance(output, (tuple, list)):
        parts = list(enumerate(output))
    elif dataclasses.is_dataclass(output):
        parts = [(field.name, getattr(output, field.name)) for field in dataclasses.fields(output)]
    elif hasattr(output, "logits"):
        parts = [("logits", output.logits)]
    for key, part in parts:
        for keys, tensor in tensors_in(part, depth - 1):
            yield (key, *keys), tensor


def address(tensor: Tensor) -> int:
    """Where the numbers of a tensor begin in memory; 0 for tensors without memory, as those under ``torch.func``."""
    try:
        return tensor.data_ptr()
    except (RuntimeError, NotImplementedError):
        return 0


def two_dimensional(output: Tensor) -> Tensor | None:
    """``[B, K]`` or ``[B]``, which is one column; None for any other form."""
    if not output.is_floating_point() or output.ndim not in (1, 2):
        return None
    output = output[:, None] if output.ndim == 1 else output
    return output if output.shape[1] else None


def as_logits(output: Tensor, kind: str = "logits") -> Tensor | None:
    """Turn an output into logits.

    Returns ``[B, K]`` with K of at least 2: the output itself for logits and log-probabilities, ``log p`` for
    probabilities, ``[0, z]`` for one logit, ``[0, log(p / (1 - p))]`` for one probability. None for any other form.

    Args:
        output: ``[B, K]``, or one column for two classes, ``[B]`` or ``[B, 1]``.
        kind: one of :data:`KINDS`.

    Example:
        >>> as_logits(torch.tensor([2.0]))
        tensor([[0., 2.]])
        >>> as_logits(torch.tensor([[0.25, 0.75]]), "probs").softmax(dim=1)
        tensor([[0.2500, 0.7500]])
    """
    columns = two_dimensional(output)
    if columns is None:
        return None
    if kind == "probs":
        columns = columns.to(torch.promote_types(columns.dtype, torch.float32))
        tiny = torch.finfo(columns.dtype).tiny
        if columns.shape[1] > 1:
            return columns.clamp_min(tiny).log()
        columns = columns.clamp_min(tiny).log() - (1 - columns).clamp_min(torch.finfo(columns.dtype).eps / 4).log()
    elif columns.shape[1] == 1 and kind == "log_probs":
        columns = columns - torch.log(-torch.expm1(columns.clamp_max(-1e-7)))
    if columns.shape[1] == 1:
        return torch.cat([torch.zeros_like(columns), columns], dim=1)
    return columns


def kind_of_values(columns: Tensor) -> str | None:
    """What two or more columns look like; None for one column, which could be anything.

    Example:
        >>> kind_of_values(torch.tensor([[0.1, 0.9], [0.5, 0.5]])), kind_of_values(torch.tensor([[0.1, 0.8]]))
        ('probs', 'logits')
    """
    if columns.shape[1] == 1:
        return None
    values = columns.detach().to(torch.promote_types(columns.dtype, torch.float32))
    tolerance = 2e-5 if columns.dtype in (torch.float32, torch.float64) else 8e-3
    if not len(values) or not bool(values.isfinite().all()):
        return "logits"
    if bool((values >= 0).all()) and bool(((values.sum(dim=1) - 1).abs() < tolerance).all()):
        return "probs"
    if bool((values <= tolerance).all()) and bool((values.logsumexp(dim=1).abs() < tolerance).all()):
        return "log_probs"
    return "logits"
