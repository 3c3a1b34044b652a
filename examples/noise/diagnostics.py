"""What losses make of wrong labels: Table 3, Fig. 3, 4, 7 of "Does label smoothing mitigate label noise?", on digits.

Every fit is `lightning-flip fit --config examples/noise/<loss>.yaml` with the callbacks NoiseAccuracy, LogitGaps and
FeatureProjection in the place of the recording; the figures lay what they found over each other.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from rich.console import Console
from training import train

from lightning_flip.callbacks import FeatureProjection, LogitGaps, NoiseAccuracy
from lightning_flip.reports import plot_class_projection, plot_logit_gaps

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from _shared import common_options, on_one_quiet_thread, print_table, progress_bar

LOSSES = {
    "standard": "standard",
    "label smoothing": "label_smoothing",
    "forward correction": "forward",
    "backward correction": "backward",
}
PARTS = {
    "all_true": "all: true labels",
    "clean_true": "right labels: true",
    "noisy_true": "wrong labels: true",
    "noisy_label": "wrong labels: given",
}
CLASSES = (3, 5, 8)


def watchers(folder: Path) -> list[Any]:
    """In eval mode, after the last epoch, as in the paper."""
    options: dict[str, Any] = {"every_n_epochs": None, "dirpath": folder, "overwrite": True}
    return [
        NoiseAccuracy(passes="eval", **options),
        LogitGaps(passes="eval", figures=False, **options),
        FeatureProjection(CLASSES, figures=False, **options),
    ]


def main(args: list[str] | None = None) -> None:
    parser = common_options(__doc__, "runs/noise-diagnostics", holds="where figures and tables go")
    options = parser.parse_args(args)
    on_one_quiet_thread()
    console = Console()
    found: dict[str, list[Any]] = {}
    with progress_bar(console, len(LOSSES), options.epochs) as progress:
        for label, name in LOSSES.items():
            progress.announce(label, 0)
            callbacks = watchers(options.out / name)
            train(name, options.out / name, 0, options.epochs, progress, watchers=callbacks)
            found[label] = [callback.found for callback in callbacks]
    rows = [
        [label, *(f"{100 * getattr(accuracy, part):.1f}" for part in PARTS)] for label, (accuracy, *_) in found.items()
    ]
    print_table(["loss", *PARTS.values()], rows, console, options.markdown)
    # Logits of backward correction are ten times as large: beside it one would see nothing of the others.
    narrow = {label: gaps for label, (_, gaps, _) in found.items() if label != "backward correction"}
    figures = {
        "logit_gaps.png": plot_logit_gaps(narrow),
        "projections.png": plot_class_projection({label: places for label, (*_, places) in found.items()}, columns=2),
    }
    for name, figure in figures.items():
        figure.savefig(options.out / name, dpi=110)
        console.print(str(options.out / name), highlight=False)


if __name__ == "__main__":
    main()
