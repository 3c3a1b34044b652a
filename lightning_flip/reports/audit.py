"""How many labels are wrong: a random sample along the ranking that a person reviews, and the count that follows."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from lightning_flip.reports.intervals import stratified_count_lower
from lightning_flip.stores.history.suspects import rank_suspects
from lightning_flip.stores.spreadsheets import csv_text

__all__ = [
    "ANSWERS",
    "AUDIT_COLUMNS",
    "Answer",
    "AuditDraw",
    "AuditEstimate",
    "AuditStratum",
    "draw_audit",
    "estimate_wrong",
]

Answer = Literal["right", "wrong", "unsure"]
ANSWERS: tuple[Answer, ...] = get_args(Answer)
AUDIT_COLUMNS = (
    *("index", "sample_id", "path", "given_label", "given_name"),
    *("stratum", "stratum_size", "weight", "review", "corrected_label"),
)
_LEAST = 2  # looks of a stratum
# A history may be wrong about a sample: no guess is surer than that.
_FLOOR = 0.05

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]


@dataclasses.dataclass(frozen=True)
class AuditStratum:
    """Samples that are next to each other in the ranking, and what was found among them.

    Attributes:
        size: samples in the stratum.
        looks: how many of them are looked at.
        wrong: looks that found a wrong label; in a draw the guess of it, which need not be whole.
        unsure: looks that could not decide.
    """

    size: int
    looks: int
    wrong: float
    unsure: int = 0


@dataclasses.dataclass(frozen=True)
class AuditDraw:
    """Samples drawn for a review.

    Attributes:
        rows: one row per look in random order, with the columns `AUDIT_COLUMNS`; `review` and `corrected_label` are
            null.
        strata: the strata, the most suspicious samples first.
        half_width: half the width of the interval that the count will probably have, in samples, at 95%.
        half_width_of_four: the same for four times the looks.
    """

    rows: pa.Table
    strata: tuple[AuditStratum, ...]
    half_width: float
    half_width_of_four: float

    def plan(self) -> str:
        """What this number of looks can tell, and where they are."""
        samples, looks = sum(part.size for part in self.strata), self.rows.num_rows
        if looks == samples:
            return f"{looks:,} looks at all {samples:,} samples: the number of wrong labels will be known exactly."
        four = f"to about ±{_rounded(self.half_width_of_four)}" if 4 * looks < samples else "exactly"
        places = ", ".join(
            f"{part.looks:,} of {'the' if number == 0 else 'the next'} {part.size:,}"
            for number, part in enumerate(self.strata)
        )
        return (
            f"{looks:,} looks at {samples:,} samples will tell the number of wrong labels to about"
            f" ±{_rounded(self.half_width)} (95%); {min(4 * looks, samples):,} looks would {four}."
            f" From the most suspicious sample on, they are at {places}."
        )

    def to_csv(self) -> str:
        """The rows as CSV; a reviewer fills in `review` (right, wrong or unsure) and, if wrong, `corrected_label`."""
        return csv_text(self.rows.column_names, (list(row.values()) for row in self.rows.to_pylist()))


@dataclasses.dataclass(frozen=True)
class AuditEstimate:
    """How many labels are wrong, from the rows of an audit alone.

    Attributes:
        wrong: the stratified estimate; without unsure answers its expectation is the true number. An unsure look counts
            as half a wrong label.
        low: lower limit of the true number: unsure looks count as right.
        high: upper limit: unsure looks count as wrong.
        confidence: the chance, whatever the truth, that the limits include it, at least.
        strata: what was found in each stratum, in the order of their numbers in the file.
    """

    wrong: float
    low: int
    high: int
    confidence: float
    strata: tuple[AuditStratum, ...]

    @property
    def samples(self) -> int:
        """Samples that the count is about."""
        return sum(part.size for part in self.strata)

    @property
    def looks(self) -> int:
        """Samples that were looked at."""
        return sum(part.looks for part in self.strata)

    @property
    def unsure(self) -> int:
        """Looks that could not decide."""
        return sum(part.unsure for part in self.strata)

    def sentence(self) -> str:
        """The estimate with its limits."""
        found = f"{sum(int(part.wrong) for part in self.strata):,} of {self.looks:,} looks were wrong"
        if self.looks == self.samples and not self.unsure:
            return f"{found}, which are all samples."
        unsure = f" and {self.unsure:,} unsure" if self.unsure else ""
        return (
            f"Audit: about {self.wrong:,.0f} of {self.samples:,} labels are wrong, at least {self.low:,} and at most"
            f" {self.high:,} ({100 * self.confidence:g}%); {found}{unsure}."
        )


def draw_audit(scores: pa.Table, looks: int, seed: int = 0, strata: int = 2) -> AuditDraw:
    """Draw samples for a review that tells how many labels are wrong.

    The scored samples are ranked by `label_score` and cut into strata where the looks tell most: where the sum of
    :math:`N_h s_h` is smallest, with :math:`s_h` the standard deviation of "is wrong" in a stratum of :math:`N_h`
    samples. Looks are allocated in proportion to :math:`N_h s_h` (Neyman), at least two per stratum, and drawn without
    replacement. Whether a sample is wrong is guessed from the history: yes if `is_label_issue`, no unless `disagrees`,
    half between the two, and never surer than 95%. A wrong guess makes the interval wider than it could be, and never
    wrong. Two strata are the default since the exact limits pay for each further one.

    The rows show neither score nor suggestion. They are in random order, and so are the numbers of the strata.

    Args:
        scores: a table with the columns of `History.label_scores`.
        looks: how many samples to draw, at least two per stratum; all of them if there are no more.
        seed: seed of the draw.
        strata: how many strata, at least 1; fewer if there are too few samples.

    Raises:
        ValueError: if `looks` or `strata` is too small, or no sample has a score.
        ModuleNotFoundError: if scipy is not installed.

    Example:
        >>> scores = pa.table({
        ...     "index": range(100), "sample_id": pa.nulls(100, pa.string()), "path": pa.nulls(100, pa.string()),
        ...     "given_label": [3] * 100, "given_name": ["cat"] * 100, "visits": [8] * 100,
        ...     "label_score": np.linspace(0, 1, 100), "is_label_issue": [True] * 20 + [False] * 80,
        ...     "disagrees": [True] * 30 + [False] * 70})
        >>> drawn = draw_audit(scores, looks=20)
        >>> [(part.size, part.looks) for part in drawn.strata], drawn.rows.num_rows
        ([(30, 9), (70, 11)], 20)
        >>> print(drawn.plan())
        20 looks at 100 samples will tell the number of wrong labels to about ±20 (95%); 80 looks would to about ±2. \
