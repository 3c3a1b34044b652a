"""Where a callback or mixin takes its step from."""

from __future__ import annotations

from dataclasses import dataclass

from lightning_flip.steps.capture import LogitSource
from lightning_flip.steps.targets import Selector

__all__ = ["StepSource"]

_PART = "a key, an attribute, a position or a function of the batch"
_FUNCTIONS = ("logits_from", "target_from", "index_from")


@dataclass(frozen=True)
class StepSource:
    """Where a callback or mixin takes index, logits and target from.

    Attributes:
        logits_from: a dotted submodule path, "" for the module's own forward, or a function of what the
            step returned.
        target_from: a key, attribute, position, or function of the batch; None for the usual places.
        index_from: the same, for batches that carry their samples' ids themselves (iterable datasets).
        loader: position or key of the loader, where training draws from several.
        features_from: the layer whose input are the features: a dotted submodule path, or "" for the last
            ``nn.Linear``; None where nobody needs them.

    Raises:
        TypeError: if one is of another kind.

    Example:
        >>> StepSource(logits_from="head", target_from="species").loader is None
        True
    """

    logits_from: LogitSource = ""
    target_from: Selector | None = None
    index_from: Selector | None = None
    loader: int | str | None = None
    features_from: str | None = None

    def __post_init__(self) -> None:
        for name, value, kinds, expected in (
            ("logits_from", self.logits_from, str, "the path of a submodule, or a function of what the step returned"),
            ("target_from", self.target_from, (str, int), _PART),
            ("index_from", self.index_from, (str, int), _PART),
            ("loader", self.loader, (str, int), "the position or key of a training loader"),
            ("features_from", self.features_from, str, "the path of a layer"),
        ):
            fits = isinstance(value, kinds) and not isinstance(value, bool)
            fits = fits or (value is None and name != "logits_from") or (callable(value) and name in _FUNCTIONS)
            if not fits:
                raise TypeError(f"{name} must be {expected}; got {value!r}.")

    def __hash__(self) -> int:
        # Looked up several times a step; a Trainer has few sources, and equal ones have this in common.
        return hash(self.logits_from)
