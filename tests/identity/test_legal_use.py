"""What changes no sample is never refused, and leaves the rows that the module saw."""

from __future__ import annotations

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.nn import functional
from torch.utils.data import (
    BatchSampler,
    ConcatDataset,
    DataLoader,
    RandomSampler,
    Subset,
    TensorDataset,
    WeightedRandomSampler,
    default_collate,
    random_split,
)
from torchdata.stateful_dataloader import StatefulDataLoader

from lightning_flip.callbacks import FlipTracker, PredictionHistory
from lightning_flip.data import ClassSubset, NoisyLabels
from lightning_flip.stores import read_history
from tests.callbacks.helpers import (
    CLASSES,
    Robust,
    Watched,
    expected_rows,
    loader,
    make_trainer,
    points,
    run_ranks,
    stored_rows,
)
from tests.identity.helpers import (
    COUNT,
    FOLLOWERS,
    KINDS,
    Listed,
    Numbered,
    Reloading,
    Unlisted,
    follower,
    some_of,
)

pytestmark = [
    pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists"),
    pytest.mark.filterwarnings("ignore:Be aware that when using .ckpt_path."),
    pytest.mark.filterwarnings("ignore:this run began with a schedule of"),
    pytest.mark.filterwarnings("ignore:the transition has a condition number"),
]


def fit(train, val=None, *, model=None, epochs=2, ckpt=None, callbacks=(), **options):
    """Fit with a loss and callbacks that follow both splits; warnings are errors."""
    recorders = [PredictionHistory("run"), FlipTracker(train=True), *callbacks]
    trainer = make_trainer(max_epochs=epochs, callbacks=recorders, **options)
    model = model or Robust()
    if isinstance(train, Reloading):
        trainer.fit(model, datamodule=train)
    else:
        val = loader(6, seed=1) if val is None else val
        trainer.fit(model, train, val, ckpt_path=ckpt, weights_only=None if ckpt is None else True)
    assert stored_rows("run") == expected_rows(model.seen)
    return model, trainer


def seen_labels(model, split="train"):
    return {row[5]: row[11] for row in model.seen if row[0] == split}


every_kind = pytest.mark.parametrize("kind", list(KINDS))


# -- samplers -------------------------------------------------------------------------------------------------


@every_kind
def test_a_weighted_sampler_that_repeats(kind):
    data = KINDS[kind]()
    sampler = WeightedRandomSampler(torch.arange(COUNT) + 1.0, 24)
    model, _ = fit(DataLoader(data, batch_size=5, sampler=sampler))
    assert seen_labels(model).items() <= dict(enumerate(data.answers.tolist())).items()


def test_a_batch_sampler_and_drop_last():
    data = Unlisted(14)
    fit(DataLoader(data, batch_sampler=BatchSampler(RandomSampler(data), 4, drop_last=True)))


@every_kind
def test_drop_last_and_limited_batches(kind):
    model, _ = fit(
        DataLoader(KINDS[kind](14), batch_size=4, shuffle=True, drop_last=True),
        limit_train_batches=2,
        limit_val_batches=1,
    )
    assert read_history("run").samples("train").num_rows == 14
    assert len({row[5] for row in model.seen if row[0] == "val"}) == 4


def test_a_list_that_serves_as_a_sampler():
    fit(DataLoader(Listed(), batch_size=4, sampler=[3, 3, 1, 0, 15, 3]))


# -- loaders --------------------------------------------------------------------------------------------------


def test_several_validation_loaders():
    val = [loader(6, seed=1), DataLoader(Listed(9, 2), batch_size=4), DataLoader(Unlisted(5, 3), batch_size=4)]
    fit(DataLoader(Listed(), batch_size=4, shuffle=True), val)
    assert {name.split("-")[0] for name in read_history("run").run.data} == {"train", "val"}


def test_the_same_data_in_two_validation_loaders():
    data = Listed(9)
    fit(DataLoader(data, batch_size=4), [DataLoader(data, batch_size=4), DataLoader(data, batch_size=2)])


@pytest.mark.parametrize("make", [lambda: Listed(24), lambda: NoisyLabels(points(24), rate=0.5, exact=True)])
def test_workers_that_stay(make):
    fit(
        DataLoader(make(), batch_size=4, shuffle=True, num_workers=2, persistent_workers=True),
        DataLoader(Listed(6, 1), batch_size=4, num_workers=1, persistent_workers=True),
        epochs=2,
    )


