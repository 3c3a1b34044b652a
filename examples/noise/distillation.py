"""Teachers and students on digits of which 40% carry a wrong training label: which of the two should know of it?

A teacher is `lightning-flip fit --config examples/noise/<loss>.yaml`, trained once a seed for its three students, and a
student `lightning-flip fit --config examples/noise/distillation/<student>.yaml`, both without the recording. A pair is
`lightning-flip experiment distill --config examples/noise/distillation/<teacher>_to_<student>.yaml` with other seeds.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from pathlib import Path

from rich.console import Console
from training import train

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from _shared import common_options, measure, on_one_quiet_thread, print_table, progress_bar, spread

TEACHERS = {"plain": "standard", "smoothed": "label_smoothing", "corrected": "forward"}
STUDENTS = ("plain", "smoothed", "corrected")
ALONE = "the teacher itself"
COLUMNS = (ALONE, *(f"{name} student" for name in STUDENTS))
MEASURES = {"test": "test acc", "ece": "ECE"}
Results = dict[str, dict[str, list[dict[str, float]]]]  # teacher -> column -> what each seed gave


def temperature(text: str) -> float:
    number = float(text)
    if not 0 < number < math.inf:
        raise argparse.ArgumentTypeError(f"must be greater than 0 and finite, got {number}")
    return number


def train_all(out: Path, seeds: int, epochs: int, t: float, console: Console) -> Results:
    results: Results = {teacher: {column: [] for column in COLUMNS} for teacher in TEACHERS}
    with progress_bar(console, seeds * len(TEACHERS) * len(COLUMNS), epochs) as progress:
        for seed in range(seeds):
            folder = out / f"seed-{seed}"
            for teacher, config in TEACHERS.items():
                progress.announce(f"{teacher} teacher", seed)
                cli = train(config, folder, seed, epochs, progress)
                results[teacher][ALONE].append(measure(cli.model, cli.datamodule))
                checkpoint = folder / f"{teacher}.ckpt"
                cli.trainer.save_checkpoint(checkpoint)
                options = [f"--model.init_args.reference={checkpoint}", f"--model.init_args.kd_temperature={t}"]
                for student, column in zip(STUDENTS, COLUMNS[1:], strict=True):
                    progress.announce(f"{teacher} teacher, {student} student", seed)
                    # A student never starts like its teacher.
                    cli = train(f"distillation/{student}", folder, seed + 100, epochs, progress, options)
                    results[teacher][column].append(measure(cli.model, cli.datamodule))
    return results


def main(args: list[str] | None = None) -> None:
    holds = "where the teachers go"
    parser = common_options(__doc__, "runs/noise-distillation", holds=holds, seeds="fits of each pair")
    parser.add_argument("--temperature", type=temperature, default=1.0, help="of both (default: %(default)s)")
    options = parser.parse_args(args)
    on_one_quiet_thread()
    console = Console()
    start = time.perf_counter()
    results = train_all(options.out, options.seeds, options.epochs, options.temperature, console)
    for name, title in MEASURES.items():
        rows = [
            [f"{teacher} teacher", *(spread(run[name] for run in runs[column]) for column in COLUMNS)]
            for teacher, runs in results.items()
        ]
        print_table([title, *COLUMNS], rows, console, options.markdown)
    console.print(
        f"Percent of the clean test digits, mean ± standard deviation of {options.seeds} seeds, temperature "
        f"{options.temperature:g}, {options.epochs} epochs, {time.perf_counter() - start:.0f} s.",
        highlight=False,
    )


if __name__ == "__main__":
    main()
