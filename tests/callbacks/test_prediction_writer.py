"""PredictionWriter writes what a plain loop over looked-up logits says, once a sample, on any number of ranks."""

from __future__ import annotations

import math
from pathlib import Path

import lightning.pytorch as pl
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.utilities import CombinedLoader
from torch import nn
from torch.utils.data import ConcatDataset, DataLoader, Dataset, IterableDataset, Subset, TensorDataset

from lightning_flip.callbacks import PredictionWriter
from lightning_flip.callbacks.predictions._rows import PredictionRows
from lightning_flip.cli import training_cli
from lightning_flip.data import ClassSubset
from lightning_flip.stores import read_logits, read_predictions
from tests.callbacks.helpers import make_trainer, run_ranks

CLASSES = 4


class Table(pl.LightningModule):
    """Answers sample i with row i of a table; the first feature of a sample is its number."""

    def __init__(self, logits):
        super().__init__()
        self.net = nn.Linear(1, 1)
        self.register_buffer("logits", logits)

    def forward(self, x):
        return self.logits[x.reshape(len(x), -1)[:, 0].long()] + 0.0 * self.net(x.reshape(len(x), -1)[:, :1])

    def validation_step(self, batch, batch_idx, dataloader_idx=0):
        self(batch[0])

    def test_step(self, batch, batch_idx, dataloader_idx=0):
        self(batch[0] if not isinstance(batch, dict) else batch["x"])

    def predict_step(self, batch, batch_idx, dataloader_idx=0):
        return self(batch[0] if isinstance(batch, list | tuple) else batch)

    def training_step(self, batch, batch_idx):
        return nn.functional.cross_entropy(self(batch[0]), batch[1])

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.0)


def some_logits(count, seed=0):
    return 3 * torch.randn(count, CLASSES, generator=torch.Generator().manual_seed(seed))


def numbered(count, start=0, seed=0):
    labels = torch.randint(CLASSES, (count,), generator=torch.Generator().manual_seed(seed))
    return TensorDataset(torch.arange(start, start + count)[:, None].float(), labels)


def softmax(row):
    powers = [math.exp(float(value) - max(map(float, row))) for value in row]
    return [power / sum(powers) for power in powers]


def assert_rows(path, logits, labels, index, *, top_k=CLASSES):
    """The file holds exactly these samples, as a plain loop describes them."""
    rows = pq.read_table(path).to_pylist()
    assert [row["index"] for row in rows] == sorted(index)
    for row in rows:
        z, y = logits[row["index"]].tolist(), labels[row["index"]]
        probs = softmax(z)
        best = sorted(range(CLASSES), key=lambda k: -z[k])[:top_k]
        assert row["target"] == y
        assert row["pred"] == best[0]
        assert row["top_classes"] == best
        np.testing.assert_allclose(row["top_probs"], [probs[k] for k in best], rtol=1e-5)
        assert row["confidence"] == pytest.approx(max(probs), rel=1e-5)
        assert row["prob_label"] == pytest.approx(probs[y], rel=1e-4)


@pytest.mark.parametrize("stage", ["validate", "test", "predict"])
def test_every_stage_writes_what_a_loop_says(stage):
    logits, data = some_logits(11), numbered(11)
    writer = PredictionWriter("new/here.parquet", top_k=2)
    trainer, model = make_trainer(callbacks=[writer]), Table(logits)
    getattr(trainer, stage)(model, DataLoader(data, batch_size=4))
    assert writer.paths == [Path("new/here.parquet")]
    assert_rows("new/here.parquet", logits, data.tensors[1].tolist(), range(11), top_k=2)
    read = read_predictions("new/here.parquet")
    assert read.rows["sample_id"].to_pylist() == [str(i) for i in range(11)]
    assert (read.classes, read.model_parameters, read.dataset_size) == (tuple(range(CLASSES)), 2, 11)
    assert not trainer.strategy.__dict__.get("predict_step")  # everything is taken off again


