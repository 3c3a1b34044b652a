"""The decomposition of a step's effect, against real steps and Jacobians made one row at a time."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lightning_flip.functional import (
    empirical_kernel,
    prediction_change,
    softmax_jacobian,
    softmax_jacobian_trace,
)

K = 4


class ConvNet(nn.Module):
    """Convolution, batch normalization, dropout, pooling: what small image networks are made of."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(1, 5, 3), nn.BatchNorm2d(5), nn.Tanh(), nn.MaxPool2d(2), nn.Flatten(), nn.Dropout(0.5)
        )
        self.head = nn.Linear(45, K)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x))


def make(kind: str) -> tuple[nn.Module, Tensor, Tensor]:
    torch.manual_seed(0)
    if kind == "mlp":
        model: nn.Module = nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Dropout(0.3), nn.Linear(16, K))
        shape: tuple[int, ...] = (6,)
    elif kind == "relu":
        model, shape = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, K)), (6,)
    else:
        model, shape = ConvNet(), (1, 8, 8)
        model.train()(torch.randn(32, *shape))  # running statistics that are not those of the start
    model = model.double()
    return model, torch.randn(*shape, dtype=torch.float64), torch.randn(*shape, dtype=torch.float64)


def target(kind: str) -> Tensor:
    return torch.tensor(2) if kind == "label" else torch.tensor([0.1, 0.6, 0.1, 0.2], dtype=torch.float64)


def real_change(model: nn.Module, x_o: Tensor, x_u: Tensor, goal: Tensor, lr: float) -> Tensor:
    """One step of torch.optim.SGD on x_u, and what it did to q(x_o)."""
    model = copy.deepcopy(model).eval()
    with torch.no_grad():
        before = model(x_o[None])[0].softmax(dim=0)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=lr)
    torch.nn.functional.cross_entropy(model(x_u[None]), goal[None]).backward()
    optimizer.step()
    with torch.no_grad():
        return model(x_o[None])[0].softmax(dim=0) - before


def relative_error(model: nn.Module, x_o: Tensor, x_u: Tensor, goal: Tensor, lr: float) -> float:
    real = real_change(model, x_o, x_u, goal, lr)
    return float((prediction_change(model, x_o, x_u, goal, lr) - real).norm() / real.norm())


@pytest.mark.parametrize("goal", ["label", "distribution"])
@pytest.mark.parametrize("kind", ["mlp", "relu", "cnn"])
def test_the_change_is_that_of_a_real_small_step(kind, goal):
    model, x_o, x_u = make(kind)
    for observed in (x_o, x_u):  # another sample, and the one that is learned from
        error = relative_error(model, observed, x_u, target(goal), 1e-4)
        finer = relative_error(model, observed, x_u, target(goal), 1e-5)
        assert error < 1e-3
        assert 8 < error / finer < 12.5


@pytest.mark.parametrize("goal", ["label", "distribution"])
@pytest.mark.parametrize("kind", ["mlp", "cnn"])
def test_the_change_is_the_product_of_its_parts(kind, goal):
    model, x_o, x_u = make(kind)
    kernel = empirical_kernel(model, x_o[None], x_u[None])[0, 0]
    with torch.no_grad():
        q_o, q_u = (model.eval()(x[None])[0].softmax(dim=0) for x in (x_o, x_u))
    wanted = torch.eye(K, dtype=torch.float64)[2] if goal == "label" else target(goal)
    expected = 0.1 * softmax_jacobian(q_o) @ kernel @ (wanted - q_u)
    torch.testing.assert_close(prediction_change(model, x_o, x_u, target(goal), 0.1), expected)
    assert float(expected.sum()) == pytest.approx(0, abs=1e-12)


def test_an_integer_is_a_label_too():
    model, x_o, x_u = make("mlp")
    by_tensor = prediction_change(model, x_o, x_u, torch.tensor(2), 0.1)
    assert prediction_change(model, x_o, x_u, 2, 0.1).equal(by_tensor)


def test_frozen_weights_do_not_move():
    model, x_o, x_u = make("cnn")
    whole = prediction_change(model, x_o, x_u, 2, 1e-4)
    model.body.requires_grad_(False)
    assert relative_error(model, x_o, x_u, target("label"), 1e-4) < 1e-3
    assert not torch.allclose(prediction_change(model, x_o, x_u, 2, 1e-4), whole, rtol=1e-2)


def state_of(model: nn.Module) -> tuple[list[bool], dict[str, Tensor], list[Tensor | None], list[bool]]:
    return (
        [module.training for module in model.modules()],
        {name: value.clone() for name, value in model.state_dict().items()},
        [None if p.grad is None else p.grad.clone() for p in model.parameters()],
        [p.requires_grad for p in model.parameters()],
    )


@pytest.mark.parametrize("kind", ["mlp", "cnn"])
@pytest.mark.parametrize("mode", ["train", "eval", "mixed"])
def test_the_model_is_left_as_it_was(kind, mode):
    model, x_o, x_u = make(kind)
    model.train(mode != "eval")
    if mode == "mixed":
        next(module for module in model.modules() if isinstance(module, (nn.Dropout, nn.BatchNorm2d))).eval()
    before, random_state = state_of(model), torch.get_rng_state()
    prediction_change(model, x_o, x_u, 1, 0.1)
    empirical_kernel(model, x_o[None], x_u[None])
    with pytest.raises(ValueError, match="target_u"):
        prediction_change(model, x_o, x_u, K, 0.1)
    after = state_of(model)
    assert after[0] == before[0]
    assert all(after[1][name].equal(value) for name, value in before[1].items())
    assert after[2] == before[2]
    assert after[3] == before[3]
    assert torch.get_rng_state().equal(random_state)


