"""Fingerprints tell data apart by whatever differs, and by nothing else."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.utils.data import ConcatDataset, DataLoader, Dataset, Subset, random_split

from lightning_flip.callbacks import PredictionHistory, PredictionWriter
from lightning_flip.stores import read_history, read_predictions, read_soft_targets
from tests.callbacks.helpers import CLASSES, Watched, loader, make_trainer
from tests.identity.helpers import COUNT, FOLLOWERS, Listed, Unlisted, follower, some_of

pytestmark = [
    pytest.mark.filterwarnings("ignore:You defined a .validation_step. but have no"),
    pytest.mark.filterwarnings("ignore:the transition has a condition number"),
]
FIELDS = ("length", "dataset", "labels", "ids", "ids_are", "positions")


class Made(Dataset):
    """Samples with listed labels and lasting ids."""

    def __init__(self, labels, ids=None):
        self.targets = labels
        self.ids = ids or [f"id-{place}" for place in range(len(labels))]

    def sample_id(self, index):
        return self.ids[index]

    def __len__(self):
        return len(self.targets)

    def __getitem__(self, index):
        return torch.tensor([float(index), 0.0, 1.0, 2.0, 3.0]), torch.tensor(int(self.targets[index]))


class OtherMade(Made):
    pass


def fingerprint(data, **options):
    """What run.json says of some training data, read as plain JSON."""
    with tempfile.TemporaryDirectory() as folder:
        trainer = make_trainer(
            max_epochs=1,
            limit_train_batches=1,
            callbacks=[PredictionHistory(folder, val=False)],
        )
        trainer.fit(Watched(), DataLoader(data, **{"batch_size": len(data)} | options))
        read = dict(read_history(folder).run.data["train-0"])
        content = json.loads(Path(folder, "run.json").read_text())
    assert set(read) == set(FIELDS)
    assert read == content["data"]["train-0"]
    return read


def differing(left, right):
    return {name for name in FIELDS if left[name] != right[name]}


few = settings(
    max_examples=5,
    phases=[Phase.generate],  # the examples are small, and every one is a fit
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
labels = st.lists(st.integers(0, CLASSES - 1), min_size=3, max_size=9)


@st.composite
def parts(draw):
    """Labels of a whole, and at least two positions in it, but not all."""
    whole = draw(st.lists(st.integers(0, CLASSES - 1), min_size=4, max_size=9))
    order = draw(st.permutations(range(len(whole))))
    return whole, list(order[: draw(st.integers(2, len(whole) - 1))])


# -- what changes it ------------------------------------------------------------------------------------------


@few
@given(labels, st.data())
def test_one_label(whole, data):
    place = data.draw(st.integers(0, len(whole) - 1))
    other = [*whole]
    other[place] = (other[place] + data.draw(st.integers(1, CLASSES - 1))) % CLASSES
    assert differing(fingerprint(Made(whole)), fingerprint(Made(other))) == {"labels"}


@few
@given(parts(), st.data())
def test_one_label_in_a_subset_and_one_outside(part, data):
    whole, positions = part
    subset = fingerprint(Subset(Made(whole), positions))
    for place in (positions[0], next(iter(set(range(len(whole))) - set(positions)))):
        other = [*whole]
        other[place] = (other[place] + 1) % CLASSES
        expected = {"labels"} if place in positions else set()
        assert differing(subset, fingerprint(Subset(Made(other), positions))) == expected


@few
@given(labels, st.data())
def test_one_id(whole, data):
    place = data.draw(st.integers(0, len(whole) - 1))
    ids = [f"id-{number}" for number in range(len(whole))]
    ids[place] = data.draw(st.sampled_from(["", "id", "id-", "id-1.5", "ID-0", " id-0", "ïd-0"]))
    assert differing(fingerprint(Made(whole)), fingerprint(Made(whole, ids))) == {"ids"}


def test_where_one_id_ends_and_the_next_begins():
    assert differing(fingerprint(Made([0, 1, 2], ["a", "bc", "d"])), fingerprint(Made([0, 1, 2], ["ab", "c", "d"])))
    assert differing(fingerprint(Made([0, 1, 2], ["a\nb", "c", "d"])), fingerprint(Made([0, 1, 2], ["a", "b\nc", "d"])))


@few
@given(parts())
def test_one_position(part):
    whole, positions = part
    other = [*positions]
    other[-1] = next(iter(set(range(len(whole))) - set(positions)))
    found = differing(fingerprint(Subset(Made(whole), positions)), fingerprint(Subset(Made(whole), other)))
    assert {"positions", "ids"} <= found <= {"positions", "ids", "labels"}


@few
@given(parts())
def test_order(part):
    whole, positions = part
    other = positions[1:] + positions[:1]
    found = differing(fingerprint(Subset(Made(whole), positions)), fingerprint(Subset(Made(whole), other)))
    assert {"positions", "ids"} <= found <= {"positions", "ids", "labels"}


@few
@given(labels)
def test_length(whole):
    shorter = fingerprint(Made(whole[:-1]))
    assert differing(fingerprint(Made(whole)), shorter) == {"length", "labels", "ids", "positions"}
    assert shorter["length"] == len(whole) - 1


def test_class_of_the_dataset():
    facts = fingerprint(Made([0, 1, 2])), fingerprint(OtherMade([0, 1, 2]))
    assert differing(*facts) == {"dataset"}
    assert "Made" in facts[0]["dataset"]
    assert "OtherMade" in facts[1]["dataset"]


def test_two_random_splits_of_one_set_differ_in_positions_alone():
    def split(seed):
        return random_split(Unlisted(), [8, 8], torch.Generator().manual_seed(seed))[0]

    found = differing(fingerprint(split(0)), fingerprint(split(1)))
    assert "positions" in found
    assert found <= {"positions", "ids"}  # ids that are only positions may be hashed as well
    assert differing(fingerprint(split(1)), fingerprint(split(1))) == set()


def test_the_same_place_in_another_part_of_a_concatenation():
    both = ConcatDataset([Unlisted(4), Unlisted(4)])
    found = differing(fingerprint(Subset(both, [0, 1])), fingerprint(Subset(both, [4, 5])))
    assert "positions" in found


def test_several_loaders_have_one_each():
    trainer = make_trainer(max_epochs=1, callbacks=[PredictionHistory("run")])
    trainer.fit(Watched(), loader(8), [loader(6, seed=1), DataLoader(Listed(6, 2), batch_size=4)])
    data = read_history("run").run.data
    assert sorted(data) == ["train-0", "val-0", "val-1"]
    assert len({facts["labels"] for facts in data.values()}) == 3


# -- what does not --------------------------------------------------------------------------------------------


@few
@given(parts())
def test_equal_data_has_the_same(part):
    whole, positions = part
    once, again = (fingerprint(Subset(Made([*whole]), [*positions])) for _ in range(2))
    assert once == again
    assert once["length"] == len(positions)
    assert once["ids_are"] == "sample_id"
    assert all(isinstance(once[name], str) for name in ("dataset", "labels", "ids", "positions"))


def made_for_another_process():
    generator = np.random.default_rng(5)
    made = []
    for _ in range(3):
        whole = generator.integers(0, CLASSES, 12).tolist()
        made.append(Subset(Made(whole), generator.permutation(12)[:7].tolist()))
    return [*made, Listed(), Unlisted(), ConcatDataset([Listed(5), Subset(Unlisted(9), [8, 2])])]


def print_fingerprints():
    """Run by the test below in a process with another seed for Python's own hashes."""
    print("found:" + json.dumps([fingerprint(data) for data in made_for_another_process()]))


