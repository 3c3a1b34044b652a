"""How one training step on one sample changes what is predicted for another: lr A K (p_tar - q).

Proposition 1 of "Better supervisory signals by observing learning paths" (the Filter-KD paper). With logits
z(x) = f(w, x) and q = softmax(z), a step of plain SGD on x_u with the cross entropy against p_tar changes q(x_o) by
lr A(x_o) K(x_o, x_u) (p_tar - q(x_u)) + O(lr^2), where A = diag(q) - q q^T and K = J(x_o) J(x_u)^T, J = dz/dw.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor, nn
from torch.func import functional_call, vjp, vmap

__all__ = ["empirical_kernel", "prediction_change", "softmax_jacobian", "softmax_jacobian_trace"]

Weights = dict[str, Tensor]


def prediction_change(
    model: nn.Module,
    x_o: Shaped[Tensor, ...],
    x_u: Shaped[Tensor, ...],
    target_u: Int[Tensor, ""] | Float[Tensor, " K"] | int,
    lr: float,
) -> Float[Tensor, " K"]:
    """First-order change of q(x_o) by one SGD step on x_u: lr A(x_o) K(x_o, x_u) (p_tar - q(x_u)).

    The kernel is never built: K v is a backward pass at x_u and one, transposed, at x_o. The model is evaluated
    in eval mode (dropout off, running statistics in batch normalization), and left as it was.

    Args:
        model: maps a batch ``[1, ...]`` to logits ``[1, K]``; weights that need no gradient do not move.
        x_o: the observed input, without batch dimension.
        x_u: the input that is learned from, without batch dimension.
        target_u: its label, or its target distribution ``[K]``.
        lr: learning rate; the error of the approximation falls with its square.

    Returns:
        ``[K]``, sums to 0.

    Raises:
        ValueError: if the model does not give logits ``[1, K]``, or no weight needs a gradient.

    Example:
        >>> model = nn.Linear(2, 2, bias=False)
        >>> _ = nn.init.zeros_(model.weight)
        >>> prediction_change(model, torch.tensor([1.0, 0.0]), torch.tensor([1.0, 1.0]), 0, lr=0.1)
        tensor([ 0.0250, -0.0250])
    """
    with _evaluated(model) as (logits_at, weights):
        z_u, pull = _pullback(logits_at, weights, x_u)
        residual = _distribution(target_u, z_u) - z_u.softmax(dim=0)
        (direction,) = pull(residual)
        z_o, pull_o = _pullback(logits_at, weights, x_o)
        # J(x_o) times the direction: the transpose of the transpose. (Forward mode would need a rule for every layer.)
        transposed: Any = vjp(lambda v: pull_o(v)[0], torch.zeros_like(z_o))
        push = transposed[1]
        (moved,) = push(direction)
        change: Tensor = lr * softmax_jacobian(z_o.softmax(dim=0)) @ moved
        return change


def softmax_jacobian(probs: Float[Tensor, "... K"]) -> Float[Tensor, "... K K"]:
    """A = diag(q) - q q^T, the derivative of softmax: ``[..., K, K]``, symmetric, with rows that sum to 0.

    Example:
        >>> softmax_jacobian(torch.tensor([0.5, 0.5]))
        tensor([[ 0.2500, -0.2500],
                [-0.2500,  0.2500]])
    """
    return torch.diag_embed(probs) - probs[..., :, None] * probs[..., None, :]


def softmax_jacobian_trace(probs: Float[Tensor, "... K"]) -> Float[Tensor, ...]:
    """Tr A = 1 - sum q^2 in [0, 1 - 1/K]: how much a prediction can still move; 0 at a corner of the simplex.

    Example:
        >>> softmax_jacobian_trace(torch.tensor([[0.5, 0.5], [1.0, 0.0]]))
        tensor([0.5000, 0.0000])
    """
    return 1 - (probs * probs).sum(dim=-1)


def empirical_kernel(
    model: nn.Module,
    x_o: Shaped[Tensor, "N_o ..."],
    x_u: Shaped[Tensor, "N_u ..."],
    *,
    memory_budget: int = 1 << 30,
) -> Float[Tensor, "N_o N_u K K"]:
    """K(x_o, x_u) = J(x_o) J(x_u)^T for every pair of two chosen subsets, J = dz/dw (the empirical tangent kernel).

    Jacobians are made in chunks: of samples if several fit, otherwise of classes of one sample.

    Args:
        model: maps a batch ``[1, ...]`` to logits ``[1, K]``; used in eval mode, and left as it was.
        x_o: observed inputs ``[N_o, ...]``.
        x_u: inputs that are learned from ``[N_u, ...]``.
        memory_budget: bytes that the Jacobians of one moment may take, with what making them needs.

    Returns:
        ``[N_o, N_u, K, K]``; the first K is of x_o.

    Raises:
        ValueError: if there is no input, the model does not give logits ``[1, K]``, no weight needs a gradient, or
            the budget does not hold four copies of the weights.

    Example:
        >>> model = nn.Linear(2, 3, bias=False)
        >>> kernel = empirical_kernel(model, torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0, 1.0]]))
        >>> kernel.shape, kernel[0, 0]
        (torch.Size([1, 1, 3, 3]), tensor([[5., 0., 0.],
                [0., 5., 0.],
                [0., 0., 5.]]))
    """
    if not len(x_o) or not len(x_u):
        raise ValueError(f"x_o and x_u must hold at least one input each; got {len(x_o)} and {len(x_u)}.")
    with _evaluated(model) as (logits_at, weights):
        with torch.no_grad():
            like = logits_at(weights, x_o[0])  # inputs may be integers (tokens); the kernel is of the logits' type
        width = like.shape[0]
        row = sum(value.numel() * value.element_size() for value in weights.values())
        rows = memory_budget // (4 * row)  # two Jacobians, and what the transforms keep beside them
        if rows < 1:
            raise ValueError(
                f"memory_budget={memory_budget} bytes does not hold four copies of the weights ({4 * row} bytes). "
                "Raise it, or let fewer weights need a gradient (only the last layer's, for example)."
            )
        kernel = like.new_zeros(len(x_o), len(x_u), width, width)
        for first_u, classes_u, jacobian_u in _jacobians(logits_at, weights, x_u, like, rows):
            for first_o, classes_o, jacobian_o in _jacobians(logits_at, weights, x_o, like, rows):
                block = torch.einsum("aip,bjp->abij", jacobian_o, jacobian_u)
                kernel[
                    first_o : first_o + len(jacobian_o), first_u : first_u + len(jacobian_u), classes_o, classes_u
                ] = block
        return kernel


def _jacobians(
    logits_at: Callable[[Weights, Tensor], Tensor], weights: Weights, inputs: Tensor, like: Tensor, rows: int
) -> Iterator[tuple[int, slice, Tensor]]:
    """Chunks ``[samples, classes, P]`` of dz/dw of at most ``rows`` rows, with where they begin."""
    width = like.shape[0]
    samples, classes = max(1, rows // width), min(width, rows)
    basis = torch.eye(width, dtype=like.dtype, device=like.device)

    def rows_of(x: Tensor, directions: Tensor) -> Tensor:
        _, pull = _pullback(logits_at, weights, x)
        (gradients,) = vmap(pull)(directions)
        return torch.cat([gradient.flatten(start_dim=1) for gradient in gradients.values()], dim=1)

    for first in range(0, len(inputs), samples):
        for start in range(0, width, classes):
            chosen = slice(start, min(start + classes, width))
            chunk = vmap(rows_of, in_dims=(0, None))(inputs[first : first + samples], basis[chosen])
            yield first, chosen, chunk


def _pullback(
    logits_at: Callable[[Weights, Tensor], Tensor], weights: Weights, x: Tensor
) -> tuple[Tensor, Callable[[Tensor], tuple[Weights]]]:
    """Logits, and what maps a direction among them to the weights."""
    result: Any = vjp(lambda w: logits_at(w, x), weights)
    return result[0], result[1]


@contextlib.contextmanager
def _evaluated(model: nn.Module) -> Iterator[tuple[Callable[[Weights, Tensor], Tensor], Weights]]:
    """The model as a function of its weights and one input, in eval mode meanwhile."""
    weights = {name: value.detach() for name, value in model.named_parameters() if value.requires_grad}
    if not weights:
        raise ValueError("model has no weight that needs a gradient, so that no step can change a prediction.")
    frozen = {name: value.detach() for name, value in model.named_parameters() if not value.requires_grad}
    constants = {**frozen, **dict(model.named_buffers())}

    def logits_at(weights: Weights, x: Tensor) -> Tensor:
        logits = functional_call(model, {**constants, **weights}, (x[None],))
        if not isinstance(logits, Tensor) or logits.ndim != 2 or logits.shape[0] != 1:
            came = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
            raise ValueError(f"model must map [1, ...] to logits [1, K]; got {came} for one input {tuple(x.shape)}.")
        return logits[0]

    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield logits_at, weights
    finally:
        for module, training in modes:
            module.training = training


def _distribution(target: Tensor | int, logits: Tensor) -> Tensor:
    width = logits.shape[0]
    if isinstance(target, Tensor) and target.is_floating_point():
        if target.shape != logits.shape:
            raise ValueError(f"target_u must be a label or a distribution [{width}]; got {tuple(target.shape)}.")
        return target.to(logits.dtype)
    label = int(target)
    if not 0 <= label < width:
        raise ValueError(f"target_u must be in [0, {width}); got {label}.")
    return torch.nn.functional.one_hot(torch.tensor(label, device=logits.device), width).to(logits.dtype)
