"""Seeded random splits."""

from __future__ import annotations

from collections.abc import Sequence

import torch

__all__ = ["split_indices"]


def split_indices(num_samples: int, sizes: Sequence[int], seed: int) -> list[list[int]]:
    """Split positions into disjoint random parts: one seeded permutation, cut in order.

    The parts are not stratified: class shares differ between them as they do by chance. Earlier parts depend
    only on the seed and on the sizes before them, so that a test split put first stays the same whatever is
    split off after it.

    Args:
        num_samples: number of samples ``N``.
        sizes: number of samples of each part but the last, which takes the rest.
        seed: seed of the permutation; the global random state is not touched.

    Returns:
        ``len(sizes) + 1`` lists of positions that together hold each of ``0 .. N - 1`` once.

    Raises:
        ValueError: if a size is negative, or nothing is left for the last part.

    Example:
        >>> test, val, train = split_indices(10, [3, 2], seed=0)
        >>> len(test), len(val), len(train), sorted(test + val + train) == list(range(10))
        (3, 2, 5, True)
    """
    if any(size < 0 for size in sizes):
        raise ValueError(f"sizes must not be negative, got {list(sizes)}; 0 leaves a part out.")
    if sum(sizes) >= num_samples:
        raise ValueError(
            f"sizes {list(sizes)} take {sum(sizes)} of {num_samples} samples and leave none for the last part "
            "(the training split); make them smaller."
        )
    order = torch.randperm(num_samples, generator=torch.Generator().manual_seed(seed)).tolist()
    parts, start = [], 0
    for size in [*sizes, num_samples - sum(sizes)]:
        parts.append(order[start : start + size])
        start += size
    return parts
