"""PredictionHistory writes, row by row and bit by bit, what the module itself saw."""

from __future__ import annotations

import json
from pathlib import Path

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.loggers import CSVLogger
from torch.nn import functional
from torch.utils.data import ConcatDataset, DataLoader, IterableDataset, Subset, TensorDataset

from lightning_flip.callbacks import FlipTracker, PredictionHistory
from lightning_flip.data import NoisyLabels
from lightning_flip.stores import read_history
from lightning_flip.stores.history.parts import list_parts
from tests.callbacks.helpers import (
    Lookup,
    Watched,
    expected_rows,
    loader,
    make_trainer,
    points,
    some_logits,
    stored_rows,
)

pytestmark = [
    pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists"),  # a resumed run's always does
]


def record(folder="run", *, train=None, val=None, model=None, history=None, ckpt=None, callbacks=(), **options):
    """Train a small network and give it back with everything it saw."""
    model = model or Watched()
    history = history or PredictionHistory(folder)
    trainer = make_trainer(callbacks=[history, *callbacks], **options)
    trainer.fit(model, train or loader(13, shuffle=True), val or loader(6, seed=1), ckpt_path=ckpt, weights_only=True)
    return model


def assert_recorded(folder, model, split=None):
    """The store holds exactly what the module saw."""
    rows = stored_rows(folder, split)
    assert rows == expected_rows(model.seen, split)
    assert rows


def test_every_row_with_two_val_loaders():
    model = record(val=[loader(6, seed=1), loader(7, 3, seed=2)])
    assert_recorded("run", model)
    assert read_history("run").splits == ["train", "val"]
    assert len(stored_rows("run", "train")) == 39
    assert {row[1] for row in stored_rows("run", "val")} == {0, 1}
    assert read_history("run").run.info["module"] == "Watched"


def test_several_validation_passes_an_epoch():
    model = record(val_check_interval=2)
    assert_recorded("run", model)
    assert read_history("run").passes("val") == [(epoch, number) for epoch in range(3) for number in range(2)]


def test_a_pass_that_spans_epochs_is_numbered_in_the_epoch_it_ends_in():
    model = record(val_check_interval=3, check_val_every_n_epoch=None, max_epochs=3)
    assert_recorded("run", model)
    assert read_history("run").passes("train") == [(0, 0), (1, 0), (2, 0)]


def test_accumulated_gradients_do_not_change_what_is_recorded():
    model = record(accumulate_grad_batches=3, train=loader(24, shuffle=True), num_sanity_val_steps=0)
    assert_recorded("run", model)
    steps = {row[4] for row in stored_rows("run", "train")}
    assert steps == {0, 1, 2, 3, 4, 5}


def test_train_or_val_alone():
    assert_recorded("a", record("a", history=PredictionHistory("a", val=False)), "train")
    assert_recorded("b", record("b", history=PredictionHistory("b", train=False)), "val")
    assert read_history("a").splits == ["train"]
    assert read_history("b").splits == ["val"]


@pytest.mark.parametrize(
    "options", [{"limit_train_batches": 2, "limit_val_batches": 1}, {"max_steps": 5, "max_epochs": -1}]
)
def test_part_of_the_data(options):
    model = record(**options)
    assert_recorded("run", model)


@pytest.mark.filterwarnings("ignore:You requested to overfit but enabled")
def test_overfit_batches():
    model = record(overfit_batches=1, val=loader(13))
    assert_recorded("run", model)
    assert len(stored_rows("run")) == 3 * 2 * 4


def test_samples_drawn_twice_are_two_visits():
    order = [0, 0, 3, 5, 0, 5, 1]
    model = record(train=DataLoader(points(6), batch_size=3, sampler=order))
    assert_recorded("run", model)
    assert [row[11] for row in stored_rows("run", "train") if row[2] == 0 and row[5] == 0] == [0, 1, 2]


class Named(TensorDataset):
    def sample_id(self, index):
        return f"image-{index}.png"


