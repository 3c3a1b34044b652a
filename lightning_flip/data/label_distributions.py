"""Distributions over labels instead of labels: the votes of several people for each sample, or a known p*."""

from __future__ import annotations

import operator
from os import PathLike
from typing import Any

import numpy.typing as npt
from torch import Tensor

from lightning_flip.data._label_files import as_label_distributions, load_label_distributions
from lightning_flip.data._wrapped import WrappedDataset
from lightning_flip.data.labels import with_target
from lightning_flip.data.origins import ask_dataset

__all__ = ["LabelDistributions"]


class LabelDistributions(WrappedDataset):
    """A map-style dataset with a distribution over the classes for each of its samples, as p*.

    Samples are handed out as they are, or, with ``as_target``, with the distribution in place of the label, for
    training against it (float ``[B, K]`` targets, which :class:`~lightning_flip.models.Classifier` takes). Attributes
    that are not listed here are the wrapped dataset's.

    Args:
        dataset: map-style dataset of N samples.
        probs: ``[N, K]`` in the order of the dataset: an array, a tensor, or the path of a file for
            :func:`~lightning_flip.data.load_label_distributions`.
        as_target: hand out the distribution instead of the label.
        normalize: ``probs`` are counts of votes; divide each row by its sum.

    Attributes:
        true_probs: float32 ``[N, K]``.

    Raises:
        ValueError: if the table does not have N rows, or they are not distributions.

    Example:
        >>> labelled = [("a.png", 0), ("b.png", 1)]
        >>> data = LabelDistributions(labelled, [[9, 1], [5, 5]], normalize=True)
        >>> data[0], data.true_distribution(0)
        (('a.png', 0), tensor([0.9000, 0.1000]))
        >>> LabelDistributions(labelled, [[9, 1], [5, 5]], normalize=True, as_target=True)[1]
        ('b.png', tensor([0.5000, 0.5000]))
    """

    def __init__(
        self,
        dataset: Any,
        probs: npt.ArrayLike | Tensor | str | PathLike[str],
        *,
        as_target: bool = False,
        normalize: bool = False,
    ) -> None:
        self.dataset = dataset
        self.as_target = as_target
        if isinstance(probs, (str, PathLike)):
            self.true_probs = load_label_distributions(probs, num_samples=len(dataset), normalize=normalize)
        else:
            self.true_probs = as_label_distributions(probs, num_samples=len(dataset), normalize=normalize)

    def true_distribution(self, index: int) -> Tensor:
        """The probabilities p* ``[K]`` of one sample, float32."""
        return self.true_probs[index]

    def true_target(self, index: int) -> Any:
        """The label before noise, if the wrapped dataset or one inside it knows it; else None."""
        return ask_dataset(self.dataset, index, "true_target")

    def _changed(self, sample: Any, index: int) -> Any:
        """The sample, with ``as_target`` with its distribution."""
        return with_target(sample, self.true_probs[operator.index(index)]) if self.as_target else sample
