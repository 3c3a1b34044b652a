"""Tables of label distributions: every kind of file, and what is refused."""

from __future__ import annotations

import pickle
from collections import namedtuple
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from torch.utils.data import DataLoader, Subset, TensorDataset

from lightning_flip.data import LabelDistributions, NoisyLabels, as_label_distributions, load_label_distributions
from lightning_flip.data.origins import ask_dataset

PROBS = np.random.default_rng(0).dirichlet([0.5] * 10, size=40)
VOTES = np.random.default_rng(1).multinomial(51, PROBS)


def expected(table: np.ndarray = PROBS) -> torch.Tensor:
    return torch.tensor(table / table.sum(axis=1, keepdims=True), dtype=torch.float32)


def npy(table: np.ndarray) -> Path:
    np.save("cifar10h-probs.npy", table)
    return Path("cifar10h-probs.npy")


def columns(table: np.ndarray) -> pa.Table:
    return pa.table({f"class {k}": column for k, column in enumerate(table.T)})


def lists(table: np.ndarray, **more: list) -> pa.Table:
    return pa.table({**more, "probs": table.tolist()})


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16])
def test_a_table_as_that_of_cifar10h(dtype):
    got = load_label_distributions(npy(PROBS.astype(dtype)), num_samples=40, num_classes=10)
    assert got.dtype == torch.float32
    torch.testing.assert_close(got, expected(), rtol=0, atol={2: 1e-3}.get(np.dtype(dtype).itemsize, 1e-6))
    torch.testing.assert_close(got.sum(dim=1), torch.ones(40))


def test_counts_of_votes():
    got = load_label_distributions(npy(VOTES), normalize=True)
    torch.testing.assert_close(got, expected(VOTES))
    with pytest.raises(ValueError, match=r"row 0, .* does not sum to 1; pass normalize=True .* \(40 rows are like"):
        load_label_distributions(npy(VOTES))


def test_one_hot_rows_need_no_normalizing():
    assert load_label_distributions(npy(np.eye(10, dtype=np.int64))).equal(torch.eye(10))


@pytest.mark.parametrize(
    ("arrays", "options"),
    [
        ({"anything": PROBS}, {}),
        ({"probs": PROBS, "index": np.arange(40)}, {}),
        ({"a": np.zeros((3, 3)), "b": PROBS}, {"name": "b"}),
    ],
)
def test_archives(arrays, options):
    np.savez("table.npz", **arrays)
    torch.testing.assert_close(load_label_distributions("table.npz", **options), expected())


@pytest.mark.parametrize("options", [{}, {"name": "c"}])
def test_an_archive_whose_array_cannot_be_told(options):
    np.savez("table.npz", a=PROBS, b=PROBS)
    with pytest.raises(ValueError, match=r"has the arrays a, b; say with name="):
        load_label_distributions("table.npz", **options)


@pytest.mark.parametrize("kind", ["columns", "lists", "fixed", "pandas"])
def test_parquet(kind):
    if kind == "columns":
        pq.write_table(columns(PROBS), "table.parquet")
    elif kind == "lists":
        pq.write_table(lists(PROBS, sample=list(range(40))), "table.parquet")
    elif kind == "fixed":
        flat = pa.FixedSizeListArray.from_arrays(pa.array(PROBS.ravel()), 10)
        pq.write_table(pa.table({"probs": flat}), "table.parquet")
    else:
        frame = pd.DataFrame(PROBS, columns=[f"p{k}" for k in range(10)], index=np.arange(40) + 7)
        frame.to_parquet("table.parquet")
    torch.testing.assert_close(load_label_distributions("table.parquet"), expected())


def test_columns_of_whole_numbers_and_several_row_groups():
    pq.write_table(columns(VOTES), "table.parquet", row_group_size=7)
    torch.testing.assert_close(load_label_distributions("table.parquet", normalize=True), expected(VOTES))


