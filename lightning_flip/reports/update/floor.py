"""How many negative flips chance alone makes: those between models that are equally good."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from lightning_flip.reports.update.join import JoinedPredictions, Source, join_predictions
from lightning_flip.stores import PredictionError

__all__ = ["NoiseFloor", "find_noise_floor", "join_floor", "refuse_repeated_sources"]

Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]


@dataclasses.dataclass(frozen=True)
class NoiseFloor:
    """Negative flip rates between the new model and others that are as good.

    "As good" is the caller's claim, e.g. for other seeds of the new model; `accuracies` let it be checked. Replacing a
    better model by a worse one takes at least as many negative flips as the accuracies are apart: unless this gap is a
    small part of the rate, the rate measures the gap, and not chance.

    Attributes:
        names: the M models, the new one first.
        accuracies: [M], in [0, 1].
        rates: [M, M], share of samples that the row's model has right and the column's model wrong; 0 on the diagonal.
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
        """Mean over ordered pairs: the rate of an update whose old model is just another seed."""
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
        """The update's rate in units of the mean; None if the mean is 0."""
        return self.update / self.mean if self.mean else None

    @property
    def verdict(self) -> str:
        """The update's rate is `"below"`, `"within"` or `"above"` the rates of the pairs."""
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
    """Compute the negative flip rate between every ordered pair of M models, the new one first, and that of the update.

    `old_right` is [N] with N at least 1, `right` [M, N] with M at least 2: whether each model is right.
    """
    models, samples = right.shape
    if models < 2 or len(names) != models:
        raise ValueError(f"right must have one row per name, at least 2, got {models} rows and {len(names)} names.")
    if old_right.shape != (samples,) or not samples:
        raise ValueError(f"old_right must have one value per sample, at least one, got {old_right.shape} of {samples}.")
    rates = np.zeros((models, models))
    for before in range(models):
        for after in range(models):
            rates[before, after] = np.count_nonzero(right[before] & ~right[after]) / samples
    update = int(np.count_nonzero(old_right & ~right[0])) / samples
    return NoiseFloor(tuple(names), np.count_nonzero(right, axis=1) / samples, rates, update, samples)


def join_floor(
    joined: JoinedPredictions,
    old: Source,
    floor: Sequence[Source],
    *,
    allow_partial: bool = False,
    **options: Any,
) -> NoiseFloor:
    """Join the predictions of models that are as good as the new one with the old model's, as the new one's were.

    Returns the noise floor on the update's samples; with `allow_partial` on those that all of the files have. `options`
    are those of `join_predictions`.
    """
    kept = np.ones(joined.num_samples, bool)
    right = [joined.new_right]
    names = [joined.new_name]
    for source in floor:
        # With the old model, not the new one, so that all of them choose among the same classes.
        other = join_predictions(old, source, allow_partial=allow_partial, **options)
        answered, there = _in_order_of(joined, other)
        if not there.all() and not allow_partial:
            raise PredictionError(
                f"{other.new_name} must know the classes that {joined.new_name} knows, but {np.count_nonzero(~there)}"
                f" of {len(there)} samples are of classes that it does not. Give predictions of other seeds of the new"
                " model, or pass allow_partial=True (--allow-partial) to compare what all files have."
            )
        kept &= there
        right.append(answered)
        names.append(other.new_name)
    if not kept.any():
        raise PredictionError(f"{', '.join(names)} have no sample in common. Are they predictions on the same data?")
    return find_noise_floor(joined.old_right[kept], np.stack(right)[:, kept], names)


def refuse_repeated_sources(sources: Sequence[Source]) -> None:
    """Refuse two models from one place: a model has no flips against itself."""
    seen: set[Path | int] = set()
    for source in sources:
        path = source if isinstance(source, str | os.PathLike) else None
        place = id(source) if path is None else Path(path).resolve()
        if place in seen:
            name = getattr(source, "name", "a table") if path is None else os.fspath(path)
            raise PredictionError(
                f"floor must name other files than the new model's, each once, but {name} comes twice: a model has no"
                " flips against itself."
            )
        seen.add(place)


def _in_order_of(joined: JoinedPredictions, other: JoinedPredictions) -> tuple[Bools, Bools]:
    """Whether `other`'s new model is right, and whether it has the sample at all, for the samples of `joined`."""
    if joined.ids.equals(other.ids):
        return other.new_right, np.ones(joined.num_samples, bool)
    place = pc.index_in(pa.chunked_array([joined.ids]), value_set=pa.chunked_array([other.ids]).combine_chunks())
    there = np.asarray(pc.is_valid(place))
    row = np.asarray(pc.fill_null(place, 0)).astype(np.int64)
    return other.new_right[row] & there, there
