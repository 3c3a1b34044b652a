"""NoisyLabels: what it hands out, where it finds labels, that it only reads, and that it survives pickling."""

import copy
import pickle
from collections import namedtuple
from multiprocessing import get_context

import numpy as np
import pytest
import torch
from torch.utils.data import ConcatDataset, DataLoader, Dataset, Subset, TensorDataset

from lightning_flip.data import NoisyLabels
from lightning_flip.data.indexed import IndexedDataset
from lightning_flip.data.origins import ask_dataset

N, K = 60, 5
TRUE = [(7 * i + 1) % K for i in range(N)]
Pair = namedtuple("Pair", ["image", "label"])
Reversed = namedtuple("Reversed", ["target", "image"])


class Samples(Dataset):
    """Samples of a given form, without any list of labels; counts how often it was read."""

    def __init__(self, make):
        self.make = make
        self.reads = 0
        self.note = "kept"

    def __len__(self):
        return N

    def __getitem__(self, index):
        self.reads += 1
        return self.make(index, TRUE[index])


class Listed(Samples):
    def __init__(self, name, values):
        super().__init__(make_tuple)
        setattr(self, name, values)


class Named(Samples):
    def sample_id(self, index):
        return f"file-{index}"


def make_tuple(i, label):
    return (torch.full((2,), float(i)), label)


def under(key):
    return (lambda i, y: {"x": i, key: y}, lambda s: s[key])


FORMS = {
    "tuple": (make_tuple, lambda s: s[1]),
    "tuple of three": (lambda i, y: (i, y, "extra"), lambda s: s[1]),
    "list": (lambda i, y: [i, y], lambda s: s[1]),
    "tensor label": (lambda i, y: (i, torch.tensor(y, dtype=torch.int32)), lambda s: s[1]),
    "numpy label": (lambda i, y: (i, np.int16(y)), lambda s: s[1]),
    "named tuple": (lambda i, y: Pair(i, y), lambda s: s.label),
    "named tuple, label first": (lambda i, y: Reversed(y, i), lambda s: s.target),
    **{f"dict {key}": under(key) for key in ("target", "label", "labels", "y")},
}


@pytest.fixture
def tensors():
    return TensorDataset(torch.arange(N).float(), torch.tensor(TRUE))


@pytest.mark.parametrize("form", FORMS)
def test_the_label_is_replaced_in_every_form_of_sample(form):
    make, label = FORMS[form]
    noisy = NoisyLabels(Samples(make), rate=0.5, seed=1)
    assert noisy.true_targets.tolist() == TRUE
    assert 0 < int(noisy.is_noisy.sum()) < N
    for i in range(N):
        sample, original = noisy[i], make(i, TRUE[i])
        assert int(label(sample)) == int(noisy.noisy_targets[i])
        assert type(sample) is type(original)
        assert type(label(sample)) is type(label(original))
        if hasattr(label(original), "dtype"):
            assert label(sample).dtype == label(original).dtype
    assert noisy.true_target(3) == TRUE[3]
    assert type(noisy.true_target(3)) is int


def test_everything_but_the_label_is_handed_through():
    sample = NoisyLabels(Samples(FORMS["tuple of three"][0]), rate=1.0)[4]
    assert (sample[0], sample[2]) == (4, "extra")


@pytest.mark.parametrize("form", FORMS)
def test_the_wrapped_dataset_is_never_written(form):
    make, label = FORMS[form]
    stored = [make(i, TRUE[i]) for i in range(N)]
    noisy = NoisyLabels(stored, rate=1.0, seed=1)
    handed = [noisy[i] for i in range(N)]
    assert all(int(label(sample)) != TRUE[i] for i, sample in enumerate(handed))
    assert [int(label(sample)) for sample in stored] == TRUE


def test_a_tensor_dataset_keeps_its_labels(tensors):
    noisy = NoisyLabels(tensors, rate=1.0)
    noisy.true_targets[0] = 4
    assert tensors.tensors[1].tolist() == TRUE


def test_the_noise_does_not_depend_on_the_order_of_access(tensors):
    one, other = NoisyLabels(tensors, rate=0.5, seed=3), NoisyLabels(tensors, rate=0.5, seed=3)
    torch.manual_seed(99)
    backwards = {i: int(other[i][1]) for i in reversed(range(N))}
    assert [int(one[i][1]) for i in range(N)] == [backwards[i] for i in range(N)]
    assert not torch.equal(one.noisy_targets, NoisyLabels(tensors, rate=0.5, seed=4).noisy_targets)


@pytest.mark.parametrize("exact", [0.25, 0.5])
def test_exact_rates(tensors, exact):
    assert int(NoisyLabels(tensors, rate=exact, exact=True).is_noisy.sum()) == exact * N


def test_redrawing_over_all_classes_leaves_some_labels_right():
    data = TensorDataset(torch.zeros(5000), torch.zeros(5000, dtype=torch.int64))
    share = NoisyLabels(data, rate=1.0, num_classes=4, include_true_class=True).is_noisy.float().mean()
    assert abs(float(share) - 0.75) < 5 * (0.75 * 0.25 / 5000) ** 0.5


