"""Stored logits as a reference: files of every kind, whose samples they are, where they lie."""

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from lightning_flip.mixins import FocalDistillation
from lightning_flip.models import MLP, Classifier
from lightning_flip.steps import SampleStep, cached_logits, load_reference
from lightning_flip.steps.cached_logits import CachedLogits
from lightning_flip.stores import write_predictions

N, K = 12, 3
LOGITS = np.random.default_rng(1).normal(size=(N, K)).astype(np.float32)
ORDER = np.random.default_rng(2).permutation(N)


def step_of(index, num_samples=N, **options):
    index = torch.as_tensor(index)
    return SampleStep(index, torch.zeros(len(index), K), index % K, num_samples=num_samples, **options)


def write(path, index=ORDER, logits=LOGITS, **options):
    """A file of each kind with the rows of ``index`` in this order."""
    if path.suffix == ".npy":
        np.save(path, logits)
    elif path.suffix == ".npz":
        np.savez(path, logits=logits[index], index=index)
    else:
        columns = {"index": index, "sample_id": [str(i) for i in index], "target": index % K}
        columns |= {"pred": logits[index].argmax(1), "confidence": np.full(len(index), 0.5), "logits": logits[index]}
        write_predictions(path, columns, classes=range(K), **options)
    return path


@pytest.mark.parametrize("name", ["old.parquet", "old.npz", "old.npy"])
@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_files_give_the_rows_of_a_step_in_single_precision(tmp_path, name, dtype):
    path = write(tmp_path / name, logits=LOGITS.astype(dtype))
    reference = load_reference(path, logits_from=lambda output: output)  # it needs no inputs
    got = reference.logits(step_of([7, 0, 7, 11]), None)
    assert got.dtype == torch.float32
    np.testing.assert_array_equal(got.numpy(), LOGITS.astype(dtype).astype(np.float32)[[7, 0, 7, 11]])
    assert reference.num_parameters is None
    assert reference.source._logits.dtype == (torch.float16 if dtype == np.float16 else torch.float32)


def test_npz_without_index_is_in_the_order_of_the_samples(tmp_path):
    np.savez(tmp_path / "old.npz", logits=LOGITS.astype(">f8"))
    got = CachedLogits.read(tmp_path / "old.npz").rows(step_of([5, 2]))
    np.testing.assert_array_equal(got.numpy(), LOGITS[[5, 2]])


@pytest.mark.parametrize(
    ("index", "message"),
    [
        (ORDER[:-2], "no logits for 2 of the dataset's 12 samples, and 0 rows"),
        (np.append(ORDER, [12, 40, 13]), "no logits for 0 of the dataset's 12 samples, and 3 rows"),
        (np.append(ORDER[1:], [99]), "no logits for 1 of the dataset's 12 samples, and 1 rows"),
    ],
)
def test_tables_of_another_dataset_are_refused(tmp_path, index, message):
    logits = np.zeros((100, K), np.float32)
    reference = load_reference(write(tmp_path / "old.npz", index, logits))
    with pytest.raises(ValueError, match=message):
        reference.logits(step_of([0]), None)


def test_the_length_that_a_file_names_must_be_the_datasets(tmp_path):
    path = write(tmp_path / "old.parquet", num_samples=20)
    with pytest.raises(ValueError, match="a dataset of 20 samples, this one has 12"):
        load_reference(path).logits(step_of([0]), None)
    path = write(tmp_path / "same.parquet", num_samples=N)
    reference = load_reference(path)
    assert reference.logits(step_of([0]), None).shape == (1, K)
    with pytest.raises(ValueError, match="this one has 15"):  # it was right for another one before
        reference.logits(step_of([0], num_samples=15), None)