def test_a_fit_writes_nothing_and_a_test_after_it_does():
    model = Table(some_logits(6))
    trainer = make_trainer(callbacks=[PredictionWriter()], max_epochs=1)
    trainer.fit(model, DataLoader(numbered(6), batch_size=3), DataLoader(numbered(6), batch_size=3))
    assert list(Path().rglob("*.parquet")) == []
    trainer.test(model, DataLoader(numbered(6), batch_size=3), verbose=False)
    assert read_predictions("predictions-test.parquet").num_samples == 6


def test_default_folder_is_the_loggers():
    writer = PredictionWriter()
    trainer = make_trainer(callbacks=[writer], logger=CSVLogger("logs"))
    trainer.test(Table(some_logits(3)), DataLoader(numbered(3), batch_size=3), verbose=False)
    assert writer.paths == [Path(trainer.log_dir, "predictions-test.parquet")]
    assert writer.paths[0].exists()
    assert "logs" in str(writer.paths[0])


def test_every_loader_has_its_file():
    logits = some_logits(9)
    writer = PredictionWriter("p.parquet")
    loaders = [DataLoader(numbered(9), batch_size=4), DataLoader(Subset(numbered(9), [7, 2, 5]), batch_size=2)]
    make_trainer(callbacks=[writer]).test(Table(logits), loaders, verbose=False)
    assert writer.paths == [Path("p.parquet"), Path("p-1.parquet")]
    second = pq.read_table("p-1.parquet").to_pydict()
    assert second["index"] == [0, 1, 2]
    assert second["sample_id"] == ["7", "2", "5"]
    assert second["pred"] == logits[[7, 2, 5]].argmax(dim=1).tolist()


@pytest.mark.parametrize("mode", ["max_size", "min_size", "max_size_cycle"])
def test_loaders_that_are_drawn_from_at_once_are_refused_before_the_first_step(mode):
    loaders = CombinedLoader([DataLoader(numbered(9), batch_size=4), DataLoader(numbered(5), batch_size=4)], mode)
    model = Table(some_logits(9))
    model.test_step = lambda batch, batch_idx: pytest.fail("a step was run")
    with pytest.raises(ValueError, match=rf"drawn from at once, CombinedLoader\(mode='{mode}'\).*Pass them as a list"):
        make_trainer(callbacks=[PredictionWriter("p.parquet")]).test(model, loaders, verbose=False)
    in_turn = CombinedLoader(loaders.iterables, "sequential")
    writer = PredictionWriter("p.parquet")
    make_trainer(callbacks=[writer]).test(Table(some_logits(9)), in_turn, verbose=False)
    assert writer.paths == [Path("p.parquet"), Path("p-1.parquet")]


# -- targets ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batched", [[0, 1, 2], [4, 3, 1]])
def test_data_to_predict_need_no_target(batched):
    logits = some_logits(5)
    data = Subset(torch.arange(5)[:, None].float(), batched)
    make_trainer(callbacks=[PredictionWriter("p.parquet")]).predict(Table(logits), DataLoader(data, batch_size=2))
    read = read_predictions("p.parquet")
    assert read.rows["target"].to_pylist() == [None] * 3
    assert read.rows["pred"].to_pylist() == logits[batched].argmax(dim=1).tolist()
    assert "prob_label" not in pq.read_table("p.parquet").column_names


def test_what_looks_like_a_target_can_be_passed_over():
    data = TensorDataset(torch.arange(5)[:, None].float(), torch.arange(100, 105))
    trainer = make_trainer(callbacks=[PredictionWriter("p.parquet")])
    with pytest.raises(ValueError, match="labels are outside"):
        trainer.predict(Table(some_logits(5)), DataLoader(data, batch_size=2))
    writer = PredictionWriter("p.parquet", target_from=lambda batch: None)
    make_trainer(callbacks=[writer]).predict(Table(some_logits(5)), DataLoader(data, batch_size=2))
    assert read_predictions("p.parquet").rows["target"].to_pylist() == [None] * 5


def test_a_named_target_must_be_there():
    trainer = make_trainer(callbacks=[PredictionWriter(target_from=1)])
    with pytest.raises(KeyError, match="target_from=1 is not in the batch"):
        trainer.predict(Table(some_logits(5)), DataLoader(TensorDataset(torch.zeros(5, 1)), batch_size=2))


