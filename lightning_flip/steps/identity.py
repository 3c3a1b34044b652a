"""The data behind every loader of a Trainer: a position has to be the same sample for the whole run."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping
from typing import Any

import lightning.pytorch as pl
import torch
import torch.distributed as dist
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from lightning.pytorch.utilities.seed import isolate_rng

from lightning_flip.data.identity import data_difference, describe_data
from lightning_flip.steps._labels import Changed, KnownLabels
from lightning_flip.steps.loaded_batch import LoaderRecord
from lightning_flip.steps.sample_step import SampleStep
from lightning_flip.steps.source import StepSource
from lightning_flip.tables import is_distributed

__all__ = ["ChangedDataError", "DataRegister", "HeldData", "LoaderData", "changed_labels", "loaders_of"]


_MOST = 1 << 27  # samples; a dataset that claims to have more makes them up as it goes
_SAME = "A position in the dataset has to be the same sample for the whole run."


class ChangedDataError(ValueError):
    """The samples or labels of a dataset are not those of before."""


class LoaderData:
    """The data of one loader as a source sees them now.

    Attributes:
        split: "train", "val", "test" or "predict".
        loader: position of the loader.
        dataset: what the user gave to the loader; None where batches carry ids themselves.
        num_samples: its length; None where it has none.
        facts: its fingerprint; None without a dataset.
        labels: what steps saw; None where labels may change.
        labels_count: whether labels have to stay as they are.
        ids_from: where the ids of samples are, see ``StepSource.sample_id_from``.
    """

    def __init__(self, split: str, loader: int, dataset: Any, source: StepSource, labels: KnownLabels | None) -> None:
        self.split = split
        self.loader = loader
        self.dataset = dataset
        self.num_samples: int | None = None if dataset is None else len(dataset)
        self.labels = labels
        self.labels_count = source.labels != "may_change"
        self.ids_from = source.sample_id_from
        known = self.num_samples is not None and self.num_samples <= _MOST
        self.facts = self._described() if known else None

    def _described(self) -> dict[str, Any]:
        """The fingerprint; validation data may lack the ids that the training data have."""
        with isolate_rng():  # a dataset may read a sample to name it
            try:
                return describe_data(self.dataset, sample_id_from=self.ids_from)
            except ValueError as error:
                if self.split != "val" or self.ids_from is None:
                    raise
                rank_zero_warn(f"the val data (loader {self.loader}) are known by positions: {error}")
                self.ids_from = None
                return describe_data(self.dataset)

    @property
    def name(self) -> str:
        """Its name in files and checkpoints."""
        return f"{self.split}-{self.loader}"

    def difference(self, before: Mapping[str, Any]) -> str:
        """In what the data differ from those of a fingerprint, in words; "" also where they begin with these."""
        if self.facts is None or self.num_samples is None:
            return ""
        now = self.facts
        if 0 < before["length"] < self.num_samples:
            with isolate_rng():
                now = describe_data(self.dataset, length=before["length"], sample_id_from=self.ids_from)
        problem = data_difference(before, now, labels=self.labels_count)
        grown = now is not self.facts
        return f"there are {self.num_samples} now, and of the first ones, {problem}" if problem and grown else problem

    @property
    def is_stale(self) -> bool:
        """Whether the dataset has changed in place, as far as that is seen without hashing ids."""
        if self.facts is None:
            return False
        with isolate_rng():
            now = describe_data(self.dataset, ids=False)
        return any(value != self.facts[name] for name, value in now.items() if name != "labels" or self.labels_count)


class DataRegister:
    """Knows the data of a Trainer's loaders, and compares them between ranks."""

    def __init__(
        self,
        trainer: pl.Trainer,
        record_of: Callable[[Any], LoaderRecord | None],
        may_communicate: Callable[[], bool],
    ) -> None:
        self._trainer = weakref.ref(trainer)
        self._record_of = record_of
        self._may_communicate = may_communicate
        self._found: dict[tuple[StepSource, str, int], LoaderData] = {}
        self._looked: dict[tuple[StepSource, str], Any] = {}

    def of(self, source: StepSource, split: str, loader: int, dataset: Any) -> LoaderData:
        """The data of a running step; made anew where the dataset is another one, or has another length."""
        found = self._found.get((source, split, loader))
        if found is None or found.dataset is not dataset or (dataset is not None and len(dataset) != found.num_samples):
            found = self._describe(source, split, loader, dataset, found)
        return found

    def identify(self, source: StepSource, split: str) -> list[LoaderData]:
        """The data of a split, compared between ranks; a collective, which all ranks reach before a pass or epoch.

        Raises:
            ChangedDataError: on all ranks, if they have different data.
        """
        trainer = self._trainer()
        if trainer is None:
            return []
        moment = (trainer.current_epoch, trainer.global_step, trainer.sanity_checking)
        datasets = {}
        for loader, found in loaders_of(trainer, split, source).items():
            record = self._record_of(found)
            if record is not None:
                positions = source.index_from is None and record.num_samples is not None
                datasets[loader] = record.dataset if positions else None
        first = self._looked.get((source, split)) != moment
        here: list[LoaderData] = []
        problem: Exception | None = None
        try:
            for loader, dataset in datasets.items():
                known = self._found.get((source, split, loader))
                if first and known is not None and known.dataset is dataset and known.is_stale:
                    self._describe(source, split, loader, dataset, known)
                here.append(self.of(source, split, loader, dataset))
        except Exception as error:  # raised below, when the other ranks know
            problem = error
        if first:
            self._looked[source, split] = moment
            self._compare_ranks(split, here, problem)
        if problem is not None:
            raise problem
        return here

    def _describe(
        self, source: StepSource, split: str, loader: int, dataset: Any, before: LoaderData | None
    ) -> LoaderData:
        trainer = self._trainer()
        device = torch.device("cpu") if trainer is None else trainer.strategy.root_device
        data = LoaderData(split, loader, dataset, source, None)
        if data.labels_count:
            data.labels = KnownLabels(dataset, None if data.facts is None else data.num_samples, device)
            known = None if before is None else before.labels
            if before is not None and known is not None and not (before.facts and data.difference(before.facts)):
                data.labels.adopt(known.state(), known)
        self._found[source, split, loader] = data
        return data

    def _compare_ranks(self, split: str, here: list[LoaderData], problem: Exception | None) -> None:
        if not is_distributed() or not self._may_communicate():
            return
        said: list[Any] = [None] * dist.get_world_size()
        text = "" if problem is None else f"{type(problem).__name__}: {problem}"
        merges = [data.labels is not None and data.labels.merges for data in here]
        dist.all_gather_object(said, (text, {data.name: data.facts for data in here}, merges))
        if problem is not None:
            raise problem
        for rank, (text, _, _) in enumerate(said):
            if text:
                raise RuntimeError(f"the {split} data of rank {rank} cannot be described: {text}")
        ranks = [facts for _, facts, _ in said]
        for rank, facts in enumerate(ranks):
            for name in sorted({*ranks[0], *facts}):
                first, other = ranks[0].get(name), facts.get(name)
                if first is None and other is None:
                    continue
                differs = "one of them has none"
                if first is not None and other is not None:
                    differs = data_difference(first, other, labels=all(data.labels_count for data in here))
                if differs:
                    raise ChangedDataError(
                        f"rank 0 and rank {rank} have different {split} data (loader {name.rpartition('-')[2]}): "
                        f"{differs}. Tables of samples are merged by position, so that it has to be the same sample on "
                        "all ranks. Make the same split on every rank, random_split(..., generator=torch.Generator()."
                        "manual_seed(0)) for example, and leave the sharing to the sampler; or let batches carry ids "
                        "and pass index_from=."
                    )
        for place, data in enumerate(here):
            everywhere = all(merges[place] for _, _, merges in said)
            several = data.labels.merge() if everywhere and data.labels is not None else 0
            if several:
                raise ChangedDataError(
                    f"ranks saw different labels of {several} samples of the {split} data (loader "
                    f'{data.loader}). {_SAME} If labels are meant to change, pass labels="may_change".'
                )