def test_samples_are_named_by_label_id_and_origin():
    a, b = Named(*points(5).tensors), points(8, seed=3)
    noisy = NoisyLabels(ConcatDataset([a, b]), rate=0.5, seed=2, num_classes=3)
    chosen = [11, 2, 7, 4]
    model = record(train=DataLoader(Subset(noisy, chosen), batch_size=3), val=DataLoader(a, batch_size=4))
    samples = read_history("run").samples("train").to_pydict()
    assert samples["index"] == [0, 1, 2, 3]
    whole = torch.cat([a.tensors[1], b.tensors[1]])
    assert samples["true_target"] == whole[chosen].tolist()
    assert samples["target"] == noisy.noisy_targets[chosen].tolist()
    assert samples["target"] != samples["true_target"]
    val = read_history("run").samples("val")
    assert val["sample_id"].to_pylist() == [f"image-{i}.png" for i in range(5)]
    assert val["true_target"].to_pylist() == [None] * 5
    assert len(model.seen) == 3 * (4 + 5)


def test_origins_through_subset_and_concatenation():
    joined = ConcatDataset([points(5), points(8, seed=3)])
    record(train=DataLoader(Subset(joined, [11, 2, 7, 4]), batch_size=3))
    samples = read_history("run").samples("train").to_pydict()
    assert samples["source"] == [1, 0, 1, 0]
    assert samples["source_index"] == [6, 2, 2, 4]


def test_the_default_place_is_the_loggers_folder_and_a_resumed_run_goes_on_there():
    logger = CSVLogger("logs")
    save = pl.callbacks.ModelCheckpoint("saved", filename="{epoch}", save_top_k=-1)
    first = Watched()
    record(model=first, history=PredictionHistory(), logger=logger, callbacks=[save], max_epochs=2)
    assert_recorded("logs/lightning_logs/version_0", first)
    again = Watched()
    save = pl.callbacks.ModelCheckpoint("saved")
    ckpt = "saved/epoch=1.ckpt"
    record(model=again, history=PredictionHistory(), logger=CSVLogger("logs"), callbacks=[save], ckpt=ckpt)
    assert_recorded("logs/lightning_logs/version_0", again)
    assert read_history("logs/lightning_logs/version_0").passes("train") == [(0, 0), (1, 0), (2, 0)]
    assert not Path("logs/lightning_logs/version_1/history").exists()


def test_without_a_logger_the_default_place_is_a_folder_of_its_own():
    model = record(history=PredictionHistory(), default_root_dir="here")
    assert_recorded("here/prediction_history/version_0", model)
    assert [path.name for path in Path("here").iterdir()] == ["prediction_history"]


class FailsAtFirst(Watched):
    def training_step(self, batch, batch_idx):
        raise RuntimeError("a mistake in the first step")


def test_a_run_that_failed_before_it_recorded_anything_leaves_the_folder_free():
    with pytest.raises(RuntimeError, match="a mistake"):
        record(model=FailsAtFirst(), num_sanity_val_steps=0)
    assert not Path("run/run.json").exists()
    assert_recorded("run", record())


def test_resuming_into_another_folder_says_what_is_missing_there():
    model = Watched()
    trainer = make_trainer(max_epochs=2, callbacks=[PredictionHistory("old")])
    trainer.fit(model, loader(5), loader(4, seed=1))
    trainer.save_checkpoint("two.ckpt")
    with pytest.warns(UserWarning, match=r"new lacks 4 passes .*\('train', 0, 0\)"):
        record("new", model=model, ckpt="two.ckpt", train=loader(5), val=loader(4, seed=1))
    assert read_history("new").passes("train") == [(2, 0)]


def content(folder):
    return {path: path.read_bytes() for path in sorted(Path(folder).rglob("*")) if path.is_file()}


def test_a_second_run_into_the_same_folder_is_refused_before_anything_is_written():
    record()
    before = content("run")
    with pytest.raises(FileExistsError, match="overwrite=True"):
        record()
    assert content("run") == before


def test_overwrite_begins_afresh():
    record(max_epochs=3)
    first = read_history("run").run.run_id
    model = record(history=PredictionHistory("run", overwrite=True, info={"note": [1, "x"]}), max_epochs=1)
    assert_recorded("run", model)
    assert read_history("run").run.run_id != first
    assert read_history("run").run.info["note"] == [1, "x"]


def test_one_callback_in_two_fits_is_two_runs():
    history = PredictionHistory()
    for folder in ("a", "b"):
        assert_recorded(f"{folder}/prediction_history/version_0", record(history=history, default_root_dir=folder))
    first, second = (read_history(f"{folder}/prediction_history/version_0").run.run_id for folder in "ab")
    assert first != second