def test_a_stateful_loader():
    fit(StatefulDataLoader(Unlisted(), batch_size=4, shuffle=True))


def test_several_passes_an_epoch():
    fit(DataLoader(Listed(), batch_size=4, shuffle=True), val_check_interval=0.5)


# -- labels that are mapped -----------------------------------------------------------------------------------


class Mapping(Robust):
    """A transfer hook gives classes other numbers."""

    def __init__(self, mapping):
        super().__init__()
        self.mapping = torch.tensor(mapping)

    def on_before_batch_transfer(self, batch, dataloader_idx):
        x, y = batch
        return x, self.mapping[y]


class MappingAfter(Mapping):
    """The same behind the transfer."""

    def on_before_batch_transfer(self, batch, dataloader_idx):
        return batch

    def on_after_batch_transfer(self, batch, dataloader_idx):
        x, y = batch
        return x, self.mapping[y]


mappings = pytest.mark.parametrize(
    ("mapping", "kind"), [((1, 2, 0), "listed"), ((0, 0, 1), "listed"), ((1, 1, 1), "listed"), ((0, 2, 0), "unlisted")]
)


@mappings
@pytest.mark.parametrize("make", [Mapping, MappingAfter])
def test_a_transfer_hook_maps_labels(make, mapping, kind):
    data = KINDS[kind]()
    model, _ = fit(DataLoader(data, batch_size=4, shuffle=True), model=make(mapping))
    assert seen_labels(model) == {place: mapping[label] for place, label in enumerate(data.answers.tolist())}


@mappings
def test_a_collate_function_maps_labels(mapping, kind):
    def collate(samples):
        x, y = default_collate(samples)
        return x, torch.tensor(mapping)[y]

    data = KINDS[kind]()
    model, _ = fit(DataLoader(data, batch_size=4, shuffle=True, collate_fn=collate))
    assert seen_labels(model) == {place: mapping[label] for place, label in enumerate(data.answers.tolist())}


@every_kind
def test_a_mapped_run_is_resumed(kind):
    def train():
        return DataLoader(KINDS[kind](), batch_size=4, shuffle=True)

    save = ModelCheckpoint("saved", filename="{epoch}")
    fit(train(), model=Mapping((0, 0, 1)), epochs=2, callbacks=[save])
    fit(train(), model=Mapping((0, 0, 1)), epochs=3, ckpt="saved/epoch=1.ckpt")


def test_a_target_transform_maps_labels():
    class Transformed(Listed):
        def __getitem__(self, index):
            x, y = super().__getitem__(index)
            return x, (y + 1) % CLASSES

    fit(DataLoader(Transformed(), batch_size=4, shuffle=True))


def test_noisy_labels():
    data = NoisyLabels(points(COUNT), rate=0.5, exact=True, seed=3)
    model, _ = fit(DataLoader(data, batch_size=4, shuffle=True))
    assert seen_labels(model) == dict(enumerate(data.noisy_targets.tolist()))
    assert read_history("run").samples("train")["true_target"].to_pylist() == data.true_targets.tolist()


def test_noisy_labels_in_a_subset_and_a_subset_in_noisy_labels():
    outer = some_of(NoisyLabels(points(40), rate=0.5, exact=True), COUNT, 0)
    inner = NoisyLabels(some_of(points(40), COUNT, 0), rate=0.5, exact=True)
    fit(
        DataLoader(Numbered(outer), batch_size=4, shuffle=True),
        DataLoader(Numbered(inner), batch_size=4),
    )


def test_a_subset_of_classes_with_numbers_of_its_own():
    data = Numbered(ClassSubset(points(40), classes=[2, 0]))
    fit(DataLoader(data, batch_size=4, shuffle=True))


def test_concatenated_data():
    class Shifted(Listed):
        def __getitem__(self, index):
            x, y = super().__getitem__(index)
            return torch.cat([x[:1] + 6, x[1:]]), y

    fit(DataLoader(ConcatDataset([Unlisted(6), Shifted(9)]), batch_size=4, shuffle=True))


# -- attributes that look like lists of labels ----------------------------------------------------------------


class Words(Unlisted):
    """Lists the labels as words."""

    @property
    def labels(self):
        return [("cat", "dog", "owl")[label] for label in self.answers.tolist()]


class ClassNames(Unlisted):
    """`labels` names the classes."""

    labels = ["cat", "dog", "owl"]


