"""Where label smoothing and weight decay move a linear separator that wrong labels have pushed aside.

Two Gaussians in the plane, at (1, 1) and (-1, -1) with standard deviation 0.1; 5% of the negative samples carry the
positive label. Without noise the best separator is x1 + x2 = 0; the wrong labels push logistic regression towards the
negative cloud. It is fitted to convergence, and drawn for several smoothings, and for several weight penalties.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch import Tensor, nn

from lightning_flip.functional import label_smoothing_loss

SMOOTHINGS = (0.0, 0.1, 0.2)
PENALTIES = (0.0, 0.01, 0.1)


def two_gaussians(n: int = 20_000, flipped: float = 0.05, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Points [n, 2], their true labels, and labels with an exact share of the negative ones flipped."""
    generator = torch.Generator().manual_seed(seed)
    true = torch.arange(n) % 2
    x = (2.0 * true - 1)[:, None] + 0.1 * torch.randn(n, 2, generator=generator)
    negatives = (true == 0).nonzero()[:, 0]
    wrong = negatives[torch.randperm(len(negatives), generator=generator)[: round(flipped * len(negatives))]]
    noisy = true.clone()
    noisy[wrong] = 1
    return x.double(), true, noisy


def fit_separator(x: Tensor, labels: Tensor, smoothing: float = 0.0, penalty: float = 0.0) -> tuple[Tensor, float]:
    """Fit logistic regression; the bias is not penalized.

    Returns:
        The separator's normal of length 1, and its signed distance from the origin along it: points with
        normal . x > offset are called positive.
    """
    layer = nn.Linear(2, 2).double()
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    optimizer = torch.optim.LBFGS(
        layer.parameters(), max_iter=2000, tolerance_grad=1e-10, tolerance_change=0, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = label_smoothing_loss(layer(x), labels, smoothing=smoothing) + penalty * layer.weight.square().sum() / 2
        loss.backward()
        return loss

    optimizer.step(closure)
    weight = (layer.weight[1] - layer.weight[0]).detach()
    bias = float((layer.bias[1] - layer.bias[0]).detach())
    return weight / weight.norm(), -bias / float(weight.norm())


def draw(out: Path, x: Tensor, true: Tensor, noisy: Tensor) -> None:
    """Both families of separators over the points, in one figure."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 5.6))
    panels = figure.subplots(1, 2, sharex=True, sharey=True)
    figure.subplots_adjust(left=0.08, right=0.98, top=0.94, bottom=0.28, wspace=0.08)
    for axes, title, values in (
        (panels[0], "label smoothing", SMOOTHINGS),
        (panels[1], "weight penalty", PENALTIES),
    ):
        groups = (
            (true == 1, "#4477aa", "o", "positive"),
            ((true == 0) & (noisy == 0), "#bbbbbb", "o", "negative"),
            ((true == 0) & (noisy == 1), "#ee6677", "x", "negative, labeled positive"),
        )
        for rows, color, marker, label in groups:
            points = x[:600][rows[:600]]  # of a random order, so that the shares are those of the data
            axes.scatter(points[:, 0], points[:, 1], s=12, c=color, marker=marker, linewidths=0.8, label=label)
        axes.plot([-2, 2], [2, -2], color="black", linewidth=2, label="without wrong labels")
        for value, style in zip(values, ("-", "--", ":"), strict=True):
            smoothing, penalty = (value, 0.0) if title == "label smoothing" else (0.0, value)
            normal, offset = fit_separator(x, noisy, smoothing, penalty)
            along = torch.tensor([-normal[1], normal[0]])
            ends = torch.stack([offset * normal - 4 * along, offset * normal + 4 * along])
            axes.plot(ends[:, 0], ends[:, 1], color="#aa3377", linestyle=style, label=f"{value:g}: offset {offset:.2f}")
        axes.set(title=title, xlim=(-1.6, 1.6), ylim=(-1.6, 1.6), xlabel="x1", aspect="equal")
        axes.legend(fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=2, frameon=False)
    panels[0].set_ylabel("x2")
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=130)


def main(args: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/linear_separators.png"), help="the figure (%(default)s)")
    options = parser.parse_args(args)
    x, true, noisy = two_gaussians()
    print("| treatment | offset of the separator |\n| :--- | ---: |")
    print(f"| clean labels, penalty 0.01 | {fit_separator(x, true, penalty=0.01)[1]:.2f} |")
    for smoothing in SMOOTHINGS:
        print(f"| smoothing {smoothing:g} | {fit_separator(x, noisy, smoothing)[1]:.2f} |")
    for penalty in PENALTIES[1:]:
        print(f"| weight penalty {penalty:g} | {fit_separator(x, noisy, penalty=penalty)[1]:.2f} |")
    draw(options.out, x, true, noisy)
    print(f"\n{options.out}")


if __name__ == "__main__":
    main()
