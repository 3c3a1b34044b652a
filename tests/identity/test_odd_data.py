"""Datasets and collate functions that are unusual and legal, and ways in which samples get mixed up in silence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import ConcatDataset, DataLoader, Dataset, RandomSampler, Subset, TensorDataset, default_collate

from lightning_flip.callbacks import FlipTracker, LearningPath, PredictionHistory, PredictionWriter
from lightning_flip.data.identity import describe_data
from lightning_flip.data.sample_names import sample_names
from lightning_flip.mixins import LabelSmoothing
from lightning_flip.steps import ChangedDataError
from lightning_flip.stores import read_paths, read_predictions, read_samples
from tests.callbacks.helpers import Watched, expected_rows, loader, make_trainer, points, stored_rows
from tests.identity.helpers import Listed, Reloading, Unlisted, some_of
from tests.identity.test_changed_data import begin, resume

pytestmark = [
    pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists"),
    pytest.mark.filterwarnings("ignore:Be aware that when using .ckpt_path."),
    pytest.mark.filterwarnings("ignore:.* parts newer than the checkpoint were set aside"),
]


class Smooth(LabelSmoothing, Watched): ...


def fit(train, val=None, *, model=None, **options):
    model = model or Watched()
    trainer = make_trainer(callbacks=[PredictionHistory("run", **options), FlipTracker(train=True, **options)])
    trainer.fit(model, train, loader(6, seed=1) if val is None else val)
    assert stored_rows("run") == expected_rows(model.seen)
    return model


# -- datasets -------------------------------------------------------------------------------------------------


class Raises(Unlisted):
    @property
    def targets(self):
        raise RuntimeError("the test split has no labels")

    samples = imgs = labels = targets


class Rooted(Unlisted):
    root, samples = 7, [("a", 0)] * 16


class AsksNothing(Unlisted):
    def sample_id(self):
        return "all of them"


class Boxes(Unlisted):
    """Labels of several numbers a sample, in a file that is not read for their sake."""

    reads = 0

    class File:
        shape, dtype = (16, 4, 4), np.dtype("int64")

        def __array__(self, *args, **kwargs):
            Boxes.reads += 1
            return np.zeros(self.shape, self.dtype)

    labels = File()


class Ragged(Unlisted):
    targets = [[1, 2], [3]] * 8


class Longer(Subset):
    """Goes through its samples twice."""

    def __len__(self):
        return 2 * len(self.indices)

    def __getitem__(self, index):
        return self.dataset[self.indices[index % len(self.indices)]]

    __getitems__ = None


@pytest.mark.parametrize("make", [Raises, Rooted, AsksNothing, Boxes, Ragged])
def test_attributes_that_mean_something_else(make):
    fit(DataLoader(make(), batch_size=4, shuffle=True))
    assert Boxes.reads == 0
    assert describe_data(make())["ids_are"] == "positions"


def test_labels_in_a_list_of_tensors_and_on_the_graph():
    data = Unlisted()
    data.targets = list(data.answers)
    assert describe_data(data)["labels"] == describe_data(Listed())["labels"]
    fit(DataLoader(data, batch_size=4, shuffle=True))


def test_a_sampler_that_draws_more_than_the_dataset_says():
    """Virtual epochs: there is no table that has to have room."""

    class Virtual(Unlisted):
        def __len__(self):
            return 8

    model = Watched()
    data = DataLoader(Virtual(), batch_size=4, sampler=[0, 3, 9, 15, 9, 2, 11, 1])
    make_trainer(callbacks=[PredictionHistory("run")]).fit(model, data, loader(6, seed=1))
    assert stored_rows("run") == expected_rows(model.seen)
    with pytest.raises(ValueError, match="sample 15 of a dataset of 8 samples"):
        make_trainer(callbacks=[FlipTracker(train=True)]).fit(Watched(), data, loader(6, seed=1))


def test_a_folder_without_a_root_may_be_moved(tmp_path):
    class Files(Unlisted):
        def __init__(self, folder):
            super().__init__()
            self.samples = [(str(folder / f"{i % 2}" / f"{i}.png"), i % 2) for i in range(16)]
            for path, _ in self.samples:
                Path(path).parent.mkdir(parents=True, exist_ok=True)
                Path(path).touch()

    one, other = Files(tmp_path / "a"), Files(tmp_path / "b" / "c")
    assert describe_data(one) == describe_data(other)
    assert sample_names(one).names[:2] == ["0/0.png", "1/1.png"]
    assert sample_names(Subset(one, [3])).names == ["1/3.png"]


def test_several_samples_of_one_file_have_no_ids(tmp_path):
    video = tmp_path / "a.mp4"
    video.touch()
    data = Unlisted()
    data.samples = [(str(video), frame) for frame in range(16)]
    assert sample_names(data).kind == "positions"


def test_a_dataset_that_draws_to_name_a_sample_changes_no_weights():
    class Drawing(Unlisted):
        def sample_id(self, index):
            return f"{index}-{0 * torch.rand(1).item()}"

    weights = []
    for callbacks in ([], [FlipTracker(train=True), PredictionHistory("run")]):
        torch.manual_seed(0)
        model = Watched()
        make_trainer(callbacks=callbacks).fit(model, DataLoader(Drawing(), batch_size=4, shuffle=True), loader(6))
        weights.append(torch.cat([weight.flatten() for weight in model.parameters()]))
    assert weights[0].equal(weights[1])


def test_a_loss_without_a_memory_may_see_other_samples():
    model = Smooth()
    trainer = make_trainer(max_epochs=3, reload_dataloaders_every_n_epochs=1)
    trainer.fit(model, datamodule=Reloading(lambda epoch: some_of(Unlisted(40), 16, seed=epoch)))
    assert trainer.current_epoch == 3


# -- collate functions ----------------------------------------------------------------------------------------


class Domains(Unlisted):
    """The second part of a sample is not a label."""

    def __getitem__(self, index):
        x, y = super().__getitem__(index)
        return x, index % 3, y


def without_domain(samples):
    return default_collate([(x, y) for x, _, y in samples])


def with_lengths(samples):
    x, _, y = default_collate(samples)
    return x, torch.arange(len(y)) % 2, y


def test_a_collate_function_that_drops_a_part():
    fit(DataLoader(Domains(), batch_size=4, shuffle=True, collate_fn=without_domain))


def test_a_collate_function_with_the_labels_elsewhere():
    class Third(Watched):
        def training_step(self, batch, batch_idx):
            return super().training_step((batch[0], batch[2]), batch_idx)

        def validation_step(self, batch, batch_idx, dataloader_idx=0):
            super().validation_step((batch[0], batch[-1]), batch_idx, dataloader_idx)

    data = DataLoader(Domains(), batch_size=4, shuffle=True, collate_fn=with_lengths)
    val = DataLoader(Domains(6, 1), batch_size=4, collate_fn=with_lengths)
    fit(data, val, model=Third(), target_from=2)


def test_a_collate_function_that_sorts_a_set_sorted_by_class_is_refused():
    """Batches of one class tell nothing; those that come after them do."""
    data = Unlisted(32)
    order = torch.cat([torch.arange(4).repeat_interleave(6) % 3, torch.arange(8) % 3]).sort(stable=True).values
    data.answers[:24], data.answers[24:] = order[:24], torch.arange(8) % 3

    def reversed_collate(samples):
        return default_collate(samples[::-1])

    val = DataLoader(data, batch_size=4, collate_fn=reversed_collate)
    with pytest.raises(ChangedDataError, match="another order"):
        make_trainer(callbacks=[FlipTracker()], max_epochs=1).fit(Watched(), loader(8), val)


# -- labels that nobody compared ------------------------------------------------------------------------------


def test_labels_at_another_place_are_held_against_those_of_before_the_reload():
    x, y = points(16).tensors
    domain = torch.arange(16) % 3

    class Third(Watched):
        def training_step(self, batch, batch_idx):
            return super().training_step((batch[0], batch[2]), batch_idx)

    def data(epoch):
        return TensorDataset(x, domain, y if epoch == 0 else (y + (torch.arange(16) % 5 == 0)) % 3)

    trainer = make_trainer(
        max_epochs=3, callbacks=[FlipTracker(train=True, val=False, target_from=2)], reload_dataloaders_every_n_epochs=1
    )
    with pytest.raises(ChangedDataError, match="than their samples had before"):
        trainer.fit(Third(), datamodule=Reloading(data))


def test_labels_at_another_place_are_held_against_those_of_the_checkpoint():
    x, y = points(16).tensors
    domain = torch.arange(16) % 3

    class Third(Watched):
        def training_step(self, batch, batch_idx):
            return super().training_step((batch[0], batch[2]), batch_idx)

    def tracker():
        return FlipTracker(train=True, val=False, target_from=2)

    ckpt = begin(Third(), [tracker()], TensorDataset(x, domain, y))
    with pytest.raises(ChangedDataError, match="than their samples had before"):
        resume(Third(), [tracker()], TensorDataset(x, domain, (y + (domain == 1)) % 3), ckpt)


def test_samples_of_a_run_of_0_1_are_held_against_its_file():
    """Its checkpoints know nothing of the data."""
    ckpt = begin(Watched(), [PredictionHistory("run")], Unlisted())
    saved = torch.load(ckpt, weights_only=True)
    (state,) = (state for name, state in saved["callbacks"].items() if "PredictionHistory" in name)
    del state["data"]
    torch.save(saved, ckpt)
    data = Unlisted()
    data.relabel([2, 3])
    with pytest.raises(ChangedDataError, match="2 of 16 train samples"):
        resume(Watched(), [PredictionHistory("run")], data, ckpt)


@pytest.mark.parametrize("seed", range(3))
def test_a_sample_that_is_seen_late_has_the_label_that_the_step_saw(seed):
    """The list is of another part, and may not speak for samples that no step has seen."""
    x, y = points(16).tensors
    torch.manual_seed(seed)
    data = TensorDataset(x, torch.arange(16) % 3, y)

    class Third(Watched):
        def training_step(self, batch, batch_idx):
            return super().training_step((batch[0], batch[2]), batch_idx)

    model = Third()
    sampler = RandomSampler(data, replacement=True, num_samples=8)
    history = PredictionHistory("run", val=False, target_from=2)
    loaders = DataLoader(data, batch_size=4, sampler=sampler), loader(6, seed=1)
    make_trainer(max_epochs=3, callbacks=[history]).fit(model, *loaders)
    samples = read_samples("run")
    told = dict(zip(samples["index"].to_pylist(), samples["target"].to_pylist(), strict=True))
    seen = {row[5]: row[11] for row in model.seen if row[0] == "train"}
    assert told == {index: seen.get(index) for index in range(16)}
    assert stored_rows("run", "train") == expected_rows(model.seen, "train")


def test_paths_start_anew_on_other_data():
    def path():
        return LearningPath([0, 3], dirpath="run", allow_changed_data=True)

    ckpt = begin(Watched(), [path()], some_of(Unlisted(40), 16, 0))
    with pytest.warns(UserWarning, match="anew"):
        resume(Watched(), [path()], some_of(Unlisted(40), 16, 1), ckpt)
    assert not np.isnan(read_paths("run/paths").path).all()
    orphans = sorted(path.name[:10] for path in Path("run").rglob("*.orphan"))
    assert orphans == ["epoch-0000", "epoch-0001", "epoch-0002"]  # the last one was newer than the checkpoint


def test_predictions_in_another_order_are_refused_in_the_first_batches():
    class Swapped(Listed):
        """Hands out its neighbor."""

        def __getitem__(self, index):
            return super().__getitem__(index ^ 1)

    steps = []

    class Counts(Watched):
        def test_step(self, batch, batch_idx):
            steps.append(batch_idx)
            return super().validation_step(batch, batch_idx)

    data = DataLoader(Swapped(64), batch_size=4)
    with pytest.raises(ChangedDataError, match="than the dataset lists"):
        make_trainer(callbacks=[PredictionWriter("p.parquet")]).test(Counts(), data, verbose=False)
    assert len(steps) <= 4
    assert not Path("p.parquet").exists()
    make_trainer(callbacks=[PredictionWriter("p.parquet", labels="may_change")]).test(Counts(), data, verbose=False)
    assert read_predictions("p.parquet").num_samples == 64


class Named(Dataset[Any]):
    def __init__(self, names: list[str]) -> None:
        self.names = names

    def __len__(self) -> int:
        return len(self.names)

    def sample_id(self, index: int) -> str:
        return self.names[index]


@pytest.mark.parametrize("seed", range(8))
def test_the_hash_of_ids_depends_on_the_ids_of_the_rows_alone(seed: int) -> None:
    rng = np.random.default_rng(seed)
    names = [f"ä{number}" for number in range(40)]
    scattered = Named([f"?{number}" for number in range(900)])  # few of many positions
    chosen = rng.choice(40, 30, replace=seed % 2 == 1)  # with repeats in every other case
    halves = ConcatDataset([Named(names[:17]), Subset(Named(names[::-1]), range(22, -1, -1))])
    places = rng.permutation(900)[:30]
    for place, name in zip(places, chosen, strict=True):
        scattered.names[place] = names[name]
    expected = describe_data(Named([names[name] for name in chosen]))
    for same in (Subset(Named(names), chosen.tolist()), Subset(halves, chosen), Subset(scattered, places.tolist())):
        assert (describe_data(same)["ids"], describe_data(same)["ids_are"]) == (expected["ids"], "sample_id")
    other = chosen.copy()
    other[[3, 4]] = other[[4, 3]] if other[3] != other[4] else (other[3], (other[4] + 1) % 40)
    assert describe_data(Subset(Named(names), other.tolist()))["ids"] != expected["ids"]
    assert describe_data(Named(["ab", "c"]))["ids"] != describe_data(Named(["a", "bc"]))["ids"]
