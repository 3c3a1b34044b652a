"""Checks that a device defers, run on the host: noted in the step, read later, and the rows masked meanwhile."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from lightning_flip.steps.checks import ValueChecks


def look(checks: ValueChecks, values: torch.Tensor, target: torch.Tensor, step: str, **options: bool) -> Any:
    """The mask of a deferred check, else the first bad row; an error that names it is raised."""
    valid, bad, problem = checks.look(values, target, step, lambda row: f"row {row}", **options)
    if problem:
        raise ValueError(problem)
    assert bad is None
    return valid


def logits(*bad: tuple[int, float]) -> torch.Tensor:
    values = torch.zeros(4, 3)
    for row, value in bad:
        values[row, 1] = value
    return values


LABELS = torch.tensor([0, 1, 2, 0])


def test_deferred_checks_mask_rows_and_speak_when_they_are_read():
    checks = ValueChecks()
    valid = look(checks, logits((1, math.nan), (3, math.inf)), LABELS, "training_step", deferred=True)
    assert valid.tolist() == [True, False, True, False]
    assert look(checks, logits(), LABELS, "training_step", deferred=True).all()  # a later step forgets nothing
    with pytest.raises(ValueError, match=r"logits are not finite .* in training_step, first for row 1\."):
        checks.read()
    checks.read()  # said once


def test_deferred_checks_of_labels():
    checks = ValueChecks()
    valid = look(checks, logits(), torch.tensor([0, 3, -1, 2]), "validation_step", deferred=True)
    assert valid.tolist() == [True, False, False, True]
    with pytest.raises(ValueError, match=r"labels are outside \[0, 3\) in validation_step, .* first for row 1\."):
        checks.read()


def test_checks_at_once():
    checks = ValueChecks()
    assert look(checks, logits(), LABELS, "training_step", deferred=False) is None
    with pytest.raises(ValueError, match=r"not finite .* first for row 0"):
        look(checks, logits((0, math.nan)), LABELS, "training_step", deferred=False)
    with pytest.raises(ValueError, match="outside"):
        look(checks, logits(), LABELS + 1, "training_step", deferred=False)
    checks.read()


def test_distributions_must_be_finite():
    checks = ValueChecks()
    soft = torch.full((4, 3), 1 / 3)
    soft[2, 0] = math.nan
    assert look(checks, logits(), soft, "training_step", deferred=True).tolist() == [True, True, False, True]
