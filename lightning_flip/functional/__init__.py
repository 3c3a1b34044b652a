"""Tensors in, tensors out: what every metric, table and loss of this package computes."""

from lightning_flip.functional.calibration import fit_temperature
from lightning_flip.functional.class_wise import class_wise_self_distillation_loss
from lightning_flip.functional.cycles import cosine_of_cycle, cycle_of
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
from lightning_flip.functional.loss_correction import backward_correction_loss, forward_correction_loss
from lightning_flip.functional.losses import cross_entropy, soft_cross_entropy
from lightning_flip.functional.noise import class_conditional_noise, pair_transition, preset_transition, symmetric_noise
from lightning_flip.functional.pairwise import (
    TargetParts,
    learned_smoothing,
    pair_average,
    pairwise_label_smoothing_loss,
    target_parts,
)
from lightning_flip.functional.past_predictions import (
    average_behavior,
    behavior,
    flipping_error_reduction_loss,
    learning_with_retrospection_loss,
    restriction_weights,
)
from lightning_flip.functional.paths import barycentric, base_difficulty, filter_path, three_axes, zigzag_score
from lightning_flip.functional.positive_congruent import (
    backward_compatible_loss,
    focal_distillation_loss,
    naive_positive_congruent_loss,
    old_model_right,
)
from lightning_flip.functional.predictions import Predictions, describe_predictions, logit_gap, logit_margin
from lightning_flip.functional.regularization import (
    confidence_penalty_loss,
    snapshot_distillation_loss,
    teacher_free_loss,
    teacher_free_target,
)
from lightning_flip.functional.running_targets import (
    early_learning_loss,
    early_learning_target,
    self_adaptive_loss,
    self_adaptive_target,
)
from lightning_flip.functional.smearing import (
    backward_matrix,
    label_smoothing_loss,
    smeared_loss,
    smoothed_target,
    smoothing_matrix,
    symmetric_transition,
)
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
from lightning_flip.functional.transitions import condition_number, estimate_transition, inverse_transition
from lightning_flip.functional.uncertainty import predictive_disagreement, predictive_entropy, predictive_std

__all__ = [
    "Predictions",
    "SupervisionBounds",
    "TargetParts",
    "average_behavior",
    "backward_compatible_loss",
    "backward_correction_loss",
    "backward_matrix",
    "barycentric",
    "base_difficulty",
    "behavior",
    "blended_supervision",
    "churn",
    "class_conditional_noise",
    "class_wise_self_distillation_loss",
    "condition_number",
    "confidence_penalty_loss",
    "cosine_of_cycle",
    "cross_entropy",
    "cycle_of",
    "describe_predictions",
    "distillation_loss",
    "early_learning_loss",
    "early_learning_target",
    "empirical_kernel",
    "estimate_transition",
    "filter_path",
    "fit_temperature",
    "flipping_error",
    "flipping_error_reduction_loss",
    "focal_distillation_loss",
    "forgetting_events",
    "forward_correction_loss",
    "inverse_transition",
    "label_recovery",
    "label_smoothing_loss",
    "learned_smoothing",
    "learning_with_retrospection_loss",
    "logit_gap",
    "logit_margin",
    "naive_positive_congruent_loss",
    "negative_flip_impact",
    "negative_flip_rate",
    "never_learned",
    "noisy_supervision",
    "old_model_right",
    "pair_average",
    "pair_transition",
    "pairwise_label_smoothing_loss",
    "positive_flip_rate",
    "prediction_change",
    "predictive_disagreement",
    "predictive_entropy",
    "predictive_std",
    "preset_transition",
    "relative_flipping_error",
    "relative_negative_flip_rate",
    "restriction_weights",
    "self_adaptive_loss",
    "self_adaptive_target",
    "smeared_loss",
    "smoothed_target",
    "smoothing_matrix",
    "snapshot_distillation_loss",
    "soft_cross_entropy",
    "soften",
    "softmax_jacobian",
    "softmax_jacobian_trace",
    "supervision_bounds",
    "supervision_distance",
    "symmetric_noise",
    "symmetric_transition",
    "target_parts",
    "teacher_free_loss",
    "teacher_free_target",
    "three_axes",
    "trust_score",
    "wrongly_flipped",
    "zigzag_score",
]
