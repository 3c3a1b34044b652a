"""The base of the callbacks that summarize all samples of a pass in a table and a figure."""

from __future__ import annotations

import functools
from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import lightning.pytorch as pl
import numpy.typing as npt
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor

from lightning_flip.callbacks._evaluation import Evaluation, passes_of
from lightning_flip.callbacks.diagnostics.finding import DiagnosticFiles, Finding
from lightning_flip.callbacks.log_keys import LoggingWatcher
from lightning_flip.callbacks.predictions._rows import PredictionRows
from lightning_flip.callbacks.ranks import on_first_rank
from lightning_flip.callbacks.run_folder import RunWriter, folder_of_run, writes_files
from lightning_flip.callbacks.watcher import is_fresh
from lightning_flip.reports.figures.canvas import new_figure
from lightning_flip.steps import SampleStep, StepSource
from lightning_flip.steps.options import check_whole

__all__ = ["Arrays", "Diagnostic", "Key"]

Arrays = Mapping[str, npt.NDArray[Any]]
Key = tuple[str, int]  # split and loader
TRAIN = ("train", 0)
_PLACES = "lightning_flip_diagnostics"


class Diagnostic(LoggingWatcher, RunWriter):
    """Keeps some columns of every sample of a pass, and describes them when the pass is over.

    A subclass says which columns (:meth:`columns`) and makes a :class:`Finding` of them (:meth:`describe`): one table
    for all epochs, ``dirpath/diagnostics/TITLE.csv``, a figure for the Trainer's loggers (TensorBoard, Weights &
    Biases, MLflow), or for a PNG file beside the table if there is none of these, and numbers to log.

    Rows of all ranks are brought together; of a sample that was visited twice in a pass the last visit counts, and of
    several validation passes in an epoch the last one stays in the table. A fit that is resumed inside an epoch
    describes what it saw of that epoch, and continues the table. A validation by itself writes ``validate_TITLE.csv``,
    ``fast_dev_run`` nothing. After ``ddp_spawn`` the main process has the files, and no ``found``.

    Args:
        train: look at the training data.
        val: look at validation passes, and test passes.
        passes: over the training data: "train", what the training forward predicted before each update, at no cost; or
            "eval", a pass over the training data in eval mode when it is due, which training does not notice.
        every_n_epochs: how often; None: once, after the last epoch.
        figures: whether to draw.
        name: tells two of one Trainer apart: it ends the names of files; None: the ``prefix``.
        mode: the name of ``passes`` in 0.1, with "visits" for "train"; deprecated.
        **options: see :class:`~lightning_flip.callbacks.log_keys.LoggingWatcher` (what is logged),
            :class:`~lightning_flip.callbacks.run_folder.RunWriter` (the folder; a validation or test without a fit
            before it writes into the ``log_dir``) and :class:`~lightning_flip.callbacks.watcher.StepWatcher`.

    Attributes:
        found: of the latest pass, an object of ``lightning_flip.reports`` for its plots; on the first rank, else None.

    Raises:
        ValueError: if an option is out of range; in a fit, validation or test, if the module or another callback logs
            one of the keys.
        FileExistsError: when a fit begins at its first epoch, or a validation or test, and a table is there.

    Example:
        How large logits grow:

        >>> class LargestLogit(Diagnostic):
        ...     title = "largest_logit"
        ...     logs = ("largest_logit",)
        ...
        ...     def __init__(self, **options):
        ...         super().__init__(val=True, **options)
        ...
        ...     def columns(self, step):
        ...         return {"largest": step.logits.amax(dim=1)}
        ...
        ...     def describe(self, trainer, split, rows):
        ...         most = float(rows["largest"].max())
        ...         return Finding({"largest": [most]}, most, scalars={"largest_logit": most})
        >>> LargestLogit(every_n_epochs=1).state_key
        "LargestLogit{'train': False, 'val': True, 'name': ''}"
    """

    #: Name of tables and figures, after the split.
    title: ClassVar[str]
    #: Whether a fit draws only its last pass.
    draws_last: ClassVar[bool] = False
    #: What to do if the training data cannot be evaluated.
    advice: ClassVar[str] = 'Use passes="train".'

    def __init__(
        self,
        *,
        train: bool = False,
        val: bool = False,
        passes: Literal["train", "eval"] = "train",
        every_n_epochs: int | None = None,
        figures: bool = True,
        name: str | None = None,
        mode: Literal["visits", "eval"] | None = None,
        **options: Any,
    ) -> None:
        super().__init__(train=train, val=val, name=name, **options)
        check_whole(**({} if every_n_epochs is None else {"every_n_epochs": every_n_epochs}))
        if every_n_epochs is not None and every_n_epochs < 1:
            raise ValueError(f"every_n_epochs must be at least 1, or None for the last epoch; got {every_n_epochs}.")
        self.passes = passes_of(passes, mode)
        if self.passes == "eval" and (callable(self.source.logits_from) or self.source.index_from is not None):
            raise ValueError(
                'passes="eval" evaluates the model on samples by position: logits_from must name a submodule, and '
                'index_from does not go with it. Use passes="train".'
            )
        self.every_n_epochs = every_n_epochs
        self.figures = figures
        self.found: Any = None
        self._rows: dict[Key, PredictionRows] = {}
        self._epoch: dict[Key, int] = {}
        self._files: DiagnosticFiles | None = None
        self._figure: tuple[Key, str, int, Callable[[], Any]] | None = None
        self._said: set[str] = set()

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_figure": None}

    # -- what a diagnostic defines ------------------------------------------------------------------------

    @abstractmethod
    def columns(self, step: SampleStep) -> Mapping[str, Tensor]:
        """What to keep of the rows of several steps: one tensor ``[B, ...]`` per column.

        Nothing may be read back from the device. Logits are detached, in at least float32, without padding.
        """

    @abstractmethod
    def describe(self, trainer: pl.Trainer, split: str, rows: Arrays) -> Finding | None:
        """Summarize a pass (first rank only).

        Args:
            trainer: the running Trainer.
            split: "train", "val" or "test".
            rows: the columns of all samples and ``index``, sorted by it.

        Returns:
            Table, figure, numbers; None for a pass that is left out.
        """

    def samples(self) -> Sequence[int] | None:
        """Positions of the training samples that ``passes="eval"`` evaluates; None for all."""
        return None

    def concluded(self, key: Key, scalars: Mapping[str, float]) -> None:
        """Called on every rank with what :meth:`describe` gave to log, without a prefix."""

    def _keys(self, pl_module: pl.LightningModule, stage: str) -> list[str]:
        """The keys of numbers, and of figures if they are drawn."""
        return self._keys_of((*self.logs, *([self.title] if self.figures else ())), pl_module, stage)

    # -- hooks --------------------------------------------------------------------------------------------

    def attends(self, stage: str) -> bool:
        """Validations and tests as well as fits, for those that look at held-out data."""
        return stage == TrainerFn.FITTING or (self.val and stage in (TrainerFn.VALIDATING, TrainerFn.TESTING))

    def active(self, trainer: pl.Trainer) -> bool:
        """Also in ``fast_dev_run``, where nothing is written."""
        return True

    def begin(self, trainer: pl.Trainer) -> None:
        """Forget an earlier pass, and in a fit that starts anew an earlier run."""
        self._rows, self._epoch, self._place = {}, {}, None
        if trainer.state.fn == TrainerFn.FITTING:
            super().begin(trainer)

    def open(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Claim the folder."""
        self._look_around(trainer)
        if writes_files(trainer):
            self._claim(
                trainer,
                f"diagnostics/{self._full_title}.csv",
                info={"module": type(pl_module).__qualname__},
                refuse=functools.partial(self._against, self._splits() if is_fresh(trainer) else []),
            )

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Refuse to replace another run's tables, before the work begins; overrides call this one."""
        super().on_train_start(trainer, pl_module)
        if not self.fitting:
            return
        self._open(trainer, self._splits() if is_fresh(trainer) else [])
        if self.passes == "eval":  # find out now, and not after training, whether a batch can be evaluated
            for _ in self._evaluated(trainer, range(trainer.world_size)):
                pass

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Refuse to replace another run's table, if the validation is not part of a fit."""
        super().on_validation_start(trainer, pl_module)
        if not self.fitting:
            self._open(trainer, ["validate"])

    def on_test_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Refuse to replace another test's table."""
        self._open(trainer, ["test"])

    def new_epoch(self, epoch: int) -> None:
        """Drop the columns of the epoch before."""
        if self._epoch.get(TRAIN) != epoch:
            self._rows.pop(TRAIN, None)
            self._epoch[TRAIN] = epoch

    def wants(self, split: str) -> bool:
        """Training steps only if they are described, and not an evaluation."""
        return split != "train" or self.passes == "train"

    def restart(self, split: str, loader: int) -> None:
        """Drop the columns of a pass that is not over."""
        self._rows.pop(TRAIN if split == "train" else (split, loader), None)

    def watch(self, trainer: pl.Trainer, split: str, loader: int, step: SampleStep) -> None:
        """Keep columns."""
        self._keep(TRAIN if split == "train" else (split, loader), step)

    def on_validation_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Release the rows of the previous pass."""
        for key in [key for key in self._rows if key[0] == "val"]:
            del self._rows[key]

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Describe the epoch, if it is due."""
        if self.train and self.fitting and self._due(trainer.current_epoch):
            self._conclude(trainer, pl_module, TRAIN, log=True)

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Describe the pass, if it is due."""
        if not self.val or self.attachment is None or trainer.sanity_checking:
            return
        for loader in range(len(trainer.num_val_batches)):  # on every rank, whether or not it has seen a batch of each
            self._epoch["val", loader] = trainer.current_epoch
            if not self.fitting or self._due(trainer.current_epoch):
                self._conclude(trainer, pl_module, ("val", loader), log=True)

    def on_test_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Describe the test."""
        if not self.val or self.attachment is None:
            return
        for loader in range(len(trainer.num_test_batches)):
            self._epoch["test", loader] = trainer.current_epoch
            self._conclude(trainer, pl_module, ("test", loader), log=True)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Describe the last epoch and the last validation pass, unless that was done."""
        if not self.fitting:
            return
        for key in sorted(self._epoch):
            self._conclude(trainer, pl_module, key, log=False)
        on_first_rank(trainer, functools.partial(self._draw, trainer))

    # -- checkpoints --------------------------------------------------------------------------------------

    # No state_dict: of two callbacks that have one, Lightning would refuse the second without saying what to do.

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Keep where the run's tables are."""
        if self._base is not None:
            checkpoint.setdefault(_PLACES, {})[self.state_key] = self._place_state()

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Go back to the folder of a resumed run; overrides call this one."""
        place = checkpoint.get(_PLACES, {}).get(self.state_key)
        if place is not None and self.fitting:
            self._recall(trainer, place)

    # -- parts --------------------------------------------------------------------------------------------

    @property
    def _full_title(self) -> str:
        return f"{self.title}_{self.name}" if self.name else self.title

    def _splits(self) -> list[str]:
        return [split for split, wanted in (("train", self.train), ("val", self.val)) if wanted]

    def _against(self, splits: list[str], folder: Path) -> str:
        """Why tables must not begin in a folder."""
        files = DiagnosticFiles(folder / "diagnostics", self.title, self.name)
        if self._files is not None and self._files.folder == files.folder:
            files = self._files
        return files.against(splits)

    def _look_around(self, trainer: pl.Trainer) -> None:
        """Refuse what would otherwise fail at the end of a pass."""
        if self.figures:
            new_figure(1, 1)  # the error of a missing matplotlib
        others = [other for other in trainer.callbacks if type(other) is type(self) and other is not self]  # type: ignore[attr-defined]
        if any(other.name == self.name for other in others):
            raise ValueError(
                f"two {type(self).__name__} of this Trainer would write the same files. Give one of them a name=, or a "
                "prefix=, which is its name as well."
            )

    def _open(self, trainer: pl.Trainer, splits: list[str]) -> None:
        if self.attachment is None:
            return
        self._look_around(trainer)
        # Every rank has to come here: the log_dir is broadcast.
        default = trainer.log_dir or trainer.default_root_dir
        base = self._place.path if self._place is not None else self.dirpath or folder_of_run(trainer) or default
        folder = Path(base) / "diagnostics"
        if not writes_files(trainer):
            self._files = None
        elif self._files is None or self._files.folder != folder:
            self._files = DiagnosticFiles(folder, self.title, self.name)
        if self._files is not None:
            self._files.place = self._place
        if self._files is not None and splits:
            on_first_rank(trainer, functools.partial(self._files.begin, splits, overwrite=self.overwrite))

    def _keep(self, key: Key, step: SampleStep) -> None:
        columns = {"index": step.index_of_valid, **self.columns(step)}
        if key[0] not in self._said and step.num_samples is not None:
            self._said.add(key[0])
            width = sum(column[:1].numel() * column.element_size() for column in columns.values())
            rank_zero_info(
                f"{type(self).__name__}: {width} bytes per {key[0]} sample, {step.num_samples * width / 1e6:.1f} MB "
                "for all on the first rank, on the host but for the newest."
            )
        self._rows.setdefault(key, PredictionRows()).keep(columns)

    def _evaluated(self, trainer: pl.Trainer, samples: Sequence[int] | None) -> Iterable[SampleStep]:
        assert self.attachment is not None
        return Evaluation(trainer, self.attachment, self.clean_source, self.advice).steps(samples=samples)

    @property
    def clean_source(self) -> StepSource:
        """Where evaluations take their steps from."""
        return self.source

    def _due(self, epoch: int) -> bool:
        return self.every_n_epochs is not None and (epoch + 1) % self.every_n_epochs == 0

    def _conclude(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        key: Key,
        *,
        log: bool,
    ) -> None:
        epoch = self._epoch.pop(key, None)
        if epoch is None:
            return
        assert self.attachment is not None
        self.flush()
        self.attachment.check()
        if key[0] == "train" and self.passes == "eval":
            for step in self._evaluated(trainer, self.samples()):
                self._keep(key, step)
        rows = self._rows.pop(key, PredictionRows()).latest(trainer.strategy.root_device)
        arrays = None if rows is None or not len(rows.columns["index"]) else rows.columns
        scalars = on_first_rank(trainer, functools.partial(self._report, trainer, key, epoch, arrays))
        self.concluded(key, scalars)
        if log:
            self.log_numbers(pl_module, key[0], self._number_of(key), scalars)

    def _number_of(self, key: Key) -> int:
        """The loader's number in keys; tables of training data know one loader."""
        return self._train_loader if key == TRAIN else key[1]

    def _draw(self, trainer: pl.Trainer) -> None:
        if self._figure is not None and self._files is not None:
            key, name, epoch, draw = self._figure
            self._files.draw(trainer, key, epoch, draw(), name=name)
        self._figure = None

    def _report(self, trainer: pl.Trainer, key: Key, epoch: int, rows: Arrays | None) -> dict[str, float]:
        if rows is None:
            return {}
        finding = self.describe(trainer, key[0], rows)
        if finding is None:
            return {}
        self.found = finding.report
        if self._files is not None:
            place = key if self.fitting or key[0] != "val" else ("validate", key[1])
            self._files.add(place, epoch, finding.table)
            if self.figures and finding.draw is not None:
                self._figure = place, self._key(key[0], self._number_of(key), self.title), epoch, finding.draw
                if not (self.draws_last and self.fitting):
                    self._draw(trainer)
        return {name: float(value) for name, value in finding.scalars.items()}
