"""The filter's files equal loops over what the teacher noted for itself, and training does not feel the filter."""

from __future__ import annotations

import copy
import logging
from pathlib import Path

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import EMAWeightAveraging, ModelCheckpoint
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from lightning_flip.callbacks import PredictionFilter
from lightning_flip.callbacks._filtered_tables import FilteredTables
from lightning_flip.callbacks.exact_resume import random_states
from lightning_flip.stores import dataset_fingerprint, write_soft_targets
from tests.callbacks.helpers import CLASSES, assert_same, loader, make_trainer, points, some_logits
from tests.callbacks.teachers import FOLDER, LookedUp, Teacher, asked, assert_filtered, read

pytestmark = [
    pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists"),  # a continued run's always does
    pytest.mark.filterwarnings("ignore:PredictionFilter. no validation ran"),  # has its own test
    pytest.mark.filterwarnings("ignore:You defined a .validation_step. but have no"),
]
BOTH = ("eval_last", "eval_best")


def teach(model=None, train=None, *, val=True, callbacks=(), trainer=None, seed=1, **options):
    """Train a teacher with a filter; options without a trainer's name are the filter's."""
    pl.seed_everything(seed, verbose=False)
    model = model or Teacher()
    keys = ("alpha", "initial_pass", "monitor", "mode", "also", "name", "num_samples", "index_from", "overwrite")
    own = {key: options.pop(key) for key in (*keys, "logits_from", "loader") if key in options}
    keep = PredictionFilter(dirpath="run", **own)
    trainer = make_trainer(callbacks=[keep, *callbacks], **options)
    train = loader(14, shuffle=True) if train is None else train
    trainer.fit(model, train, loader(6, seed=1) if val else None)
    return model, keep


# -- the average ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("alpha", [0.05, 0.5, 1.0])
def test_the_table_is_a_loop_over_the_visits(alpha):
    model, _ = teach(alpha=alpha)
    assert len(model.visits) == 3 * 14
    assert_filtered(read("filtered_last"), model.visits, alpha)


def test_alpha_one_is_the_last_prediction_to_the_last_bit():
    model, _ = teach(alpha=1.0)
    last = dict(model.visits)
    assert read("filtered_last").probs.tolist() == [last[index] for index in range(14)]


def test_the_first_visit_is_copied():
    model, _ = teach(alpha=0.05, max_epochs=1)
    seen = dict(model.visits)
    assert read("filtered_last").probs.tolist() == [seen[index] for index in range(14)]


def test_an_initial_pass_comes_before_the_first_visit():
    model = Teacher()
    initial = asked(model, points(14))
    teach(model, alpha=0.1, initial_pass=True)
    assert_filtered(read("filtered_last"), model.visits, 0.1, initial)
    with pytest.raises(AssertionError):
        assert_filtered(read("filtered_last"), model.visits, 0.1)
    assert read("filtered_last").manifest["initial_pass"] is True


def test_samples_that_are_drawn_several_times_are_several_visits():
    train = DataLoader(points(6), batch_size=3, sampler=[0, 0, 3, 5, 0, 5, 1, 2, 4])
    model, _ = teach(LookedUp(some_logits(3, 6)), train, alpha=0.3)
    assert_filtered(read("filtered_last"), model.visits, 0.3)
    train = DataLoader(points(6), batch_size=3, sampler=[0, 0, 0])
    model, _ = teach(train=train, alpha=0.3, overwrite=True)  # dropout: three different rows in one batch
    assert_filtered(read("filtered_last"), model.visits, 0.3)


@pytest.mark.parametrize("initial", [False, True])
def test_rows_that_were_never_visited_are_marked_and_counted(initial):
    train = loader(14)
    model, _ = teach(train=train, limit_train_batches=2, initial_pass=initial)
    table = read("filtered_last")
    assert table.visited.tolist() == [True] * 8 + [False] * 6
    assert (table.manifest["num_samples"], table.manifest["num_visited"]) == (14, 8)
    assert table.target.tolist() == [*points(14).tensors[1][:8].tolist(), *[-1] * 6]
    assert bool(table.probs[8:].any()) == initial
    assert len(model.visits) == 3 * 8


