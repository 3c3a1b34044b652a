"""Recording a script that says nothing of it: ``LIGHTNING_FLIP=runs python train.py``.

Both Lightning packages call :func:`callbacks` for every Trainer, through the entry points of this package. While the
variable is not set, this module imports nothing but what every Python process has.
"""

from __future__ import annotations

import os
from typing import Any

__all__ = ["callbacks"]


def callbacks() -> list[Any]:
    """The callbacks that a Trainer is given without being asked.

    ``LIGHTNING_FLIP`` names the folder under which every Trainer records into a ``version_N`` of its own. An error of
    the recording is a warning and ends it, unless ``LIGHTNING_FLIP_STRICT=1`` is set.

    Returns:
        One callback; none while the variable is unset or empty.

    Raises:
        Exception: whatever keeps the callback from being made, with ``LIGHTNING_FLIP_STRICT=1``.

    Example:
        >>> os.environ.get("LIGHTNING_FLIP", ""), callbacks()
        ('', [])
    """
    root = os.environ.get("LIGHTNING_FLIP", "")
    if not root:
        return []
    strict = os.environ.get("LIGHTNING_FLIP_STRICT", "") not in ("", "0")
    try:
        from lightning_flip.auto._recording import Recording

        return [Recording(os.path.abspath(root), strict=strict)]  # the script may change its folder later
    except Exception as error:
        if strict:
            raise
        import logging

        logging.getLogger("lightning_flip").warning(
            "LIGHTNING_FLIP is set, but nothing is recorded: %s: %s. LIGHTNING_FLIP_STRICT=1 raises this error.",
            type(error).__name__,
            error,
        )
        return []