From the most suspicious sample on, they are at 9 of the 30, 11 of the next 70.
    """
    if strata < 1:
        raise ValueError(f"strata must be at least 1, got {strata}.")
    ranked = rank_suspects(scores, "label_score")
    count = ranked.num_rows
    if not count:
        raise ValueError("No sample has a score, so there is nothing to audit. Train for at least one epoch.")
    if looks < min(_LEAST * strata, count):
        raise ValueError(f"looks must be at least {_LEAST} per stratum, {_LEAST * strata} for {strata}; got {looks}.")
    looks = min(looks, count)
    guess = _guesses(ranked)
    cuts = _cut(guess, min(strata, max(1, count // _LEAST)))
    size = np.diff(cuts)
    mean = np.add.reduceat(guess, cuts[:-1]) / size
    drawn = _allocate(size, mean, looks)
    generator = np.random.default_rng(seed)
    numbers = generator.permutation(len(size))
    rows, stratum = [], []
    for start, part, number, n in zip(cuts[:-1].tolist(), size.tolist(), numbers.tolist(), drawn.tolist(), strict=True):
        rows.append(start + generator.choice(part, n, replace=False))
        stratum.append(np.full(n, number))
    order = generator.permutation(looks)
    belongs = np.concatenate(stratum)[order]
    place = np.argsort(numbers)  # of the stratum with a number
    return AuditDraw(
        rows=_audit_rows(ranked.take(pa.array(np.concatenate(rows)[order])), belongs, size[place], drawn[place]),
        strata=tuple(
            AuditStratum(part, n, n * share)
            for part, n, share in zip(size.tolist(), drawn.tolist(), mean.tolist(), strict=True)
        ),
        half_width=_expected_half_width(size, drawn, mean),
        half_width_of_four=_expected_half_width(size, _allocate(size, mean, min(4 * looks, count)), mean),
    )


def estimate_wrong(audit: pa.Table, confidence: float = 0.95) -> AuditEstimate:
    """Estimate the number of wrong labels from the rows of a reviewed audit, with exact limits.

    The estimate is the sum over strata of size times the share of wrong labels among the looks. The limits are exact
    whatever the truth is: hypergeometric tails of the strata, combined as in
    :func:`~lightning_flip.reports.intervals.stratified_count_lower`.

    Args:
        audit: the rows of a draw, with the columns `stratum`, `stratum_size`, `weight` and `review`; each review is
            `"right"`, `"wrong"` or `"unsure"`.
        confidence: the chance to include the true number, between 0 and 1.

    Raises:
        ValueError: if a row has no review or another one, or rows of the draw are missing.
        ModuleNotFoundError: if scipy is not installed.

    Example:
        >>> audit = pa.table({"stratum": ["1 of 1"] * 4, "stratum_size": [40] * 4, "weight": [10.0] * 4,
        ...                   "review": ["right", "wrong", "right", "unsure"]})
        >>> found = estimate_wrong(audit)
        >>> found.wrong, found.low, found.high
        (15.0, 1, 36)
    """
    reviews: list[str | None] = audit["review"].to_pylist()
    other = [place for place, review in enumerate(reviews) if review not in ANSWERS]
    if other:
        raise ValueError(
            f"{len(other)} of {len(reviews)} rows of the audit have no review, the first is row {other[0]} with"
            f" {reviews[other[0]]!r}. Answer each with right, wrong or unsure: rows that are left out could differ from"
            " the others."
        )
    names, sizes = _check_strata(audit)
    stratum = np.array([names.index(name) for name in audit["stratum"].to_pylist()])
    answers = np.array(reviews)
    looks, wrong, unsure = (
        np.bincount(stratum, weights=chosen, minlength=len(names)).astype(np.int64)
        for chosen in (np.ones(len(answers)), answers == "wrong", answers == "unsure")
    )
    error = (1 - confidence) / 2
    return AuditEstimate(
        wrong=float((sizes * (wrong + unsure / 2) / looks).sum()),
        low=stratified_count_lower(wrong, looks, sizes, error),
        high=int(sizes.sum()) - stratified_count_lower(looks - wrong - unsure, looks, sizes, error),
        confidence=confidence,
        strata=tuple(map(AuditStratum, sizes.tolist(), looks.tolist(), wrong.tolist(), unsure.tolist())),
    )


def _guesses(ranked: pa.Table) -> Floats:
    """How probable a wrong label is, [N]: what is counted as almost certain is too few, what disagrees too many."""
    sure, disagrees = (np.asarray(ranked[name], np.float64) for name in ("is_label_issue", "disagrees"))
    return np.clip((sure + disagrees) / 2, _FLOOR, 1 - _FLOOR)


def _cut(guess: Floats, strata: int) -> Integers:
    """Where strata of a ranking begin and end, [H + 1]: each cut is the one that lowers the sum of N_h s_h most."""
    total = np.concatenate([[0.0], np.cumsum(guess)])
    cuts = [0, len(guess)]

    def spread(start: int | Integers, stop: int | Integers) -> Floats:
        wrong, size = total[stop] - total[start], np.subtract(stop, start)
        deviation: Floats = np.sqrt(np.maximum(wrong * (size - wrong), 0.0))
        return deviation

    for _ in range(strata - 1):
        best = (-np.inf, 0)
        for start, stop in itertools.pairwise(cuts):
            middle = np.arange(start + _LEAST, stop - _LEAST + 1)
            if len(middle):
                gain = spread(start, stop) - spread(start, middle) - spread(middle, stop)
                best = max(best, (float(gain.max()), int(middle[gain.argmax()])))
        if best[1]:
            cuts = sorted([*cuts, best[1]])
    return np.array(cuts, np.int64)


def _allocate(size: Integers, share: Floats, looks: int) -> Integers:
    """Looks of each stratum [H] in proportion to N_h s_h, at least two, at most N_h.

    One look after the other goes where it lowers the variance of the count most (Wright 2012).
    """
    given = np.minimum(size, _LEAST)
    spread = size * np.sqrt(share * (1 - share))
    for _ in range(looks - int(given.sum())):
        gain = np.where(given < size, spread / np.sqrt(given * (given + 1.0)), -1.0)
        given[gain.argmax()] += 1
    return given


def _expected_half_width(size: Integers, looks: Integers, share: Floats) -> float:
    """Half the width of the limits if the looks find what is guessed."""
    wrong = np.rint(looks * share).astype(np.int64)
    low, others = stratified_count_lower(wrong, looks, size), stratified_count_lower(looks - wrong, looks, size)
    return (int(size.sum()) - others - low) / 2


def _rounded(number: float) -> str:
    """Two significant digits."""
    return f"{float(f'{number:.2g}'):,.0f}"


def _audit_rows(samples: pa.Table, stratum: Integers, size: Integers, looks: Integers) -> pa.Table:
    """The rows of an audit file; strata are named "1 of H", so that a missing one is noticed."""
    nothing = pa.nulls(samples.num_rows, pa.string())
    new = {
        "stratum": pa.array([f"{number + 1} of {len(size)}" for number in stratum.tolist()]),
        "stratum_size": pa.array(size[stratum]),
        "weight": pa.array((size / looks)[stratum]),
        "review": nothing,
        "corrected_label": nothing,
    }
    return pa.table({name: new.get(name, samples[name] if name not in new else None) for name in AUDIT_COLUMNS})


def _check_strata(audit: pa.Table) -> tuple[Sequence[str], Integers]:
    """The names of the strata in order and their sizes [H]; refuses an audit that lacks rows or mixes two draws."""
    facts = set(zip(*(audit[name].to_pylist() for name in ("stratum", "stratum_size", "weight")), strict=True))
    by_name = {name: (size, weight) for name, size, weight in facts}
    names = sorted(by_name, key=lambda name: [int(word) for word in str(name).split(" of ") if word.isdigit()])
    if (
        not names
        or names != [f"{number + 1} of {len(names)}" for number in range(len(names))]
        or len(facts) > len(names)
    ):
        raise ValueError(
            f"The audit's strata are {', '.join(map(repr, names)) or 'missing'}, with {len(facts)} sizes and weights;"
            " expected '1 of H' to 'H of H', each with one size and one weight. Keep all rows of one draw, with"
            " stratum, stratum_size and weight as they were."
        )
    counted = pc.value_counts(audit["stratum"].combine_chunks()).to_pylist()
    for found in counted:
        size, weight = by_name[found["values"]]
        expected = round(size / weight)
        if found["counts"] != expected or not expected <= size:
            raise ValueError(
                f"Stratum {found['values']!r} of the audit was drawn with {expected} of {size} looks (by its weight),"
                f" and {found['counts']} rows are here. Keep all rows of the draw; answer unsure if a sample cannot be"
                " judged."
            )
    return names, np.array([by_name[name][0] for name in names], np.int64)
