"""The figures of the toy experiments, drawn from what `analyze` made."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from lightning_flip.reports import (
    plot_decomposition,
    plot_distance_stages,
    plot_simplex_paths,
    plot_supervision,
    plot_zigzag_relation,
    simplex_path,
)


def draw_all(found: Mapping[str, Any], shown: Mapping[str, Any], out: Path) -> None:
    """Write every figure as PNG."""
    titles = {name: f"{name} (sample {sample})" for name, sample in found["watched"].items()}
    stages = shown["stages"]
    figures = {
        "fig01-supervision": plot_supervision(shown["supervision"], distance="norm of supervision - p*"),
        "fig02-stages": plot_distance_stages({"one-hot labels": stages["OHT"]}),
        "fig03-paths": _paths(found, titles),
        "fig12-temperature": _temperatures(found["temperature"]),
        "fig14-zigzag": plot_zigzag_relation({f"d = {delta:g}": item for delta, item in shown["zigzag"].items()}),
        "fig17-stages": plot_distance_stages({name: stages[name] for name in ("LS", "KD", "ESKD", "GT")}),
        "fig18-decomposition": plot_decomposition(
            shown["epochs"],
            {titles[name]: trace for name, trace in shown["traces"].items()},
            {titles[name]: kernel for name, kernel in shown["kernels"].items()},
        ),
    }
    for name, figure in figures.items():
        figure.savefig(out / f"{name}.png", dpi=100)


def _paths(found: Mapping[str, Any], titles: Mapping[str, str]) -> Figure:
    data, paths = found["data"], found["paths"]
    steps_an_epoch = -(-len(data.train_set) // data.batch_size)
    stop = int(np.abs(paths.steps - found["teachers"][0].best_epoch * steps_an_epoch).argmin())
    panels = {}
    for name, sample in found["watched"].items():
        _, path = paths.of(sample)
        label = int(data.train_set.targets[sample])
        corners = [f"class {k}" + (" (label)" if k == label else "") for k in range(path.shape[1])]
        truth = data.train_set.true_probs[sample]
        panels[titles[name]] = simplex_path(path, truth=truth, stop=min(stop, len(path) - 1), corners=corners)
    return plot_simplex_paths(panels, columns=2)


def _temperatures(rows: list[dict[str, Any]]) -> Figure:
    figure = Figure(figsize=(8.2, 3.2), layout="constrained")
    kinds = list(dict.fromkeys(row["teacher"] for row in rows))
    for axes, kind in zip(figure.subplots(1, 2, sharey=True), kinds, strict=True):
        for color, loss in (("#1f6fb2", "t^2 H"), ("#c8442c", "H")):
            own = [row for row in rows if row["teacher"] == kind and row["loss"] == loss]
            temperatures = sorted({row["temperature"] for row in own})
            values = np.array([[r["accuracy"] for r in own if r["temperature"] == t] for t in temperatures])
            axes.plot(temperatures, values.mean(axis=1), "o-", color=color, markersize=4, label=f"loss {loss}")
            lowest, highest = values.min(axis=1), values.max(axis=1)
            axes.fill_between(temperatures, lowest, highest, color=color, alpha=0.15, linewidth=0)
        teacher = np.mean([row["teacher accuracy"] for row in rows if row["teacher"] == kind])
        axes.axhline(teacher, color="#9aa3ad", linestyle="--", linewidth=1, label="teacher")
        axes.set_xscale("log")
        axes.set_xticks(temperatures, [f"{t:g}" for t in temperatures])
        axes.minorticks_off()
        axes.set_xlabel("temperature")
        axes.set_title(kind, fontsize="medium")
        axes.spines[["top", "right"]].set_visible(False)
    figure.axes[0].set_ylabel("test accuracy")
    figure.axes[0].legend(frameon=False, fontsize="small")
    return figure