def test_ids_that_batches_carry():
    class Stream(IterableDataset):
        def __iter__(self):
            data = points(10)
            yield from ((*data[i], torch.tensor(2 * i)) for i in range(10))

    class Carrying(Teacher):
        def training_step(self, batch, batch_idx):
            loss = super().training_step(batch[:2], batch_idx)
            rows = [row for _, row in self.visits[-len(batch[2]) :]]
            self.visits[-len(batch[2]) :] = zip(batch[2].tolist(), rows, strict=True)
            return loss

    model, _ = teach(Carrying(), DataLoader(Stream(), batch_size=4), index_from=2, num_samples=20, alpha=0.2)
    table = read("filtered_last")
    assert_filtered(table, model.visits, 0.2)
    assert table.manifest["num_visited"] == 10
    assert table.manifest["dataset_fingerprint"] is None
    with pytest.raises(ValueError, match="Pass num_samples="):
        teach(Carrying(), DataLoader(Stream(), batch_size=4), index_from=2, overwrite=True)
    with pytest.raises(TypeError, match="Leave out initial_pass"):
        teach(Carrying(), DataLoader(Stream(), batch_size=4), index_from=2, initial_pass=True, overwrite=True)


def test_padding_of_double_precision_and_sums():
    torch.set_default_dtype(torch.float64)
    try:
        model, keep = teach(Teacher().double(), precision="64-true")
    finally:
        torch.set_default_dtype(torch.float32)
    assert keep.tables.average.latest()[0].dtype == torch.float32
    assert_filtered(read("filtered_last"), model.visits, 0.05)


# -- the best ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("scores", "mode", "best"),
    [
        ([0.2, 0.5, 0.5, 0.4], "max", 1),  # of two equal ones the earlier
        ([0.2, 0.5, 0.2, 0.4], "min", 0),
        ([float("nan"), 0.1, float("nan"), 0.1], "max", 1),
        ([0.1, 0.2, 0.3, 0.4], "max", 3),
    ],
)
def test_the_best_table_is_that_of_the_best_validation(scores, mode, best):
    model, _ = teach(Teacher(scores), alpha=0.3, mode=mode, max_epochs=4)
    table = read("filtered_best")
    assert_filtered(table, model.visits[: model.passes[best]], 0.3)
    assert {key: table.manifest[key] for key in ("kind", "which", "epoch", "monitor", "mode", "alpha")} == {
        "kind": "filtered",
        "which": "best",
        "epoch": best,
        "monitor": "val_acc",
        "mode": mode,
        "alpha": 0.3,
    }
    assert table.manifest["score"] == pytest.approx(scores[best])
    assert table.manifest["step"] == 4 * (best + 1)
    assert_filtered(read("filtered_last"), model.visits, 0.3)
    assert read("filtered_last").manifest["epoch"] == 3


def test_a_validation_inside_an_epoch_counts_with_what_there_was():
    scores = [0.1, 0.1, 0.9, 0.1, 0.1, 0.1]
    model, _ = teach(Teacher(scores), alpha=0.3, val_check_interval=2)
    assert model.passes[2] == 14 + 8
    assert_filtered(read("filtered_best"), model.visits[: model.passes[2]], 0.3)
    model, _ = teach(Teacher([0.9, *scores]), alpha=0.3, val_check_interval=2, overwrite=True)
    table = read("filtered_best")
    assert_filtered(table, model.visits[:8], 0.3)
    assert (table.num_visited, table.manifest["num_visited"]) == (8, 8)


def test_the_sanity_check_and_a_validation_by_itself_do_not_count():
    model, keep = teach(Teacher([0.1, 0.2, 0.3]), num_sanity_val_steps=2)
    assert len(model.passes) == 3
    assert read("filtered_best").manifest["epoch"] == 2
    before = copy.deepcopy(keep.tables.state_dict())
    model.scores, model.passes = [9.0], []
    make_trainer(callbacks=[keep]).validate(model, loader(6, seed=1), verbose=False)
    assert_same(keep.tables.state_dict(), before)


def test_a_checkpoint_that_is_validated_does_not_touch_the_tables():
    save = ModelCheckpoint("saved", filename="{epoch}", save_top_k=-1)
    model, keep = teach(callbacks=[save])
    before = copy.deepcopy(keep.tables.state_dict())
    trainer = make_trainer(callbacks=[keep, ModelCheckpoint("saved")])
    trainer.validate(model, loader(6, seed=1), ckpt_path="saved/epoch=0.ckpt", verbose=False, weights_only=True)
    assert_same(keep.tables.state_dict(), before)


