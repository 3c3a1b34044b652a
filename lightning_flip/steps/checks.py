"""Checks for NaN and wrong labels that do not make the host wait for the device, and for unsupported steps."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import lightning.pytorch as pl
import torch
from lightning.pytorch.utilities.signature_utils import is_param_in_hook_signature
from torch import Tensor

__all__ = ["ValueChecks", "first_false", "refuse_iterator_steps"]


class ValueChecks:
    """Checks the values of steps: at once on the CPU, by flags that are read every few steps on a device."""

    def __init__(self) -> None:
        self._flags: list[tuple[Tensor, Callable[[int], Exception]]] = []
        self._advice = ""

    def advise(self, advice: str) -> None:
        """Append advice to the error raised for non-finite logits."""
        if advice and advice not in self._advice:
            self._advice = f"{self._advice} {advice}"

    def look(
        self,
        logits: Tensor,
        target: Tensor,
        step_name: str,
        where: Callable[[int], str],
        *,
        deferred: bool,
        ignored: int | None = None,
        has_target: bool = True,
    ) -> tuple[Tensor | None, int | None, str]:
        """Check rows.

        A logit of minus infinity masks its class, which is not a fault unless that is the row's label.

        Returns bool ``[B]``, which rows are valid, or None if all are; the first bad row or None; and what is wrong
        with it. If deferred, which rows are valid, None and "".

        Args:
            logits: ``[B, K]``.
            target: labels ``[B]`` or distributions ``[B, K]`` on the same device.
            step_name: for the error.
            where: names a row, for the error.
            deferred: leave the error to :meth:`read`, because the host should not wait for a device here.
            ignored: the label that the loss leaves out: such rows are not valid, and no fault.
            has_target: False for data to predict, whose target says nothing.
        """
        classes = logits.shape[1]
        among = ignored is not None and 0 <= ignored < classes and target.ndim == 1
        if not deferred and not among and _in_order(logits, target):
            return None, None, ""
        finite = torch.isfinite(logits.amax(dim=1))  # NaN and infinity are the largest
        labelled = possible = left_out = torch.ones_like(finite)
        if has_target and target.ndim == 1:
            labelled = (target >= 0) & (target < classes)
            possible = logits.gather(1, target.clamp(0, classes - 1)[:, None])[:, 0] > -math.inf
        elif has_target:
            labelled = torch.isfinite(target).all(dim=1)
            possible = ~((target > 0) & (logits == -math.inf)).any(dim=1)
        good, valid = finite & labelled & possible, None
        if ignored is not None and target.ndim == 1:
            left_out = target == ignored
            valid = good & ~left_out
            good = good | (finite & left_out)

        def problem(row: int) -> str:
            name = where(row)
            if not finite[row]:
                return (
                    f"logits are not finite (NaN or infinity) in {step_name}, first for {name}. Rows with such "
                    "logits are not stored. Lower the learning rate, clip gradients, or look for bad inputs."
                    f"{self._advice}"
                )
            if not labelled[row] and target.ndim == 1:
                return (
                    f"labels are outside [0, {classes}) in {step_name}, where the logits have {classes} classes, first "
                    f"for {name}. Its label is {int(target[row])}. Rows with such labels are not stored. Map the "
                    "labels, pass target_from= to name the right ones, or leave such samples out with ignore_index=."
                )
            if not labelled[row]:
                return (
                    f"targets are not finite in {step_name}, first for {name}. Rows with such targets are not stored. "
                    f"Look for labels outside [0, {classes}) that were mixed or turned into distributions: a sample "
                    "that a loss leaves out (ignore_index) cannot be mixed with others."
                )
            return (
                f"the label's class is masked (its logit is minus infinity) in {step_name}, first for {name}. Rows "
                "with such labels are not stored. Mask only classes that are not the label, or give such samples the "
                "label that the loss ignores (ignore_index)."
            )

        if deferred:
            self.defer(good, lambda row: ValueError(problem(row)))
            return good if valid is None else valid, None, ""
        row = first_false(good)
        if valid is not None and row is None and bool(valid.all()):
            valid = None
        return valid, row, "" if row is None else problem(row)

    def defer(self, good: Tensor, error: Callable[[int], Exception]) -> None:
        """Leave an error to :meth:`read`.

        Args:
            good: bool ``[B]``, False for rows that are bad.
            error: gives the error for the first such row.
        """
        self._flags.append((good, error))

    def read(self) -> None:
        """Read the flags; waits for the device."""
        flags, self._flags = self._flags, []
        for good, error in flags:
            row = first_false(good)
            if row is not None:
                raise error(row)


def first_false(good: Tensor) -> int | None:
    """The first place where a bool ``[B]`` is False; None if there is none. Waits for a device."""
    bad = (~good).nonzero()
    return int(bad[0]) if len(bad) else None


def _in_order(logits: Tensor, target: Tensor) -> bool:
    """Fast check that all values are valid; a half-precision sum may overflow, and then the slow check decides."""
    if target.ndim != 1 or not len(target):
        return False
    labels = target.numpy()  # no operation of torch
    wide = torch.float32 if logits.dtype.itemsize < 4 else None
    return labels.min() >= 0 and labels.max() < logits.shape[1] and math.isfinite(logits.sum(dtype=wide))


def refuse_iterator_steps(module: pl.LightningModule, names: Iterable[str]) -> None:
    """Refuse a module whose steps take the loader's iterator."""
    for name in names:
        if is_param_in_hook_signature(getattr(module, name), "dataloader_iter", explicit=True):
            raise TypeError(
                f"{type(module).__name__}.{name}(dataloader_iter) takes batches from the loader by itself, so that "
                "it is unknown which samples a step had. Take batch (and batch_idx) as arguments instead."
            )
