"""The toy experiments of the Filter-KD paper: trains everything, prints its numbers, and writes tables and figures."""

from __future__ import annotations

import argparse
import csv
import json
import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from experiments import (
    STAGES,
    Student,
    Supervision,
    Task,
    kernels_at_start,
    temperature_curve,
    train_students,
    zigzag_by_delta,
)
from figures import draw_all
from stacked_training import Recipe
from teachers import Teacher, train_teacher

from lightning_flip.data import ToyGaussianDataModule
from lightning_flip.functional import base_difficulty, supervision_distance
from lightning_flip.reports import (
    SupervisionRun,
    distance_stages,
    kernel_similarity,
    samples_by_difficulty,
    softmax_traces,
    supervision_relation,
    zigzag_relation,
)
from lightning_flip.stores import read_paths, read_soft_targets

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from _shared import positive, spread

METHODS = ("OHT", "LS", "KD", "ESKD", "Filter-KD", "GT")
DELTAS = (4.0, 2.0, 1.0, 0.5)
TEMPERATURES = (0.5, 1.0, 1.5, 2.0, 4.0, 7.0, 10.0, 20.0)
CROWD = {"noise": "", "blend": "blends"}
LEVELS = {"easy": 0.05, "easy, too": 0.3, "medium": 0.8, "hard": 0.985}


