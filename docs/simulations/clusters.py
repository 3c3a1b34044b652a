"""Samples in clusters: what bounds with effective sample sizes do at the limit."""

import functools

import numpy as np
import numpy.typing as npt
from scipy import stats
from tables import Counts, Floats, exact, share, table

from lightning_flip.reports.intervals import (
    MIN_HIT_CLUSTERS,
    binomial_p_above,
    binomial_p_below,
    design_effect_samples,
    effective_samples,
    mean_p_above,
    mean_p_below,
    paired_difference_p_above,
    paired_difference_p_below,
    relative_nfr_lower,
    relative_nfr_upper,
)

ERROR = 0.05
WRONG = ("false pass", "false fail")
RATES = [(limit, number) for number in (100, 300, 1000) for limit in (0.01, 0.05)]


def section() -> str:
    """Rates, drops, ratios and means in clusters; the design effect."""
    return f"""
## Clusters

Clusters of 10 samples at an intra-class correlation of .5 (beta-binomial counts) unless it says otherwise; the true
value is the limit. The gate takes Kish's effective number of samples, which is the number of clusters if these are
equally large; "as if independent" ignores the clusters.

### Shares

{table(("limit", "clusters", "false pass", "false fail", "as if independent: pass", "fail", "method"), rates())}

Clusters of unequal sizes that answer as one (correlation 1), limit 5%. The plain number of clusters is not enough.

{table(("sizes", "clusters", "effective", *WRONG, "plain number: pass", "fail", "method"), unequal())}

### Accuracy drop, relative NFR and means

{table(("limit", "clusters", "false pass", "false fail", "as if independent: pass", "fail", "draws"), others())}

### Design effect

Korn and Graubard's effective number of samples from an effective number of {MIN_HIT_CLUSTERS} clusters with a flip on
(`MIN_HIT_CLUSTERS`; clusters count by their flips, as samples do by Kish), Kish's below; "at once" takes the design
effect from the first flip on. It is an approximation.

{table(("limit", "clusters", "of samples", "correlation", *WRONG, "at once: pass", "fail", "draws"), design())}

Worst false pass and false fail over these settings, by the least effective number of clusters with a flip:

{table(("least number", *WRONG), minimum())}
"""


def beta_binomial(size: int, rate: float, correlation: float) -> Floats:
    """Chances of 0 to `size` hits in a cluster."""
    if correlation == 1:
        chances = np.zeros(size + 1)
        chances[0], chances[size] = 1 - rate, rate
        return chances
    spread = 1 / correlation - 1
    return np.asarray(stats.betabinom.pmf(np.arange(size + 1), size, rate * spread, (1 - rate) * spread))


