"""Coverage of every interval, over a grid of true values."""

from collections.abc import Callable

import numpy as np
from limits import mean_settings, relative_counts
from scipy import stats
from tables import Floats, likely_counts, paired_chances, share, table

from lightning_flip.reports.intervals import (
    bootstrap_interval,
    clopper_pearson_lower,
    clopper_pearson_upper,
    mean_lower,
    mean_upper,
    paired_difference_lower,
    paired_difference_upper,
    relative_nfr_lower,
    relative_nfr_upper,
    stratified_count_lower,
    wilson_interval,
)

RATES = np.concatenate([np.geomspace(0.001, 0.5, 60), 1 - np.geomspace(0.001, 0.5, 60)])


def section() -> str:
    """Exact coverage where counts can be enumerated, else draws."""
    return f"""
## Coverage of the intervals

Bounds are one-sided at 95%, intervals two-sided at 95%. "least" is the smallest coverage over the true values, "mean"
the average over them.

{table(("interval", "setting", "least", "mean", "method"), [*rates(), *drops(), *strata(), *drawn()])}
"""


def rates() -> list[tuple[object, ...]]:
    """Binomial rates from .001 to .999."""
    bounds: dict[str, Callable[..., tuple[Floats, Floats]]] = {
        "Clopper-Pearson, upper": lambda count, total: (np.zeros(len(count)), clopper_pearson_upper(count, total)),
        "Clopper-Pearson, lower": lambda count, total: (clopper_pearson_lower(count, total), np.ones(len(count))),
        "Wilson, two-sided": lambda count, total: wilson_interval(count, total),
    }
    rows = []
    for name, bound in bounds.items():
        for total in (60, 1000):
            covered = []
            for rate in RATES:
                counts = likely_counts(total, rate)
                low, high = bound(counts, total)
                covered.append(stats.binom.pmf(counts, total, rate)[(low <= rate) & (rate <= high)].sum())
            rows.append((name, f"n = {total:,}, rates .001 to .999", *numbers(covered), "exact"))
    return rows


def drops() -> list[tuple[object, ...]]:
    """Drops of accuracy of -.1 to .1, with 0 to 10% flips of the rarer kind."""
    rows = []
    settings = [(drop, rarer) for drop in np.linspace(-0.1, 0.1, 9) for rarer in (0.001, 0.01, 0.03, 0.1)]
    for total in (100, 500):
        covered: list[list[float]] = [[], []]
        for drop, rarer in settings:
            worse, better = rarer + max(drop, 0), rarer + max(-drop, 0)
            negative, positive, chances = paired_chances(total, worse, better)
            positive = np.where(negative + positive <= total, positive, 0)
            covered[0].append(chances[paired_difference_upper(negative, positive, total) >= drop - 1e-12].sum())
            covered[1].append(chances[paired_difference_lower(negative, positive, total) <= drop + 1e-12].sum())
        for side, found in zip(("upper", "lower"), covered, strict=True):
            rows.append((f"Tango, accuracy drop, {side}", f"n = {total}, drops -.1 to .1", *numbers(found), "exact"))
    return rows


def strata() -> list[tuple[object, ...]]:
    """Two strata of 60 and 200 samples, 12 looks at each."""
    sizes, looks = np.array([60, 200]), np.array([12, 12])
    bound = np.array(
        [[stratified_count_lower([one, two], looks, sizes, 0.05) for two in range(13)] for one in range(13)]
    )
    covered = []
    for first in range(0, 61, 6):
        for second in range(0, 201, 20):
            chances = [
                stats.hypergeom.pmf(np.arange(13), size, marked, 12)
                for size, marked in zip(sizes, (first, second), strict=True)
            ]
            covered.append(np.outer(*chances)[bound <= first + second].sum())
    return [("stratified count, lower", "strata of 60 and 200, 12 looks each", *numbers(covered), "exact")]


def drawn(draws: int = 500) -> list[tuple[object, ...]]:
    """Relative NFR and means."""
    rng = np.random.default_rng(8)
    rows = []
    for relative, total, old, error in [(0.2, 1000, 0.9, 0.1), (0.5, 10_000, 0.75, 0.2)]:
        counts = relative_counts(rng, 20 * draws, relative, total, old, error)
        text = f"n = {total:,}, {relative}"
        upper = share(relative_nfr_upper(*counts, total) >= relative)
        lower = share(relative_nfr_lower(*counts, total) <= relative)
        rows += [("relative NFR, upper", text, upper, upper, f"{20 * draws:,} draws")]
        rows += [("relative NFR, lower", text, lower, lower, f"{20 * draws:,} draws")]
        inside = []
        for negative, wrong, right in zip(*(one[:draws] for one in counts), strict=True):
            cells = np.array([negative, wrong - negative, right - negative, total - wrong - right + negative])
            low, high = bootstrap_interval(cells, ratio, draws=500)
            inside.append(low <= relative <= high)
        found = share(np.array(inside))
        rows.append(("relative NFR, bootstrap, two-sided", text, found, found, f"{draws:,} draws"))
    for name, (low, high, mean, draw) in mean_settings(rng).items():
        values = [draw(500) for _ in range(draws // 2)]
        upper = share(np.array([mean_upper(one, low, high) >= mean for one in values]))
        lower = share(np.array([mean_lower(one, low, high) <= mean for one in values]))
        rows.append((f"mean, upper: {name}", "n = 500", upper, upper, f"{len(values)} draws"))
        rows.append((f"mean, lower: {name}", "n = 500", lower, lower, f"{len(values)} draws"))
    return rows


def ratio(cells: Floats) -> Floats:
    """Relative NFR of drawn cells."""
    wrong, right = cells[:, 0] + cells[:, 1], cells[:, 0] + cells[:, 2]
    return cells[:, 0] * cells.sum(1) / np.maximum(wrong * right, 1)


def numbers(covered: list[float]) -> tuple[str, str]:
    """Least and mean."""
    return f"{min(covered):.4f}", f"{np.mean(covered):.4f}"
