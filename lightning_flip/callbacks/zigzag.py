"""How much each training sample's prediction strays on its way: zig-zag scores without a stored path."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor

from lightning_flip.callbacks._evaluation import training_data
from lightning_flip.callbacks._scores import add_predictions, difficulty_of, loaded_sums, sums_for, true_distributions
from lightning_flip.callbacks.run_folder import RunWriter, warn_if_partial
from lightning_flip.callbacks.watcher import StatefulWatcher
from lightning_flip.data.sample_names import lasting_ids
from lightning_flip.steps import SampleStep
from lightning_flip.stores.zigzag import ZIGZAG_FILE, write_zigzag, zigzag_run
from lightning_flip.tables import PredictionSums

__all__ = ["ZigZag"]


class ZigZag(RunWriter, StatefulWatcher):
    """Scores every training sample: max over i != y of the sum over its visits of q_t[i] (Filter-KD, appendix E).

    The sums grow with each visit's prediction, before its update, in N x K numbers: no path is stored. The score grows
    with the number of visits; divide by ``visits`` to compare runs of different lengths. At the end of every epoch and
    of the fit, ``zigzag.parquet`` in the run's folder holds one row per sample: ``index, sample_id, target, other``
    (the class that it strays to), ``visits, zigzag``, and ``base_difficulty``, ||e_y - p*||_2, if the dataset has
    ``true_distribution(index)``. :func:`lightning_flip.stores.read_zigzag` reads it.

    Ranks are merged at an epoch's end and before a checkpoint; if each sample is on one rank per epoch, the sums are
    bit for bit those of one process.

    Args:
        dirpath: the run's folder; None: one that the callbacks of the Trainer share.
        name: tells two of one Trainer apart, in a checkpoint and as a folder under the run's folder.
        num_samples: number of samples, needed with ``index_from`` only.
        **options: of the folder (:class:`~lightning_flip.callbacks.run_folder.RunWriter`) and of the steps
            (:class:`~lightning_flip.callbacks.watcher.StepWatcher`).

    Example:
        >>> ZigZag("runs/a").state_key
        "ZigZag{'train': True, 'val': False, 'name': ''}"
    """

    def __init__(
        self,
        dirpath: str | Path | None = None,
        *,
        name: str = "",
        num_samples: int | None = None,
        **options: Any,
    ) -> None:
        super().__init__(train=True, val=False, name=name, dirpath=dirpath, **options)
        self.num_samples = num_samples
        self._forget()

    def _forget(self) -> None:
        super()._forget()
        self._sums: PredictionSums | None = None
        self._epoch = -1
        self._facts: tuple[Tensor | None, list[str] | None] | None = None

    @property
    def sums(self) -> PredictionSums | None:
        """The table, a :class:`~lightning_flip.tables.PredictionSums`, up to the last batch; None before the first."""
        self.flush()
        return self._sums

    def scores(self) -> Tensor:
        """The scores of all samples; on several ranks as merged at the last epoch's end.

        Returns:
            float32 ``[N]``, NaN for samples that were never visited.

        Raises:
            RuntimeError: before the first step.
        """
        if self.sums is None:
            raise RuntimeError("no training step was seen yet, so that there are no scores. Fit first.")
        return self.sums.zigzag()

    # -- the run --------------------------------------------------------------------------------------

    def begin(self, trainer: pl.Trainer) -> None:
        """A fit from the first epoch is a new run; the dataset may be another one."""
        self._facts = None
        super().begin(trainer)

    def open(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Claim the place of the file."""
        part = (Path(self.name) / ZIGZAG_FILE).as_posix()
        self._claim(trainer, part, info={"module": type(pl_module).__qualname__}, refuse=self._against)

    def new_epoch(self, epoch: int) -> None:
        """Merge the ranks' rows of the epoch before."""
        if self._epoch != epoch:
            self._epoch = epoch
            if self._sums is not None:
                self._sums.sync()

    def restart(self, split: str, loader: int) -> None:
        """Forget the sums."""
        self._sums = self._facts = None

    def watch(self, trainer: pl.Trainer, split: str, loader: int, step: SampleStep) -> None:
        """Add predictions up; nothing is read back from the device."""
        self._sums = sums_for("ZigZag", self._sums, step, self.num_samples)
        add_predictions(self._sums, step)

    def skip(self, split: str) -> None:
        """Warn once that mixed samples cannot be attributed to a single sample."""
        self._tell(
            "ZigZag: targets are float [B, K] (MixUp, CutMix or distributions) and have no single label to stray from, "
            "so these steps are not counted. Name labels with target_from=, if the batch has them."
        )

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Merge the ranks and write the scores, so that a killed run leaves them."""
        self._finish(trainer)

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write the scores."""
        self._finish(trainer)
        if self._sums is not None and self._opened:
            rank_zero_info(f"ZigZag: scores of {self._sums.num_samples} samples in {self._target}")

    # -- checkpoints ------------------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """The sums of all ranks."""
        together = self.may_communicate()
        if self._sums is not None and together:
            self._sums.sync()
        return {
            **self._place_state(),
            "epoch": self._epoch,
            "sums": None if self._sums is None else self._sums.state_dict(),
            "partial": self._sums is not None and not together and not self._sums.merged,
        }

    def load_state(self, trainer: pl.Trainer, state: dict[str, Any]) -> None:
        """Continue the run of a checkpoint."""
        self._forget()
        self._recall(trainer, state)
        self._epoch = state["epoch"]
        if state["sums"] is not None:
            self._sums = loaded_sums(state["sums"], trainer.strategy.root_device)
        warn_if_partial(
            state["partial"] and trainer.world_size > 1,
            "visits that other ranks made since the last merge are missing from the zig-zag scores",
        )

    # -- parts ------------------------------------------------------------------------------------------

    @property
    def _target(self) -> Path:
        assert self.folder is not None
        return self.folder / self.name / ZIGZAG_FILE

    def _against(self, folder: Path) -> str:
        """Why the scores must not be written into a folder, or ""."""
        target = folder / self.name / ZIGZAG_FILE
        if zigzag_run(target) in (None, self._run_id):
            return ""
        return (
            f"{target} holds the scores of another run. Choose another dirpath=, resume that run, or pass "
            "overwrite=True to replace it."
        )

    def _finish(self, trainer: pl.Trainer) -> None:
        self.flush()
        if not self.fitting or self._sums is None:
            return
        assert self.attachment is not None
        self.attachment.check()
        self._sums.sync()
        if not trainer.is_global_zero:
            return
        self._check_place()
        if self._facts is None:
            dataset = training_data(trainer, self.source)
            self._facts = (
                true_distributions(dataset),
                None if dataset is None else lasting_ids(dataset, self.source.sample_id_from),
            )
        true_probs, names = self._facts
        target = self._sums.target.cpu()
        difficulty = None if true_probs is None else difficulty_of(true_probs, target)
        columns = {
            "index": torch.arange(self._sums.num_samples).numpy(),
            "sample_id": names,
            "target": target.numpy(),
            "other": self._sums.other().cpu().numpy(),
            "visits": self._sums.visits.cpu().numpy(),
            "zigzag": self._sums.zigzag().double().cpu().numpy(),
            "base_difficulty": None if difficulty is None else difficulty.numpy(),
        }
        assert self._run_id is not None
        self._needed = (write_zigzag(self._target.parent, columns, run_id=self._run_id),)
