"""Lasting ids are found where datasets keep them, and files say of which kind they are."""

from __future__ import annotations

import shutil
from pathlib import Path

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import ConcatDataset, DataLoader, Dataset, Subset, TensorDataset
from torchvision.datasets import DatasetFolder

from lightning_flip.callbacks import FlipTracker, PredictionHistory, PredictionWriter, ZigZag
from lightning_flip.data import NoisyLabels
from lightning_flip.reports import join_predictions
from lightning_flip.steps import ChangedDataError
from lightning_flip.stores import read_history, read_predictions, read_samples
from lightning_flip.stores.zigzag import read_zigzag
from tests.callbacks.helpers import Watched, loader, make_trainer, points, run_ranks
from tests.identity.helpers import Listed, Unlisted

pytestmark = [
    pytest.mark.filterwarnings("ignore:You defined a .validation_step. but have no"),
    pytest.mark.filterwarnings("ignore:Total length of .* is zero"),  # Lightning's word for an empty loader
]
NAMES = ["cat/1.pt", "cat/2.pt", "cat/3.pt", "cat/m.pt", "dog/1.pt", "dog/2.pt", "dog/new/4.pt"]


def make_folder(root, names=NAMES, seed=0):
    """Files of four numbers, as a folder dataset reads them: class by class, sorted by name."""
    content = torch.randn(len(names), 4, generator=torch.Generator().manual_seed(seed))
    for name, row in zip(names, content, strict=True):
        path = Path(root, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save(row.clone(), path)
    return folder(root)


def folder(root):
    return DatasetFolder(str(root), loader=torch.load, extensions=(".pt",))


class Plain(pl.LightningModule):
    """A fixed linear network that does not learn."""

    def __init__(self):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(1)
            self.net = nn.Linear(4, 2)

    def forward(self, x):
        return self.net(x[:, -4:])

    def training_step(self, batch, batch_idx):
        return nn.functional.cross_entropy(self(batch[0]), batch[1])

    def validation_step(self, batch, batch_idx, dataloader_idx=0):
        self(batch[0])

    test_step = validation_step

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.0)


def recorded(data, **options):
    """What a short fit writes of the training data: samples.parquet's rows and run.json's marks."""
    recorder = PredictionHistory("run", val=False, overwrite=True, **options)
    make_trainer(max_epochs=1, callbacks=[recorder]).fit(Plain(), DataLoader(data, batch_size=3, shuffle=True))
    history = read_history("run")
    return history.samples("train"), history.run.data["train-0"]


def predicted(data, path, **options):
    """What a test pass writes."""
    writer = PredictionWriter(path, overwrite=True, **options)
    make_trainer(callbacks=[writer]).test(Plain(), DataLoader(data, batch_size=3), verbose=False)
    return read_predictions(path)


def facts_of(predictions):
    """What a file of predictions says of its data, by itself or under the name of the split and loader."""
    data = predictions.data
    return data if "length" in data else next(iter(data.values()))


def assert_ids(data, expected, kind, **options):
    """History, predictions and scores call every sample the same."""
    samples, facts = recorded(data, **options)
    assert samples["sample_id"].to_pylist() == expected
    assert (facts["ids_are"], facts["length"]) == (kind, len(expected))
    predictions = predicted(data, "p.parquet", **options)
    assert predictions.rows["sample_id"].to_pylist() == expected
    facts = facts_of(predictions)
    assert facts["ids_are"] == kind
    zigzag = ZigZag("zigzag", overwrite=True, **options)
    make_trainer(max_epochs=1, callbacks=[zigzag]).fit(Plain(), DataLoader(data, batch_size=3))
    assert read_zigzag("zigzag")["sample_id"].to_pylist() == expected


# -- paths ----------------------------------------------------------------------------------------------------


def test_paths_of_a_folder_dataset_below_its_root():
    assert_ids(make_folder("images"), NAMES, "paths")


@pytest.mark.parametrize("root", ["images", "images/", "./images", "deep/er/images"])
def test_however_the_root_is_written(root):
    samples, _ = recorded(make_folder(root))
    assert samples["sample_id"].to_pylist() == NAMES


def test_an_absolute_root_gives_the_same_ids():
    samples, _ = recorded(make_folder(Path("images").absolute()))
    assert samples["sample_id"].to_pylist() == NAMES


def test_paths_through_subsets():
    data = make_folder("images")
    order = [6, 0, 3, 2]
    assert_ids(Subset(data, order), [NAMES[place] for place in order], "paths")
    assert_ids(Subset(Subset(data, order), [2, 0]), [NAMES[3], NAMES[6]], "paths")


