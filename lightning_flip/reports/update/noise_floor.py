"""How many negative flips chance alone makes: those between models that are equally good."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

__all__ = ["NoiseFloor", "find_noise_floor"]

Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]


@dataclasses.dataclass(frozen=True)
class NoiseFloor:
    """Negative flip rates between the new model and others that are as good; `find_noise_floor` makes it.

    "As good" is the caller's claim, e.g. other seeds of the new model; `accuracies` let it be checked. Replacing a
    better model by a worse one takes at least as many negative flips as the accuracies are apart, so that models of
    which this gap is not a small part of the rate measure the gap, and not chance.

    Attributes:
        names: the M models, the new one first.
        accuracies: [M], in [0, 1].
        rates: [M, M], share of samples that the row's model has right and the column's wrong; 0 on the diagonal.
        update: negative flip rate of the update on the same samples.
        samples: how many samples these are.

    Example:
        >>> floor = NoiseFloor(("new", "seed 1"), np.array([0.9, 0.9]), np.array([[0.0, 0.02], [0.04, 0.0]]), 0.06, 50)
        >>> floor.mean, floor.lowest, floor.highest, round(floor.times_mean, 6)
        (0.03, 0.02, 0.04, 2.0)
    """

    names: tuple[str, ...]
    accuracies: Floats
    rates: Floats
    update: float
    samples: int

    @property
    def pairs(self) -> Floats:
        """[M (M - 1)], the rate of every ordered pair of two models."""
        return self.rates[~np.eye(len(self.names), dtype=bool)]

    @property
    def mean(self) -> float:
        """Mean over ordered pairs: the rate that an update would have whose old model were just another seed."""
        return float(self.pairs.mean())

    @property
    def lowest(self) -> float:
        """The smallest rate of any ordered pair."""
        return float(self.pairs.min())

    @property
    def highest(self) -> float:
        """The largest rate of any ordered pair."""
        return float(self.pairs.max())

    @property
    def times_mean(self) -> float | None:
        """The update's rate in units of the mean; None where the mean is 0."""
        return self.update / self.mean if self.mean else None

    @property
    def verdict(self) -> str:
        """Where the update's rate lies: `"below"`, `"within"` or `"above"` the rates of the pairs."""
        if self.update < self.lowest:
            return "below"
        return "above" if self.update > self.highest else "within"

    def to_dict(self) -> dict[str, object]:
        """Every number, ready for JSON."""
        return {
            "samples": self.samples,
            "models": [
                {"name": name, "accuracy": accuracy}
                for name, accuracy in zip(self.names, self.accuracies.tolist(), strict=True)
            ],
            "negative_flip_rates": self.rates.tolist(),
            "mean": self.mean,
            "min": self.lowest,
            "max": self.highest,
            "update": self.update,
            "update_times_mean": self.times_mean,
            "update_is": self.verdict,
        }


def find_noise_floor(old_right: Bools, right: Bools, names: Sequence[str]) -> NoiseFloor:
    """Compute the negative flip rate between every ordered pair of models, and that of the update beside it.

    Args:
        old_right: [N], whether the old model is right; N is at least 1.
        right: [M, N], whether each of the equally good models is right, the new one first; M is at least 2.
        names: [M], the models.

    Returns:
        The noise floor.

    Raises:
        ValueError: when there are fewer than two models, no samples, or shapes do not fit.

    Example:
        >>> right = np.array([[True, True, False, False], [True, False, True, False]])
        >>> floor = find_noise_floor(np.array([True, True, True, True]), right, ["new", "seed 1"])
        >>> floor.mean, floor.update, floor.verdict
        (0.25, 0.5, 'above')
    """
    models, samples = right.shape
    if models < 2 or len(names) != models:
        raise ValueError(f"right must have a row a name, at least 2, got {models} rows and {len(names)} names.")
    if old_right.shape != (samples,) or not samples:
        raise ValueError(f"old_right must have one value a sample, at least one, got {old_right.shape} of {samples}.")
    rates = np.zeros((models, models))
    for before in range(models):
        for after in range(models):
            rates[before, after] = np.count_nonzero(right[before] & ~right[after]) / samples
    update = int(np.count_nonzero(old_right & ~right[0])) / samples
    return NoiseFloor(tuple(names), np.count_nonzero(right, axis=1) / samples, rates, update, samples)