def test_going_on_with_the_same_trainer_is_the_same_run():
    history, model = PredictionHistory("run"), Watched()
    trainer = make_trainer(max_epochs=1, callbacks=[history])
    trainer.fit(model, loader(5), loader(4, seed=1))
    run = read_history("run").run.run_id
    trainer.fit_loop.max_epochs = 3
    trainer.fit(model, loader(5), loader(4, seed=1))
    assert_recorded("run", model)
    assert read_history("run").run.run_id == run


@pytest.mark.parametrize("place", ["run", None])
def test_fast_dev_run_leaves_no_trace(place):
    before = content(".")
    make_trainer(fast_dev_run=2, callbacks=[PredictionHistory(place)]).fit(Watched(), loader(8), loader(6, seed=1))
    assert content(".") == before
    assert not Path("run").exists()


def test_validate_and_test_record_nothing_and_load_nothing():
    history = PredictionHistory("run")
    save = pl.callbacks.ModelCheckpoint("saved", filename="end")
    model = record(history=history, callbacks=[save])
    before = content("run")
    fresh = PredictionHistory("run")
    trainer = make_trainer(callbacks=[fresh, pl.callbacks.ModelCheckpoint("saved")])
    trainer.validate(model, loader(6, seed=1), ckpt_path="saved/end.ckpt", verbose=False, weights_only=True)
    assert content("run") == before
    assert fresh.folder is None


def test_the_checkpoint_holds_nothing_that_needs_pickle():
    save = pl.callbacks.ModelCheckpoint("saved", every_n_train_steps=2, filename="{step}", save_top_k=-1)
    record(callbacks=[save, FlipTracker(train=True)], max_epochs=1)
    state = torch.load("saved/step=2.ckpt", weights_only=True)["callbacks"]
    mine = next(value for key, value in state.items() if key.startswith("PredictionHistory"))
    assert mine["buffers"]["train"]["integers"].shape == (6, 8)


class Choosy(Watched):
    """Skips some steps: every third without a look, every third after one."""

    def training_step(self, batch, batch_idx):
        if batch_idx % 3 == 0:
            return None
        loss = super().training_step(batch, batch_idx)
        return None if batch_idx % 3 == 1 else loss


@pytest.mark.filterwarnings("ignore:.training_step. returned .None.")  # that is the case under test
def test_a_step_that_returns_none_is_recorded_only_if_it_predicted():
    model = record(model=Choosy())
    assert_recorded("run", model)
    assert len(stored_rows("run", "train")) == 3 * 8


class Scaled(Watched):
    """Calls a submodule, so that the module's own forward never runs."""

    def training_step(self, batch, batch_idx):
        logits = self.net(batch[0][:, 1:])
        self.note("train", 0, 0, *batch, logits)
        return 2.0 * functional.cross_entropy(logits, batch[1])

    def validation_step(self, batch, batch_idx, dataloader_idx=0):
        logits = self.net(batch[0][:, 1:])
        if not self.trainer.sanity_checking:
            self.note("val", dataloader_idx, 0, *batch, logits)


def test_logits_of_a_submodule():
    model = record(model=Scaled(), history=PredictionHistory("run", logits_from="net"))
    assert_recorded("run", model)


class Pairs(Watched):
    """Draws from two training loaders."""

    def training_step(self, batch, batch_idx):
        logits = self(batch["b"][0])
        self.note("train", 0, 0, *batch["b"], logits)
        return functional.cross_entropy(logits, batch["b"][1])


def test_one_of_several_training_loaders():
    train = {"a": loader(8, seed=4), "b": loader(7, shuffle=True, seed=5)}
    model = Pairs()
    trainer = make_trainer(callbacks=[PredictionHistory("run", loader="b")])
    trainer.fit(model, pl.utilities.CombinedLoader(train, "min_size"), loader(6, seed=1))
    assert_recorded("run", model)
    assert read_history("run").samples("train").num_rows == 7
    with pytest.raises(ValueError, match="Say which one to follow"):
        make_trainer(callbacks=[PredictionHistory("other")]).fit(
            Pairs(), pl.utilities.CombinedLoader(train, "min_size"), loader(6, seed=1)
        )


class Stream(IterableDataset):
    def __iter__(self):
        x, y = points(7).tensors
        return iter([{"x": x[i], "y": y[i], "id": int(x[i, 0])} for i in range(7)])


class OnStream(Watched):
    def training_step(self, batch, batch_idx):
        return super().training_step((batch["x"], batch["y"]), batch_idx)


