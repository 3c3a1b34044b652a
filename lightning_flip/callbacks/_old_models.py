"""The old models of a monitor: one for the training batches, one for each validation loader."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import lightning.pytorch as pl
import torch
from torch import Tensor, nn

from lightning_flip.callbacks._old_predictions import OldPredictions, SampleAnswers, holds_predictions
from lightning_flip.callbacks.predictions._columns import labels_of_outputs
from lightning_flip.models.loading import is_lightning_class, options_called
from lightning_flip.steps import Attachment, SampleStep, StepSource
from lightning_flip.steps.cached_logits import CACHED_SUFFIXES
from lightning_flip.steps.reference import Reference, load_reference

__all__ = ["OldAnswers", "OldModels"]

Source = str | Path | nn.Module | Reference


class OldAnswers(NamedTuple):
    """The old model's answers to a step's samples, in numbers of the new model's classes.

    Attributes:
        pred: int64 ``[B]``, negative if there is no answer.
        target: int64 ``[B]``, the labels in the old model's file; None for a model.
        known: bool ``[K]``, the classes that both models know; None for all.
        first: whether a file was used for the first time.
    """

    pred: Tensor
    target: Tensor | None
    known: Tensor | None
    first: bool


class OldModels:
    """Loads the sources when a fit begins, and answers for them; for the options see :class:`NegativeFlipMonitor`."""

    def __init__(
        self,
        reference: Source | Sequence[Source],
        train_reference: Source | None,
        *,
        train: bool,
        model_class: type[pl.LightningModule] | str | None,
        network: nn.Module | str | None,
        compile_model: bool,
        old_classes: Sequence[int] | None,
        class_labels: Sequence[int | str] | None,
        logits_from: str | Callable[[Any], Any] | None,
    ) -> None:
        single = isinstance(reference, (str, Path, nn.Module, Reference))
        sources: list[Any] = [reference] if single else list(reference)  # type: ignore[arg-type]
        if not sources:
            raise ValueError("reference must be an old model, a file of predictions, or a list of them; got none.")
        if train and train_reference is None and _of_one_dataset(sources[0]):
            raise ValueError(
                f"{sources[0]} holds what the old model said to the validation data. With train=True pass "
                "train_reference=, a file of the training data, or a model."
            )
        if old_classes is not None and (len(set(old_classes)) < len(old_classes) or min(old_classes, default=-1) < 0):
            raise ValueError(f"old_classes must be different classes, counted from 0; got {list(old_classes)}.")
        self.model_class = model_class
        self.network = network
        self.compile_model = compile_model
        self.old_classes = old_classes
        self.class_labels = class_labels
        self.logits_from = logits_from
        self._single = single
        self._sources = {f"val-{place}": self._copied(source) for place, source in enumerate(sources)}
        if train and train_reference is not None:
            self._sources["train"] = self._copied(train_reference)
        self._train = train
        self._loaded: dict[str, Reference | OldPredictions] = {}
        self._tables: dict[tuple[str, int], tuple[Any, SampleAnswers]] = {}
        self._maps: dict[str, Tensor] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_loaded": {}, "_tables": {}, "_maps": {}}

    def open(self, trainer: pl.Trainer) -> None:
        """Load what is not loaded yet, and move it to the device of the Trainer's module."""
        self._tables, self._maps = {}, {}
        for key, source in self._sources.items():
            if key not in self._loaded:
                self._loaded[key] = self._load(source, trainer.lightning_module)
            loaded = self._loaded[key]
            if isinstance(loaded, Reference):
                loaded.prepare(trainer)

    @property
    def need_inputs(self) -> bool:
        """Whether a source is a model that has to be run, and no file of its predictions or logits."""
        return any(not isinstance(loaded, OldPredictions) for loaded in self._loaded.values())

    def close(self) -> None:
        """Release the device's memory."""
        self._tables, self._maps = {}, {}
        for loaded in self._loaded.values():
            if isinstance(loaded, Reference):
                loaded.release()

    def name(self, split: str, loader: int) -> str:
        """What a source is called in messages."""
        loaded = self._loaded.get(self._key(split, loader))
        return loaded.predictions.name if isinstance(loaded, OldPredictions) else "the reference"

    def answers(
        self, split: str, loader: int, step: SampleStep, attachment: Attachment, source: StepSource
    ) -> OldAnswers:
        """The old model's answers to a step that is detached and without padding."""
        model = self._loaded[self._key(split, loader)]
        known = self._known(step)
        if isinstance(model, OldPredictions):
            table, first = self._table(model, split, loader, step, attachment, source)
            return OldAnswers(*table.rows(step.index), known, first)
        logits = model.logits(step, attachment)
        pred = logits.argmax(dim=1)
        self._check_classes(logits.shape[1], step.num_classes)
        if self.old_classes is not None:
            pred = self._on_device("classes", step, lambda: torch.tensor(self.old_classes))[pred]
        return OldAnswers(pred, None, known, first=False)

    # -- sources --------------------------------------------------------------------------------------

    def _key(self, split: str, loader: int) -> str:
        if split == "train":
            return "train" if "train" in self._sources else "val-0"
        key = f"val-{0 if self._single else loader}"
        if key not in self._sources:
            raise ValueError(
                f"reference= is a list of {sum(name.startswith('val') for name in self._sources)}, and there is a "
                f"validation loader {loader}, counted from 0. Give one reference for every loader, or one for all."
            )
        return key

    def _copied(self, source: Source) -> Source:
        # A module may be what the new one starts from: what it is now counts, not what it is when a fit begins.
        if isinstance(source, nn.Module):
            return load_reference(source, logits_from=self.logits_from, compile=self.compile_model)
        return source

    def _load(self, source: Source, module: pl.LightningModule) -> Reference | OldPredictions:
        if holds_predictions(source):
            return OldPredictions.read(source)  # type: ignore[arg-type]
        model_class = self.model_class
        if model_class is None and self.network is None:
            model_class = _without_mixins(type(module))
        with options_called(model_class="reference_class", network="reference_network"):
            return load_reference(
                source,
                model_class=model_class,
                network=self.network,
                logits_from=self.logits_from,
                compile=self.compile_model,
            )

    def _table(
        self,
        model: OldPredictions,
        split: str,
        loader: int,
        step: SampleStep,
        attachment: Attachment,
        source: StepSource,
    ) -> tuple[SampleAnswers, bool]:
        dataset = step.dataset
        before = self._tables.get((split, loader))
        if before is not None and before[0] is dataset:
            return before[1], False
        labels = labels_of_outputs(dataset, self.class_labels, step.num_classes)
        numbers = labels == tuple(range(step.num_classes))
        table = model.match(dataset, step.num_samples, None if numbers else labels, step.index.device)
        self._tables[split, loader] = dataset, table
        return table, True

    # -- classes --------------------------------------------------------------------------------------

    def _known(self, step: SampleStep) -> Tensor | None:
        if self.old_classes is None:
            return None
        if max(self.old_classes) >= step.num_classes:
            raise ValueError(
                f"old_classes must be among the new model's {step.num_classes} classes; got {list(self.old_classes)}."
            )

        def mask() -> Tensor:
            known = torch.zeros(step.num_classes, dtype=torch.bool)
            known[list(self.old_classes or ())] = True
            return known

        return self._on_device("known", step, mask)

    def _check_classes(self, outputs: int, num_classes: int) -> None:
        if self.old_classes is None and outputs != num_classes:
            raise ValueError(
                f"the reference has {outputs} outputs, the new model {num_classes}. Pass old_classes=, the new model's "
                "class of each of the reference's outputs."
            )
        if self.old_classes is not None and len(self.old_classes) != outputs:
            raise ValueError(
                f"old_classes must name the new model's class of each of the reference's {outputs} outputs; got "
                f"{len(self.old_classes)}: {list(self.old_classes)}."
            )

    def _on_device(self, name: str, step: SampleStep, make: Callable[[], Tensor]) -> Tensor:
        tensor = self._maps.get(name)
        if tensor is None or tensor.device != step.index.device:
            tensor = self._maps[name] = make().to(step.index.device)
        return tensor


def _of_one_dataset(source: Any) -> bool:
    return isinstance(source, (str, Path)) and Path(source).suffix.lower() in (*CACHED_SUFFIXES, ".csv")


def _without_mixins(cls: type) -> type[pl.LightningModule] | None:
    """The class right of the loss terms, which is what a model without them was trained as."""
    parts = (part for part in cls.__mro__ if is_lightning_class(part))
    return next((part for part in parts if not hasattr(part, "method_loss")), None)
