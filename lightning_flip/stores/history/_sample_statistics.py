"""One row a sample: what happened to it, and which ones to look at first."""

from __future__ import annotations

from typing import Literal, get_args

import pyarrow as pa
import pyarrow.compute as pc

from lightning_flip.stores.history.dynamics import SampleDynamics

__all__ = ["SUSPICIONS", "Suspicion", "rank_suspects", "tabulate"]

Suspicion = Literal["mislabelled", "forgotten", "flipped"]
SUSPICIONS: tuple[Suspicion, ...] = get_args(Suspicion)


def tabulate(samples: pa.Table, dynamics: SampleDynamics) -> pa.Table:
    """Put what is known of the samples beside what happened to them.

    Returns these columns, then `visits, times_right, forgetting_events, first_learned, aum, confidence, variability,
    last_right`. `first_learned` is null where no visit was right; `aum`, `confidence`, `variability` where there was
    none.

    Example:
        >>> from lightning_flip.stores.history.dynamics import follow_samples
        >>> samples = pa.table({
        ...     "index": [5], "source_index": [5], "sample_id": ["a"], "target": [1], "true_target": [1]})
        >>> tabulate(samples, follow_samples([], 1)).select(["index", "visits", "aum", "last_right"]).to_pylist()
        [{'index': 5, 'visits': 0, 'aum': None, 'last_right': False}]
    """
    table = samples.select(["index", "source_index", "sample_id", "target", "true_target"])
    table = table.replace_schema_metadata(None)  # the mark of samples.parquet is not this table's
    never_seen = dynamics.visits == 0
    for name in ("visits", "times_right", "forgetting_events"):
        table = table.append_column(name, pa.array(getattr(dynamics, name)))
    table = table.append_column("first_learned", pa.array(dynamics.first_learned, mask=dynamics.first_learned < 0))
    for name in ("aum", "confidence", "variability"):
        table = table.append_column(name, pa.array(getattr(dynamics, name), mask=never_seen))
    return table.append_column("last_right", pa.array(dynamics.last_right))


def rank_suspects(statistics: pa.Table, by: Suspicion) -> pa.Table:
    """Sort samples by how suspicious they are, and leave out those that are not.

    Returns the suspicious rows, the worst first; equal ones by index.

    Example:
        >>> table = pa.table({
        ...     "index": [0, 1, 2], "visits": [2, 2, 2], "times_right": [1, 0, 1], "forgetting_events": [1, 0, 0],
        ...     "aum": [0.5, -3.0, 1.0], "last_right": [False, False, True]})
        >>> rank_suspects(table, "mislabelled")["index"].to_pylist()
        [1, 0, 2]
        >>> rank_suspects(table, "forgotten")["index"].to_pylist()
        [1, 0]
        >>> rank_suspects(table, "flipped")["index"].to_pylist()
        [0]
    """

    def ranked(chosen: pa.ChunkedArray, *keys: tuple[str, str]) -> pa.Table:
        return statistics.filter(pc.and_(seen, chosen)).sort_by([*keys, ("index", "ascending")])

    seen, lowest_margin = pc.greater(statistics["visits"], 0), ("aum", "ascending")
    if by == "mislabelled":
        return ranked(seen, lowest_margin)
    if by == "forgotten":
        never = ranked(pc.equal(statistics["times_right"], 0), lowest_margin)
        events = ("forgetting_events", "descending")
        return pa.concat_tables([never, ranked(pc.greater(statistics[events[0]], 0), events, lowest_margin)])
    flipped = pc.and_(pc.greater(statistics["times_right"], 0), pc.invert(statistics["last_right"]))
    return ranked(flipped, ("times_right", "descending"))
