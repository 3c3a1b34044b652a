"""The steps of a block that are left out, because their losses had other targets than those that are followed."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from torch import Tensor

from lightning_flip.steps._block import Moment
from lightning_flip.steps.logits.choice import Choice
from lightning_flip.steps.sample_step import SampleStep

__all__ = ["LeftOut", "steps_left_out"]


class LeftOut(NamedTuple):
    """Positions of steps in a block, and whether their targets were seen or only their losses."""

    positions: list[int]
    sure: bool

    def problem(self, steps: int, epoch: int) -> str:
        """The problem in words."""
        what = "were not what they were in the first step: of other logits, of a mixture, or with a term added"
        if self.sure:
            what = "were given other targets than the batch's labels, as MixUp and CutMix give them inside of a step"
        return f"the losses of {len(self.positions)} of {steps} steps (epoch {epoch}) {what}"

    def rows_of_others(self, moments: list[Moment]) -> npt.NDArray[np.intp]:
        """Places of the rows that are followed."""
        keep = [position not in self.positions for position in range(len(moments))]
        return np.flatnonzero(np.repeat(keep, [moment.rows for moment in moments]))


def steps_left_out(
    choice: Choice | None, step: SampleStep, moments: list[Moment], losses: Tensor, tolerance: float
) -> tuple[LeftOut, bool]:
    """Compare the losses of a block with its rows. Returns the steps, and whether a loss was another one than before.

    Args:
        choice: how the logits were found, which says what a loss has to be.
        step: the rows.
        moments: of the steps.
        losses: of the steps; those that were kept count.
        tolerance: of the comparison.
    """
    others = {position for position, moment in enumerate(moments) if not moment.followed}
    if others:  # steps that were not checked may be among them
        others |= {n for n, moment in enumerate(moments) if not (moment.looked or moment.compared)}
    sure = any(not moment.followed and not moment.moved for moment in moments)
    if not any(moment.compared for moment in moments):
        return LeftOut(sorted(others), sure), False
    expected = _losses_of(choice, step, moments)
    kept = losses.double().cpu().numpy()
    # Values that are not finite have their own error.
    apart = ~np.isclose(kept, expected, rtol=tolerance, atol=tolerance) & np.isfinite(kept) & np.isfinite(expected)
    found = {position for position, moment in enumerate(moments) if moment.compared and apart[position]}
    # A step whose targets were checked may have another loss.
    others |= {position for position in found if not moments[position].looked}
    return LeftOut(sorted(others), sure), bool(found)


def _losses_of(choice: Choice | None, step: SampleStep, moments: list[Moment]) -> npt.NDArray[np.float64]:
    """The loss of each step, as it was called in the first one; NaN where it cannot be computed."""
    counts = np.array([moment.rows for moment in moments], dtype=np.int64)
    ends = np.cumsum(counts)
    starts = ends - counts
    if choice is None or (choice.plain and step.has_labels):
        rows = step.cross_entropy.double().cpu().numpy()
        if step.valid is not None and choice is not None and choice.ignored is not None:  # the mean is over the others
            counted = (step.target != choice.ignored).cpu().numpy()
            rows, counts = np.where(counted, rows, 0.0), np.add.reduceat(counted.astype(np.int64), starts)
        with np.errstate(invalid="ignore"):  # of nothing it is NaN, as torch's
            return np.asarray(np.add.reduceat(rows, starts) / counts, dtype=np.float64)
    pairs = zip(starts.tolist(), ends.tolist(), strict=True)
    each = [choice.loss(step.logits[start:end], step.target[start:end]) for start, end in pairs]
    return np.array([np.nan if loss is None else float(loss) for loss in each], dtype=np.float64)
