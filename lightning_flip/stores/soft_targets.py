"""What a teacher predicts for every training sample, in one safetensors file that carries its own manifest."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lightning_flip.stores.files import atomic_write, make_directory
from lightning_flip.stores.history.runs import library_version

__all__ = [
    "SoftTargetError",
    "SoftTargetTable",
    "dataset_fingerprint",
    "read_soft_targets",
    "soft_target_run",
    "write_soft_targets",
]

FORMAT_VERSION = 1
_MARK = "soft_targets"
_SUM_TOLERANCE = 1e-3  # of float32 rows that were averaged over many visits


class SoftTargetError(ValueError):
    """A file of soft targets is missing, damaged, or of something else than was expected.

    The message names the file, what is wrong with it, and what to do about it.
    """


@dataclasses.dataclass(frozen=True)
class SoftTargetTable:
    """A teacher's distributions over the classes, row = sample.

    Attributes:
        path: the file.
        probs: float32 ``[N, K]``; a row that was not visited is not a distribution.
        visited: bool ``[N]``, whether the teacher was trained or evaluated on the sample.
        target: int64 ``[N]``, the labels that the teacher was trained with, -1 if unknown; None if the file has none.
        manifest: where it comes from, see :func:`write_soft_targets`.
    """

    path: Path
    probs: npt.NDArray[np.float32]
    visited: npt.NDArray[np.bool_]
    target: npt.NDArray[np.int64] | None
    manifest: Mapping[str, Any]

    @property
    def num_samples(self) -> int:
        """N."""
        return int(self.probs.shape[0])

    @property
    def num_classes(self) -> int:
        """K."""
        return int(self.probs.shape[1])

    @property
    def num_visited(self) -> int:
        """How many rows are distributions."""
        return int(self.visited.sum())


def write_soft_targets(
    path: str | os.PathLike[str],
    probs: npt.NDArray[np.floating],
    visited: npt.NDArray[np.bool_] | None = None,
    manifest: Mapping[str, Any] | None = None,
    *,
    target: npt.NDArray[np.integer] | None = None,
    overwrite: bool = False,
) -> Path:
    """Write one file atomically; the manifest is in it, and beside it as ``<name>.json`` for reading.

    Any table can become soft targets in this way: votes of people, an ensemble.

    Args:
        path: ends in ``.safetensors``; missing folders are made.
        probs: ``[N, K]``; visited rows are distributions.
        visited: ``[N]``; None: all.
        manifest: anything that JSON can hold. Students look at ``dataset_fingerprint`` (of
            :func:`~lightning_flip.stores.dataset_fingerprint`) and ``sample_ids`` (whether it is made with names).
            Sizes, number of visited rows, format and hash are added.
        target: ``[N]`` labels that the teacher was trained with, -1 if unknown.
        overwrite: replace a file that is there.

    Returns:
        The path.

    Raises:
        FileExistsError: if the file is there and ``overwrite`` is not set.
        ValueError: if the shapes do not fit, a visited row is not a distribution, or the path has another suffix.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = write_soft_targets(f"{folder}/votes.safetensors", np.array([[0.7, 0.3], [0.0, 1.0]]))
        ...     read_soft_targets(path).manifest["num_classes"]
        2
    """
    from safetensors.numpy import save_file

    path = Path(path)
    if path.suffix != ".safetensors":
        raise ValueError(f"path must end in .safetensors, got {path}.")
    if path.exists() and not overwrite:
        raise FileExistsError(f"{path} exists. Pass overwrite=True, or write to another place.")
    rows = np.ascontiguousarray(probs, np.float32)
    seen = np.ones(len(rows), bool) if visited is None else np.ascontiguousarray(visited)
    tensors: dict[str, npt.NDArray[Any]] = {"probs": rows, "visited": seen}
    if target is not None:
        tensors["target"] = np.ascontiguousarray(target, np.int64)
    problem = _problem(tensors)
    if problem is not None:
        raise ValueError(f"{path} cannot be written: {problem}.")
    facts = {
        **(manifest or {}),
        "format_version": FORMAT_VERSION,
        "library_version": library_version(),
        "num_samples": rows.shape[0],
        "num_classes": rows.shape[1],
        "num_visited": int(seen.sum()),
        "sha256": _hash(tensors),
    }
    text = json.dumps(facts, indent=2, allow_nan=False)
    make_directory(path.parent)
    with atomic_write(path, replace=overwrite) as temporary:
        save_file(tensors, temporary, metadata={"lightning_flip": _MARK, "manifest": text})
    with atomic_write(path.with_suffix(".json")) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")
    return path


def soft_target_run(path: Path) -> str | None:
    """The run that a file of soft targets names in its header; None if it names none, or cannot be read."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            run = json.loads((file.metadata() or {}).get("manifest", "{}")).get("run")
    except (SafetensorError, OSError, ValueError, AttributeError):
        return None
    return run if isinstance(run, str) else None


