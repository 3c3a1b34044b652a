"""Teachers under Lightning, watched by this package's callbacks: soft targets, and the paths of chosen samples."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path
from typing import NamedTuple

import lightning.pytorch as pl
import torch
from experiments import TEACHERS, Task

from lightning_flip.callbacks import LearningPath, PredictionFilter
from lightning_flip.models import MLP, Classifier
from lightning_flip.stores import read_soft_targets

FILES = {"KD": "eval_last", "ESKD": "eval_best", "Filter-KD": "filtered_best", "filtered last": "filtered_last"}


class Teacher(NamedTuple):
    seed: int
    files: dict[str, str]  # soft targets by method
    best_epoch: int
    val_accuracy: float


class Optimizer:
    """SGD as the paper has it; an object, because a worker process cannot be sent a lambda."""

    def __init__(self, lr: float, momentum: float) -> None:
        self.options = {"lr": lr, "momentum": momentum}

    def __call__(self, parameters: object) -> torch.optim.Optimizer:
        return torch.optim.SGD(parameters, **self.options)


def train_teacher(task: Task, seed: int, folder: str, samples: list[int], every: int = 2) -> Teacher:
    """Train one teacher on the labels that were drawn.

    Args:
        task: data and recipe.
        seed: of start and order of batches.
        folder: where its files go; replaced if there.
        samples: whose paths are recorded, in eval mode.
        every: steps between two points of a path.
    """
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", ".*does not have many workers.*")
    warnings.filterwarnings("ignore", ".*LeafSpec.*")  # Lightning's own call
    torch.manual_seed(seed + TEACHERS)
    data = task.data()
    recipe = task.recipe
    network = MLP(data.num_features, data.num_classes, hidden=recipe.hidden)
    model = Classifier(network, num_classes=data.num_classes, optimizer=Optimizer(recipe.lr, recipe.momentum))
    callbacks: list[pl.Callback] = [
        PredictionFilter(also=["eval_best", "eval_last"], dirpath=folder, overwrite=True),
        LearningPath(samples, passes="eval", every_n_steps=every, dirpath=folder, overwrite=True),
    ]
    trainer = pl.Trainer(
        max_epochs=recipe.epochs,
        accelerator="cpu",
        callbacks=callbacks,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )
    trainer.fit(model, datamodule=data)
    files = {method: str(Path(folder, "soft_targets", f"{name}.safetensors")) for method, name in FILES.items()}
    manifest = read_soft_targets(files["ESKD"]).manifest
    return Teacher(seed, files, manifest["epoch"] + 1, manifest["score"])
