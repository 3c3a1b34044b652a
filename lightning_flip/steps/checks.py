"""Looking for NaN and wrong labels without making the host wait for the device, and for steps that hide them."""

from __future__ import annotations

import math
from collections.abc import Iterable

import lightning.pytorch as pl
import torch
from lightning.pytorch.utilities.signature_utils import is_param_in_hook_signature
from torch import Tensor

__all__ = ["ValueChecks", "refuse_iterator_steps"]


class ValueChecks:
    """Checks the values of steps: at once on the CPU, by a flag that is read now and then on a device."""

    def __init__(self) -> None:
        self._flags: dict[str, Tensor] = {}
        self._advice = ""

    def advise(self, advice: str) -> None:
        """Have the error for logits that are not finite say more.

        Args:
            advice: a sentence; what was said already is not said twice.
        """
        if advice and advice not in self._advice:
            self._advice = f"{self._advice} {advice}"

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
        if not deferred and _in_order(logits, target):
            return None
        finite = torch.isfinite(logits).all(dim=1)
        labelled = (target >= 0) & (target < classes) if target.ndim == 1 else torch.isfinite(target).all(dim=1)
        problems = {
            f"logits are not finite (NaN or infinity) in {step_name}. Rows with such logits are not stored. "
            f"Lower the learning rate, clip gradients, or look for bad inputs.{self._advice}": ~finite,
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


def _in_order(logits: Tensor, target: Tensor) -> bool:
    """Whether a glance finds nothing; in half precision a sum may overflow, and then it has to be looked at closely."""
    if target.ndim != 1 or not len(target):
        return False
    low, high = target.aminmax()
    return math.isfinite(logits.sum()) and int(low) >= 0 and int(high) < logits.shape[1]


def refuse_iterator_steps(module: pl.LightningModule, names: Iterable[str]) -> None:
    """Refuse a module whose steps take the loader's iterator.

    Args:
        module: the module.
        names: of its steps.

    Raises:
        TypeError: if one of them does.
    """
    for name in names:
        if is_param_in_hook_signature(getattr(module, name), "dataloader_iter", explicit=True):
            raise TypeError(
                f"{type(module).__name__}.{name}(dataloader_iter) takes batches from the loader by itself, so that "
                "nobody can tell which samples a step had. Take batch (and batch_idx) as arguments instead."
            )
