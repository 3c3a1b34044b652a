"""The first label that a step had for every sample, and rows with another label later."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from lightning_flip.data.labels import kept_labels
from lightning_flip.tables import is_distributed

__all__ = ["Changed", "KnownLabels"]


class Changed(NamedTuple):
    """Labels of rows that are not those of before."""

    same: Tensor  # bool [V]
    before: Tensor  # int [V], what they had to be
    listed: bool  # whether they differ from the dataset's list, and not from an earlier step


class _Table:
    """One label for every number below N, the first one that came."""

    def __init__(self, size: int, device: torch.device) -> None:
        with torch.inference_mode(False):
            self.first = torch.full((size,), -1, dtype=torch.int32, device=device)

    def knows(self, index: Tensor, target: Tensor) -> bool:
        """Whether all rows have the label that is known for their number."""
        return bool((self.first.index_select(0, index) == target).all())

    def look(self, index: Tensor, target: Tensor, valid: Tensor | None) -> Tensor:
        """The first label of each row's number, from an earlier row or from one of these."""
        known = self.first.index_select(0, index)
        fresh = known < 0 if valid is None else (known < 0) & valid
        # The largest: rows that are not valid write what is there, which must not undo a valid row's label.
        self.first.scatter_reduce_(0, index, torch.where(fresh, target, known), "amax")
        return self.first.index_select(0, index)

    def adopt(self, earlier: Tensor) -> None:
        """Use labels for numbers that have none yet; -1 for none."""
        self.first.copy_(torch.where(self.first < 0, earlier.to(self.first.device), self.first))


class KnownLabels:
    """Compares every label with the first one of its sample, and with the dataset's list up to one renaming.

    A transfer hook may map labels. So the comparison with the list only requires that samples with equal labels in the
    list have equal labels in steps. If batches carry ids and their number is unknown, the labels are kept on the host.
    """

    def __init__(self, dataset: Any, num_samples: int | None, device: torch.device) -> None:
        self.list_counts = False  # whether steps have the labels that the dataset lists, up to their names
        self._by_id: dict[int, int] = {}
        self._table = None if num_samples is None else _Table(num_samples, device)
        self._classes: Tensor | None = None  # the number of each sample's listed label
        self._values = torch.zeros(0, dtype=torch.int64)  # the listed labels by number
        listed = None if dataset is None or num_samples is None else kept_labels(dataset)
        if listed is not None and len(listed) == num_samples and len(listed):
            values, classes = np.unique(listed, return_inverse=True)
            with torch.inference_mode(False):
                self._classes = torch.from_numpy(classes.reshape(-1).astype(np.int32)).to(device)
            self._values = torch.from_numpy(values)
            self._renamed = _Table(len(values), device)

    def compare(self, index: Tensor, target: Tensor, valid: Tensor | None, *, listed: bool) -> list[Changed]:
        """Compare labels with those of before; no host synchronization, but for ids without a number of samples.

        Returns what the earlier steps say, and the dataset's list; nothing where all is as it was.
        """
        target = target.to(torch.int32)
        if self._table is None:
            counted = [True] * len(index) if valid is None else valid.tolist()
            rows = zip(index.tolist(), target.tolist(), counted, strict=True)
            first = torch.tensor([self._by_id.setdefault(n, label) if counts else label for n, label, counts in rows])
            return [Changed(first.to(target.device) == target, first, False)]
        if target.device.type == "cpu" and self._table.knows(index, target):
            return []  # the usual case, in which there is nothing to write
        first = self._table.look(index, target, valid)
        found = [Changed(first == target, first, False)]
        self.list_counts = self._classes is not None and listed
        if self._classes is not None and listed:
            renamed = self._renamed.look(self._classes.index_select(0, index).long(), target, valid)
            found.append(Changed(renamed == target, renamed, True))
        if valid is None:
            return found
        return [each._replace(same=each.same | ~valid) for each in found]

    def go_by_number(self) -> None:
        """Keep labels by number alone, for a sampler that draws samples beyond the dataset's length."""
        if self._table is not None:
            known = self._table.first.tolist()
            self._by_id = {number: label for number, label in enumerate(known) if label >= 0}
        self._table = self._classes = None

    def list_change(self, dataset: Any) -> str:
        """How the dataset's list of labels differs from the earlier one, in words; "" if it does not."""
        now = None if dataset is None or self._classes is None else kept_labels(dataset)
        if now is None or self._classes is None:
            return ""
        before = self._values[self._classes.cpu().long()].numpy()
        count = min(len(before), len(now))
        changed = np.flatnonzero(before[:count] != now[:count])
        if not len(changed):
            return ""
        first = int(changed[0])
        return (
            f"{len(changed)} of {count} listed labels differ, sample {first} for one: it had the label "
            f"{before[first]}, now {now[first]}"
        )

    @property
    def merges(self) -> bool:
        """Whether there is a table, and not labels by number alone."""
        return self._table is not None

    def merge(self) -> int:
        """Bring the ranks' labels together, a collective; how many samples have several labels."""
        table = self._table
        if table is None or not is_distributed():
            return 0
        first, least = table.first, torch.where(table.first < 0, torch.iinfo(torch.int32).max, table.first)
        torch.distributed.all_reduce(first, torch.distributed.ReduceOp.MAX)
        torch.distributed.all_reduce(least, torch.distributed.ReduceOp.MIN)
        return int(((first >= 0) & (least != first)).sum())

    def state(self) -> dict[str, Any] | None:
        """What a checkpoint needs: the labels; if the fingerprint has them, only their names in steps."""
        if self._table is None:
            return None
        state: dict[str, Any] = {"first": None if self.list_counts else self._table.first.cpu().clone()}
        if self._classes is not None:
            state |= {"listed": self._values, "names": self._renamed.first.cpu().clone()}
        return state

    def adopt(self, saved: dict[str, Any] | None, earlier: KnownLabels | None = None) -> None:
        """Use the labels of a state, or of earlier data, for samples that no step has seen yet."""
        if saved is None or self._table is None:
            return
        if earlier is not None and earlier._table is not None:
            saved = {**saved, "first": earlier._table.first.cpu()}
        if saved.get("first") is not None:
            old = torch.full_like(self._table.first, -1, device="cpu")
            count = min(len(old), len(saved["first"]))
            old[:count] = saved["first"][:count]
            self._table.adopt(old)
        if self._classes is not None and saved.get("names") is not None:
            known = dict(zip(saved["listed"].tolist(), saved["names"].tolist(), strict=True))
            names = [known.get(value, -1) for value in self._values.tolist()]
            self._renamed.adopt(torch.tensor(names, dtype=torch.int32))
