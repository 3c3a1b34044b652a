"""False passes and false fails of each kind of limit, where the truth is the limit itself."""

from collections.abc import Callable

import numpy as np
from scipy import stats
from tables import Counts, Floats, exact, likely_counts, paired_chances, share, table

from lightning_flip.reports.gating._limits import judge_groups
from lightning_flip.reports.gating.measures import Shares
from lightning_flip.reports.intervals import (
    binomial_p_above,
    binomial_p_below,
    holm,
    mean_p_above,
    mean_p_below,
    paired_difference_p_above,
    paired_difference_p_below,
    relative_nfr_lower,
    relative_nfr_upper,
)

ERROR = 0.05


def section() -> str:
    """One limit, then families of 50 groups."""
    return f"""
## One limit

The true value is the limit itself: there a false pass (the truth may be a little over the limit) and a false fail (it
may be exactly the limit) are most likely. Both may have a chance of {ERROR} at most.

### Shares: NFR, NFI, churn, top-k flips, accuracy of the old model

Clopper-Pearson bounds. "samples" are those that the rate is a share of: all samples, or the new model's errors for NFI.

{table(("limit", "samples", "false pass", "false fail", "method"), rates())}

### Accuracy drop

Tango's score test, and never bolder than the exact test for models that flip in one direction only. Exact. Tango's
alone, and a Wald bound, would be wrong as often as the last columns say.

{table(("limit", "samples", *DROP_COLUMNS), drops())}

### Relative NFR

The ratio of two Clopper-Pearson bounds, each at half the error.

{table(("relative NFR", "samples", "old accuracy", "new error", "false pass", "false fail", "draws"), ratios())}

### Means: flip costs, confidence drop, rise of the Brier score and of NLL

Betting on bounded values. A t-test would pass as often as the last column says.

{table(("values", "samples", "false pass", "false fail", "draws", "t-test passes"), means())}

## Families of 50 groups

A limit per class or slice fails by Holm's adjusted p-values and passes if every group passes at {ERROR}. "drop" is a
limit on the accuracy drop, with the given rate of positive flips.

{table(("50 groups of", "truth", "passes wrongly", "fails wrongly", "method"), families())}

Of 25 groups that are over a limit of 1% (at 4%, among 25 at .5%; 500 samples each) Holm finds a share of
{power(holm)}, Bonferroni {power(lambda p: np.minimum(1, p * len(p)))} (2,000 draws).
"""


def rates() -> list[tuple[object, ...]]:
    """Binomial counts, exactly."""
    rows = []
    for limit, total in [
        (0.001, 10_000),
        (0.01, 299),
        (0.01, 1000),
        (0.01, 10_000),
        (0.05, 300),
        (0.2, 100),
        (0.9, 500),
    ]:
        counts = likely_counts(total, limit)
        chances = stats.binom.pmf(counts, total, limit)
        passed = chances[binomial_p_below(counts, total, limit) <= ERROR].sum()
        failed = chances[binomial_p_above(counts, total, limit) < ERROR].sum()
        rows.append((limit, f"{total:,}", exact(passed), exact(failed), "exact"))
    return rows


DROPS = (
    (0.0, 300, 0.02), (0.0, 1000, 0.05), (0.002, 500, 0.003), (0.005, 300, 0.0), (0.005, 300, 0.01),
    (0.005, 1000, 0.01), (0.005, 5000, 0.01), (0.01, 300, 0.0), (0.01, 300, 0.002), (0.01, 1000, 0.05),
    (0.02, 300, 0.0), (0.02, 200, 0.005), (0.02, 1000, 0.1), (0.05, 100, 0.02),
)  # fmt: skip
DROP_COLUMNS = (
    "negative flips", "positive flips", "false pass", "false fail", "Tango alone: pass", "fail", "Wald: pass",
)  # fmt: skip


def drops() -> list[tuple[object, ...]]:
    """Trinomial counts, exactly."""
    return [
        (limit, f"{total:,}", f"{limit + better:.3f}", f"{better:.3f}", *map(exact, drop_errors(limit, total, better)))
        for limit, total, better in DROPS
    ]


def drop_errors(limit: float, total: int, better: float) -> tuple[float, ...]:
    """Chances of a false pass and a false fail; the same by Tango's score alone; of a false pass by Wald's bound."""
    negative, positive, chances = paired_chances(total, limit + better, better)
    positive = np.where(negative + positive <= total, positive, 0)  # the others have no chance
    drop = (negative - positive) / total
    score = tango_score(negative, positive, total, limit)
    wald = stats.norm.isf(ERROR) * np.sqrt(((negative + positive) / total - drop**2) / total)
    decisions = (
        paired_difference_p_below(negative, positive, total, limit) <= ERROR,
        paired_difference_p_above(negative, positive, total, limit) < ERROR,
        stats.norm.cdf(score) <= ERROR,
        stats.norm.sf(score) < ERROR,
        drop + wald <= limit,
    )
    return tuple(float(chances[decision].sum()) for decision in decisions)


def tango_score(negative: Counts, positive: Counts, total: int, drop: float) -> Floats:
    """Tango (1998) for a drop that is not negative; 0 without variance."""
    b = 2 * total * drop - negative * (1 + drop) - positive * (1 - drop)
    better = (np.sqrt(b**2 + 8 * total * positive * drop * (1 - drop)) - b) / (4 * total)
    variance = total * (2 * better + drop * (1 - drop))
    return (negative - positive - total * drop) / np.sqrt(np.where(variance > 0, variance, np.inf))


RATIOS = ((0.2, 1000, 0.9, 0.1), (0.5, 1000, 0.9, 0.1), (0.5, 10_000, 0.75, 0.2), (1.0, 500, 0.6, 0.4))


