from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torch import Tensor

from lightning_flip.functional.predictions import logit_margin


def margins_by_loop(logits: np.ndarray, target: list[int]) -> list[float]:
    margins = []
    for row, y in zip(logits.tolist(), target, strict=True):
        strongest = max(z for j, z in enumerate(row) if j != y)
        margins.append(row[y] - strongest)
    return margins


batches = st.tuples(st.integers(0, 6), st.integers(2, 5)).flatmap(
    lambda shape: st.tuples(
        arrays(np.float64, shape, elements=st.floats(-100, 100)),
        st.lists(st.integers(0, shape[1] - 1), min_size=shape[0], max_size=shape[0]),
    )
)


@given(batches)
def test_matches_the_loop(batch: tuple[np.ndarray, list[int]]) -> None:
    logits, target = batch
    margin = logit_margin(torch.from_numpy(logits), torch.tensor(target, dtype=torch.int64))
    assert margin.dtype == torch.float64
    assert margin.tolist() == margins_by_loop(logits, target)


@given(batches, st.floats(-10, 10))
def test_a_constant_on_a_row_changes_nothing(batch: tuple[np.ndarray, list[int]], shift: float) -> None:
    logits, target = torch.from_numpy(batch[0]), torch.tensor(batch[1], dtype=torch.int64)
    torch.testing.assert_close(logit_margin(logits + shift, target), logit_margin(logits, target), atol=1e-9, rtol=0)


@given(batches)
def test_positive_means_right(batch: tuple[np.ndarray, list[int]]) -> None:
    logits, target = torch.from_numpy(batch[0]), torch.tensor(batch[1], dtype=torch.int64)
    margin = logit_margin(logits, target)
    right = logits.argmax(dim=1) == target
    assert right[margin > 0].all()
    assert not right[margin < 0].any()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_widened_before_the_difference(dtype: torch.dtype) -> None:
    logits = torch.tensor([[256.0, 0.5, -3.0]]).to(dtype)  # 255.5 is no bfloat16
    margin = logit_margin(logits, torch.tensor([0], dtype=torch.int32))
    assert margin.dtype == torch.float32
    assert margin.item() == 255.5


def test_gradient_and_arguments_left_alone() -> None:
    logits = torch.tensor([[3.0, 1.0, 0.0]], requires_grad=True)
    logit_margin(logits, torch.tensor([2])).sum().backward()
    assert logits.grad is not None
    assert logits.grad.tolist() == [[-1.0, 0.0, 1.0]]
    assert logits.tolist() == [[3.0, 1.0, 0.0]]


def test_infinite_logits() -> None:
    logits = torch.tensor([[2.0, -torch.inf], [-torch.inf, 2.0]])
    assert logit_margin(logits, torch.tensor([0, 0])).tolist() == [np.inf, -np.inf]


@pytest.mark.usefixtures("own_checks")
@pytest.mark.parametrize(
    ("logits", "target", "error", "message"),
    [
        (torch.zeros(3, 1), torch.zeros(3).long(), ValueError, r"at least two classes.*\(3, 1\).*\[0, z\]"),
        (torch.zeros(3), torch.zeros(3).long(), ValueError, r"logits must have the shape \[B, K\]; got \(3,\)"),
        (torch.zeros(3, 2).long(), torch.zeros(3).long(), TypeError, "logits must be floating point; got torch.int64"),
        (torch.zeros(3, 2), torch.zeros(2).long(), ValueError, r"each of the 3 rows of logits; got shape \(2,\)"),
        (torch.zeros(3, 2), torch.zeros(3, 2), ValueError, r"target must hold one label .* got shape \(3, 2\)"),
        (torch.zeros(3, 2), torch.zeros(3), TypeError, "target must be integer labels; got torch.float32"),
        (torch.zeros(3, 2), torch.zeros(3).bool(), TypeError, "target must be integer labels; got torch.bool"),
    ],
)
def test_errors_name_the_argument(logits: Tensor, target: Tensor, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        logit_margin(logits, target)


def test_a_label_outside_the_classes_is_an_error_on_the_cpu() -> None:
    with pytest.raises(RuntimeError, match="out of bounds"):
        logit_margin(torch.zeros(1, 2), torch.tensor([2]))
