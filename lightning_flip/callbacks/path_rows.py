"""The recorded predictions of a running epoch, kept on the device until it is over."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy.typing as npt
import torch
import torch.distributed as dist
from torch import Tensor

from lightning_flip.tables import gather_rows, is_distributed

__all__ = ["PathRows"]

_WAITING = 1_000_000  # logits at most: they are of whole batches, and the memory that was said is of some rows


class _Visits(NamedTuple):
    rows: list[int]
    target: Tensor
    logits: Tensor


class PathRows:
    """Collects rows without reading anything back from the device.

    Attributes:
        count: how many there are.

    Example:
        >>> rows = PathRows()
        >>> rows.add([7, 2], torch.tensor([1, 0]), torch.full((2, 2), 0.5), global_step=3)
        >>> len(rows), rows.columns()["index"].tolist(), rows.columns()["global_step"].tolist()
        (2, [7, 2], [3, 3])
    """

    def __init__(self) -> None:
        self.count = 0
        self._index: list[int] = []
        self._steps: list[int] = []
        self._targets: list[Tensor] = []
        self._probs: list[Tensor] = []
        self._visits: list[_Visits] = []  # the newest batches, whose rows are picked out together
        self._waiting = 0

    def __len__(self) -> int:
        return self.count

    def add(self, index: list[int], target: Tensor, probs: Tensor, *, global_step: int) -> None:
        """Append predictions.

        Args:
            index: the samples, known on the host.
            target: int64 ``[n]``.
            probs: float32 ``[n, K]``.
            global_step: updates that had been taken when the predictions were made.
        """
        self._fold()
        self._note(index, global_step)
        self._targets.append(target)
        self._probs.append(probs)

    def add_visits(
        self, index: list[int], rows: list[int], target: Tensor, logits: Tensor, *, global_step: int
    ) -> None:
        """Append rows of a batch that are picked out later: in a step every operation counts, and a copy is one.

        Args:
            index: the samples, known on the host.
            rows: their n rows in the batch.
            target: int64 ``[B]``.
            logits: ``[B, K]`` of any type, outside of the graph.
            global_step: updates that had been taken when the predictions were made.

        Example:
            >>> rows = PathRows()
            >>> rows.add_visits([2], [1], torch.tensor([0, 1]), torch.zeros(2, 2), global_step=3)
            >>> rows.columns()["index"].tolist(), rows.columns()["target"].tolist(), rows.columns()["probs"].tolist()
            ([2], [1], [[0.5, 0.5]])
        """
        self._note(index, global_step)
        self._visits.append(_Visits(rows, target.clone(), logits.clone()))
        self._waiting += logits.numel()
        if self._waiting >= _WAITING:
            self._fold()

    def columns(self) -> dict[str, npt.NDArray[Any]]:
        """All rows, in the order in which they were added; waits for the device.

        Returns:
            The columns of :func:`lightning_flip.stores.write_path_part`.
        """
        integers, probs = self._tensors(0)
        index, global_step, target = integers.T.numpy()
        return {"index": index, "target": target, "global_step": global_step, "probs": probs.numpy()}

    def check(self) -> None:
        """Look at the values; waits for the device.

        Raises:
            ValueError: if a probability is not finite, or a label not among the classes.
        """
        integers, probs = self._tensors(0)
        wrong = ~probs.isfinite().all(dim=1) | (integers[:, 2] >= max(probs.shape[1], 1)) | (integers[:, 2] < -1)
        if wrong.any():
            index, step, label = integers[wrong][0].tolist()
            raise ValueError(
                f"what was recorded of sample {index} after {step} updates is no distribution over {probs.shape[1]} "
                f"classes with the label {label}: logits were not finite (NaN or infinity), or the label is wrong. "
                "Lower the learning rate, clip gradients, or look for bad inputs and labels."
            )

    def gathered(self, device: torch.device) -> PathRows:
        """The rows of all ranks, rank after rank; a collective.

        Args:
            device: the rank's device, on which its collectives work.

        Returns:
            New rows.
        """
        if not is_distributed():
            return self
        # A rank that recorded nothing has to learn the number of classes before tensors are exchanged.
        self._fold()
        width = torch.tensor(self._probs[0].shape[1] if self._probs else 0, device=device)
        dist.all_reduce(width, dist.ReduceOp.MAX)
        merged = PathRows()
        integers, probs = self._tensors(int(width))
        for rows, values in gather_rows(integers.to(device), probs.to(device)):
            merged._append(rows.cpu(), values.cpu())
        return merged

    def state_dict(self) -> dict[str, Tensor]:
        """The rows, on the CPU.

        Returns:
            Tensors.
        """
        integers, probs = self._tensors(0)
        return {"integers": integers.clone(), "probs": probs.clone()}

    @classmethod
    def from_state(cls, state: dict[str, Tensor]) -> PathRows:
        """Saved rows.

        Args:
            state: what :meth:`state_dict` gave.

        Returns:
            The rows.
        """
        rows = cls()
        rows._append(state["integers"], state["probs"])
        return rows

    def _note(self, index: list[int], global_step: int) -> None:
        self.count += len(index)
        self._index += index
        self._steps += [global_step] * len(index)

    def _fold(self) -> None:
        if not self._visits:
            return
        visits, self._visits, self._waiting = self._visits, [], 0
        places: list[int] = []
        start = 0
        for visit in visits:
            places += [start + row for row in visit.rows]
            start += len(visit.target)
        logits = torch.cat([visit.logits for visit in visits])
        chosen = torch.tensor(places).to(logits.device, non_blocking=True)
        logits = logits.index_select(0, chosen)
        self._targets.append(torch.cat([visit.target for visit in visits]).index_select(0, chosen))
        self._probs.append(logits.to(torch.promote_types(logits.dtype, torch.float32)).softmax(dim=1).float())

    def _append(self, integers: Tensor, probs: Tensor) -> None:
        if len(integers):
            self.count += len(integers)
            self._index += integers[:, 0].tolist()
            self._steps += integers[:, 1].tolist()
            self._targets.append(integers[:, 2])
            self._probs.append(probs)

    def _tensors(self, width: int) -> tuple[Tensor, Tensor]:
        """Integers ``[n, 3]`` (index, step, target) and probabilities ``[n, K]``, on the CPU."""
        if not self.count:
            return torch.zeros(0, 3, dtype=torch.int64), torch.zeros(0, width)
        self._fold()
        target = torch.cat([part.cpu() for part in self._targets])
        integers = torch.stack([torch.tensor(self._index), torch.tensor(self._steps), target], dim=1)
        return integers, torch.cat([part.cpu() for part in self._probs])
