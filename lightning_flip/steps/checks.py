"""Looking for NaN and wrong labels without making the host wait for the device."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["ValueChecks"]


class ValueChecks:
    """Checks the values of steps: at once on the CPU, by a flag that is read now and then on a device."""

    def __init__(self) -> None:
        self._flags: dict[str, Tensor] = {}

    def look(self, logits: Tensor, target: Tensor, step_name: str, *, deferred: bool) -> Tensor | None:
        """Check one step.

        Args:
            logits: ``[B, K]``.
            target: labels ``[B]`` or distributions ``[B, K]`` on the same device.
            step_name: for the error.
            deferred: only note what is wrong, for :meth:`read`; what a device needs, which the host should not
                wait for.

        Returns:
            Bool ``[B]``, which rows are in order; None where nothing is deferred, and all of them are.

        Raises:
            ValueError: if a row is not in order and nothing is deferred.
        """
        classes = logits.shape[1]
        finite = torch.isfinite(logits).all(dim=1)
        labelled = (target >= 0) & (target < classes) if target.ndim == 1 else torch.isfinite(target).all(dim=1)
        problems = {
            f"logits are not finite (NaN or infinity) in {step_name}. Rows with such logits are not stored. "
            "Lower the learning rate, clip gradients, or look for bad inputs.": ~finite,
            f"labels are outside [0, {classes}) in {step_name}, where the logits have {classes} classes. Rows "
            "with such labels are not stored. Map the labels, or pass target_from= to name the right ones.": ~labelled,
        }
        for problem, bad in problems.items():
            flag = bad.any()
            if not deferred and bool(flag):
                raise ValueError(problem)
            if deferred:
                self._flags[problem] = self._flags[problem] | flag if problem in self._flags else flag
        return finite & labelled if deferred else None

    def read(self) -> None:
        """Read the flags; waits for the device.

        Raises:
            ValueError: if a step since the last call had a row that is not in order.
        """
        flags, self._flags = self._flags, {}
        for problem, flag in flags.items():
            if bool(flag):
                raise ValueError(problem)
