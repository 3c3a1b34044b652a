"""Flip rates between an old and a new model, over batches and ranks."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lightning_flip.functional.flips import FlipCounts, changed_predictions, count_flips, share
from lightning_flip.metrics._counting import CountingMetric

__all__ = [
    "Churn",
    "FlipMetric",
    "NegativeFlipImpact",
    "NegativeFlipRate",
    "PositiveFlipRate",
    "RelativeNegativeFlipRate",
    "TrustScore",
]


class FlipMetric(CountingMetric):
    """Counts flips between two models; a subclass computes one ratio of the counts.

    All subclasses keep the same four counts, so that a ``MetricCollection`` keeps them once for all of them. In a
    collection pass the arguments of ``update`` by name: ``collection(preds=..., target=..., old_preds=...)``.

    In wrappers of torchmetrics (``MetricTracker``, ``Running``, ``BootStrapper``, ``MinMaxMetric``) it counts as any
    other metric does.

    Args:
        ignore_index: the label of samples that are not counted, as in torchmetrics.
        **kwargs: options of :class:`torchmetrics.Metric`.

    Raises:
        TypeError: if ``ignore_index`` is not a whole number.
    """

    both_right: Tensor
    negative: Tensor
    positive: Tensor
    both_wrong: Tensor

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        for name in FlipCounts._fields:
            self.add_state(name, torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    @property
    def counts(self) -> FlipCounts:
        """The four counts since the last reset."""
        self._refuse_unknown()
        return FlipCounts(self.both_right, self.negative, self.positive, self.both_wrong)

    def update(self, preds: Tensor, target: Tensor, old_preds: Tensor) -> None:
        """Count one batch.

        Args:
            preds: the new model's integer labels ``[N]`` or scores ``[N, K]``.
            target: integer labels ``[N]``.
            old_preds: the old model's integer labels ``[N]`` or scores ``[N, K_old]``.

        Raises:
            TypeError: for wrong dtypes.
            ValueError: for wrong shapes, lengths that differ, or scores on the CPU that are NaN.
        """
        counted = self._counted(target)
        old, new = self._labels(old_preds, "old_preds", counted), self._labels(preds, "preds", counted)
        batch = count_flips(new, target, old, ignore_index=self.ignore_index)
        for name, count in batch._asdict().items():
            setattr(self, name, getattr(self, name) + count)


class NegativeFlipRate(FlipMetric):
    """Share of samples that the old model gets right and the new one wrong (NFR).

    The metric of :func:`lightning_flip.functional.negative_flip_rate`; in [0, 1], 0 without samples. Options are those
    of :class:`FlipMetric`.

    Example:
        >>> metric = NegativeFlipRate()
        >>> old, new, target = torch.tensor([[0, 1, 2, 0], [0, 2, 1, 1], [0, 1, 1, 2]])
        >>> metric(preds=new, target=target, old_preds=old)
        tensor(0.2500)
    """

    def compute(self) -> Tensor:
        """The rate over everything counted, 0-dim float32."""
        return self.counts.negative_flip_rate()


class PositiveFlipRate(FlipMetric):
    """Share of samples that the old model gets wrong and the new one right (PFR).

    The metric of :func:`lightning_flip.functional.positive_flip_rate`; in [0, 1], 0 without samples. Options are those
    of :class:`FlipMetric`.

    Example:
        >>> metric = PositiveFlipRate()
        >>> old, new, target = torch.tensor([[0, 1, 2, 0], [0, 2, 1, 1], [0, 1, 1, 2]])
        >>> metric(preds=new, target=target, old_preds=old)
        tensor(0.2500)
    """

    higher_is_better = True

    def compute(self) -> Tensor:
        """The rate over everything counted, 0-dim float32."""
        return self.counts.positive_flip_rate()


class RelativeNegativeFlipRate(FlipMetric):
    """Negative flips in units of those that two models with independent errors would have.

    The metric of :func:`lightning_flip.functional.relative_negative_flip_rate`; at least 0, without an upper bound. It
    is computed from the counts over all batches, which is not the mean of the batches' values. Options are those of
    :class:`FlipMetric`.

    Example:
        >>> metric = RelativeNegativeFlipRate()
        >>> old, new, target = torch.tensor([[0, 1, 2, 0], [0, 2, 1, 1], [0, 1, 1, 2]])
        >>> metric(preds=new, target=target, old_preds=old)
        tensor(1.)
    """

    plot_upper_bound = None

    def compute(self) -> Tensor:
        """The rate over everything counted, 0-dim float32."""
        return self.counts.relative_negative_flip_rate()


class NegativeFlipImpact(FlipMetric):
    """Share of the new model's errors that are negative flips (NFI).

    The metric of :func:`lightning_flip.functional.negative_flip_impact`; in [0, 1], 0 if there is no error. Options are
    those of :class:`FlipMetric`.

    Example:
        >>> metric = NegativeFlipImpact()
        >>> old, new, target = torch.tensor([[0, 1, 2, 0], [0, 2, 1, 1], [0, 1, 1, 2]])
        >>> metric(preds=new, target=target, old_preds=old)
        tensor(0.5000)
    """

    def compute(self) -> Tensor:
        """The share over everything counted, 0-dim float32."""
        return self.counts.negative_flip_impact()


class TrustScore(FlipMetric):
    """Share of what the old model gets right that the new one still gets right.

    The metric of :func:`lightning_flip.functional.trust_score`; in [0, 1], 1 if the old model has nothing right.
    Options are those of :class:`FlipMetric`.

    Example:
        >>> metric = TrustScore()
        >>> old, new, target = torch.tensor([[0, 1, 2, 0], [0, 2, 1, 1], [0, 1, 1, 2]])
        >>> metric(preds=new, target=target, old_preds=old)
        tensor(0.5000)
    """

    higher_is_better = True

    def compute(self) -> Tensor:
        """The share over everything counted, 0-dim float32."""
        return self.counts.trust_score()


class Churn(CountingMetric):
    """Share of samples whose predicted class differs between two models, right or wrong.

    In a ``MetricCollection`` with metrics that take a target, pass the arguments of ``update`` by name. In [0, 1], 0
    without samples.

    Args:
        **kwargs: options of :class:`torchmetrics.Metric`.

    Example:
        >>> metric = Churn()
        >>> metric(preds=torch.tensor([0, 2, 1, 1]), old_preds=torch.tensor([0, 1, 2, 0]))
        tensor(0.7500)
    """

    changed: Tensor
    total: Tensor

    def __init__(self, **kwargs: Any) -> None:
        if kwargs.get("ignore_index") is not None:
            raise TypeError("Churn has no ignore_index, as it takes no target. Leave the rows out of both predictions.")
        super().__init__(**kwargs)
        self.add_state("changed", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")
        self.add_state("total", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, preds: Tensor, old_preds: Tensor) -> None:
        """Count one batch.

        Args:
            preds: the new model's integer labels ``[N]`` or scores ``[N, K]``.
            old_preds: the old model's integer labels ``[N]`` or scores ``[N, K_old]``.

        Raises:
            TypeError: for wrong dtypes.
            ValueError: for wrong shapes, lengths that differ, or scores on the CPU that are NaN.
        """
        old, new = self._labels(old_preds, "old_preds"), self._labels(preds, "preds")
        changed = changed_predictions(new, old)
        self.changed = self.changed + changed.sum()
        self.total = self.total + changed.numel()

    def compute(self) -> Tensor:
        """The share over everything counted, 0-dim float32."""
        self._refuse_unknown()
        return share(self.changed, self.total)
