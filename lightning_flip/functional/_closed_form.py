"""One autograd function for losses whose gradient is known: value and gradient together, one product backwards."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from lightning_flip.functional.losses import weighted_sum

__all__ = ["closed_form", "fuses", "soft_excess"]

# What autograd itself calls, so that the numbers are the same.
_nll_loss = torch.ops.aten.nll_loss_forward.default
_nll_loss_backward = torch.ops.aten.nll_loss_backward.default
_log_softmax_backward = torch.ops.aten._log_softmax_backward_data.default

#: Whether closed forms are used at all; the losses are the same without.
FUSED = True

# (logits, tensors, ...) -> the value, a scalar, and its gradient by the logits
Rule = Callable[..., tuple[Tensor, Tensor]]


def fuses(logits: Tensor, target: Tensor) -> bool:
    """Whether a closed form serves; else autograd does: for distributions, empty batches, compiled programs.

    Also for forward-mode differentiation, which would lose second derivatives if it were nested; if this cannot be
    detected, the function raises, as it has no ``jvp``.
    """
    return (
        FUSED
        and target.ndim == 1
        and logits.ndim == 2
        and logits.shape[0] > 0
        and getattr(forward_ad, "_current_level", -1) < 0
        and not torch.compiler.is_compiling()
    )


def closed_form(rule: Rule, logits: Tensor, *tensors: Tensor | None, **options: float) -> Tensor:
    """The value of a rule, whose gradient by the logits is the rule's own; none flows into the other tensors.

    A rule is made of differentiable operations, so that second derivatives follow from its gradient.
    """
    rule = functools.partial(rule, **options)
    # A context that is set up apart costs as much as several operations.
    if torch._C._are_functorch_transforms_active():
        value: Tensor = _Transformed.apply(rule, logits, *tensors)[0]  # type: ignore[no-untyped-call]
    else:
        value = _ClosedForm.apply(rule, logits, *tensors)  # type: ignore[no-untyped-call]
    return value


class _ClosedForm(torch.autograd.Function):
    """A rule's value, with the rule's gradient."""

    @staticmethod
    def forward(ctx: Any, rule: Rule, logits: Tensor, *tensors: Tensor | None) -> Tensor:
        value, gradient = rule(logits, *tensors)
        ctx.rule = rule
        ctx.save_for_backward(gradient, logits, *tensors)
        return value

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        return _backward(ctx, grad)


class _Transformed(torch.autograd.Function):
    """The same for ``torch.func``, which has contexts set up apart."""

    generate_vmap_rule = True

    @staticmethod
    def forward(rule: Rule, logits: Tensor, *tensors: Tensor | None) -> tuple[Tensor, Tensor]:
        return rule(logits, *tensors)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        ctx.rule, *tensors = inputs
        ctx.mark_non_differentiable(output[1])
        ctx.save_for_backward(output[1], *tensors)

    @staticmethod
    def backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Any, ...]:
        return _backward(ctx, grad)


def _backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    gradient, *tensors = ctx.saved_tensors
    if torch.is_grad_enabled():  # for second derivatives; what was computed has no graph
        gradient = ctx.rule(*tensors)[1]
    return None, grad * gradient, *(None,) * (len(tensors) - 1)


def soft_excess(
    logits: Tensor,
    target: Tensor,
    q: Tensor | None,
    *,
    labels: float,
    soft: float,
    temperature: float = 1.0,
    rows: Tensor | None = None,
    log_q: Tensor | None = None,
) -> Tensor:
    """Mean over the batch of r c CE + f H(q, softmax(z / t)), in one step; with log q, of KL in the place of H.

    Args:
        logits: z ``[B, K]``, in at least float32.
        target: labels ``[B]``.
        q: non-negative weights ``[B, K]``, 0 for rows without a soft part; None for the uniform distribution.
        labels: c.
        soft: f.
        temperature: t > 0.
        rows: r, bool or float ``[B]``; None: 1 for all.
        log_q: log q, ``[B, K]``.
    """
    if q is not None and q.dtype != logits.dtype:
        q = q.to(logits.dtype)
    return closed_form(
        _soft_rule, logits, target, q, rows, log_q, labels=labels, soft=soft, temperature=float(temperature)
    )


def _soft_rule(
    z: Tensor,
    target: Tensor,
    q: Tensor | None,
    rows: Tensor | None,
    log_q: Tensor | None,
    *,
    labels: float,
    soft: float,
    temperature: float,
) -> tuple[Tensor, Tensor]:
    samples, classes = z.shape
    share = soft / samples
    if not labels and q is not None:
        log_t = (z / temperature).log_softmax(dim=1)
        gradient = _log_softmax_backward(q * (-share / temperature), log_t, 1, z.dtype)
        return weighted_sum(q, log_t if log_q is None else log_t - log_q).sum() * -share, gradient
    weights = _row_weights(rows, labels / samples, z)
    log_p = z.log_softmax(dim=1)
    losses, total = _nll_loss(log_p, target, None, 0, -100)
    value = torch.dot(losses, weights)
    by_log_p = _nll_loss_backward(weights, log_p, target, None, 0, -100, total)
    if q is None:  # without temperature
        gradient = _log_softmax_backward(by_log_p - share / classes, log_p, 1, z.dtype)
        return torch.sub(value, log_p.mean(), alpha=soft) if soft else value, gradient
    if temperature == 1:
        log_t = log_p
        gradient = _log_softmax_backward(torch.sub(by_log_p, q, alpha=share), log_p, 1, z.dtype)
    else:
        log_t = (z / temperature).log_softmax(dim=1)
        gradient = torch.sub(
            _log_softmax_backward(by_log_p, log_p, 1, z.dtype),
            _log_softmax_backward(q, log_t, 1, z.dtype),
            alpha=share / temperature,
        )
    drawn = q * (log_t if log_q is None else log_t - log_q)
    # 0 * inf of a masked class adds nothing; logits that are NaN show in the labels' part.
    return torch.sub(value, drawn.nansum(), alpha=share), gradient


def _row_weights(rows: Tensor | None, factor: float, z: Tensor) -> Tensor:
    """``factor`` times the rows' weights, in the logits' type."""
    if rows is None:
        return z.new_full((z.shape[0],), factor)
    if rows.dtype != z.dtype and not (rows.dtype == torch.bool and z.dtype == torch.get_default_dtype()):
        rows = rows.to(z.dtype)  # else the product would be of the default type
    return rows * factor
