"""The trainings behind the figures, each a function that a worker process can run."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention
from stacked_training import Recipe, Trained, Weights, evaluate, fresh, network, probabilities, train
from torch import Tensor

from lightning_flip.data import ToyGaussianDataModule
from lightning_flip.functional import (
    base_difficulty,
    blended_supervision,
    empirical_kernel,
    noisy_supervision,
    soften,
    supervision_distance,
    zigzag_score,
)
from lightning_flip.stores import read_soft_targets

TEACHERS = 1000  # teachers start elsewhere than their students
STAGES = ("start", "best epoch", "end")


class Supervision(NamedTuple):
    """What a student learns from.

    Attributes:
        name: of the method; "noise" and "blend" are the unnamed ones.
        value: e of label smoothing and blends, the variance of noise, the path of a file of soft targets.
        seed: of the noise.
    """

    name: str
    value: float | str = 0.0
    seed: int = 0


class Student(NamedTuple):
    """A student as the figures need it; distances are of its supervision."""

    name: str
    seed: int
    distance: float  # mean over the training samples
    norm: float  # over all of them, the axis of the paper's Fig. 1
    accuracy: float
    calibration_error: float
    best_epoch: int
    stages: dict[str, np.ndarray] | None  # predictions on the training data
    supervision: np.ndarray | None


@dataclasses.dataclass(frozen=True)
class Task:
    """The data and the recipe, the same for everything."""

    num_samples: int = 100_000
    recipe: Recipe = dataclasses.field(default_factory=Recipe)

    def data(self, delta: float = 1.0) -> ToyGaussianDataModule:
        module = ToyGaussianDataModule(delta=delta, num_samples=self.num_samples, batch_size=self.recipe.batch_size)
        module.setup()
        return module


def build(supervision: Supervision, data: ToyGaussianDataModule) -> Tensor:
    """The distributions [N, K] that a student learns from."""
    target, truth = data.train_set.targets, data.train_set.true_probs
    one_hot = F.one_hot(target, data.num_classes).float()
    if supervision.name == "OHT":
        return one_hot
    if supervision.name == "GT":
        return truth
    if supervision.name == "LS":
        return (1 - supervision.value) * one_hot + supervision.value / data.num_classes
    if supervision.name == "noise":
        generator = torch.Generator().manual_seed(supervision.seed)
        return noisy_supervision(truth, supervision.value, generator=generator)
    if supervision.name == "blend":
        return blended_supervision(truth, target, supervision.value)
    return torch.from_numpy(read_soft_targets(supervision.value).probs)


def train_students(task: Task, seed: int, supervisions: list[Supervision], with_stages: bool = False) -> list[Student]:
    """Students of one seed: same start, same order of batches, only the supervision differs."""
    data = task.data()
    targets = torch.stack([build(supervision, data) for supervision in supervisions])
    trained = _train(task, data, targets, seed)
    test = evaluate(trained.best, data.test_set.inputs, data.test_set.targets)
    students = []
    for number, (supervision, (accuracy, error)) in enumerate(zip(supervisions, test, strict=True)):
        distance = supervision_distance(targets[number], data.train_set.true_probs)
        stages = _stages(trained, number, data.train_set.inputs) if with_stages else None
        students.append(
            Student(
                supervision.name,
                seed,
                float(distance.mean()),
                float(distance.square().sum().sqrt()),
                accuracy,
                error,
                trained.best_epoch[number],
                stages,
                targets[number].numpy() if with_stages else None,
            )
        )
    return students


def temperature_curve(task: Task, seed: int, temperatures: list[float]) -> list[dict[str, Any]]:
    """Accuracy of 3x32 students of a large and of an equal early-stopped teacher, by temperature (Fig. 12)."""
    small = dataclasses.replace(task.recipe, hidden=(32, 32, 32))
    large = dataclasses.replace(task.recipe, hidden=(256,) * 10)
    data = task.data()
    one_hot = F.one_hot(data.train_set.targets, data.num_classes).float()[None]
    rows = []
    for kind, recipe in (("large teacher", large), ("self-distillation", small)):
        teacher = _train(dataclasses.replace(task, recipe=recipe), data, one_hot, seed + TEACHERS)
        ((teacher_accuracy, _),) = evaluate(teacher.best, data.test_set.inputs, data.test_set.targets)
        probs = probabilities(teacher.best, data.train_set.inputs)[0]
        t = torch.tensor(temperatures).repeat(2)
        targets = torch.stack([soften(probs, temperature=float(each), teacher_is="probs") for each in t])
        scale = torch.cat([t[: len(temperatures)] ** 2, torch.ones(len(temperatures))])
        student_task = dataclasses.replace(task, recipe=small)
        students = _train(student_task, data, targets, seed, temperature=t, scale=scale)
        test = evaluate(students.best, data.test_set.inputs, data.test_set.targets)
        for number, (accuracy, _) in enumerate(test):
            loss = "t^2 H" if number < len(temperatures) else "H"
            facts = {"teacher": kind, "loss": loss, "temperature": float(t[number]), "seed": seed}
            rows.append({**facts, "accuracy": accuracy, "teacher accuracy": teacher_accuracy})
    return rows


def zigzag_by_delta(task: Task, deltas: list[float]) -> dict[float, tuple[np.ndarray, np.ndarray]]:
    """Base difficulty and zig-zag score of every sample of four tasks, over clean passes at every epoch (Fig. 14)."""
    modules = [task.data(delta) for delta in deltas]
    inputs = torch.stack([module.train_set.inputs for module in modules])
    targets = torch.stack([F.one_hot(module.train_set.targets, module.num_classes).float() for module in modules])
    val_inputs = torch.stack([module.val_set.inputs for module in modules])
    val_target = torch.stack([module.val_set.targets for module in modules])
    path: list[Tensor] = []

    def watch(epoch: int, weights: Weights) -> None:
        path.append(probabilities(weights, inputs))

    weights = fresh(len(deltas), inputs.shape[-1], targets.shape[-1], task.recipe.hidden, TEACHERS)
    train(weights, inputs, targets, val_inputs, val_target, task.recipe, seed=TEACHERS, after_epoch=watch)
    paths = torch.stack(path, dim=1)
    scores = {}
    for delta, module, own in zip(deltas, modules, paths, strict=True):
        target = module.train_set.targets
        difficulty = base_difficulty(module.train_set.true_probs, target)
        scores[delta] = difficulty.numpy(), zigzag_score(own, target).numpy()
    return scores


def kernels_at_start(task: Task, observed: list[int], others: list[int]) -> np.ndarray:
    """K(x_o, x_u) of the untrained teacher, [observed, others, K, K], for pairs of training samples."""
    data = task.data()
    inputs = data.train_set.inputs
    start = network(fresh(1, inputs.shape[1], data.num_classes, task.recipe.hidden, TEACHERS), 0)
    return empirical_kernel(start, inputs[observed], inputs[others], memory_budget=1 << 28).numpy()


def _train(task: Task, data: ToyGaussianDataModule, targets: Tensor, seed: int, **options: Any) -> Trained:
    weights = fresh(len(targets), data.num_features, data.num_classes, task.recipe.hidden, seed)
    val = data.val_set
    return train(weights, data.train_set.inputs, targets, val.inputs, val.targets, task.recipe, seed=seed, **options)


def _stages(trained: Trained, number: int, inputs: Tensor) -> dict[str, np.ndarray]:
    moments = (trained.initial, trained.best, trained.last)
    own = [[weight[number : number + 1] for weight in weights] for weights in moments]
    return {name: probabilities(weights, inputs)[0].numpy() for name, weights in zip(STAGES, own, strict=True)}
