from pathlib import Path

import pytest

from lightning_flip.stores.atomic import atomic_write, make_directory, temporary_files


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    target = tmp_path / "run.json"
    target.write_text("old")

    def fail() -> None:
        with atomic_write(target) as temporary:
            temporary.write_text("half of the n")
            raise RuntimeError("disk")

    with pytest.raises(RuntimeError, match="disk"):
        fail()
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_the_temporary_file_is_in_the_same_folder_and_no_parquet_glob_finds_it(tmp_path: Path) -> None:
    with atomic_write(tmp_path / "epoch-0000.parquet") as temporary:
        temporary.write_text("x")
        assert temporary.parent == tmp_path
        assert list(tmp_path.glob("*.parquet")) == []
        assert temporary_files(tmp_path, "*.parquet") == [temporary]
    assert [path.name for path in tmp_path.iterdir()] == ["epoch-0000.parquet"]


def test_only_our_temporary_files_are_listed(tmp_path: Path) -> None:
    for name in (".run.json.swp", ".run.json.tmp", "run.json.0123456789ab.tmp", ".run.json.0123456789ab.tmp"):
        (tmp_path / name).touch()
    assert [path.name for path in temporary_files(tmp_path)] == [".run.json.0123456789ab.tmp"]


def test_a_block_that_writes_nothing_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), atomic_write(tmp_path / "run.json"):
        pass


def test_a_file_where_a_folder_is_needed(tmp_path: Path) -> None:
    (tmp_path / "history").touch()
    with pytest.raises(FileExistsError):
        make_directory(tmp_path / "history" / "train")
