"""How the targets of a loss relate to the labels of the batch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lightning_flip.data.labels import TARGET_KEYS
from lightning_flip.steps.logits.loss_calls import LossCall
from lightning_flip.steps.outputs import Place, address, tensors_in
from lightning_flip.steps.targets import find_target

__all__ = ["Relation", "relate", "same", "unsupported"]


@dataclass(frozen=True)
class Relation:
    """What a loss was given as its target.

    Attributes:
        kind: "batch" for the batch's own targets, "renamed" for labels that are a function of the batch's, "other" for
            anything else, such as mixed targets.
        keys: where the batch keeps them, if that is not the usual place.
        labels: the loss's targets, labels ``[B]`` or distributions ``[B, K]``.
        smoothing: 1 minus the weight of the labels that the targets spread over other classes.
        one_hot: whether the batch has them as zeros and ones, and the loss as labels.
        doubtful: whether another batch may show that they are something else.
    """

    kind: str
    keys: tuple[str | int, ...] = ()
    labels: Tensor | None = None
    smoothing: float = 0.0
    one_hot: bool = False
    doubtful: bool = False

    @property
    def rank(self) -> int | None:
        """Lower means closer to the batch's labels; None if they are something else."""
        return None if self.kind == "other" else 2 if self.kind == "renamed" else 1 if self.keys else 0


def relate(call: LossCall, batch: Any, target_from: Any, rows: int) -> Relation:
    """Compare a loss's target with the batch: by memory first, then by value, which waits for a device."""
    target = call.target
    assert target is not None
    binary = call.name.startswith("binary")
    usual = _usual(batch, target_from)
    if usual is not None and len(usual) > rows:
        usual = usual[:rows]  # graphs that were sampled around their first nodes
    if usual is not None and same_memory(usual, target) and not (binary and usual.ndim == 2):
        return Relation("batch", labels=usual)
    parts = [] if target_from is not None else [(keys, _plain(part), part) for keys, part in _parts(batch)]
    for keys, plain, part in parts:
        if plain is not None and same_memory(part, target) and not (binary and plain.ndim == 2):
            return Relation("batch", () if keys == _usual_keys(batch) else keys, plain)
    labels, smoothing = _as_targets(call)
    if labels is None or len(labels) != rows:
        return Relation("other", labels=labels)
    equal = [(keys, plain[:rows]) for keys, plain, _ in parts if plain is not None and len(plain) >= rows]
    equal = [(keys, plain) for keys, plain in equal if bool(same(labels, plain))]
    doubtful = smoothing > 0 or len(equal) > 1 or bool((labels == labels[:1]).all())
    if usual is not None and bool(same(labels, usual)):
        return Relation("batch", (), usual, smoothing, doubtful=doubtful)
    if equal:
        return Relation("batch", *equal[0], smoothing, doubtful=doubtful)
    if usual is not None and usual.ndim == 2:
        if usual.shape == target.shape and bool(same(usual, target)) and not binary:
            return Relation("batch", labels=usual)
        if labels.ndim == 1 and bool(same(labels, _unsmoothed(usual)[0])):
            return Relation("renamed", labels=labels, smoothing=smoothing, one_hot=True)
    if usual is not None and usual.ndim == 1 and usual.shape == labels.shape and _is_function(usual, labels):
        return Relation("renamed", labels=labels, smoothing=smoothing)
    return Relation("other", labels=labels)


def same(first: Tensor, second: Tensor) -> Tensor:
    """Whether two targets are equal: bool without dimensions, on the device of the first."""
    if first.shape != second.shape:
        return torch.tensor(False)
    return (first == second.to(first.device)).all()


def same_memory(first: Tensor, second: Tensor) -> bool:
    """Whether two tensors begin at the same place and have as many elements."""
    return address(first) == address(second) != 0 and first.numel() == second.numel()


