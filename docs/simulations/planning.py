"""Power at planned numbers of samples, looking again, and the advice after an inconclusive verdict."""

import functools

import numpy as np
from scipy import special, stats
from tables import Floats, exact, likely_counts, share, table

from lightning_flip.reports import plan_samples
from lightning_flip.reports.gating._advice import advised_samples
from lightning_flip.reports.gating._power import lasting_samples, verdict_power
from lightning_flip.reports.intervals import clopper_pearson_lower, clopper_pearson_upper

ERROR, POWER, LIMIT = 0.05, 0.8, 0.01
DRAWS = 100_000
CLUSTER = 10
FRESH = 200


def section() -> str:
    """Planning."""
    return f"""
## Power at the planned number of samples

`lightning-flip plan --limit 1%` for a power of {POWER:.0%}: at the planned N, one sample before it, the lowest power of
all N from there to three times as many, and the share of draws in which the gate's bounds decide. Exact but for the
last column ({DRAWS:,} draws).

{table(("true rate", "verdict", "N", "power", "at N - 1", "lowest from N on", "simulated"), planned())}

A policy of G groups, all at a true rate of 0.4%, with the N for one group alone and with the N for all. Exact.

{table(("groups", "N for one", "all pass", "N for all", "all pass"), policies())}

Clusters of {CLUSTER} samples that count as one sample each, at the N of clusters that is planned for a true rate of
0.4%: the share of {DRAWS:,} draws that passes, by the correlation of the samples in a cluster.

{table(("correlation", "clusters", "passes"), clusters())}

## Looking again

A rate at the limit of 1%, tested on the first n samples, the first 2n, and so on until it passes or the looks are used
up: the chance that it passes. Exact. Each look has the error of {ERROR}; in the last two columns the looks share it, as
with `--looks`.

{table(("looks", *LOOK_COLUMNS), looks())}

## The advice after an inconclusive verdict

A first test on {FRESH} samples, with a limit of 1%; if it is inconclusive, a second test on as many fresh samples as is
advised. The chance that the second test decides, for a number of samples that has a power of {POWER:.0%} at the
observed rate (in brackets the median of this number), and at the rate that is advised: halfway between the limit and
the bound. Exact.

{table(("true rate", "inconclusive", "decided, observed rate", "decided, advised rate"), advice())}
"""


def planned() -> list[list[object]]:
    rng = np.random.default_rng(0)
    rows: list[list[object]] = []
    for one in plan_samples(LIMIT, [0.0, 0.002, 0.004, 0.006, 0.008, 0.015, 0.02, 0.03]).rates:
        assert one.samples is not None
        assert one.verdict is not None
        there = np.arange(one.samples - 1, 3 * one.samples)
        power = verdict_power(there, one.rate, LIMIT, ERROR, one.verdict)
        flips = rng.binomial(one.samples, one.rate, DRAWS)
        passes = clopper_pearson_upper(flips, one.samples, ERROR) <= LIMIT
        fails = clopper_pearson_lower(flips, one.samples, ERROR) > LIMIT
        simulated = share(passes if one.verdict == "pass" else fails)
        numbers = [exact(power[1]), exact(power[0]), exact(power[1:].min()), simulated]
        rows.append([f"{one.rate:.1%}", one.verdict, f"{one.samples:,}", *numbers])
    return rows


def policies() -> list[list[object]]:
    rows: list[list[object]] = []
    for groups in (2, 10, 50):
        one = plan_samples(LIMIT, [0.004], groups=groups).rates[0]
        assert one.together is not None
        assert one.power is not None
        rows.append([groups, f"{one.alone:,}", exact(one.together), f"{one.samples:,}", exact(one.power)])
    return rows


def clusters() -> list[list[object]]:
    rng = np.random.default_rng(1)
    rate = 0.004
    number = lasting_samples(rate, LIMIT, ERROR, POWER, "pass")
    assert number is not None
    rows: list[list[object]] = []
    for correlation in (1.0, 0.5, 0.1, 0.0):
        flips = np.array([_clustered(rng, number, rate, correlation) for _ in range(DRAWS // 1000)]).ravel()
        effective = flips / CLUSTER
        passes = special.betaincc(effective + 1, number - effective, LIMIT) <= ERROR
        rows.append([correlation, f"{number:,}", share(passes)])
    return rows


def _clustered(rng: np.random.Generator, number: int, rate: float, correlation: float) -> Floats:
    """Flips in 1,000 draws of so many clusters, with a beta distribution of their rates."""
    if correlation == 1.0:
        return CLUSTER * rng.binomial(number, rate, 1000).astype(float)
    if correlation == 0.0:
        return rng.binomial(number * CLUSTER, rate, 1000).astype(float)
    spread = 1 / correlation - 1
    rates = rng.beta(rate * spread, (1 - rate) * spread, (1000, number))
    return rng.binomial(CLUSTER, rates).sum(1).astype(float)


LOOK_SIZES = (300, 1000)
LOOK_COLUMNS = (
    *(f"n = {size:,}" for size in LOOK_SIZES),
    *(f"n = {size:,}, error shared" for size in LOOK_SIZES),
)


def looks() -> list[list[object]]:
    return [
        [number, *(exact(_false_pass(size, number, level)) for level in (ERROR, ERROR / number) for size in LOOK_SIZES)]
        for number in (1, 2, 5, 10, 20)
    ]


def _false_pass(size: int, number: int, error: float) -> float:
    """Chance that a rate at the limit passes at one of the looks: the counts of those that did not pass are carried."""
    chance, open_ = 0.0, np.ones(1)
    step = stats.binom.pmf(np.arange(likely_counts(size, LIMIT)[-1] + 1), size, LIMIT)
    for look in range(1, number + 1):
        open_ = np.convolve(open_, step)
        passes = clopper_pearson_upper(np.arange(len(open_)), size * look, error) <= LIMIT
        chance += float(open_[passes].sum())
        open_[passes] = 0
    return chance


def advice() -> list[list[object]]:
    rows: list[list[object]] = []
    for rate in (0.001, 0.0025, 0.004, 0.005, 0.006, 0.0075, 0.015, 0.02, 0.03):
        count = likely_counts(FRESH, rate)
        chance = stats.binom.pmf(count, FRESH, rate)
        undecided = (clopper_pearson_upper(count, FRESH, ERROR) > LIMIT) & (
            clopper_pearson_lower(count, FRESH, ERROR) <= LIMIT
        )
        count, chance = count[undecided], chance[undecided]
        observed = np.array([_at_observed(one) for one in (count / FRESH).tolist()])
        advised = advised_samples(count, FRESH, LIMIT, ERROR).samples
        cells = [_decided(samples, chance / chance.sum(), rate) for samples in (observed, advised)]
        rows.append([f"{rate:.2%}", exact(chance.sum()), *cells])
    return rows


@functools.cache
def _at_observed(rate: float) -> float:
    """Samples with the power at the observed rate; infinity at the limit."""
    samples = lasting_samples(rate, LIMIT, ERROR, POWER, "pass" if rate < LIMIT else "fail")
    return np.inf if samples is None else float(samples)


def _decided(samples: Floats, chance: Floats, rate: float) -> str:
    """Chance that a fresh test decides (never, if no number of samples is advised), and the median of the samples."""
    known = np.isfinite(samples)
    power = sum(verdict_power(samples[known], rate, LIMIT, ERROR, verdict) for verdict in ("pass", "fail"))
    order = np.argsort(samples)
    median = samples[order][np.searchsorted(np.cumsum(chance[order]), 0.5)]
    return f"{exact(float((chance[known] * power).sum()))} ({median:,.0f})"