class Inline(Executor):
    """One process: a task runs when it is handed in."""

    def submit(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        future.set_result(function(*args, **kwargs))
        return future


def run(options: argparse.Namespace, pool: Executor, task: Task) -> dict[str, Any]:
    """Train everything. What needs a teacher's file waits for that teacher alone."""
    data = task.data()
    difficulty = base_difficulty(data.train_set.true_probs, data.train_set.targets).numpy()
    watched = samples_by_difficulty(difficulty, LEVELS)
    seeds = range(options.seeds)
    teachers = [
        pool.submit(train_teacher, task, seed, str(options.out / f"teacher-{seed}"), list(watched.values()))
        for seed in seeds
    ]
    scores = pool.submit(zigzag_by_delta, task, list(DELTAS))
    noise = [
        pool.submit(train_students, task, seed, chunk)
        for seed in seeds
        for chunk in _chunks(noisy_supervisions(options, seed), 13)
    ]
    others = [sample for sample in range(len(difficulty)) if sample not in watched.values()][:500]
    kernels = pool.submit(kernels_at_start, task, list(watched.values()), others)
    trained = [teacher.result() for teacher in teachers]
    students = [
        pool.submit(train_students, task, teacher.seed, baselines(teacher), teacher.seed == 0) for teacher in trained
    ]
    curves = [pool.submit(temperature_curve, task, seed, list(TEMPERATURES)) for seed in seeds]
    return {
        "data": data,
        "watched": watched,
        "teachers": trained,
        "baselines": [student for future in students for student in future.result()],
        "noise": [student for future in noise for student in future.result()],
        "zigzag": scores.result(),
        "temperature": [row for future in curves for row in future.result()],
        "others": others,
        "kernels": kernels.result(),
        "paths": read_paths(options.out / "teacher-0", mode="eval"),
    }


def noisy_supervisions(options: argparse.Namespace, seed: int) -> list[Supervision]:
    """Noise of variances log-uniform in [0.005, 0.8], one in each of equal parts of that range, and blends."""
    place = np.random.default_rng(seed).random(options.noisy)
    variances = 0.005 * (0.8 / 0.005) ** ((np.arange(options.noisy) + place) / options.noisy)
    noisy = [Supervision("noise", float(v), 100_000 * seed + n) for n, v in enumerate(variances)]
    shift = (seed + 1) / (options.seeds + 1)
    return noisy + [Supervision("blend", (n + shift) / options.blends) for n in range(options.blends)]


def baselines(teacher: Teacher) -> list[Supervision]:
    values: dict[str, float | str] = {"LS": 0.1, **teacher.files}
    return [Supervision(name, values.get(name, 0.0)) for name in METHODS]


def analyze(found: dict[str, Any]) -> dict[str, Any]:
    """The data of every figure: plain arrays and tables."""
    data: ToyGaussianDataModule = found["data"]
    target, truth = data.train_set.targets.numpy(), data.train_set.true_probs.numpy()
    named = [SupervisionRun(s.name, s.norm, s.accuracy, s.calibration_error) for s in found["baselines"]]
    crowd = [
        SupervisionRun(CROWD[s.name], s.norm, s.accuracy, s.calibration_error)  # the paper has no blends
        for s in found["noise"]
    ]
    stages = {
        s.name: distance_stages(truth, target, s.stages, supervision=s.supervision)
        for s in found["baselines"]
        if s.stages is not None
    }
    relations = {delta: zigzag_relation(*scores) for delta, scores in found["zigzag"].items()}
    inputs = data.train_set.inputs.numpy()
    watched = found["watched"]
    kernels = {
        title: kernel_similarity(inputs[sample], inputs[found["others"]], kernel, group=target[found["others"]])
        for (title, sample), kernel in zip(watched.items(), found["kernels"], strict=True)
    }
    paths = found["paths"]
    columns = [int(np.flatnonzero(paths.index == sample)[0]) for sample in watched.values()]
    traces = softmax_traces(paths.path[:, columns])
    return {
        "supervision": supervision_relation(named + crowd),
        "noise alone": supervision_relation([run for run in crowd if not run.name]),
        "stages": stages,
        "zigzag": relations,
        "kernels": kernels,
        "traces": dict(zip(watched, traces.T, strict=True)),
        "epochs": paths.steps / -(-len(target) // data.batch_size),
    }


def report(found: dict[str, Any], shown: dict[str, Any], options: argparse.Namespace) -> list[str]:
    """The numbers, as Markdown."""
    lines: list[str] = []
    rows = []
    for title, name in (("all", "supervision"), ("noise alone", "noise alone")):
        relation = shown[name]
        paper = ("-0.930", "0.895") if name == "supervision" else ("", "")
        for what, correlation, theirs in zip(
            ("accuracy", "ECE"), (relation.accuracy, relation.calibration_error), paper, strict=True
        ):
            p_value = f"{correlation.p_value:.0e}"
            rows.append([title, str(correlation.pairs), what, f"{correlation.coefficient:.3f}", p_value, theirs])
    header = ["students", "number", "distance against", "Spearman", "p", "paper"]
    lines += _table("Fig. 1: supervision distance against accuracy and calibration", header, rows)

    data = found["data"]
    bayes = float((data.test_set.true_probs.argmax(dim=1) == data.test_set.targets).float().mean())
    rows = []
    for name in METHODS:
        own = [student for student in found["baselines"] if student.name == name]
        fields = ("distance", "norm", "accuracy", "calibration_error")
        values = {field: np.array([getattr(student, field) for student in own]) for field in fields}
        rows.append(
            [
                name,
                spread(values["distance"], 3),
                spread(values["norm"], 2),
                spread(100 * values["accuracy"], 2),
                spread(values["calibration_error"], 4),
                ", ".join(str(student.best_epoch) for student in own),
            ]
        )
    header = ["supervision", "mean distance", "norm", "test accuracy %", "test ECE", "best epochs"]
    lines += _table(f"Fig. 1: supervisions and their students (Bayes: {100 * bayes:.2f}%)", header, rows)

    rows = []
    truth = data.train_set.true_probs
    for teacher in found["teachers"]:
        distances = []
        for method in ("ESKD", "KD", "Filter-KD", "filtered last"):
            probs = torch.from_numpy(read_soft_targets(teacher.files[method]).probs)
            distances.append(float(supervision_distance(probs, truth).mean()))
        rows.append([str(teacher.seed), str(teacher.best_epoch), *(f"{distance:.4f}" for distance in distances)])
    header = ["teacher", "best epoch", "early-stopped", "converged", "filtered, best epoch", "filtered, last epoch"]
    lines += _table("Mean distance of teachers from p*", header, rows)

    rows = [[name, *(f"{mean:.3f}" for mean in row.means().values())] for name, row in shown["stages"].items()]
    lines += _table("Fig. 2 and 17: mean distance of students from p*", ["supervision", *STAGES], rows)

    rows = []
    for delta, item in shown["zigzag"].items():
        mean = float(item.difficulty.mean())
        rows.append([f"{delta:g}", f"{mean:.3f}", f"{item.correlation.coefficient:.3f}", "positive"])
    lines += _table(
        "Fig. 14: zig-zag score against base difficulty", ["d", "mean difficulty", "Spearman", "paper"], rows
    )

    rows = []
    kinds = list(dict.fromkeys((row["teacher"], row["loss"]) for row in found["temperature"]))
    for t in TEMPERATURES:
        cells = []
        for kind in kinds:
            same = [r for r in found["temperature"] if (r["teacher"], r["loss"]) == kind and r["temperature"] == t]
            cells.append(spread([100 * row["accuracy"] for row in same], 2))
        rows.append([f"{t:g}", *cells])
    header = ["temperature", *(f"{teacher}, {loss}" for teacher, loss in kinds)]
    lines += _table("Fig. 12: accuracy % by temperature", header, rows)

    rows = [[name, f"{kernel.correlation.coefficient:.2f}"] for name, kernel in shown["kernels"].items()]
    lines += _table("Fig. 18: tr K and the cosine of inputs, untrained network", ["sample", "Spearman"], rows)
    return lines


def write_tables(found: dict[str, Any], shown: dict[str, Any], out: Path) -> None:
    """The data behind the figures as CSV, for other tools to draw."""
    _write_csv(out / "supervision.csv", shown["supervision"].table())
    for name, row in shown["stages"].items():
        _write_csv(out / f"distances-{name}.csv", row.table())
    for delta, relation in shown["zigzag"].items():
        _write_csv(out / f"zigzag-{delta:g}.csv", relation.table())
    rows = found["temperature"]
    _write_csv(out / "temperature.csv", {name: [row[name] for row in rows] for name in rows[0]})
    students = [{k: v for k, v in s._asdict().items() if k not in ("stages", "supervision")} for s in _all(found)]
    (out / "students.json").write_text(json.dumps(students, indent=1) + "\n", encoding="utf-8")


def _all(found: dict[str, Any]) -> list[Student]:
    return [*found["baselines"], *found["noise"]]


def _write_csv(path: Path, columns: Mapping[str, Sequence[Any]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(columns)
        writer.writerows(zip(*columns.values(), strict=True))


def _table(title: str, header: list[str], rows: list[list[str]]) -> list[str]:
    lines = [f"### {title}", "", "| " + " | ".join(header) + " |", "|:---" + "|---:" * (len(header) - 1) + "|"]
    return [*lines, *("| " + " | ".join(row) + " |" for row in rows), ""]


def _chunks(items: list[Supervision], size: int) -> list[list[Supervision]]:
    return [items[first : first + size] for first in range(0, len(items), size)]


def main(args: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("runs/toy"), help="folder of tables, figures and soft targets")
    parser.add_argument("--seeds", type=positive, default=3)
    parser.add_argument("--epochs", type=positive, default=40)
    parser.add_argument("--samples", type=positive, default=100_000, help="of all splits together")
    parser.add_argument("--noisy", type=positive, default=21, help="noisy supervisions a seed")
    parser.add_argument("--blends", type=positive, default=4, help="blends of labels and p* a seed")
    parser.add_argument("--workers", type=positive, default=2, help="processes; 1 stays in this one")
    options = parser.parse_args(args)
    options.out.mkdir(parents=True, exist_ok=True)
    start = time.perf_counter()
    task = Task(options.samples, Recipe(epochs=options.epochs))
    if options.workers > 1:
        os.environ["OMP_NUM_THREADS"] = "1"  # two processes of one thread each; a product here is too small to share
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(options.workers, mp_context=context) as pool:
            found = run(options, pool, task)
    else:
        torch.set_num_threads(1)
        found = run(options, Inline(), task)
    shown = analyze(found)
    write_tables(found, shown, options.out)
    draw_all(found, shown, options.out)
    lines = report(found, shown, options)
    (options.out / "numbers.md").write_text("\n".join(lines), encoding="utf-8")
    print("\n".join(lines))
    print(f"{time.perf_counter() - start:.0f} s; figures, tables and soft targets lie in {options.out}.")


if __name__ == "__main__":
    main()
