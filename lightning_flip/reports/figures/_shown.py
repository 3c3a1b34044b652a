"""The figure that everything here draws on; importing this module imports matplotlib."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

from matplotlib.figure import Figure

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["ShownFigure"]

_DOTS = 100  # per inch


class ShownFigure(Figure):
    """A matplotlib figure outside pyplot that a notebook shows; IPython itself shows those of pyplot alone.

    Attributes:
        table: what is drawn, one row per point, bar or cell; of plots of a recorded run only.
    """

    table: pa.Table

    def _repr_png_(self) -> bytes:
        written = io.BytesIO()
        self.savefig(written, format="png", dpi=_DOTS)
        return written.getvalue()
