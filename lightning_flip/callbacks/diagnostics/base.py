"""The base of the callbacks that look at all samples of a pass, and leave a table and a figure."""

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

from lightning_flip.callbacks._clean_pass import clean_steps
from lightning_flip.callbacks.diagnostics.finding import DiagnosticFiles, Finding
from lightning_flip.callbacks.log_keys import LoggingWatcher
from lightning_flip.callbacks.predictions._files import on_first_rank
from lightning_flip.callbacks.predictions._rows import PredictionRows
from lightning_flip.callbacks.run_folder import (
    RunFolder,
    begin_run,
    folder_of_run,
    give_up,
    open_folder,
    recall_run,
)
from lightning_flip.reports.figures.canvas import new_figure
from lightning_flip.steps import SampleStep, StepSource
from lightning_flip.steps.options import check_whole

__all__ = ["Arrays", "Diagnostic", "Key"]

Arrays = Mapping[str, npt.NDArray[Any]]
Key = tuple[str, int]  # split and loader
TRAIN = ("train", 0)
_PLACES = "lightning_flip_diagnostics"


class Diagnostic(LoggingWatcher):
    """Keeps some columns of every sample of a pass, and describes them when the pass is over.

    A subclass says which columns (:meth:`columns`) and what they amount to (:meth:`describe`). What is found goes into
    ``dirpath/diagnostics/TITLE.csv``, one table for all epochs, and as a figure to the Trainer's loggers (TensorBoard,
    Weights & Biases, MLflow), or beside the table as PNG files where none of these is there. Numbers are logged.

    Rows of all ranks are brought together; of a sample that was visited twice in a pass the last visit counts, and of
    several validation passes in an epoch the last one stays in the table. A fit that is resumed inside an epoch
    describes what it saw of that epoch, and continues the table. A validation by itself writes ``validate_TITLE.csv``,
    ``fast_dev_run`` nothing. After ``ddp_spawn`` the main process has the files, and no ``found``.

    Args:
        train: look at the training data.
        val: look at validation passes, and test passes.
        mode: of the training data: "visits", what the training forward said before each update, at no further cost; or
            "eval", a pass over the training data in eval mode when it is due, which training does not notice.
        every_n_epochs: how often; None: once, after the last epoch.
        figures: whether to draw.
        dirpath: the run's folder, which no other run may hold; None: the one that the callbacks of the Trainer share,
            see :class:`PredictionHistory`, and on resumption the folder of before. A validation or test that no fit
            went before writes into the ``log_dir``, without a logger into the ``default_root_dir``.
        overwrite: in a fit, remove all that another run has recorded in ``dirpath``; replace tables that are there.
        name: tells two of one Trainer apart: it ends the names of files; None: the ``prefix``.
        **options: ``prefix=`` of numbers and figures that are logged and ``prog_bar=`` (``docs/logged.md``); where the
            parts of a step are, and whether labels and data may change, see
            :class:`~lightning_flip.callbacks.watcher.StepWatcher`.

    Attributes:
        found: what the latest pass amounted to, an object of ``lightning_flip.reports`` for its plots; on the first
            rank, and None before.

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
    #: Whether a fit draws its last pass alone, where a figure of each would be too many.
    draws_last: ClassVar[bool] = False

    def __init__(
        self,
        *,
        train: bool = False,
        val: bool = False,
        mode: Literal["visits", "eval"] = "visits",
        every_n_epochs: int | None = None,
        figures: bool = True,
        dirpath: str | Path | None = None,
        overwrite: bool = False,
        name: str | None = None,
        **options: Any,
    ) -> None:
        super().__init__(train=train, val=val, name=name, **options)
        check_whole(**({} if every_n_epochs is None else {"every_n_epochs": every_n_epochs}))
        if every_n_epochs is not None and every_n_epochs < 1:
            raise ValueError(f"every_n_epochs must be at least 1, or None for the last epoch; got {every_n_epochs}.")
        if mode not in ("visits", "eval"):
            raise ValueError(f'mode must be "visits" or "eval"; got {mode!r}.')
        if mode == "eval" and (callable(self.source.logits_from) or self.source.index_from is not None):
            raise ValueError(
                'mode="eval" asks the model about samples by position: logits_from must name a submodule, and '
                'index_from does not go with it. Use mode="visits".'
            )
        self.mode = mode
        self.every_n_epochs = every_n_epochs
        self.figures = figures
        self.dirpath = dirpath
        self.overwrite = overwrite
        self.found: Any = None
        self._rows: dict[Key, PredictionRows] = {}
        self._epoch: dict[Key, int] = {}
        self._files: DiagnosticFiles | None = None
        self._folder: Path | None = None
        self._place: RunFolder | None = None
        self._run_id: str | None = None
        self._figure: tuple[Key, str, int, Callable[[], Any]] | None = None
        self._said: set[str] = set()

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_figure": None}

    # -- what a diagnostic defines ------------------------------------------------------------------------

    @abstractmethod
    def columns(self, step: SampleStep) -> Mapping[str, Tensor]:
        """What to keep of a step; nothing is read back from the device.

        Args:
            step: rows of several steps, detached, in at least float32, without padding.

        Returns:
            One tensor ``[B, ...]`` a column.
        """

    @abstractmethod
    def describe(self, trainer: pl.Trainer, split: str, rows: Arrays) -> Finding | None:
        """What a pass amounts to; on the first rank alone.

        Args:
            trainer: the running Trainer.
            split: "train", "val" or "test".
            rows: the columns of all samples and ``index``, sorted by it.

        Returns:
            Table, figure, numbers; None where there is nothing to say.
        """

    def samples(self) -> Sequence[int] | None:
        """Which training samples the clean pass of ``mode="eval"`` asks about.

        Returns:
            Their positions; None for all.
        """
        return None

    def concluded(self, key: Key, scalars: Mapping[str, float]) -> None:
        """Hear on every rank what was found.

        Args:
            key: split and loader.
            scalars: as :meth:`describe` gave them, without a prefix.
        """

    def _keys(self, pl_module: pl.LightningModule, stage: str) -> list[str]:
        """The keys of numbers, and of figures if they are drawn."""
        return self._keys_of((*self.logs, *([self.title] if self.figures else ())), pl_module, stage)

    # -- hooks --------------------------------------------------------------------------------------------

    def attends(self, stage: str) -> bool:
        """Validations and tests as well as fits, for those that look at held-out data."""
        return stage == TrainerFn.FITTING or (self.val and stage in (TrainerFn.VALIDATING, TrainerFn.TESTING))

    def begin(self, trainer: pl.Trainer) -> None:
        """Forget an earlier pass, and in a fit that starts anew an earlier run."""
        self._rows, self._epoch, self._place = {}, {}, None
        if trainer.state.fn == TrainerFn.FITTING:
            begin_run(trainer)
            if _is_fresh(trainer):
                self._folder = self._run_id = None

    def open(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Claim the folder."""
        self._look_around(trainer)
        if getattr(trainer, "fast_dev_run", False):
            return
        self._place = open_folder(
            trainer,
            self,
            f"diagnostics/{self._full_title}.csv",
            dirpath=self.dirpath,
            kept=self._folder,
            run_id=self._run_id,
            overwrite=self.overwrite,
            info={"module": type(pl_module).__qualname__},
            refuse=functools.partial(self._against, self._splits() if _is_fresh(trainer) else []),
        )
        self._folder, self._run_id = self._place.path, self._run_id or self._place.run_id

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Refuse to replace another run's tables, before the work begins; overrides call this one."""
        super().on_train_start(trainer, pl_module)
        if not self.fitting:
            return
        self._open(trainer, self._splits() if _is_fresh(trainer) else [])
        if self.mode == "eval":  # a batch that the clean pass cannot ask about is better known now than after training
            for _ in self._asked(trainer, pl_module, range(trainer.world_size)):
                pass

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Refuse to replace another run's table, where the validation is not part of a fit."""
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
        """Training steps only where the visits count, and not a clean pass."""
        return split != "train" or self.mode == "visits"

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

    def on_test_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keep a test step's columns."""
        if self.val and self.attachment is not None:
            self.attachment.take(self.source, "test", dataloader_idx)

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

    def rescue(self, trainer: pl.Trainer) -> None:
        """Give up a folder that holds nothing."""
        give_up(trainer, self)

    # -- checkpoints --------------------------------------------------------------------------------------

    # No state_dict: of two callbacks that have one, Lightning would refuse the second without saying what to do.

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Keep where the run's tables are."""
        if self._folder is not None:
            place = {"run_id": self._run_id or "", "folder": str(self._folder.absolute())}
            checkpoint.setdefault(_PLACES, {})[self.state_key] = place

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Go back to the folder of a resumed run; overrides call this one."""
        place = checkpoint.get(_PLACES, {}).get(self.state_key)
        if place is not None and self.fitting:
            self._run_id = place["run_id"] or None
            self._folder = recall_run(trainer, place["run_id"], place["folder"], default=self.dirpath is None)

    # -- parts --------------------------------------------------------------------------------------------

    @property
    def _full_title(self) -> str:
        return f"{self.title}_{self.name}" if self.name else self.title

    def _splits(self) -> list[str]:
        return [split for split, wanted in (("train", self.train), ("val", self.val)) if wanted]

    def _against(self, splits: list[str], folder: Path) -> str:
        """What speaks against beginning tables in a folder."""
        files = DiagnosticFiles(folder / "diagnostics", self.title, self.name)
        if self._files is not None and self._files.folder == files.folder:
            files = self._files
        return files.against(splits)

    def _look_around(self, trainer: pl.Trainer) -> None:
        """Refuse what would only fail when something is found."""
        if self.figures:
            new_figure(1, 1)  # says how to get matplotlib, where it is missing
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
        # Every rank has to ask: the answer is broadcast.
        default = trainer.log_dir or trainer.default_root_dir
        base = self._place.path if self._place is not None else self.dirpath or folder_of_run(trainer) or default
        folder = Path(base) / "diagnostics"
        if getattr(trainer, "fast_dev_run", False):
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
                f"{type(self).__name__}: {width} bytes a {key[0]} sample, {step.num_samples * width / 1e6:.1f} MB for "
                "all on the first rank, on the host but for the newest."
            )
        self._rows.setdefault(key, PredictionRows()).add(columns)

    def _asked(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, samples: Sequence[int] | None
    ) -> Iterable[SampleStep]:
        assert self.attachment is not None
        return clean_steps(trainer, pl_module, self.attachment, self.clean_source, samples=samples)

    @property
    def clean_source(self) -> StepSource:
        """Where the clean pass takes its steps from."""
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
        if key[0] == "train" and self.mode == "eval":
            for step in self._asked(trainer, pl_module, self.samples()):
                self._keep(key, step)
        rows = self._rows.pop(key, PredictionRows()).gathered(trainer.strategy.root_device)
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


def _is_fresh(trainer: pl.Trainer) -> bool:
    return trainer.current_epoch == 0 and trainer.global_step == 0