def ratios(draws: int = 100_000) -> list[tuple[object, ...]]:
    """Multinomial draws of the four cells."""
    rng = np.random.default_rng(1)
    rows = []
    for relative, total, old, error in RATIOS:
        negative, wrong, right = relative_counts(rng, draws, relative, total, old, error)
        passed = relative_nfr_upper(negative, wrong, right, total, ERROR) <= relative
        failed = relative_nfr_lower(negative, wrong, right, total, ERROR) > relative
        rows.append((relative, f"{total:,}", old, error, share(passed), share(failed), f"{draws:,}"))
    return rows


def relative_counts(
    rng: np.random.Generator, draws: int, relative: float, total: int, old: float, error: float
) -> tuple[Floats, Floats, Floats]:
    """Negative flips, new errors and old successes of models with these rates."""
    flips = relative * old * error
    cells = rng.multinomial(total, [flips, error - flips, old - flips, 1 - error - old + flips], size=draws)
    return cells[:, 0], cells[:, 0] + cells[:, 1], cells[:, 0] + cells[:, 2]


def mean_settings(rng: np.random.Generator) -> dict[str, tuple[float, float, float, Callable[[int], Floats]]]:
    """Range, true mean, and how to draw [N] values."""
    costs, chances = np.array([0.0, 1.0, 2.0, 10.0]), np.array([0.96, 0.03, 0.008, 0.002])

    def rarely(chance: float, large: Callable[[int], Floats], small: float) -> Callable[[int], Floats]:
        return lambda n: np.where(rng.random(n) < chance, large(n), rng.uniform(-small, small, n))

    return {
        "flip costs 0, 1, 2, 10": (0, 10, float(costs @ chances), lambda n: rng.choice(costs, n, p=chances)),
        "confidence drop, sd .1": (-1, 1, 0.01, lambda n: rng.beta(50.5, 49.5, n) * 2 - 1),
        "Brier rise, 3% large": (-2, 2, 0.015, rarely(0.03, lambda n: 2 * rng.beta(1, 3, n), 0.01)),
        "NLL rise up to 20, 0.5% large": (-20, 20, 0.05, rarely(0.005, lambda n: rng.uniform(0, 20, n), 0.02)),
    }


def means(draws: int = 2000) -> list[tuple[object, ...]]:
    """Draws of values whose mean is the limit."""
    rng = np.random.default_rng(2)
    rows = []
    for name, (low, high, mean, draw) in mean_settings(rng).items():
        for total in (200, 2000):
            decided = np.zeros((3, draws), bool)
            for one in range(draws):
                values = draw(total)
                decided[0, one] = mean_p_below(values, mean, low, high) <= ERROR
                decided[1, one] = mean_p_above(values, mean, low, high) < ERROR
                error = values.std(ddof=1) / np.sqrt(total)
                decided[2, one] = values.mean() + stats.t.isf(ERROR, total - 1) * error <= mean
            rows.append((name, f"{total:,}", share(decided[0]), share(decided[1]), f"{draws:,}", share(decided[2])))
    return rows


def families(draws: int = 10_000) -> list[tuple[object, ...]]:
    """Fifty groups with a limit of 1% on a rate, or on the drop in accuracy."""
    rows = []
    for total in (299, 500, 5000):
        counts = likely_counts(total, 0.01)
        chances = stats.binom.pmf(counts, total, 0.01)
        passed = chances[binomial_p_below(counts, total, 0.01) <= ERROR].sum()
        first = chances[binomial_p_above(counts, total, 0.01) < ERROR / 50].sum()
        text = f"{total:,} samples, rate"
        rows.append((text, "all at the limit", exact(passed**50), exact(1 - (1 - first) ** 50), "exact"))
        rows.append((text, "one at the limit, others at 0", exact(passed), exact(first), "exact"))
    rng = np.random.default_rng(3)
    flips = np.where(np.arange(50) < 25, rng.binomial(500, 0.2, (draws, 50)), rng.binomial(500, 0.01, (draws, 50)))
    names, totals = [str(place) for place in range(50)], np.full(50, 500)
    judged = [judge_groups(names, Shares.of(one, totals), 0.01, ERROR, advise=False) for one in flips]
    status = np.array([[group.status for group in groups] for groups in judged])
    passed, wrong = (status == "pass").all(1), (status[:, 25:] == "fail").any(1)
    rows.append(("500 samples, rate", "25 at the limit, 25 at 20%", share(passed), share(wrong), f"{draws:,} draws"))
    for limit, total, better in [(0.01, 500, 0.0), (0.01, 500, 0.01), (0.01, 2000, 0.03), (0.02, 1000, 0.006)]:
        negative, positive, chances = paired_chances(total, limit + better, better)
        one = chances[paired_difference_p_below(negative, positive, total, limit) <= ERROR].sum()
        first = chances[paired_difference_p_above(negative, positive, total, limit) < ERROR / 50].sum()
        text = f"{total:,} samples, drop ({better})"
        rows.append((text, "all at the limit", exact(one**50), exact(1 - (1 - first) ** 50), "exact"))
    return rows


def power(adjust: Callable[[Floats], Floats], draws: int = 2000) -> str:
    """Share of groups over the limit that fail."""
    rng = np.random.default_rng(4)
    flips = np.where(np.arange(50) < 25, rng.binomial(500, 0.04, (draws, 50)), rng.binomial(500, 0.005, (draws, 50)))
    adjusted = np.stack([adjust(p) for p in binomial_p_above(flips, 500, 0.01)])
    return f"{(adjusted[:, :25] < ERROR).mean():.3f}"
