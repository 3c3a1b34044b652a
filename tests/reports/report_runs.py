"""Run folders for tests of reports, written in a moment and without a training: every kind of run a report may meet."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from lightning_flip.stores.claims import claim, note_data
from lightning_flip.stores.history.parts import PartKey, list_parts, write_part
from lightning_flip.stores.history.samples import write_samples
from lightning_flip.stores.predictions.writing import write_predictions

Rows = dict[str, npt.NDArray[Any]]

ANIMALS = ("airplane", "car", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
# What a planted script would set.
MARKER = "__planted"
_SCRIPT = f"window.{MARKER}=1"
HOSTILE = (
    f"<script>{_SCRIPT}</script>",
    f"</script><script>{_SCRIPT}</script>",
    f'"><img src=x onerror={_SCRIPT}>',
    f"' onmouseover='{_SCRIPT}' x='",
    f"<svg/onload={_SCRIPT}>",
    f"</title></style></textarea><script>{_SCRIPT}</script>",
    f"<!--<script>{_SCRIPT}//-->",
    f"javascript:{_SCRIPT}",
    f"]]><script>{_SCRIPT}</script>",
    "{{ 7 * 7 }}{% raw %}${7*7}",
    f"`+{_SCRIPT}+`\\u003cscript>",
    "&lt;b&gt; &amp; &#60;",
    '=HYPERLINK("https://example.org/","x")',
    "+1+1",
    "-2+3",
    "@SUM(1,1)",
    "\t=1+1",
    "\r=1+1",
    "bell \x07, escape \x1b[31m, null \x00, delete \x7f",
    "line\nbreak\u2028separator\u2029paragraph",
    "txt.\u202egpj\u202c",
    "\u2066isolated\u2069 \u200fmark",
    "zero\u200bwidth\ufeff",
    "e\u0301" * 20 + "z" + "\u0353" * 200,
    "long " + "<i>" * 3_332,
    "../../etc/passwd",
    "/etc/passwd",
    "C:\\windows\\win.ini",
    "",
    " ",
)


def write_run(
    folder: Path,
    *,
    samples: int = 500,
    classes: int = 10,
    epochs: int = 12,
    wrong: float = 0.2,
    validation: int = 200,
    names: Sequence[str] | None = ANIMALS,
    ids: Sequence[str] | None = (),
    ids_are: str = "paths",
    config: dict[str, Any] | None = None,
    truth: bool = True,
    left_out: float = 0.0,
    never: int = 0,
    last: float = 1.0,
    ranks: int = 1,
    only_class: int | None = None,
    dtype: str = "float32",
    seed: int = 0,
) -> Path:
    """Write a run whose samples are learned as those of a network are; wrong labels are learned last.

    Args:
        folder: of the run.
        samples: of split "train".
        classes: K, at least 2.
        epochs: how many passes.
        wrong: share of labels that are wrong, most often the next class.
        validation: samples of split "val"; 0 for none.
        names: of the classes; None for none.
        ids: of the samples; `()` makes paths of them, None leaves them out.
        ids_are: what the run says they are.
        config: what else `run.json` keeps.
        truth: whether the labels before the noise are kept.
        left_out: share of samples that a pass does not see, others in each.
        never: samples that no pass sees.
        last: share of the last pass that was recorded before the run stopped; there is no validation after it.
        ranks: processes that wrote the parts.
        only_class: the label of every sample.
        dtype: of the measures.
        seed: of everything drawn.
    """
    rng = np.random.default_rng(seed)
    known = None if names is None else [str(name) for name in names]
    info = {"module": "Classifier", "world_size": ranks, "max_epochs": epochs, **(config or {})}
    claimed = claim(folder, "ab" * 16, info=info if known is None else {**info, "class_names": known})
    facts = {"dataset": "Pictures", "labels": "1f" * 32, "positions": "2e" * 32, "ids": "3d" * 32, "ids_are": ids_are}
    for split, count in (("train", samples), ("val", validation)):
        if not count:
            continue
        right = rng.integers(classes, size=count) if only_class is None else np.full(count, only_class)
        target = _confuse(rng, right, classes, wrong if split == "train" else 0.0)
        rows: dict[str, Any] = {"split": split, "index": np.arange(count), "target": target}
        if ids is not None:
            rows["sample_id"] = (list(ids) or picture_names(split, count))[:count]
        if truth:
            rows["true_target"] = right
        write_samples(folder, rows)
        note_data(claimed, {f"{split}-0": {"length": count, **facts}})
        course = _Course(rng, right, target, classes, epochs)
        for epoch in range(epochs):
            stopped = epoch == epochs - 1 and last < 1
            if stopped and split == "val":
                continue
            order = rng.permutation(count - never) + never if split == "train" else np.arange(count)
            order = order[: round(len(order) * (last if stopped else 1 - left_out if split == "train" else 1))]
            visits = course.visits(epoch, order, dtype)
            for rank in range(ranks):
                write_part(
                    folder,
                    PartKey(split, epoch, 0, rank),
                    {name: values[rank::ranks] for name, values in visits.items()},
                )
    return folder


def picture_names(split: str, count: int) -> list[str]:
    """Paths as those of an image folder."""
    return [f"{split}/{number % 7}/{number:07d}.png" for number in range(count)]


def write_images(folder: Path, names: Sequence[str], label: npt.ArrayLike, size: int = 24) -> Path:
    """Write a small picture for each name: stripes whose number and color tell the class."""
    rng = np.random.default_rng(0)
    column, row = np.meshgrid(np.arange(size), np.arange(size))
    for name, number in zip(names, np.asarray(label).tolist(), strict=True):
        angle = number * np.pi / 5
        wave = np.sin((column * np.cos(angle) + row * np.sin(angle)) * (0.4 + 0.15 * (number % 4)))
        color = np.array([number * 67 % 256, number * 151 % 256, 255 - number * 23 % 256])
        pixels = (wave[..., None] * 0.5 + 0.5) * color + rng.normal(0, 20, (size, size, 3))
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(path)
    return folder


def write_models(
    folder: Path,
    *,
    samples: int = 600,
    classes: int = 10,
    names: Sequence[str] | None = ANIMALS,
    ids: Sequence[str] = (),
    sites: Sequence[str] = ("north", "south", "east"),
    seed: int = 0,
) -> dict[str, Path]:
    """Write predictions of an old model, of a new one, and of another seed of the new one: "old", "new", "seed".

    Labels are `names`, or numbers for None; a column "site" cuts slices.
    """
    rng = np.random.default_rng(seed)
    target = rng.integers(classes, size=samples)
    hard = rng.beta(1, 6, samples)
    labels = np.arange(classes) if names is None else np.array([str(name) for name in names], object)
    paths = {}
    for model, error in (("old", 1.0), ("new", 0.8), ("seed", 0.8)):
        wrong = rng.random(samples) < hard * error
        pred = np.where(wrong, (target + rng.integers(1, classes, samples)) % classes, target)
        columns = {
            "index": np.arange(samples),
            "sample_id": (list(ids) or picture_names("val", samples))[:samples],
            "target": labels[target].tolist(),
            "pred": labels[pred].tolist(),
            "confidence": np.where(wrong, rng.uniform(0.3, 0.9, samples), rng.uniform(0.5, 1.0, samples)),
            "site": [sites[number % len(sites)] for number in range(samples)],
        }
        paths[model] = write_predictions(folder / f"{model}.parquet", columns, classes=labels.tolist())
    return paths


def ordinary(folder: Path) -> Path:
    """10 classes, 500 samples, 12 epochs, 20% wrong labels, a validation split, names."""
    return write_run(folder)


def empty(folder: Path) -> Path:
    """A run that recorded no pass."""
    return write_run(folder, epochs=0)


def no_rows(folder: Path) -> Path:
    """A run whose passes saw no sample."""
    return write_run(folder, epochs=2, left_out=1.0, validation=0)


def one_epoch(folder: Path) -> Path:
    """A run of one epoch."""
    return write_run(folder, epochs=1)


def one_class(folder: Path) -> Path:
    """A run whose labels are all of one class."""
    return write_run(folder, classes=2, only_class=0, wrong=0.0, names=("only",))


def thousand_classes(folder: Path) -> Path:
    """A run of 1,000 classes."""
    return write_run(
        folder, samples=3_000, classes=1_000, epochs=5, names=[f"class {number}" for number in range(1_000)]
    )


def interrupted(folder: Path) -> Path:
    """A run that stopped within its last epoch."""
    return write_run(folder, last=0.4)


def gaps(folder: Path) -> Path:
    """A run whose passes drop the last batch; four samples were never seen."""
    return write_run(folder, left_out=0.05, never=4)


def missing_parts(folder: Path) -> Path:
    """A run of two ranks that lost a whole pass of training, one rank's part of another, and one of validation."""
    write_run(folder, ranks=2)
    lost = {("train", 4, 0), ("train", 4, 1), ("train", 7, 1), ("val", 9, 0), ("val", 9, 1)}
    for key, path in list_parts(folder).items():
        if (key.split, key.epoch, key.rank) in lost:
            path.unlink()
    return folder


