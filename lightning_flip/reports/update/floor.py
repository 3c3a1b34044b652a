"""How many negative flips another seed makes: the flips between models of one recipe, and how the update compares."""

from __future__ import annotations

import dataclasses
import hashlib
import math
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

__all__ = ["LEVEL", "FloorRank", "NoiseFloor", "find_noise_floor", "join_floor", "refuse_repeated_sources"]

Bools = npt.NDArray[np.bool_]
Integers = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

LEVEL = 0.05
_COLUMNS = 1 << 16  # float32 counts up to 2^24 exactly


@dataclasses.dataclass(frozen=True)
class FloorRank:
    r"""The rank of one model's rate among those of others: an exact permutation test (Phipson and Smyth, 2010).

    If the model is exchangeable with the others, every rank has the same chance, so that :math:`P(p \le \alpha) \le
    \alpha`. The model itself counts, hence p is never 0, and ties count against the model.

    Attributes:
        value: the model's rate.
        others: rates of the other models.
        comparable: False if the rates measure something else as well, so that their rank means nothing.

    Example:
        >>> rank = FloorRank(0.04, (0.03, 0.04, 0.02))
        >>> rank.place, rank.among, rank.p_value, rank.verdict, rank.missing
        (2, 4, 0.5, None, 16)
    """

    value: float
    others: tuple[float, ...]
    comparable: bool = True

    @property
    def place(self) -> int:
        """1 if the rate is above all others."""
        return 1 + sum(other >= self.value for other in self.others)

    @property
    def among(self) -> int:
        """How many models are ranked, this one included."""
        return 1 + len(self.others)

    @property
    def p_value(self) -> float:
        """The chance of this place or a higher one if the model is like the others."""
        return self.place / self.among

    @property
    def missing(self) -> int:
        """How many more models a verdict needs: with fewer than 20, no p value can be as low as 0.05."""
        return max(0, math.ceil(1 / LEVEL) - self.among)

    @property
    def verdict(self) -> bool | None:
        """Whether the rate is above the others' at the level of 0.05; None if that cannot be judged."""
        return None if self.missing or not self.comparable else self.p_value <= LEVEL

    def to_dict(self) -> dict[str, object]:
        """Every number, ready for JSON."""
        return {
            "rate": self.value,
            "others_min": min(self.others),
            "others_max": max(self.others),
            "rank": self.place,
            "among": self.among,
            "p_value": self.p_value,
            "comparable": self.comparable,
            "verdict": self.verdict,
            "further_seeds_needed": self.missing,
        }


@dataclasses.dataclass(frozen=True)
class NoiseFloor:
    """Negative flips among an old model, a new one, and further seeds of the new one's recipe.

    That the further models are independent trainings of the new one's recipe is the caller's claim; both ranks rest on
    it.

    Attributes:
        names: the M models: the old one, the new one, and at least one further seed.
        right: [M], how many samples each has right.
        flips: [M, M], samples that the row's model has right and the column's model wrong; 0 on the diagonal.
        samples: how many samples these are.

    Example:
        >>> flips = np.array([[0, 6, 4], [5, 0, 2], [5, 4, 0]])
        >>> floor = NoiseFloor(("old", "new", "seed 1"), np.array([90, 89, 91]), flips, 100)
        >>> floor.update, floor.mean, floor.unlucky_seed.p_value, floor.more_than_reseed.place
        (0.06, 0.03, 0.5, 1)
    """

    names: tuple[str, ...]
    right: Integers
    flips: Integers
    samples: int

    @property
    def accuracies(self) -> Floats:
        """[M], in [0, 1]."""
        return self.right / self.samples

    @property
    def rates(self) -> Floats:
        """[M, M], the negative flip rate of an update from the row's model to the column's."""
        return self.flips / self.samples

    @property
    def mean_rates(self) -> Floats:
        """[M], the mean of a model's negative flip rates to and from each of the others."""
        both_ways = self.flips.sum(axis=0) + self.flips.sum(axis=1)
        means: Floats = both_ways / (2 * self.samples * (len(self.names) - 1))
        return means

    @property
    def update(self) -> float:
        """Negative flip rate from the old to the new model."""
        return float(self.rates[0, 1])

    @property
    def pairs(self) -> Floats:
        """[(M - 1) (M - 2)], the rate of every ordered pair of two models of the new recipe."""
        return self.rates[1:, 1:][~np.eye(len(self.names) - 1, dtype=bool)]

    @property
    def mean(self) -> float:
        """Mean over these pairs: the rate of an update whose old model is just another seed."""
        return float(self.pairs.mean())

    @property
    def lowest(self) -> float:
        """The smallest rate of any of these pairs."""
        return float(self.pairs.min())

    @property
    def highest(self) -> float:
        """The largest rate of any of these pairs."""
        return float(self.pairs.max())

    @property
    def times_mean(self) -> float | None:
        """The update's rate in units of the mean; None if the mean is 0."""
        return self.update / self.mean if self.mean else None

    @property
    def unlucky_seed(self) -> FloorRank:
        """The new model among all seeds of its recipe, by the negative flips that each makes in the old one's place."""
        _, update, *others = self.rates[0].tolist()
        return FloorRank(update, tuple(others))

    @property
    def accuracies_agree(self) -> bool:
        """Whether the old model's accuracy is within those of the new recipe's models."""
        old, others = self.right[0], self.right[1:]
        return bool(others.min() <= old <= others.max())

    @property
    def more_than_reseed(self) -> FloorRank:
        """The old model among all models by its mean rate to and from the others.

        Comparable only if the accuracies agree: a model that is less accurate has more flips to and from the others for
        that alone.
        """
        old, *others = self.mean_rates.tolist()
        return FloorRank(old, tuple(others), self.accuracies_agree)

    def to_dict(self) -> dict[str, object]:
        """Every number, ready for JSON; the old model first."""
        models = zip(self.names, self.accuracies.tolist(), self.mean_rates.tolist(), strict=True)
        return {
            "samples": self.samples,
            "models": [
                {"name": name, "accuracy": accuracy, "mean_negative_flip_rate": rate} for name, accuracy, rate in models
            ],
            "negative_flip_rates": self.rates.tolist(),
            "mean": self.mean,
            "min": self.lowest,
            "max": self.highest,
            "update": self.update,
            "update_times_mean": self.times_mean,
            "level": LEVEL,
            "unlucky_seed": self.unlucky_seed.to_dict(),
            "more_than_reseed": self.more_than_reseed.to_dict(),
        }


