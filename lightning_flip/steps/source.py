"""Where a callback or mixin takes its step from."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar

from lightning_flip.data.sample_names import IdsFrom
from lightning_flip.steps.outputs import KINDS, Place
from lightning_flip.steps.targets import Selector

__all__ = ["StepSource"]

LogitSource = str | Callable[[Any], Any] | None

_PART = "a key, an attribute, a position or a function of the batch"
_FUNCTIONS = ("logits_from", "target_from", "index_from", "sample_id_from")


@dataclass(frozen=True)
class StepSource:
    """Where a callback or mixin takes index, logits and target from.

    What is None is found: the logits by the loss that they enter, the targets in the usual places of a batch. A module
    may set it for all callbacks and mixins with an attribute ``flip_source = StepSource(...)``; an option of a callback
    or mixin takes precedence.

    Attributes:
        logits_from: ``"net"`` for the output of a submodule, ``""`` for that of the module's own forward,
            ``"net[logits]"`` or ``"[1]"`` for a part of it, ``"net#2"`` for that of the second call in a step. Or a
            function of what the step returned; if its argument is called ``forward``, of what the module's own forward
            returned.
        target_from: key, attribute, position, or function of the batch.
        index_from: the same, for batches that carry their samples' ids themselves (iterable datasets).
        loader: position or key of the loader, where training draws from several.
        features_from: the layer whose input are the features: a dotted submodule path, or "" for the last
            ``nn.Linear``; None if they are not needed.
        outputs: what ``logits_from`` gives: "logits", "log_probs" or "probs"; one column counts as the second of two
            classes. None: what the loss says, else what the values look like.
        labels: "may_change" keeps the label of every visit, for pseudo-labels and label correction, and judges each
            visit by its own. None or "fixed": a sample has one label for the whole run, and one that differs from the
            first stops it.
        ignore_index: the label of samples that are left out, if no loss shows it: validations without a loss of a
            module that has not been trained in this process, losses that are written out. None: what the loss leaves
            out, -100 with torch's own.
        sample_id_from: attribute or column of the dataset with a lasting id for each sample, or a function of the
            dataset that gives all of them. None: its ``sample_id(index)``, else the paths of a folder dataset.

    Raises:
        TypeError: if one is of another kind.
        ValueError: if ``logits_from`` is a text that names no place, or ``outputs`` or ``labels`` is something else.

    Example:
        >>> StepSource(logits_from="head", target_from="species").loader is None
        True
    """

    #: Whether what is found for it serves other sources of the module, and so may change what they find.
    serves_others: ClassVar[bool] = True

    logits_from: LogitSource = None
    target_from: Selector | None = None
    index_from: Selector | None = None
    loader: int | str | None = None
    features_from: str | None = None
    outputs: str | None = None
    labels: str | None = None
    ignore_index: int | None = None
    sample_id_from: IdsFrom | None = None

    def __post_init__(self) -> None:
        for name, value, kinds, expected in (
            ("logits_from", self.logits_from, str, "the path of a submodule, or a function of what the step returned"),
            ("target_from", self.target_from, (str, int), _PART),
            ("index_from", self.index_from, (str, int), _PART),
            ("loader", self.loader, (str, int), "the position or key of a training loader"),
            ("features_from", self.features_from, str, "the path of a layer"),
            ("sample_id_from", self.sample_id_from, str, "a column or attribute of the dataset, or a function of it"),
        ):
            fits = isinstance(value, kinds) and not isinstance(value, bool)
            fits = fits or value is None or (callable(value) and name in _FUNCTIONS)
            if not fits:
                raise TypeError(f"{name} must be {expected}; got {value!r}.")
        if isinstance(self.logits_from, str):
            Place.parse(self.logits_from)
        if isinstance(self.ignore_index, bool) or not isinstance(self.ignore_index, (int, type(None))):
            raise TypeError(f"ignore_index must be a whole number, the label to leave out; got {self.ignore_index!r}.")
        if self.outputs is not None and self.outputs not in KINDS:
            raise ValueError(f"outputs must be one of {', '.join(map(repr, KINDS))}, or None; got {self.outputs!r}.")
        if self.labels not in (None, "fixed", "may_change"):
            raise ValueError(f'labels must be "fixed" or "may_change"; got {self.labels!r}.')

    def __hash__(self) -> int:
        # Looked up several times a step; a Trainer has few sources, and equal ones have this in common.
        return hash(self.logits_from)

    @property
    def takes_forward(self) -> bool:
        """Whether ``logits_from`` is a function of what the module's own forward returned."""
        if not callable(self.logits_from):
            return False
        try:
            return list(inspect.signature(self.logits_from).parameters) == ["forward"]
        except (TypeError, ValueError):
            return False

    @property
    def takes_output(self) -> bool:
        """Whether ``logits_from`` is a function of what the step returned."""
        return callable(self.logits_from) and not self.takes_forward

    def completed_by(self, module: Any) -> StepSource:
        """The source with what a module says in its attribute ``flip_source``, where the source itself says nothing.

        Args:
            module: a module that may have such an attribute.

        Returns:
            A source.

        Raises:
            TypeError: if the attribute is something else.
        """
        other = getattr(module, "flip_source", None)
        if other is None:
            return self
        if not isinstance(other, StepSource):
            raise TypeError(
                f"{type(module).__name__}.flip_source must be a StepSource; got {other!r}. Write: flip_source = "
                'StepSource(logits_from="net").'
            )
        missing = {
            field.name: getattr(other, field.name) for field in fields(self) if getattr(self, field.name) is None
        }
        return replace(self, **missing)
