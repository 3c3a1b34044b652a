"""How samples fared over the passes of a run: plain arrays in, plain arrays out, one pass in memory at a time."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

__all__ = ["PassRows", "SampleDynamics", "follow_samples", "last_known"]

Bools = npt.NDArray[np.bool_]
Integers = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


@dataclasses.dataclass(frozen=True)
class PassRows:
    """The V visits of one pass, sorted by sample and, within a sample, by time.

    Attributes:
        epoch: counted from 0.
        pass_: number of the pass within the epoch, from 0.
        position: [V], which sample: its place among the split's N samples.
        pred: [V], predicted class.
        correct: [V], whether `pred` is the sample's target.
        measures: further columns [V] by name.

    Example:
        >>> rows = PassRows(0, 0, np.array([0, 0, 2]), np.array([1, 0, 5]), np.array([False, True, True]), {})
        >>> rows.is_last.tolist()
        [False, True, True]
    """

    epoch: int
    pass_: int
    position: Integers
    pred: Integers
    correct: Bools
    measures: dict[str, Floats]

    @property
    def is_first(self) -> Bools:
        """[V], whether the row is its sample's first visit in this pass."""
        first = np.ones(len(self.position), bool)
        first[1:] = self.position[1:] != self.position[:-1]
        return first

    @property
    def is_last(self) -> Bools:
        """[V], whether the row is its sample's last visit in this pass."""
        last = np.ones(len(self.position), bool)
        last[:-1] = self.position[1:] != self.position[:-1]
        return last


@dataclasses.dataclass(frozen=True)
class SampleDynamics:
    """What `follow_samples` finds, one entry for each of N samples.

    Attributes:
        visits: how often the sample was seen.
        times_right: at how many visits the prediction was right.
        forgetting_events: how often a right visit was followed by a wrong one (consecutive visits, across passes).
        first_learned: epoch of the first right visit; -1 where there was none.
        aum: mean logit margin over the visits (area under the margin); NaN for a sample that was never seen.
        confidence: mean probability of the label; NaN for a sample that was never seen.
        variability: population standard deviation of that probability; NaN for a sample that was never seen.
        last_right: whether the last visit was right; False for a sample that was never seen.

    Example:
        >>> [field.name for field in dataclasses.fields(SampleDynamics)][:3]
        ['visits', 'times_right', 'forgetting_events']
    """

    visits: Integers
    times_right: Integers
    forgetting_events: Integers
    first_learned: Integers
    aum: Floats
    confidence: Floats
    variability: Floats
    last_right: Bools


def follow_samples(passes: Iterable[PassRows], count: int) -> SampleDynamics:
    """Follow every sample through the passes.

    Forgetting events are those of Toneva et al., the area under the margin that of Pleiss et al. over logits,
    confidence and variability those of dataset cartography (Swayamdipta et al.). Our own reading: a visit counts, not
    an epoch, so that a sample drawn twice in an epoch can be forgotten within it.

    Args:
        passes: the passes in the order of time, with the measures `logit_margin` and `prob_label`.
        count: N, the number of samples.

    Returns:
        Arrays [N].

    Example:
        >>> def seen(epoch, right, margin):
        ...     measures = {"logit_margin": np.array([margin]), "prob_label": np.array([0.5])}
        ...     return PassRows(epoch, 0, np.array([0]), np.array([int(right)]), np.array([right]), measures)
        >>> found = follow_samples([seen(0, False, -1.0), seen(1, True, 3.0), seen(2, False, -2.0)], count=1)
        >>> found.forgetting_events.tolist(), found.first_learned.tolist(), found.aum.tolist()
        ([1], [1], [0.0])
    """
    visits, right, events = (np.zeros(count, np.int64) for _ in range(3))
    first_learned = np.full(count, -1, np.int64)
    last_right = np.zeros(count, bool)
    margin_sum, mean, squares = (np.zeros(count, np.float64) for _ in range(3))
    for rows in passes:
        where = rows.position
        before = np.empty(len(where), bool)
        before[1:] = rows.correct[:-1]
        before[rows.is_first] = last_right[where[rows.is_first]]
        events += np.bincount(where[before & ~rows.correct], minlength=count)
        got_right = np.bincount(where[rows.correct], minlength=count)
        right += got_right
        first_learned[(first_learned < 0) & (got_right > 0)] = rows.epoch
        last_right[where[rows.is_last]] = rows.correct[rows.is_last]
        with np.errstate(invalid="ignore", over="ignore"):  # a run that diverged holds inf and NaN; so does its mean
            margin_sum += np.bincount(where, weights=rows.measures["logit_margin"], minlength=count)
            visits, mean, squares = _merge_moments(visits, mean, squares, where, rows.measures["prob_label"])
    seen = np.where(visits > 0, 1.0, np.nan)
    share = seen / np.maximum(visits, 1)
    return SampleDynamics(
        visits, right, events, first_learned, margin_sum * share, mean * seen, np.sqrt(squares * share), last_right
    )


def last_known(passes: Iterable[PassRows], count: int) -> tuple[Bools, Bools]:
    """After each pass, whether the model was right on each sample when it last saw it.

    Args:
        passes: P passes in the order of time.
        count: N, the number of samples.

    Returns:
        `right` [P, N]: the last visit so far, False before the first one; `visited` [P, N]: whether the pass saw the
        sample.

    Example:
        >>> def seen(epoch, positions, right):
        ...     return PassRows(epoch, 0, np.array(positions), np.zeros(len(right), int), np.array(right), {})
        >>> right, visited = last_known([seen(0, [0, 1], [True, False]), seen(1, [1], [True])], count=2)
        >>> right.tolist(), visited.tolist()
        ([[True, False], [True, True]], [[True, True], [False, True]])
    """
    state = np.zeros(count, bool)
    right, visited = [], []
    for rows in passes:
        where = rows.position[rows.is_last]
        state = state.copy()
        state[where] = rows.correct[rows.is_last]
        seen = np.zeros(count, bool)
        seen[where] = True
        right.append(state)
        visited.append(seen)
    return np.array(right, bool).reshape(-1, count), np.array(visited, bool).reshape(-1, count)


def _merge_moments(
    visits: Integers, mean: Floats, squares: Floats, where: Integers, values: Floats
) -> tuple[Integers, Floats, Floats]:
    """Add one pass to counts, means and sums of squared deviations (Chan et al.; sums of squares would cancel)."""
    count = len(visits)
    added = np.bincount(where, minlength=count)
    divisor = np.maximum(added, 1)
    added_mean = np.bincount(where, weights=values, minlength=count) / divisor
    added_squares = np.bincount(where, weights=(values - added_mean[where]) ** 2, minlength=count)
    total = visits + added
    step = np.where(added > 0, added_mean - mean, 0.0)
    share = added / np.maximum(total, 1)
    return total, mean + step * share, squares + added_squares + step**2 * visits * share
