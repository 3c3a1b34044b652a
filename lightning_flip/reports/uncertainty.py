"""How unsure a model was of the samples that an update flips, and of the others: counts in bins."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = ["UncertaintyHistogram", "uncertainty_histogram"]


@dataclass(frozen=True)
class UncertaintyHistogram:
    """Samples counted by uncertainty; :func:`uncertainty_histogram` makes it.

    Attributes:
        edges: the ``bins + 1`` edges, ascending. Bin ``i`` holds ``edges[i] <= value < edges[i + 1]``, the last one its
            upper edge too.
        flipped: samples that flipped, in each bin.
        other: samples that did not.

    Example:
        >>> histogram = UncertaintyHistogram((0.0, 0.5, 1.0), flipped=(1, 3), other=(99, 7))
        >>> histogram.num_flipped, histogram.num_samples, histogram.flip_rates()
        (4, 110, [0.01, 0.3])
    """

    edges: tuple[float, ...]
    flipped: tuple[int, ...]
    other: tuple[int, ...]

    @property
    def num_flipped(self) -> int:
        """Number of samples that flipped."""
        return sum(self.flipped)

    @property
    def num_samples(self) -> int:
        """Number of all samples."""
        return sum(self.flipped) + sum(self.other)

    def flip_rates(self) -> list[float | None]:
        """Share of each bin's samples that flipped, in [0, 1]; None where a bin is empty."""
        pairs = zip(self.flipped, self.other, strict=True)
        return [flipped / (flipped + other) if flipped + other else None for flipped, other in pairs]


def uncertainty_histogram(
    uncertainty: npt.ArrayLike, flipped: npt.ArrayLike, *, bins: int = 20, highest: float | None = None
) -> UncertaintyHistogram:
    """Count flipped and other samples by uncertainty, in bins of equal width from 0.

    Yan et al. (2021), Fig. 4, with any measure: of an ensemble's logits ``predictive_entropy``,
    ``predictive_disagreement`` and ``predictive_std`` in :mod:`lightning_flip.functional`. Which ensemble the paper
    asks is not said; ours is free to choose, and the old model's own answers before the update.

    Args:
        uncertainty: ``[N]``, not negative.
        flipped: bool ``[N]``, e.g. the negative flips between an old model and a new one.
        bins: number of bins.
        highest: upper edge of the last bin; None takes the largest uncertainty. Give it to compare histograms.

    Returns:
        The counts.

    Raises:
        TypeError: if ``flipped`` is not bool.
        ValueError: if the lengths differ, there is no sample, a value is not finite, negative or above ``highest``, or
            ``bins`` is below 1.

    Example:
        >>> uncertainty_histogram([0.0, 0.1, 0.6, 1.0], [False, False, True, False], bins=2)
        UncertaintyHistogram(edges=(0.0, 0.5, 1.0), flipped=(0, 1), other=(2, 1))
    """
    values, flags = np.asarray(uncertainty, dtype=np.float64), np.asarray(flipped)
    if flags.dtype != np.bool_:
        raise TypeError(f"flipped must be bool [N], got {flags.dtype}; compare predictions and targets first.")
    if values.ndim != 1 or values.shape != flags.shape:
        raise ValueError(
            f"uncertainty and flipped must be [N] of one length, got {list(values.shape)} and {list(flags.shape)}."
        )
    if not len(values):
        raise ValueError("uncertainty must have at least one sample, got none.")
    if not np.isfinite(values).all() or values.min() < 0:
        odd = values[~np.isfinite(values) | (values < 0)]
        raise ValueError(f"uncertainty must be finite and not negative, got {odd[0]:g} ({len(odd)} such samples).")
    if bins < 1:
        raise ValueError(f"bins must be at least 1, got {bins}.")
    top = float(values.max()) if highest is None else float(highest)
    if not np.isfinite(top) or top < values.max():
        raise ValueError(f"highest={top:g} is below the largest uncertainty {values.max():g}; raise it.")
    edges = np.linspace(0.0, top or 1.0, bins + 1)  # samples that are all sure need a bin of some width
    counts = [np.histogram(values[mask], edges)[0] for mask in (flags, ~flags)]
    return UncertaintyHistogram(
        tuple(edges.tolist()), flipped=tuple(counts[0].tolist()), other=tuple(counts[1].tolist())
    )
