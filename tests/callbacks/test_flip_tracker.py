"""FlipTracker logs what a plain loop over looked-up predictions counts."""

from __future__ import annotations

import copy
import pickle

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from torch.nn import functional
from torch.utils.data import DataLoader, Sampler, Subset

from lightning_flip.callbacks import FlipTracker
from tests.callbacks.helpers import CLASSES, Lookup, Memory, loader, make_trainer, points, some_logits

NAMES = ("flipping_error", "relative_flipping_error", "flips_to_wrong", "flips_to_right", "churn", "coverage")


def count_flips(logits, labels, seen=None, size=None):
    """The six rates of every pass, by a loop over passes and samples.

    logits: [passes, N, K]; labels: [N]; seen: for each pass the samples it saw, all of them by default.
    """
    size = size or len(labels)
    ever_right, last = [False] * len(labels), [None] * len(labels)
    rates = {name: [] for name in NAMES}
    for number, table in enumerate(np.asarray(logits)):
        samples = range(len(labels)) if seen is None else seen[number]
        preds = {i: max(range(CLASSES), key=lambda k: table[i][k]) for i in samples}
        wrong = [i for i in samples if preds[i] != labels[i]]
        flipped = [i for i in wrong if ever_right[i]]
        known = [i for i in samples if last[i] is not None]
        to_wrong = [i for i in known if last[i] == labels[i] and preds[i] != labels[i]]
        to_right = [i for i in known if last[i] != labels[i] and preds[i] == labels[i]]
        changed = [i for i in known if last[i] != preds[i]]
        rates["flipping_error"].append(len(flipped) / len(preds))
        rates["relative_flipping_error"].append(len(flipped) / len(wrong) if wrong else 0.0)
        for name, part in (("flips_to_wrong", to_wrong), ("flips_to_right", to_right), ("churn", changed)):
            rates[name].append(len(part) / len(known) if known else 0.0)
        rates["coverage"].append(len(preds) / size)
        for i, pred in preds.items():
            last[i] = pred
            ever_right[i] = ever_right[i] or pred == labels[i]
    return rates


def assert_logged(memory, prefix, rates):
    for name, expected in rates.items():
        assert memory.values(f"{prefix}_{name}") == [float(np.float32(value)) for value in expected], name


def labels_of(count, seed=0):
    return points(count, seed).tensors[1].tolist()


def test_every_rate_of_every_pass_with_two_val_loaders_and_training():
    train, first, second = some_logits(4, 13, 1), some_logits(4, 11, 2), some_logits(4, 6, 3)
    memory, tracker = Memory(), FlipTracker(train=True)
    trainer = make_trainer(max_epochs=4, logger=memory, callbacks=[tracker])  # the sanity check runs
    trainer.fit(Lookup(train, first, second), loader(13, shuffle=True), [loader(11, seed=1), loader(6, seed=2)])
    for prefix, logits, labels in (
        ("train", train, labels_of(13)),
        ("val", first, labels_of(11, 1)),
        ("val_1", second, labels_of(6, 2)),
    ):
        rates = count_flips(logits, labels)
        assert max(rates["flipping_error"]) > 0
        assert max(rates["flips_to_right"]) > 0
        assert_logged(memory, prefix, rates)


def test_several_passes_an_epoch_are_passes_of_their_own():
    val, memory = some_logits(6, 9), Memory()
    trainer = make_trainer(logger=memory, val_check_interval=0.5, callbacks=[FlipTracker()])
    trainer.fit(Lookup(some_logits(3, 8), val), loader(8, 2), loader(9, seed=1))
    assert_logged(memory, "val", count_flips(val, labels_of(9, 1)))