def test_paths_through_a_wrapper_that_keeps_positions():
    assert_ids(NoisyLabels(make_folder("images"), rate=0.5, exact=True), NAMES, "paths")


def test_paths_through_concatenation_stay_different():
    """Two folders may have files of the same name."""
    both = ConcatDataset([make_folder("first"), Subset(make_folder("second", seed=1), [1, 0])])
    samples, facts = recorded(both)
    names = samples["sample_id"].to_pylist()
    assert len(set(names)) == len(NAMES) + 2
    assert all(name.endswith(path) for name, path in zip(names, [*NAMES, NAMES[1], NAMES[0]], strict=True))
    assert facts["ids_are"] == "paths"
    nested, _ = recorded(Subset(both, [8, 0, 4]))
    assert nested["sample_id"].to_pylist() == [names[8], names[0], names[4]]
    assert predicted(both, "p.parquet").rows["sample_id"].to_pylist() == names


class Images(Unlisted):
    """The other usual name of the list."""

    def __init__(self, count=4, root="data"):
        super().__init__(count)
        self.root = root
        self.imgs = [(f"{root}/{place % 2}/{9 - place}.png", place % 2) for place in range(count)]

    def __getitem__(self, index):
        return super().__getitem__(index)[0], self.imgs[index][1]


def test_imgs_do_as_well_as_samples():
    assert_ids(Images(), ["0/9.png", "1/8.png", "0/7.png", "1/6.png"], "paths")


def test_samples_that_are_no_paths_are_no_ids():
    """`samples` is a usual name for anything."""

    class Rows(Images):
        def __init__(self):
            super().__init__()
            self.samples = self.inputs
            del self.imgs

        def __getitem__(self, index):
            return self.samples[index], index % 2

    samples, facts = recorded(Rows())
    assert facts["ids_are"] == "positions"
    assert len(set(samples["sample_id"].to_pylist()) - {None}) in (0, 4)


# -- ids of the dataset's own, columns ------------------------------------------------------------------------


def test_sample_id_wins_over_samples():
    class Named(Images):
        def sample_id(self, index):
            return f"patient-{index}"

    assert_ids(Named(), [f"patient-{place}" for place in range(4)], "sample_id")
    assert_ids(Subset(Named(), [2, 1]), ["patient-2", "patient-1"], "sample_id")


def test_a_method_that_knows_no_id_is_none():
    data = NoisyLabels(TensorDataset(torch.randn(4, 4), torch.arange(4) % 2), rate=0.5, exact=True)
    _, facts = recorded(data)
    assert facts["ids_are"] == "positions"


class Columns(Listed):
    """A table whose columns are asked for by name, with an attribute beside."""

    def __init__(self, count=4):
        super().__init__(count)
        self.answers = self.answers % 2
        self.barcodes = np.array([f"b{7 * place}" for place in range(count)])
        self.numbers = torch.arange(count) * 10
        self.column_names = ["uid"]

    def __getitem__(self, key):
        if isinstance(key, str):
            return {"uid": [f"u{place}" for place in range(len(self))]}[key]
        return super().__getitem__(key)


def all_of(dataset):
    return [f"made-{place}" for place in range(len(dataset))]


@pytest.mark.parametrize(
    ("option", "expected"),
    [
        ("barcodes", ["b0", "b7", "b14", "b21"]),
        ("numbers", ["0", "10", "20", "30"]),
        ("uid", ["u0", "u1", "u2", "u3"]),
        (all_of, ["made-0", "made-1", "made-2", "made-3"]),
    ],
)
def test_ids_by_option(option, expected):
    assert_ids(Columns(), expected, "column", sample_id_from=option)


@pytest.mark.parametrize(("option", "names"), [("barcodes", ("b14", "b0")), ("uid", ("u2", "u0"))])
def test_a_column_is_found_through_subsets(option, names):
    assert_ids(Subset(Columns(), [2, 0]), list(names), "column", sample_id_from=option)


def test_a_function_is_given_the_dataset_of_the_loader():
    assert_ids(Subset(Columns(), [2, 0]), ["made-0", "made-1"], "column", sample_id_from=all_of)


def test_the_option_wins_over_everything():
    data = make_folder("images")
    data.codes = [f"c{place}" for place in range(len(NAMES))]
    assert_ids(data, data.codes, "column", sample_id_from="codes")