def test_a_test_needs_a_target():
    trainer = make_trainer(callbacks=[PredictionWriter()])
    with pytest.raises(TypeError, match="no target tensor"):
        trainer.test(Table(some_logits(5)), DataLoader(TensorDataset(torch.zeros(5, 1)), batch_size=2))
    assert list(Path().rglob("*.parquet")) == []


def test_several_labels_a_sample_are_refused():
    data = TensorDataset(torch.arange(4)[:, None].float(), torch.full((4, CLASSES), 0.25))
    with pytest.raises(TypeError, match="no single right class"):
        make_trainer(callbacks=[PredictionWriter()]).test(Table(some_logits(4)), DataLoader(data, batch_size=2))


# -- names and labels ---------------------------------------------------------------------------------


class Files(Dataset):
    def __len__(self):
        return 4

    def __getitem__(self, index):
        return torch.tensor([float(index)]), index % CLASSES

    def sample_id(self, index):
        return f"a/{index}\n.png"


def sample_ids(data):
    writer = PredictionWriter("p.parquet", overwrite=True)
    make_trainer(callbacks=[writer]).test(Table(some_logits(20)), DataLoader(data, batch_size=3), verbose=False)
    return read_predictions("p.parquet").rows["sample_id"].to_pylist()


def test_sample_ids_are_the_datasets_own_or_the_innermost_position():
    assert sample_ids(Files()) == [f"a/{i}\n.png" for i in range(4)]
    assert sample_ids(Subset(Files(), [3, 1])) == ["a/3\n.png", "a/1\n.png"]
    assert sample_ids(ConcatDataset([numbered(2), Subset(numbered(9), [8, 4])])) == ["0:0", "0:1", "1:8", "1:4"]
    nested = ConcatDataset([ConcatDataset([numbered(1), numbered(1)]), numbered(1)])
    assert sample_ids(nested) == ["0:0:0", "0:1:0", "1:0"]
    assert sample_ids(Subset(numbered(9), [7])) == ["7"]


def test_ids_that_repeat_are_told():
    with pytest.warns(UserWarning, match="8 samples have only 4 different sample ids"):
        sample_ids(ConcatDataset([Files(), Files()]))


def test_labels_of_a_class_subset_are_the_original_ones():
    logits = some_logits(12)
    data = ClassSubset(numbered(12), [3, 0, 2, 1])
    writer = PredictionWriter("p.parquet", top_k=2)
    make_trainer(callbacks=[writer]).test(Table(logits), DataLoader(Subset(data, range(12)), batch_size=5))
    read = read_predictions("p.parquet")
    ids = [int(name) for name in read.rows["sample_id"].to_pylist()]
    assert read.classes == (3, 0, 2, 1)
    assert read.rows["target"].to_pylist() == numbered(12).tensors[1][ids].tolist()
    assert read.rows["pred"].to_pylist() == [(3, 0, 2, 1)[k] for k in logits[ids].argmax(dim=1).tolist()]
    best = logits[ids].sort(dim=1, descending=True).indices[:, :2]
    expected = [[(3, 0, 2, 1)[k] for k in row] for row in best.tolist()]
    assert pq.read_table("p.parquet")["top_classes"].to_pylist() == expected


def test_labels_may_be_words():
    words, data = ["cat", "dog", "<b>", "eel"], numbered(6)
    writer = PredictionWriter("p.parquet", class_labels=words)
    make_trainer(callbacks=[writer]).test(Table(some_logits(6)), DataLoader(data, batch_size=4), verbose=False)
    read = read_predictions("p.parquet")
    assert read.rows["target"].to_pylist() == [words[k] for k in data.tensors[1].tolist()]
    assert read.classes == tuple(words)


def test_labels_must_be_one_an_output():
    writer = PredictionWriter(class_labels=[0, 1])
    with pytest.raises(ValueError, match="class_labels must be 4 different labels"):
        make_trainer(callbacks=[writer]).test(Table(some_logits(6)), DataLoader(numbered(6), batch_size=4))