def test_the_statistics_are_those_of_all_visits():
    logits, labels = some_logits(3, 10), torch.tensor(labels_of(10))
    tracker = FlipTracker(train=True, val=False)
    make_trainer(callbacks=[tracker]).fit(Lookup(logits, some_logits(3, 4)), loader(10, shuffle=True), loader(4))
    stats = tracker.statistics["train", 0]
    right = logits.argmax(dim=2) == labels
    assert stats.visits.tolist() == [3] * 10
    assert stats.times_right.tolist() == right.sum(dim=0).tolist()
    assert stats.forgetting_events.tolist() == (right[:-1] & ~right[1:]).sum(dim=0).tolist()
    assert stats.last_pred.tolist() == logits[-1].argmax(dim=1).tolist()
    probs = logits.double().softmax(dim=2)[:, range(10), labels]
    torch.testing.assert_close(stats.confidence, probs.mean(dim=0), rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(stats.variability, probs.std(dim=0, correction=0), rtol=1e-4, atol=1e-6)


def test_a_sample_drawn_twice_is_visited_twice():
    logits, tracker = some_logits(2, 5), FlipTracker(train=True, val=False)
    data = DataLoader(points(5), batch_size=3, sampler=[0, 0, 1, 2, 0, 4])
    make_trainer(max_epochs=2, callbacks=[tracker]).fit(Lookup(logits, some_logits(2, 4)), data, loader(4))
    assert tracker.statistics["train", 0].visits.tolist() == [6, 2, 2, 0, 2]


@pytest.mark.filterwarnings("ignore:You defined a .validation_step. but have no")
def test_an_earlier_visit_of_the_same_pass_is_no_earlier_pass():
    """In each epoch the only sample is right at its first visit and wrong at its second."""

    class Forgets(Lookup):
        def training_step(self, batch, batch_idx):
            self.second = batch_idx == 1
            return super().training_step(batch, batch_idx)

        def forward(self, x):
            right = functional.one_hot(points(1).tensors[1], CLASSES).float()
            return super().forward(x) * 0 + (-right if self.second else right)

    memory, data = Memory(), DataLoader(points(1), batch_size=1, sampler=[0, 0])
    trainer = make_trainer(
        max_epochs=2, logger=memory, limit_val_batches=0, callbacks=[FlipTracker(train=True, val=False)]
    )
    trainer.fit(Forgets(some_logits(2, 1)), data)
    assert memory.values("train_flipping_error") == [0.0, 0.5]


def test_coverage_of_a_limited_pass():
    val, memory = some_logits(3, 10), Memory()
    trainer = make_trainer(logger=memory, limit_val_batches=2, callbacks=[FlipTracker()])
    trainer.fit(Lookup(some_logits(3, 4), val), loader(4), loader(10, 3, seed=1))
    assert_logged(memory, "val", count_flips(val, labels_of(10, 1), seen=[range(6)] * 3, size=10))
    assert memory.values("val_coverage") == [pytest.approx(0.6)] * 3


def test_what_a_limited_pass_did_not_see_keeps_its_past():
    val, memory = some_logits(4, 8), Memory()

    class Halves(Sampler):
        passes = 0

        def __iter__(self):
            self.passes += 1
            return iter([(i + 4 * (self.passes % 2)) % 8 for i in range(8)])

        def __len__(self):
            return 8

    data = DataLoader(points(8, 1), batch_size=4, sampler=(order := Halves()))
    trainer = make_trainer(
        max_epochs=4, logger=memory, limit_val_batches=1, num_sanity_val_steps=0, callbacks=[FlipTracker()]
    )
    trainer.fit(Lookup(some_logits(4, 4), val), loader(4), data)
    seen = [[4, 5, 6, 7], [0, 1, 2, 3], [4, 5, 6, 7], [0, 1, 2, 3]]
    assert order.passes == 4
    assert_logged(memory, "val", count_flips(val, labels_of(8, 1), seen=seen))


def test_a_checkpoint_can_follow_a_rate(tmp_path):
    val = some_logits(4, 9)
    best = pl.callbacks.ModelCheckpoint(tmp_path, monitor="val_flipping_error", mode="max", filename="{epoch}")
    trainer = make_trainer(max_epochs=4, callbacks=[FlipTracker(), best])
    trainer.fit(Lookup(some_logits(4, 4), val), loader(4), loader(9, seed=1))
    errors = count_flips(val, labels_of(9, 1))["flipping_error"]
    assert float(best.best_model_score) == float(np.float32(max(errors)))
    assert best.best_model_path.endswith(f"epoch={errors.index(max(errors))}.ckpt")


def test_validate_with_a_checkpoint_loads_no_state(tmp_path):
    tables = some_logits(3, 6), some_logits(3, 7)
    trainer = make_trainer(callbacks=[FlipTracker()])
    trainer.fit(Lookup(*tables), loader(6), loader(7, seed=1))
    trainer.save_checkpoint(tmp_path / "end.ckpt")
    tracker, memory = FlipTracker(), Memory()
    make_trainer(logger=memory, callbacks=[tracker]).validate(
        Lookup(*tables), loader(7, seed=1), ckpt_path=tmp_path / "end.ckpt", verbose=False, weights_only=True
    )
    assert tracker.statistics == {}
    assert memory.values("val_flipping_error") == []


def test_a_second_fit_starts_from_nothing():
    val, tracker = some_logits(3, 7), FlipTracker()
    for _ in range(2):
        memory = Memory()
        make_trainer(logger=memory, callbacks=[tracker]).fit(
            Lookup(some_logits(3, 4), val), loader(4), loader(7, seed=1)
        )
        assert_logged(memory, "val", count_flips(val, labels_of(7, 1)))


def test_going_on_with_the_same_trainer_goes_on_counting():
    val, memory, tracker = some_logits(4, 7), Memory(), FlipTracker()
    trainer, model = make_trainer(max_epochs=2, logger=memory, callbacks=[tracker]), None
    model = Lookup(some_logits(4, 4), val)
    trainer.fit(model, loader(4), loader(7, seed=1))
    trainer.fit_loop.max_epochs = 4
    trainer.fit(model, loader(4), loader(7, seed=1))
    assert_logged(memory, "val", count_flips(val, labels_of(7, 1)))


class Mixing(Lookup):
    """Training targets are distributions."""

    def training_step(self, batch, batch_idx):
        self.place, self.round = ("train", 0), self.trainer.current_epoch
        return functional.cross_entropy(self(batch[0]), batch[1])


def test_mixed_targets_are_left_out_with_one_warning():
    def mix(samples):
        x, y = torch.utils.data.default_collate(samples)
        hot = functional.one_hot(y, CLASSES).float()
        return x, 0.7 * hot + 0.3 * hot.flip(0)

    val, memory = some_logits(3, 7), Memory()
    tracker = FlipTracker(train=True)
    trainer = make_trainer(logger=memory, callbacks=[tracker])
    with pytest.warns(UserWarning, match="MixUp or CutMix") as caught:
        trainer.fit(Mixing(some_logits(3, 8), val), loader(8, collate_fn=mix), loader(7, seed=1))
    assert len([warning for warning in caught if "MixUp" in str(warning.message)]) == 1
    assert_logged(memory, "val", count_flips(val, labels_of(7, 1)))
    assert ("train", 0) not in tracker.statistics


def test_two_trackers_keep_their_states_apart(tmp_path):
    both = [FlipTracker(), FlipTracker(name="again", prefix="a_"), FlipTracker(train=True, prefix="b_", name="")]
    trainer = make_trainer(max_epochs=1, callbacks=both)
    trainer.fit(Lookup(some_logits(1, 4), some_logits(1, 5)), loader(4), loader(5, seed=1))
    trainer.save_checkpoint(tmp_path / "end.ckpt")
    states = torch.load(tmp_path / "end.ckpt", weights_only=True)["callbacks"]
    assert len(states) == 3


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, lambda one: pickle.loads(pickle.dumps(one))])
def test_a_copy_may_be_given_another_name(duplicate):
    tracker = FlipTracker(name="a")
    assert tracker.state_key == "FlipTracker{'train': False, 'val': True, 'name': 'a'}"
    other = duplicate(tracker)
    other.name = "b"
    assert other.state_key == "FlipTracker{'train': False, 'val': True, 'name': 'b'}"


