"""What a network predicts on chosen training samples, over time."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import lightning.pytorch as pl
import torch

from lightning_flip.callbacks._soft_target_files import training_data
from lightning_flip.callbacks.paths._choice import PathChoice, check_samples
from lightning_flip.callbacks.paths._limit import PathLimit, check_times
from lightning_flip.callbacks.paths._passes import PathPasses
from lightning_flip.callbacks.paths._probe import probed_loader
from lightning_flip.callbacks.paths._recording import PathRecording
from lightning_flip.callbacks.run_folder import begin_run
from lightning_flip.callbacks.watcher import StatefulWatcher
from lightning_flip.steps import SampleStep

__all__ = ["LearningPath"]


class LearningPath(StatefulWatcher):
    """Records the distributions q_t that a network predicts on some training samples (Filter-KD, Section 3.2).

    - ``mode="visits"``: what the training forward predicted whenever a chosen sample was in the batch, before that
      update: once an epoch with a usual sampler. Nothing else is run. Inputs are as training saw them.
    - ``mode="eval"``: a clean pass over the chosen samples before training, and then every so many updates or epochs:
      eval mode, no gradient, random states and BatchNorm untouched, so that training is bit for bit the same with and
      without. The samples are collated once, with the loader's own collate function; random transforms draw once and
      from a fixed seed, so that a path shows the network and not the augmentation. On several ranks rank 0 asks its own
      replica.

    With ``k`` the samples are the k of the highest zig-zag score so far, chosen anew at the end of each epoch and
    recorded from then on (those that fall out of the k highest no longer), or the k of the highest base difficulty,
    known from the start. Sums for the zig-zag take N x K numbers.

    Under ``dirpath/paths/`` every epoch leaves one Parquet file a rank, whole or not at all;
    :func:`lightning_flip.stores.read_paths` reads them. Their size is said, and refused if too large, before the first
    update. A resumed run goes on in the same folder; what is newer than the checkpoint is set aside as ``*.orphan``.
    Nothing is written in ``fast_dev_run``.

    Args:
        samples: positions of the samples in the dataset given to the DataLoader.
        k: instead of ``samples``: how many to choose.
        select: "zigzag" or "difficulty"; the latter needs ``true_distribution(index)`` of the dataset.
        every_n_steps: "eval" only: a pass after so many updates.
        every_n_epochs: a pass at every n-th epoch's end, or visits of every n-th epoch; None: 1, or with
            ``every_n_steps`` none.
        mode: "visits" or "eval".
        dirpath: the run's folder, which no other run may hold; None: one that the callbacks of the Trainer share, the
            ``log_dir`` or ``version_1``, ... in it where that holds another run (without a logger the next
            ``prediction_history/version_N`` in the ``default_root_dir``), and on resumption the folder of before.
        overwrite: remove all that another run has recorded in ``dirpath`` instead of refusing.
        max_bytes: refuse to write more; where the length of training is not known, recording stops there.
        name: tells two recordings of one Trainer apart, in a checkpoint and as a folder under ``paths/``.
        num_samples: number of samples, needed with ``k`` and ``index_from`` only.
        **options: where the parts of a step are, and whether labels and data may change; see
            :class:`~lightning_flip.callbacks.watcher.StepWatcher`.

    Raises:
        ValueError: if an option is out of range, or more than ``max_bytes`` would be written.
        TypeError: if ``mode="eval"`` and the data cannot be asked for by position, or the strategy shards the model.
        FileExistsError: when a fit begins and the folder holds another run's paths.

    Example:
        >>> LearningPath(k=9, mode="eval", every_n_steps=100).state_key
        "LearningPath{'train': True, 'val': False, 'name': ''}"
    """

    def __init__(
        self,
        samples: Sequence[int] | None = None,
        *,
        k: int | None = None,
        select: Literal["zigzag", "difficulty"] = "zigzag",
        every_n_steps: int | None = None,
        every_n_epochs: int | None = None,
        mode: Literal["visits", "eval"] = "visits",
        dirpath: str | Path | None = None,
        overwrite: bool = False,
        max_bytes: int = 1_000_000_000,
        name: str = "",
        num_samples: int | None = None,
        **options: Any,
    ) -> None:
        super().__init__(train=True, val=False, name=name, **options)
        self._given = check_samples(samples, k, select)
        check_times(mode, every_n_steps, every_n_epochs)
        if mode == "eval" and (callable(self.source.logits_from) or self.source.index_from is not None):
            raise ValueError(
                'mode="eval" runs the model on samples that it asks for by position: logits_from must name a '
                'submodule, and index_from does not go with it. Use mode="visits".'
            )
        self.k = k
        self.select = select
        self.every_n_steps = every_n_steps
        self.every_n_epochs = 1 if every_n_steps is None and every_n_epochs is None else every_n_epochs
        self.mode = mode
        self.dirpath = dirpath
        self.overwrite = overwrite
        self.max_bytes = max_bytes
        self.num_samples = num_samples
        self._forget()

    def _forget(self) -> None:
        self._recording = PathRecording(self.mode)
        self._choice = PathChoice(self._given, self.k, self.select, self.num_samples)
        self._passes = PathPasses()
        every = {"every_n_steps": self.every_n_steps, "every_n_epochs": self.every_n_epochs}
        self._limit = PathLimit(self.max_bytes, passes=self.mode == "eval", **every)
        self._last_step = -1

    @property
    def folder(self) -> Path | None:
        """Where the files are, while a fit runs and after it."""
        return self._recording.folder

    @property
    def samples(self) -> list[int]:
        """The samples that are recorded now."""
        return list(self._choice.chosen)

    # -- the run --------------------------------------------------------------------------------------

    def active(self, trainer: pl.Trainer) -> bool:
        """Nothing lasting is written in ``fast_dev_run``."""
        return not getattr(trainer, "fast_dev_run", False)

    def begin(self, trainer: pl.Trainer) -> None:
        """A fit from the first epoch is a new run; one that goes on with this Trainer is the same."""
        self._recording.close()
        self._passes.renew()
        self._limit.classes = 0
        begin_run(trainer)
        if trainer.current_epoch == 0 and trainer.global_step == 0:
            self._forget()

    def open(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Open the folder."""
        info = {"module": type(pl_module).__qualname__, "mode": self.mode, "k": self.k, "select": self.select}
        info |= {"every_n_steps": self.every_n_steps, "every_n_epochs": self.every_n_epochs}
        options: dict[str, Any] = {"dirpath": self.dirpath, "overwrite": self.overwrite, "info": info}
        self._recording.open(trainer, self, self.name, **options)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Check the samples, and evaluate them before the first update."""
        super().on_train_start(trainer, pl_module)
        if not self.fitting:
            return
        self._last_step = trainer.global_step
        self._choice.start(training_data(trainer, self.source))
        if self.mode == "eval":
            probed_loader(trainer, self.source)  # what is wrong is wrong on every rank, and not on the asking one alone
            if trainer.global_step == 0 and self._passes.asked < 0:
                self._recording.epoch = trainer.current_epoch
                probs = self._ask(trainer, pl_module)
                classes = trainer.strategy.broadcast(0 if probs is None else probs.shape[1])
                if classes:
                    self._limit.say(trainer, self._choice.size, classes, self.folder)
                self._keep(trainer, probs)

    # -- steps ----------------------------------------------------------------------------------------

    def new_epoch(self, epoch: int) -> None:
        """End an epoch whose end was not seen."""
        trainer = self.trainer
        if trainer is not None and self._recording.epoch != epoch:
            self._end_epoch(trainer, trainer.lightning_module)
            self._recording.epoch = epoch

    def wants(self, split: str) -> bool:
        """Every visit while zig-zag scores are summed up, else those of the epochs that are recorded."""
        visits = self.mode == "visits" and self._limit.due(self._recording.epoch)
        return self._choice.counting or visits

    def on_before_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule, loss: torch.Tensor) -> None:
        """Log what will be recorded before the first update; a manual backward may come before the step's forward."""
        if not self._limit.classes and self.fitting and pl_module.automatic_optimization:
            self._announce(trainer)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Evaluate the chosen samples, if that is due after this update."""
        if self._attachment is None:
            return
        if not self._limit.classes:
            self._announce(trainer)  # no backward came: manual optimization that skips one
        every, before = self.every_n_steps, self._last_step
        self._last_step = trainer.global_step
        if every is not None and trainer.global_step // every > before // every:
            self._keep(trainer, self._ask(trainer, pl_module))

    def restart(self, split: str, loader: int) -> None:
        """Set the paths so far aside as ``*.orphan``, and forget the sums that samples are chosen by."""
        self._choice = PathChoice(self._given, self.k, self.select, self.num_samples)
        if self.trainer is not None:
            self._recording.restart(self.trainer)
            self._choice.start(training_data(self.trainer, self.source))

    def watch(self, trainer: pl.Trainer, split: str, loader: int, step: SampleStep) -> None:
        """Add up what zig-zag scores come from, and keep the chosen rows."""
        if self._choice.counting:
            self._choice.see(step)
        if self.mode != "visits" or not self._limit.due(step.epoch):
            return
        assert step.samples is not None
        rows = self._choice.rows_in(step.samples)
        kept = rows[: self._limit.room(self._recording)]
        if len(kept) < len(rows):
            self._tell_full()
        if kept:
            self._recording.rows.add_visits(step, kept)

    def skip(self, split: str) -> None:
        """Say once that mixed samples are nobody's."""
        self._tell(
            "LearningPath: targets are float [B, K] (MixUp, CutMix or distributions); predictions on mixed inputs "
            'belong to no one sample, so these steps are not recorded. mode="eval" with samples= asks about each.'
        )

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write the epoch's rows and choose the samples of the next one."""
        self.flush()
        if self.fitting:
            self._end_epoch(trainer, pl_module)

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write the rows of an ended epoch after which no step came: resumed where there was nothing left to do."""
        self.flush()
        if self.fitting:
            self._end_epoch(trainer, pl_module)

    def rescue(self, trainer: pl.Trainer) -> None:
        """Write what there is, to look into the crash; a resumed run sets these parts aside."""
        if self.fitting:
            self._recording.abandon(trainer, self)

    # -- checkpoints ------------------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """Which epochs are finished, the rows of the running one, and the sums that samples are chosen by."""
        trainer = self.trainer
        device = trainer.strategy.root_device if trainer is not None and self.may_communicate() else None
        return {
            "recording": self._recording.state_dict(device),
            "choice": self._choice.state_dict(merge=device is not None),
            "asked": self._passes.asked,
        }

    def load_state(self, trainer: pl.Trainer, state: dict[str, Any]) -> None:
        """Continue the run of a checkpoint."""
        self._forget()
        self._recording.load_state_dict(trainer, state["recording"], default=self.dirpath is None)
        self._choice.load_state_dict(state["choice"])
        self._passes.asked = state["asked"]

    # -- parts ------------------------------------------------------------------------------------------

    def _announce(self, trainer: pl.Trainer) -> None:
        assert self.attachment is not None
        step = self.attachment.sample_step(self.source)
        if step is not None:
            self._choice.prepare(step)
            self._limit.say(trainer, self._choice.size, step.num_classes, self.folder)

    def _tell_full(self) -> None:
        self._tell(f"LearningPath has written max_bytes={self.max_bytes} and records no more; paths end here.")

    def _ask(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> torch.Tensor | None:
        assert self.attachment is not None
        return self._passes.ask(trainer, pl_module, self.attachment, self.source, self._choice.chosen)

    def _keep(self, trainer: pl.Trainer, probs: torch.Tensor | None) -> None:
        if probs is None:
            return
        if len(probs) > self._limit.room(self._recording):
            self._tell_full()
        else:
            self._passes.keep(probs, self._recording.rows, global_step=trainer.global_step)

    def _end_epoch(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self._recording.epoch < 0:
            return
        assert self.attachment is not None
        self.attachment.check()
        if self.mode == "eval" and self._limit.due(self._recording.epoch):
            self._keep(trainer, self._ask(trainer, pl_module))
        choice = self.attachment.choice(self.source)
        if self.mode == "eval":
            self._recording.rows.unlabel(self.source.ignore_index if choice is None else choice.ignored)
        self._recording.finish(trainer)
        if self._choice.end_epoch(trainer.strategy.root_device):
            self._passes.renew()
        self._recording.epoch = -1