def test_parquet_columns_that_name_samples_are_not_classes():
    table = columns(PROBS).append_column("sample_id", pa.array(range(40)))
    pq.write_table(table, "table.parquet")
    with pytest.raises(ValueError, match="one for each class and no other"):
        load_label_distributions("table.parquet", normalize=True)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (pa.table({"probs": [[0.5, 0.5], [1.0]]}), "rows have 1 to 2 values; expected K everywhere"),
        (pa.table({"probs": [[0.5, 0.5], None]}), "1 rows of the column of lists are null"),
        (pa.table({"probs": [[0.5, 0.5], [1.0, None]]}), "row 1, .* is not finite"),
        (pa.table({"a": [0.5, None], "b": [0.5, 1.0]}), "row 1, .* is not finite"),
        (pa.table({"a": [[0.5, 0.5]], "b": [[0.5, 0.5]]}), "columns of lists a, b; say with name="),
        (pa.table({"a": ["x"], "b": ["y"]}), "expected numbers"),
        (pa.table({"a": [1.0]}), r"shape \(1, 1\); expected \[N, K\]"),
    ],
)
def test_parquet_of_another_form_is_named(table, message):
    pq.write_table(table, "table.parquet")
    with pytest.raises(ValueError, match=message):
        load_label_distributions("table.parquet")


def spoiled(value: float, row: int = 3, column: int = 2) -> np.ndarray:
    table = PROBS.copy()
    table[row, column] = value
    return table


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (spoiled(float("nan")), "path=cifar10h-probs.npy: row 3, .* is not finite"),
        (spoiled(float("inf")), "row 3, .* is not finite"),
        (spoiled(-0.1), "row 3, .* is negative"),
        (spoiled(2.0), "row 3, .* does not sum to 1"),
        (PROBS * 100, "row 0, .* does not sum to 1"),
        (PROBS[:, 0], r"shape \(40,\); expected \[N, K\]"),
        (PROBS[None], r"shape \(1, 40, 10\)"),
        (PROBS[:, :1], r"shape \(40, 1\)"),
        (PROBS.astype(complex), "complex128 values; expected numbers"),
        (PROBS.astype(str), "expected numbers"),
        (PROBS > 0.5, "bool values"),
    ],
)
def test_rows_that_are_no_distributions_are_named(table, message):
    with pytest.raises(ValueError, match=message):
        load_label_distributions(npy(table))


@pytest.mark.parametrize(("table", "message"), [(spoiled(-1.0), "is negative"), (PROBS * 0, "has no votes")])
def test_normalizing_forgives_no_nonsense(table, message):
    with pytest.raises(ValueError, match=message):
        load_label_distributions(npy(table), normalize=True)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"num_samples": 39}, "has 40 rows; expected 39"), ({"num_classes": 100}, "has 10 columns; expected 100")],
)
def test_another_size_is_named(options, message):
    with pytest.raises(ValueError, match=message):
        load_label_distributions(npy(PROBS), **options)


class Trap:
    def __reduce__(self):
        return (Path("sprung").touch, ())


@pytest.mark.parametrize("suffix", [".npy", ".npz"])
def test_objects_are_not_unpickled(suffix):
    path = Path(f"objects{suffix}")
    (np.save if suffix == ".npy" else np.savez)(path, np.array([[Trap(), 0.5]], dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match="Objects are not unpickled"):
        load_label_distributions(path)
    path.write_bytes(pickle.dumps(Trap()))
    with pytest.raises(ValueError, match="is not an array of numbers"):
        load_label_distributions(path)
    assert not Path("sprung").exists()


@pytest.mark.parametrize("name", ["a.npy", "a.npz", "a.parquet"])
@pytest.mark.parametrize("content", [b"", b"not a table", b"PK\x03\x04 half an archive", b"\x93NUMPY\x01\x00v\x00{"])
def test_damaged_files_are_named(name, content):
    Path(name).write_bytes(content)
    with pytest.raises(ValueError, match=f"path={name}"):
        load_label_distributions(name)


@pytest.mark.parametrize("name", ["a.npy", "a.npz", "a.parquet"])
def test_half_a_file_is_named(name):
    whole = Path("whole" + Path(name).suffix)
    if name == "a.npy":
        np.save(whole, PROBS)
    elif name == "a.npz":
        np.savez(whole, PROBS)
    else:
        pq.write_table(columns(PROBS), whole)
    content = whole.read_bytes()
    Path(name).write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match=f"path={name}"):
        load_label_distributions(name)


