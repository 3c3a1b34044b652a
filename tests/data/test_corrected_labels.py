"""CorrectedLabels: what it hands out, how it finds samples, and which files it refuses."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable, Mapping
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import ConcatDataset, DataLoader, Dataset, Subset, TensorDataset

from lightning_flip.data import CorrectedLabels, NoisyLabels
from lightning_flip.data.indexed import IndexedDataset
from lightning_flip.data.labels import find_labels
from lightning_flip.data.origins import true_targets
from lightning_flip.data.sample_names import sample_names
from lightning_flip.stores.corrections import Correction, corrections_text
from lightning_flip.stores.files import write_text

N, K = 20, 4
GIVEN = [(3 * place + 1) % K for place in range(N)]
FIX = {3: 1, 7: 0, 12: 2}  # position -> right label
assert all(GIVEN[place] != label for place, label in FIX.items())
RIGHT = [FIX.get(place, label) for place, label in enumerate(GIVEN)]


class Files(Dataset):
    """An ImageFolder in all that matters here."""

    classes = [f"class {label}" for label in range(K)]

    def __init__(self, names: list[str] | None = None, labels: list[int] = GIVEN) -> None:
        self.root = "data"
        names = [f"img/{place}.png" for place in range(len(labels))] if names is None else names
        self.samples = self.imgs = [(f"data/{name}", label) for name, label in zip(names, labels, strict=True)]
        self.targets = [label for _, label in self.samples]

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[str, int]:
        return self.samples[index]


class Named(TensorDataset):
    def sample_id(self, index: int) -> str:
        return f"id-{index}"


class AtOnce(TensorDataset):
    def __getitems__(self, indices: list[int]) -> list:
        return [("at once", self.tensors[1][index]) for index in indices]


@pytest.fixture
def tensors() -> TensorDataset:
    return TensorDataset(torch.arange(N).float(), torch.tensor(GIVEN))


@pytest.fixture
def labels_of(tmp_path: Path) -> Callable:
    """Writes the file for a dataset, as `relabel` does: with the ids that a run would have recorded."""

    def write(dataset, fix: Mapping[int, int] = FIX, *, ids: bool | None = None) -> Path:
        names = sample_names(dataset)
        given = find_labels(dataset).tolist()
        with_ids = names.kind != "positions" if ids is None else ids
        rows = [
            Correction("train", 0, place, names.names[place] if with_ids else "", given[place], label)
            for place, label in fix.items()
        ]
        return write_text(tmp_path / "labels.csv", corrections_text(rows))

    return write


def test_the_right_labels_are_handed_out(tensors: TensorDataset, labels_of: Callable) -> None:
    data = CorrectedLabels(tensors, labels_of(tensors))
    assert [int(data[place][1]) for place in range(N)] == RIGHT
    assert [float(data[place][0]) for place in range(N)] == list(range(N))
    assert data.targets.tolist() == data.labels.tolist() == data.tensors[1].tolist() == RIGHT
    assert data.given_targets.tolist() == GIVEN
    assert data.corrected.nonzero().flatten().tolist() == list(FIX)
    assert data.targets.dtype == torch.int64
    assert find_labels(data).tolist() == RIGHT
    assert int(data[-N + 3][1]) == 1
    assert tensors.tensors[1].tolist() == GIVEN


@pytest.mark.parametrize("make", [Files, lambda: Named(torch.zeros(N), torch.tensor(GIVEN))], ids=["paths", "ids"])
def test_samples_are_found_by_id_in_any_order(make: Callable, labels_of: Callable) -> None:
    whole = make()
    file = labels_of(whole)
    order = np.random.default_rng(0).permutation(N).tolist()
    shuffled = CorrectedLabels(Subset(whole, order), file)
    assert shuffled.targets.tolist() == [RIGHT[place] for place in order]
    assert shuffled.corrected.tolist() == [place in FIX for place in order]
    assert [int(shuffled[place][1]) for place in range(N)] == shuffled.targets.tolist()


def test_by_position_a_subset_is_what_the_run_had(tensors: TensorDataset, labels_of: Callable) -> None:
    part = Subset(tensors, [12, 5, 3, 3])
    data = CorrectedLabels(part, labels_of(part, {0: 2, 3: 1}))
    assert data.targets.tolist() == [2, GIVEN[5], GIVEN[3], 1]


def test_a_sample_that_occurs_twice_is_corrected_twice(labels_of: Callable) -> None:
    twice = Subset(Files(), [3, 0, 3])
    assert CorrectedLabels(twice, labels_of(twice, {0: 1})).targets.tolist() == [1, GIVEN[0], 1]


def test_concatenated_parts(tensors: TensorDataset, labels_of: Callable) -> None:
    both = ConcatDataset([tensors, tensors])
    data = CorrectedLabels(both, labels_of(both, {3: 1, N + 7: 0}))
    assert data.corrected.nonzero().flatten().tolist() == [3, N + 7]
    files = ConcatDataset([Files(), Files([f"more/{place}.png" for place in range(N)])])
    data = CorrectedLabels(files, labels_of(files, {3: 1, N + 7: 0}))
    assert data.corrected.nonzero().flatten().tolist() == [3, N + 7]
    assert data[N + 7] == ("data/more/7.png", 0)


def test_labels_with_noise_are_corrected_and_the_true_ones_stay_known(
    tensors: TensorDataset, labels_of: Callable
) -> None:
    noisy = NoisyLabels(tensors, rate=0.5, seed=1, exact=True)
    fix = {place: GIVEN[place] for place in noisy.is_noisy.nonzero().flatten().tolist()}
    data = CorrectedLabels(noisy, labels_of(noisy, fix))
    assert data.targets.tolist() == GIVEN
    assert data.given_targets.tolist() == noisy.noisy_targets.tolist()
    assert data.corrected.tolist() == noisy.is_noisy.tolist()
    assert [int(data[place][1]) for place in range(N)] == GIVEN
    assert true_targets(data).tolist() == GIVEN
    assert NoisyLabels(data, rate=0.0).noisy_targets.tolist() == GIVEN
    with pytest.raises(ValueError, match="labels of other data"):
        CorrectedLabels(tensors, labels_of(noisy, fix))


def test_an_indexed_dataset_is_unwrapped(tensors: TensorDataset, labels_of: Callable) -> None:
    assert int(CorrectedLabels(IndexedDataset(tensors), labels_of(tensors))[3][1]) == 1


def test_a_datasets_own_way_to_fetch_a_batch_is_used(labels_of: Callable) -> None:
    data = AtOnce(torch.zeros(N), torch.tensor(GIVEN))
    corrected = CorrectedLabels(data, labels_of(data))
    assert [(how, int(label)) for how, label in corrected.__getitems__([3, 4])] == [
        ("at once", 1),
        ("at once", GIVEN[4]),
    ]


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_workers_hand_out_the_same(method: str, tensors: TensorDataset, labels_of: Callable) -> None:
    data = CorrectedLabels(tensors, labels_of(tensors))
    loader = DataLoader(data, batch_size=8, num_workers=1, multiprocessing_context=get_context(method))
    assert torch.cat([labels for _, labels in loader]).tolist() == RIGHT


def test_copies(tensors: TensorDataset, labels_of: Callable) -> None:
    data = CorrectedLabels(tensors, labels_of(tensors))
    for again in (copy.deepcopy(data), pickle.loads(pickle.dumps(data))):
        assert again.targets.tolist() == RIGHT
        assert int(again[3][1]) == 1


def test_attributes_and_ids_are_handed_through(labels_of: Callable) -> None:
    data = CorrectedLabels(Files(), labels_of(Files()))
    assert data.classes == Files.classes
    assert sample_names(data) == sample_names(Files())
    assert CorrectedLabels(Named(torch.zeros(N), torch.tensor(GIVEN)), labels_of(Files(), {}, ids=True)).sample_id(
        4
    ) == ("id-4")


def test_an_empty_file_corrects_nothing(tensors: TensorDataset, labels_of: Callable) -> None:
    assert not CorrectedLabels(tensors, labels_of(tensors, {})).corrected.any()


HOSTILE = ["=HYPERLINK(1)", "'=quoted", "-1", 'say "hi", she said', "two\nlines", "a\rb", "semi;colon\ttab", "é漢字"]


def test_hostile_names_are_found(labels_of: Callable) -> None:
    names = [*HOSTILE, "x" * 10_000, *(f"{place}.png" for place in range(9, N))]
    fix = {place: (GIVEN[place] + 1) % K for place in range(N)}
    data = Files(names)
    assert CorrectedLabels(data, labels_of(data, fix)).targets.tolist() == list(fix.values())


def test_a_file_that_a_spreadsheet_saved(tensors: TensorDataset, labels_of: Callable) -> None:
    file = labels_of(Files())
    text = file.read_text(encoding="utf-8").replace(",", ";").replace("\n", "\r\n")
    file.write_bytes(("\ufeff" + text).encode())
    assert CorrectedLabels(Files(), file).targets.tolist() == RIGHT


def test_labels_of_other_data_are_refused_with_the_first_rows_that_differ(
    tensors: TensorDataset, labels_of: Callable
) -> None:
    others = [(label + 1) % K for label in GIVEN]
    said = r"labels of other data: 3 of 3 rows .* by position\. sample 3: label 2 in the file, label 3 here; sample 7: "
    with pytest.raises(ValueError, match=said):
        CorrectedLabels(TensorDataset(torch.zeros(N), torch.tensor(others)), labels_of(tensors))
    with pytest.raises(ValueError, match=r"1 of 3 rows .*sample 12: label 1 in the file, no such sample here"):
        CorrectedLabels(Subset(tensors, range(12)), labels_of(tensors))
    with pytest.raises(ValueError, match=r"2 of 3 rows .* by id\. sample 7 \('img/7\.png'\): .*no such sample here"):
        CorrectedLabels(Subset(Files(), range(5)), labels_of(Files()))
    with pytest.raises(ValueError, match=r"sample 3 \('img/3\.png'\): label 2 in the file, label 3 here"):
        CorrectedLabels(Files(labels=others), labels_of(Files()))


def test_ids_need_a_dataset_with_ids(tensors: TensorDataset, labels_of: Callable) -> None:
    with pytest.raises(ValueError, match=r"names samples by id .*TensorDataset\) has no ids.*sample_id_from="):
        CorrectedLabels(tensors, labels_of(Files()))
    names = [name for name, _ in ((f"img/{place}.png", 0) for place in range(N))]
    assert CorrectedLabels(tensors, labels_of(Files()), sample_id_from=lambda data: names).targets.tolist() == RIGHT


def test_an_id_of_two_samples_is_refused(labels_of: Callable) -> None:
    same = [f"id-{place // 2}" for place in range(N)]
    data = TensorDataset(torch.zeros(N), torch.tensor(GIVEN))
    file = labels_of(Named(torch.zeros(N), torch.tensor(GIVEN)))
    with pytest.raises(ValueError, match="the id 'id-3' is that of sample 6 and of sample 7"):
        CorrectedLabels(data, file, sample_id_from=lambda data: same)


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([("train", 0, 3, "", 2, 1), ("val", 0, 3, "", 2, 1)], "several datasets: train 0, val 0"),
        ([("train", 0, 3, "", 2, 1), ("train", 0, 3, "", 2, 0)], "labels 1 and 0 for sample 3"),
        ([("train", 0, 3, "", 2, 4)], "label 4 for sample 3; the dataset has 4 classes, from 0 to 3"),
        ([("train", 0, "x", "", 2, 1)], "line 2: index must be a whole number from 0, got 'x'"),
        ([("train", 0, 3, "", 2, -1)], "line 2: label must be a whole number"),
    ],
)
def test_files_that_make_no_sense(rows: list, said: str, tmp_path: Path) -> None:
    file = write_text(tmp_path / "labels.csv", corrections_text(Correction(*row) for row in rows))
    with pytest.raises(ValueError, match=said):
        CorrectedLabels(Files(), file)


def test_a_reviewed_list_is_not_a_file_of_labels(tensors: TensorDataset, tmp_path: Path) -> None:
    (tmp_path / "check.csv").write_text("index,sample_id,given_label,review\n")
    with pytest.raises(ValueError, match="lacks the columns split, loader, label"):
        CorrectedLabels(tensors, tmp_path / "check.csv")


def test_labels_that_change_under_it_are_noticed(labels_of: Callable) -> None:
    data = TensorDataset(torch.arange(N), torch.tensor(GIVEN))
    corrected = CorrectedLabels(data, labels_of(data))
    data.tensors[1][3] = 0
    with pytest.raises(ValueError, match="sample 3 has the label 0"):
        corrected[3]