def unsupported(call: LossCall, batch: Any, target_from: Any, rows: int) -> str | None:
    """Why a loss does not belong to a classifier with one label per sample; None if it may."""
    target = call.target
    assert target is not None
    if call.input.ndim > 2:
        return (
            f"{call.name} was given inputs of shape {list(call.input.shape)}: labels of tokens or pixels. One "
            "prediction per sample is expected."
        )
    several = call.name.startswith("binary") and call.input.ndim == 2 and call.input.shape[1] > 1
    if several and target.shape == call.input.shape and len(target) == rows:
        whole = ((target == 0) | (target == 1)).all()  # mixtures and smoothed targets are something else
        if bool(whole & (target.sum(dim=1) != 1).any()):
            return "the targets have several labels a sample, or none (multi-label). One label per sample is expected."
    if call.input.ndim == 2 and len(call.input) != rows and target.ndim == 1:
        usual = _raw(batch, target_from)
        if usual is not None and usual.ndim > 1 and not usual.is_floating_point() and usual.numel() == target.numel():
            return (
                f"{call.name} was given {len(call.input)} rows for {rows} samples: labels of tokens. One prediction "
                "per sample is expected."
            )
    return None


def _as_targets(call: LossCall) -> tuple[Tensor | None, float]:
    target = call.target
    assert target is not None
    binary = call.name.startswith("binary")
    if binary and (target.ndim == 1 or (target.ndim == 2 and target.shape[1] == 1)):
        flat = target.detach().reshape(-1)
        labels = flat > 0.5
        gap = torch.where(labels, 1 - flat, flat)
        if not len(gap) or bool((gap != gap[0]).any()):
            return None, 0.0
        return labels.to(torch.int64), 2 * float(gap[0])
    if target.ndim == 1:
        return (None if target.is_floating_point() else target.detach()), 0.0
    if target.ndim == 2 and target.is_floating_point():
        return _unsmoothed(target.detach())
    return None, 0.0


def _unsmoothed(target: Tensor) -> tuple[Tensor, float]:
    """Labels and smoothing of rows that are one-hot or a smoothed one-hot; other distributions as they are."""
    labels = target.argmax(dim=1)
    top = target.gather(1, labels[:, None])
    if len(target) and bool((target.count_nonzero(dim=1) == 1).all()) and bool((top > 0).all()):
        return labels, 0.0  # one-hot, or times a weight of the sample
    rest = (target.sum(dim=1, keepdim=True) - top) / max(1, target.shape[1] - 1)
    others = target.scatter(1, labels[:, None], rest)
    spread = (others - rest).abs().max() if len(target) else torch.zeros(())
    uniform = bool(spread < 1e-6) and bool(((top - top[0]).abs() < 1e-6).all()) and bool((top > rest).all())
    if not uniform:
        return target, 0.0
    return labels, float(rest[0, 0]) * target.shape[1]


def _usual(batch: Any, target_from: Any) -> Tensor | None:
    try:
        return find_target(batch, target_from)
    except (TypeError, ValueError):
        return None


def _usual_keys(batch: Any) -> tuple[str | int, ...]:
    """Where :func:`find_target` looks in a batch of several parts."""
    names = [] if type(batch) in (tuple, list) else [keys[0] for keys, _ in _parts(batch) if keys]
    return (next((key for key in TARGET_KEYS if key in names), 1),)


def _raw(batch: Any, target_from: Any) -> Tensor | None:
    for keys, part in _parts(batch):
        if keys in ((1,), ("target",), ("label",), ("labels",), ("y",)):
            return part
    return None


def _parts(batch: Any) -> list[tuple[tuple[str | int, ...], Tensor]]:
    found = list(tensors_in(batch))
    if not found and hasattr(batch, "__dict__"):
        found = [((name,), part) for name, part in vars(batch).items() if isinstance(part, Tensor)]
    return found


def _plain(part: Any) -> Tensor | None:
    try:
        return find_target((None, part), None)
    except (TypeError, ValueError):
        return None


def _is_function(before: Tensor, after: Tensor) -> bool:
    """Whether labels were renamed or merged: equal ones have equal images. A batch of one class may be renamed, too."""
    pairs: dict[int, int] = {}
    for old, new in zip(before.tolist(), after.tolist(), strict=True):
        if pairs.setdefault(old, new) != new:
            return False
    if len(after) > 2 and after.tolist() == list(range(len(after))):
        return False  # positions in the batch, as contrastive losses have them
    return len(pairs) == 1 or len(set(pairs.values())) > 1


def target_of(batch: Any, keys: tuple[str | int, ...], target_from: Any) -> Tensor:
    """The targets of a batch at a place that was found before, or at the usual one."""
    if not keys:
        return find_target(batch, target_from)
    return find_target(batch, lambda whole: Place("", keys).part_of(whole))
