"""The predictions of a running pass: kept by each rank, brought together when the pass is over."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
import torch.distributed as dist
from torch import Tensor

from lightning_flip.tables import RowBuffer, gather_rows, is_distributed

__all__ = ["HALF_COLUMN", "LARGEST_HALF", "GatheredRows", "PredictionRows"]

HALF_COLUMN = "logits"
LARGEST_HALF = torch.finfo(torch.float16).max

Columns = dict[str, Any]
_Kinds = dict[str, tuple[torch.dtype, tuple[int, ...]]]


class GatheredRows(NamedTuple):
    """The rows of all ranks.

    Attributes:
        columns: one array, or list of words, per column; sorted by ``index``, which does not repeat.
        repeated: how many samples were visited more than once.
        note: of the rows.
    """

    columns: Columns
    repeated: int
    note: Any


class PredictionRows(RowBuffer):
    """Rows of one loader, with columns of words; those on the device move to the host every ``chunk_bytes``.

    Example:
        >>> rows = PredictionRows("cats")
        >>> rows.keep({"index": torch.tensor([4, 1]), "pred": torch.tensor([0, 2])}, {"camera": ["left", "right"]})
        >>> rows.keep({"index": torch.tensor([4]), "pred": torch.tensor([1])}, {"camera": ["left"]})
        >>> columns, repeated, note = rows.latest(torch.device("cpu"))
        >>> columns["index"].tolist(), columns["pred"].tolist(), columns["camera"], repeated, note
        ([1, 4], [2, 1], ['right', 'left'], 1, 'cats')
    """

    def __init__(self, note: Any = None, chunk_bytes: int = 1 << 26) -> None:
        super().__init__(chunk_bytes)
        self.note = note
        self._texts: dict[str, list[str]] = {}

    def keep(self, tensors: Mapping[str, Tensor], texts: Mapping[str, Sequence[str]] | None = None) -> None:
        """Append copies of rows, ``[B, ...]`` tensors and B words per column."""
        self.add(**{name: tensor.detach().clone() for name, tensor in tensors.items()})
        for name, words in (texts or {}).items():
            self._texts.setdefault(name, []).extend(words)

    def latest(self, device: torch.device) -> GatheredRows | None:
        """The rows of all ranks, sorted by index; a collective. None without rows, and on other ranks than the first.

        Of a sample that was visited several times the last visit stays, in the order in which one process would
        have gone through what the ranks shared out. Logits come as float16 if all of them fit.
        """
        own = dict(self.columns(marked=True))
        ranks = _exchange_facts(own, self._texts, self.note)
        agreed = _agree(ranks)
        if agreed is None:
            return None
        kinds, names, note, half = agreed
        if not own:
            own = {name: torch.zeros((0, *shape), dtype=dtype) for name, (dtype, shape) in kinds.items()}
        if half:
            own[HALF_COLUMN] = own[HALF_COLUMN].to(torch.float16)
        per_rank = self._gather(own, [facts["rows"] for facts in ranks], device)
        texts = _gather_texts({name: self._texts.get(name, []) for name in names})
        if per_rank is None or texts is None:
            return None
        return GatheredRows(*_merge(per_rank, texts), note)

    def _gather(
        self, own: dict[str, Tensor], counts: Sequence[int], device: torch.device
    ) -> list[dict[str, npt.NDArray[Any]]] | None:
        if not is_distributed():
            return [{name: tensor.numpy() for name, tensor in own.items()}]
        width = sum(tensor[:0].new_zeros((1, *tensor.shape[1:])).nbytes for tensor in own.values())
        block = max(1, (self.chunk_bytes or 1) // (width * len(counts)))
        first = dist.get_rank() == 0
        blocks: list[list[list[Tensor]]] = [[] for _ in counts]  # rank, block, column
        for start in range(0, max(counts), block):
            columns = [tensor[start : start + block].to(device) for tensor in own.values()]
            for parts, received in zip(blocks, gather_rows(*columns), strict=True):
                if first:
                    parts.append([part.cpu() for part in received])
        if not first:
            return None
        empty = [[tensor[:0] for tensor in own.values()]]
        return [
            {name: torch.cat(part).numpy() for name, part in zip(own, zip(*(parts or empty), strict=True), strict=True)}
            for parts in blocks
        ]


def _exchange_facts(own: dict[str, Tensor], texts: Mapping[str, Any], note: Any) -> list[dict[str, Any]]:
    kinds = {name: (tensor.dtype, tuple(tensor.shape[1:])) for name, tensor in own.items()}
    logits = own.get(HALF_COLUMN)
    largest = 0.0
    if logits is not None and logits.numel():  # minus infinity, of a masked class, fits
        largest = float(logits.masked_fill(logits == -torch.inf, 0.0).abs().max())
    rows = len(own["index"]) if own else 0
    facts = {"rows": rows, "kinds": kinds, "texts": sorted(texts), "note": note, "largest": largest}
    if not is_distributed():
        return [facts]
    ranks: list[dict[str, Any]] = [{} for _ in range(dist.get_world_size())]
    dist.all_gather_object(ranks, facts)
    return ranks


def _agree(ranks: Sequence[dict[str, Any]]) -> tuple[_Kinds, list[str], Any, bool] | None:
    """Which columns there are, and whether the logits fit into float16; the same answer on every rank."""
    given = [facts for facts in ranks if facts["kinds"]]
    if not given:
        return None
    first = given[0]
    for facts in given:
        if any(facts[part] != first[part] for part in ("kinds", "texts", "note")):
            raise ValueError(
                f"the ranks have different columns: {_shown(first)}; {_shown(facts)}. "
                "Give every batch of every rank the same slices=, and the network one number of classes."
            )
    half = HALF_COLUMN in first["kinds"] and max(facts["largest"] for facts in given) <= LARGEST_HALF
    return first["kinds"], first["texts"], first["note"], half


def _shown(facts: dict[str, Any]) -> str:
    kinds = (f"{name} {dtype} {list(shape)}" for name, (dtype, shape) in facts["kinds"].items())
    return ", ".join([*kinds, *facts["texts"]])


def _gather_texts(texts: dict[str, list[str]]) -> list[dict[str, list[str]]] | None:
    if not is_distributed():
        return [texts]
    received: list[Any] | None = [None] * dist.get_world_size() if dist.get_rank() == 0 else None
    dist.gather_object(texts, received)
    return received


def _merge(per_rank: list[dict[str, npt.NDArray[Any]]], texts: list[dict[str, list[str]]]) -> tuple[Columns, int]:
    ranks = np.concatenate([np.full(len(part["index"]), rank) for rank, part in enumerate(per_rank)])
    places = np.concatenate([np.arange(len(part["index"])) for part in per_rank])
    # Ranks take turns in what they share out, so that this is the order of one process.
    order = np.lexsort((ranks, places))
    index = np.concatenate([part["index"] for part in per_rank])[order]
    values, last, visits = np.unique(index[::-1], return_index=True, return_counts=True)
    counted = values >= 0
    values, last, visits = values[counted], last[counted], visits[counted]
    keep = order[len(order) - 1 - last]
    columns: Columns = {name: np.concatenate([part[name] for part in per_rank])[keep] for name in per_rank[0]}
    for name in texts[0]:
        words = [word for part in texts for word in part[name]]
        columns[name] = [words[row] for row in keep.tolist()]
    assert np.array_equal(columns["index"], values)
    return columns, int((visits > 1).sum())