class OneHot(Unlisted):
    """Lists one-hot rows."""

    @property
    def targets(self):
        return functional.one_hot(self.answers, CLASSES)


class Boxes(Unlisted):
    """Lists something of each sample that is not a label."""

    @property
    def targets(self):
        return [{"boxes": [], "label": label} for label in self.answers.tolist()]


class Nothing(Unlisted):
    """Has the names, and nothing behind them."""

    targets = None
    labels = None
    samples = None
    imgs = None
    root = None


class Floats(Unlisted):
    """Lists whole numbers as floats."""

    @property
    def targets(self):
        return self.answers.double().numpy()


@pytest.mark.parametrize("make", [Words, ClassNames, OneHot, Boxes, Nothing, Floats])
def test_lists_of_other_things(make):
    fit(DataLoader(make(), batch_size=4, shuffle=True))


def test_second_tensors_that_are_no_labels():
    """The third tensor holds the labels."""
    x, y = points(COUNT).tensors
    data = TensorDataset(x, torch.rand(COUNT, 2), y)

    def collate(samples):
        x, _, y = default_collate(samples)
        return x, y

    fit(DataLoader(data, batch_size=4, shuffle=True, collate_fn=collate))


def test_inputs_may_change():
    """Augmentation: another input at every visit, the same label."""

    class Augmented(Listed):
        def __getitem__(self, index):
            x, y = super().__getitem__(index)
            return torch.cat([x[:1], x[1:] + 0.1 * torch.randn(4)]), y

    fit(DataLoader(Augmented(), batch_size=4, shuffle=True))


# -- collate functions ----------------------------------------------------------------------------------------


def test_mixed_targets_are_compared_with_nothing():
    class Mixing(Watched):
        def training_step(self, batch, batch_idx):
            return functional.cross_entropy(self(batch[0]), batch[1])

    def mix(samples):
        x, y = default_collate(samples)
        hot = functional.one_hot(y, CLASSES).float()
        return x, 0.7 * hot + 0.3 * hot.flip(0)

    tracker = FlipTracker(train=True)
    data = DataLoader(Listed(), batch_size=4, shuffle=True, collate_fn=mix)
    with pytest.warns(UserWarning, match="MixUp or CutMix"):
        make_trainer(callbacks=[tracker]).fit(Mixing(), data, loader(6, seed=1))
    assert tracker.statistics["val", 0].visits.tolist() == [3] * 6


@every_kind
def test_a_collate_function_of_its_own_form(kind):
    """Padding to the longest one, numpy arrays, another order of the parts."""

    def collate(samples):
        samples = [(x, torch.ones(1 + int(y)), int(y)) for x, y in samples]
        torch.nn.utils.rnn.pad_sequence([extra for _, extra, _ in samples])
        return torch.stack([x for x, _, _ in samples]), torch.tensor([y for *_, y in samples])

    fit(DataLoader(KINDS[kind](), batch_size=4, shuffle=True, collate_fn=collate))


# -- reloads and resumption -----------------------------------------------------------------------------------


EQUAL = {
    "tensors": lambda epoch: points(COUNT),
    "listed": lambda epoch: Listed(),
    "unlisted": lambda epoch: Unlisted(),
    "noisy": lambda epoch: NoisyLabels(points(COUNT), rate=0.5, exact=True, seed=4),
    "concatenated": lambda epoch: ConcatDataset([Unlisted()]),
}


@pytest.mark.parametrize("name", list(EQUAL))
def test_a_reload_of_equal_data_every_epoch(name):
    fit(Reloading(EQUAL[name], lambda epoch: Listed(6, 1)), reload_dataloaders_every_n_epochs=1)


@pytest.mark.parametrize("name", FOLLOWERS)
def test_a_reload_of_the_same_split_every_epoch(name):
    model, callbacks = follower(name)
    trainer = make_trainer(callbacks=callbacks, reload_dataloaders_every_n_epochs=1)
    trainer.fit(model, datamodule=Reloading(lambda epoch: some_of(Unlisted(40), COUNT, seed=3)))
    assert trainer.current_epoch == 3


def same_split(kind="unlisted"):
    return random_split(KINDS[kind](40), [COUNT, 40 - COUNT], torch.Generator().manual_seed(3))[0]


