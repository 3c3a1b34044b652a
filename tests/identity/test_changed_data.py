"""Data that is not what it was: refused with words that help, or followed where that can be done."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.utils.data import DataLoader, Subset, TensorDataset, default_collate, random_split

from lightning_flip.callbacks import FlipTracker, PredictionHistory
from lightning_flip.steps import ChangedDataError
from lightning_flip.stores import read_history, read_samples, read_soft_targets
from lightning_flip.stores.zigzag import read_zigzag
from tests.callbacks.helpers import Memory, Robust, Watched, loader, make_trainer, points
from tests.identity.helpers import (
    CASES,
    COUNT,
    FOLLOWERS,
    KINDS,
    After,
    Listed,
    Numbered,
    Reloading,
    Unlisted,
    assert_says,
    follower,
    some_of,
)

pytestmark = [
    pytest.mark.filterwarnings("ignore:Be aware that when using .ckpt_path."),  # the ModelCheckpoint is left out
    pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists"),
    pytest.mark.filterwarnings("ignore:.* parts newer than the checkpoint were set aside"),
    pytest.mark.filterwarnings("ignore:this run began with a schedule of"),  # a resumed one is longer here
    pytest.mark.filterwarnings("ignore:the transition has a condition number"),
    pytest.mark.filterwarnings("ignore:.*lacks .* passes that were recorded before the checkpoint"),
]
every_follower = pytest.mark.parametrize("name", FOLLOWERS)
SOME = ("history", "tracker", "zigzag", "mixin")  # of those that keep their rows in different ways
some_followers = pytest.mark.parametrize("name", SOME)
every_case = pytest.mark.parametrize(("name", "kind"), CASES)
every_kind = pytest.mark.parametrize("kind", list(KINDS))


def test_the_error_is_a_value_error():
    assert issubclass(ChangedDataError, ValueError)


# -- reloads ------------------------------------------------------------------------------------------------


@every_case
def test_a_reload_with_another_subset_of_the_same_length_is_refused(name, kind):
    data = KINDS[kind](40)
    model, callbacks = follower(name)
    trainer = make_trainer(callbacks=[*callbacks, count := After()], reload_dataloaders_every_n_epochs=1)
    with pytest.raises(ChangedDataError) as caught:
        trainer.fit(model, datamodule=Reloading(lambda epoch: some_of(data, COUNT, seed=min(epoch, 1))))
    assert_says(caught.value, "train", COUNT)
    assert "allow_changed_data=True" in str(caught.value)
    assert count.steps <= 2 * COUNT // 4  # the third epoch never begins


@every_kind
def test_a_reload_of_other_validation_data_is_refused(kind):
    data, same = KINDS[kind](40), points(COUNT)
    trainer = make_trainer(callbacks=[FlipTracker()], reload_dataloaders_every_n_epochs=1)
    with pytest.raises(ChangedDataError) as caught:
        trainer.fit(Watched(), datamodule=Reloading(lambda epoch: same, lambda epoch: some_of(data, 12, seed=epoch)))
    assert_says(caught.value, "val", 12)


def test_a_reload_of_data_of_the_same_class_and_length_is_refused_by_its_labels():
    """Neither lists labels nor are they subsets: only the labels in the batches tell."""
    before, after = Unlisted(), Unlisted()
    after.relabel([3, 5, 9])
    trainer = make_trainer(callbacks=[FlipTracker(train=True)], reload_dataloaders_every_n_epochs=1)
    with pytest.raises(ChangedDataError) as caught:
        trainer.fit(Watched(), datamodule=Reloading(lambda epoch: after if epoch else before))
    assert_says(caught.value, "train", f"3 of {COUNT}")


@every_follower
def test_a_reload_of_other_data_starts_anew_where_that_is_allowed(name):
    data = Unlisted(40)
    model, callbacks = follower(name, allow_changed_data=True)
    trainer = make_trainer(callbacks=callbacks, reload_dataloaders_every_n_epochs=1)
    with pytest.warns(UserWarning, match="anew"):
        trainer.fit(model, datamodule=Reloading(lambda epoch: some_of(data, COUNT, seed=min(epoch, 1))))
    if name == "tracker":
        assert callbacks[0].statistics["train", 0].visits.tolist() == [2] * COUNT
        assert callbacks[0].statistics["val", 0].visits.tolist() == [3] * 6
    if name == "zigzag":
        assert callbacks[0].sums.visits.tolist() == [2] * COUNT


def test_redrawn_validation_data_of_a_model_that_does_not_learn_has_no_flips():
    """With fixed data nothing changes; other data would show as flips, and is refused."""
    data = Unlisted(40)

    class Still(Watched):
        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.0)

    def fit(val):
        memory = Memory()
        trainer = make_trainer(logger=memory, callbacks=[FlipTracker()], reload_dataloaders_every_n_epochs=1)
        trainer.fit(Still(), datamodule=Reloading(lambda epoch: points(8), val))
        return memory

    fixed = fit(lambda epoch: some_of(data, 20, seed=0))
    for rate in ("flips_to_wrong", "flips_to_right", "churn", "flipping_error"):
        assert fixed.values(f"val_{rate}") == [0.0] * 3
    with pytest.raises(ChangedDataError) as caught:
        fit(lambda epoch: some_of(data, 20, seed=epoch))
    assert_says(caught.value, "val", 20)


# -- labels ---------------------------------------------------------------------------------------------------


@every_case
def test_corrected_labels_are_refused(name, kind):
    data = KINDS[kind]()
    model, callbacks = follower(name)
    old = data.answers.tolist()
    trainer = make_trainer(callbacks=[*callbacks, After(0, lambda: data.relabel([2, 5, 11]))])
    with pytest.raises(ChangedDataError) as caught:
        trainer.fit(model, DataLoader(data, batch_size=4, shuffle=True), loader(6, seed=1))
    text = str(caught.value)
    assert_says(text, "train", f"3 of {COUNT}")
    assert 'labels="may_change"' in text
    shown = [index for index in (2, 5, 11) if f"sample {index} " in text.replace(",", " ").replace(":", " ")]
    assert shown, text
    assert_says(text, old[shown[0]], data.answers[shown[0]].item())
    assert trainer.current_epoch <= 1


def test_labels_of_a_tensor_dataset_corrected_in_place_are_refused():
    data = points(COUNT)
    change = After(0, lambda: data.tensors[1][:4].add_(1).remainder_(3))
    with pytest.raises(ChangedDataError) as caught:
        make_trainer(callbacks=[FlipTracker(train=True), change]).fit(
            Watched(), DataLoader(data, batch_size=4, shuffle=True), loader(6, seed=1)
        )
    assert_says(caught.value, "train", f"4 of {COUNT}")


@some_followers
def test_a_subset_that_is_redrawn_in_place_is_refused_though_all_labels_are_those_of_before(name):
    data, (model, callbacks) = points(40), follower(name)
    labels, part = data.tensors[1].tolist(), Subset(data, list(range(COUNT)))

    def redraw():
        part.indices[:] = [labels.index(labels[position], COUNT) for position in range(COUNT)]

    trainer = make_trainer(callbacks=[*callbacks, After(0, redraw)])
    with pytest.raises(ChangedDataError, match="other positions"):
        trainer.fit(model, DataLoader(part, batch_size=4, shuffle=True), loader(6, seed=1))
    assert trainer.current_epoch == 1


@every_kind
def test_corrected_validation_labels_are_refused_and_the_loader_is_named(kind):
    first, second = points(6, 1), KINDS[kind](10, 2)
    trainer = make_trainer(callbacks=[PredictionHistory("run"), After(0, lambda: second.relabel([7]))])
    with pytest.raises(ChangedDataError) as caught:  # the change comes after the first epoch's validation
        trainer.fit(Watched(), loader(8), [DataLoader(first, batch_size=4), DataLoader(second, batch_size=4)])
    assert_says(caught.value, "val", "1 of 10", 7)
    assert re_loader(caught.value, 1)


def re_loader(error, number):
    return f"val-{number}" in str(error) or f"loader {number}" in str(error)


def test_a_label_that_differs_between_two_draws_of_one_epoch_is_refused():
    """Within one block of steps, and even within one batch."""

    class Whimsical(Unlisted):
        reads = 0

        def __getitem__(self, index):
            x, y = super().__getitem__(index)
            self.reads += index == 3
            return x, (y + self.reads) % 3 if index == 3 else y

    data = DataLoader(Whimsical(), batch_size=4, sampler=[0, 3, 1, 3, 2, 5, 3, 4])
    with pytest.raises(ChangedDataError) as caught:
        make_trainer(callbacks=[FlipTracker(train=True)], max_epochs=1).fit(Watched(), data, loader(6, seed=1))
    assert_says(caught.value, "train", 3)


def test_labels_that_are_not_the_datasets_own_are_refused_in_the_first_epoch():
    """The list says one thing, the samples another, and no renaming of classes explains it."""

    class Mislisted(Unlisted):
        @property
        def targets(self):
            return (self.answers + (torch.arange(len(self)) % 5 == 0)) % 3

    count = After()
    with pytest.raises(ChangedDataError) as caught:
        make_trainer(callbacks=[FlipTracker(train=True), count]).fit(
            Watched(), DataLoader(Mislisted(), batch_size=4), loader(6, seed=1)
        )
    assert_says(caught.value, "train")
    assert count.steps == COUNT // 4


# -- collate functions ----------------------------------------------------------------------------------------


class Sentences(Unlisted):
    """Samples of several lengths."""

    def __getitem__(self, index):
        x, y = super().__getitem__(index)
        return x, y, (index * 7) % 5


class ListedSentences(Sentences, Listed):
    pass


def by_length(samples):
    """Longest first, as packed sequences want it."""
    samples = sorted(samples, key=lambda sample: -sample[2])
    x, y, _ = default_collate(samples)
    return x, y


@pytest.mark.parametrize("make", [ListedSentences, Sentences])
@pytest.mark.parametrize("shuffle", [True, False])
def test_a_collate_function_that_sorts_is_refused_in_training(make, shuffle):
    data = DataLoader(make(), batch_size=8, shuffle=shuffle, collate_fn=by_length)
    with pytest.raises(ValueError, match="collate"):
        make_trainer(callbacks=[FlipTracker(train=True)], max_epochs=2).fit(Watched(), data, loader(6, seed=1))


@pytest.mark.parametrize("make", [ListedSentences, Sentences])
def test_a_collate_function_that_sorts_is_refused_in_validation(make):
    """Unshuffled: every epoch sorts alike, so that labels never differ from those of the epoch before."""
    val = DataLoader(make(), batch_size=8, collate_fn=by_length)
    with pytest.raises(ValueError, match="collate"):
        make_trainer(callbacks=[FlipTracker()], max_epochs=2).fit(Watched(), loader(8), val)


@pytest.mark.parametrize("make", [ListedSentences, Sentences])
def test_a_collate_function_that_sorts_is_refused_in_a_worker(make):
    val = DataLoader(make(), batch_size=8, collate_fn=by_length, num_workers=1)
    with pytest.raises(ValueError, match="collate"):
        make_trainer(callbacks=[FlipTracker()], max_epochs=1).fit(Watched(), loader(8), val)


# -- resumption -----------------------------------------------------------------------------------------------


def half(kind, seed, count=COUNT):
    return random_split(KINDS[kind](40), [count, 40 - count], torch.Generator().manual_seed(seed))[0]


def begin(model, callbacks, train, val=None):
    save = ModelCheckpoint("saved", filename="{epoch}", save_top_k=-1)
    make_trainer(callbacks=[*callbacks, save]).fit(
        model, DataLoader(train, batch_size=4, shuffle=True), val or loader(6, seed=1)
    )
    return "saved/epoch=1.ckpt"


def resume(model, callbacks, train, ckpt, val=None):
    trainer = make_trainer(callbacks=callbacks, max_epochs=4)
    trainer.fit(
        model,
        DataLoader(train, batch_size=4, shuffle=True),
        val or loader(6, seed=1),
        ckpt_path=ckpt,
        weights_only=True,
    )
    return trainer


@every_case
def test_a_resume_on_another_split_is_refused_before_the_first_step(name, kind):
    ckpt = begin(*follower(name), half(kind, 0))
    model, callbacks = follower(name)
    with pytest.raises(ChangedDataError) as caught:
        resume(model, [*callbacks, count := After()], half(kind, 1), ckpt)
    assert_says(caught.value, "train", COUNT)
    assert "position" in str(caught.value)
    assert "allow_changed_data=True" in str(caught.value)
    assert count.steps == 0


@some_followers
def test_a_resume_on_fewer_samples_is_refused_with_both_numbers(name):
    ckpt = begin(*follower(name), half("unlisted", 0))
    model, callbacks = follower(name)
    with pytest.raises(ChangedDataError) as caught:
        resume(model, [*callbacks, count := After()], half("unlisted", 0, 12), ckpt)
    assert_says(caught.value, "train", COUNT, 12)
    assert count.steps == 0


def test_a_resume_on_other_labels_is_refused_by_the_labels():
    corrected = Listed()
    corrected.relabel([1, 4])
    ckpt = begin(Watched(), [FlipTracker(train=True)], Listed())
    with pytest.raises(ChangedDataError) as caught:
        resume(Watched(), [FlipTracker(train=True), count := After()], corrected, ckpt)
    assert_says(caught.value, "train", "labels")
    assert 'labels="may_change"' in str(caught.value)
    assert count.steps == 0


def test_a_resume_on_labels_that_nothing_lists_is_refused_when_they_are_read():
    corrected = Unlisted()
    corrected.relabel([1, 4])
    ckpt = begin(Watched(), [FlipTracker(train=True)], Unlisted())
    with pytest.raises(ChangedDataError) as caught:
        resume(Watched(), [FlipTracker(train=True)], corrected, ckpt)
    assert_says(caught.value, "train", f"2 of {COUNT}")


def test_a_resume_on_another_class_of_dataset_is_refused_where_nothing_says_more():
    ckpt = begin(Watched(), [FlipTracker(train=True)], Unlisted())
    with pytest.raises(ChangedDataError) as caught:
        resume(Watched(), [FlipTracker(train=True)], Sentences(), ckpt)
    assert_says(caught.value, "train", "Unlisted", "Sentences")


def test_a_resume_on_another_class_with_the_same_labels_goes_on():
    ckpt = begin(Watched(), [FlipTracker(train=True)], Listed())
    tracker = FlipTracker(train=True)
    resume(Watched(), [tracker], TensorDataset(*points(COUNT).tensors), ckpt)
    assert int(tracker.statistics["train", 0].visits.min()) > 1


def test_a_resume_with_another_validation_set_is_refused():
    def val(seed):
        return DataLoader(half("unlisted", seed), batch_size=4)

    ckpt = begin(Watched(), [FlipTracker()], points(COUNT), val(0))
    with pytest.raises(ChangedDataError) as caught:
        resume(Watched(), [FlipTracker(), count := After()], points(COUNT), ckpt, val(1))
    assert_says(caught.value, "val")
    assert count.steps == 0


@pytest.mark.parametrize(("name", "count"), [*((name, COUNT) for name in FOLLOWERS), ("tracker", 12), ("mixin", 12)])
def test_a_resume_on_other_data_starts_anew_where_that_is_allowed(name, count):
    ckpt = begin(*follower(name, allow_changed_data=True), half("listed", 0))
    model, callbacks = follower(name, allow_changed_data=True)
    with pytest.warns(UserWarning, match="anew"):
        resume(model, callbacks, half("listed", 1, count), ckpt)
    if name == "tracker":
        assert callbacks[0].statistics["train", 0].visits.tolist() == [2] * count
        assert callbacks[0].statistics["val", 0].visits.tolist() == [4] * 6  # this data is the same
    if name == "zigzag":
        assert callbacks[0].sums.visits.tolist() == [2] * count
    if name == "mixin":
        assert len(model._term_loop.tables["behavior"].seen(torch.arange(count))) == count


# -- growth ---------------------------------------------------------------------------------------------------


def grown_in_place(data, name, *, reload):
    """Fit three epochs of which the last two have 8 samples more, drawn as the loader pleases."""
    model, callbacks = follower(name)
    grow = After(0, lambda: data.append(8))
    if reload:
        trainer = make_trainer(callbacks=[*callbacks, grow], reload_dataloaders_every_n_epochs=1)
        trainer.fit(model, datamodule=Reloading(lambda epoch: data))
    else:
        trainer = make_trainer(callbacks=[*callbacks, grow])
        trainer.fit(model, DataLoader(data, batch_size=4, shuffle=True), loader(6, seed=1))
    return model, callbacks


def assert_followed(name, model, callbacks):
    """Every visit that the module noted, and 24 rows of everything."""
    visits, right = torch.zeros(24, dtype=torch.int64), torch.zeros(3, 24, dtype=torch.bool)
    for split, _, epoch, _, _, index, pred, *_, label in model.seen:
        if split == "train":
            visits[index] += 1
            right[epoch, index] = pred == label
    assert visits[16:].sum() > 0
    if name == "tracker":
        statistics = callbacks[0].statistics["train", 0]
        assert statistics.visits.tolist() == visits.tolist()
        assert statistics.times_right.tolist() == right.sum(dim=0).tolist()
    if name == "zigzag":
        assert callbacks[0].sums.visits.tolist() == visits.tolist()
        assert callbacks[0].scores().isnan().tolist() == (visits == 0).tolist()
        assert read_zigzag("zigzag")["visits"].to_pylist() == visits.tolist()
    if name == "history":
        history = read_history("run")
        assert history.samples("train")["index"].to_pylist() == list(range(24))
        assert history.statistics("train")["visits"].to_pylist() == visits.tolist()
        assert history.correct_matrix("train").shape == (3, 24)
    if name == "filter":
        table = read_soft_targets(next(Path("filter").rglob("filtered_last.safetensors")))
        assert table.visited.tolist() == (visits > 0).tolist()
    if name == "mixin":
        table = model._term_loop.tables["behavior"]
        assert table.num_samples == 24
        assert table.seen(torch.arange(24)).tolist() == right[:2].any(dim=0).tolist()


@pytest.mark.parametrize(
    ("name", "kind", "reload"),
    [*((*case, True) for case in CASES), *((name, "listed", False) for name in SOME), ("mixin", "unlisted", False)],
)
def test_a_dataset_that_is_appended_to_is_followed(name, kind, reload):
    assert_followed(name, *grown_in_place(KINDS[kind](), name, reload=reload))


@every_case
def test_a_reloaded_larger_subset_with_the_same_first_positions_is_followed(name, kind):
    data = KINDS[kind](40)
    order = torch.randperm(40, generator=torch.Generator().manual_seed(0)).tolist()
    model, callbacks = follower(name)
    trainer = make_trainer(callbacks=callbacks, reload_dataloaders_every_n_epochs=1)
    train = Reloading(lambda epoch: Numbered(Subset(data, order[: COUNT + 8 * (epoch > 0)])))
    trainer.fit(model, datamodule=train)
    assert_followed(name, model, callbacks)


def test_validation_data_that_grows_is_followed():
    val, model, tracker = Unlisted(), Watched(), FlipTracker()
    trainer = make_trainer(callbacks=[tracker, After(0, lambda: val.append(8))], reload_dataloaders_every_n_epochs=1)
    trainer.fit(model, datamodule=Reloading(lambda epoch: points(COUNT), lambda epoch: val))
    # The first epoch's validation comes before its end, at which the data grows.
    assert tracker.statistics["val", 0].visits.tolist() == [3] * COUNT + [2] * 8


@pytest.mark.parametrize("name", ["tracker", "history", "mixin"])
def test_a_run_whose_data_grew_is_resumed_on_the_grown_data(name):
    data, save = Unlisted(), ModelCheckpoint("saved", filename="{epoch}", save_top_k=-1)
    model, callbacks = follower(name)
    trainer = make_trainer(
        callbacks=[*callbacks, After(0, lambda: data.append(8)), save], reload_dataloaders_every_n_epochs=1
    )
    trainer.fit(model, datamodule=Reloading(lambda epoch: data))
    model, callbacks = follower(name)
    resume(model, callbacks, data, "saved/epoch=2.ckpt")
    if name == "tracker":
        assert callbacks[0].statistics["train", 0].visits.tolist() == [4] * COUNT + [3] * 8
    if name == "history":
        assert read_history("run").statistics("train")["visits"].to_pylist() == [4] * COUNT + [3] * 8


@pytest.mark.parametrize("name", ["tracker", "history", "mixin"])
def test_a_resume_on_data_that_has_grown_is_followed_or_refused_in_words(name):
    data = Unlisted()
    ckpt = begin(*follower(name), data)
    data.append(8)
    model, callbacks = follower(name)
    try:
        resume(model, callbacks, data, ckpt)
    except ChangedDataError as error:
        assert_says(error, "train", COUNT, COUNT + 8)
    else:
        if name == "tracker":
            assert callbacks[0].statistics["train", 0].visits.tolist() == [4] * COUNT + [2] * 8


@some_followers
def test_a_dataset_that_shrinks_is_refused(name):
    data = Unlisted()
    model, callbacks = follower(name)
    trainer = make_trainer(
        callbacks=[*callbacks, After(0, lambda: data.shrink(12))], reload_dataloaders_every_n_epochs=1
    )
    with pytest.raises(ChangedDataError) as caught:
        trainer.fit(model, datamodule=Reloading(lambda epoch: data))
    assert_says(caught.value, "train", COUNT, 12)


@every_kind
def test_growth_with_other_first_samples_is_refused(kind):
    data = KINDS[kind](40)
    order = torch.randperm(40, generator=torch.Generator().manual_seed(0)).tolist()
    trainer = make_trainer(callbacks=[FlipTracker(train=True)], reload_dataloaders_every_n_epochs=1)
    with pytest.raises(ChangedDataError) as caught:
        trainer.fit(
            Watched(),
            datamodule=Reloading(lambda epoch: Subset(data, order[4:28] if epoch else order[:16])),
        )
    assert_says(caught.value, "train", 24, 16)


def test_growth_with_corrected_labels_is_refused():
    data = Listed()

    def change():
        data.relabel([2])
        data.append(8)

    trainer = make_trainer(callbacks=[FlipTracker(train=True), After(0, change)], reload_dataloaders_every_n_epochs=1)
    with pytest.raises(ChangedDataError) as caught:
        trainer.fit(Watched(), datamodule=Reloading(lambda epoch: data))
    assert_says(caught.value, "train", 2)


# -- what a refusal leaves -------------------------------------------------------------------------------------


def test_what_was_recorded_before_a_refusal_can_be_read():
    data = Unlisted()
    trainer = make_trainer(callbacks=[PredictionHistory("run"), After(1, lambda: data.relabel([2]))])
    model = Watched()
    with pytest.raises(ChangedDataError):
        trainer.fit(model, DataLoader(data, batch_size=4, shuffle=True), loader(6, seed=1))
    history = read_history("run")
    assert {(0, 0), (1, 0)} <= set(history.passes("train"))
    first = history.to_arrow("train").to_pylist()
    assert {row["index"]: row["target"] for row in first if row["epoch"] < 2} == dict(
        enumerate(Unlisted().answers.tolist())
    )
    assert read_samples("run").num_rows == COUNT + 6
    assert not any(trainer.strategy.__dict__.get(step) for step in ("training_step", "validation_step"))
    assert not list(Path("run").rglob("*.tmp"))


def test_a_refused_mixin_stops_the_fit_as_a_callback_does():
    data = Listed()
    with pytest.raises(ChangedDataError, match="train"):
        make_trainer(callbacks=[After(0, lambda: data.relabel(list(range(8))))]).fit(
            Robust(), DataLoader(data, batch_size=4, shuffle=True), loader(6, seed=1)
        )
