"""Tensors in, tensors out: what every metric, table and loss of this package computes."""

from lightning_flip.functional.behavior import (
    average_behavior,
    behavior,
    flipping_error_reduction_loss,
    learning_with_retrospection_loss,
    restriction_weights,
)
from lightning_flip.functional.cross_entropy import cross_entropy, soft_cross_entropy
from lightning_flip.functional.distillation import distillation_loss, soften
from lightning_flip.functional.flips import (
    churn,
    negative_flip_impact,
    negative_flip_rate,
    positive_flip_rate,
    relative_negative_flip_rate,
    trust_score,
)
from lightning_flip.functional.forgetting import (
    flipping_error,
    forgetting_events,
    never_learned,
    relative_flipping_error,
    wrongly_flipped,
)
from lightning_flip.functional.margins import logit_margin
from lightning_flip.functional.noise import class_conditional_noise, symmetric_noise
from lightning_flip.functional.paths import barycentric, base_difficulty, filter_path, three_axes, zigzag_score
from lightning_flip.functional.positive_congruent import (
    backward_compatible_loss,
    focal_distillation_loss,
    naive_positive_congruent_loss,
    old_model_right,
)
from lightning_flip.functional.predictions import Predictions, describe_predictions
from lightning_flip.functional.smearing import label_smoothing_loss
from lightning_flip.functional.supervision import (
    SupervisionBounds,
    blended_supervision,
    label_recovery,
    noisy_supervision,
    supervision_bounds,
    supervision_distance,
)
from lightning_flip.functional.tangent import (
    empirical_kernel,
    prediction_change,
    softmax_jacobian,
    softmax_jacobian_trace,
)
from lightning_flip.functional.uncertainty import predictive_disagreement, predictive_entropy, predictive_std

__all__ = [
    "Predictions",
    "SupervisionBounds",
    "average_behavior",
    "backward_compatible_loss",
    "barycentric",
    "base_difficulty",
    "behavior",
    "blended_supervision",
    "churn",
    "class_conditional_noise",
    "cross_entropy",
    "describe_predictions",
    "distillation_loss",
    "empirical_kernel",
    "filter_path",
    "flipping_error",
    "flipping_error_reduction_loss",
    "focal_distillation_loss",
    "forgetting_events",
    "label_recovery",
    "label_smoothing_loss",
    "learning_with_retrospection_loss",
    "logit_margin",
    "naive_positive_congruent_loss",
    "negative_flip_impact",
    "negative_flip_rate",
    "never_learned",
    "noisy_supervision",
    "old_model_right",
    "positive_flip_rate",
    "prediction_change",
    "predictive_disagreement",
    "predictive_entropy",
    "predictive_std",
    "relative_flipping_error",
    "relative_negative_flip_rate",
    "restriction_weights",
    "soft_cross_entropy",
    "soften",
    "softmax_jacobian",
    "softmax_jacobian_trace",
    "supervision_bounds",
    "supervision_distance",
    "symmetric_noise",
    "three_axes",
    "trust_score",
    "wrongly_flipped",
    "zigzag_score",
]