def test_an_iterable_dataset_carries_its_ids():
    model = OnStream()
    history = PredictionHistory("run", val=False, index_from="id")
    trainer = make_trainer(callbacks=[history])
    trainer.fit(model, DataLoader(Stream(), batch_size=3), loader(4))
    assert_recorded("run", model, "train")
    with pytest.raises(TypeError, match='index_from="id"'):
        make_trainer(callbacks=[PredictionHistory("other")]).fit(
            OnStream(), DataLoader(Stream(), batch_size=3), loader(4)
        )


def test_looked_up_logits_come_back_as_they_are():
    table = some_logits(3, 13)
    record(model=Lookup(table, some_logits(3, 6, 1)))
    for row in stored_rows("run", "train"):
        z, label = table[row[2], row[5]], row[12]
        assert row[6] == int(z.argmax())
        margin = float(z[label]) - max(float(z[k]) for k in range(3) if k != label)
        assert row[9] == pytest.approx(margin, rel=1e-6)
        assert row[7] == pytest.approx(float(z.double().softmax(dim=0)[label]), rel=1e-6)


def test_the_run_says_what_it_was():
    record(max_epochs=1)
    info = json.loads(Path("run/run.json").read_text())["info"]
    assert info["world_size"] == 1
    assert info["max_epochs"] == 1


def test_tuning_the_learning_rate_records_nothing():
    class Rated(Watched):
        lr = 0.1

    history, model = PredictionHistory("run"), Rated()
    trainer = make_trainer(callbacks=[history, FlipTracker(train=True)])
    pl.tuner.Tuner(trainer).lr_find(model, loader(13, shuffle=True), loader(6, seed=1), num_training=6)
    assert not list_parts("run")
    model.seen.clear()
    model.val_passes.clear()
    trainer.fit(model, loader(13, shuffle=True), loader(6, seed=1))
    assert_recorded("run", model)


def test_a_learning_rate_finder_beside_it():
    class Rated(Watched):
        lr = 0.1

        def on_train_start(self):
            if any(isinstance(callback, PredictionHistory) for callback in self.trainer.callbacks):
                self.seen.clear()
                self.val_passes.clear()

    model, tracker = Rated(), FlipTracker(train=True)
    finder = pl.callbacks.LearningRateFinder(num_training_steps=6)
    record(model=model, callbacks=[tracker, finder])
    assert_recorded("run", model)
    assert tracker.statistics["train", 0].visits.tolist() == [3] * 13


def test_no_callback_uses_the_name_that_lightning_overwrites():
    for callback in (PredictionHistory("run"), FlipTracker()):
        assert not hasattr(callback, "log")


def test_half_precision_takes_less_space_and_keeps_three_digits():
    sizes, margins = {}, {}
    for dtype in ("float32", "float16"):
        torch.manual_seed(0)
        record(
            dtype,
            history=PredictionHistory(dtype, dtype=dtype, val=False),
            train=loader(2000, 500),
            max_epochs=1,
        )
        (part,) = Path(dtype).glob("history/train/*.parquet")
        sizes[dtype] = part.stat().st_size
        margins[dtype] = torch.tensor(read_history(dtype).statistics("train")["aum"].to_pylist())
    assert sizes["float16"] < 0.75 * sizes["float32"]
    torch.testing.assert_close(margins["float16"], margins["float32"], rtol=2e-3, atol=1e-3)
    assert not torch.equal(margins["float16"], margins["float32"])


def test_other_types_are_refused():
    with pytest.raises(ValueError, match='dtype must be "float32" or "float16"'):
        PredictionHistory("run", dtype="int8")


def test_run_says_how_many_classes_there_are_and_their_names():
    data = points(13)
    data.classes = ["cat", "dog", "cow"]
    record(train=DataLoader(Subset(data, range(12)), 4))
    history = read_history("run")
    assert (history.num_classes, history.class_names) == (3, ["cat", "dog", "cow"])
    assert set(history.suspects(12)["given_name"].to_pylist()) <= {"cat", "dog", "cow"}


def test_given_class_names_replace_the_datasets():
    data = points(13)
    data.classes = ["cat", "dog", "cow"]
    record(train=DataLoader(data, 4), history=PredictionHistory("run", info={"class_names": ["a", "b", "c"]}))
    assert read_history("run").class_names == ["a", "b", "c"]


def test_classes_without_names_have_none():
    record()
    history = read_history("run")
    assert (history.num_classes, history.class_names) == (3, None)