def test_a_header_that_claims_more_than_there_is():
    content = npy(np.zeros((1000, 10))).read_bytes()
    Path("claim.npy").write_bytes(content.replace(b"(1000, 10)", b"(10**9, 9)").replace(b"10**9", b"99999"))
    with pytest.raises(ValueError, match=r"path=claim\.npy"):
        load_label_distributions("claim.npy")


def test_files_that_are_not_there_or_of_another_kind():
    with pytest.raises(FileNotFoundError, match=r"path=no\.npy is not a file"):
        load_label_distributions("no.npy")
    Path("table.csv").write_text("0.5,0.5\n")
    with pytest.raises(ValueError, match=r"must end in \.npy, \.npz or \.parquet"):
        load_label_distributions("table.csv")


@pytest.mark.parametrize("make", [list, torch.tensor, lambda x: torch.tensor(x, dtype=torch.bfloat16)])
def test_tables_in_memory(make):
    rows = [[0.25, 0.75], [1.0, 0.0]]
    assert as_label_distributions(make(rows)).equal(torch.tensor(rows))


# -- the dataset ------------------------------------------------------------------------------------


def labelled(n: int = 40) -> TensorDataset:
    return TensorDataset(torch.arange(n * 2.0).reshape(n, 2), torch.arange(n) % 10)


def test_samples_stay_as_they_are_and_know_their_distribution():
    data = LabelDistributions(labelled(), npy(PROBS))
    assert len(data) == 40
    assert data[7][1] == 7
    assert data.true_distribution(7).equal(data.true_probs[7])
    torch.testing.assert_close(data.true_probs, expected())
    assert ask_dataset(Subset(data, [5, 9]), 1, "true_distribution").equal(data.true_probs[9])


def test_distributions_in_place_of_labels():
    data = LabelDistributions(labelled(), PROBS, as_target=True)
    inputs, target = next(iter(DataLoader(data, batch_size=8)))
    assert inputs.equal(labelled().tensors[0][:8])
    torch.testing.assert_close(target, expected()[:8])


Pair = namedtuple("Pair", ["image", "label"])


@pytest.mark.parametrize(
    ("sample", "read"),
    [
        (("x", 3, "more"), lambda s: s[1]),
        (["x", 3], lambda s: s[1]),
        ({"image": "x", "label": 3}, lambda s: s["label"]),
        (Pair("x", 3), lambda s: s.label),
    ],
)
def test_samples_of_every_form(sample, read):
    source = [sample, sample]
    data = LabelDistributions(source, [[0.5, 0.5], [0.1, 0.9]], as_target=True)
    got = data[1]
    assert type(got) is type(sample)
    assert len(got) == len(sample)
    assert read(got).tolist() == pytest.approx([0.1, 0.9])
    assert read(source[1]) == 3
    assert read(data.__getitems__([0, 1])[1]).tolist() == pytest.approx([0.1, 0.9])


def test_other_questions_go_to_the_dataset_inside():
    noisy = NoisyLabels(labelled(), rate=0.5)
    data = LabelDistributions(noisy, PROBS)
    assert data.true_target(12) == 2
    assert ask_dataset(data, 12, "true_target") == 2
    assert data.sample_id(0) is None
    assert data.targets.equal(noisy.noisy_targets)
    again = pickle.loads(pickle.dumps(data))
    assert again.true_probs.equal(data.true_probs)
    with pytest.raises(AttributeError):
        data.nothing  # noqa: B018


def test_a_table_of_another_length_is_refused():
    with pytest.raises(ValueError, match="40 rows; expected 30, one for each sample"):
        LabelDistributions(labelled(30), PROBS)
    with pytest.raises(ValueError, match="For a Subset, wrap the whole dataset"):
        LabelDistributions(Subset(labelled(), range(30)), npy(PROBS))
