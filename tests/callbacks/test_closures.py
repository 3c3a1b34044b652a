"""One rule for batches whose step runs more than once: the first evaluation is what is recorded, once.

The reference is a module that looks up what the first evaluations said, and whose optimizer evaluates its closure once.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint, set_checkpoint_early_stop

from lightning_flip.callbacks import (
    Diagnostic,
    Finding,
    FlipTracker,
    LearningPath,
    NegativeFlipMonitor,
    PredictionFilter,
    PredictionHistory,
    TrainingTargets,
    ZigZag,
)
from lightning_flip.mixins import FlippingErrorReduction, LabelSmoothing
from lightning_flip.models import MLP
from lightning_flip.stores import read_history, read_paths, read_soft_targets, read_zigzag
from tests.callbacks.helpers import (
    CLASSES,
    Lookup,
    Memory,
    Watched,
    assert_same,
    expected_rows,
    loader,
    make_trainer,
    stored_rows,
)

EPOCHS, COUNT, HELD_OUT, BATCH, CHOSEN = 3, 12, 6, 4, [0, 3, 7]


class Sam(torch.optim.SGD):
    """Evaluates the loss where the weights are and where it grows fastest, and steps with the second gradient."""

    def step(self, closure=None):
        with torch.enable_grad():
            loss = closure()
        weights = [weight for group in self.param_groups for weight in group["params"] if weight.grad is not None]
        before = [weight.detach().clone() for weight in weights]
        norm = torch.stack([weight.grad.norm() for weight in weights]).norm() + 1e-12
        with torch.no_grad():
            for weight in weights:
                weight.add_(weight.grad, alpha=float(0.5 / norm))
        with torch.enable_grad():
            closure()
        with torch.no_grad():
            for weight, old in zip(weights, before, strict=True):
                weight.copy_(old)
        super().step()
        return loss


OPTIMIZERS = {
    "lbfgs": lambda weights: torch.optim.LBFGS(weights, lr=0.3, max_iter=4),
    "sam": lambda weights: Sam(weights, lr=0.3),
}


class Closures(Watched):
    """Keeps what the first evaluation of each batch said, and counts the others."""

    def __init__(self, optimizer):
        super().__init__()
        self.optimizer = optimizer
        self.first = torch.full((EPOCHS, COUNT, CLASSES), torch.nan)
        self.held_out = torch.full((EPOCHS, HELD_OUT, CLASSES), torch.nan)
        self.evaluations = 0
        self.fresh = False

    def on_train_batch_start(self, batch, batch_idx):
        self.fresh = True

    def training_step(self, batch, batch_idx):
        self.evaluations += 1
        return super().training_step(batch, batch_idx)

    def note(self, split, loader, number, x, y, logits):
        if split == "val":
            self.held_out[self.trainer.current_epoch, x[:, 0].long()] = logits.detach()
        elif self.fresh:
            self.first[self.trainer.current_epoch, x[:, 0].long()] = logits.detach()
        else:
            return
        self.fresh = False
        super().note(split, loader, number, x, y, logits)

    def validation_step(self, batch, batch_idx, dataloader_idx=0):
        super().validation_step(batch, batch_idx, dataloader_idx)
        self.log("val_acc", float(self.trainer.current_epoch), batch_size=len(batch[1]))

    def configure_optimizers(self):
        return OPTIMIZERS[self.optimizer](self.parameters())


class Once(Lookup):
    """Says the same in one evaluation a batch."""

    def validation_step(self, batch, batch_idx, dataloader_idx=0):
        super().validation_step(batch, batch_idx, dataloader_idx)
        self.log("val_acc", float(self.trainer.current_epoch), batch_size=len(batch[1]))


class RobustClosures(FlippingErrorReduction, Closures):
    """With a loss that keeps a table."""


class RobustOnce(FlippingErrorReduction, Once):
    """Likewise."""


class Moved(Diagnostic):
    """How far each sample's largest logit is from 0."""

    title = "moved"

    def columns(self, step):
        return {"largest": step.logits.amax(dim=1), "target": step.target}

    def describe(self, trainer, split, rows):
        columns = {"index": rows["index"].tolist(), "largest": [float(value).hex() for value in rows["largest"]]}
        return Finding(columns, None, scalars={"largest": float(rows["largest"].mean())})


