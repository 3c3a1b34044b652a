"""Pairs of samples of the same class."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lightning_flip.data.labels import find_labels

__all__ = ["SameClassPairs"]

_NONE = torch.iinfo(torch.int64).min


class SameClassPairs:
    """Draws for each sample a partner of its class; every sample of the class, itself included, is equally likely.

    Args:
        labels: integer labels ``[N]`` of all samples, each >= 0.
        ignore_index: the label of samples without one: each of them is only its own partner.

    Raises:
        ValueError: if there are none, or they are not labels.

    Example:
        >>> pairs = SameClassPairs(torch.tensor([0, 1, 0, 2, 1, 1]))
        >>> partners = pairs.of_samples(torch.tensor([0, 1, 3]), torch.Generator().manual_seed(0))
        >>> pairs.labels[partners]
        tensor([0, 1, 2])
        >>> pairs.counts
        tensor([2, 3, 1])
    """

    def __init__(self, labels: Any, *, ignore_index: int | None = None) -> None:
        labels = torch.as_tensor(labels).to("cpu")
        if ignore_index is not None and not labels.is_floating_point():
            labels = torch.where(labels == ignore_index, _NONE, labels.to(torch.int64))
        wrong = (labels < 0) & (labels != _NONE)
        if labels.ndim != 1 or labels.is_floating_point() or len(labels) == 0 or bool(wrong.any()):
            raise ValueError(
                f"expected one integer label >= 0 per sample, [N]; got {labels.dtype} of shape {tuple(labels.shape)}"
                + (f" with values from {labels[labels != _NONE].min().item()}." if labels.numel() else ".")
            )
        self.labels = labels.to(torch.int64)
        self.counts = torch.bincount(self.labels[self.labels >= 0])
        self._order = torch.argsort(self.labels, stable=True)  # positions, class after class, first those of none
        self._first = self.counts.cumsum(0) - self.counts + int((self.labels < 0).sum())

    @classmethod
    def of_dataset(cls, dataset: Any, *, ignore_index: int | None = None) -> SameClassPairs:
        """Pairs of a map-style dataset's samples; if no attribute holds the labels, every sample is read once.

        Example:
            >>> SameClassPairs.of_dataset([("a", 1), ("b", 0), ("c", 1)]).counts
            tensor([1, 2])
        """
        return cls(find_labels(dataset), ignore_index=ignore_index)

    def of_samples(self, positions: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """A partner of each sample.

        Args:
            positions: int64 ``[B]``, each in [0, N).
            generator: draws; torch's own by default.

        Returns:
            Positions, int64 ``[B]`` on the CPU.
        """
        partners, labels = positions.clone(), self.labels[positions]
        partners[labels >= 0] = self.of_classes(labels[labels >= 0], generator)
        return partners

    def of_classes(self, labels: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """A sample of each of the classes ``labels``, int64 ``[B]``: positions, int64 ``[B]`` on the CPU.

        Raises:
            ValueError: if a class has no samples.
        """
        if not len(labels):
            return labels
        known = (labels >= 0) & (labels < len(self.counts))
        counts = torch.where(known, self.counts[labels.where(known, torch.zeros_like(labels))], 0)
        if bool((counts == 0).any()):
            missing = int(labels[counts == 0][0])
            there = torch.nonzero(self.counts)[:, 0].tolist()
            listed = ", ".join(map(str, there[:10])) + (" and more" if len(there) > 10 else "")
            raise ValueError(
                f"class {missing} has no samples, so that none can be drawn from it. Classes with samples: {listed}."
            )
        # float64 distinguishes 2^53 places; the product stays below the count.
        draws = (torch.rand(len(labels), generator=generator, dtype=torch.float64) * counts).long()
        return self._order[self._first[labels] + torch.minimum(draws, counts - 1)]
