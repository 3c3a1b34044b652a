"""What the metrics of this package have in common: their state is counts."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from lightning_flip.functional.flips import UNKNOWN, labels_of_scores, refuse_unknown

__all__ = ["CountingMetric"]


class CountingMetric(Metric):
    """A metric whose state holds integers, and whose value is a share of them.

    ``forward`` needs one ``update``, as the states of two batches merge by their reductions.

    A row of scores with NaN in it has no predicted class: on the CPU ``update`` refuses it, and on a device, where that
    would wait, ``compute`` does.
    """

    is_differentiable = False
    higher_is_better = False
    full_state_update = False
    plot_lower_bound = 0.0
    plot_upper_bound: float | None = 1.0

    without_class: Tensor

    def __init__(self, *, ignore_index: int | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if isinstance(ignore_index, bool) or not isinstance(ignore_index, (int, type(None))):
            raise TypeError(
                f"ignore_index must be a whole number, the label to leave out, or None; got {ignore_index!r}."
            )
        self.ignore_index = ignore_index
        self.add_state("without_class", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")
        if ignore_index is not None:  # a collection takes metrics with equal states for one
            self.add_state("ignored_label", torch.tensor(ignore_index), dist_reduce_fx="max")
        self._in_forward = False

    def set_dtype(self, dst_type: Any) -> CountingMetric:
        """Leave the counts as they are: in half precision they would be wrong from 2,049 on. Returns this metric."""
        return self

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Count a batch and return its value; scores on a device are checked in ``compute`` alone."""
        self._in_forward = True
        try:
            return super().forward(*args, **kwargs)
        finally:
            self._in_forward = False

    def _counted(self, target: Tensor) -> Tensor | None:
        """Which samples count, bool ``[N]``; None for all."""
        return None if self.ignore_index is None else target != self.ignore_index

    def _labels(
        self, preds: Tensor, argument: str, counted: Tensor | None = None, index: Tensor | None = None
    ) -> Tensor:
        """The predicted classes; rows of scores that have none and count are refused, at once or in ``compute``."""
        labels = labels_of_scores(preds, argument)
        if preds.ndim != 2:
            return labels
        unknown = labels == UNKNOWN
        if counted is not None and counted.shape == unknown.shape:
            unknown &= counted
        if _on_host(unknown):
            refuse_unknown(unknown, argument, f" of update {self._update_count}", index)
        else:
            self.without_class = self.without_class + unknown.sum()
        return labels

    def _refuse_unknown(self) -> None:
        """Refuse to compute if rows had no predicted class."""
        if self._in_forward or _on_host(self.without_class):
            return
        count = int(self.without_class)
        if count:
            raise ValueError(
                f"{type(self).__name__}: {count} rows of scores since the last reset have NaN in them or minus "
                "infinity for all classes, and so no predicted class. Look at the training (learning rate, bad "
                "inputs), or leave such rows out."
            )


def _on_host(values: Tensor) -> bool:
    """Whether values can be looked at without waiting for a device."""
    return values.device.type == "cpu"