@pytest.mark.parametrize("option", ["nothing_of_the_kind", lambda nothing_of_the_kind: ["a", "b"]])
def test_an_option_that_gives_no_ids_is_refused(option):
    """No such column, or not one id a sample."""
    with pytest.raises(ValueError, match=r"sample_id_from|nothing_of_the_kind"):
        recorded(Columns(), sample_id_from=option)
    with pytest.raises(ValueError, match=r"sample_id_from|nothing_of_the_kind"):
        predicted(Columns(), "p.parquet", sample_id_from=option)


def test_other_ids_of_the_same_length_are_other_data():
    data = Columns()
    callbacks = [PredictionHistory("run", sample_id_from="barcodes")]
    trainer = make_trainer(max_epochs=1, callbacks=callbacks)
    trainer.fit(Plain(), DataLoader(data, batch_size=3))
    trainer.save_checkpoint("end.ckpt")
    data.barcodes = data.barcodes[::-1].copy()
    callbacks = [PredictionHistory("run", sample_id_from="barcodes")]
    with pytest.raises(ChangedDataError, match="train"):
        make_trainer(max_epochs=2, callbacks=callbacks).fit(
            Plain(), DataLoader(data, batch_size=3), ckpt_path="end.ckpt", weights_only=True
        )


# -- positions ------------------------------------------------------------------------------------------------


def test_positions_are_marked_as_such():
    data = TensorDataset(torch.randn(5, 4), torch.arange(5) % 2)
    samples, facts = recorded(Subset(data, [3, 1, 4]))
    assert facts["ids_are"] == "positions"
    assert samples["source_index"].to_pylist() == [3, 1, 4]
    predictions = predicted(Subset(data, [3, 1, 4]), "p.parquet")
    assert predictions.rows["sample_id"].to_pylist() == ["3", "1", "4"]
    assert facts_of(predictions)["ids_are"] == "positions"


# -- renamed files --------------------------------------------------------------------------------------------


def negative_flip_rate(old, new):
    joined = join_predictions(old, new, allow_partial=True)
    return float(joined.negative_flips.mean()), float(joined.positive_flips.mean()), joined


def test_a_renamed_file_makes_no_flips():
    """One model, two passes; one file of the class now comes first, and all others have moved by a place."""
    predicted(make_folder("images"), "old.parquet")
    Path("images/cat/m.pt").rename("images/cat/0.pt")
    predicted(folder("images"), "new.parquet")
    negative, positive, joined = negative_flip_rate("old.parquet", "new.parquet")
    assert (negative, positive) == (0.0, 0.0)
    assert sorted(joined.ids.to_pylist()) == sorted(set(NAMES) - {"cat/m.pt"})
    assert (joined.only_old, joined.only_new) == (1, 1)


def test_the_same_files_in_another_place_are_the_same_samples():
    predicted(make_folder("images"), "old.parquet")
    shutil.move("images", "elsewhere")
    predicted(folder("elsewhere"), "new.parquet")
    joined = join_predictions("old.parquet", "new.parquet")
    assert joined.num_samples == len(NAMES)
    assert not joined.negative_flips.any()
    assert not joined.positive_flips.any()


def test_a_file_that_is_added_moves_no_other():
    predicted(make_folder("images"), "old.parquet")
    torch.save(torch.zeros(4), "images/cat/0.pt")
    predicted(folder("images"), "new.parquet")
    negative, positive, joined = negative_flip_rate("old.parquet", "new.parquet")
    assert (negative, positive, joined.only_old, joined.only_new) == (0.0, 0.0, 0, 1)


def test_a_renamed_file_between_two_fits_is_other_data():
    def fit(epochs, ckpt=None):
        trainer = make_trainer(max_epochs=epochs, callbacks=[FlipTracker(train=True, val=False)])
        data = DataLoader(folder("images"), batch_size=3)
        trainer.fit(Plain(), data, ckpt_path=ckpt, weights_only=True)
        return trainer

    make_folder("images")
    fit(1).save_checkpoint("end.ckpt")
    fit(2, "end.ckpt")
    Path("images/cat/m.pt").rename("images/cat/0.pt")
    with pytest.raises(ChangedDataError, match="train"):
        fit(3, "end.ckpt")


