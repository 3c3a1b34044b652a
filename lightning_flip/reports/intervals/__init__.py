"""Bounds, intervals and exact tests of what was counted or averaged on some samples."""

from lightning_flip.reports.intervals._checks import special_functions
from lightning_flip.reports.intervals.clusters import MIN_HIT_CLUSTERS, design_effect_samples, effective_samples
from lightning_flip.reports.intervals.families import holm
from lightning_flip.reports.intervals.means import mean_lower, mean_p_above, mean_p_below, mean_upper
from lightning_flip.reports.intervals.paired import (
    paired_difference_lower,
    paired_difference_p_above,
    paired_difference_p_below,
    paired_difference_upper,
)
from lightning_flip.reports.intervals.proportions import (
    binomial_p_above,
    binomial_p_below,
    bootstrap_interval,
    clopper_pearson_lower,
    clopper_pearson_upper,
    mcnemar_exact,
    stratified_count_lower,
    wilson_interval,
)
from lightning_flip.reports.intervals.ratios import (
    relative_nfr_lower,
    relative_nfr_p_above,
    relative_nfr_p_below,
    relative_nfr_upper,
)

__all__ = [
    "MIN_HIT_CLUSTERS",
    "binomial_p_above",
    "binomial_p_below",
    "bootstrap_interval",
    "clopper_pearson_lower",
    "clopper_pearson_upper",
    "design_effect_samples",
    "effective_samples",
    "holm",
    "mcnemar_exact",
    "mean_lower",
    "mean_p_above",
    "mean_p_below",
    "mean_upper",
    "paired_difference_lower",
    "paired_difference_p_above",
    "paired_difference_p_below",
    "paired_difference_upper",
    "relative_nfr_lower",
    "relative_nfr_p_above",
    "relative_nfr_p_below",
    "relative_nfr_upper",
    "special_functions",
    "stratified_count_lower",
    "wilson_interval",
]
