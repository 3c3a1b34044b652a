"""What label smoothing, backward and forward correction make of the logistic loss.

Two classes, logits (0, z), and the label is the class of z: without treatment log(1 + exp(-z)). Drawn against z for
several a: smoothing mixes that share of the label with both classes, and the corrections take the label for one that
T = (1 - a) I + (a/2) 1 1^T has spoiled.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from lightning_flip.functional import (
    backward_correction_loss,
    cross_entropy,
    forward_correction_loss,
    label_smoothing_loss,
    smoothing_matrix,
)

SHARES = (0.1, 0.2, 0.4)
SHOWN = 6.0  # logits from -6 to 6 are drawn
FAR = 12.0  # backward correction clips log p at log 1e-7, beyond a logit of 16

Loss = Callable[[Tensor, Tensor, float], Tensor]


def smoothing(logits: Tensor, target: Tensor, a: float) -> Tensor:
    return label_smoothing_loss(logits, target, smoothing=a, reduction="none")


def backward(logits: Tensor, target: Tensor, a: float) -> Tensor:
    return backward_correction_loss(logits, target, smoothing_matrix(2, a), reduction="none")


def forward(logits: Tensor, target: Tensor, a: float) -> Tensor:
    return forward_correction_loss(logits, target, smoothing_matrix(2, a), reduction="none")


TREATMENTS: dict[str, Loss] = {
    "label smoothing": smoothing,
    "backward correction": backward,
    "forward correction": forward,
}


def loss_of(z: Tensor, treatment: str = "none", a: float = 0.0) -> Tensor:
    """Losses [n] of the positive label at logits z [n]."""
    logits = torch.stack([torch.zeros_like(z), z], dim=1)
    target = torch.ones(len(z), dtype=torch.int64)
    if treatment == "none":
        return cross_entropy(logits, target, reduction="none")
    return TREATMENTS[treatment](logits, target, a)


def claims(treatment: str, a: float) -> dict[str, float]:
    """The loss at both ends, its smallest value between them, and the logits where that and a change of sign lie."""
    z = torch.linspace(-FAR, FAR, 240_001, dtype=torch.float64)
    loss = loss_of(z, treatment, a)
    lowest = int(loss.argmin())
    below = (loss < 0).nonzero()
    return {
        "far left": float(loss[0]),
        "far right": float(loss[-1]),
        "lowest": float(loss[lowest]),
        "lowest at": float(z[lowest]),
        "negative from": float(z[below[0, 0]]) if len(below) else float("nan"),
    }


def draw(out: Path) -> None:
    """A panel for each treatment, with the untreated loss in each."""
    from matplotlib.figure import Figure

    z = torch.linspace(-SHOWN, SHOWN, 601, dtype=torch.float64)
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    panels = figure.subplots(1, 3, sharex=True, sharey=True)
    for axes, treatment in zip(panels, TREATMENTS, strict=True):
        axes.axhline(0, color="#bbbbbb", linewidth=0.8)
        axes.plot(z, loss_of(z), color="black", linewidth=2, label="no treatment")
        for a, color, style in zip(SHARES, ("#4477aa", "#228833", "#aa3377"), ("--", "-.", ":"), strict=True):
            axes.plot(z, loss_of(z, treatment, a), color=color, linestyle=style, linewidth=1.6, label=f"a = {a:g}")
        axes.set(title=treatment, xlabel="logit of the label's class")
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("loss (nats)")
    figure.legend(
        *panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False, handlelength=2.8
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=130)


def main(args: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/losses_of_a_logit.png"), help="the figure (%(default)s)")
    options = parser.parse_args(args)
    print(f"| treatment | loss at -{FAR:g} | loss at {FAR:g} | lowest | lowest at | negative from |")
    print("| :--- | ---: | ---: | ---: | ---: | ---: |")
    for name, a in [("none", 0.0), *((treatment, a) for treatment in TREATMENTS for a in SHARES)]:
        found = claims(name, a)
        at = "the right end" if found["lowest at"] == FAR else f"{found['lowest at']:.2f}"
        negative = f"{found['negative from']:.2f}" if found["negative from"] == found["negative from"] else "never"
        cells = [f"{found[end]:.3f}" for end in ("far left", "far right", "lowest")]
        print(f"| {name}{f', a = {a:g}' if a else ''} | {' | '.join([*cells, at, negative])} |")
    draw(options.out)
    print(f"\n{options.out}")


if __name__ == "__main__":
    main()