# -- logits and slices --------------------------------------------------------------------------------


def test_logits_are_kept_as_float16_and_read_back():
    logits = some_logits(7)
    writer = PredictionWriter("p.parquet", logits=True, top_k=0)
    make_trainer(callbacks=[writer]).test(Table(logits), DataLoader(numbered(7), batch_size=4), verbose=False)
    index, stored, facts = read_logits("p.parquet")
    assert stored.dtype == np.float16
    np.testing.assert_array_equal(stored, logits.numpy().astype(np.float16))
    assert index.tolist() == list(range(7))
    assert facts.pop("data")["length"] == 7
    assert facts == {"classes": (0, 1, 2, 3), "model_parameters": 2, "num_samples": 7}
    assert "top_classes" not in pq.read_table("p.parquet").column_names


def test_a_logit_too_large_for_float16_keeps_all_in_float32():
    logits = some_logits(7)
    logits[6, 2] = 70000.0
    writer = PredictionWriter("p.parquet", logits=True)
    with pytest.warns(UserWarning, match="does not fit into float16"):
        make_trainer(callbacks=[writer]).test(Table(logits), DataLoader(numbered(7), batch_size=4), verbose=False)
    stored = read_logits("p.parquet")[1]
    assert stored.dtype == np.float32
    np.testing.assert_array_equal(stored, logits.numpy())


class Described(Dataset):
    def __len__(self):
        return 5

    def __getitem__(self, index):
        return {"x": torch.tensor([float(index)]), "y": index % CLASSES, "camera": f"c{index}", "hour": 2 * index}


def test_slices_are_columns_of_the_batch():
    where = {"camera": "camera", "hour": "hour", "late": lambda batch: batch["hour"] > 5}
    writer = PredictionWriter("p.parquet", slices=where)
    make_trainer(callbacks=[writer]).test(Table(some_logits(5)), DataLoader(Described(), batch_size=2), verbose=False)
    rows = pq.read_table("p.parquet").to_pydict()
    assert rows["camera"] == [f"c{i}" for i in range(5)]
    assert rows["hour"] == [0, 2, 4, 6, 8]
    assert rows["late"] == [False, False, False, True, True]


@pytest.mark.parametrize(
    ("where", "error", "match"),
    [
        ("nothing", KeyError, "slices\\['s'\\]='nothing' is not in the batch"),
        (lambda batch: batch["hour"][:1], ValueError, "gave \\[1\\] values for a batch of 2"),
        (lambda batch: [None, None], TypeError, "neither numbers nor words"),
    ],
)
def test_slices_that_are_none(where, error, match):
    trainer = make_trainer(callbacks=[PredictionWriter(slices={"s": where})])
    with pytest.raises(error, match=match):
        trainer.test(Table(some_logits(5)), DataLoader(Described(), batch_size=2))


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"path": "p.csv"}, "ends in .parquet"),
        ({"top_k": -1}, "top_k"),
        ({"slices": {"pred": "x"}}, "slices must not be called pred"),
    ],
)
def test_wrong_options(options, match):
    with pytest.raises(ValueError, match=match):
        PredictionWriter(**options)


# -- what is written, and when ------------------------------------------------------------------------


class Counting(Table):
    steps = 0

    def test_step(self, batch, batch_idx, dataloader_idx=0):
        Counting.steps += 1
        super().test_step(batch, batch_idx, dataloader_idx)
        if batch_idx == getattr(self, "fails_at", None):
            raise ZeroDivisionError


def test_a_file_that_is_there_is_refused_before_the_first_step():
    Path("p-1.parquet").write_text("precious")
    Counting.steps = 0
    loaders = [DataLoader(numbered(4), batch_size=2), DataLoader(numbered(4), batch_size=2)]
    with pytest.raises(FileExistsError, match=r"p-1\.parquet is already there"):
        make_trainer(callbacks=[PredictionWriter("p.parquet")]).test(Counting(some_logits(4)), loaders)
    assert Counting.steps == 0
    assert Path("p-1.parquet").read_text() == "precious"
    writer = PredictionWriter("p.parquet", overwrite=True)
    make_trainer(callbacks=[writer]).test(Counting(some_logits(4)), loaders, verbose=False)
    assert read_predictions("p-1.parquet").num_samples == 4


