"""Tables in Markdown, simulated rates, and the probabilities of counts."""

from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt
from scipy import stats

Floats = npt.NDArray[np.float64]
Counts = npt.NDArray[np.int64]


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Numbers are right-aligned: every column but the first."""
    lines = ["| " + " | ".join(head) + " |", "|---|" + "---:|" * (len(head) - 1)]
    return "\n".join(lines + ["| " + " | ".join(map(str, row)) + " |" for row in rows])


def share(happened: npt.NDArray[np.bool_]) -> str:
    """How often something happened in the draws, with its standard error; a bound if never."""
    rate, draws = happened.mean(), happened.size
    error = np.sqrt(max(rate * (1 - rate), 1 / draws) / draws)
    return f"{rate:.4f} ± {error:.4f}"


def exact(chance: float) -> str:
    """A probability that was summed."""
    return f"{chance:.4f}"


def likely_counts(total: int, rate: float) -> Counts:
    """Counts outside these have a chance under 1e-12 together."""
    low, high = stats.binom.ppf([5e-13, 1 - 5e-13], total, rate)
    return np.arange(max(0, int(low) - 1), min(total, int(high) + 1) + 1)


def paired_chances(total: int, worse: float, better: float) -> tuple[Counts, Counts, Floats]:
    """Negative flips [A, 1], positive flips [1, B] and the chance of each pair [A, B]."""
    negative = likely_counts(total, worse)[:, None]
    positive = likely_counts(total, better)[None, :]
    rest = total - negative - positive
    positive_chance = stats.binom.pmf(positive, total - negative, better / (1 - worse))
    return negative, positive, np.where(rest >= 0, stats.binom.pmf(negative, total, worse) * positive_chance, 0.0)