def old_model():
    with torch.random.fork_rng():
        torch.manual_seed(8)
        return MLP(5, CLASSES)


def record(model, folder) -> dict[str, Any]:
    """Fit with everything that follows training steps; returns everything that they left."""
    tracker, memory = FlipTracker(train=True), Memory()
    callbacks = [PredictionHistory(folder), tracker, PredictionFilter(0.3, dirpath=folder), ZigZag(folder)]
    callbacks += [LearningPath(CHOSEN, dirpath=folder), NegativeFlipMonitor(old_model(), train=True)]
    callbacks += [Moved(train=True, every_n_epochs=1, figures=False, dirpath=folder)]
    callbacks += [ModelCheckpoint(Path(folder, "saved"), filename="{epoch}", save_top_k=-1)]
    trainer = make_trainer(callbacks=callbacks, logger=memory, max_epochs=EPOCHS)
    trainer.fit(model, loader(COUNT, BATCH), loader(HELD_OUT, BATCH, seed=1))
    soft = read_soft_targets(Path(folder, "soft_targets/filtered_last.safetensors"))
    paths = read_paths(Path(folder, "paths"))
    saved = torch.load(Path(folder, "saved/epoch=2.ckpt"), weights_only=True)
    logged = sorted({name for metrics in memory.logged for name in metrics if name != "epoch"})
    return {
        "history": stored_rows(folder),
        "tracker": {"-".join(map(str, key)): found.state_dict() for key, found in tracker.statistics.items()},
        "filter": {"probs": soft.probs.tolist(), "visited": soft.visited.tolist()},
        "zigzag": read_zigzag(folder).to_pydict(),
        "paths": (paths.path.tolist(), paths.epochs.tolist(), paths.sample_steps.tolist()),
        "diagnostic": Path(folder, "diagnostics/train_moved.csv").read_text(),
        "logged": {name: memory.values(name) for name in logged},
        "table": saved.get("lightning_flip", {}).get("tables"),
    }


