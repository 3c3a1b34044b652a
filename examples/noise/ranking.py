"""How well do scores find wrong labels? One recorded run, beside confident learning on held-out predictions.

Digits with symmetric noise; or images of yours with the confusions of human annotators, for the ten classes of CIFAR-10
in their usual order: --images FILE.npz, which has the arrays images, uint8 [N, H, W, 3], and labels, int [N]. With
torchvision's CIFAR10 that file is np.savez(FILE, images=dataset.data, labels=dataset.targets).

All figures are read from the recorded runs. These stay in OUT, and are not trained again.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import sys
import warnings
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from rich.console import Console
from sklearn.metrics import average_precision_score, roc_auc_score
from sklearn.model_selection import StratifiedKFold
from torch import Tensor, nn
from torch.optim.lr_scheduler import CosineAnnealingLR, OneCycleLR
from torch.utils.data import DataLoader, Subset, TensorDataset

from lightning_flip import PredictionHistory
from lightning_flip.data import DigitsDataModule, NoisyLabels
from lightning_flip.functional import symmetric_transition
from lightning_flip.models import Classifier, SmallCNN
from lightning_flip.models.classifier import momentum_sgd
from lightning_flip.stores import History, HistoryError, read_history
from lightning_flip.stores.history.suspects import LabelScores, ScoreSums

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from _shared import on_one_quiet_thread, positive, print_table, progress_bar, spread

# What annotators call images of each class of CIFAR-10, in thousandths: the mean of the three random labels of
# CIFAR-10N (Wei et al., "Learning with Noisy Labels Revisited", ICLR 2022).
ANNOTATORS = """
    846  27  33   8   8   9   8   7  40  14
     16 840   6  11   7   6   5   5   6  99
     22  16 839  21  26  22  23  14  10   7
     18  16  42 742  21 105  26  13   9   9
     18  15  33  19 751  53  20  76   9   6
     14  11  23  83  17 817  12  14   5   5
     15  15  37  34  21  25 826  12   9   6
     15  10  10   9  21  27   9 890   6   4
     32  30   8   6   8   7   6   8 875  20
     17 124   6   8   7   8   5   6  11 807