def read_soft_targets(path: str | os.PathLike[str]) -> SoftTargetTable:
    """Read a file of :func:`write_soft_targets`; its ``.json`` is not needed.

    Checks the hash, the sizes, and that visited rows are distributions.

    Raises:
        SoftTargetError: if the file is missing, cut off, changed, of another kind, or of a newer version.
    """
    from safetensors import SafetensorError, safe_open

    path = Path(path)
    if not path.is_file():
        raise SoftTargetError(
            f"{path} does not exist (looked for in {Path.cwd()}). The callback PredictionFilter writes such files "
            "while a teacher trains."
        )
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is not a dict
    except (SafetensorError, OSError, ValueError) as error:
        raise SoftTargetError(
            f"{path} cannot be read as a safetensors file; it may be cut off or damaged ({error}). Copy it again, or "
            "let the teacher write it again: resume its run, even at its end."
        ) from error
    if metadata.get("lightning_flip") != _MARK or not {"probs", "visited"} <= set(tensors):
        raise SoftTargetError(
            f"{path} is not a file of soft targets: it must hold the tensors probs and visited and a manifest; it "
            f"holds {sorted(tensors)}. Write tables of your own with lightning_flip.stores.write_soft_targets."
        )
    manifest = json.loads(metadata["manifest"])
    if manifest["format_version"] > FORMAT_VERSION:
        raise SoftTargetError(
            f"{path} has format version {manifest['format_version']}, written by lightning-flip "
            f"{manifest['library_version']}; this version reads up to {FORMAT_VERSION}. Install a newer lightning-flip."
        )
    if _hash(tensors) != manifest["sha256"]:
        raise SoftTargetError(
            f"{path} was changed after it was written: its numbers do not have the hash of its manifest "
            f"({manifest['sha256'][:12]}...). Copy it again, or let the teacher write it again."
        )
    problem = _problem(tensors)
    if problem is not None:
        raise SoftTargetError(f"{path}: {problem}. Let the teacher write it again.")
    return SoftTargetTable(path, tensors["probs"], tensors["visited"], tensors.get("target"), manifest)


def dataset_fingerprint(target: npt.NDArray[np.integer], sample_ids: Sequence[str] | None = None) -> str:
    """Hash the labels of a data set in their order, and the samples' names if there are any.

    Other samples, another order, another subset, or label noise of another seed give another text.

    Args:
        target: ``[N]`` integer labels, as training sees them.
        sample_ids: N names.

    Returns:
        64 hexadecimal digits (SHA-256).

    Raises:
        ValueError: if the labels are not integers ``[N]``, or there are not N names.

    Example:
        >>> one, other = dataset_fingerprint(np.array([0, 1, 1])), dataset_fingerprint(np.array([1, 0, 1]))
        >>> one == other, one == dataset_fingerprint(np.array([0, 1, 1], np.uint8)), one[:8]
        (False, True, '9db994d2')
    """
    labels = np.asarray(target)
    if labels.ndim != 1 or labels.dtype.kind not in "iu":
        raise ValueError(f"target must be integer labels [N], got {labels.dtype} of shape {list(labels.shape)}.")
    if sample_ids is not None and len(sample_ids) != len(labels):
        raise ValueError(f"sample_ids must name each of {len(labels)} samples, got {len(sample_ids)} names.")
    digest = hashlib.sha256(f"labels {len(labels)}\n".encode())
    digest.update(np.ascontiguousarray(labels, "<i8").tobytes())
    for name in sample_ids or ():
        # With its length before it, so that no two lists of names read the same.
        text = str(name).encode()
        digest.update(f"{len(text)}:".encode())
        digest.update(text)
    return digest.hexdigest()


def _problem(tensors: Mapping[str, npt.NDArray[Any]]) -> str | None:
    probs, visited, target = tensors["probs"], tensors["visited"], tensors.get("target")
    if probs.ndim != 2 or probs.shape[1] < 2 or not len(probs) or probs.dtype != np.float32:
        return f"probs must be float32 [N, K] with K >= 2, got {probs.dtype} of shape {list(probs.shape)}"
    if visited.shape != probs.shape[:1] or visited.dtype != np.bool_:
        return f"visited must be bool [{len(probs)}], got {visited.dtype} of shape {list(visited.shape)}"
    if target is not None and target.shape != probs.shape[:1]:
        return f"target must be [{len(probs)}], got the shape {list(target.shape)}"
    sums = probs.sum(axis=1, dtype=np.float64)
    wrong = visited & ~((np.abs(sums - 1) < _SUM_TOLERANCE) & (probs >= 0).all(axis=1))  # NaN compares as False
    if wrong.any():
        row = int(np.flatnonzero(wrong)[0])
        return f"{int(wrong.sum())} of {len(probs)} rows are not distributions, row {row} sums to {sums[row]:.6g}"
    return None


def _hash(tensors: Mapping[str, npt.NDArray[Any]]) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        values = tensors[name]
        digest.update(f"{name} {values.dtype.kind}{values.dtype.itemsize} {list(values.shape)}\n".encode())
        digest.update(np.ascontiguousarray(values.astype(values.dtype.newbyteorder("<"), copy=False)).data)
    return digest.hexdigest()