def test_equal_data_has_the_same_in_another_process():
    root = Path(__file__).parents[2]
    code = "import warnings; warnings.simplefilter('ignore'); import tests.identity.test_fingerprints as here; "
    environment = os.environ | {"PYTHONHASHSEED": "1", "PYTHONPATH": str(root)}
    done = subprocess.run(
        [sys.executable, "-c", code + "here.print_fingerprints()"],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("found:")]
    assert json.loads(line.removeprefix("found:")) == [fingerprint(data) for data in made_for_another_process()]


def test_how_labels_are_kept():
    whole = [2, 0, 1, 1, 0]
    facts = [
        fingerprint(Made(kept))
        for kept in (whole, tuple(whole), np.array(whole, np.int8), np.array(whole), torch.tensor(whole))
    ]
    assert all(differing(facts[0], other) == set() for other in facts)


def test_how_positions_are_kept_and_how_deep_subsets_are():
    data, positions = Made([2, 0, 1, 1, 0, 2]), [4, 0, 3]
    subsets = [
        Subset(data, positions),
        Subset(data, np.array(positions)),
        Subset(data, torch.tensor(positions)),
        Subset(data, [np.int64(place) for place in positions]),
        Subset(data, [-2, 0, 3]),
        Subset(Subset(data, [0, 1, 3, 4]), [3, 0, 2]),
    ]
    facts = [fingerprint(subset) for subset in subsets]
    assert len({(one["positions"], one["labels"], one["ids"], one["length"]) for one in facts}) == 1