@pytest.mark.parametrize("name", FOLLOWERS)
def test_a_resume_on_the_same_data_made_anew(name):
    save = ModelCheckpoint("saved", filename="{epoch}", save_top_k=-1)
    model, callbacks = follower(name)
    make_trainer(callbacks=[*callbacks, save]).fit(
        model, DataLoader(same_split(), batch_size=4, shuffle=True), loader(6, seed=1)
    )
    model, callbacks = follower(name)
    trainer = make_trainer(max_epochs=4, callbacks=callbacks)
    trainer.fit(
        model,
        DataLoader(same_split(), batch_size=8, shuffle=True),  # other batches are the same data
        loader(6, seed=1),
        ckpt_path="saved/epoch=2.ckpt",
        weights_only=True,
    )
    assert trainer.current_epoch == 4
    if name == "tracker":
        assert callbacks[0].statistics["train", 0].visits.tolist() == [4] * COUNT


def test_a_second_fit_on_other_data_with_the_same_callbacks():
    """A new run has nothing to do with the one before."""
    tracker, model = FlipTracker(train=True), Watched()
    for seed, count in ((0, COUNT), (1, COUNT), (2, 12)):
        make_trainer(callbacks=[tracker]).fit(
            model, DataLoader(some_of(Unlisted(40), count, seed), batch_size=4, shuffle=True), loader(6, seed=seed)
        )
        assert tracker.statistics["train", 0].visits.tolist() == [3] * count


def test_going_on_with_the_same_trainer():
    tracker, model = FlipTracker(train=True), Robust()
    trainer = make_trainer(max_epochs=2, callbacks=[tracker])
    for epochs in (2, 4):
        trainer.fit_loop.max_epochs = epochs
        trainer.fit(model, DataLoader(Unlisted(), batch_size=4, shuffle=True), loader(6, seed=1))
    assert tracker.statistics["train", 0].visits.tolist() == [4] * COUNT


def test_validation_by_itself_on_other_data():
    """`validate` and `test` after a fit follow no history."""
    model, trainer = fit(DataLoader(Listed(), batch_size=4))
    trainer.validate(model, DataLoader(Unlisted(9, 5), batch_size=4), verbose=False)


def test_batches_that_carry_their_ids():
    """No dataset to ask: nothing to compare but labels."""

    class Stream(torch.utils.data.IterableDataset):
        def __iter__(self):
            return iter(zip(*points(8).tensors, range(8), strict=True))

    class Carrying(Watched):
        def training_step(self, batch, batch_idx):
            return super().training_step(batch[:2], batch_idx)

    tracker = FlipTracker(train=True, val=False, index_from=2, num_samples=8)
    make_trainer(callbacks=[tracker]).fit(Carrying(), DataLoader(Stream(), batch_size=4), loader(6, seed=1))
    assert tracker.statistics["train", 0].visits.tolist() == [3] * 8


# -- ranks ----------------------------------------------------------------------------------------------------


def on_ranks(world):
    """Eleven samples and seven on two or three ranks: samplers repeat some; hooks map labels; two loaders."""
    model = Mapping((0, 0, 1))
    model.seen_dir = "."
    trainer = make_trainer(
        strategy="ddp",
        devices=world,
        reload_dataloaders_every_n_epochs=1,
        callbacks=[PredictionHistory("run"), FlipTracker(train=True)],
    )
    trainer.fit(model, datamodule=Reloading(lambda epoch: Unlisted(11), lambda epoch: Listed(7, 1), batch_size=2))


@pytest.mark.parametrize("world", [2, 3])
def test_padding_mapped_labels_and_reloads_on_ranks(world):
    assert run_ranks(world, on_ranks, world) == [0] * world
    rows = stored_rows("run")
    assert sorted((row[0], row[2], row[5]) for row in rows) == sorted(
        (split, epoch, index)
        for split, count in (("train", 11), ("val", 7))
        for epoch in range(3)
        for index in range(count)
    )
    answers = {"train": Unlisted(11).answers.tolist(), "val": Listed(7, 1).answers.tolist()}
    assert all(row[-1] == (0, 0, 1)[answers[row[0]][row[5]]] for row in rows)


def on_ranks_with_subset():
    trainer = make_trainer(strategy="ddp", devices=2, callbacks=[FlipTracker(train=True)])
    data = Subset(Unlisted(24), list(range(0, 24, 2)))
    trainer.fit(Watched(), DataLoader(data, batch_size=2, shuffle=True, num_workers=1), loader(6, seed=1))


def test_workers_of_ranks():
    assert run_ranks(2, on_ranks_with_subset) == [0, 0]
