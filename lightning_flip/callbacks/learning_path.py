"""What a network predicts on chosen training samples, over time."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import lightning.pytorch as pl
import torch

from lightning_flip.callbacks._evaluation import Evaluation, Probe, passes_of, training_data
from lightning_flip.callbacks.paths._budget import PathBudget, check_times
from lightning_flip.callbacks.paths._choice import PathChoice, check_samples
from lightning_flip.callbacks.paths._recording import PathRecording
from lightning_flip.callbacks.run_folder import RunWriter
from lightning_flip.callbacks.watcher import StatefulWatcher
from lightning_flip.steps import SampleStep
from lightning_flip.stores.claims import Claim, claim

__all__ = ["LearningPath"]


class LearningPath(RunWriter, StatefulWatcher):
    """Records the distributions q_t that a network predicts on some training samples (Filter-KD, Section 3.2).

    - ``passes="train"``: what the training forward predicted whenever a chosen sample was in the batch, before that
      update: once an epoch with a usual sampler. Nothing else is run. Inputs are as training saw them.
    - ``passes="eval"``: an evaluation of the chosen samples before training, and then every so many updates or epochs,
      in eval mode; training is bit for bit the same with and without. The samples are collated once, with the loader's
      own collate function; random transforms draw once and from a fixed seed, so that a path shows the network and not
      the augmentation. On several ranks, rank 0 evaluates its own replica.

    With ``k`` the samples are the k of the highest zig-zag score so far, chosen anew at the end of each epoch and
    recorded from then on (those that fall out of the k highest no longer), or the k of the highest base difficulty,
    known from the start. Sums for the zig-zag take N x K numbers.

    Under ``dirpath/paths/`` every epoch leaves one Parquet file per rank, whole or not at all;
    :func:`lightning_flip.stores.read_paths` reads them. Their size is logged, or refused, before the first update.

    Args:
        samples: positions of the samples in the dataset given to the DataLoader.
        k: instead of ``samples``: how many to choose.
        select: "zigzag" or "difficulty"; the latter needs ``true_distribution(index)`` of the dataset.
        every_n_steps: "eval" only: a pass after so many updates.
        every_n_epochs: a pass at every n-th epoch's end, or visits of every n-th epoch; None: 1, or with
            ``every_n_steps`` none.
        passes: "train" or "eval".
        mode: the name of ``passes`` in 0.1, with "visits" for "train"; deprecated.
        max_bytes: refuse to write more; if the length of training is not known, recording stops there.
        name: tells two recordings of one Trainer apart, in a checkpoint and as a folder under ``paths/``.
        num_samples: number of samples, needed with ``k`` and ``index_from`` only.
        **options: of the folder (:class:`~lightning_flip.callbacks.run_folder.RunWriter`) and of the steps
            (:class:`~lightning_flip.callbacks.watcher.StepWatcher`).

    Raises:
        ValueError: if an option is out of range, or more than ``max_bytes`` would be written.
        TypeError: if ``passes="eval"`` and samples cannot be loaded by position, or the strategy shards the model.

    Example:
        >>> LearningPath(k=9, passes="eval", every_n_steps=100).state_key
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
        passes: Literal["train", "eval"] = "train",
        max_bytes: int = 1_000_000_000,
        name: str = "",
        num_samples: int | None = None,
        mode: Literal["visits", "eval"] | None = None,
        **options: Any,
    ) -> None:
        super().__init__(train=True, val=False, name=name, **options)
        self._given = check_samples(samples, k, select)
        self.passes = passes_of(passes, mode)
        check_times(self.passes, every_n_steps, every_n_epochs)
        if self.passes == "eval" and (callable(self.source.logits_from) or self.source.index_from is not None):
            raise ValueError(
                'passes="eval" runs the model on samples that it loads by position: logits_from must name a '
                'submodule, and index_from does not go with it. Use passes="train".'
            )
        self.k = k
        self.select = select
        self.every_n_steps = every_n_steps
        self.every_n_epochs = 1 if every_n_steps is None and every_n_epochs is None else every_n_epochs
        self.max_bytes = max_bytes
        self.num_samples = num_samples
        self._forget()

    def _forget(self) -> None:
        super()._forget()
        self._recording = PathRecording("eval" if self.passes == "eval" else "visits")
        self._choice = PathChoice(self._given, self.k, self.select, self.num_samples)
        every = {"every_n_steps": self.every_n_steps, "every_n_epochs": self.every_n_epochs}
        self._budget = PathBudget(self.max_bytes, evaluated=self.passes == "eval", **every)
        self._probe: Probe | None = None
        self._evaluated = -1  # updates that had been taken before the last pass
        self._last_step = -1

    @property
    def folder(self) -> Path | None:
        """Where the files are, while a fit runs and after it."""
        return None if self._place is None else self._place.path / self._part

    @property
    def _part(self) -> Path:
        return Path("paths") / self.name

    @property
    def samples(self) -> list[int]:
        """The samples that are recorded now."""
        return list(self._choice.chosen)

    # -- the run --------------------------------------------------------------------------------------

    def begin(self, trainer: pl.Trainer) -> None:
        """A fit from the first epoch is a new run; one that continues with this Trainer is the same."""
        self._probe, self._budget.classes = None, 0
        super().begin(trainer)

    def open(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Claim the run's folder, and within it that of the paths."""
        info = {
            "module": type(pl_module).__qualname__,
            "mode": self._recording.mode,
            "k": self.k,
            "select": self.select,
        }
        info |= {"every_n_steps": self.every_n_steps, "every_n_epochs": self.every_n_epochs}
        part, before = self._part, self._run_id

        def open_part(run: Claim, replace: bool) -> str:
            mine = claim(run.folder / part, before, overwrite=replace, info=info, new_id=run.run_id)
            self._recording.resume(run.folder / part, known=before is not None)
            return mine.run_id

        place = self._claim(trainer, part.as_posix(), work=open_part)
        self._run_id = place.answer
        folder = place.path / part
        self._recording.open(place.with_claim(folder, place.answer), folder)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Check the samples, and evaluate them before the first update."""
        super().on_train_start(trainer, pl_module)
        if not self.fitting:
            return
        self._last_step = trainer.global_step
        self._choice.start(training_data(trainer, self.source))
        if self.passes == "eval":
            self._evaluation(trainer).loader(one_rank=True)  # an error on every rank, not on the first one alone
            if trainer.global_step == 0 and self._evaluated < 0:
                self._recording.epoch = trainer.current_epoch
                probs = self._evaluate(trainer)
                classes = trainer.strategy.broadcast(0 if probs is None else probs.shape[1])
                if classes:
                    self._budget.announce(trainer, self._choice.size, classes, self.folder)
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
        visits = self.passes == "train" and self._budget.due(self._recording.epoch)
        return self._choice.counting or visits

    def on_before_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule, loss: torch.Tensor) -> None:
        """Log what will be recorded before the first update; a manual backward may come before the step's forward."""
        if not self._budget.classes and self.fitting and pl_module.automatic_optimization:
            self._announce(trainer)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Evaluate the chosen samples, if that is due after this update."""
        if self._attachment is None:
            return
        if not self._budget.classes:
            self._announce(trainer)  # no backward came: manual optimization that skips one
        every, before = self.every_n_steps, self._last_step
        self._last_step = trainer.global_step
        if every is not None and trainer.global_step // every > before // every:
            self._keep(trainer, self._evaluate(trainer))

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
        if self.passes != "train" or not self._budget.due(step.epoch):
            return
        assert step.samples is not None
        rows = self._choice.rows_in(step.samples)
        kept = rows[: self._room()]
        if len(kept) < len(rows):
            self._tell_full()
        if kept:
            self._recording.rows.add_visits(step, kept)

    def skip(self, split: str) -> None:
        """Warn once that mixed samples cannot be attributed to a single sample."""
        self._tell(
            "LearningPath: targets are float [B, K] (MixUp, CutMix or distributions); predictions on mixed inputs "
            'belong to no one sample, so these steps are not recorded. passes="eval" with samples= evaluates each.'
        )

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write the epoch's rows and choose the samples of the next one."""
        self.flush()
        if self.fitting:
            self._end_epoch(trainer, pl_module)

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write the rows of an ended epoch after which no step came: as when a finished run is resumed."""
        self.flush()
        if self.fitting:
            self._end_epoch(trainer, pl_module)

    def rescue(self, trainer: pl.Trainer) -> None:
        """Write what there is, to look into the crash; a resumed run sets these parts aside."""
        if self.fitting:
            try:
                if self._opened:
                    self._recording.write(trainer)
            finally:
                super().rescue(trainer)

    # -- checkpoints ------------------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """Which epochs are finished, the rows of the running one, and the sums that samples are chosen by."""
        trainer = self.trainer
        device = trainer.strategy.root_device if trainer is not None and self.may_communicate() else None
        return {
            "recording": {**self._place_state(), **self._recording.state_dict(device)},
            "choice": self._choice.state_dict(merge=device is not None),
            "asked": self._evaluated,
        }

    def load_state(self, trainer: pl.Trainer, state: dict[str, Any]) -> None:
        """Continue the run of a checkpoint."""
        self._forget()
        self._recall(trainer, state["recording"])
        self._recording.load_state_dict(trainer, state["recording"])
        self._choice.load_state_dict(state["choice"], trainer.strategy.root_device)
        self._evaluated = state["asked"]

    # -- parts ------------------------------------------------------------------------------------------

    def _announce(self, trainer: pl.Trainer) -> None:
        assert self.attachment is not None
        step = self.attachment.sample_step(self.source)
        if step is not None:
            self._choice.prepare(step)
            self._budget.announce(trainer, self._choice.size, step.num_classes, self.folder)

    def _tell_full(self) -> None:
        self._tell(f"LearningPath has written max_bytes={self.max_bytes} and records no more; paths end here.")

    def _room(self) -> int:
        """How many more rows may be recorded; the limit of a run whose length was not known before."""
        return self._budget.room(self._recording.written + len(self._recording.rows))

    def _evaluation(self, trainer: pl.Trainer) -> Evaluation:
        assert self.attachment is not None
        return Evaluation(trainer, self.attachment, self.source, 'Use passes="train".')

    def _evaluate(self, trainer: pl.Trainer) -> torch.Tensor | None:
        """Probabilities ``[n, K]`` of the chosen samples on rank 0, which alone keeps them, once per update."""
        if not self._choice.chosen or not trainer.is_global_zero or self._evaluated == trainer.global_step:
            return None
        evaluation = self._evaluation(trainer)
        if self._probe is None:
            self._probe = Probe(evaluation, self._choice.chosen)
        return self._probe.probabilities(evaluation)

    def _keep(self, trainer: pl.Trainer, probs: torch.Tensor | None) -> None:
        if probs is None:
            return
        if len(probs) > self._room():
            self._tell_full()
            return
        assert self._probe is not None
        self._evaluated = trainer.global_step
        index, target = self._probe.index, self._probe.target
        times = torch.full_like(index, trainer.global_step)
        self._recording.rows.add(index=index, global_step=times, target=target, probs=probs)

    def _end_epoch(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self._recording.epoch < 0:
            return
        assert self.attachment is not None
        self.attachment.check()
        if self.passes == "eval" and self._budget.due(self._recording.epoch):
            self._keep(trainer, self._evaluate(trainer))
        choice = self.attachment.choice(self.source)
        if self.passes == "eval":
            self._recording.rows.unlabel(self.source.ignore_index if choice is None else choice.ignored)
        self._recording.finish(trainer)
        if self._choice.end_epoch():
            self._probe = None
        self._recording.epoch = -1