def no_validation(folder: Path) -> Path:
    """A run without a validation split."""
    return write_run(folder, validation=0)


def no_names(folder: Path) -> Path:
    """A run whose classes and samples have no names, and whose true labels are unknown."""
    return write_run(folder, names=None, ids=None, ids_are="positions", truth=False)


def hostile(folder: Path) -> Path:
    """A run whose ids, class names and configuration are attacks on the page."""
    ids = [f"{text}{number // len(HOSTILE) or ''}" for number, text in zip(range(400), HOSTILE * 400, strict=False)]
    config: dict[str, Any] = {text: text for text in HOSTILE}
    config |= {"nested": {"list": [*HOSTILE], "deep": {text: [{text: text}] for text in HOSTILE[:4]}}}
    config |= {"half a pair": "\ud800<script>", "module": HOSTILE[1], "hparams": {"__proto__": HOSTILE[0]}}
    write_run(folder, samples=400, names=HOSTILE[:10], ids=ids, config=config, validation=100)
    content = json.loads((folder / "run.json").read_text())
    content["library_version"] = HOSTILE[1]
    content["created"] = HOSTILE[2]
    (folder / "run.json").write_text(json.dumps(content))
    return folder


#: Every run that a report can be made of, by name.
REPORTABLE: dict[str, Callable[[Path], Path]] = {
    made.__name__: made
    for made in (
        ordinary,
        no_rows,
        one_epoch,
        one_class,
        thousand_classes,
        interrupted,
        gaps,
        missing_parts,
        no_validation,
        no_names,
        hostile,
    )
}