# -- every sample is listed -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("make", "listed"), [(Listed, True), (Unlisted, False), (lambda n: points(n), True)])
def test_samples_that_no_step_saw_are_listed(make, listed):
    data, model = make(12), Watched()
    trainer = make_trainer(max_epochs=2, callbacks=[PredictionHistory("run", val=False)], limit_train_batches=2)
    trainer.fit(model, DataLoader(data, batch_size=3))
    labels = [int(data[place][1]) for place in range(12)]
    history = read_history("run")
    samples = history.samples("train")
    assert samples["index"].to_pylist() == list(range(12))
    assert samples["target"].to_pylist() == (labels if listed else [*labels[:6], *[None] * 6])
    assert history.correct_matrix("train").shape == (2, 12)
    assert not history.correct_matrix("train")[:, 6:].any()
    assert history.visited_matrix("train").tolist() == [[True] * 6 + [False] * 6] * 2
    statistics = history.statistics("train")
    assert statistics["visits"].to_pylist() == [2] * 6 + [0] * 6
    assert statistics["aum"].to_pylist()[6:] == [None] * 6
    assert set(history.suspects(12)["index"].to_pylist()) == set(range(6))
    assert history.to_arrow("train").num_rows == 12


def test_a_sample_that_is_seen_later_gets_its_label():
    data = Unlisted(12)

    class Half(torch.utils.data.Sampler):
        rounds = 0

        def __iter__(self):
            self.rounds += 1
            return iter(range(6) if self.rounds == 1 else range(6, 12))

        def __len__(self):
            return 6

    trainer = make_trainer(max_epochs=2, callbacks=[PredictionHistory("run", val=False)])
    trainer.fit(Watched(), DataLoader(data, batch_size=3, sampler=Half()))
    assert read_history("run").samples("train")["target"].to_pylist() == data.answers.tolist()


def test_true_labels_of_samples_that_no_step_saw():
    clean = TensorDataset(torch.randn(12, 4), torch.arange(12) % 2)
    data = NoisyLabels(clean, rate=0.5, exact=True)
    trainer = make_trainer(max_epochs=1, callbacks=[PredictionHistory("run", val=False)], limit_train_batches=2)
    trainer.fit(Plain(), DataLoader(data, batch_size=3))
    samples = read_history("run").samples("train")
    assert samples["target"].to_pylist() == data.noisy_targets.tolist()
    assert samples["true_target"].to_pylist() == clean.tensors[1].tolist()


def test_every_loader_lists_its_samples():
    trainer = make_trainer(max_epochs=1, callbacks=[PredictionHistory("run")], limit_val_batches=1)
    trainer.fit(Watched(), loader(8), [loader(7, seed=1), DataLoader(Unlisted(9, 2), batch_size=4)])
    samples = read_samples("run").to_pylist()
    count = {(row["split"], row["loader"]): 0 for row in samples}
    for row in samples:
        count[row["split"], row["loader"]] += 1
    assert count == {("train", 0): 8, ("val", 0): 7, ("val", 1): 9}
    data = read_history("run").run.data
    assert {name: facts["length"] for name, facts in data.items()} == {"train-0": 8, "val-0": 7, "val-1": 9}


def on_two_ranks():
    trainer = make_trainer(
        strategy="ddp",
        devices=2,
        max_epochs=1,
        limit_train_batches=1,
        callbacks=[PredictionHistory("run", val=False)],
    )
    trainer.fit(Plain(), DataLoader(folder("images"), batch_size=2))


def test_two_ranks_list_every_sample_once():
    make_folder("images")
    assert run_ranks(2, on_two_ranks) == [0, 0]
    samples = read_history("run").samples("train")
    assert samples["sample_id"].to_pylist() == NAMES
    assert samples["target"].to_pylist() == [0, 0, 0, 0, 1, 1, 1]


# -- nothing at all -------------------------------------------------------------------------------------------


class Empty(Dataset):
    targets: list[int] = []
    samples: list[tuple[str, int]] = []
    root = "nowhere"

    def __len__(self):
        return 0

    def __getitem__(self, index):
        raise IndexError(index)

    def sample_id(self, index):
        raise IndexError(index)


@pytest.mark.parametrize("make", [lambda: Subset(points(4), []), lambda: points(0), Empty])
def test_a_loader_without_samples_is_no_error(make):
    recorders = [PredictionHistory("run"), FlipTracker(train=True)]
    trainer = make_trainer(max_epochs=2, callbacks=recorders)
    trainer.fit(Watched(), loader(8), [loader(6, seed=1), DataLoader(make(), batch_size=4)])
    data = read_history("run").run.data
    assert data["val-0"]["length"] == 6
    assert data.get("val-1", {"length": 0})["length"] == 0
    assert recorders[1].statistics["val", 0].visits.tolist() == [2] * 6


def test_predictions_of_no_samples_are_no_error():
    writer = PredictionWriter("p.parquet")
    with pytest.warns(UserWarning, match="gave no batch"):
        make_trainer(callbacks=[writer]).test(
            Plain(), [DataLoader(make_folder("images")), DataLoader(Empty())], verbose=False
        )
    assert [path.name for path in writer.paths] == ["p.parquet"]
