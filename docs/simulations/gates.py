"""The whole gate on drawn predictions, with every limit where the truth is."""

from unittest import mock

import numpy as np
import pyarrow as pa
from clusters import cells_in_clusters
from tables import Counts, Floats, share, table

from lightning_flip.reports.gating.decision import gate
from lightning_flip.reports.update.join import JoinedPredictions

CLASSES, CLUSTERS = 10, 200
# Negative flips, positive flips, wrong in both and right in both.
CELLS = [0.01, 0.01, 0.09, 0.89]
TRUTH = {
    "max_nfr": 0.01, "max_nfr_per_class": 0.01, "max_nfi": 0.1, "max_churn": 0.02, "max_accuracy_drop": 0.0,
    "max_top_k_flips": 0.01, "max_relative_nfr": 0.1 / 0.9, "max_flip_cost": 0.01, "max_confidence_drop": 0.0,
    "max_brier_increase": 0.0, "max_nll_increase": 0.0, "min_old_accuracy": 0.9,
}  # fmt: skip
KINDS: dict[str, dict[str, object]] = {
    "independent": {},
    "clusters": {"cluster": "patient"},
    "design effect": {"cluster": "patient", "design_effect": True},
}


def section() -> str:
    """One table: what passes and fails, by limit and by kind of sample."""
    columns = [f"{kind}: {what}" for kind in KINDS for what in ("pass", "fail")]
    return f"""
## The whole gate

`gate` on {10 * CLUSTERS:,} drawn samples of {CLASSES} classes: 1% negative flips, 1% positive flips, 9% wrong in both,
and every limit at the true value. Independent samples (400 draws), and {CLUSTERS} clusters of 10 at an intra-class
correlation of .5 with `cluster`, without and with `design_effect` (200 draws each).

{table(("limit", *columns), rows())}
"""


def rows(draws: int = 200) -> list[tuple[str, ...]]:
    """Shares of passes and fails of each limit."""
    rng = np.random.default_rng(9)
    # The advice on the number of samples decides nothing, and takes most of the time.
    with mock.patch("lightning_flip.reports.gating._limits.advised_samples", no_advice):
        found = {kind: statuses(rng, kind, 2 * draws if kind == "independent" else draws) for kind in KINDS}
    return [
        (name, *(share(found[kind][name] == status) for kind in KINDS for status in ("pass", "fail"))) for name in TRUTH
    ]


def no_advice(count: Floats, *_: object) -> tuple[Floats, Floats]:
    """Neither rates nor numbers of samples."""
    return np.full(len(count), np.nan), np.full(len(count), np.nan)


def statuses(rng: np.random.Generator, kind: str, draws: int) -> dict[str, np.ndarray]:
    """Status of each limit [draws]."""
    found: dict[str, list[str]] = {name: [] for name in TRUTH}
    costs = {(right, wrong): 1.0 for right in range(CLASSES) for wrong in range(CLASSES) if right != wrong}
    for _ in range(draws):
        shape = (1, CLUSTERS)
        cells = rng.multinomial(10, CELLS, shape) if kind == "independent" else cells_in_clusters(rng, CELLS, shape)
        for outcome in gate(predictions(rng, cells[0]), **TRUTH, **KINDS[kind], costs=costs).outcomes:
            found[outcome.name].append(outcome.status)
    return {name: np.array(one) for name, one in found.items()}


def predictions(rng: np.random.Generator, cells: Counts) -> JoinedPredictions:
    """Predictions with these counts of cells [clusters, 4]."""
    cell = np.repeat(np.tile(np.arange(4), len(cells)), cells.ravel())
    patient = np.repeat(np.arange(len(cells)), cells.sum(1))
    old_right, new_right = np.isin(cell, (0, 3)), np.isin(cell, (1, 3))
    target = rng.integers(0, CLASSES, len(cell))
    wrong = (target + 1) % CLASSES
    sure = [np.where(right, 0.8, 0.2) for right in (old_right, new_right)]
    return JoinedPredictions(
        pa.array([str(place) for place in range(len(cell))]),
        tuple(range(CLASSES)),
        target,
        np.where(old_right, target, wrong),
        np.where(new_right, target, wrong),
        slices={"patient": patient.astype(str).astype(object)},
        scores={
            "prob_label": tuple(sure),
            "brier": tuple(2 * (1 - one) ** 2 for one in sure),
            "nll": tuple(-np.log(one) for one in sure),
            "in_top_5": (old_right.astype(float), new_right.astype(float)),
        },
    )
