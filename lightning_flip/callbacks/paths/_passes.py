"""Clean passes over the chosen samples of a recording, one after an update at most."""

from __future__ import annotations

from collections.abc import Sequence

import lightning.pytorch as pl
from torch import Tensor

from lightning_flip.callbacks.paths._probe import PathProbe
from lightning_flip.callbacks.paths._rows import PathRows
from lightning_flip.steps import Attachment, StepSource

__all__ = ["PathPasses"]


class PathPasses:
    """Asks about the chosen samples on rank 0, which alone keeps what comes of it.

    Attributes:
        asked: updates that had been taken before the last pass, -1 before the first.
    """

    def __init__(self) -> None:
        self.asked = -1
        self._probe: PathProbe | None = None

    def renew(self) -> None:
        """Collate the samples again: others are chosen, or another fit has begun."""
        self._probe = None

    def ask(
        self,
        trainer: pl.Trainer,
        module: pl.LightningModule,
        attachment: Attachment,
        source: StepSource,
        samples: Sequence[int],
    ) -> Tensor | None:
        """What the network says of the samples now.

        Returns probabilities float32 ``[n, K]``; None on other ranks, without samples, and where they were asked about
        after this very update.

        Args:
            trainer: the running Trainer.
            module: its module.
            attachment: what runs here is no step that it should catch.
            source: names the loader, the targets, and the submodule that gives the logits.
            samples: positions in the training data.
        """
        if not samples or not trainer.is_global_zero or self.asked == trainer.global_step:
            return None
        if self._probe is None:
            self._probe = PathProbe(trainer, module, attachment, source, samples)
        return self._probe.ask(trainer, module)

    def keep(self, probs: Tensor, rows: PathRows, *, global_step: int) -> None:
        """Add what a pass gave to an epoch's rows."""
        assert self._probe is not None
        self.asked = global_step
        rows.add(self._probe.index, self._probe.target, probs, global_step=global_step)