def jacobian(model: nn.Module, x: Tensor) -> Tensor:
    """dz/dw of one input, a class at a time by plain autograd."""
    logits = model.eval()(x[None])[0]
    weights = [p for p in model.parameters() if p.requires_grad]
    rows = [torch.autograd.grad(logit, weights, retain_graph=True) for logit in logits]
    return torch.stack([torch.cat([gradient.flatten() for gradient in row]) for row in rows])


@pytest.mark.parametrize("kind", ["mlp", "cnn"])
@pytest.mark.parametrize("rows", [1, 2, 3, 4, 5, 9, 1000])
def test_the_kernel_is_that_of_plain_jacobians_under_every_budget(kind, rows):
    model, _, _ = make(kind)
    shape = (6,) if kind == "mlp" else (1, 8, 8)
    x_o, x_u = torch.randn(3, *shape, dtype=torch.float64), torch.randn(5, *shape, dtype=torch.float64)
    weights = sum(p.numel() for p in model.parameters())
    got = empirical_kernel(model, x_o, x_u, memory_budget=4 * rows * weights * 8)
    assert got.shape == (3, 5, K, K)
    for o, a in enumerate(x_o):
        for u, b in enumerate(x_u):
            torch.testing.assert_close(got[o, u], jacobian(model, a) @ jacobian(model, b).T)


def test_the_kernel_of_a_pair_is_the_transpose_of_the_other_way_round():
    model, x_o, x_u = make("cnn")
    both = torch.stack([x_o, x_u])
    kernel = empirical_kernel(model, both, both)
    torch.testing.assert_close(kernel[0, 1], kernel[1, 0].T)
    own = kernel[0, 0]
    torch.testing.assert_close(own, own.T)
    assert bool((torch.linalg.eigvalsh(own) > -1e-9).all())


def test_a_kernel_without_samples_is_refused():
    model, x_o, _ = make("mlp")
    with pytest.raises(ValueError, match="at least one input each; got 0 and 1"):
        empirical_kernel(model, x_o[None][:0], x_o[None])


def test_inputs_may_be_integers():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(5, 3), nn.Flatten(), nn.Linear(6, K)).double()
    x_o, x_u = torch.tensor([1, 4]), torch.tensor([1, 2])
    kernel = empirical_kernel(model, x_o[None], x_u[None])[0, 0]
    torch.testing.assert_close(kernel, jacobian(model, x_o) @ jacobian(model, x_u).T)
    assert relative_error(model, x_o, x_u, target("label"), 1e-4) < 1e-3


def test_a_budget_that_holds_nothing_says_what_it_takes():
    model, x_o, x_u = make("mlp")
    with pytest.raises(ValueError, match=r"memory_budget=100 bytes does not hold four copies of the weights \(\d+ b"):
        empirical_kernel(model, x_o[None], x_u[None], memory_budget=100)


def test_the_derivative_of_softmax_is_autograds():
    z = torch.randn(K, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    by_autograd = torch.autograd.functional.jacobian(lambda v: v.softmax(dim=0), z)
    got = softmax_jacobian(z.softmax(dim=0))
    torch.testing.assert_close(got, by_autograd)
    torch.testing.assert_close(softmax_jacobian_trace(z.softmax(dim=0)), got.trace())


def test_traces_of_many_are_those_of_each():
    probs = torch.from_numpy(np.random.default_rng(0).dirichlet([1.0] * K, size=(2, 3)))
    stacked = softmax_jacobian(probs)
    assert stacked.shape == (2, 3, K, K)
    torch.testing.assert_close(softmax_jacobian_trace(probs), stacked.diagonal(dim1=-2, dim2=-1).sum(dim=-1))
    assert softmax_jacobian_trace(torch.eye(K)).tolist() == [0.0] * K
    assert float(softmax_jacobian_trace(torch.full((K,), 1 / K))) == pytest.approx(1 - 1 / K)


@pytest.mark.parametrize(
    ("goal", "message"),
    [
        (K, rf"target_u must be in \[0, {K}\); got {K}"),
        (-1, r"target_u must be in \[0, "),
        (torch.tensor([0.5, 0.5]), rf"target_u must be a label or a distribution \[{K}\]; got \(2,\)"),
    ],
)
def test_a_target_that_does_not_fit_is_named(goal, message):
    model, x_o, x_u = make("mlp")
    with pytest.raises(ValueError, match=message):
        prediction_change(model, x_o, x_u, goal, 0.1)


def test_models_without_logits_or_without_weights_are_named():
    x = torch.zeros(3)
    with pytest.raises(ValueError, match=r"model must map \[1, ...\] to logits \[1, K\]; got \(3,\)"):
        prediction_change(nn.Sequential(nn.Linear(3, 3), nn.Flatten(0)), x, x, 0, 0.1)
    with pytest.raises(ValueError, match="no weight that needs a gradient"):
        prediction_change(nn.Linear(3, 3).requires_grad_(False), x, x, 0, 0.1)