def test_a_folder_that_is_a_file_is_refused_before_the_first_step():
    Path("taken").write_text("")
    Counting.steps = 0
    with pytest.raises(PermissionError, match="not a folder"):
        make_trainer(callbacks=[PredictionWriter("taken/p.parquet")]).test(
            Counting(some_logits(4)), DataLoader(numbered(4), batch_size=2)
        )
    assert Counting.steps == 0


def test_an_exception_leaves_nothing():
    model, trainer = Counting(some_logits(6)), make_trainer(callbacks=[PredictionWriter("deep/p.parquet")])
    model.fails_at = 1
    with pytest.raises(ZeroDivisionError):
        trainer.test(model, DataLoader(numbered(6), batch_size=2))
    assert list(Path().rglob("*")) == []
    model.fails_at = None
    trainer.test(model, DataLoader(numbered(6), batch_size=2), verbose=False)  # and nothing is left over
    assert read_predictions("deep/p.parquet").num_samples == 6


def test_fast_dev_run_writes_nothing():
    make_trainer(callbacks=[PredictionWriter("p.parquet")], fast_dev_run=True).test(
        Table(some_logits(4)), DataLoader(numbered(4), batch_size=2), verbose=False
    )
    assert list(Path().rglob("*.parquet")) == []


def test_a_limited_pass_writes_what_it_saw():
    logits, data = some_logits(9), numbered(9)
    trainer = make_trainer(callbacks=[PredictionWriter("p.parquet")], limit_test_batches=2)
    trainer.test(Table(logits), DataLoader(data, batch_size=3), verbose=False)
    assert_rows("p.parquet", logits, data.tensors[1].tolist(), range(6))
    assert read_predictions("p.parquet").dataset_size == 9


class Drifting(Table):
    """Answers later visits with other logits."""

    visits = 0

    def forward(self, x):
        self.visits += len(x)
        return super().forward(x) + torch.nn.functional.one_hot(torch.tensor(self.visits % CLASSES), CLASSES) * 50.0


def test_the_last_visit_stays():
    sampler = [0, 1, 2, 0, 3]  # one a batch, so that the visit's number is the favored class
    writer, data = PredictionWriter("p.parquet"), DataLoader(numbered(4), batch_size=1, sampler=sampler)
    with pytest.warns(UserWarning, match="1 of 4 samples were visited more than once"):
        make_trainer(callbacks=[writer]).test(Drifting(torch.zeros(4, CLASSES)), data, verbose=False)
    assert pq.read_table("p.parquet")["pred"].to_pylist() == [4 % CLASSES, 2, 3, 5 % CLASSES]


@pytest.fixture
def small_chunks(monkeypatch):
    """Rows move to the host after every step, and between ranks one by one."""
    monkeypatch.setattr(PredictionRows.__init__, "__defaults__", (None, 1))


@pytest.mark.usefixtures("small_chunks")
def test_rows_that_move_to_the_host_in_between_are_the_same():
    logits, data = some_logits(9), numbered(9)
    make_trainer(callbacks=[PredictionWriter("p.parquet", logits=True)]).test(
        Table(logits), DataLoader(data, batch_size=2), verbose=False
    )
    assert_rows("p.parquet", logits, data.tensors[1].tolist(), range(9))


class Hidden(Table):
    """Shows its logits to nobody: no module gives them, and no loss is computed."""

    def test_step(self, batch, batch_idx, dataloader_idx=0):
        Table.forward(self, batch[0])


def test_a_step_without_forward_hook_is_an_error_and_not_an_empty_file():
    with pytest.raises(RuntimeError, match="no logits"):
        make_trainer(callbacks=[PredictionWriter()]).test(Hidden(some_logits(4)), DataLoader(numbered(4), batch_size=2))


class Stream(IterableDataset):
    def __iter__(self):
        for number in (40, 7, 12):
            yield torch.tensor([float(number % 4)]), number % CLASSES, number


