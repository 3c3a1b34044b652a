"""Files with a matrix of label noise: every form is read alike, and what is none is refused by name."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from lightning_flip.stores import read_transition, write_transition

T = np.array([[0.9, 0.1], [0.25, 0.75]])


def test_what_was_written_is_read(tmp_path: Path) -> None:
    write_transition(tmp_path / "new" / "T.npz", T, condition_number=1.5, epoch=3)
    assert read_transition(tmp_path / "new" / "T.npz").tolist() == T.tolist()
    write_transition(tmp_path / "new" / "T.npz", T[::-1])
    assert read_transition(str(tmp_path / "new" / "T.npz")).tolist() == T[::-1].tolist()
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["T.npz"]
    with pytest.raises(ValueError, match=r"ends in \.npz"):
        write_transition(tmp_path / "T.npy", T)


def test_every_form_is_read_alike(tmp_path: Path) -> None:
    np.save(tmp_path / "T.npy", T)
    np.savez(tmp_path / "T.npz", anything=T)
    (tmp_path / "T.csv").write_text("0.9,0.1\n0.25,0.75\n")
    np.save(tmp_path / "half.npy", T.astype(np.float32))
    for name in ("T.npy", "T.npz", "T.csv"):
        assert read_transition(tmp_path / name).tolist() == T.tolist()
    assert read_transition(tmp_path / "half.npy").dtype == np.float64


def test_what_is_no_matrix_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no file .*gone\.npy"):
        read_transition(tmp_path / "gone.npy")
    with pytest.raises(ValueError, match=r"is read from \.npz, \.npy, \.csv; got .*T\.pt"):
        read_transition(tmp_path / "T.pt")
    np.savez(tmp_path / "two.npz", a=T, b=T)
    with pytest.raises(ValueError, match=r"two\.npz holds no matrix.*the arrays a, b; name the matrix 'transition'"):
        read_transition(tmp_path / "two.npz")
    np.save(tmp_path / "row.npy", T[0])
    np.save(tmp_path / "wide.npy", np.ones((2, 3)))
    np.save(tmp_path / "words.npy", np.array([["a", "b"], ["c", "d"]]))
    for name in ("row", "wide", "words"):
        with pytest.raises(ValueError, match=rf"{name}\.npy must hold a square matrix of numbers"):
            read_transition(tmp_path / f"{name}.npy")
    (tmp_path / "header.csv").write_text("a,b\n1,0\n0,1\n")
    (tmp_path / "broken.npy").write_bytes(b"")
    (tmp_path / "broken.npz").write_bytes(b"PK\x03\x04 no archive")
    np.save(tmp_path / "objects.npy", np.array([[1, None]], dtype=object), allow_pickle=True)
    for name in ("header.csv", "broken.npy", "broken.npz", "objects.npy"):
        with pytest.raises(ValueError, match=f"{name} holds no matrix of numbers"):
            read_transition(tmp_path / name)
