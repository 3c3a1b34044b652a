"""The features of three classes, projected on the plane of their class vectors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import lightning.pytorch as pl
import numpy as np
import numpy.typing as npt
import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from lightning_flip.callbacks._evaluation import training_data
from lightning_flip.callbacks.diagnostics.base import Arrays, Diagnostic
from lightning_flip.callbacks.diagnostics.finding import Finding
from lightning_flip.data.labels import class_names, kept_labels
from lightning_flip.data.origins import true_targets
from lightning_flip.reports.figures.projection import class_plane, class_projection, plot_class_projection
from lightning_flip.steps import SampleStep, StepSource
from lightning_flip.steps.logits.capture import classifier_layer
from lightning_flip.steps.options import check_whole

__all__ = ["FeatureProjection"]


class FeatureProjection(Diagnostic):
    """Features of training samples of three classes, projected on the plane of the class vectors (LS-noise, Fig. 4).

    The class vectors are the rows of the classifier layer's weight, the features what enters that layer, as in Müller
    et al. (2019). Colors are the given labels; if the dataset knows the true ones (``true_target(index)``, as
    :class:`~lightning_flip.data.NoisyLabels` does) mislabelled samples are black. The network is evaluated on the same
    samples each time, in eval mode, inputs as the training loader gives them; training does not notice.
    Written to ``diagnostics/train_feature_projection.csv`` (``epoch, x, y, label, true_label, noisy``) and drawn.

    Args:
        classes: three classes.
        samples_per_class: how many training samples of each given label, chosen once, the same in every run.
        classifier_from: dotted path of the classifier layer; "" for the last ``nn.Linear``.
        **kwargs: options of :class:`~lightning_flip.callbacks.Diagnostic`, but ``passes``.

    Raises:
        ValueError: if an option is out of range; when training starts, if a class has no samples, or the layer no such
            row.
        TypeError: when training starts, if the labels cannot be read without loading samples.
        AttributeError: when training starts, if there is no such layer.

    Example:
        >>> FeatureProjection((3, 5, 8), every_n_epochs=10).state_key
        "FeatureProjection{'train': True, 'val': False, 'name': ''}"
    """

    title = "feature_projection"
    advice = "Leave FeatureProjection out."

    def __init__(
        self,
        classes: Sequence[int] = (0, 1, 2),
        *,
        samples_per_class: int = 100,
        classifier_from: str = "",
        **kwargs: Any,
    ) -> None:
        if kwargs.get("index_from") is not None or callable(kwargs.get("logits_from")):
            raise ValueError(
                "FeatureProjection evaluates samples by position: index_from does not go with it, and "
                "logits_from must name a submodule."
            )
        super().__init__(train=True, val=False, passes="eval", mode=None, **kwargs)
        check_whole(samples_per_class=samples_per_class, **{f"classes[{n}]": label for n, label in enumerate(classes)})
        if len(classes) != 3 or len(set(classes)) != 3 or min(classes) < 0:
            raise ValueError(f"classes must be three different classes, counted from 0; got {list(classes)}.")
        if samples_per_class < 1:
            raise ValueError(f"samples_per_class must be at least 1; got {samples_per_class}.")
        self.classes = tuple(int(label) for label in classes)
        self.samples_per_class = samples_per_class
        self.classifier_from = classifier_from
        self._samples: list[int] = []
        self._truth: npt.NDArray[np.int64] | None = None
        self._names: list[str] | None = None

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Choose the samples, and check the layer, before the work begins."""
        if self.fitting:
            self._prepare(trainer, pl_module)
        super().on_train_start(trainer, pl_module)

    def _prepare(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        weight = _weight(pl_module, self.classifier_from)
        if max(self.classes) >= len(weight):
            raise ValueError(
                f"classes={list(self.classes)}, and the classifier layer has {len(weight)} outputs. Choose classes "
                "below that, or name another layer with classifier_from=."
            )
        dataset = training_data(trainer, self.source)
        if dataset is None:
            raise TypeError(
                "FeatureProjection chooses training samples by position: that needs a map-style dataset, and loader= "
                "where training draws from several loaders."
            )
        labels = kept_labels(dataset)
        if labels is None:
            raise TypeError(
                f"FeatureProjection chooses samples by their labels, and {type(dataset).__name__} keeps none that can "
                "be read without loading all samples. Give the dataset an attribute targets, one label per sample."
            )
        self._samples = _choose(torch.from_numpy(labels), self.classes, self.samples_per_class)
        self._truth = true_targets(dataset)
        known = class_names(dataset)
        if known is not None and len(known) > max(self.classes):
            self._names = [known[label] for label in self.classes]

    def samples(self) -> Sequence[int]:
        """The chosen ones."""
        return self._samples

    @property
    def clean_source(self) -> StepSource:
        """With the features, which training steps need not catch."""
        return replace(self.source, features_from=self.classifier_from)

    def columns(self, step: SampleStep) -> Mapping[str, Tensor]:
        """Label and features."""
        assert step.features is not None
        return {"label": step.target, "features": step.features.float()}

    def describe(self, trainer: pl.Trainer, split: str, rows: Arrays) -> Finding | None:
        """The points on the plane."""
        assert self._truth is not None
        rows_of_layer = _weight(trainer.lightning_module, self.classifier_from)[list(self.classes)]
        vectors = rows_of_layer.detach().double().cpu().numpy()
        try:
            class_plane(vectors)
        except ValueError as error:  # as of a head that begins at zero
            rank_zero_warn(f"FeatureProjection leaves out epoch {trainer.current_epoch}: {error}")
            return None
        truth = self._truth[rows["index"]]
        found = class_projection(
            rows["features"],
            vectors,
            rows["label"],
            np.where(truth < 0, rows["label"], truth),
            classes=self.classes,
            names=self._names,
        )
        return Finding(found.table(), found, lambda: plot_class_projection(found))


def _weight(module: pl.LightningModule, path: str) -> Tensor:
    weight = getattr(classifier_layer(module, path, "classifier_from"), "weight", None)
    if not isinstance(weight, Tensor) or weight.ndim != 2:
        raise ValueError(
            f"classifier_from={path!r} names a layer without a weight [K, D], one row per class. Name the layer that "
            "turns features into logits, an nn.Linear."
        )
    return weight


def _choose(labels: Tensor, classes: Sequence[int], count: int) -> list[int]:
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    chosen: list[int] = []
    for label in classes:
        mine = order[labels[order] == label][:count].tolist()
        if not mine:
            raise ValueError(f"classes: no training sample has the label {label}. Choose another class.")
        chosen += mine
    return sorted(chosen)