def test_another_dataset_on_resumption_is_an_error(tmp_path):
    trainer = make_trainer(max_epochs=1, callbacks=[FlipTracker()])
    trainer.fit(Lookup(some_logits(2, 4), some_logits(2, 5)), loader(4), loader(5, seed=1))
    trainer.save_checkpoint(tmp_path / "end.ckpt")
    trainer = make_trainer(max_epochs=2, callbacks=[FlipTracker()])
    with pytest.raises(ValueError, match=r"val data .* are not those of before: there are 6 now"):
        trainer.fit(
            Lookup(some_logits(2, 4), some_logits(2, 6)), loader(4), loader(6, seed=1), ckpt_path=tmp_path / "end.ckpt"
        )


@pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists")  # the folder is that of the run resumed
def test_a_loaded_state_replaces_what_an_interrupted_fit_left(tmp_path):
    """A notebook: interrupt, then go on from the last checkpoint with the same objects."""
    val, tracker, memory = some_logits(6, 6), FlipTracker(train=True), Memory()

    class Stop(pl.Callback):
        armed = True

        def on_validation_batch_end(self, trainer, pl_module, outputs, batch, batch_idx, dataloader_idx=0):
            if self.armed and trainer.current_epoch == 1 and batch_idx == 1:
                raise InterruptedError

    stop, save = Stop(), pl.callbacks.ModelCheckpoint(tmp_path, save_top_k=-1, filename="{epoch}")
    train = some_logits(3, 4)
    model = Lookup(train, val)
    trainer = make_trainer(logger=memory, callbacks=[tracker, stop, save])
    with pytest.raises(InterruptedError):
        trainer.fit(model, loader(4, 2), loader(6, 2, seed=1))
    stop.armed = False
    model.train()  # the interruption came in a validation
    trainer.fit(model, loader(4, 2), loader(6, 2, seed=1), ckpt_path=tmp_path / "epoch=0.ckpt", weights_only=True)
    assert tracker.statistics["train", 0].visits.tolist() == [3] * 4
    assert tracker.statistics["val", 0].visits.tolist() == [3] * 6
    assert_logged(memory, "train", count_flips(train, labels_of(4)))
    assert_logged(memory, "val", count_flips(val[:3], labels_of(6, 1)))


def test_no_label_at_all_and_nothing_to_follow():
    with pytest.raises(ValueError, match="watches nothing"):
        FlipTracker(val=False)


def test_a_subset_counts_by_its_own_positions():
    val, memory = some_logits(3, 9), Memory()
    data = DataLoader(Subset(points(9, 1), [8, 2, 5]), batch_size=2)
    tracker = FlipTracker()
    make_trainer(logger=memory, callbacks=[tracker]).fit(Lookup(some_logits(3, 4), val), loader(4), data)
    chosen = val[:, [8, 2, 5]]
    assert_logged(memory, "val", count_flips(chosen, [labels_of(9, 1)[i] for i in (8, 2, 5)]))
    assert tracker.statistics["val", 0].num_samples == 3
