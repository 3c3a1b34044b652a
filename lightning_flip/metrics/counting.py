"""What the metrics of this package have in common: their state is counts."""

from __future__ import annotations

from typing import Any

from torchmetrics import Metric

__all__ = ["CountingMetric"]


class CountingMetric(Metric):
    """A metric whose state holds integers, and whose value is a share of them.

    ``forward`` needs one ``update``, as the states of two batches merge by their reductions.
    """

    is_differentiable = False
    higher_is_better = False
    full_state_update = False
    plot_lower_bound = 0.0
    plot_upper_bound: float | None = 1.0

    def set_dtype(self, dst_type: Any) -> CountingMetric:
        """Leave the counts as they are: in half precision they would be wrong from 2,049 on.

        Args:
            dst_type: the dtype that other metrics of a collection are converted to.

        Returns:
            This metric.
        """
        return self
