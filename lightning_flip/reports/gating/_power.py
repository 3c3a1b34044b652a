"""How likely is a verdict on one group, by its number of samples, and from how many samples on is it likely enough?

The flips X of N samples are binomial. A group passes with x flips if P(X <= x | limit) <= error: its exact upper bound
is at most the limit then. It fails if P(X >= x | limit) <= error. For each N there is a *critical* number of flips: the
largest that passes, the smallest that fails. It grows with N by steps of 1, so that the power, the probability to pass
or to fail at a true rate, is a sawtooth over N. Each tooth belongs to one critical number; when passing, the power
falls along the tooth and jumps up at the next one, when failing it rises along the tooth and drops at the next one.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import numpy as np
import numpy.typing as npt

from lightning_flip.reports.intervals import special_functions

__all__ = ["MOST_SAMPLES", "Verdict", "first_samples", "lasting_samples", "verdict_power"]

Verdict = Literal["pass", "fail"]
Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]

MOST_SAMPLES = 10**9
_TEETH = 16  # looked at together
_PRECISION = 1e-5  # of a real number of samples


def verdict_power(samples: npt.ArrayLike, rate: float, limit: float, error: float, verdict: Verdict) -> Floats:
    """Exact probability of a verdict on N samples at a true rate; of the shape of `samples`.

    Example:
        >>> verdict_power([1181, 1182, 1440, 1441], 0.004, 0.01, 0.05, "pass").round(3)
        array([0.664, 0.801, 0.777, 0.871])
    """
    number = np.asarray(samples, np.float64)
    return _tail(_critical(number, limit, error, verdict), number, rate, verdict)


def first_samples(rate: float, limit: float, error: float, power: float, verdict: Verdict) -> int | None:
    """The smallest N with at least that power; None if it is over a billion.

    The real number of samples at which the critical number changes gives each tooth a peak that is never lower than its
    true one. These smooth peaks rise, so that bisection finds the first that is high enough; the first true one comes
    shortly after.

    Example:
        >>> first_samples(0.004, 0.01, 0.05, 0.8, "pass"), first_samples(0.02, 0.01, 0.05, 0.8, "fail")
        (1182, 905)
    """

    def smooth_peak(flips: int) -> Floats:
        edge = np.array(flips + (verdict == "fail"), np.float64)
        return _tail(np.array(flips, np.float64), _smooth_start(edge, limit, error, verdict), rate, verdict)

    most = int(_critical(np.array(float(MOST_SAMPLES)), limit, error, verdict))
    flips = _bisect(lambda x: bool(smooth_peak(x) >= power), _least(limit, error, verdict) - 1, most + 1)
    while flips <= most:
        teeth, starts = _teeth(flips, flips + _TEETH, limit, error, verdict)
        peaks = _tail(teeth, starts[:-1] if verdict == "pass" else starts[1:] - 1, rate, verdict)
        found = np.flatnonzero((peaks >= power) & (starts[:-1] < starts[1:]))
        if len(found):
            tooth, start, stop = int(teeth[found[0]]), int(starts[found[0]]), int(starts[found[0] + 1])
            return _known(start if verdict == "pass" else _rise(tooth, start, stop, rate, power))
        flips += _TEETH
    return None


def lasting_samples(rate: float, limit: float, error: float, power: float, verdict: Verdict) -> int | None:
    """The N from which on no number of samples has less than that power; None if it is over a billion.

    As in `first_samples`, each tooth has a smooth valley that is never higher than its true one. Bisection finds from
    where on all of these are high enough; the last true valley that is too low comes shortly before.

    Example:
        >>> lasting_samples(0.004, 0.01, 0.05, 0.8, "pass"), lasting_samples(0.02, 0.01, 0.05, 0.8, "fail")
        (1441, 1015)
        >>> lasting_samples(0.01, 0.01, 0.05, 0.8, "pass") is None
        True
    """

    def smooth_valley(flips: int) -> Floats:
        edge = np.array(flips + (verdict == "pass"), np.float64)
        return _tail(np.array(flips, np.float64), _smooth_start(edge, limit, error, verdict), rate, verdict)

    least, most = _least(limit, error, verdict), int(_critical(np.array(float(MOST_SAMPLES)), limit, error, verdict))
    end = _bisect(lambda x: bool(smooth_valley(x) >= power), least - 1, most + 1)
    if end > most:
        return None
    while end > least:
        teeth, starts = _teeth(max(least, end - _TEETH), end, limit, error, verdict)
        valleys = _tail(teeth, starts[1:] - 1 if verdict == "pass" else starts[:-1], rate, verdict)
        found = np.flatnonzero((valleys < power) & (starts[:-1] < starts[1:]))
        if len(found):
            tooth, start, stop = int(teeth[found[-1]]), int(starts[found[-1]]), int(starts[found[-1] + 1])
            return _known(stop if verdict == "pass" else _rise(tooth, start, stop, rate, power))
        end = int(teeth[0])
    return _known(int(_start(np.array(least, np.float64), limit, error, verdict)))


def _tail(flips: Floats, samples: Floats, rate: float, verdict: Verdict) -> Floats:
    """P(X <= flips) for a pass, P(X >= flips) for a fail, as beta integrals: N need not be whole."""
    beta, flips = special_functions(), np.asarray(flips)
    if verdict == "pass":
        some, rest = np.maximum(flips, 0.0), samples - flips
        inner = beta.betaincc(some + 1, np.where(rest > 0, rest, 1.0), rate)
        chance: Floats = np.where(flips < 0, 0.0, np.where(rest > 0, inner, 1.0))
    else:
        some, rest = np.maximum(flips, 1.0), samples - flips + 1
        inner = beta.betainc(some, np.where(rest > 0, rest, 1.0), rate)
        chance = np.where(flips < 1, 1.0, np.where(rest > 0, inner, 0.0))
    return chance


def _decides(flips: Floats, samples: Floats, limit: float, error: float, verdict: Verdict) -> Flags:
    decided: Flags = _tail(flips, samples, limit, verdict) <= error
    return decided


def _critical(samples: Floats, limit: float, error: float, verdict: Verdict) -> Floats:
    """The most flips that pass, -1 if none do; the fewest that fail, N + 1 if none do."""
    # Starts around the normal approximation: beta integrals far from it take a hundred times as long.
    side = -1 if verdict == "pass" else 1
    spread = np.sqrt(samples * limit * (1 - limit))
    width = 2 + spread / 8
    middle = samples * limit - side * float(special_functions().ndtri(error)) * spread
    lowest, highest = (-1.0, samples) if verdict == "pass" else (0.0, samples + 1)
    reached = np.clip(np.floor(middle + side * width), lowest, highest)
    missed = np.clip(np.ceil(middle - side * width), lowest, highest)
    while not (known := _decides(reached, samples, limit, error, verdict)).all():
        reached = np.where(known, reached, np.clip(np.floor(reached + side * width), lowest, highest))
        width = 2 * width
    while (early := _decides(missed, samples, limit, error, verdict)).any():
        missed = np.where(early, np.clip(np.ceil(missed - side * width), lowest, highest), missed)
        width = 2 * width
    while (abs(missed - reached) > 1).any():
        middle = np.where(abs(missed - reached) > 1, np.floor((reached + missed) / 2), reached)
        enough = _decides(middle, samples, limit, error, verdict)
        reached, missed = np.where(enough, middle, reached), np.where(enough, missed, middle)
    return reached


def _least(limit: float, error: float, verdict: Verdict) -> int:
    """The first critical number: no flip passes first; as many flips fail first as do if every sample flips."""
    return 0 if verdict == "pass" else max(1, math.floor(math.log(error) / math.log(limit)))


def _teeth(first: int, stop: int, limit: float, error: float, verdict: Verdict) -> tuple[Floats, Floats]:
    """Critical numbers, and the N at which each of them and the one behind the last begins."""
    starts = _start(np.arange(first, stop + 1, dtype=np.float64), limit, error, verdict)
    return np.arange(first, stop, dtype=np.float64), starts


def _smooth_start(flips: Floats, limit: float, error: float, verdict: Verdict) -> Floats:
    """The real N from which on a number of flips passes, or the one number less does not fail any more."""
    edge = np.asarray(flips, np.float64) - (verdict == "fail")

    def over(number: Floats) -> Flags:
        return _decides(edge, number, limit, error, verdict) ^ (verdict == "fail")

    before = edge - (verdict == "fail")
    after = before + np.minimum((edge + 2) / limit, MOST_SAMPLES)
    while not (known := over(after) | (after > MOST_SAMPLES)).all():
        after = np.where(known, after, before + 2 * (after - before))
    while (after - before).max() > _PRECISION:
        middle = (before + after) / 2
        known = over(middle)
        before, after = np.where(known, before, middle), np.where(known, middle, after)
    return after


def _start(flips: Floats, limit: float, error: float, verdict: Verdict) -> Floats:
    """The smallest whole N whose critical number is at least that."""
    edge = flips if verdict == "pass" else flips - 1
    start = np.ceil(_smooth_start(flips, limit, error, verdict)) + 1
    for _ in range(2):  # the real number may have been rounded to the wrong side of a whole one
        over = _decides(edge, start - 1, limit, error, verdict) ^ (verdict == "fail")
        start = np.where(over, start - 1, start)
    whole: Floats = np.maximum(start, 1.0)
    return whole


def _rise(tooth: int, start: int, stop: int, rate: float, power: float) -> int:
    """The first N of a rising tooth with that power, or where the next tooth begins."""
    flips = np.array(tooth, np.float64)
    return _bisect(lambda number: bool(_tail(flips, np.array(float(number)), rate, "fail") >= power), start - 1, stop)


def _known(samples: int) -> int | None:
    return samples if samples <= MOST_SAMPLES else None


def _bisect(holds: Callable[[int], bool], no: int, yes: int) -> int:
    """The smallest whole number over `no`, at most `yes`, from which on a condition holds."""
    step = 1
    while no + step < yes and not holds(no + step):
        no, step = no + step, 2 * step
    yes = min(yes, no + step)
    while yes - no > 1:
        middle = (no + yes) // 2
        no, yes = (no, middle) if holds(middle) else (middle, yes)
    return yes