def test_transition(tensors):
    transition = torch.roll(torch.eye(K), 1, dims=1)
    noisy = NoisyLabels(tensors, transition=transition)
    assert noisy.noisy_targets.tolist() == [(label + 1) % K for label in TRUE]
    assert torch.equal(NoisyLabels(tensors, transition=transition.tolist()).noisy_targets, noisy.noisy_targets)


@pytest.mark.parametrize("name", ["targets", "labels"])
@pytest.mark.parametrize("kind", [list, np.array, torch.tensor])
def test_labels_come_from_an_attribute_without_a_pass(name, kind):
    data = Listed(name, kind(TRUE))
    noisy = NoisyLabels(data, rate=0.5)
    assert data.reads == 0
    assert noisy.true_targets.tolist() == TRUE


def test_labels_come_through_subset_and_concat(tensors):
    data = Listed("targets", TRUE)
    picked = [5, 50, 0, 5]
    both = ConcatDataset([Subset(data, picked), tensors])
    assert NoisyLabels(both, rate=0.0).true_targets.tolist() == [TRUE[i] for i in picked] + TRUE
    assert data.reads == 0


def test_a_target_transform_makes_it_read_the_samples():
    data = Samples(lambda i, y: (i, (y + 1) % K))
    data.targets, data.target_transform = TRUE, lambda y: (y + 1) % K
    assert NoisyLabels(data, rate=0.0).true_targets.tolist() == [(y + 1) % K for y in TRUE]


def test_an_attribute_that_disagrees_with_the_samples_is_noticed_and_scan_is_the_way_out():
    data = Listed("targets", [0] * N)
    with pytest.raises(ValueError, match="scan=True"):
        NoisyLabels(data, rate=0.5, num_classes=K)[0]
    noisy = NoisyLabels(data, rate=0.5, scan=True)
    assert noisy.true_targets.tolist() == TRUE
    assert int(noisy[0][1]) == int(noisy.noisy_targets[0])


def test_the_pass_over_the_samples_leaves_the_random_state():
    before = torch.get_rng_state()
    NoisyLabels(Samples(lambda i, y: (torch.rand(2), y)), rate=0.5)
    assert torch.equal(before, torch.get_rng_state())


def test_usual_names_of_the_labels_give_the_noisy_ones(tensors):
    noisy = NoisyLabels(tensors, rate=0.5)
    assert noisy.targets.equal(noisy.noisy_targets)
    assert noisy.labels.equal(noisy.noisy_targets)
    assert noisy.tensors[1].equal(noisy.noisy_targets)
    assert noisy.tensors[0].equal(tensors.tensors[0])
    assert not hasattr(NoisyLabels(Samples(make_tuple), rate=0.5), "tensors")


def test_other_attributes_are_the_wrapped_datasets():
    noisy = NoisyLabels(Samples(make_tuple), rate=0.5)
    assert noisy.note == "kept"
    with pytest.raises(AttributeError):
        _ = noisy.nothing_of_the_kind


def test_sample_ids_come_through():
    data = Named(make_tuple)
    assert NoisyLabels(data, rate=0.5).sample_id(7) == "file-7"
    assert NoisyLabels(Subset(data, [9, 4]), rate=0.5).sample_id(1) == "file-4"
    assert ask_dataset(IndexedDataset(NoisyLabels(Subset(data, [9, 4]), rate=0.5)), 0, "sample_id") == "file-9"
    assert NoisyLabels(Samples(make_tuple), rate=0.5).sample_id(0) is None


def test_the_true_label_is_found_from_the_outside(tensors):
    noisy = NoisyLabels(tensors, rate=1.0)
    assert ask_dataset(Subset(noisy, [9, 4]), 1, "true_target") == TRUE[4]


def test_several_samples_at_once(tensors):
    noisy = NoisyLabels(tensors, rate=0.5)
    assert [int(sample[1]) for sample in noisy.__getitems__([5, 3])] == noisy.noisy_targets[[5, 3]].tolist()
    batch = next(iter(DataLoader(noisy, batch_size=N)))
    assert batch[1].equal(noisy.noisy_targets)


def read_all(dataset):
    return [int(dataset[i][1]) for i in range(len(dataset))]


@pytest.mark.parametrize("duplicate", [lambda d: pickle.loads(pickle.dumps(d)), copy.copy, copy.deepcopy])
def test_copies_hand_out_the_same_labels(tensors, duplicate):
    noisy = NoisyLabels(Subset(tensors, range(30)), rate=0.5)
    again = duplicate(noisy)
    assert read_all(again) == noisy.noisy_targets.tolist()
    assert again.true_targets.equal(noisy.true_targets)


@pytest.mark.slow
def test_spawned_workers_hand_out_the_same_labels(tensors):
    noisy = NoisyLabels(tensors, rate=0.5)
    loader = DataLoader(noisy, batch_size=16, num_workers=1, multiprocessing_context=get_context("spawn"))
    assert torch.cat([labels for _, labels in loader]).equal(noisy.noisy_targets)


