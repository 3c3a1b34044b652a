"""Scripts as people run them: a command, and a variable before it."""

from __future__ import annotations

import statistics
import subprocess
import sys
import warnings

import pytest
import torch

from lightning_flip.stores import read_history
from lightning_flip.stores.history.parts import list_parts
from tests.auto.helpers import ADVICE, PACKAGES, assert_same, environment

HEAD = """
import importlib, os, sys
package, folder = sys.argv[1:3]
pl = importlib.import_module(package)
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

class Net(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Dropout(0.2), nn.Linear(8, 3))

    def forward(self, x):
        return self.net(x)

    def training_step(self, batch, batch_idx):
        return nn.functional.cross_entropy(self(batch[0]), batch[1])

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", nn.functional.cross_entropy(self(batch[0]), batch[1]), sync_dist=True)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)

def data():
    x, y = torch.randn(30, 5), torch.randint(0, 3, (30,))
    return DataLoader(TensorDataset(x, y), 7, shuffle=True), DataLoader(TensorDataset(x[:14], y[:14]), 6)

def trainer(**options):
    return pl.Trainer(accelerator="cpu", default_root_dir=folder, logger=False, enable_progress_bar=False, **options)
"""

PLAIN = """
pl.seed_everything(5)
model = Net()
runner = trainer(max_epochs=3)
runner.fit(model, *data())
runner.save_checkpoint(f"{folder}/saved.ckpt")
torch.save(torch.rand(3), f"{folder}/drawn.pt")
"""

INTERRUPTED = """
class Interrupt(pl.Callback):
    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        if trainer.current_epoch == 2 and batch_idx == 1:
            raise KeyboardInterrupt

trainer(max_epochs=4, callbacks=[Interrupt()]).fit(Net(), *data())
"""

RANKS = """
def fit(variable, callbacks=()):
    os.environ["LIGHTNING_FLIP"] = variable
    pl.seed_everything(5)
    model = Net()
    options = {"devices": 2, "strategy": "ddp", "enable_checkpointing": False}
    trainer(max_epochs=3, callbacks=list(callbacks), **options).fit(model, *data())
    return model.state_dict()

off = fit("")
on = fit(f"{folder}/root")

from lightning_flip.callbacks import prediction_history
write_part = prediction_history.write_part

def write_or_fail(folder, key, columns):
    if os.environ.get("LOCAL_RANK") == "1" and (key.split, key.epoch) == ("train", 1):
        raise OSError(28, "No space left on device")
    return write_part(folder, key, columns)

prediction_history.write_part = write_or_fail
failed = fit(f"{folder}/failing")
if os.environ.get("LOCAL_RANK", "0") == "0":
    torch.save([off, on, failed], f"{folder}/weights.pt")
"""

COST = """
import importlib, sys, time
importlib.import_module(sys.argv[1])
sys.dont_write_bytecode, sys.pycache_prefix = False, sys.argv[2]  # as an installed package has it
for _ in range(9):
    before, begun = set(sys.modules), time.thread_time()
    from lightning_flip.auto import callbacks
    found = callbacks()
    took = time.thread_time() - begun
    assert found == []
    light = {"lightning_flip", "lightning_flip.auto", "lightning_flip._deprecate", "lazy_loader"}
    assert set(sys.modules) - before <= light, set(sys.modules) - before
    del sys.modules["lightning_flip"], sys.modules["lightning_flip.auto"]
    print("took", 1000 * took)
"""


def run(tmp_path, entry_points, text, *arguments, returns=0, **variables):
    script = tmp_path / "train.py"
    script.write_text(text)
    done = subprocess.run(
        [sys.executable, str(script), *map(str, arguments)],
        env=environment(entry_points, **variables),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == returns, done.stdout + done.stderr
    return done.stdout + done.stderr


def run_unrecorded(monkeypatch, text, *arguments):
    """The same script in this process, which has imported everything already."""
    monkeypatch.setattr(sys, "argv", ["train.py", *map(str, arguments)])
    monkeypatch.delenv("LIGHTNING_FLIP", raising=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        exec(compile(text, "train.py", "exec"), {"__name__": "__main__"})


def saved_in(folder):
    checkpoint, drawn = (torch.load(folder / name, weights_only=True) for name in ("saved.ckpt", "drawn.pt"))
    for state in checkpoint["callbacks"].values():  # the paths of two folders
        state.clear()
    return checkpoint, drawn


@pytest.mark.parametrize("package", PACKAGES)
def test_a_script_of_each_package(tmp_path, entry_points, package, monkeypatch):
    off, on = tmp_path / "off", tmp_path / "on"
    off.mkdir()
    on.mkdir()
    run_unrecorded(monkeypatch, HEAD + PLAIN, package, off)
    assert not list(tmp_path.rglob("version_0"))
    variables = {"LIGHTNING_FLIP": "runs", "LIGHTNING_FLIP_STRICT": "1"}
    assert "recording into" in run(tmp_path, entry_points, HEAD + PLAIN, package, on, **variables)
    assert_same(saved_in(off), saved_in(on))
    history = read_history(tmp_path / "runs" / "version_0")
    assert history.passes("train") == history.passes("val") == [(0, 0), (1, 0), (2, 0)]
    assert history.to_arrow("train").num_rows == 90


def test_an_interrupted_script(tmp_path, entry_points):
    said = run(tmp_path, entry_points, HEAD + INTERRUPTED, PACKAGES[0], tmp_path, returns=1, LIGHTNING_FLIP="runs")
    assert ADVICE not in said
    history = read_history(tmp_path / "runs" / "version_0")
    assert history.passes("train")[:2] == history.passes("val") == [(0, 0), (1, 0)]


@pytest.mark.parametrize("package", PACKAGES)
def test_two_processes(tmp_path, entry_points, package):
    said = run(tmp_path, entry_points, HEAD + RANKS, package, tmp_path)
    off, on, failed = torch.load(tmp_path / "weights.pt", weights_only=True)
    assert_same(off, on)
    assert_same(off, failed)
    folder = tmp_path / "root" / "version_0"
    assert [path.name for path in (tmp_path / "root").iterdir()] == ["version_0"]
    history = read_history(folder)
    assert history.run.info["world_size"] == 2
    assert {key.rank for key in list_parts(folder)} == {0, 1}
    assert [len(history.samples(split)) for split in ("train", "val")] == [30, 14]
    assert history.to_arrow("train").num_rows == 90
    assert said.count(ADVICE) == 1
    assert "on rank 1: OSError: [Errno 28] No space left" in said
    left = read_history(tmp_path / "failing" / "version_0")
    assert (left.passes("train"), left.passes("val")) == ([(0, 0)], [(0, 0), (1, 0)])


@pytest.mark.parametrize("package", PACKAGES)
def test_what_it_costs_when_it_is_off(tmp_path, entry_points, package):
    said = run(tmp_path, entry_points, COST, package, tmp_path / "bytecode")
    took = [float(line.removeprefix("took ")) for line in said.splitlines() if line.startswith("took ")]
    assert len(took) == 9, said
    assert statistics.median(took) < 3, took  # milliseconds
