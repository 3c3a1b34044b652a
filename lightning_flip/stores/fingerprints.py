"""A short text that tells one labelled data set from another."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

__all__ = ["dataset_fingerprint"]


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
