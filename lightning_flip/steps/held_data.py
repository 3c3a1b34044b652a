"""What the state of a callback or mixin is of, compared with the data that come."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn

from lightning_flip.steps._labels import KnownLabels
from lightning_flip.steps.identity import ChangedDataError, LoaderData

__all__ = ["HeldData"]


class HeldData:
    """The fingerprints of the data that an owner's state is of, by split and loader."""

    def __init__(self) -> None:
        self.facts: dict[str, dict[str, Any]] = {}
        self._labels: dict[str, KnownLabels] = {}
        self._saved: dict[str, Any] = {}  # labels of a checkpoint, until their data are there
        self._last: dict[str, weakref.ref[LoaderData]] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_last": {}}  # a copy is shown the data again

    def compare(self, owner: str, data: LoaderData, restart: Callable[[str, int], None] | None) -> None:
        """Refuse data that are not those of before, or start anew on them."""
        last = self._last.get(data.name)
        if last is not None and last() is data:
            return
        before = self.facts.get(data.name)
        problem = data.difference(before) if before is not None else ""
        if problem and data.name in self._labels:
            change = self._labels[data.name].list_change(data.dataset) if data.labels_count else ""
            problem = f"{problem}; {change}" if change else problem
        if problem and restart is None:
            relabelled = 'Where labels are meant to change, pass labels="may_change". ' if "labels" in problem else ""
            raise ChangedDataError(
                f"{owner}: the {data.split} data (loader {data.loader}) are not those of before: {problem}. A position "
                "in the dataset has to be the same sample for the whole run, across reloads and resumptions. Use the "
                f"same samples in the same order (a split with a fixed seed). {relabelled}Else start a new run, or "
                "pass allow_changed_data=True, which forgets what is known of these samples."
            )
        if problem and restart is not None:
            rank_zero_warn(f"{owner} starts anew on the {data.split} data (loader {data.loader}): {problem}.")
            restart(data.split, data.loader)
            self._saved.pop(data.name, None)
        elif before is not None and data.facts is not None and data.facts["length"] > before["length"]:
            rank_zero_info(
                f"{owner}: the {data.split} data (loader {data.loader}) have grown from {before['length']} to "
                f"{data.facts['length']} samples"
            )
        if data.labels is not None:
            data.labels.adopt(self._saved.pop(data.name, None))
            self._labels[data.name] = data.labels
        if data.facts is not None:
            self.facts[data.name] = data.facts
        self._last[data.name] = weakref.ref(data)

    def state(self) -> dict[str, Any]:
        """What goes into a checkpoint: tensors, numbers and text."""
        labels = {name: known.state() for name, known in self._labels.items()}
        return {"facts": {name: dict(facts) for name, facts in self.facts.items()}, "labels": {**self._saved, **labels}}

    def load(self, state: dict[str, Any] | None) -> None:
        """Continue from a checkpoint; one of 0.1 knows nothing of its data."""
        state = state or {"facts": {}, "labels": {}}
        self.facts = {name: dict(facts) for name, facts in state["facts"].items()}
        self._saved = dict(state["labels"])
        self._labels, self._last = {}, {}
