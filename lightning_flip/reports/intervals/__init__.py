"""Bounds, intervals and exact tests of what was counted or averaged on some samples."""

from lightning_flip.reports.intervals._checks import special_functions
from lightning_flip.reports.intervals.families import holm
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

__all__ = [
    "binomial_p_above",
    "binomial_p_below",
    "bootstrap_interval",
    "clopper_pearson_lower",
    "clopper_pearson_upper",
    "holm",
    "mcnemar_exact",
    "paired_difference_lower",
    "paired_difference_p_above",
    "paired_difference_p_below",
    "paired_difference_upper",
    "special_functions",
    "stratified_count_lower",
    "wilson_interval",
]
