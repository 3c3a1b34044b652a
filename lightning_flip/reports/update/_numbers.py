"""The numbers of an update, which its tables are made from."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from lightning_flip.reports.update._flip_cells import FlipCells
from lightning_flip.reports.update._flip_groups import FlipGroups, FlipMatrix
from lightning_flip.reports.update._flip_rates import FlipRate
from lightning_flip.reports.update.noise_floor import NoiseFloor
from lightning_flip.reports.update.worst_flips import WorstFlips

__all__ = ["UpdateNumbers"]


@dataclasses.dataclass(frozen=True)
class UpdateNumbers:
    """What `UpdateComparison` consists of."""

    old_name: str
    new_name: str
    cells: FlipCells
    rates: Mapping[str, FlipRate]
    confidence: float
    mcnemar_p: float
    classes: FlipGroups
    slices: Mapping[str, FlipGroups]
    worst: WorstFlips
    matrix: FlipMatrix
    floor: NoiseFloor | None = None
    old_parameters: int | None = None
    new_parameters: int | None = None
    only_old: int = 0
    only_new: int = 0
    outside_classes: int = 0

    @property
    def num_samples(self) -> int:
        """The number of samples that both models are judged on."""
        return int(self.cells.total)
