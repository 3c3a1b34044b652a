"""ThresholdSamples: which samples get the additional label, and what is left of the others."""

from __future__ import annotations

import pickle

import pytest
import torch
from torch.utils.data import DataLoader, Subset, TensorDataset

from lightning_flip.data import NoisyLabels, ThresholdSamples
from lightning_flip.data.labels import class_names, find_labels
from lightning_flip.data.origins import true_targets
from lightning_flip.data.sample_names import sample_names

N, K = 100, 4


class Named(TensorDataset):
    classes = ("ant", "bee", "cow", "dog")

    def sample_id(self, index: int) -> str:
        return f"id-{index}"


@pytest.fixture
def data() -> Named:
    return Named(torch.arange(N), torch.arange(N) % K)


def test_one_in_k_plus_one_has_the_label_k_and_all_others_their_own(data: Named) -> None:
    marked = ThresholdSamples(data, K, seed=3)
    assert int(marked.is_threshold.sum()) == N // (K + 1)
    for place in range(N):
        sample, label = marked[place]
        assert int(sample) == place
        assert int(label) == (K if marked.is_threshold[place] else place % K)
        assert int(label) == int(marked.targets[place]) == int(marked.labels[place]) == int(marked.tensors[1][place])
    assert find_labels(marked).tolist() == find_labels(marked, scan=True).tolist() == marked.targets.tolist()


def test_batches_workers_and_copies_have_the_same_labels(data: Named) -> None:
    marked = ThresholdSamples(data, K)
    (_, labels), *_ = DataLoader(marked, batch_size=N)
    assert labels.tolist() == marked.targets.tolist()
    assert pickle.loads(pickle.dumps(marked)).targets.tolist() == marked.targets.tolist()
    assert [int(label) for _, label in marked.__getitems__([5, 1])] == marked.targets[[5, 1]].tolist()


def test_the_parts_of_a_seed_share_no_sample_and_cover_all(data: Named) -> None:
    parts = torch.stack([ThresholdSamples(data, K, part=part).is_threshold for part in range(K + 1)])
    assert parts.sum(dim=0).tolist() == [1] * N


def test_it_depends_on_the_seed_alone(data: Named) -> None:
    state = torch.get_rng_state()
    first = ThresholdSamples(data, K, seed=1).is_threshold
    torch.manual_seed(7)
    assert torch.equal(first, ThresholdSamples(data, K, seed=1).is_threshold)
    assert not torch.equal(first, ThresholdSamples(data, K, seed=2).is_threshold)
    torch.set_rng_state(state)


def test_ids_names_and_true_labels_stay(data: Named) -> None:
    marked = ThresholdSamples(data, K)
    assert sample_names(Subset(marked, [7])).names == ["id-7"]
    assert class_names(marked) == ["ant", "bee", "cow", "dog", "threshold"]
    assert true_targets(marked).tolist() == [place % K for place in range(N)]
    noisy = NoisyLabels(data, rate=0.5, exact=True)
    assert true_targets(ThresholdSamples(noisy, K)).tolist() == noisy.true_targets.tolist()
    assert class_names(ThresholdSamples(TensorDataset(*data.tensors), K)) is None


@pytest.mark.parametrize(
    ("classes", "part", "said"),
    [
        (3, 0, "above every label of the dataset, which has 3"),
        (4, 5, "part must be from 0"),
        (4, -1, "part must be from 0"),
        (100, 0, "100 samples"),
    ],
)
def test_what_does_not_fit_is_refused(classes: int, part: int, said: str, data: Named) -> None:
    with pytest.raises(ValueError, match=said):
        ThresholdSamples(data, classes, part=part)
