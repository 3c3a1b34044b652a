"""What the network said is recorded, whatever the module then does to the tensor that it said it in."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.nn import functional

from lightning_flip.callbacks import (
    FlipTracker,
    LearningPath,
    PredictionFilter,
    PredictionHistory,
    PredictionWriter,
    ZigZag,
)
from lightning_flip.stores import read_paths, read_predictions, read_soft_targets, read_zigzag
from tests.callbacks.helpers import Watched, assert_same, expected_rows, loader, make_trainer, run_ranks, stored_rows

pytestmark = [pytest.mark.filterwarnings("ignore:Using .DistributedSampler. with the dataloaders")]
COUNT, HELD_OUT, CHOSEN = 12, 6, [0, 3, 7]


def to_zero(logits):
    logits.mul_(0)


def shifted(logits):
    """For numerical stability, as many write it by hand; and scaled, so that probabilities tell."""
    with torch.no_grad():
        logits.sub_(logits.max()).mul_(0.5)


def through_a_view(logits):
    view = logits.detach()
    view.copy_(view.softmax(dim=1))


def rectified(logits):
    functional.relu_(logits)


EDITS = {edit.__name__: edit for edit in (to_zero, shifted, through_a_view, rectified)}


class Edited(Watched):
    """Notes what its network said before it edits the tensor in place, in every kind of step."""

    def __init__(self, edit=None, moment="forward", *, manual=False, rate=0.2, seen_dir=None):
        super().__init__(seen_dir=seen_dir)
        self.edit, self.moment, self.rate = edit, moment, rate
        self.automatic_optimization = not manual

    def _change(self, logits, moment):
        if self.edit is not None and moment == self.moment:
            EDITS[self.edit](logits)

    def training_step(self, batch, batch_idx):
        x, y = batch
        logits = self(x)
        self.note("train", 0, 0, x, y, logits)
        self._change(logits, "forward")
        loss = functional.cross_entropy(logits, y)
        self._change(logits, "loss")
        if self.automatic_optimization:
            return loss
        optimizer = self.optimizers()
        optimizer.zero_grad()
        self.manual_backward(loss)
        optimizer.step()
        return None

    def validation_step(self, batch, batch_idx, dataloader_idx=0):
        x, y = batch
        logits = self(x)
        if not self.trainer.sanity_checking:
            self.note("val", dataloader_idx, self.val_passes[self.trainer.current_epoch], x, y, logits)
        self.log("val_acc", (logits.argmax(dim=1) == y).float().mean(), batch_size=len(y))
        self._change(logits, "forward")
        functional.cross_entropy(logits, y)
        self._change(logits, "loss")

    def test_step(self, batch, batch_idx):
        logits = self(batch[0])
        self._change(logits, "forward")
        functional.cross_entropy(logits, batch[1])
        self._change(logits, "loss")

    def predict_step(self, batch, batch_idx):
        logits = self(batch[0])
        self._change(logits, self.moment)
        return logits

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=self.rate)


def fit(model, folder, extra=(), **options):
    tracker = FlipTracker(train=True)
    make_trainer(callbacks=[PredictionHistory(folder), tracker, *extra], **options).fit(
        model, loader(COUNT), loader(HELD_OUT, seed=1)
    )
    return tracker


def statistics(tracker):
    return {"-".join(map(str, key)): found.state_dict() for key, found in tracker.statistics.items()}


@pytest.mark.parametrize("manual", [False, True], ids=["automatic", "manual"])
@pytest.mark.parametrize("moment", ["forward", "loss"])
@pytest.mark.parametrize("edit", EDITS)
def test_the_history_has_what_the_network_said(edit, moment, manual):
    model = Edited(edit, moment, manual=manual)
    fit(model, "run")
    for split in ("train", "val"):
        assert stored_rows("run", split) == expected_rows(model.seen, split)


def everything(folder, edit, moment, manual):
    """With a learning rate of 0 the weights are the same, and with them all that is to be recorded."""
    extra = [ZigZag(folder), PredictionFilter(0.3, dirpath=folder), LearningPath(CHOSEN, dirpath=folder)]
    tracker = fit(Edited(edit, moment, manual=manual, rate=0.0), folder, extra)
    return {
        "rows": stored_rows(folder),
        "tracker": statistics(tracker),
        "zigzag": read_zigzag(folder).to_pydict(),
        "soft": read_soft_targets(Path(folder, "soft_targets/filtered_last.safetensors")).probs.tolist(),
        "paths": read_paths(Path(folder, "paths")).path.tolist(),
    }


@pytest.fixture(scope="module", params=[False, True], ids=["automatic", "manual"])
def without_edits(request, tmp_path_factory):
    """Whether steps optimize by hand, and what everybody has of a module without edits."""
    return request.param, everything(tmp_path_factory.mktemp("plain"), None, "forward", request.param)


@pytest.mark.parametrize("moment", ["forward", "loss"])
@pytest.mark.parametrize("edit", EDITS)
def test_everybody_has_what_a_module_without_edits_gives_them(edit, moment, without_edits):
    manual, plain = without_edits
    assert_same(everything("edited", edit, moment, manual), plain)


@pytest.mark.parametrize("stage", ["validate", "test", "predict"])
@pytest.mark.parametrize("moment", ["forward", "loss"])
@pytest.mark.parametrize("edit", EDITS)
def test_written_predictions_are_what_the_network_said(edit, moment, stage):
    tables = {}
    for name, chosen in (("plain", None), ("edited", edit)):
        writer = PredictionWriter(Path(name, "predictions.parquet"), top_k=2, logits=True)
        trainer = make_trainer(callbacks=[writer])
        options = {} if stage == "predict" else {"verbose": False}
        getattr(trainer, stage)(Edited(chosen, moment), loader(COUNT), **options)
        tables[name] = read_predictions(writer.paths[0], scores=True)
    assert tables["edited"].rows.to_pydict() == tables["plain"].rows.to_pydict()
    assert tables["plain"].rows.num_rows == COUNT


def fit_on_two_ranks(edit, moment, manual):
    trainer = make_trainer(devices=2, strategy="ddp", callbacks=[PredictionHistory("run"), FlipTracker(train=True)])
    trainer.fit(Edited(edit, moment, manual=manual, seen_dir="."), loader(COUNT, 2), loader(HELD_OUT, 1, seed=1))


@pytest.mark.parametrize("manual", [False, True], ids=["automatic", "manual"])
def test_two_ranks_record_what_their_networks_said(manual):
    assert run_ranks(2, fit_on_two_ranks, "shifted", "loss", manual) == [0, 0]
    seen = [row for rank in range(2) for row in torch.load(f"seen-{rank}.pt", weights_only=True)]
    assert stored_rows("run") == expected_rows(seen)
