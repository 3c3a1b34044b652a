"""The recorded predictions of a running epoch, kept on the device until it is over."""

from __future__ import annotations

from typing import Any

import numpy.typing as npt
import torch
import torch.distributed as dist
from torch import Tensor

from lightning_flip.steps import SampleStep
from lightning_flip.tables import gather_rows, is_distributed

__all__ = ["PathRows"]

_DROPPED = torch.iinfo(torch.int64).min  # the target of a row that is not valid


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
        self._note(index, [global_step] * len(index))
        self._targets.append(target)
        self._probs.append(probs)

    def add_visits(self, step: SampleStep, rows: list[int]) -> None:
        """Append some rows of a block.

        Example:
            >>> block = SampleStep(torch.tensor([5, 2]), torch.zeros(2, 2), torch.tensor([0, 1]), samples=[5, 2],
            ...                    global_step=torch.tensor([3, 4]))
            >>> rows = PathRows()
            >>> rows.add_visits(block, [1])
            >>> rows.columns()["index"].tolist(), rows.columns()["target"].tolist(), rows.columns()["probs"].tolist()
            ([2], [1], [[0.5, 0.5]])
        """
        samples, times = step.samples, step.global_step
        assert samples is not None
        assert times is not None
        chosen = torch.tensor(rows)
        self._note([samples[row] for row in rows], times[chosen].tolist())
        chosen = chosen.to(step.logits.device, non_blocking=True)
        target = step.target if step.valid is None else torch.where(step.valid, step.target, _DROPPED)
        self._targets.append(target.index_select(0, chosen))
        self._probs.append(step.logits.index_select(0, chosen).softmax(dim=1).float())

    def columns(self) -> dict[str, npt.NDArray[Any]]:
        """All rows, in the order in which they were added; waits for the device.

        Returns the columns of :func:`lightning_flip.stores.write_path_part`.
        """
        integers, probs = self._tensors(0)
        index, global_step, target = integers.T.numpy()
        return {"index": index, "target": target, "global_step": global_step, "probs": probs.numpy()}

    def unlabel(self, ignored: int | None) -> None:
        """Give rows the target -1, none, whose label the loss leaves out, or is negative."""
        for place, target in enumerate(self._targets):
            none = (target < 0) & (target != _DROPPED)
            self._targets[place] = torch.where(none if ignored is None else none | (target == ignored), -1, target)

    def check(self) -> None:
        """Look at the values; waits for the device."""
        integers, probs = self._tensors(0)
        wrong = ~probs.isfinite().all(dim=1) | (integers[:, 2] >= max(probs.shape[1], 1)) | (integers[:, 2] < -1)
        if wrong.any():
            index, step, label = integers[wrong][0].tolist()
            raise ValueError(
                f"what was recorded of sample {index} after {step} updates is not a distribution over {probs.shape[1]} "
                f"classes with the label {label}: logits were not finite (NaN or infinity), or the label is wrong. "
                "Lower the learning rate, clip gradients, or look for bad inputs and labels."
            )

    def gathered(self, device: torch.device) -> PathRows:
        """The rows of all ranks, rank after rank; a collective."""
        if not is_distributed():
            return self
        # A rank that recorded nothing has to learn the number of classes before tensors are exchanged.
        width = torch.tensor(self._probs[0].shape[1] if self._probs else 0, device=device)
        dist.all_reduce(width, dist.ReduceOp.MAX)
        merged = PathRows()
        integers, probs = self._tensors(int(width))
        for rows, values in gather_rows(integers.to(device), probs.to(device)):
            merged._append(rows.cpu(), values.cpu())
        return merged

    def state_dict(self) -> dict[str, Tensor]:
        """The rows, on the CPU."""
        integers, probs = self._tensors(0)
        return {"integers": integers.clone(), "probs": probs.clone()}

    @classmethod
    def from_state(cls, state: dict[str, Tensor]) -> PathRows:
        """Saved rows. Returns the rows."""
        rows = cls()
        rows._append(state["integers"], state["probs"])
        return rows

    def _note(self, index: list[int], global_steps: list[int]) -> None:
        self.count += len(index)
        self._index += index
        self._steps += global_steps

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
        target = torch.cat([part.cpu() for part in self._targets])
        integers = torch.stack([torch.tensor(self._index), torch.tensor(self._steps), target], dim=1)
        kept = target != _DROPPED
        return integers[kept], torch.cat([part.cpu() for part in self._probs])[kept]