def changed_labels(found: Changed, step: SampleStep, row: int, split: str, loader: int, where: str) -> str:
    """The words for labels that are not those of before."""
    count, rows = int((~found.same).sum()), len(found.same)
    now, before = int(step.target[row]), int(found.before[row])
    if found.listed:
        problem = (
            f"{count} of {rows} {split} rows (loader {loader}) have other labels than the dataset lists, first "
            f"{where}: it has the label {now}, and samples that have the same label as this one in the list had "
            f"{before}. Usual causes: a collate_fn that reorders samples, a sampler or dataset that hands out others "
            "than it is asked for, a list of labels that is not what samples have (corrected or noisy labels, another "
            "task)"
        )
    else:
        problem = (
            f"{count} of {rows} {split} rows (loader {loader}) have other labels than their samples had before, first "
            f"{where}: it has the label {now}, and had {before}. Usual causes: a dataset that shuffles, resamples or "
            "corrects labels as training goes on, a collate_fn that reorders samples, pseudo-labels"
        )
    return (
        f'{problem}. {_SAME} If the labels are meant to differ, pass labels="may_change", which keeps the label of '
        "every visit; if samples move, let batches carry an id for each and pass index_from=."
    )


def loaders_of(trainer: pl.Trainer, split: str, source: StepSource) -> dict[int, Any]:
    """The loaders of a split by their number; of several training loaders, the one that a source follows."""
    if split == "train":
        loaders: Any = trainer.train_dataloader
        if not isinstance(loaders, (list, tuple, Mapping)):
            return {} if loaders is None else {0: loaders}
        if source.loader is not None:
            return {source.loader if isinstance(source.loader, int) else 0: loaders[source.loader]}  # type: ignore[index]
        listed = list(loaders.values()) if isinstance(loaders, Mapping) else list(loaders)
        return {0: listed[0]} if len(listed) == 1 else {}
    names = {"val": "val_dataloaders", "test": "test_dataloaders", "predict": "predict_dataloaders"}
    loaders = getattr(trainer, names[split])
    if loaders is None:
        return {}
    if isinstance(loaders, Mapping):
        return dict(enumerate(loaders.values()))
    return dict(enumerate(loaders if isinstance(loaders, (list, tuple)) else [loaders]))