def test_ids_that_the_batch_carries():
    writer = PredictionWriter("p.parquet", index_from=2)
    make_trainer(callbacks=[writer]).test(Table(some_logits(4)), DataLoader(Stream(), batch_size=2), verbose=False)
    read = read_predictions("p.parquet")
    assert read.rows["sample_id"].to_pylist() == ["7", "12", "40"]
    assert read.dataset_size is None


def test_half_precision_is_widened():
    logits = some_logits(8)
    trainer = make_trainer(callbacks=[PredictionWriter("p.parquet", logits=True)], precision="bf16-true")
    trainer.predict(Table(logits), DataLoader(numbered(8), batch_size=4))
    rounded = logits.to(torch.bfloat16).float()
    confidence = pq.read_table("p.parquet")["confidence"].to_numpy()
    np.testing.assert_allclose(confidence, [max(softmax(row)) for row in rounded.tolist()], rtol=1e-5)


# -- ranks --------------------------------------------------------------------------------------------


class Numbered(Dataset):
    """Samples with a word, a number and a label."""

    def __init__(self, count):
        self.labels = numbered(count).tensors[1].tolist()

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, index):
        return torch.tensor([float(index)]), self.labels[index], f"word-{index}", index / 2


def evaluate(world, stage, folder, count):
    Path(folder).mkdir(exist_ok=True)
    slices = {"word": 2, "half": 3}
    writer = PredictionWriter(Path(folder, "p.parquet"), logits=True, slices=slices)
    trainer = make_trainer(strategy="ddp" if world > 1 else "auto", devices=world, callbacks=[writer])
    loaders = [DataLoader(Numbered(count), batch_size=2), DataLoader(Numbered(count - 2), batch_size=3)]
    options = {} if stage == "predict" else {"verbose": False}
    getattr(trainer, stage)(Table(some_logits(count)), loaders, **options)
    assert writer.paths == [Path(folder, "p.parquet"), Path(folder, "p-1.parquet")]


@pytest.mark.filterwarnings("ignore:Using .DistributedSampler. with the dataloaders")
@pytest.mark.parametrize("stage", ["test", "predict"])
def test_any_number_of_ranks_writes_the_same_file(stage):
    evaluate(1, stage, "1", 13)
    for world in (2, 3):
        assert run_ranks(world, evaluate, world, stage, str(world), 13) == [0] * world
    for name, count in (("p.parquet", 13), ("p-1.parquet", 11)):
        one = pq.read_table(Path("1", name))
        assert one["index"].to_pylist() == list(range(count))
        assert one["word"].to_pylist() == [f"word-{i}" for i in range(count)]
        assert one["half"].to_pylist() == [i / 2 for i in range(count)]
        assert one.schema.field("logits").type.value_type == "halffloat"
        for world in (2, 3):
            assert pq.read_table(Path(str(world), name)).equals(one, check_metadata=True)


@pytest.mark.usefixtures("small_chunks")
def test_ranks_exchange_rows_in_pieces():
    evaluate(1, "predict", "1", 13)
    assert run_ranks(3, evaluate, 3, "predict", "3", 13) == [0] * 3
    assert pq.read_table("3/p.parquet").equals(pq.read_table("1/p.parquet"), check_metadata=True)


def visit_again(world):
    data = DataLoader(numbered(5), batch_size=1, sampler=[1, 0, 0, 2, 3, 4])
    trainer = make_trainer(strategy="ddp", devices=world, callbacks=[PredictionWriter("p.parquet")])
    trainer.test(Drifting(torch.zeros(5, CLASSES)), data, verbose=False)


def test_the_last_visit_is_that_of_one_process():
    """The second rank's first step comes before the first rank's second one."""
    assert run_ranks(2, visit_again, 2) == [0, 0]
    assert pq.read_table("p.parquet")["pred"].to_pylist() == [2, 1, 2, 3, 3]


def evaluate_into_taken(world):
    trainer = make_trainer(strategy="ddp", devices=world, callbacks=[PredictionWriter("p.parquet")])
    with pytest.raises((FileExistsError, RuntimeError), match="already there"):
        trainer.test(Table(some_logits(4)), DataLoader(numbered(4), batch_size=1))