"""
MEASURES = ("prob_label", "logit_margin", "cross_entropy", "best_other")
FOLDS = 3
CLASSES = 10


@dataclasses.dataclass(frozen=True)
class Task:
    """Images [N, C, H, W], true labels [N], sizes of the splits, the noise at a rate, and how a network is trained."""

    name: str
    images: Tensor
    labels: Tensor
    sizes: tuple[int, int]
    transition: Callable[[float], Tensor]
    network: Callable[[], nn.Module]
    epochs: int
    batch_size: int
    optimizer: Callable[..., Any]
    schedule: Callable[[int, Any], Any]
    seed: int = 0
    rate: float = 0.0

    def splits(self) -> tuple[NoisyLabels, NoisyLabels]:
        """To train on and to validate on. Both have wrong labels, as if nobody knew which labels are wrong."""
        order = torch.randperm(len(self.labels), generator=torch.Generator().manual_seed(self.seed))
        whole, noise = TensorDataset(self.images, self.labels), self.transition(self.rate)
        train, val = order[: sum(self.sizes)].split(self.sizes)
        return (
            NoisyLabels(Subset(whole, train.tolist()), transition=noise, seed=2 * self.seed),
            NoisyLabels(Subset(whole, val.tolist()), transition=noise, seed=2 * self.seed + 1),
        )

    def fit(self, train: Any, val: Any = None, callbacks: Sequence[pl.Callback] = ()) -> Classifier:
        pl.seed_everything(self.seed, verbose=False)
        schedule = functools.partial(self.schedule, self.epochs)
        model = Classifier(self.network(), self.optimizer, schedule, num_classes=CLASSES)
        trainer = pl.Trainer(
            max_epochs=self.epochs,
            devices=1,
            callbacks=list(callbacks),
            logger=False,
            enable_checkpointing=False,
            enable_model_summary=False,
            enable_progress_bar=False,
            num_sanity_val_steps=0,
            limit_val_batches=0 if val is None else 1.0,
        )
        loader = DataLoader(train, self.batch_size, shuffle=True)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "A `OneCycleLR` scheduler is using 'interval': 'epoch'")  # on purpose
            trainer.fit(model, loader, DataLoader(train if val is None else val, 500))
        return model


class RandomFlip(nn.Module):
    """Mirrors half of the images in training."""

    def forward(self, x: Tensor) -> Tensor:
        mirrored = torch.rand(len(x), 1, 1, 1, device=x.device) < 0.5
        return torch.where(mirrored, x.flip(3), x) if self.training else x


def image_network() -> nn.Module:
    layers: list[nn.Module] = [RandomFlip()]
    for before, after in pairwise((3, 24, 48, 96, 160)):
        conv = nn.Conv2d(before, after, 3, padding=1, bias=False)
        layers += [conv, nn.MaxPool2d(2), nn.BatchNorm2d(after), nn.ReLU()]
    network = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(160, CLASSES))
    return network.to(memory_format=torch.channels_last)  # almost twice as fast on a CPU


def confusions(rate: float) -> Tensor:
    """The confusions of annotators, scaled to a rate."""
    shares = torch.tensor([[float(cell) for cell in line.split()] for line in ANNOTATORS.strip().splitlines()])
    wrong = shares.double().fill_diagonal_(0)
    wrong *= rate * CLASSES / wrong.sum()
    return wrong + torch.diag(1 - wrong.sum(dim=1))


def cosine(epochs: int, optimizer: Any) -> Any:
    return CosineAnnealingLR(optimizer, epochs)


def one_cycle(epochs: int, optimizer: Any) -> Any:
    return OneCycleLR(optimizer, 0.1, total_steps=epochs + 1, pct_start=0.25)  # one more: a step follows the last epoch


def digits() -> Task:
    images, labels = DigitsDataModule().load()
    noise = functools.partial(symmetric_transition, CLASSES)
    return Task("digits", images, labels, (1297, 500), noise, SmallCNN, 30, 64, momentum_sgd, cosine)


def pictures(path: Path, train: int, val: int) -> Task:
    with np.load(path) as file:
        images, labels = torch.tensor(file["images"]), torch.tensor(file["labels"]).long()
    if images.ndim != 4 or images.shape[3] != 3 or len(images) != len(labels) or len(images) < train + val:
        raise SystemExit(
            f"--images needs the arrays images [N, H, W, 3] and labels [N], N at least {train + val:,}; got"
            f" {list(images.shape)} and {list(labels.shape)} in {path}."
        )
    inputs = images.permute(0, 3, 1, 2).float()
    inputs = (inputs - inputs.mean(dim=(0, 2, 3), keepdim=True)) / inputs.std(dim=(0, 2, 3), keepdim=True)
    sgd = functools.partial(torch.optim.SGD, lr=0.1, momentum=0.9, nesterov=True, weight_decay=2e-3)
    return Task(path.stem, inputs, labels, (train, val), confusions, image_network, 16, 128, sgd, one_cycle)


def recorded(task: Task, folder: Path, callbacks: Sequence[pl.Callback]) -> History:
    """The run in a folder; trained if it is not there as a whole."""
    try:
        history = read_history(folder)
        if len(history.passes("train")) == task.epochs:
            return history
    except HistoryError:
        pass
    task.fit(*task.splits(), [PredictionHistory(folder, overwrite=True), *callbacks])
    return read_history(folder)


def held_out(task: Task, path: Path, callbacks: Sequence[pl.Callback]) -> np.ndarray:
    """Probabilities [N, K] of the training images, each by a model that was not trained on it."""
    if path.exists():
        return np.load(path)
    data = task.splits()[0]
    probs = np.zeros((len(data), CLASSES))
    for train, rest in StratifiedKFold(FOLDS, shuffle=True, random_state=task.seed).split(probs, data.noisy_targets):
        model = task.fit(Subset(data, train.tolist()), callbacks=callbacks).eval()
        with torch.no_grad():
            batches = DataLoader(Subset(data, rest.tolist()), 500)
            probs[rest] = torch.cat([model(x).double().softmax(dim=1) for x, _ in batches]).numpy()
    np.save(path, probs)
    return probs


@dataclasses.dataclass
class Figures:
    """What one run shows: per score AUROC and average precision, per suggestion the share that is right, and counts."""

    wrong: np.ndarray
    scores: dict[str, tuple[float, float]] = dataclasses.field(default_factory=dict)
    suggestions: dict[str, float] = dataclasses.field(default_factory=dict)
    counts: dict[str, tuple[float, float, float]] = dataclasses.field(default_factory=dict)

    def rank(self, name: str, suspicion: np.ndarray) -> None:
        if self.wrong.any():
            self.scores[name] = (
                float(roc_auc_score(self.wrong, suspicion)),
                float(average_precision_score(self.wrong, suspicion)),
            )

    def count(self, name: str, issue: np.ndarray) -> None:
        """How many, precision and recall."""
        hits, found, total = int((issue & self.wrong).sum()), int(issue.sum()), int(self.wrong.sum())
        self.counts[name] = found, hits / found if found else np.nan, hits / total if total else np.nan

    def cleanlab(self, name: str, label: np.ndarray, probs: np.ndarray) -> None:
        """cleanlab's own score and count, with its defaults."""
        from cleanlab.filter import find_label_issues
        from cleanlab.rank import get_label_quality_scores

        self.rank(f"cleanlab, {name}", -get_label_quality_scores(label, probs))
        self.count(f"cleanlab, {name}", find_label_issues(label, probs, n_jobs=1))


