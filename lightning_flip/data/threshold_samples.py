"""Samples with a class of their own, which tell below which margin a label is wrong (AUM, Pleiss et al. 2020)."""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import Tensor

from lightning_flip.data._wrapped import WrappedDataset
from lightning_flip.data.labels import check_label, find_labels, with_label
from lightning_flip.data.origins import ask_dataset, first_attribute

__all__ = ["ThresholdSamples"]


class ThresholdSamples(WrappedDataset):
    """Hands out the samples of a map-style dataset, of which N / (K + 1) have the additional label K.

    "Identifying mislabeled data using the area under the margin ranking" (Pleiss et al. 2020), section 3.2. The label K
    is wrong for all of these samples, so that their margins show what those of wrong labels look like. Record a run on
    this dataset with a network of K + 1 outputs, and pass it to
    :func:`lightning_flip.reports.aum_threshold.aum_threshold`.

    What it costs: a training of its own, one more output, and 1 / (K + 1) of the labels. The samples with label K are
    not judged; a second run with ``part=1`` has others. On CIFAR-10 images with 20% wrong labels the threshold had a
    precision of .57 and a recall of .78. ``is_label_issue`` of :meth:`History.suspects` needs none of this.

    The samples are drawn once, from the seed alone. Labels are found and replaced as in
    :class:`~lightning_flip.data.NoisyLabels`, whose samples may be used, too. ``targets``, ``labels`` and ``tensors``
    give the labels with K, and ``classes`` has one more name; all other attributes are the wrapped dataset's. Use it
    for training data only.

    Args:
        dataset: map-style dataset of ``N`` samples with integer labels.
        num_classes: number ``K`` of classes of the dataset, at least 1.
        seed: seed of the samples with label K; the global random state is not touched.
        part: which of the ``K + 1`` parts that a seed gives, from 0; no two have a sample in common.
        scan: read the labels from the samples even if the dataset has an attribute for them.

    Attributes:
        given_targets: int64 ``[N]``, the labels of the wrapped dataset.
        threshold_targets: int64 ``[N]``, K for threshold samples.
        is_threshold: bool ``[N]``, whether it is a threshold sample.

    Raises:
        TypeError: if a sample has no integer label.
        ValueError: if a label is not below ``num_classes``, ``part`` is not below ``K + 1``, or there are fewer than
            ``K + 1`` samples.

    Example:
        >>> from torch.utils.data import TensorDataset
        >>> data = TensorDataset(torch.zeros(1000, 2), torch.arange(1000) % 9)
        >>> marked = ThresholdSamples(data, num_classes=9)
        >>> int(marked.is_threshold.sum()), marked.targets[marked.is_threshold].unique().tolist()
        (100, [9])
        >>> other = ThresholdSamples(data, num_classes=9, part=1)
        >>> bool((marked.is_threshold & other.is_threshold).any())
        False
    """

    def __init__(self, dataset: Any, num_classes: int, *, seed: int = 0, part: int = 0, scan: bool = False) -> None:
        self.dataset = dataset
        self.given_targets = find_labels(dataset, scan=scan)
        count = len(self.given_targets) // (num_classes + 1)
        largest = int(self.given_targets.max()) if len(self.given_targets) else -1
        if num_classes <= largest:
            raise ValueError(
                f"num_classes must be above every label of the dataset, which has {largest}; got {num_classes}. Give"
                " the number of classes, without the additional one."
            )
        if not 0 <= part <= num_classes:
            raise ValueError(f"part must be from 0 to num_classes={num_classes}, got {part}.")
        if not count:
            raise ValueError(
                f"the dataset has {len(self.given_targets)} samples, of which 1 in num_classes + 1 = {num_classes + 1}"
                " would be a threshold sample: none. Use more data."
            )
        order = torch.randperm(len(self.given_targets), generator=torch.Generator().manual_seed(seed))
        self.threshold_targets = self.given_targets.clone()
        self.threshold_targets[order[part * count : (part + 1) * count]] = num_classes
        self._num_classes = num_classes

    @property
    def is_threshold(self) -> Tensor:
        """Whether it is a threshold sample: bool ``[N]``."""
        return self.threshold_targets == self._num_classes

    @property
    def targets(self) -> Tensor:
        """The labels with the additional class, under the name that torchvision's datasets use."""
        return self.threshold_targets

    @property
    def labels(self) -> Tensor:
        """The labels with the additional class, under another usual name."""
        return self.threshold_targets

    @property
    def classes(self) -> list[Any] | None:
        """The names of all K + 1 classes; None if the dataset has none."""
        names = first_attribute(self.dataset, "classes")
        return [*names, "threshold"] if isinstance(names, (list, tuple)) and names else None

    def true_target(self, index: int) -> int:
        """The true label of a sample as far as the dataset knows it, else the given one."""
        position = operator.index(index)
        known = ask_dataset(self.dataset, position, "true_target")
        return int(self.given_targets[position] if known is None else known)

    def __getattr__(self, name: str) -> Any:
        if name == "tensors":  # the wrapped dataset's would have the given labels
            inputs, _, *others = self.dataset.tensors
            return (inputs, self.threshold_targets, *others)
        return super().__getattr__(name)

    def _changed(self, sample: Any, index: int) -> Any:
        """The sample with its label, or K in its place."""
        position = operator.index(index)
        check_label(sample, int(self.given_targets[position]), position)
        return with_label(sample, int(self.threshold_targets[position]))
