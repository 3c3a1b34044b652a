"""One file of soft targets: what is written is read, and nothing else is."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from lightning_flip.stores import SoftTargetError, dataset_fingerprint, read_soft_targets, write_soft_targets

N, K = 7, 3


def some_rows(seed=0):
    probs = np.random.default_rng(seed).dirichlet(np.ones(K), size=N).astype(np.float32)
    return probs, np.arange(N) != 4


def write(path="a.safetensors", **options):
    probs, visited = some_rows()
    return write_soft_targets(path, probs, visited, {"kind": "filtered", "alpha": 0.05}, **options)


def test_what_is_written_is_read():
    probs, visited = some_rows()
    probs[4] = 0  # not visited, no distribution
    labels = np.arange(N) % K
    path = write_soft_targets("deep/er/a.safetensors", probs, visited, {"alpha": 0.05}, target=labels)
    table = read_soft_targets(path)
    assert table.probs.dtype == np.float32
    np.testing.assert_array_equal(table.probs, probs)
    np.testing.assert_array_equal(table.visited, visited)
    np.testing.assert_array_equal(table.target, labels)
    assert (table.num_samples, table.num_classes, table.num_visited) == (N, K, N - 1)
    assert table.manifest["alpha"] == 0.05
    assert json.loads(Path("deep/er/a.json").read_text()) == table.manifest
    assert sorted(path.name for path in Path("deep/er").iterdir()) == ["a.json", "a.safetensors"]


def test_the_manifest_travels_in_the_file_alone():
    write()
    Path("a.json").unlink()
    os.rename("a.safetensors", "b.safetensors")
    assert read_soft_targets("b.safetensors").manifest["kind"] == "filtered"


def test_rows_of_a_wider_type_and_without_a_mask():
    write_soft_targets("a.safetensors", np.array([[0.25, 0.75], [1.0, 0.0]]))
    table = read_soft_targets("a.safetensors")
    assert table.visited.all()
    assert table.target is None
    assert table.probs.tolist() == [[0.25, 0.75], [1.0, 0.0]]


def test_a_file_that_is_there_is_kept():
    write()
    with pytest.raises(FileExistsError, match="overwrite=True"):
        write()
    assert write(overwrite=True) == Path("a.safetensors")


def test_a_write_that_fails_leaves_the_file_of_before(monkeypatch):
    write()
    before = Path("a.safetensors").read_bytes()

    def half(tensors, filename, metadata=None):
        Path(filename).write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr("safetensors.numpy.save_file", half)
    with pytest.raises(OSError, match="disk full"):
        write(overwrite=True)
    assert Path("a.safetensors").read_bytes() == before
    assert sorted(path.name for path in Path().iterdir()) == ["a.json", "a.safetensors"]


@pytest.mark.parametrize("share", [0.0, 0.02, 0.5, 0.99])
def test_half_a_file(share):
    write()
    content = Path("a.safetensors").read_bytes()
    Path("a.safetensors").write_bytes(content[: int(share * len(content))])
    with pytest.raises(SoftTargetError, match=r"a\.safetensors cannot be read.*cut off"):
        read_soft_targets("a.safetensors")


def test_every_changed_byte_of_the_numbers_is_noticed():
    write(target=np.arange(N))
    content = bytearray(Path("a.safetensors").read_bytes())
    size = N * K * 4 + N + N * 8
    for place in range(len(content) - size, len(content)):
        changed = bytearray(content)
        changed[place] ^= 1
        Path("a.safetensors").write_bytes(changed)
        with pytest.raises(SoftTargetError, match=r"changed|cannot be read"):
            read_soft_targets("a.safetensors")


def test_other_files_are_refused():
    with pytest.raises(SoftTargetError, match="does not exist"):
        read_soft_targets("none.safetensors")
    Path("text.safetensors").write_text("probs")
    with pytest.raises(SoftTargetError, match="cannot be read"):
        read_soft_targets("text.safetensors")
    save_file({"weight": np.zeros((2, 2))}, "model.safetensors")
    with pytest.raises(SoftTargetError, match=r"not a file of soft targets.*'weight'"):
        read_soft_targets("model.safetensors")


def test_a_newer_format_is_refused(monkeypatch):
    with monkeypatch.context() as newer:
        newer.setattr("lightning_flip.stores.soft_targets.FORMAT_VERSION", 2)
        write()
    with pytest.raises(SoftTargetError, match="format version 2"):
        read_soft_targets("a.safetensors")


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda probs, visited: (2 * probs, visited), "6 of 7 rows are not distributions, row 0 sums to 2"),
        (lambda probs, visited: (probs - [[0.9, -0.9, 0.0]], visited), "not distributions"),
        (lambda probs, visited: (np.full_like(probs, np.nan), visited), "not distributions"),
        (lambda probs, visited: (probs[:, 0], visited), "probs must be float32"),
        (lambda probs, visited: (probs[:, :1], visited), "K >= 2"),
        (lambda probs, visited: (probs, visited[:3]), "visited must be bool"),
        (lambda probs, visited: (probs, visited.astype(int)), "visited must be bool"),
    ],
)
def test_what_is_no_table_is_not_written(change, match):
    with pytest.raises(ValueError, match=match):
        write_soft_targets("a.safetensors", *change(*some_rows()))
    assert not list(Path().iterdir())


def test_wrong_targets_and_names():
    with pytest.raises(ValueError, match="target must be"):
        write(target=np.arange(3))
    with pytest.raises(ValueError, match=r"end in \.safetensors"):
        write("a.npz")
    with pytest.raises(ValueError, match="JSON compliant"):
        write_soft_targets("a.safetensors", *some_rows(), {"score": float("nan")})


def test_fingerprints():
    labels = np.array([0, 1, 2, 1, 0, 2, 2])
    names = [f"{i}.png" for i in range(N)]
    same = {dataset_fingerprint(labels.astype(kind)) for kind in (np.int64, np.int8, np.uint16, ">i4")}
    assert len(same) == 1
    others = [
        dataset_fingerprint(labels[::-1]),
        dataset_fingerprint(np.where(np.arange(N) == 3, 2, labels)),  # one noisy label
        dataset_fingerprint(labels[:-1]),
        dataset_fingerprint(labels, names),
        dataset_fingerprint(labels, names[::-1]),
        dataset_fingerprint(labels, ["0", ".png", *names[2:]]),
        dataset_fingerprint(labels, ["0.", "png", *names[2:]]),
    ]
    assert len({*same, *others}) == 1 + len(others)
    with pytest.raises(ValueError, match="integer labels"):
        dataset_fingerprint(np.zeros((2, 2)))
    with pytest.raises(ValueError, match="7 samples, got 1 names"):
        dataset_fingerprint(labels, ["a"])


def test_reading_needs_no_torch():
    write()
    code = "import sys; from lightning_flip.stores import read_soft_targets; read_soft_targets('a.safetensors'); "
    code += "assert 'torch' not in sys.modules and 'lightning' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
