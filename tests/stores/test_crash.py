"""A process that is killed while it records leaves a history that can be read."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lightning_flip.stores import read_history, read_samples
from lightning_flip.stores.history.parts import list_parts, set_aside

RECORDER = """
import sys
from itertools import count
import numpy as np
from lightning_flip.stores.history.parts import PartKey, write_part
from lightning_flip.stores.history.samples import write_samples
folder, epoch = sys.argv[1], int(sys.argv[2])
rows = 20_000
measure = np.random.default_rng(0).random(rows, np.float32)
columns = dict.fromkeys(["prob_label", "prob_pred", "logit_margin", "cross_entropy"], measure)
columns |= {"index": np.arange(rows), "pred": np.zeros(rows, int)}
for epoch in count(epoch):
    write_part(folder, PartKey("train", epoch, 0, 0), columns | {"global_step": np.full(rows, epoch)})
    write_samples(folder, {"split": "train", "index": np.arange(rows), "target": 0})
    print(epoch, flush=True)
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
def test_killed_at_random_moments(run_folder: Path) -> None:
    draw = random.Random(7)
    begun = 0
    leftovers = 0
    for _ in range(6):
        recorder = subprocess.Popen(
            [sys.executable, "-c", RECORDER, str(run_folder), str(begun)], stdout=subprocess.PIPE, text=True
        )
        assert recorder.stdout
        with recorder.stdout as lines:
            said = [int(lines.readline())]
            time.sleep(draw.uniform(0, 0.05))
            os.kill(recorder.pid, signal.SIGKILL)
            said += [int(line) for line in lines]
        recorder.wait()

        leftovers += len(list(run_folder.rglob(".*.tmp")))
        finished = set(range(said[-1] + 1))
        listed = {key.epoch for key in list_parts(run_folder)}
        assert finished <= listed, "a part that was finished is lost"
        assert len(listed) <= len(finished) + 1
        history = read_history(run_folder)
        assert history.to_arrow().num_rows == 20_000 * len(listed), "a listed part is not whole"
        assert read_samples(run_folder).num_rows == 20_000

        set_aside(run_folder, {("train", epoch, 0) for epoch in finished})
        assert {key.epoch for key in list_parts(run_folder)} == finished
        assert list((run_folder / "history").rglob(".*.tmp")) == []
        begun = said[-1] + 1
    assert leftovers, "no kill hit a write: choose other moments"