def averages(history: History, label: np.ndarray, epochs: set[int]) -> tuple[LabelScores, LabelScores, np.ndarray]:
    """Label scores over some epochs; the same with only the predictions that were wrong; mean probabilities [N, K]."""
    every, mistakes, probs = ScoreSums(label), ScoreSums(label), np.zeros((len(label), CLASSES))
    for rows in history.visits("train", measures=MEASURES):
        if rows.epoch in epochs:
            every.add(rows)
            other = np.where(rows.correct, -1, rows.measures["best_other"])
            mistakes.add(dataclasses.replace(rows, measures=rows.measures | {"best_other": other}))
            surprise = np.maximum(rows.measures["cross_entropy"] + rows.measures["logit_margin"], 0)
            np.add.at(probs, (rows.position, label[rows.position]), rows.measures["prob_label"])
            np.add.at(probs, (rows.position, rows.measures["best_other"].astype(int)), np.exp(-surprise))
    return every.scores(), mistakes.scores(), probs / probs.sum(axis=1, keepdims=True)


def examine(history: History, cleanlab: bool, probs: np.ndarray | None) -> Figures:
    """Everything from the recorded run alone, but for cleanlab on held-out probabilities."""
    table = history.label_scores()
    column = {name: table[name].to_numpy() for name in table.column_names}
    label, truth = column["given_label"], column["true_target"]
    figures = Figures(label != truth)
    epochs = {epoch for epoch, _ in history.passes("train")}
    figures.rank("label score (the default)", -column["label_score"])
    for name, some in {"chosen": set(history.chosen_epochs()), "all": epochs, "last": {max(epochs)}}.items():
        words = f"{name} epochs" if name != "last" else "last epoch"
        scores, mistakes, mean = averages(history, label, some)
        if name != "chosen":
            figures.rank(f"label score, {words}", -scores.label_score)
        for kind, found in (("best other class", scores), ("wrong predictions", mistakes)):
            if figures.wrong.any():
                right = found.suggestion[figures.wrong] == truth[figures.wrong]
                figures.suggestions[f"{kind}, {words}"] = float(right.mean())
        if name == "chosen" and cleanlab:
            figures.cleanlab("run's averages", label, mean)
    figures.rank("area under the margin", -column["aum"])
    figures.rank("confidence", -column["confidence"])
    votes = np.zeros(len(label))
    for right in history.correct_matrix("train"):
        votes += 0.2 * (right - votes)
    figures.rank("EMA of right predictions", -votes)
    events = column["forgetting_events"]
    figures.rank("forgetting events, never right first", np.where(column["times_right"] == 0, events.max() + 1, events))
    figures.count("almost certainly wrong", column["is_label_issue"])
    figures.count("disagree", column["disagrees"])
    if probs is not None:
        figures.cleanlab("held-out", label, probs)
    return figures


def validation_accuracy(history: History) -> float:
    """Of the last epoch, on true labels."""
    *_, last = history.visits("val")
    return float((last.pred == history.samples("val")["true_target"].to_numpy()[last.position]).mean())