def test_no_rank_waits_for_the_others_while_an_exception_is_in_flight(monkeypatch):
    calls = []
    _, keep = teach()
    monkeypatch.setattr(keep.tables, "sync", lambda: calls.append("sync"))
    for allowed in (True, False):
        monkeypatch.setattr(keep, "may_communicate", lambda allowed=allowed: allowed)
        keep.state_dict()
    assert calls == ["sync"]


def test_a_monitor_that_nobody_logs_names_those_that_are():
    with pytest.raises(ValueError, match=r"monitor='val_f1'.*there are \['val_acc'\]"):
        teach(monitor="val_f1")


def test_without_validation_there_is_the_last_alone_and_it_says_so():
    with pytest.warns(UserWarning, match="PredictionFilter: no validation ran"):
        teach(val=False)
    assert sorted(path.name for path in FOLDER.iterdir()) == ["filtered_last.json", "filtered_last.safetensors"]
    with pytest.warns(UserWarning, match="val_acc was never a number"):
        teach(Teacher([float("nan")] * 3), overwrite=True)
    assert not (FOLDER / "filtered_best.safetensors").exists()


# -- what the model itself says ---------------------------------------------------------------------------


def test_the_models_own_predictions_of_the_last_and_of_the_best_epoch():
    data, weights = points(14), {}

    class Copy(pl.Callback):
        def on_validation_end(self, trainer, pl_module):
            weights[trainer.current_epoch] = copy.deepcopy(pl_module.state_dict())

    model, _ = teach(Teacher([0.1, 0.9, 0.3]), also=BOTH, callbacks=[Copy()], val_check_interval=1.0)
    np.testing.assert_allclose(read("eval_last").probs, asked(model, data), atol=1e-6)
    model.load_state_dict(weights[1])
    np.testing.assert_allclose(read("eval_best").probs, asked(model, data), atol=1e-6)
    best, last = read("eval_best"), read("eval_last")
    assert (best.manifest["kind"], best.manifest["which"], best.manifest["epoch"]) == ("eval", "best", 1)
    assert last.manifest["epoch"] == 2
    assert last.manifest["alpha"] is None
    assert best.visited.all()
    assert best.target.tolist() == data.tensors[1].tolist()


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded")
def test_training_does_not_feel_any_of_it(workers):
    def outcome(callbacks):
        pl.seed_everything(3, verbose=False)
        model = Teacher()
        train = loader(14, shuffle=True, num_workers=workers)
        trainer = make_trainer(callbacks=callbacks, val_check_interval=2)
        trainer.fit(model, train, loader(6, seed=1))
        assert all(part.training for part in model.modules())
        optimizer = trainer.optimizers[0].state_dict()["state"]
        return {"weights": dict(model.state_dict()), "optimizer": optimizer, "draws": random_states()}, model.visits

    plain, visits = outcome([])
    watched, same = outcome([PredictionFilter(dirpath="run", initial_pass=True, also=BOTH)])
    assert visits == same
    assert_same(plain, watched)


class OwnPredict(Teacher):
    """Batches that are not pairs; the network is a submodule that is called directly."""

    def __init__(self):
        super().__init__(noise=False)
        self.asked_batches = 0

    def training_step(self, batch, batch_idx):
        self.net(batch["x"][:, 1:])  # noted by hand
        return super().training_step((batch["x"], batch["y"]), batch_idx)

    def validation_step(self, batch, batch_idx):
        super().validation_step((batch["x"], batch["y"]), batch_idx)

    def predict_step(self, batch, batch_idx):
        self.asked_batches += 1
        return self(batch["x"]).argmax(dim=1)


class Dicts(TensorDataset):
    def __getitem__(self, index):
        return dict(zip("xy", super().__getitem__(index), strict=True))


def test_a_modules_own_predict_step_is_asked():
    data = Dicts(*points(14).tensors)
    model = OwnPredict()
    trainer = make_trainer(callbacks=[PredictionFilter(dirpath="run", also=["eval_last"])])
    trainer.fit(model, DataLoader(data, batch_size=4, shuffle=True), DataLoader(data, batch_size=4))
    assert model.asked_batches == 4
    np.testing.assert_allclose(read("eval_last").probs, asked(model, points(14)), atol=1e-6)


