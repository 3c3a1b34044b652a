"""ClassSubset: which samples, which labels, and that every other part of the package finds its way through it."""

import copy
import pickle
from collections import namedtuple

import numpy as np
import pytest
import torch
from torch.utils.data import ConcatDataset, DataLoader, Dataset, Subset, TensorDataset

from lightning_flip.data import ClassSubset, IndexedDataset, NoisyLabels
from lightning_flip.data.labels import find_labels
from lightning_flip.data.origins import ask_dataset, resolve_source

N, K = 40, 5
TRUE = [(3 * i + i // 7) % K for i in range(N)]
CHOSEN = [4, 0, 3]
KEPT = [i for i in range(N) if TRUE[i] in CHOSEN]
Pair = namedtuple("Pair", ["image", "label"])


class Samples(Dataset):
    """Samples of a given form, with names and without a list of labels."""

    def __init__(self, make=lambda i, y: (float(i), y)):
        self.make = make

    def __len__(self):
        return N

    def __getitem__(self, index):
        return self.make(index, TRUE[index])

    def sample_id(self, index):
        return f"file-{index}"


FORMS = {
    "tuple": (lambda i, y: (i, y), lambda s: s[1]),
    "list of three": (lambda i, y: [i, y, "extra"], lambda s: s[1]),
    "tensor label": (lambda i, y: (i, torch.tensor(y, dtype=torch.int32)), lambda s: s[1]),
    "numpy label": (lambda i, y: (i, np.int16(y)), lambda s: s[1]),
    "named tuple": (lambda i, y: Pair(i, y), lambda s: s.label),
    "mapping": (lambda i, y: {"x": i, "target": y}, lambda s: s["target"]),
}


@pytest.mark.parametrize("form", FORMS)
def test_samples_of_the_classes_come_in_order_with_their_place_as_label(form):
    make, label = FORMS[form]
    subset = ClassSubset(Samples(make), CHOSEN)
    assert list(subset.indices) == KEPT
    assert len(subset) == len(KEPT)
    assert subset.class_labels == (4, 0, 3)
    for place, original in enumerate(KEPT):
        whole, sample = make(original, TRUE[original]), subset[place]
        assert type(sample) is type(whole)
        assert type(label(sample)) is type(label(whole))
        assert subset.class_labels[int(label(sample))] == TRUE[original]
        assert int(subset.targets[place]) == int(label(sample)) == CHOSEN.index(TRUE[original])
        assert int(label(make(original, TRUE[original]))) == TRUE[original]


def test_without_relabeling_samples_are_handed_through():
    stored = [[i, y] for i, y in enumerate(TRUE)]
    subset = ClassSubset(stored, CHOSEN, relabel=False)
    assert subset.class_labels is None
    assert all(subset[place] is stored[original] for place, original in enumerate(KEPT))
    assert subset.targets.tolist() == [TRUE[i] for i in KEPT]


def test_loaders_read_it_in_batches_through_every_access():
    subset = ClassSubset(TensorDataset(torch.arange(N), torch.tensor(TRUE)), CHOSEN)
    expected = [(i, CHOSEN.index(TRUE[i])) for i in KEPT]
    for dataset in (subset, IndexedDataset(subset), pickle.loads(pickle.dumps(subset)), copy.deepcopy(subset)):
        assert len(dataset) == len(expected)
    batches = list(DataLoader(subset, batch_size=7))
    assert [(int(x), int(y)) for xs, ys in batches for x, y in zip(xs, ys, strict=True)] == expected
    assert [(int(x), int(y)) for x, y in subset[[2, 0]]] == [expected[2], expected[0]]
    assert [int(v) for v in subset[-1]] == list(expected[-1])
    wrapped = IndexedDataset(subset)[3]
    assert (wrapped.index, int(wrapped.sample[0])) == (3, KEPT[3])


def test_positions_and_names_resolve_to_the_innermost_dataset():
    inner = Samples()
    subset = ClassSubset(Subset(inner, range(5, N)), CHOSEN)
    kept = [i for i in KEPT if i >= 5]
    outer = ConcatDataset([Subset(inner, [0]), Subset(subset, [4, 1])])
    assert resolve_source(subset, 2) == (inner, 0, kept[2])
    assert resolve_source(outer, 1) == (inner, 1, kept[4])
    assert ask_dataset(outer, 2, "sample_id") == f"file-{kept[1]}"
    assert ask_dataset(subset, 0, "true_target") is None


def test_labels_are_found_as_they_are_handed_out():
    subset = ClassSubset(Samples(), CHOSEN)
    expected = [CHOSEN.index(TRUE[i]) for i in KEPT]
    assert find_labels(subset).tolist() == find_labels(subset, scan=True).tolist() == expected
    assert find_labels(Subset(subset, [3, 1])).tolist() == [expected[3], expected[1]]
    assert find_labels(ConcatDataset([subset, subset])).tolist() == expected * 2
    assert find_labels(ClassSubset(subset, [2])).unique().tolist() == [0]


def test_true_labels_under_noise_are_counted_in_the_same_way():
    noisy = NoisyLabels(TensorDataset(torch.zeros(N), torch.tensor(TRUE)), rate=0.5, seed=2)
    for relabel in (True, False):
        subset = ClassSubset(noisy, CHOSEN, relabel=relabel)
        assert list(subset.indices) == [i for i in range(N) if int(noisy.noisy_targets[i]) in CHOSEN]
        true = [TRUE[i] for i in subset.indices]
        places = [CHOSEN.index(y) if y in CHOSEN else None for y in true]
        assert None in places
        assert [ask_dataset(subset, i, "true_target") for i in range(len(subset))] == (places if relabel else true)


def test_noise_over_a_subset_stays_among_its_classes():
    class Named(TensorDataset):
        classes = ["a", "b", "c", "d", "e"]

    subset = ClassSubset(Subset(Named(torch.zeros(N), torch.tensor(TRUE)), range(N)), CHOSEN)
    assert subset.classes == ["e", "a", "d"]
    noisy = NoisyLabels(subset, rate=1.0, seed=0)
    assert set(noisy.noisy_targets.tolist()) == {0, 1, 2}
    assert not (noisy.noisy_targets == subset.targets).any()
    assert NoisyLabels(ClassSubset(Samples(), [0, 1], relabel=False), rate=1.0).noisy_targets.max() == 1


def test_labels_that_change_between_accesses_are_refused():
    moving = TensorDataset(torch.zeros(N), torch.tensor(TRUE))
    subset = ClassSubset(moving, CHOSEN)
    moving.tensors = (moving.tensors[0], (moving.tensors[1] + 1) % K)
    with pytest.raises(ValueError, match="scan=True"):
        subset[0]


@pytest.mark.parametrize(
    ("classes", "error", "message"),
    [
        ([], ValueError, "at least one"),
        ([1, 2, 1], ValueError, "each label once, got 1"),
        ([9], ValueError, r"none of the 40 samples; the dataset has 0, 1, 2, 3, 4"),
        ([0.5], TypeError, "integer"),
        ("01", TypeError, "integer"),
    ],
)
def test_impossible_classes_are_refused(classes, error, message):
    with pytest.raises(error, match=message):
        ClassSubset(Samples(), classes)
