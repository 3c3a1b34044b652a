"""The mean target that training pulls predictions towards, of the true classes and of the others."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

import lightning.pytorch as pl
import numpy as np
from torch import Tensor

from lightning_flip.callbacks.diagnostics.base import Arrays, Diagnostic
from lightning_flip.callbacks.diagnostics.finding import Finding
from lightning_flip.functional.losses import one_hot_targets
from lightning_flip.functional.pairwise import target_parts
from lightning_flip.reports.figures.targets import TargetProfile, plot_training_targets
from lightning_flip.steps import SampleStep
from lightning_flip.steps.options import check_whole

__all__ = ["TrainingTargets"]

_NAMES = {1: "one label", 2: "two labels"}


@runtime_checkable
class KeepsTargets(Protocol):
    """A module that keeps what its loss pulls predictions towards; loss mixins do."""

    kept_training_targets: tuple[Tensor, Tensor] | None

    def keep_training_targets(self) -> None:
        """Keep them from now on."""


class TrainingTargets(Diagnostic):
    """Mean training target of the true classes and of the largest other classes (PLS, Fig. 4).

    Targets are those of the loss: with :class:`~lightning_flip.mixins.PairwiseLabelSmoothing` the average of a pair's
    labels and the learned distribution, with :class:`~lightning_flip.mixins.LabelSmoothing` the smoothed label, with a
    plain module the label. Each sample's classes are sorted before the mean is taken, so that the first other class is
    the largest of each sample, whichever it is. Samples with two different labels (pairs) are kept apart from those
    with one; of samples with more labels the two with the largest target are shown. Written to
    ``diagnostics/train_training_targets.csv`` (``epoch, labels, kind, place, mass, samples``) and drawn. A method whose
    loss is not a cross entropy against a target is an error in the first step.

    Args:
        others: how many of the other classes.
        **kwargs: options of :class:`~lightning_flip.callbacks.Diagnostic`, but ``passes``.

    Example:
        >>> TrainingTargets(every_n_epochs=10).state_key
        "TrainingTargets{'train': True, 'val': False, 'name': ''}"
    """

    title = "training_targets"
    takes_distributions = True

    def __init__(self, *, others: int = 5, **kwargs: Any) -> None:
        super().__init__(train=True, val=False, passes="train", mode=None, **kwargs)
        check_whole(others=others)
        if others < 1:
            raise ValueError(f"others must be at least 1; got {others}.")
        self.others = others
        self._module: Any = None

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_module": None}

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Have the module keep its targets."""
        super().on_train_start(trainer, pl_module)
        if self.fitting and isinstance(pl_module, KeepsTargets):
            self._module = pl_module
            pl_module.keep_training_targets()

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Detach."""
        super().teardown(trainer, pl_module, stage)
        self._module = None

    @property
    def every_step(self) -> bool:
        """The targets are those of the running step's loss."""
        return True

    def columns(self, step: SampleStep) -> Mapping[str, Tensor]:
        """The sorted target."""
        kept = None if self._module is None else self._module.kept_training_targets
        if kept is None:
            label = one_hot_targets(step.target, step.num_classes, step.logits)
            kept = label, label
        rows = len(step.index)  # without a DistributedSampler's padding
        labels, target = (part[:rows] for part in kept)
        parts = target_parts(target, labels, others=self.others)
        return {"true": parts.true.float(), "others": parts.others.float(), "labels": parts.num_true}

    def describe(self, trainer: pl.Trainer, split: str, rows: Arrays) -> Finding:
        """The means."""
        profiles: dict[str, TargetProfile] = {}
        table: dict[str, list[Any]] = {name: [] for name in ("labels", "kind", "place", "mass", "samples")}
        for count in np.unique(rows["labels"]).tolist():
            mine, name = rows["labels"] == count, _NAMES.get(count, f"{count} labels")
            means = [rows[part][mine].astype(np.float64).mean(axis=0) for part in ("true", "others")]
            found = [[float(mass) for mass in mean if not np.isnan(mass)] for mean in means]
            profiles[name] = TargetProfile(tuple(found[0]), tuple(found[1]), int(mine.sum()))
            for kind, masses in zip(("true", "other"), found, strict=True):
                for place, mass in enumerate(masses, start=1):
                    for column, cell in zip(table, (count, kind, place, mass, int(mine.sum())), strict=True):
                        table[column].append(cell)
        return Finding(table, profiles, (lambda: plot_training_targets(profiles)) if profiles else None)
