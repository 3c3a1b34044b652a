import json
from collections.abc import Callable
from pathlib import Path

import pytest

from lightning_flip.stores import HistoryError, read_run, read_samples
from lightning_flip.stores.claims import open_run
from lightning_flip.stores.history.parts import list_parts, set_aside
from lightning_flip.stores.history.samples import write_samples

OTHER = "0123456789abcdef" * 2


def test_a_new_run_says_who_it_is(tmp_path: Path) -> None:
    identity = open_run(tmp_path / "deep" / "run", run_id=None, info={"num_classes": 10, "monitor": None})
    run = read_run(tmp_path / "deep" / "run")
    assert (run.run_id, run.format_version) == (identity, 2)
    assert run.info == {"num_classes": 10, "monitor": None}
    assert len(identity) == 32
    assert run.created.endswith("+00:00")
    assert run.library_version
    assert open_run(tmp_path / "other", run_id=None, info={}) != identity


@pytest.mark.parametrize("overwrite", [False, True])
def test_the_same_id_continues_and_loses_nothing(run_folder: Path, write_rows: Callable, overwrite: bool) -> None:
    part = write_rows(run_folder, [{"index": 0}])
    before = (run_folder / "run.json").read_bytes()
    identity = read_run(run_folder).run_id
    assert open_run(run_folder, run_id=identity, overwrite=overwrite, info={"another": "info"}) == identity
    assert (run_folder / "run.json").read_bytes() == before
    assert part.exists()
    assert read_samples(run_folder).num_rows == 5


@pytest.mark.parametrize("run_id", [None, OTHER])
def test_another_run_is_refused_with_the_ways_out(run_folder: Path, write_rows: Callable, run_id: str | None) -> None:
    part = write_rows(run_folder, [{"index": 0}])
    present = read_run(run_folder)
    with pytest.raises(FileExistsError) as refused:
        open_run(run_folder, run_id=run_id, info={})
    message = str(refused.value)
    for piece in (
        str(run_folder),
        present.run_id,
        run_id or "a new run is starting",
        "checkpoint",
        "another folder",
        "overwrite=True",
    ):
        assert piece in message
    assert part.exists()
    assert read_run(run_folder) == present


def test_overwrite_removes_what_the_store_made_and_nothing_else(run_folder: Path, write_rows: Callable) -> None:
    write_rows(run_folder, [{"index": 0}], epoch=0)
    write_rows(run_folder, [{"index": 0}], split="val", epoch=1)
    for _ in range(2):
        write_rows(run_folder, [{"index": 0}], epoch=1)
        set_aside(run_folder, {("train", 0, 0), ("val", 1, 0)})
    (run_folder / "history" / "train" / ".epoch-0002-pass-0-rank-00000.parquet.0123456789ab.tmp").touch()
    (run_folder / ".samples.parquet.0123456789ab.tmp").touch()
    foreign = [
        run_folder / "checkpoints" / "last.ckpt",
        run_folder / "metrics.csv",
        run_folder / "history" / "notes.txt",
        run_folder / "history" / "train" / "epoch-3.parquet",
        run_folder / "history" / "train" / "epoch-3.orphan",
    ]
    for path in foreign:
        path.parent.mkdir(exist_ok=True)
        path.write_text("mine")
    old = read_run(run_folder).run_id
    new = open_run(run_folder, run_id=None, overwrite=True, info={"fresh": True})
    assert new != old
    assert read_run(run_folder).info == {"fresh": True}
    assert sorted(path for path in run_folder.rglob("*") if path.is_file()) == sorted(
        [*foreign, run_folder / "run.json"]
    )
    assert not (run_folder / "history" / "val").exists()


def test_overwrite_keeps_the_id_of_the_checkpoint(run_folder: Path) -> None:
    assert open_run(run_folder, run_id=OTHER, overwrite=True, info={}) == OTHER
    assert read_run(run_folder).run_id == OTHER


def test_a_folder_of_other_files_is_fine(tmp_path: Path) -> None:
    (tmp_path / "hparams.yaml").write_text("lr: 1")
    open_run(tmp_path, run_id=None, info={})
    assert (tmp_path / "hparams.yaml").read_text() == "lr: 1"


def test_a_folder_that_was_moved_since_the_checkpoint_gets_the_same_id(tmp_path: Path) -> None:
    assert open_run(tmp_path / "gone", run_id=OTHER, info={}) == OTHER


def test_parts_without_run_json_are_not_mixed_into_a_new_run(run_folder: Path, write_rows: Callable) -> None:
    write_rows(run_folder, [{"index": 0}])
    (run_folder / "run.json").unlink()
    with pytest.raises(FileExistsError, match=r"run\.json is gone"):
        open_run(run_folder, run_id=None, info={})
    assert open_run(run_folder, run_id=OTHER, info={}) == OTHER
    assert len(list_parts(run_folder)) == 1
    (run_folder / "run.json").unlink()
    open_run(run_folder, run_id=None, overwrite=True, info={})
    assert list_parts(run_folder) == {}
    assert not (run_folder / "samples.parquet").exists()


@pytest.mark.parametrize("overwrite", [False, True])
def test_somebody_elses_samples_parquet_is_left_alone(tmp_path: Path, overwrite: bool) -> None:
    (tmp_path / "samples.parquet").write_bytes(b"mine")
    with pytest.raises(FileExistsError, match=r"samples\.parquet"):
        open_run(tmp_path, run_id=None, overwrite=overwrite, info={})
    assert (tmp_path / "samples.parquet").read_bytes() == b"mine"


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"run_id": 3}', "null", "\x00"])
@pytest.mark.parametrize("overwrite", [False, True])
def test_an_unreadable_run_json_is_never_overwritten(tmp_path: Path, text: str, overwrite: bool) -> None:
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(HistoryError, match=r"run\.json"):
        open_run(tmp_path, run_id=OTHER, overwrite=overwrite, info={})
    assert (tmp_path / "run.json").read_text() == text
    assert len(list(tmp_path.iterdir())) == 1


def test_a_newer_format_names_the_version(run_folder: Path) -> None:
    content = json.loads((run_folder / "run.json").read_text())
    (run_folder / "run.json").write_text(json.dumps(content | {"format_version": 99}))
    with pytest.raises(HistoryError, match=r"format version 99.*newer lightning-flip"):
        read_run(run_folder)


@pytest.mark.parametrize("info", [{"path": Path()}, {"loss": float("nan")}])
def test_info_that_json_cannot_hold(tmp_path: Path, info: dict[str, object]) -> None:
    with pytest.raises(TypeError, match="info"):
        open_run(tmp_path / "run", run_id=None, info=info)
    assert not (tmp_path / "run").exists()


def test_no_run_json(tmp_path: Path) -> None:
    write_samples(tmp_path, {"split": "train", "index": [0], "target": [0]})
    with pytest.raises(HistoryError, match=r"run\.json does not exist"):
        read_run(tmp_path)
