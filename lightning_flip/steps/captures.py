"""The captures of one module, one for every submodule that somebody takes logits or features from."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from torch import Tensor, nn

from lightning_flip.steps.capture import LogitCapture, as_logits
from lightning_flip.steps.features import FeatureCapture, classifier_layer, layer_candidates
from lightning_flip.steps.source import StepSource

__all__ = ["Captures", "Inputs"]

Inputs = tuple[tuple[Any, ...], dict[str, Any]]


class Captures:
    """Finds the logits of a step for every source that was added.

    Args:
        module: the LightningModule.
    """

    def __init__(self, module: nn.Module) -> None:
        self._module = module
        self._by_source: dict[StepSource, tuple[LogitCapture | None, FeatureCapture | None]] = {}
        self._all: list[LogitCapture | FeatureCapture] = []  # each once

    def add(self, source: StepSource) -> None:
        """Make sure that a source's logits are caught, and the features if it asks for them.

        Args:
            source: where to take them from.

        Raises:
            AttributeError: if ``logits_from`` or ``features_from`` names no submodule.
        """
        if source in self._by_source:
            return
        layer = source.features_from
        classifier = None if layer is None else classifier_layer(self._module, layer, "features_from")
        logits = self._capture_for(source)
        features = None if classifier is None else FeatureCapture(classifier)
        self._by_source[source] = logits, features
        self._all += [capture for capture in (logits, features) if capture is not None and capture not in self._all]

    def copy_to(self, sinks: Sequence[tuple[StepSource, Callable[[Tensor], None]]]) -> None:
        """Hand logits over in the forward that gives them, as a module may edit them afterwards.

        Args:
            sinks: who takes the logits of which source; all others of before no longer do.
        """
        for capture, _ in self._by_source.values():
            if capture is not None:
                capture.sinks = []
        for source, sink in sinks:
            capture, _ = self._by_source[source]
            if capture is not None:
                capture.sinks.append(sink)

    def kept(self, source: StepSource) -> Tensor | None:
        """The logits of an evaluation step as the network gave them; None if nobody can have edited them.

        Args:
            source: where they were taken from.
        """
        capture, _ = self._by_source[source]
        return None if capture is None else capture.kept

    def arm(self, rows: Callable[[StepSource], int | None], number: int | None, *, wrapped: bool, copies: bool) -> None:
        """Begin a step.

        Args:
            rows: gives the number of samples that a source follows, or None where it cannot be told.
            number: of samples of a batch of one loader, for sources that take the index from the loader.
            copies: keep a copy of the logits, as evaluation does, whose steps are recorded after they end.
            wrapped: the strategy runs the step through the module's forward (DistributedDataParallel).
        """
        for source, (logits, features) in self._by_source.items():
            count = number if number is not None and source.index_from is None else rows(source)
            if logits is not None and count is not None:
                logits.arm(count, outermost_is_step=wrapped and logits.module is self._module)
                logits.copies = copies
            if features is not None and count is not None:
                features.arm(count)

    def disarm(self) -> None:
        """End a step: what runs later (checkpointed activations in the backward pass) is not looked at."""
        for capture in self._all:
            capture.armed = False

    def clear(self) -> None:
        """Forget what was caught."""
        for capture in self._all:
            capture.clear()

    def remove(self) -> None:
        """Take all hooks off."""
        for capture in self._all:
            capture.remove()
        self._by_source, self._all = {}, []

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """A context for forwards that are not the step's."""
        armed = [capture for capture in self._all if capture.armed]
        self.disarm()
        try:
            yield
        finally:
            for capture in armed:
                capture.armed = True

    def find(self, source: StepSource, rows: int, output: Any) -> tuple[Tensor, Inputs] | None:
        """The logits of the step and the inputs of their forward.

        Args:
            source: where to take them from.
            rows: number of samples in the batch.
            output: what the step returned, None while it runs.

        Returns:
            Logits ``[B, K]`` and inputs, or None if there are none.

        Raises:
            ValueError: if there are logits, but of another number of samples.
        """
        if callable(source.logits_from):
            logits = as_logits(source.logits_from(output)) if output is not None else None
            inputs: Inputs = ((), {})
            other_rows = [logits.shape[0]] if logits is not None and logits.shape[0] != rows else []
        else:
            capture, _ = self._by_source[source]
            assert capture is not None
            logits, inputs, other_rows = capture.logits, capture.inputs, capture.other_rows
        if logits is not None and logits.shape[0] == rows:
            return logits, inputs
        if other_rows:
            raise ValueError(
                f"logits have {other_rows[0]} rows, the batch has {rows} indices. A collate function that drops or "
                "adds samples, or a step that does, breaks the tie between the two: filter the dataset instead "
                "(Subset), or let the batch carry the index and pass index_from=."
            )
        return None

    def features(self, source: StepSource) -> Tensor | None:
        """The features of the step.

        Args:
            source: where to take them from.

        Returns:
            ``[B, D]``; None where the source asks for none.

        Raises:
            RuntimeError: if it asks and there are none.
        """
        _, capture = self._by_source.get(source, (None, None))
        if capture is None or capture.features is not None:
            return None if capture is None else capture.features
        layers = ", ".join(map(repr, layer_candidates(self._module))) or "none that has a weight [K, D]"
        where = next((name for name, part in self._module.named_modules() if part is capture.module), "?")
        raise RuntimeError(
            f"no features [B, D] entered the layer {where!r} (features_from={source.features_from!r}) in this step. "
            "Usual causes: its weight is used without calling it, its input has more than two dimensions, or the "
            f"network was compiled before. Name the layer that the features enter; candidates: {layers}."
        )

    def _capture_for(self, source: StepSource) -> LogitCapture | None:
        if callable(source.logits_from):
            return None
        try:
            target = self._module.get_submodule(source.logits_from)
        except AttributeError:
            names = [name for name, _ in self._module.named_children()]
            raise AttributeError(
                f"logits_from={source.logits_from!r} is no submodule of {type(self._module).__name__}; "
                f"its children are {names}."
            ) from None
        for capture, _ in self._by_source.values():
            if capture is not None and capture.module is target:
                return capture
        return LogitCapture(target)
