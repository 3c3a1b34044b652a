"""What a model predicts on every sample of a dataset, in one Parquet file."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import lightning.pytorch as pl
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn

from lightning_flip.callbacks.predictions._columns import labels_of_outputs, slice_columns, step_columns
from lightning_flip.callbacks.predictions._files import (
    RowNote,
    prediction_paths,
    refuse_changed,
    refuse_collections,
    refuse_paths,
    write_rows,
)
from lightning_flip.callbacks.predictions._rows import HALF_COLUMN, PredictionRows
from lightning_flip.callbacks.ranks import on_first_rank
from lightning_flip.callbacks.run_folder import writes_files
from lightning_flip.data.sample_names import IdsFrom
from lightning_flip.steps import Attachment, StepSource, attach
from lightning_flip.steps.identity import LoaderData
from lightning_flip.steps.logits.remembered import restore_from
from lightning_flip.stores.predictions.writing import stage_of

__all__ = ["PredictionWriter"]

_LOOKED_AT = 4
_OWN_COLUMNS = frozenset(
    ("index", "sample_id", "target", "labelled", "pred", "confidence", "prob_label", "top_classes", "top_probs")
) | {HALF_COLUMN}


class PredictionWriter(pl.Callback):
    """Writes a row for every sample in ``trainer.validate``, ``test`` and ``predict``; in ``fit`` it does nothing.

    Columns: ``index`` (position in the dataset given to the DataLoader), ``sample_id`` (text: the dataset's own
    ``sample_id(index)`` if it has one, else the position in the innermost dataset, so that subsets of the same
    data join), ``target`` (null for data to predict without labels), ``pred``, ``confidence`` (the largest softmax
    probability, in [0, 1]), ``prob_label``, and optionally the best classes with their probabilities, all logits, and
    columns of the batch. The file also holds which labels the model knows, its number of parameters, and the length
    of the dataset. :func:`lightning_flip.stores.read_predictions`, pandas, polars and DuckDB read it.

    The file is written when the pass is over, whole or not at all: an exception leaves nothing behind, and
    ``fast_dev_run`` writes nothing. Several ranks write one file, every sample once; of a sample that a sampler
    draws several times the last visit stays. A pass that ``limit_test_batches`` cuts short writes what it saw.

    Args:
        path: the file, ending in ``.parquet``; a pass of another stage adds its name: after ``trainer.test`` has
            written ``new.parquet``, ``trainer.predict`` writes ``new-predict.parquet``. None:
            ``predictions-validate.parquet``, ``predictions-test.parquet`` and ``predictions-predict.parquet`` in the
            Trainer's ``log_dir`` (without a logger its ``default_root_dir``). Further loaders add their number:
            ``predictions-test-1.parquet``.
        top_k: how many of the best classes to keep; 0 keeps none.
        logits: keep all logits, as float16; as float32 if one is too large for that (beyond 65504).
        slices: further columns by name, each a key, attribute, position in the batch, or function of it, with a number
            or a word per sample; reports break rates down by them.
        class_labels: the label that each output stands for, in place of its number; by default the dataset's own
            ``class_labels`` (:class:`~lightning_flip.data.ClassSubset` has them).
        overwrite: replace an existing file instead of refusing it before the pass begins.
        logits_from: where the logits are; None finds them, see :class:`~lightning_flip.steps.StepSource`.
        target_from: where the targets are; for data to predict whose second part is something else, a function that
            returns None.
        index_from: where the batch carries its samples' ids.
        outputs: what ``logits_from`` gives; None: what the loss or the values say.
        labels: "may_change" if targets differ from those that the dataset lists; else a difference, up to one renaming
            of labels, is an error.
        ignore_index: the label of samples that have none, if no loss says it: in ``trainer.predict`` their target is
            null, elsewhere they have no row. None: what the loss leaves out, or training's did.
        sample_id_from: attribute or column of the dataset with a lasting id for each sample, or a function of it.

    Attributes:
        paths: the files of the latest pass, one per loader.

    Raises:
        FileExistsError: when a pass begins and its file is there.
        TypeError: if the targets are distributions (MixUp, CutMix), which have no single right class.
        ChangedDataError: if the rows are not of the samples that the dataset lists, or ranks have different data.
        ValueError: for a ``path`` with another suffix, a negative ``top_k``, or ``slices`` with a name of our own;
            when a pass begins that draws from several loaders at once.

    Example:
        >>> import tempfile, torch
        >>> from torch.utils.data import DataLoader, TensorDataset
        >>> from lightning_flip.models import MLP, Classifier
        >>> from lightning_flip.stores import read_predictions
        >>> data = DataLoader(TensorDataset(torch.eye(3), torch.tensor([0, 1, 2])))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     writer = PredictionWriter(Path(folder, "new.parquet"))
        ...     trainer = pl.Trainer(
        ...         accelerator="cpu", logger=False, callbacks=[writer],
        ...         enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False)
        ...     _ = trainer.test(Classifier(MLP(3, 3), num_classes=3), data, verbose=False)
        ...     read_predictions(writer.paths[0]).rows["target"].to_pylist()
        [0, 1, 2]
    """

    def __init__(
        self,
        path: str | Path | None = None,
        *,
        top_k: int = 5,
        logits: bool = False,
        slices: dict[str, str | int | Callable[[Any], Any]] | None = None,
        class_labels: Sequence[int | str] | None = None,
        overwrite: bool = False,
        logits_from: str | Callable[[Any], Any] | None = None,
        target_from: str | int | Callable[[Any], Any] | None = None,
        index_from: str | int | Callable[[Any], Any] | None = None,
        outputs: str | None = None,
        labels: Literal["fixed", "may_change"] | None = None,
        ignore_index: int | None = None,
        sample_id_from: IdsFrom | None = None,
    ) -> None:
        if path is not None and Path(path).suffix != ".parquet":
            raise ValueError(f"path must name a file that ends in .parquet; got {str(path)!r}.")
        if top_k < 0:
            raise ValueError(f"top_k must be at least 0, which keeps no best classes; got {top_k}.")
        taken = sorted(_OWN_COLUMNS & set(slices or ()))
        if taken:
            raise ValueError(f"slices must not be called {', '.join(taken)}: the file has columns of these names.")
        self.path = path
        self.top_k = top_k
        self.logits = logits
        self.slices = dict(slices or {})
        self.class_labels = class_labels
        self.overwrite = overwrite
        self.given_source = self.source = StepSource(
            logits_from,
            target_from,
            index_from,
            outputs=outputs,
            labels=labels,
            ignore_index=ignore_index,
            sample_id_from=sample_id_from,
        )
        self.paths: list[Path] = []
        self._stage = ""
        self._attachment: Attachment | None = None
        self._forget()

    def _forget(self) -> None:
        self._files: list[Path] = []
        self._named: list[Path] = []  # the same as the user named them
        self._rows: dict[int, PredictionRows] = {}
        self._data: dict[int, LoaderData] = {}
        self._to_look_at: dict[int, int] = {}  # batches whose labels are compared at once, by loader

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_attachment": None}

    # -- hooks ----------------------------------------------------------------------------------------

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Attach for a pass of its own."""
        if stage != TrainerFn.FITTING and writes_files(trainer):
            self.source = self.given_source.completed_by(pl_module)
            self._attachment = attach(trainer, pl_module, self, self.source)

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Take the logits where training found them."""
        restore_from(pl_module, self.source, checkpoint)

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Refuse to replace a file, before the work begins."""
        self._begin(trainer, "validate", lambda: len(trainer.num_val_batches))

    def on_test_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Refuse to replace a file, before the work begins."""
        self._begin(trainer, "test", lambda: len(trainer.num_test_batches))

    def on_predict_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Refuse to replace a file, before the work begins."""
        self._begin(trainer, "predict", lambda: len(trainer.num_predict_batches))

    def on_validation_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keep a step's rows."""
        self._take(batch, dataloader_idx)

    on_test_batch_end = on_predict_batch_end = on_validation_batch_end

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write the files."""
        self._finish(trainer, pl_module)

    on_test_epoch_end = on_predict_epoch_end = on_validation_epoch_end

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Detach; what was seen is not written, for it would look like all there is."""
        self._release()

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Detach."""
        self._release()

    # -- a pass ---------------------------------------------------------------------------------------

    def _begin(self, trainer: pl.Trainer, stage: str, count_loaders: Callable[[], int]) -> None:
        if self._attachment is None:
            return
        refuse_collections(trainer)
        self._forget()
        # The file says itself whose it is: another process may have written it, or a rank that has ended.
        taken = on_first_rank(trainer, lambda: None if self.path is None else stage_of(self.path))
        later, self._stage = taken not in (None, stage), stage
        self._named = prediction_paths(trainer, self.path, count_loaders(), stage=stage, later=later)
        self._files = [path.absolute() for path in self._named]  # the program may change its folder during the pass
        split = "val" if stage == "validate" else stage
        self._data = {data.loader: data for data in self._attachment.identify(self.source, split)}
        on_first_rank(trainer, functools.partial(refuse_paths, self._files, overwrite=self.overwrite))

    def _take(self, batch: Any, loader: int) -> None:
        if self._attachment is None:
            return
        step = self._attachment.sample_step(self.source)
        if step is None:
            return
        if not step.has_labels:
            raise TypeError(
                "the targets are float [B, K] (MixUp, CutMix or several labels per sample) and have no single right "
                "class, so there is no target to write. Evaluate with plain labels, or pass target_from= to name them."
            )
        seen = step.observed
        if loader not in self._rows:
            dataset = step.dataset
            labels = labels_of_outputs(dataset, self.class_labels, step.num_classes)
            usual = self.source.target_from is None and (step.choice is None or not step.choice.target)
            note = RowNote(labels, step.num_samples, dataset is not None, usual and self.source.labels != "may_change")
            self._rows[loader] = PredictionRows(note)
            self._to_look_at[loader] = _LOOKED_AT if note.listed and step.has_target else 0
        if self._to_look_at[loader]:  # what is wrong with all of the data is not found after the last batch
            self._to_look_at[loader] -= 1
            refuse_changed(seen, self._data.get(loader))
        columns = step_columns(seen, top_k=self.top_k, logits=self.logits)
        if self._stage != "predict":  # if nothing is compared, a sample need not have a label
            columns["index"] = seen.index_of_valid
        numbers, words = slice_columns(batch, self.slices, len(step.index), step.num_padding)
        self._rows[loader].keep({**columns, **numbers}, words)

    def _finish(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self._attachment is None:
            return
        self._attachment.check()
        parameters = sum(parameter.numel() for parameter in pl_module.parameters())
        self.paths = []
        for loader, (named, path) in enumerate(zip(self._named, self._files, strict=True)):
            rows = self._rows.pop(loader, PredictionRows()).latest(trainer.strategy.root_device)
            write = functools.partial(
                write_rows,
                path,
                rows,
                data=self._data.get(loader),
                model_parameters=parameters,
                stage=self._stage,
                overwrite=self.overwrite,
            )
            count = on_first_rank(trainer, write)
            if count is None:
                rank_zero_warn(f"PredictionWriter: loader {loader} gave no batch, so that {named} was not written.")
                continue
            self.paths.append(named)
            rank_zero_info(f"PredictionWriter: {count} predictions written to {named}")
        self._forget()

    def _release(self) -> None:
        if self._attachment is not None:
            self._attachment.release(self)
        self._attachment = None
        self._forget()
