"""Flips of a run by loops over samples: the definitions, written out.

A pass is a list with the prediction of each sample, or None where it did not see the sample.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence

Pass = Sequence[int | None]


def timeline(labels: Sequence[int], passes: Sequence[Pass]) -> list[dict[str, int]]:
    """What `FlipTimeline` counts after each pass."""
    found = []
    for end in range(1, len(passes) + 1):
        counts = dict.fromkeys(("seen", "known", "right", "ever_right", "to_right", "to_wrong"), 0)
        for place, label in enumerate(labels):
            visits = [row[place] == label for row in passes[:end] if row[place] is not None]
            now = passes[end - 1][place] is not None
            counts["seen"] += now
            counts["known"] += bool(visits)
            counts["right"] += bool(visits) and visits[-1]
            counts["ever_right"] += any(visits)
            if now and len(visits) > 1:
                counts["to_right"] += visits[-1] and not visits[-2]
                counts["to_wrong"] += visits[-2] and not visits[-1]
        found.append(counts)
    return found


def count_flips(labels: Sequence[int], passes: Sequence[Pass]) -> Counter[tuple[int, int]]:
    """(label, wrong prediction) of each visit that is wrong though the sample's visit before was right."""
    flips: Counter[tuple[int, int]] = Counter()
    for place, label in enumerate(labels):
        preds = [row[place] for row in passes if row[place] is not None]
        flips.update((label, now) for before, now in itertools.pairwise(preds) if before == label and now != label)
    return flips
