import os
import stat
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from lightning_flip.stores.files import (
    ARRAY_DAMAGE,
    atomic_write,
    make_directory,
    parquet_schema,
    read_array,
    read_parquet,
    temporary_files,
    write_parquet,
    write_text,
)


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


def test_contents_are_flushed_before_the_rename_and_the_rename_after_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a power cut could leave the final name with an empty file, or lose the name."""
    done: list[Any] = []
    fsync, replace = os.fsync, os.replace

    def note_fsync(descriptor: int) -> None:
        fsync(descriptor)
        found = os.fstat(descriptor)
        done.append(("fsync", found.st_ino, found.st_size if stat.S_ISREG(found.st_mode) else "folder"))

    def note_replace(source: Path, target: Path) -> None:
        replace(source, target)
        done.append(("replace", source, target))

    monkeypatch.setattr(os, "fsync", note_fsync)
    monkeypatch.setattr(os, "replace", note_replace)
    target = tmp_path / "run.json"
    target.write_text("old")
    with atomic_write(target) as temporary:
        temporary.write_text("newer")
    expected: list[Any] = [("fsync", target.stat().st_ino, 5), ("replace", temporary, target)]
    if os.name != "nt":  # Windows opens no folders
        expected.append(("fsync", tmp_path.stat().st_ino, "folder"))
    assert done == expected


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


def test_text_is_whole_or_absent(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "gate.xml"
    assert write_text(path, "日本\r\none \udc80\n") == path
    assert path.read_bytes() == "日本\r\none \\udc80\n".encode()
    write_text(path, "two")
    assert path.read_text() == "two"
    with pytest.raises(AttributeError):
        write_text(path, None)  # type: ignore[arg-type]
    with pytest.raises(OSError, match="folder"):
        write_text(path.parent, "three")
    assert path.read_text() == "two"
    assert [file.name for file in path.parent.iterdir()] == ["gate.xml"]
    assert [file.name for file in path.parent.parent.iterdir()] == ["folder"]


def test_text_goes_to_where_a_link_leads(tmp_path: Path) -> None:
    link = tmp_path / "latest.json"
    link.symlink_to(tmp_path / "runs" / "7.json")
    for text in ("one", "two"):
        assert write_text(link, text) == link
        assert link.is_symlink()
        assert (tmp_path / "runs" / "7.json").read_text() == text


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_text_goes_into_a_pipe(tmp_path: Path) -> None:
    """So into devices; a pipe of this test's own, since a failure would replace what it is tried on."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reading = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        write_text(pipe, "one")
        assert stat.S_ISFIFO(pipe.stat().st_mode)
        assert os.read(reading, 100) == b"one"
    finally:
        os.close(reading)


def test_damaged_parquet_is_named_with_the_remedy(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    write_parquet(path, pa.table({"a": [1, 2], "b": ["x", "y"]}))
    assert read_parquet(path, lambda schema: schema.names[1:], remedy="").to_pydict() == {"b": ["x", "y"]}
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(KeyError, match=r"rows\.parquet is damaged.*Copy it again"):
        read_parquet(path, remedy="Copy it again.", error=KeyError)
    assert parquet_schema(path) is None


@pytest.mark.parametrize("suffix", [".npy", ".npz"])
def test_arrays_are_read_and_never_unpickled(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"rows{suffix}"
    save = np.save if suffix == ".npy" else np.savez
    save(path, np.arange(3))
    assert read_array(path, lambda names: names[0]).tolist() == [0, 1, 2]
    save(path, np.array([object()]), allow_pickle=True)
    with pytest.raises(ARRAY_DAMAGE, match="allow_pickle"):
        read_array(path, lambda names: names[0])
