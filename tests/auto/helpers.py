"""Modules, data and runs of both Lightning packages, with recording on and off."""

from __future__ import annotations

import functools
import importlib
import os
import types
import warnings
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

PACKAGES = ("lightning.pytorch", "pytorch_lightning")
ENTRY_POINTS = "".join(
    f"[{package}.callbacks_factory]\nlightning-flip = lightning_flip.auto:callbacks\n" for package in PACKAGES
)
ADVICE = "LIGHTNING_FLIP_STRICT=1"


def write_entry_points(folder: Path, name: str = "lightning_flip") -> Path:
    """A folder that makes the entry points known when it is on the path."""
    metadata = folder / f"{name}-0.1.0.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name.replace('_', '-')}\nVersion: 0.1.0\n")
    (metadata / "entry_points.txt").write_text(ENTRY_POINTS)
    return folder


def environment(entry_points: Path, **variables: str) -> dict[str, str]:
    """The environment of a script."""
    ours = str(Path(__file__).parents[2])
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("LIGHTNING_FLIP")}
    return {**inherited, "PYTHONPATH": os.pathsep.join([str(entry_points), ours]), "OMP_NUM_THREADS": "1", **variables}


@functools.cache
def net_of(package: str) -> type:
    """A small classifier, with dropout, of a package."""
    pl = importlib.import_module(package)

    class Net(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Dropout(0.2), nn.Linear(8, 3))
            self.lr = 0.1

        def forward(self, x):
            return self.net(x)

        def training_step(self, batch, batch_idx):
            x, y = batch
            return nn.functional.cross_entropy(self(x), y)

        def validation_step(self, batch, batch_idx):
            x, y = batch
            self.log("val_loss", nn.functional.cross_entropy(self(x), y))

        def test_step(self, batch, batch_idx):
            self.validation_step(batch, batch_idx)

        def predict_step(self, batch, batch_idx):
            return self(batch[0])

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=self.lr)

    return Net


def points(number: int = 30, seed: int = 0) -> TensorDataset:
    made = torch.Generator().manual_seed(seed)
    x = torch.randn(number, 5, generator=made)
    return TensorDataset(x, torch.randint(0, 3, (number,), generator=made))


class Stream(IterableDataset):
    def __iter__(self):
        return iter(points(18, 5))


def loaders():
    return DataLoader(points(), 7, shuffle=True), DataLoader(points(14, 1), 6)


class Lightning:
    """One of the packages, and the runs of its Trainers."""

    def __init__(self, package: str, folder: Path, monkeypatch) -> None:
        self.package = package
        self.pl = importlib.import_module(package)
        self.net = net_of(package)
        self.folder = folder
        self.root = folder / "root"
        self._patch = monkeypatch

    def switch(self, on: bool, *, strict: bool = False, root: Path | None = None) -> None:
        for name, value in (("LIGHTNING_FLIP", str(root or self.root)), ("LIGHTNING_FLIP_STRICT", "1")):
            if on and (strict or name == "LIGHTNING_FLIP"):
                self._patch.setenv(name, value)
            else:
                self._patch.delenv(name, raising=False)

    def trainer(self, **options):
        defaults = {
            "max_epochs": 3,
            "accelerator": "cpu",
            "devices": 1,
            "logger": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "enable_checkpointing": False,
            "default_root_dir": str(self.folder / "trainer"),
        }
        return self.pl.Trainer(**{**defaults, **options})

    def run(self, on: bool, what, **switched):
        """Weights, random state, what ``what(self, model)`` gave, and the warnings of the recording."""
        self.switch(on, **switched)
        torch.manual_seed(11)
        model = self.net()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            given = what(self, model)
        told = [str(entry.message) for entry in caught if ADVICE in str(entry.message)]
        self.switch(False)
        return types.SimpleNamespace(
            weights={name: value.clone() for name, value in model.state_dict().items()},
            random=torch.get_rng_state(),
            given=given,
            told=told,
        )

    def both(self, what, **switched):
        """The same with recording off and on; training and random state have to be the same."""
        off, on = self.run(False, what), self.run(True, what, **switched)
        assert off.told == []
        assert_same(off.weights, on.weights)
        assert torch.equal(off.random, on.random)
        return off, on

    @property
    def versions(self) -> list[str]:
        return sorted(path.name for path in self.root.iterdir()) if self.root.exists() else []


def assert_same(first, second) -> None:
    """Keys, kinds and bits of nested states."""
    assert type(first) is type(second)
    if isinstance(first, torch.Tensor):
        assert first.dtype == second.dtype
        assert first.shape == second.shape
        assert first.numpy().tobytes() == second.numpy().tobytes()  # also of NaN
    elif isinstance(first, dict):
        assert list(first) == list(second)
        for key in first:
            assert_same(first[key], second[key])
    elif isinstance(first, (list, tuple)):
        assert len(first) == len(second)
        for one, other in zip(first, second, strict=True):
            assert_same(one, other)
    else:
        assert first == second