class HeldData:
    """The fingerprints of the data that an owner's state is of, by split and loader."""

    def __init__(self) -> None:
        self.facts: dict[str, dict[str, Any]] = {}
        self._labels: dict[str, KnownLabels] = {}
        self._saved: dict[str, Any] = {}  # labels of a checkpoint, until their data are there
        self._last: dict[str, weakref.ref[LoaderData]] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_last": {}}  # a copy is shown the data again

    def compare(self, owner: str, data: LoaderData, restart: Callable[[str, int], None] | None) -> None:
        """Refuse data that are not those of before, or start anew on them."""
        last = self._last.get(data.name)
        if last is not None and last() is data:
            return
        before = self.facts.get(data.name)
        problem = data.difference(before) if before is not None else ""
        if problem and data.name in self._labels:
            change = self._labels[data.name].list_change(data.dataset) if data.labels_count else ""
            problem = f"{problem}; {change}" if change else problem
        if problem and restart is None:
            relabelled = 'Where labels are meant to change, pass labels="may_change". ' if "labels" in problem else ""
            raise ChangedDataError(
                f"{owner}: the {data.split} data (loader {data.loader}) are not those of before: {problem}. A position "
                "in the dataset has to be the same sample for the whole run, across reloads and resumptions. Use the "
                f"same samples in the same order (a split with a fixed seed). {relabelled}Else start a new run, or "
                "pass allow_changed_data=True, which forgets what is known of these samples."
            )
        if problem and restart is not None:
            rank_zero_warn(f"{owner} starts anew on the {data.split} data (loader {data.loader}): {problem}.")
            restart(data.split, data.loader)
            self._saved.pop(data.name, None)
        elif before is not None and data.facts is not None and data.facts["length"] > before["length"]:
            rank_zero_info(
                f"{owner}: the {data.split} data (loader {data.loader}) have grown from {before['length']} to "
                f"{data.facts['length']} samples"
            )
        if data.labels is not None:
            data.labels.adopt(self._saved.pop(data.name, None))
            self._labels[data.name] = data.labels
        if data.facts is not None:
            self.facts[data.name] = data.facts
        self._last[data.name] = weakref.ref(data)

    def state(self) -> dict[str, Any]:
        """What goes into a checkpoint: tensors, numbers and text."""
        labels = {name: known.state() for name, known in self._labels.items()}
        return {"facts": {name: dict(facts) for name, facts in self.facts.items()}, "labels": {**self._saved, **labels}}

    def load(self, state: dict[str, Any] | None) -> None:
        """Continue from a checkpoint; one of 0.1 knows nothing of its data."""
        state = state or {"facts": {}, "labels": {}}
        self.facts = {name: dict(facts) for name, facts in state["facts"].items()}
        self._saved = dict(state["labels"])
        self._labels, self._last = {}, {}