def test_how_the_data_is_loaded():
    data = some_of(Listed(), 8, 0)
    facts = fingerprint(data)
    assert facts == fingerprint(data, shuffle=True)
    assert facts == fingerprint(data, batch_size=3, drop_last=True)
    assert facts == fingerprint(data, num_workers=1)


def test_labels_that_are_not_listed_are_null():
    assert fingerprint(Unlisted())["labels"] is None
    assert fingerprint(Listed())["labels"] is not None


# -- where it is kept -----------------------------------------------------------------------------------------


def texts(value):
    """All strings in a state."""
    if isinstance(value, dict):
        return {text for pair in value.items() for part in pair for text in texts(part)}
    if isinstance(value, list | tuple):
        return {text for part in value for text in texts(part)}
    return {value} if isinstance(value, str) else set()


@pytest.mark.parametrize("name", FOLLOWERS)
def test_every_state_in_a_checkpoint_has_it(name):
    data = some_of(Listed(40), COUNT, 0)
    facts = fingerprint(data)
    model, callbacks = follower(name)
    trainer = make_trainer(callbacks=[*callbacks, ModelCheckpoint("saved", filename="{epoch}", save_top_k=-1)])
    trainer.fit(model, DataLoader(data, batch_size=4, shuffle=True), loader(6, seed=1))
    checkpoint = torch.load("saved/epoch=1.ckpt", weights_only=True)
    state = checkpoint["callbacks"][callbacks[0].state_key] if callbacks else checkpoint["lightning_flip"]
    assert {facts["positions"], facts["labels"]} <= texts(state)


def test_prediction_files_have_it():
    data = some_of(Listed(40), COUNT, 0)
    facts = fingerprint(data)

    class Testing(Watched):
        def test_step(self, batch, batch_idx):
            self(batch[0])

    make_trainer(callbacks=[PredictionWriter("p.parquet")]).test(
        Testing(), DataLoader(data, batch_size=5), verbose=False
    )
    found = read_predictions("p.parquet").data
    found = found if "length" in found else next(iter(found.values()))
    assert dict(found) == facts


def test_soft_targets_have_it():
    data = some_of(Listed(40), COUNT, 0)
    facts = fingerprint(data)
    model, callbacks = follower("filter")
    make_trainer(callbacks=callbacks).fit(model, DataLoader(data, batch_size=4), loader(6, seed=1))
    files = list(Path("filter").rglob("*.safetensors"))
    assert files
    for path in files:
        manifest = read_soft_targets(path).manifest
        assert {facts["positions"], facts["labels"]} <= texts(json.loads(json.dumps(dict(manifest))))


def test_a_run_of_an_earlier_version_has_none():
    make_trainer(max_epochs=1, callbacks=[PredictionHistory("run")]).fit(Watched(), loader(8), loader(6, seed=1))
    content = json.loads(Path("run/run.json").read_text())
    assert content.pop("data")
    Path("run/run.json").write_text(json.dumps(content))
    history = read_history("run")
    assert not history.run.data
    assert history.correct_matrix("train").shape == (1, 8)