def big(folder: Path, samples: int = 50_000, epochs: int = 100, classes: int = 100) -> Path:
    """A run for timings alone."""
    return write_run(folder, samples=samples, epochs=epochs, classes=classes, names=None, validation=samples // 5)


class _Course:
    """Logits of the label, of the best other class and of the rest, as samples are learned and labels memorized."""

    def __init__(
        self,
        rng: np.random.Generator,
        right: npt.NDArray[np.int64],
        target: npt.NDArray[np.int64],
        classes: int,
        epochs: int,
    ) -> None:
        count = len(right)
        self.rng, self.right, self.target, self.classes = rng, right, target, classes
        self.wrong = right != target
        self.height = rng.normal(5.0, 1.2, count) - 3.5 * (rng.random(count) < 0.12)
        self.pace = rng.gamma(3.0, max(epochs, 2) / 20, count) + 0.2
        self.memory = rng.normal(5.0, 1.5, count)
        self.begins = rng.normal(0.8, 0.2, count) * max(epochs, 2)
        self.confused = (right + 1 + (rng.random(count) < 0.3) * rng.integers(0, classes - 1, count)) % classes
        self.confused = np.where(self.confused == right, (right + 1) % classes, self.confused)

    def visits(self, epoch: int, order: npt.NDArray[np.int64], dtype: str) -> Rows:
        """What a pass over the samples `order` [V] records."""
        noise = self.rng.normal(0, 0.8, (3, len(order)))
        right, target, wrong = self.right[order], self.target[order], self.wrong[order]
        memorized = 1 / (1 + np.exp(-(epoch - self.begins[order])))
        truth = self.height[order] * (1 - np.exp(-(epoch + 0.5) / self.pace[order])) * (1 - 0.7 * memorized * wrong)
        confused = 1.0 + noise[1]
        label = np.where(wrong, self.memory[order] * memorized - 0.5, truth) + noise[0]
        other = np.where(wrong, truth, confused) + noise[2] * 0.3
        best = np.where(wrong, right, self.confused[order])
        rest = np.log(self.classes - 2) - 0.5 if self.classes > 2 else -np.inf
        other = np.maximum(other, -0.5)  # none of the rest is larger
        total = np.logaddexp(np.logaddexp(label, other), rest)
        return {
            "global_step": epoch * (len(self.right) // 32 + 1) + np.arange(len(order)) // 32,
            "index": order,
            "pred": np.where(label > other, target, best),
            "best_other": best,
            "prob_label": np.exp(label - total).astype(dtype),
            "logit_margin": (label - other).astype(dtype),
            "cross_entropy": (total - label).astype(dtype),
        }


def _confuse(
    rng: np.random.Generator, right: npt.NDArray[np.int64], classes: int, share: float
) -> npt.NDArray[np.int64]:
    """Change a share of the labels, most often to the next class."""
    step = np.where(rng.random(len(right)) < 0.6, 1, rng.integers(1, classes, len(right)))
    return np.where(rng.random(len(right)) < share, (right + step) % classes, right)