NOISY = [(y + 1) % K for y in TRUE]


def write(path):
    rows = "".join(f"{i},{y}\n" for i, y in enumerate(NOISY))
    if path.suffix == ".npy":
        np.save(path, np.array(NOISY, dtype=np.int32))
    elif path.name == "one.npz":
        np.savez(path, anything=np.array(NOISY))
    elif path.suffix == ".npz":
        np.savez(path, index=np.arange(N), noisy_labels=np.array(NOISY))
    elif path.suffix == ".txt" or path.name == "bare.csv":
        path.write_text("\n".join(map(str, NOISY)) + "\n")
    elif path.name == "one.csv":
        path.write_text("whatever\n" + "\n".join(map(str, NOISY)))
    else:
        path.write_text("index,label\n" + rows)


@pytest.mark.parametrize("name", ["a.npy", "one.npz", "a.npz", "a.txt", "bare.csv", "one.csv", "a.csv"])
def test_labels_from_a_file(tensors, tmp_path, name):
    write(tmp_path / name)
    noisy = NoisyLabels(tensors, file=tmp_path / name)
    assert noisy.noisy_targets.tolist() == NOISY
    assert noisy.noisy_targets.dtype == torch.int64
    assert bool(noisy.is_noisy.all())
    assert NoisyLabels(tensors, file=str(tmp_path / name)).true_targets.tolist() == TRUE


def test_one_sample_and_one_label(tmp_path):
    (tmp_path / "one.txt").write_text("2\n")
    assert NoisyLabels([("x", 0)], file=tmp_path / "one.txt")[0] == ("x", 2)


@pytest.mark.parametrize(
    ("content", "options", "message"),
    [
        (NOISY[:-1], {}, f"expected {N}"),
        ([-1, *NOISY[1:]], {}, "from -1"),
        ([K, *NOISY[1:]], {"num_classes": K}, r"expected \[0, 5\)"),
        ([0.5, *NOISY[1:]], {}, "class numbers"),
        ([[y, y] for y in NOISY], {}, f"expected {N}"),
    ],
)
def test_files_that_do_not_fit_are_refused(tensors, tmp_path, content, options, message):
    np.save(tmp_path / "labels.npy", np.array(content))
    with pytest.raises(ValueError, match=message):
        NoisyLabels(tensors, file=tmp_path / "labels.npy", **options)


def test_ambiguous_and_unknown_files_are_refused(tensors, tmp_path):
    np.savez(tmp_path / "two.npz", a=np.array(NOISY), b=np.array(NOISY))
    with pytest.raises(ValueError, match="a, b"):
        NoisyLabels(tensors, file=tmp_path / "two.npz")
    (tmp_path / "two.csv").write_text("".join(f"{y},{y}\n" for y in NOISY))
    with pytest.raises(ValueError, match="without names"):
        NoisyLabels(tensors, file=tmp_path / "two.csv")
    with pytest.raises(ValueError, match=r"\.npy, \.npz, \.txt, \.csv"):
        NoisyLabels(tensors, file=tmp_path / "labels.pt")


def test_pickled_arrays_are_refused(tensors, tmp_path):
    np.save(tmp_path / "objects.npy", np.array([object()] * N), allow_pickle=True)
    with pytest.raises(ValueError, match="allow_pickle"):
        NoisyLabels(tensors, file=tmp_path / "objects.npy")


@pytest.mark.parametrize("rate", [-0.1, 1.5])
def test_rates_outside_the_unit_interval_are_refused(tensors, rate):
    with pytest.raises(ValueError, match="rate"):
        NoisyLabels(tensors, rate=rate)


def test_exactly_one_source_of_noise(tensors):
    with pytest.raises(TypeError, match="got none"):
        NoisyLabels(tensors)
    with pytest.raises(TypeError, match="rate and transition"):
        NoisyLabels(tensors, rate=0.1, transition=torch.eye(K))
    with pytest.raises(TypeError, match="belong to rate="):
        NoisyLabels(tensors, transition=torch.eye(K), exact=True)
    with pytest.raises(ValueError, match="must agree"):
        NoisyLabels(tensors, transition=torch.eye(K), num_classes=K + 1)


def test_the_number_of_classes_comes_from_the_dataset_where_it_says_so():
    data = Listed("targets", TRUE)
    data.classes = [str(k) for k in range(100)]
    # Only 5 of the 100 classes are present: labels drawn from all 100 lie almost surely beyond them.
    assert int(NoisyLabels(Subset(data, range(50)), rate=1.0).noisy_targets.max()) >= K
    assert int(NoisyLabels(Listed("targets", TRUE), rate=1.0).noisy_targets.max()) < K


@pytest.mark.parametrize("sample", [(1.0,), "text", {"x": 1}, (0, torch.tensor([0.1, 0.9])), (0, 1.5)])
def test_samples_without_an_integer_label_are_refused(sample):
    with pytest.raises(TypeError, match="label"):
        NoisyLabels([sample], rate=0.5)
