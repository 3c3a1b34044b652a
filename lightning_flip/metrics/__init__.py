"""torchmetrics classes: flips between two models, and the flipping error across the epochs of one."""

from lightning_flip.metrics.flipping_error import FlippingError, RelativeFlippingError
from lightning_flip.metrics.flips import (
    Churn,
    NegativeFlipImpact,
    NegativeFlipRate,
    PositiveFlipRate,
    RelativeNegativeFlipRate,
    TrustScore,
)

__all__ = [
    "Churn",
    "FlippingError",
    "NegativeFlipImpact",
    "NegativeFlipRate",
    "PositiveFlipRate",
    "RelativeFlippingError",
    "RelativeNegativeFlipRate",
    "TrustScore",
]