def test_all_ranks_hear_of_a_refusal():
    Path("p.parquet").write_text("precious")
    assert run_ranks(2, evaluate_into_taken, 2) == [0, 0]
    assert Path("p.parquet").read_text() == "precious"


# -- command line -------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:.isinstance.treespec, LeafSpec:FutureWarning")
def test_from_the_command_line(tmp_path):
    path = tmp_path / "cli.parquet"
    config = tmp_path / "c.yaml"
    config.write_text(
        "model:\n  class_path: Classifier\n  init_args: {network: SmallCNN, num_classes: 10}\n"
        "data: {class_path: DigitsDataModule, init_args: {test_size: 50}}\n"
        "trainer: {accelerator: cpu, logger: false, enable_progress_bar: false, enable_model_summary: false}\n"
    )
    words = ["test", "--config", str(config), "--trainer.callbacks+=PredictionWriter"]
    words += [f"--trainer.callbacks.path={path}", "--trainer.callbacks.top_k=3"]
    training_cli(words)
    read = read_predictions(path)
    assert read.num_samples == 50
    assert read.classes == tuple(range(10))
    assert set(read.columns) >= {"index", "prob_label", "top_classes", "top_probs"}


# -- several stages ---------------------------------------------------------------------------------------------------


def all_stages(writer: PredictionWriter, count: int = 1) -> dict[str, list[Path]]:
    """What one Trainer leaves of each stage."""
    model = Table(some_logits(3))
    trainer = make_trainer(callbacks=[writer])
    data = [DataLoader(numbered(3), batch_size=3) for _ in range(count)]
    found = {}
    for stage in ("test", "predict", "validate"):
        quiet = {} if stage == "predict" else {"verbose": False}
        getattr(trainer, stage)(model, data, **quiet)
        found[stage] = writer.paths
    return found


def test_files_are_named_by_stage():
    found = all_stages(PredictionWriter())
    assert found == {stage: [Path(f"predictions-{stage}.parquet").absolute()] for stage in found}
    assert all(read_predictions(paths[0]).num_samples == 3 for paths in found.values())


def test_a_given_file_is_the_first_stages_and_others_add_their_name():
    found = all_stages(PredictionWriter("new.parquet"), count=2)
    assert found == {
        "test": [Path("new.parquet"), Path("new-1.parquet")],
        "predict": [Path("new-predict.parquet"), Path("new-predict-1.parquet")],
        "validate": [Path("new-validate.parquet"), Path("new-validate-1.parquet")],
    }
    assert len(list(Path().glob("*.parquet"))) == 6


@pytest.mark.parametrize("path", [None, "new.parquet"])
def test_a_second_pass_of_a_stage_is_refused_and_replaced(path):
    data = DataLoader(numbered(3), batch_size=3)
    for overwrite in (False, True):
        writer = PredictionWriter(path, overwrite=overwrite)
        trainer = make_trainer(callbacks=[writer])
        if not overwrite:
            trainer.test(Table(some_logits(3)), data, verbose=False)
            trainer.predict(Table(some_logits(3)), data)
            for stage in (trainer.test, trainer.predict):
                with pytest.raises(FileExistsError, match=r"already there.*overwrite=True"):
                    stage(Table(some_logits(3)), data)
        else:
            for _ in range(2):
                trainer.test(Table(some_logits(3)), data, verbose=False)
                trainer.predict(Table(some_logits(3)), data)
    assert len(list(Path().glob("*.parquet"))) == 2


def test_a_stage_that_failed_has_no_file():
    writer = PredictionWriter("new.parquet")
    trainer = make_trainer(callbacks=[writer])
    with pytest.raises(TypeError, match="no target tensor"):
        trainer.test(Table(some_logits(5)), DataLoader(TensorDataset(torch.zeros(5, 1)), batch_size=2))
    trainer.predict(Table(some_logits(3)), DataLoader(numbered(3), batch_size=3))
    assert writer.paths == [Path("new.parquet")]
