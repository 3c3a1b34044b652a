"""What tells one data set from another without reading its samples: labels that it keeps, and names."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from lightning_flip.data.labels import labels_at_hand
from lightning_flip.data.sources import ask_dataset

__all__ = ["kept_labels", "sample_ids"]


def kept_labels(dataset: Any) -> npt.NDArray[np.int64] | None:
    """The labels of all samples, where the data set has them at hand.

    Args:
        dataset: a map-style dataset.

    Returns:
        int64 ``[N]``, noisy labels where noise was added; None where each sample would have to be read.

    Example:
        >>> import torch
        >>> from torch.utils.data import TensorDataset
        >>> kept_labels(TensorDataset(torch.zeros(2, 3), torch.tensor([1, 0]))), kept_labels(["a", "b"])
        (array([1, 0]), None)
    """
    labels = labels_at_hand(dataset)
    return None if labels is None else labels.numpy()


def sample_ids(dataset: Any) -> list[str] | None:
    """The lasting names of all samples.

    Args:
        dataset: a map-style dataset.

    Returns:
        N names; None where the data set has no method ``sample_id(index)``.

    Example:
        >>> class Named(list):
        ...     def sample_id(self, index):
        ...         return f"image-{index}.png"
        >>> sample_ids(Named("ab")), sample_ids(["a", "b"])
        (['image-0.png', 'image-1.png'], None)
    """
    if not len(dataset) or ask_dataset(dataset, 0, "sample_id") is None:
        return None
    return [str(ask_dataset(dataset, index, "sample_id")) for index in range(len(dataset))]
