"""Distributions over labels instead of labels: what several people said of each sample, or a known p*."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from os import PathLike
from typing import Any

import numpy.typing as npt
from torch import Tensor
from torch.utils.data import Dataset

from lightning_flip.data.label_tables import as_label_distributions, load_label_distributions
from lightning_flip.data.labels import with_target
from lightning_flip.data.origins import ask_dataset

__all__ = ["LabelDistributions"]


class LabelDistributions(Dataset[Any]):
    """A map-style dataset together with a distribution over the classes for each of its samples, as p*.

    ``true_distribution(index)`` gives p* of a sample. Samples are handed out as they are, or, with ``as_target``, with
    the distribution in place of the label, so that training is against it (float ``[B, K]`` targets, which
    :class:`~lightning_flip.models.Classifier` takes). All other attributes are the wrapped dataset's.

    Args:
        dataset: map-style dataset of N samples.
        probs: ``[N, K]`` in the order of the dataset: an array, a tensor, or the path of a file for
            :func:`~lightning_flip.data.label_tables.load_label_distributions`.
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

    same_positions = True  # sample i is sample i of `.dataset`: origins are looked up through this wrapper

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
        """Look up p* of one sample.

        Args:
            index: position of the sample in this dataset.

        Returns:
            Probabilities ``[K]``, float32.
        """
        return self.true_probs[index]

    def true_target(self, index: int) -> Any:
        """Look up the label before noise, which the wrapped dataset or one inside it may know; else None.

        Args:
            index: position of the sample in this dataset.

        Returns:
            The label, or None.
        """
        return ask_dataset(self.dataset, index, "true_target")

    def sample_id(self, index: int) -> Any:
        """Look up the lasting name of a sample, which the wrapped dataset or one inside it may give; else None.

        Args:
            index: position of the sample in this dataset.

        Returns:
            The name, or None.
        """
        return ask_dataset(self.dataset, index, "sample_id")

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Any:
        return self._supervised(self.dataset[index], index)

    def __getitems__(self, indices: Sequence[int]) -> list[Any]:
        fetch = getattr(self.dataset, "__getitems__", None)
        samples = fetch(indices) if fetch is not None else [self.dataset[index] for index in indices]
        return [self._supervised(sample, index) for sample, index in zip(samples, indices, strict=True)]

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "dataset":  # copy and pickle ask before there is a dataset
            raise AttributeError(name)
        return getattr(self.dataset, name)

    def _supervised(self, sample: Any, index: int) -> Any:
        if not self.as_target:
            return sample
        return with_target(sample, self.true_probs[operator.index(index)])