def test_ids_of_batches_are_looked_up_one_by_one(tmp_path):
    ids = np.array([10**12, 5, 70, 3])
    np.savez(tmp_path / "old.npz", logits=LOGITS[:4], index=ids)
    reference = load_reference(tmp_path / "old.npz")
    got = reference.logits(step_of([3, 10**12, 5], num_samples=None), None)
    np.testing.assert_array_equal(got.numpy(), LOGITS[[3, 0, 1]])
    with pytest.raises(ValueError, match=r"no logits for 2 of 3 samples of the batch, the id 4 .* 1000000000000"):
        reference.logits(step_of([3, 4, 2 * 10**12], num_samples=None), None)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"logits": LOGITS, "index": np.zeros(N, int)}, "11 of 12 rows repeat one"),
        ({"logits": LOGITS, "index": np.arange(N) - 1}, "the lowest is -1"),
        ({"logits": LOGITS, "index": np.arange(N - 1)}, r"\[12, 3\] and \[11\]"),
        ({"logits": LOGITS[:, 0]}, r"\[12\]"),
        ({"logits": LOGITS[:, :1]}, "K >= 2"),
        ({"logits": np.float32(3)}, "shapes"),
        ({"logits": LOGITS[:0]}, "0 rows"),
        ({"logits": np.where(LOGITS > 1, np.inf, LOGITS)}, "rows have logits that are not finite"),
        ({"logits": LOGITS.astype(int)}, "logits of floats"),
        ({"logits": LOGITS, "index": np.arange(N) + 0.5}, "index of integers"),
        ({"probabilities": LOGITS}, r"'logits' \[R, K\].*\['probabilities'\]"),
        ({"logits": np.array([{}], dtype=object)}, "hold objects"),
    ],
)
def test_other_arrays_are_refused(tmp_path, arrays, message):
    np.savez(tmp_path / "old.npz", **arrays)
    with pytest.raises(ValueError, match=message):
        load_reference(tmp_path / "old.npz")


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".parquet"])
def test_files_that_are_cut_off_or_missing_are_told(tmp_path, suffix):
    path = write(tmp_path / f"old{suffix}")
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ValueError, match="cut off"):
        load_reference(path)
    with pytest.raises(FileNotFoundError, match="does not exist"):
        load_reference(tmp_path / f"other{suffix}")


def test_predictions_without_logits_say_how_to_write_them(tmp_path):
    columns = {"index": [0], "sample_id": ["0"], "target": [1], "pred": [1], "confidence": [0.5]}
    write_predictions(tmp_path / "old.parquet", columns)
    with pytest.raises(ValueError, match="logits=True"):
        load_reference(tmp_path / "old.parquet")


def test_the_table_is_moved_once_and_its_size_is_said_before(monkeypatch):
    said = []
    monkeypatch.setattr(cached_logits, "rank_zero_info", said.append)
    table = CachedLogits(torch.arange(N), torch.as_tensor(LOGITS).half(), name="old.parquet")
    meta = SampleStep(
        torch.zeros(2, dtype=torch.int64, device="meta"), torch.zeros(2, K, device="meta"), None, num_samples=N
    )
    for _ in range(3):
        assert table.rows(meta).shape == (2, K)
    # 12 x 3 numbers of 2 bytes and 12 indices of 8
    assert said == ["cached logits of old.parquet: 12 samples x 3 x torch.float16 = 0.0 MB to meta"]
    assert table.device.type == "meta"


def test_a_table_that_does_not_fit_says_what_to_do(monkeypatch):
    table = CachedLogits(torch.arange(N), torch.as_tensor(LOGITS), name="old.parquet")

    class Full:
        nbytes = 5_000_000_000
        shape, dtype, device = (N, K), torch.float32, torch.device("cpu")

        def to(self, device):
            raise torch.OutOfMemoryError("out of memory")

    table._logits = Full()
    with pytest.raises(MemoryError, match=r"5\.0 GB .*float16"):
        table.to(torch.device("meta"))


class Update(FocalDistillation, Classifier): ...


def test_a_fit_with_stored_logits_is_one_with_the_model(tmp_path):
    """Without augmentation both references say the same, and so both fits end in the same weights."""
    generator = torch.Generator().manual_seed(3)
    x, y = torch.randn(N, 4, generator=generator), torch.randint(K, (N,), generator=generator)
    torch.manual_seed(4)
    old = MLP(4, K)
    with torch.no_grad():
        np.save(tmp_path / "old.npy", old(x).numpy())
    weights = []
    for reference in (old, str(tmp_path / "old.npy")):
        torch.manual_seed(5)
        model = Update(network=MLP(4, K), num_classes=K, reference=reference, focal_weight=10.0)
        trainer = pl.Trainer(
            accelerator="cpu",
            devices=1,
            max_epochs=3,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            limit_val_batches=0,
            log_every_n_steps=1,
        )
        torch.manual_seed(6)
        loader = DataLoader(TensorDataset(x, y), batch_size=4, shuffle=True)
        trainer.fit(model, loader, loader)
        weights.append(model.network.state_dict())
    for key, value in weights[0].items():
        torch.testing.assert_close(value, weights[1][key], rtol=0, atol=1e-5)
