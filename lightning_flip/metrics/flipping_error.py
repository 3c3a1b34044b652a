"""The flipping error of each epoch: a metric with a memory that a reset leaves alone."""

from __future__ import annotations

import copy
import sys
from typing import Any

import torch
from torch import Tensor
from torchmetrics import MetricCollection
from torchmetrics.wrappers import BootStrapper, MetricTracker

from lightning_flip.functional.flips import correct_predictions, share
from lightning_flip.functional.forgetting import wrongly_flipped
from lightning_flip.metrics._counting import CountingMetric

__all__ = ["FlippingError", "FlippingMetric", "RelativeFlippingError"]

# Ordered, so that the maximum merges visits and ranks: a sample that any of them got right is right.
_UNSEEN, _WRONG, _RIGHT = range(3)


class FlippingMetric(CountingMetric):
    """Remembers, for each sample, whether any visit so far was right; subclasses report a share of the wrong ones.

    An epoch is the time between two resets. ``reset`` forgets the epoch and keeps the memory, as Lightning resets
    logged metrics every epoch; :meth:`forget` drops both. Use one metric for each split.

    Merging is a maximum everywhere, so a sample visited twice in an epoch (a sampler that pads, or draws with
    replacement) counts once, as right if any of these visits was right. For the same reason ranks need not see the
    same samples in every epoch: each one keeps what it saw, ``compute`` merges all of it, and each rank keeps the
    merged memory. A reset without ``compute`` loses nothing. Only a checkpoint does: its memory is that of the rank
    that writes it, so under several ranks call ``compute`` (or log the metric, which does it) before saving.

    The value that ``forward`` returns is of the batch alone: its samples that are wrong now and were right at any
    earlier visit.

    The memory is part of ``state_dict``, so that a resumed run continues with it; ``metric.persistent(False)`` keeps it
    out. Two bytes per sample are kept, and copied in each ``update``.

    Lightning's sanity check runs an untrained model through ``validation_step``, and whatever that gets right would be
    remembered. Skip it there: ``if not self.trainer.sanity_checking: self.metric.update(...); self.log(...)``.

    In wrappers of torchmetrics: a ``MetricCollection`` keeps one memory for both metrics, and a clone of it has one of
    its own from then on. ``MetricTracker`` makes a new metric for every step, which is given the memory of the one
    before. ``Running`` resets after every update: its last updates are the epoch, and the memory is of all.
    ``MinMaxMetric`` (by ``update``) takes the extremes of what was computed. ``BootStrapper`` is refused: it draws
    samples anew in every update, so that no copy would remember a sample's earlier visits.

    Args:
        num_samples: N, the number of samples that ``index`` can name, at least 1.
        ignore_index: the label of samples that are neither counted nor remembered, as in torchmetrics.
        **kwargs: options of :class:`torchmetrics.Metric`.

    Raises:
        TypeError: in a ``BootStrapper``; if ``ignore_index`` is not a whole number.
        ValueError: if ``num_samples`` is not a positive integer.
    """

    outcome: Tensor
    ever_right: Tensor

    def __init__(self, num_samples: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if not isinstance(num_samples, int) or isinstance(num_samples, bool) or num_samples < 1:
            raise ValueError(
                f"num_samples must be a positive integer, the length of the dataset that index counts in; "
                f"got {num_samples!r}."
            )
        self.num_samples = num_samples
        # uint8 rather than bool: every communication backend gathers bytes.
        self.add_state("outcome", torch.zeros(num_samples, dtype=torch.uint8), dist_reduce_fx="max")
        self.add_state("ever_right", torch.zeros(num_samples, dtype=torch.uint8), dist_reduce_fx="max", persistent=True)

    def update(self, preds: Tensor, target: Tensor, index: Tensor) -> None:
        """Take in one batch.

        Args:
            preds: integer labels ``[B]`` or scores ``[B, K]``.
            target: integer labels ``[B]``.
            index: int64 ``[B]``, the samples' positions in [0, num_samples). Values are checked by the scatter, not
                here: one outside the range is an error on the CPU and a device-side assertion on a GPU.

        Raises:
            TypeError: for wrong dtypes.
            ValueError: for wrong shapes, lengths that differ, or scores on the CPU that are NaN.
        """
        counted = self._counted(target)
        correct = correct_predictions(self._labels(preds, "preds", counted, index), target)
        if index.dtype != torch.int64:
            raise TypeError(f"index must be int64; got {index.dtype}. Convert positions with .long().")
        if index.shape != correct.shape:
            raise ValueError(
                f"index must hold one position for each of the {correct.shape[0]} samples; "
                f"got shape {tuple(index.shape)}. Pass the index of the same batch."
            )
        # Out of place: a state made in inference mode cannot be written outside of it.
        right = correct.to(self.ever_right.dtype)
        outcome = right + _WRONG
        if counted is not None:
            right, outcome = right * counted, outcome * counted
        self.ever_right = self.ever_right.scatter_reduce(0, index, right, "amax")
        self.outcome = self.outcome.scatter_reduce(0, index, outcome, "amax")

    def flipped(self) -> Tensor:
        """Which samples this epoch gets wrong and some earlier one had right, boolean ``[num_samples]``.

        Under several ranks: of the samples that this rank saw this epoch.
        """
        self._refuse_unknown()
        # The memory holds this epoch too, but a sample that is wrong has no right visit in it.
        return wrongly_flipped(torch.stack((self.ever_right.bool(), self.outcome != _WRONG)))

    def reset(self) -> None:
        """Start a new epoch. The memory of earlier ones stays; see :meth:`forget`."""
        memory = self.ever_right
        super().reset()
        self.ever_right = memory

    def forget(self) -> None:
        """Drop the epoch and the memory: everything is as it was when the metric was made."""
        super().reset()

    def persistent(self, mode: bool = False) -> None:
        """Whether checkpoints hold the memory. The epoch is never saved: a resumed one would be mixed with it."""
        self._persistent["ever_right"] = mode

    def unsync(self, should_unsync: bool = True) -> None:
        """Go back to this rank's epoch, but keep what all ranks remember."""
        memory = self.ever_right
        super().unsync(should_unsync)
        self.ever_right = memory  # merging it once more changes nothing, and a checkpoint now holds all ranks' rows

    def __deepcopy__(self, memo: dict[int, Any]) -> FlippingMetric:
        wrapper = _who_copies()
        if isinstance(wrapper, BootStrapper):
            raise TypeError(
                f"BootStrapper draws samples anew in every update, so that no copy of {type(self).__name__} would "
                "remember their earlier visits. Draw from the samples of metric.flipped() instead."
            )
        copied = type(self).__new__(type(self))
        memo[id(self)] = copied
        copied.__setstate__(copy.deepcopy(self.__getstate__(), memo))
        if isinstance(wrapper, MetricTracker) and len(wrapper) > 1:
            before = _counterpart(self, wrapper._base_metric, wrapper[-1])
            if before is not None:
                copied.ever_right = before.ever_right.clone()
        return copied

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        for name in ("outcome", "ever_right"):
            stored = state_dict.get(prefix + name)
            if stored is None:
                continue
            if stored.shape != (self.num_samples,):
                error_msgs = args[-1]
                error_msgs.append(
                    f"{prefix}{name} has shape {tuple(stored.shape)}, but this {type(self).__name__} was made with "
                    f"num_samples={self.num_samples}. Make it for the dataset that the checkpoint was written with."
                )
                state_dict.pop(prefix + name)
                continue
            state_dict[prefix + name] = stored.to(self.device, torch.uint8)
        super()._load_from_state_dict(state_dict, prefix, *args)
        self._computed = None


class FlippingError(FlippingMetric):
    """Share of samples that this epoch gets wrong and some earlier epoch had right (FE).

    The metric of :func:`lightning_flip.functional.flipping_error`; in [0, 1], over the samples seen this epoch, 0 in
    the first epoch and without samples. Options, epochs,
    ranks and checkpoints: see :class:`FlippingMetric`.

    Example:
        >>> metric = FlippingError(num_samples=4)
        >>> target, index = torch.tensor([0, 1, 1, 2]), torch.arange(4)
        >>> for preds in [[0, 1, 0, 0], [1, 1, 0, 0]]:
        ...     metric.update(torch.tensor(preds), target, index)
        ...     print(metric.compute())
        ...     metric.reset()
        tensor(0.)
        tensor(0.2500)
    """

    def compute(self) -> Tensor:
        """The share over the samples seen this epoch, 0-dim float32."""
        return share(self.flipped().sum(), (self.outcome != _UNSEEN).sum())


class RelativeFlippingError(FlippingMetric):
    """Share of this epoch's errors that some earlier epoch had right (RFE).

    The metric of :func:`lightning_flip.functional.relative_flipping_error`; in [0, 1], 0 if the epoch makes no error.
    Options, epochs, ranks and checkpoints: see :class:`FlippingMetric`.

    Example:
        >>> metric = RelativeFlippingError(num_samples=4)
        >>> target, index = torch.tensor([0, 1, 1, 2]), torch.arange(4)
        >>> for preds in [[0, 1, 0, 0], [1, 1, 0, 0]]:
        ...     metric.update(torch.tensor(preds), target, index)
        ...     print(metric.compute())
        ...     metric.reset()
        tensor(0.)
        tensor(0.3333)
    """

    def compute(self) -> Tensor:
        """The share over the samples that this epoch gets wrong, 0-dim float32."""
        return share(self.flipped().sum(), (self.outcome == _WRONG).sum())


def _who_copies() -> Any:
    """The wrapper of torchmetrics that is copying a metric just now, for each of its steps or draws; else None."""
    frame, codes = sys._getframe(2), (MetricTracker.increment.__code__, BootStrapper.__init__.__code__)
    while frame is not None:
        if frame.f_code in codes:
            return frame.f_locals["self"]
        frame = frame.f_back  # type: ignore[assignment]
    return None


def _counterpart(metric: FlippingMetric, base: Any, last: Any) -> FlippingMetric | None:
    """What a metric, or the collection that it is in, was copied to before."""
    if not isinstance(base, MetricCollection):
        return last if isinstance(last, FlippingMetric) else None
    # By items, which give all metrics of a group the state of the one that was updated.
    name = next((name for name, part in base._modules.items() if part is metric), None)
    return None if name is None else dict(last.items(keep_base=True))[name]