def hits_of_all(sizes: Counts, rate: float, correlation: float) -> Floats:
    """Chances of the number of hits in all clusters, by convolution."""
    total = int(sizes.sum())
    spectrum = np.ones(total // 2 + 1 + total % 2, complex)
    for size, number in zip(*np.unique(sizes, return_counts=True), strict=True):
        spectrum = (
            spectrum * np.fft.rfft(beta_binomial(int(size), rate, correlation), total + 1)[: len(spectrum)] ** number
        )
    return np.maximum(np.fft.irfft(spectrum, total + 1), 0)


def rate_errors(sizes: Counts, limit: float, correlation: float, effective: float) -> tuple[float, float]:
    """Chances of a false pass and a false fail, exactly."""
    chances = hits_of_all(sizes, limit, correlation)
    total, counts = int(sizes.sum()), np.arange(len(chances))
    passed = binomial_p_below(counts, total, limit, effective) <= ERROR
    failed = binomial_p_above(counts, total, limit, effective) < ERROR
    return float(chances[passed].sum()), float(chances[failed].sum())


def kish(sizes: Counts) -> float:
    """The library's effective number for clusters of these sizes."""
    return float(effective_samples(np.repeat(np.arange(len(sizes)), sizes))[0])


def rates() -> list[tuple[object, ...]]:
    """Equal clusters, exactly."""
    rows = []
    for limit, number in RATES:
        sizes = np.full(number, 10)
        with_clusters = rate_errors(sizes, limit, 0.5, kish(sizes))
        without = rate_errors(sizes, limit, 0.5, float(sizes.sum()))
        rows.append((limit, number, *map(exact, with_clusters + without), "exact"))
    return rows


def unequal() -> list[tuple[object, ...]]:
    """Clusters of different sizes, exactly."""
    rng = np.random.default_rng(5)
    kinds = {
        "all 10": np.full(300, 10),
        "1 to 20": rng.integers(1, 21, 300),
        "one in ten has 50, others 2": np.where(np.arange(300) % 10 == 0, 50, 2),
        "proportional to 1 / rank": np.maximum(1, 600 // np.arange(1, 301)),
    }
    rows = []
    for name, sizes in kinds.items():
        effective = kish(sizes)
        errors = rate_errors(sizes, 0.05, 1.0, effective) + rate_errors(sizes, 0.05, 1.0, float(len(sizes)))
        rows.append((name, len(sizes), f"{effective:.0f}", *map(exact, errors), "exact"))
    return rows


def cells_in_clusters(rng: np.random.Generator, chances: list[float], shape: tuple[int, int]) -> Counts:
    """Counts of each cell in each cluster of 10, [draws, clusters, cells]: Dirichlet-multinomial, correlation .5."""
    gammas = rng.gamma(np.array(chances), size=(*shape, len(chances)))
    # Of tiny shapes all may underflow to 0: the last, common cell then.
    gammas[..., -1] = np.where(gammas.sum(-1) == 0, 1.0, gammas[..., -1])
    return rng.multinomial(10, gammas / gammas.sum(-1, keepdims=True))


def others(draws: int = 4000) -> list[tuple[object, ...]]:
    """Draws of clusters."""
    rng = np.random.default_rng(6)
    rows = []
    for limit, number, better in [(0.0, 100, 0.02), (0.01, 100, 0.01), (0.01, 300, 0.03), (0.02, 1000, 0.02)]:
        cells = cells_in_clusters(rng, [limit + better, better, 1 - limit - 2 * better], (draws, number)).sum(1)
        errors = []
        for effective in (float(number), None):
            counts = cells[:, 0], cells[:, 1], 10 * number, limit, effective
            errors.append(share(paired_difference_p_below(*counts) <= ERROR))
            errors.append(share(paired_difference_p_above(*counts) < ERROR))
        rows.append((f"accuracy drop {limit}", number, *errors, f"{draws:,}"))
    for relative, number in [(0.3, 300), (0.6, 1000)]:
        rows.append((f"relative NFR {relative}", number, *relative_errors(rng, relative, number, 1000), "1,000"))
    rows += [("mean confidence drop .01", number, *mean_errors(rng, number, 500), "500") for number in (100, 1000)]
    return rows


def relative_errors(rng: np.random.Generator, relative: float, number: int, draws: int) -> list[str]:
    """With effective numbers of all samples and of the new model's errors, and without."""
    flips = relative * 0.85 * 0.2
    cells = cells_in_clusters(rng, [flips, 0.2 - flips, 0.85 - flips, 1 - 0.85 - 0.2 + flips], (draws, number))
    wrong = cells[..., 0] + cells[..., 1]
    effective_wrong = wrong.sum(1) ** 2 / (wrong**2).sum(1)
    negative, right = cells[..., 0].sum(1), (cells[..., 0] + cells[..., 2]).sum(1)
    counts = negative, wrong.sum(1), right, 10 * number, ERROR
    errors = []
    for effective in ((effective_wrong, float(number)), (None, None)):
        errors.append(share(relative_nfr_upper(*counts, *effective) <= relative))
        errors.append(share(relative_nfr_lower(*counts, *effective) > relative))
    return errors


def mean_errors(rng: np.random.Generator, number: int, draws: int) -> list[str]:
    """Half of the variance of a confidence drop is that between clusters."""
    decided = np.zeros((4, draws), bool)
    for one in range(draws):
        values = 0.01 + rng.normal(0, 0.1, (number, 1)) + rng.normal(0, 0.1, (number, 10))
        values = np.clip(values, -0.98, 1).ravel()  # symmetric about the mean
        for place, effective in ((0, float(number)), (2, None)):
            decided[place, one] = mean_p_below(values, 0.01, -1, 1, effective) <= ERROR
            decided[place + 1, one] = mean_p_above(values, 0.01, -1, 1, effective) < ERROR
    return [share(one) for one in decided]


# Limit, clusters, correlation, and the sizes of the clusters.
TEN, MIXED = (10,), (1, 2, 4, 8, 35)
DESIGN = (
    *((limit, number, 0.5, TEN) for limit, number in RATES),
    (0.03, 500, 0.5, TEN), (0.01, 3000, 0.5, TEN), (0.2, 100, 0.5, TEN),
    (0.05, 300, 0.1, TEN), (0.05, 300, 0.9, TEN), (0.01, 300, 0.05, TEN),
    (0.1, 100, 0.5, MIXED), (0.05, 300, 0.5, MIXED), (0.05, 1000, 0.5, MIXED), (0.02, 3000, 0.5, MIXED),
)  # fmt: skip
LEAST = (1, 5, 10, 15, 20, 25, 30, 40, 60)


@functools.cache
def design_decisions(
    limit: float, number: int, correlation: float, some_sizes: tuple[int, ...], draws: int = 4000
) -> tuple[Floats, npt.NDArray[np.bool_]]:
    """Effective clusters with a hit [draws]; passes and fails by design effect and by Kish's number, [4, draws]."""
    rng = np.random.default_rng([7, number, int(1000 * limit), int(100 * correlation), len(some_sizes)])
    sizes = np.resize(some_sizes, number)
    total, plain = int(sizes.sum()), kish(sizes)
    found, decided = [], []
    batch = max(1, 1_000_000 // total)
    for start in range(0, draws, batch):
        some = min(batch, draws - start)
        spread = 1 / correlation - 1
        hits = rng.binomial(sizes, rng.beta(limit * spread, (1 - limit) * spread, (some, number)))
        within = np.concatenate([np.arange(size) for size in sizes])
        clusters = np.repeat(np.arange(number), sizes)
        marks = (within < hits[:, clusters]).ravel()
        groups = np.repeat(np.arange(some), total)
        effective, with_hit = design_effect_samples(marks, np.tile(clusters, some), groups, some, ERROR)
        found.append(with_hit)
        counts = hits.sum(1), total, limit
        errors = []
        for worth in (effective, plain):
            errors += [binomial_p_below(*counts, worth) <= ERROR, binomial_p_above(*counts, worth) < ERROR]
        decided.append(errors)
    return np.concatenate(found), np.concatenate(decided, axis=1)


def by_least(least: int) -> list[npt.NDArray[np.bool_]]:
    """Passes and fails [2, draws] of each setting, with the design effect from `least` clusters with a flip on."""
    drawn = [design_decisions(*setting) for setting in DESIGN]
    return [np.where(found >= least, decided[:2], decided[2:]) for found, decided in drawn]


def design() -> list[tuple[object, ...]]:
    """By the constant, and from the first flip on."""
    rows = []
    for setting, chosen, at_once in zip(DESIGN, by_least(MIN_HIT_CLUSTERS), by_least(0), strict=True):
        limit, number, correlation, sizes = setting
        size = ", ".join(map(str, sizes))
        rates = map(share, (*chosen, *at_once))
        rows.append((limit, f"{number:,}", size, correlation, *rates, f"{chosen.shape[1]:,}"))
    return rows


def minimum() -> list[tuple[object, ...]]:
    """What each constant would give in the worst setting."""
    rows = []
    for least in LEAST:
        worst = [max((one[side] for one in by_least(least)), key=np.mean) for side in (0, 1)]
        rows.append((least, *map(share, worst)))
    return rows
