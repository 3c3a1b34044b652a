"""Predictions of models that are as good as the new one, brought together with the update's."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from lightning_flip.reports.update.joining import JoinedPredictions, Source, join_predictions
from lightning_flip.reports.update.noise_floor import NoiseFloor, find_noise_floor
from lightning_flip.stores import PredictionError, PredictionSet

__all__ = ["join_floor", "refuse_repeated_sources"]

Bools = npt.NDArray[np.bool_]


def join_floor(
    joined: JoinedPredictions,
    old: Source,
    floor: Sequence[Source],
    *,
    allow_partial: bool = False,
    shared_classes: bool = False,
    shared_argmax: bool = False,
) -> NoiseFloor:
    """Read the predictions of models that are as good as the new one, and compare them on the update's samples.

    Returns the noise floor.

    Args:
        joined: the update.
        old: the old model's predictions, or their path; each of `floor` is joined with them as the new model's were.
        floor: predictions of one model each, or paths of files that `read_predictions` reads; at least one.
        allow_partial: compare on the samples that all of them have.
        shared_classes: as for the update; see `join_predictions`.
        shared_argmax: as for the update; see `join_predictions`.

    Example:
        >>> rows = {"sample_id": ["a", "b"], "target": [0, 1]}
        >>> old, new, seed = (
        ...     PredictionSet.from_table(pa.table(rows | {"pred": pred}), name)
        ...     for name, pred in [("old", [0, 1]), ("new", [0, 0]), ("seed", [1, 1])]
        ... )
        >>> join_floor(join_predictions(old, new), old, [seed]).mean
        0.5
    """
    kept = np.ones(joined.num_samples, bool)
    right = [joined.new_right]
    names = [joined.new_name]
    for source in floor:
        # Joined with the old model and not with the new one: then all of them answer among the same classes.
        other = join_predictions(
            old, source, allow_partial=allow_partial, shared_classes=shared_classes, shared_argmax=shared_argmax
        )
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
    """Insist that no two models are read from one place: a model has no flips against itself.

    Example:
        >>> refuse_repeated_sources(["new.parquet", "runs/../new.parquet"])
        Traceback (most recent call last):
            ...
        lightning_flip.stores.errors.PredictionError: floor must name other files than the new model's, each once, ...
    """
    seen: set[Path | int] = set()
    for source in sources:
        place = id(source) if isinstance(source, PredictionSet) else Path(source).resolve()
        if place in seen:
            name = source.name if isinstance(source, PredictionSet) else os.fspath(source)
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
