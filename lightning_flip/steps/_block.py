"""The rows of many steps: copied while the steps run, read together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from lightning_flip.steps.identity import LoaderData
from lightning_flip.steps.sample_step import SampleStep, rounds_of

__all__ = ["STEPS", "Block", "Moment"]

STEPS, BYTES = 64, 32 << 20  # a block holds so many steps, or so many bytes of logits if that is less


class Moment(NamedTuple):
    """When a step of a block ran, and how many of its rows count."""

    rows: int
    batch: int
    global_step: int
    processed: int  # batches that training was through with
    followed: bool = True  # whether its loss had the targets that are followed
    compared: bool = False  # whether its loss is kept, and has to be that of its rows
    looked: bool = True  # whether its targets were checked, or need not be
    moved: bool = False  # whether its loss was given another tensor than the one that was caught


class Block:
    """Logits and targets of consecutive steps of one epoch; a step only copies into views that were cut in advance."""

    def __init__(self, logits: Tensor, target: Tensor, data: LoaderData, epoch: int) -> None:
        rows = len(logits)
        self.capacity = max(1, min(STEPS, BYTES // max(1, logits.nbytes)))
        with torch.inference_mode(False):  # validation fills it in inference mode, training may read it
            self._logits = logits.new_empty(self.capacity * rows, logits.shape[1], requires_grad=False)
            self._target = target.new_empty(self.capacity * rows, *target.shape[1:], requires_grad=False)
            self._losses = logits.new_empty(self.capacity, dtype=torch.float32, requires_grad=False)
        self._step_rows = rows
        self._loss_views = self._losses.unbind()
        self._logit_views = torch.split(self._logits, rows)
        self._target_views = torch.split(self._target, rows)
        self._data = data
        self._used = 0
        self.epoch = epoch
        self.samples: list[int] = []
        self.moments: list[Moment] = []
        self.full = False  # whether there is no room for another step

    @property
    def nbytes(self) -> int:
        """Bytes of the buffers."""
        return self._logits.nbytes + self._target.nbytes

    def view(self, logits: Tensor) -> Tensor | None:
        """Where the logits of the next step go; None if they do not fit this block."""
        rows, buffer, used = logits.shape[0], self._logits, self._used
        if logits.shape[1] != buffer.shape[1] or logits.dtype != buffer.dtype or logits.device != buffer.device:
            return None
        if rows > self._step_rows or used + rows > buffer.shape[0]:
            return None
        if rows == self._step_rows and not used % rows:
            return self._logit_views[used // rows]
        return buffer[used : used + rows]

    def fits(self, target: Tensor, data: LoaderData, epoch: int) -> bool:
        """Whether the targets of the next step are of the kind that this block holds, of the same data and epoch."""
        mine = self._target
        if target.dtype != mine.dtype or target.device != mine.device or target.shape[1:] != mine.shape[1:]:
            return False
        return epoch == self.epoch and data is self._data

    def add(self, target: Tensor, samples: Sequence[int], moment: Moment, loss: Tensor | None = None) -> None:
        """Count in a step whose logits were copied into :meth:`view`; the rows of the samples come first."""
        rows, used = target.shape[0], self._used
        if rows == self._step_rows and not used % rows:
            self._target_views[used // rows].copy_(target)
        else:
            self._target[used : used + rows].copy_(target)
        if loss is not None:
            self._loss_views[len(self.moments)].copy_(loss)
        self.samples += samples
        self.moments.append(moment)
        self._used = used + moment.rows
        self.full = len(self.moments) >= self.capacity

    def drain(self, *, keep_last: bool) -> tuple[SampleStep, list[Moment], Tensor] | None:
        """Take rows and losses out, of all steps or all but the last one; valid until the next step is added."""
        kept = self.moments[-1:] if keep_last else []
        moments = self.moments[: len(self.moments) - len(kept)]
        rows = self._used - sum(moment.rows for moment in kept)
        if not rows and not kept:
            self._forget([], 0)
        if not rows:
            return None
        positions = np.array(self.samples[:rows], dtype=np.int64)
        index = torch.from_numpy(positions)
        times = np.repeat([moment.global_step for moment in moments], [moment.rows for moment in moments])
        logits, target, losses = self._logits[:rows], self._target[:rows], self._losses[: len(moments)]
        if kept:  # only when a batch is interrupted
            losses = losses.clone()
            self._losses[0] = self._losses[len(moments)].clone()
            logits, target = logits.clone(), target.clone()
            self._logits[: kept[0].rows] = self._logits[rows : self._used].clone()
            self._target[: kept[0].rows] = self._target[rows : self._used].clone()
        samples = self.samples[:rows]
        step = SampleStep(
            index=index.to(logits.device, non_blocking=True),
            logits=logits.to(torch.promote_types(logits.dtype, torch.float32)),
            target=target,
            rounds=rounds_of(samples),
            num_samples=self._data.num_samples,
            largest_index=int(positions.max()),
            dataset=self._data.dataset,
            data=self._data,
            epoch=self.epoch,
            global_step=torch.from_numpy(times),
            samples=samples,
        )
        self._forget(kept, rows)
        return step, moments, losses

    def _forget(self, kept: list[Moment], rows: int) -> None:
        self.moments, self.full = kept, len(kept) >= self.capacity
        self.samples = self.samples[rows:] if kept else []
        self._used = sum(moment.rows for moment in kept)