def test_a_pass_without_logits_says_what_to_do():
    class Labels(Teacher):
        def predict_step(self, batch, batch_idx):
            return batch[1]

    with pytest.raises(ValueError, match=r"caught no logits \[4, K\] from Labels.*predict_step"):
        teach(Labels(), initial_pass=True)


def test_averaged_weights_are_asked_where_validation_uses_them():
    averaged = {}

    class Copy(pl.Callback):
        def on_validation_batch_start(self, trainer, pl_module, batch, batch_idx, dataloader_idx=0):
            averaged[trainer.current_epoch] = copy.deepcopy(pl_module.state_dict())

    ema = EMAWeightAveraging(decay=0.8)
    model, _ = teach(Teacher([0.1, 0.9, 0.3]), also=BOTH, callbacks=[ema, Copy()])
    np.testing.assert_allclose(read("eval_last").probs, asked(model, points(14)), atol=1e-6)
    model.load_state_dict(averaged[1])
    np.testing.assert_allclose(read("eval_best").probs, asked(model, points(14)), atol=1e-6)


# -- what the manifest says of the data -------------------------------------------------------------------


class Named(TensorDataset):
    def sample_id(self, index):
        return f"image-{index}.png"


class Unkept(torch.utils.data.Dataset):
    """Keeps no labels; they come with the samples."""

    def __init__(self, count=14):
        self.inner = points(count)

    def __len__(self):
        return len(self.inner)

    def __getitem__(self, index):
        return self.inner[index]


def test_the_fingerprint_is_of_the_labels_that_training_saw():
    labels = points(14).tensors[1].numpy()
    plain = dataset_fingerprint(labels)
    teach(max_epochs=1)
    manifest = read("filtered_last").manifest
    assert (manifest["dataset_fingerprint"], manifest["labels"], manifest["sample_ids"]) == (plain, "dataset", False)
    teach(train=DataLoader(Unkept(), batch_size=4, shuffle=True), max_epochs=1, overwrite=True)
    manifest = read("filtered_last").manifest
    assert (manifest["dataset_fingerprint"], manifest["labels"]) == (plain, "steps")
    names = [f"image-{i}.png" for i in range(14)]
    teach(train=DataLoader(Named(*points(14).tensors), batch_size=4), max_epochs=1, overwrite=True)
    manifest = read("filtered_last").manifest
    assert manifest["dataset_fingerprint"] == dataset_fingerprint(labels, names)
    assert manifest["sample_ids"] is True


def test_labels_that_no_step_saw():
    labels = points(14).tensors[1].numpy()
    teach(train=loader(14), limit_train_batches=1, max_epochs=1)
    assert read("filtered_last").manifest["dataset_fingerprint"] == dataset_fingerprint(labels)
    teach(train=DataLoader(Unkept(), batch_size=4), limit_train_batches=1, max_epochs=1, overwrite=True)
    assert read("filtered_last").manifest["dataset_fingerprint"] is None


def test_labels_that_are_mapped_on_the_way_are_not_those_of_the_data_set():
    class Mapped(Teacher):
        def on_after_batch_transfer(self, batch, dataloader_idx):
            return [batch[0], (batch[1] + 1) % CLASSES]

    teach(Mapped(), max_epochs=1)
    manifest = read("filtered_last").manifest
    seen = ((points(14).tensors[1] + 1) % CLASSES).numpy()
    assert (manifest["dataset_fingerprint"], manifest["labels"]) == (dataset_fingerprint(seen), "steps")


def test_files_are_written_again_when_more_labels_are_known():
    """The best moment comes before all samples were seen, and its file's manifest catches up."""
    train = DataLoader(Unkept(), batch_size=4)
    teach(Teacher([0.9, *[0.1] * 9]), train, val_check_interval=2, max_epochs=1)
    best = read("filtered_best")
    assert best.num_visited == 8
    assert best.manifest["dataset_fingerprint"] == read("filtered_last").manifest["dataset_fingerprint"] is not None


# -- the folder -------------------------------------------------------------------------------------------


def test_another_runs_files_are_not_overwritten():
    teach(max_epochs=1)
    run = read("filtered_last").manifest["run"]
    with pytest.raises(FileExistsError, match=r"of another run.*filtered_best\.safetensors.*overwrite=True"):
        teach(max_epochs=1)
    assert read("filtered_last").manifest["run"] == run
    teach(max_epochs=1, val=False, overwrite=True)
    assert read("filtered_last").manifest["run"] != run
    assert not (FOLDER / "filtered_best.safetensors").exists()  # nor is what only the other run had left to be mixed up