PARTS = ("history", "tracker", "filter", "zigzag", "paths", "diagnostic", "logged")


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """What a closure's run left, what the reference left, and the module, each made once."""
    made: dict[tuple[str, str], Any] = {}

    def get(optimizer, kind):
        if (optimizer, kind) not in made:
            folder = tmp_path_factory.mktemp(f"{optimizer}-{kind}")
            model = (RobustClosures if kind == "robust" else Closures)(optimizer)
            closures = record(model, folder / "closures")
            once = (RobustOnce if kind == "robust" else Once)(model.first, model.held_out)
            made[optimizer, kind] = model, closures, record(once, folder / "once")
        return made[optimizer, kind]

    return get


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_these_optimizers_evaluate_several_times(recorded, optimizer):
    model, _, once = recorded(optimizer, "plain")
    assert model.evaluations >= 2 * EPOCHS * COUNT / BATCH
    assert model.first.isfinite().all()
    assert not torch.equal(model.first[0], model.first[1])
    assert once["history"] == expected_rows(model.seen)  # the reference's own rows are those of first evaluations


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("kind", ["plain", "robust"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_the_first_evaluation_is_recorded_once(recorded, optimizer, kind, part):
    model, closures, once = recorded(optimizer, kind)
    if part == "history":
        assert closures["history"] == expected_rows(model.seen)
    if part == "logged":  # losses are not logged: these are rates
        assert "train_negative_flip_rate" in closures["logged"]
        assert "train_flipping_error" in closures["logged"]
    assert_same(closures[part], once[part])


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_the_table_of_a_loss_has_the_first_evaluation(recorded, optimizer):
    _, closures, once = recorded(optimizer, "robust")
    assert closures["table"]["behavior"]["seen"].any()
    assert_same(closures["table"], once["table"])


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_training_targets_are_those_of_the_first_evaluation(optimizer):
    """Of a loss whose smoothing grows with each evaluation, the first one's is shown."""

    class Growing(LabelSmoothing, Closures):
        def training_step(self, batch, batch_idx):
            self.smoothing = 0.1 if self.fresh else 0.6
            return super().training_step(batch, batch_idx)

    class Still(LabelSmoothing, Once):
        pass

    model = Growing(optimizer, smoothing=0.1)
    tables = []
    for module, folder in ((model, "closures"), (None, "once")):
        module = module or Still(model.first, model.held_out, smoothing=0.1)
        callback = TrainingTargets(every_n_epochs=1, figures=False, dirpath=folder)
        trainer = make_trainer(callbacks=[callback], max_epochs=EPOCHS)
        trainer.fit(module, loader(COUNT, BATCH), loader(HELD_OUT, BATCH, seed=1))
        tables.append(Path(folder, "diagnostics/train_training_targets.csv").read_text())
    assert model.evaluations > EPOCHS * COUNT / BATCH
    assert tables[0] == tables[1]


# -- forwards of the backward pass ------------------------------------------------------------------------------------


class Recomputed(Watched):
    """Forgets activations in the forward pass and computes them again in the backward pass."""

    def __init__(self, reentrant, *, whole, manual, rounds=1):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(6)
            layers = nn.Linear(4, 8), nn.LayerNorm(8), nn.ReLU(), nn.Dropout(0.3), nn.Linear(8, CLASSES)
            self.net = nn.Sequential(*layers)
        self.reentrant, self.whole, self.rounds, self.passes = reentrant, whole, rounds, 0
        self.automatic_optimization = not manual

    def forward(self, x):
        features = x[:, 1:]
        if self.reentrant is None or self.whole:
            return self.net(features)
        return checkpoint(self.net, features.requires_grad_(), use_reentrant=self.reentrant)

    def _loss(self, batch):
        x, y = batch
        if self.reentrant is not None and self.whole:
            logits = checkpoint(self, x.clone().requires_grad_(), use_reentrant=self.reentrant)
        else:
            logits = self(x)
        return functional.cross_entropy(logits, y), logits

    def training_step(self, batch, batch_idx):
        x, y = batch
        if self.automatic_optimization:
            loss, logits = self._loss(batch)
            self.note("train", 0, 0, x, y, logits)
            return loss
        optimizer = self.optimizers()
        for number in range(self.rounds):
            loss, logits = self._loss(batch)
            if number == 0:
                self.note("train", 0, 0, x, y, logits)
            optimizer.zero_grad()
            self.manual_backward(loss)
            optimizer.step()
        return None

    def validation_step(self, batch, batch_idx, dataloader_idx=0):
        super().validation_step(batch, batch_idx, dataloader_idx)
        self.log("val_acc", float(self.trainer.current_epoch), batch_size=len(batch[1]))


class Doubled(Recomputed):
    """What came first has twice as many rows as the batch, what is computed again in its backward pass as many."""

    def training_step(self, batch, batch_idx):
        x, y = batch
        optimizer = self.optimizers()
        both = torch.cat([x, x.flip(0)])
        logits = self._both(both)
        optimizer.zero_grad()
        self.manual_backward(functional.cross_entropy(logits, torch.cat([y, y.flip(0)])))
        logits = self(x)
        self.note("train", 0, 0, x, y, logits)
        self.manual_backward(functional.cross_entropy(logits, y))
        optimizer.step()

    def _both(self, both):
        """In two parts, of which the backward pass computes the last one first."""
        parts = both.requires_grad_().chunk(2)
        if self.reentrant is None:
            return torch.cat([self.net(part[:, 1:]) for part in parts])
        with set_checkpoint_early_stop(False):  # else hooks of the outermost module are spared
            return torch.cat([checkpoint(self._through, part, use_reentrant=self.reentrant) for part in parts])

    def _through(self, part):
        """A call of the module, but only when it is computed again."""
        self.passes += 1
        return self(part) if self.passes % 4 in (3, 0) else self.net(part[:, 1:])


def fit_recomputed(model, folder, **options):
    torch.manual_seed(4)
    found = record_with(model, folder, **options)
    assert stored_rows(folder) == expected_rows(model.seen)
    return found


def record_with(model, folder, *, logits_from="", path=True):
    source = {"logits_from": logits_from}
    tracker = FlipTracker(train=True, **source)
    callbacks = [PredictionHistory(folder, **source), tracker, PredictionFilter(0.3, dirpath=folder, **source)]
    callbacks += [ZigZag(folder, **source), *([LearningPath(CHOSEN, dirpath=folder, **source)] if path else [])]
    trainer = make_trainer(callbacks=callbacks, max_epochs=EPOCHS)
    trainer.fit(model, loader(COUNT, BATCH), loader(HELD_OUT, BATCH, seed=1))
    assert read_history(folder).to_arrow("train").num_rows == EPOCHS * COUNT
    return {
        "history": stored_rows(folder),
        "tracker": {"-".join(map(str, key)): found.state_dict() for key, found in tracker.statistics.items()},
        "filter": read_soft_targets(Path(folder, "soft_targets/filtered_last.safetensors")).probs.tolist(),
        "zigzag": read_zigzag(folder).to_pydict(),
        "paths": read_paths(Path(folder, "paths")).path.tolist() if path else [],
    }


@pytest.fixture(scope="module")
def computed_once(tmp_path_factory):
    """What is recorded where nothing is computed again, each made once."""
    made: dict[tuple[bool, int, str], Any] = {}

    def get(manual, rounds=1, logits_from=""):
        key = manual, rounds, logits_from
        if key not in made:
            model = Recomputed(None, whole=False, manual=manual, rounds=rounds)
            made[key] = fit_recomputed(model, tmp_path_factory.mktemp("once"), logits_from=logits_from)
        return made[key]

    return get


@pytest.mark.parametrize("logits_from", ["", "net"])
@pytest.mark.parametrize("whole", [False, True], ids=["network", "module"])
@pytest.mark.parametrize("manual", [False, True], ids=["automatic", "manual"])
@pytest.mark.parametrize("reentrant", [False, True], ids=["saved tensors", "reentrant"])
def test_forwards_of_the_backward_pass_do_not_count(computed_once, reentrant, manual, whole, logits_from):
    again = fit_recomputed(Recomputed(reentrant, whole=whole, manual=manual), "again", logits_from=logits_from)
    assert_same(again, computed_once(manual, logits_from=logits_from))


@pytest.mark.parametrize("whole", [False, True], ids=["network", "module"])
@pytest.mark.parametrize("reentrant", [False, True], ids=["saved tensors", "reentrant"])
def test_several_updates_in_one_manual_step_are_one_visit(computed_once, reentrant, whole):
    again = fit_recomputed(Recomputed(reentrant, whole=whole, manual=True, rounds=3), "again")
    assert_same(again, computed_once(True, rounds=3))


@pytest.mark.parametrize("reentrant", [False, True], ids=["saved tensors", "reentrant"])
def test_what_is_computed_again_before_the_forward_that_counts(reentrant):
    """It has as many rows as the batch, and is none of the step's forwards all the same."""
    plain = fit_recomputed(Doubled(None, whole=True, manual=True), "plain", path=False)
    again = fit_recomputed(Doubled(reentrant, whole=True, manual=True), "again", path=False)
    assert_same(again, plain)