def find_noise_floor(right: Bools, names: Sequence[str]) -> NoiseFloor:
    """Count the negative flips between every ordered pair of M models: the old one, the new one, and further seeds.

    `right` is [M, N] with M at least 3 and N at least 1: whether each model is right.
    """
    models, samples = right.shape
    if models < 3 or len(names) != models:
        raise ValueError(f"right must have one row per name, at least 3, got {models} rows and {len(names)} names.")
    if not samples:
        raise ValueError("right must have at least one column, a sample, got none.")
    both = np.zeros((models, models), np.int64)
    for start in range(0, samples, _COLUMNS):
        part = right[:, start : start + _COLUMNS].astype(np.float32)
        both += (part @ part.T).astype(np.int64)
    hits = both.diagonal()
    return NoiseFloor(tuple(names), hits.copy(), hits[:, None] - both, samples)


def join_floor(
    joined: JoinedPredictions,
    old: Source,
    floor: Sequence[Source],
    *,
    allow_partial: bool = False,
    **options: Any,
) -> NoiseFloor:
    """Join the predictions of further seeds with the old model's, as the new one's were.

    Returns the noise floor on the update's samples; with `allow_partial` on those that all of the files have. `options`
    are those of `join_predictions`. Models with the same predictions as another one are refused.
    """
    kept = np.ones(joined.num_samples, bool)
    codes: dict[int | str, int] = {}
    names = [joined.old_name, joined.new_name]
    right = [joined.old_right, joined.new_right]
    preds = [_common_codes(joined, joined.old_pred, codes), _common_codes(joined, joined.new_pred, codes)]
    for source in floor:
        # With the old model, not the new one, so that all of them choose among the same classes.
        other = join_predictions(old, source, allow_partial=allow_partial, **options)
        row, there = _in_order_of(joined, other)
        if not there.all() and not allow_partial:
            raise PredictionError(
                f"{other.new_name} must know the classes that {joined.new_name} knows, but {np.count_nonzero(~there)}"
                f" of {len(there)} samples are of classes that it does not. Give predictions of other seeds of the new"
                " model, or pass allow_partial=True (--allow-partial) to compare what all files have."
            )
        kept &= there
        names.append(other.new_name)
        right.append(other.new_right[row])
        preds.append(_common_codes(other, other.new_pred, codes)[row])
    if not kept.any():
        raise PredictionError(f"{', '.join(names)} have no sample in common. Are they predictions on the same data?")
    _refuse_copies([pred[kept] for pred in preds], names)
    return find_noise_floor(np.stack([answers[kept] for answers in right]), names)


def refuse_repeated_sources(sources: Sequence[Source]) -> None:
    """Refuse two models from one place: a model has no flips against itself."""
    seen: set[Path | int] = set()
    for source in sources:
        path = source if isinstance(source, str | os.PathLike) else None
        place = id(source) if path is None else Path(path).resolve()
        if place in seen:
            name = getattr(source, "name", "a table") if path is None else os.fspath(path)
            raise PredictionError(
                f"floor must name other files than the old and the new model's, each once, but {name} comes twice: a"
                " model has no flips against itself."
            )
        seen.add(place)


def _common_codes(joined: JoinedPredictions, pred: Integers, codes: dict[int | str, int]) -> npt.NDArray[np.int32]:
    """Predictions by the codes of all files; new labels get the next ones."""
    common = np.array([codes.setdefault(label, len(codes)) for label in joined.labels], np.int32)
    return common[pred]


def _in_order_of(joined: JoinedPredictions, other: JoinedPredictions) -> tuple[Integers, Bools]:
    """The row in `other` of each sample of `joined`, and whether `other` has the sample at all."""
    if joined.ids.equals(other.ids):
        return np.arange(joined.num_samples), np.ones(joined.num_samples, bool)
    place = pc.index_in(pa.chunked_array([joined.ids]), value_set=pa.chunked_array([other.ids]).combine_chunks())
    there = np.asarray(pc.is_valid(place))
    return np.asarray(pc.fill_null(place, 0)).astype(np.int64), there


def _refuse_copies(preds: Sequence[npt.NDArray[np.int32]], names: Sequence[str]) -> None:
    """Refuse further seeds that predict the same class everywhere as another model does."""
    seen: dict[bytes, int] = {}
    for place, pred in enumerate(preds):
        first = seen.setdefault(hashlib.sha256(pred.tobytes()).digest(), place)
        if first != place > 1:
            raise PredictionError(
                f"floor must hold the predictions of different models, but {names[place]} predicts the same class as"
                f" {names[first]} for every one of the {len(pred)} samples, as a copy does. Give each seed's own"
                " predictions, on enough samples that they differ."
            )