def test_a_damaged_file_is_not_taken_for_ones_own():
    path = write_soft_targets(FOLDER / "filtered_last.safetensors", np.array([[1.0, 0.0]]))
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(FileExistsError, match="damaged"):
        teach(max_epochs=1)


def test_a_fit_that_goes_on_goes_on_with_its_average():
    pl.seed_everything(1, verbose=False)
    model, keep = Teacher(), PredictionFilter(0.2, dirpath="run")
    trainer = make_trainer(callbacks=[keep], max_epochs=1)
    trainer.fit(model, loader(14, shuffle=True), loader(6, seed=1))
    run = read("filtered_last").manifest["run"]
    trainer.fit_loop.max_epochs = 3
    trainer.fit(model, loader(14, shuffle=True), loader(6, seed=1))
    assert_filtered(read("filtered_last"), model.visits, 0.2)
    assert len(model.visits) == 42
    assert read("filtered_last").manifest["run"] == run


def test_two_filters_of_one_trainer():
    model, _ = teach(alpha=0.05, name="slow", callbacks=[PredictionFilter(0.5, dirpath="run", name="fast")])
    assert_filtered(read("filtered_last", FOLDER / "slow"), model.visits, 0.05)
    assert_filtered(read("filtered_last", FOLDER / "fast"), model.visits, 0.5)


def test_the_default_place():
    pl.seed_everything(1, verbose=False)
    make_trainer(callbacks=[PredictionFilter()], max_epochs=1).fit(Teacher(), loader(14), loader(6, seed=1))
    assert read("filtered_last", Path("prediction_history/version_0/soft_targets")).num_samples == 14


def test_fast_dev_run_writes_nothing():
    teach(fast_dev_run=True)
    assert not list(Path().rglob("*.safetensors"))


def test_sizes_are_said_before_they_are_allocated(caplog, monkeypatch):
    with caplog.at_level(logging.INFO, logger="lightning.pytorch.utilities.rank_zero"):
        FilteredTables(1000, 100, alpha=0.5, device="cpu")
    assert "2 tables of 1000 samples x 100 = 0.8 MB" in caplog.text

    def full(*args, **kwargs):
        raise RuntimeError("out of memory")

    monkeypatch.setattr("lightning_flip.callbacks._filtered_tables.RunningAverage.__init__", full)
    with pytest.raises(MemoryError, match=r"1000 samples x 100 classes.*do not fit on cpu"):
        FilteredTables(1000, 100, alpha=0.5, device="cpu")


# -- what is refused --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"alpha": 0.0}, "alpha must be in"),
        ({"alpha": 1.1}, "alpha must be in"),
        ({"mode": "best"}, "mode must be"),
        ({"also": "eval_last"}, "also must be a list"),
        ({"also": ["last_eval"]}, "also must be a list"),
        ({"initial_pass": True, "logits_from": len}, "Name a submodule"),
    ],
)
def test_wrong_options(options, match):
    with pytest.raises(ValueError, match=match):
        PredictionFilter(**options)


def test_mixed_samples_are_refused():
    class Mixing(Teacher):
        def training_step(self, batch, batch_idx):
            return torch.nn.functional.cross_entropy(self(batch[0]), batch[1])

    data = points(8)
    soft = TensorDataset(data.tensors[0], torch.nn.functional.one_hot(data.tensors[1], CLASSES).float())
    with pytest.raises(TypeError, match=r"MixUp or CutMix.*Train the teacher without mixing"):
        teach(Mixing(), DataLoader(soft, batch_size=4))


def test_another_data_set_on_resumption_is_refused():
    save = ModelCheckpoint("saved", filename="{epoch}", save_top_k=-1)
    teach(callbacks=[save], max_epochs=1)
    trainer = make_trainer(callbacks=[PredictionFilter(dirpath="run"), ModelCheckpoint("saved")])
    with pytest.raises(ValueError, match="14 samples before, 12 now"):
        trainer.fit(Teacher(), loader(12), loader(6, seed=1), ckpt_path="saved/epoch=0.ckpt", weights_only=True)
