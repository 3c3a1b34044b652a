"""Which labels look wrong, from plain loops over visits: score, epochs that count, suggestion, counts."""

from __future__ import annotations

import math
from decimal import Decimal, localcontext
from typing import NamedTuple

import numpy as np


class Visit(NamedTuple):
    """What one epoch said about one sample."""

    epoch: int
    sample: int
    label: int
    prob_label: float
    logit_margin: float
    cross_entropy: float
    best_other: int | None


def visits_of(logits: np.ndarray, label: np.ndarray, dtype: type = np.float64) -> list[Visit]:
    """Every sample in every epoch, from logits [E, N, K]; the measures are rounded to `dtype`."""
    found = []
    for epoch, rows in enumerate(np.asarray(logits, np.float64)):
        for sample, z in enumerate(rows):
            y = int(label[sample])
            others = [j for j in range(len(z)) if j != y]
            best = max(others, key=lambda j: z[j])  # of equal ones the first
            top = z.max()
            entropy = top + math.log(sum(math.exp(v - top) for v in z)) - z[y]
            numbers = (float(dtype(v)) for v in (math.exp(-entropy), z[y] - z[best], entropy))
            found.append(Visit(epoch, sample, y, *numbers, best))
    return found


def other_probability(visit: Visit) -> float:
    """Of the best other class: log p_other = z_other - z_label + log p_label = -(margin + cross entropy)."""
    return min(1.0, math.exp(-(visit.cross_entropy + visit.logit_margin)))


def probability_margin(visit: Visit) -> float:
    """pm = p_label - p_best_other."""
    return visit.prob_label - other_probability(visit)


def product_form(prob_label: np.ndarray, logit_margin: np.ndarray) -> np.ndarray:
    """The same from p_other = p_label exp(-margin), which is 0 times infinity where the label is hopeless."""
    with np.errstate(all="ignore"):
        return prob_label - prob_label * np.exp(-logit_margin)


class Exact(NamedTuple):
    """What a history stores of logits, and the probability of the best other class, to 60 digits."""

    prob_label: Decimal
    prob_other: Decimal
    logit_margin: Decimal
    cross_entropy: Decimal


def exact_measures(logits: list[float], label: int) -> Exact:
    """From the definitions, in decimal arithmetic."""
    with localcontext() as context:
        context.prec = 60
        z = [Decimal(value) for value in logits]
        total = sum(value.exp() for value in z)
        other = max(value for j, value in enumerate(z) if j != label)
        prob = z[label].exp() / total
        return Exact(prob, other.exp() / total, z[label] - other, -prob.ln())


def ranks(values: list[float]) -> list[float]:
    """1 for the smallest; equal values share the mean of their places."""
    return [sum(v < x for v in values) + (sum(v == x for v in values) + 1) / 2 for x in values]


def chosen_epochs(accuracy: list[float], nll: list[float]) -> list[int]:
    """Epochs whose rank by rising accuracy plus rank by falling NLL is at least the median; a NaN is the worst NLL."""
    bad = [math.inf if math.isnan(value) else value for value in nll]
    total = [a + b for a, b in zip(ranks(accuracy), ranks([-value for value in bad]), strict=True)]
    middle = float(np.median(total))
    return [epoch for epoch, value in enumerate(total) if value >= middle]


class Found(NamedTuple):
    """Per sample, None where no chosen epoch saw it: the score, the suggestion, whether the label is surely wrong."""

    label_score: list[float | None]
    suggestion: list[int | None]
    surely_wrong: list[bool]
    disagrees: list[bool]


def suspects(visits: list[Visit], samples: int, classes: int, epochs: list[int] | None = None) -> Found:
    """Everything about every sample; `epochs` None stands for all of them."""
    score: list[float | None] = []
    suggestion: list[int | None] = []
    averages: list[np.ndarray | None] = []
    labels: list[int] = []
    for sample in range(samples):
        mine = [v for v in visits if v.sample == sample and (epochs is None or v.epoch in epochs)]
        labels.append(mine[0].label if mine else -1)
        if not mine:
            score.append(None)
            suggestion.append(None)
            averages.append(None)
            continue
        score.append((1 + math.fsum(map(probability_margin, mine)) / len(mine)) / 2)
        # What a history knows of an average prediction: a class that was neither the label nor the best other counts 0.
        average = np.zeros(classes)
        for visit in mine:
            average[visit.label] += visit.prob_label / len(mine)
            if visit.best_other is not None:
                average[visit.best_other] += other_probability(visit) / len(mine)
        averages.append(average)
        others = [j for j in range(classes) if j != mine[0].label and average[j] > 0]
        suggestion.append(max(others, key=lambda j: average[j]) if others else None)
    # Northcutt et al. 2021, Eq. 1 and 2: t_j is the mean p_j of the samples labelled j; a sample belongs to its most
    # probable class among those with p_j >= t_j, if there is one.
    threshold = {}
    for label in set(labels) - {-1}:
        own = [a[label] for a, y in zip(averages, labels, strict=True) if a is not None and y == label]
        threshold[label] = math.fsum(own) / len(own)
    surely_wrong, disagrees = [], []
    for average, label in zip(averages, labels, strict=True):
        disagrees.append(average is not None and bool(average.max() > average[label]))
        # As in cleanlab: rounding tells no equal numbers apart, and no label is wrong that the average has.
        near = [] if average is None else [j for j, t in threshold.items() if 0 < average[j] >= t - 1e-6]
        best = max(near, key=lambda j: (average[j], j == label)) if near else label
        # Our own condition: the confident joint alone is right for 85% of what it flags on CIFAR-10 (docs/ranking.md).
        surely_wrong.append(disagrees[-1] and best != label and average is not None and average[label] <= 0.05)
    return Found(score, suggestion, surely_wrong, disagrees)