def print_figures(found: dict[float, list[Figures]], console: Console, markdown: bool) -> None:
    """Means over seeds."""

    def mean(runs: list[Figures], part: str, name: str, place: int | None = None, digits: int = 3) -> str:
        kept = [getattr(run, part)[name] for run in runs if name in getattr(run, part)]
        values = [value if place is None else value[place] for value in kept]
        told = [value for value in values if not np.isnan(value)]  # no precision where nothing was flagged
        return f"{np.mean(told):,.{digits}f}" if told else "-"

    ranked = {rate: runs for rate, runs in found.items() if runs[0].scores}
    if ranked:
        first = next(iter(ranked.values()))[0]
        titles = [f"{rate:.0%}: {word}" for rate in ranked for word in ("AUROC", "AP")]
        names = sorted(first.scores, key=lambda name: name.startswith("cleanlab"))
        rows = [[name, *(mean(runs, "scores", name, k) for runs in ranked.values() for k in (0, 1))] for name in names]
        print_table(["score", *titles], rows, console, markdown)
        rows = [[name, *(mean(runs, "suggestions", name) for runs in ranked.values())] for name in first.suggestions]
        print_table(["suggestion is the true class", *(f"{rate:.0%}" for rate in ranked)], rows, console, markdown)
    rows = []
    for rate, runs in found.items():
        rows.append([f"{rate:.0%}: wrong labels", f"{np.mean([run.wrong.sum() for run in runs]):,.0f}", "", ""])
        for name in sorted(runs[0].counts, key=lambda name: name.startswith("cleanlab")):
            cells = (mean(runs, "counts", name, place, digits) for place, digits in ((0, 0), (1, 2), (2, 2)))
            rows.append([f"{rate:.0%}: {name}", *cells])
    print_table(["samples", "number", "precision", "recall"], rows, console, markdown)


def main(args: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, help="train on images of this .npz file instead of digits")
    parser.add_argument("--sizes", type=positive, nargs=2, default=(12000, 2000), metavar=("TRAIN", "VAL"),
                        help="how many of the images (default: 12000 2000)")  # fmt: skip
    parser.add_argument(
        "--rates", type=float, nargs="+", help="shares of wrong labels (default: 0.05 0.2 0.4; digits: 0, too)"
    )
    parser.add_argument("--seeds", type=positive, default=3, help="runs at each rate (default: %(default)s)")
    parser.add_argument("--epochs", type=positive, help="epochs of each fit (default: 30 for digits, else 16)")
    parser.add_argument("--cleanlab", type=int, default=0, metavar="SEEDS",
                        help="compare with cleanlab, by cross-validation for so many of the seeds")  # fmt: skip
    parser.add_argument("--markdown", action="store_true", help="print tables as Markdown")
    parser.add_argument("--out", type=Path, default=Path("runs/ranking"), help="recorded runs (default: %(default)s)")
    options = parser.parse_args(args)
    on_one_quiet_thread()
    console = Console()
    task = pictures(options.images, *options.sizes) if options.images else digits()
    task = dataclasses.replace(task, epochs=options.epochs or task.epochs)
    rates = options.rates or ([0.05, 0.2, 0.4] if options.images else [0.0, 0.05, 0.2, 0.4])
    found: dict[float, list[Figures]] = {}
    accuracies = []
    with progress_bar(console, len(rates) * options.seeds, task.epochs) as progress:
        for rate in rates:
            for seed in range(options.seeds):
                progress.announce(f"{task.name}, {rate:.0%} wrong", seed)
                run = dataclasses.replace(task, rate=rate, seed=seed)
                folder = options.out / f"{task.name}-{rate:g}-seed-{seed}"
                history = recorded(run, folder, [progress])
                probs = held_out(run, folder / "held_out.npy", []) if rate and seed < options.cleanlab else None
                found.setdefault(rate, []).append(examine(history, bool(rate and options.cleanlab), probs))
                accuracies.append((rate, validation_accuracy(history)))
    print_figures(found, console, options.markdown)
    for rate in rates:
        accuracy = spread(100 * value for at, value in accuracies if at == rate)
        console.print(f"{rate:.0%} wrong: validation accuracy {accuracy}% on true labels.", highlight=False)


if __name__ == "__main__":
    main()
