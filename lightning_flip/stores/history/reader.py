"""Reading a run's history: tables for data tools, and what happened to every sample."""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from lightning_flip.stores.errors import HistoryError
from lightning_flip.stores.history._statistics import (
    PassRows,
    last_known,
    locate_samples,
    read_pass,
    sample_statistics,
)
from lightning_flip.stores.history.parts import (
    HISTORY_FOLDER,
    MEASURES,
    ROW_SCHEMA,
    TARGET,
    UNKNOWN,
    PartKey,
    check_part,
    list_parts,
    read_part,
)
from lightning_flip.stores.history.runs import RunInfo, read_run
from lightning_flip.stores.history.samples import SAMPLES_FILE, labels_of, read_samples
from lightning_flip.stores.history.suspects import (
    SUSPICIONS,
    ScoreSums,
    Suspicion,
    add_scores,
    chosen_epochs,
    rank_suspects,
    validation_curve,
)

if TYPE_CHECKING:
    import pandas
    import polars

__all__ = ["History", "read_history"]

_VALIDATION = "val"  # the split that tells good epochs from bad ones


def read_history(dirpath: str | os.PathLike[str]) -> History:
    """Open a run's recorded history: a folder with `run.json`, `samples.parquet` and `history/`.

    Every part's footer is read, so that most damage is found now; rows are read when they are needed.

    Raises:
        HistoryError: if something is missing, damaged or empty; the message names the file and the remedy.
    """
    folder = Path(dirpath)
    run = read_run(folder)
    parts = list_parts(folder)
    if not parts:
        raise HistoryError(
            f"{folder / HISTORY_FOLDER} holds no part, so there is nothing to read. Train for at least one epoch with"
            " the recording callback; a part is written at the end of each pass. (Parts set aside, *.orphan, do not"
            " count.)"
        )
    for path in parts.values():
        check_part(path)
    return History(folder, run, parts, read_samples(folder))


class History:
    """A run's recorded history; `read_history` makes it.

    A visit is right if it predicts the label that the sample had then: if labels may change, each visit has its own.
    Passes are in the order (epoch, pass). Within a pass, the visits of a sample are ordered by global step, then
    visit, then rank. Methods that read rows raise `HistoryError` if a part is damaged, the split or loader was not
    recorded, or a part holds a sample that `samples.parquet` does not list.

    Attributes:
        run: the content of `run.json`.
        splits: names of the splits that have parts, sorted.

    Example:
        Two samples, two passes; the first sample is forgotten, the second one learned.

        >>> import tempfile
        >>> from lightning_flip.stores.claims import claim
        >>> from lightning_flip.stores.history.parts import PartKey, write_part
        >>> from lightning_flip.stores.history.samples import write_samples
        >>> folder = tempfile.TemporaryDirectory()
        >>> _ = claim(folder.name, info={"num_classes": 2})
        >>> _ = write_samples(folder.name, {"split": "train", "index": [0, 1], "target": [1, 0]})
        >>> for epoch, pred in enumerate([[1, 1], [0, 0]]):
        ...     measure = np.array([0.5, 1.0], np.float32)
        ...     _ = write_part(folder.name, PartKey("train", epoch, 0, 0), {
        ...         "global_step": np.full(2, epoch), "index": np.arange(2), "pred": np.array(pred),
        ...         "prob_label": measure, "prob_pred": measure, "logit_margin": measure, "cross_entropy": measure})
        >>> history = read_history(folder.name)
        >>> history.splits, history.passes("train"), history.run.info["num_classes"]
        (['train'], [(0, 0), (1, 0)], 2)
        >>> history.correct_matrix("train").tolist()
        [[True, False], [False, True]]
        >>> history.statistics("train").select(["forgetting_events", "first_learned", "aum"]).to_pydict()
        {'forgetting_events': [1, 0], 'first_learned': [0, 1], 'aum': [0.5, 1.0]}
        >>> history.suspects(1, by="flipped")["index"].to_pylist()
        [0]
        >>> history.to_arrow("train").num_rows, history.samples("train").num_rows
        (4, 2)
        >>> folder.cleanup()
    """

    def __init__(self, folder: Path, run: RunInfo, parts: Mapping[PartKey, Path], samples: pa.Table) -> None:
        self.run = run
        self.splits = sorted({key.split for key in parts})
        self._folder = folder
        self._parts = parts
        self._samples = samples

    def __repr__(self) -> str:
        lines = [f"History of run {self.run.run_id} in {self._folder}"]
        for split in self.splits:
            count = pc.sum(pc.equal(self._samples["split"], split)).as_py() or 0
            lines.append(f"  {split}: {count} samples, {len(self._passes(split))} passes")
        return "\n".join(lines)

    @property
    def class_names(self) -> list[str] | None:
        """The names of the classes, `class_names` of the run's `info`; None if they are not known."""
        names = self.run.info.get("class_names")
        return [str(name) for name in names] if isinstance(names, list) else None

    @property
    def num_classes(self) -> int | None:
        """The number K of classes, `num_classes` of the run's `info`; None if version 0.1 recorded the run."""
        count = self.run.info.get("num_classes")
        return count if isinstance(count, int) else None

    def passes(self, split: str) -> list[tuple[int, int]]:
        """(epoch, pass) of every pass over a split, in order."""
        return list(self._passes(split))

    def samples(self, split: str, loader: int = 0) -> pa.Table:
        """The samples of a split and loader as `samples.parquet` has them: N rows, sorted by index."""
        self._passes(split)
        mine = self._samples.filter(pc.equal(self._samples["split"], split))
        table = mine.filter(pc.equal(mine["loader"], loader))
        if not table.num_rows:
            raise HistoryError(
                f"{self._folder / SAMPLES_FILE} lists no sample of split {split!r}, loader {loader}; loaders of this"
                f" split that it lists: {sorted(mine['loader'].unique().to_pylist())}. Ask for one of these, or restore"
                " the file from a copy."
            )
        return table

    def to_arrow(self, split: str | None = None) -> pa.Table:
        """Every recorded row of a split, or of all of them; `target`, the last column, is the label at that visit.

        `best_other` is the most probable class that was not the label, null where version 0.1 recorded a visit that was
        right. Since then `prob_pred` is not stored: it follows from the other columns, to within rounding.
        """
        if split is not None:
            self._passes(split)
        schema = ROW_SCHEMA.append(pa.field("target", pa.int32()))
        tables = [schema.empty_table()]
        for key, path in self._parts.items():
            if split in (None, key.split):
                rows = read_part(path)
                if TARGET not in rows.column_names:  # labels that cannot change
                    rows = rows.append_column(TARGET, pa.array(self._targets(key.split, path, rows)))
                other = np.asarray(rows["best_other"])
                place = rows.column_names.index("best_other")
                rows = rows.set_column(place, "best_other", pa.array(other, mask=other == UNKNOWN))
                tables.append(pa.table(rows.columns, schema=schema))
        return pa.concat_tables(tables)

    def to_pandas(self, split: str | None = None) -> pandas.DataFrame:
        """`to_arrow` as a pandas table; needs pandas."""
        _require("pandas")
        return self.to_arrow(split).to_pandas()

    def to_polars(self, split: str | None = None) -> polars.DataFrame:
        """`to_arrow` as a polars table; needs polars."""
        frame: polars.DataFrame = _require("polars").from_arrow(self.to_arrow(split))
        return frame

    def visits(
        self, split: str, loader: int = 0, *, measures: Sequence[str] = (), last: int | None = None
    ) -> Iterator[PassRows]:
        """Iterate over the passes in order, one in memory at a time.

        Args:
            split: which split.
            loader: which of its loaders.
            measures: further columns to read, e.g. `("prob_label",)`.
            last: only so many of the latest passes; all of them for None.

        Yields:
            The visits of one pass; `position` counts the rows of `samples(split, loader)`.
        """
        samples = self.samples(split, loader)
        passes = list(self._passes(split).items())
        for moment, paths in passes if last is None else passes[max(0, len(passes) - last) :]:
            yield read_pass(moment, paths, samples, loader=loader, measures=measures)

    def correct_matrix(self, split: str, loader: int = 0) -> npt.NDArray[np.bool_]:
        """Whether the model was right: [passes, N] bool, N as in `samples(split, loader)`.

        The last visit within a pass counts. A sample that a pass did not see keeps its last known state, False before
        its first visit.
        """
        return last_known(self.visits(split, loader), self.samples(split, loader).num_rows)[0]

    def visited_matrix(self, split: str, loader: int = 0) -> npt.NDArray[np.bool_]:
        """Whether a pass saw the sample: [passes, N] bool, N as in `samples(split, loader)`."""
        return last_known(self.visits(split, loader), self.samples(split, loader).num_rows)[1]

    def statistics(self, split: str, loader: int = 0) -> pa.Table:
        """What happened to each sample: one row per sample, sorted by index.

        Columns:

        - `index`, `source_index`, `sample_id`, `target`, `true_target`: as in `samples.parquet` (if labels may
          change, `target` is the first one);
        - `visits`, `times_right`, `forgetting_events` (a right visit followed by a wrong one);
        - `first_learned`: epoch of the first right visit, null if none;
        - `aum`: mean logit margin; `confidence`: mean probability of the label; `variability`: its population standard
          deviation; null for a sample never seen;
        - `last_right`: False for a sample never seen.

        Notebooks show the first rows as text; `lightning_flip.reports.ShownTable` shows them in a terminal as well.
        """
        samples = self.samples(split, loader)
        visits = self.visits(split, loader, measures=("logit_margin", "prob_label"))
        table: pa.Table = _reports("shown_table").shown_in_notebooks(sample_statistics(samples, visits))
        return table

    def chosen_epochs(self, split: str = "train") -> list[int]:
        """The epochs of a split that the label score is made of; see `stores.history.suspects.chosen_epochs`.

        They are chosen by the first loader of split `"val"`; without one, or if it has no rows, all epochs count.
        """
        epochs = sorted({epoch for epoch, _ in self.passes(split)})
        mine = self._samples.filter(pc.equal(self._samples["split"], _VALIDATION))
        if _VALIDATION not in self.splits or not pc.any(pc.equal(mine["loader"], 0)).as_py():
            return epochs
        curve = validation_curve(self.visits(_VALIDATION, measures=("cross_entropy",)), epochs)
        if curve is None:
            return epochs
        return [epoch for epoch, chosen in zip(epochs, chosen_epochs(*curve).tolist(), strict=True) if chosen]

    @property
    def plot(self) -> Any:
        """Figures of the run, such as `plot.flips()`: a `lightning_flip.reports.HistoryPlots`; they need matplotlib."""
        return _reports("plots").HistoryPlots(self)

    def suspects(
        self, k: int, split: str = "train", by: Suspicion = "label_score", loader: int = 0, *, images: Any = None
    ) -> pa.Table:
        """The k samples most worth a look.

        The label score is the mean of p_label - p_other over the visits of `chosen_epochs`, moved to [0, 1]; p_other is
        the probability of the most probable class that is not the label.

        Args:
            k: how many, at least 1.
            split: which split.
            by: `"label_score"`, lowest first: labels that are probably wrong; `"mislabelled"`, lowest `aum` first;
                `"confidence"`, lowest mean probability of the label first; `"forgotten"`, never right first (as
                Toneva et al.), then most forgetting events, then lowest `aum`; or `"flipped"`, wrong at the last visit
                though right before, those most often right first.
            loader: which of the split's loaders.
            images: the dataset, or anything else that gives a picture of the sample at an index; notebooks show them.

        Returns:
            At most k samples, the worst first, equal ones by index. Samples never seen (for `"label_score"`: in the
            chosen epochs), and those that are not suspicious in this way, are left out. Notebooks and terminals show
            them with label, suggestion, score and the predictions over the epochs
            (`lightning_flip.reports.SuspectTable`). Columns:

            - `index`, `sample_id`; `path`: the id, where ids are paths, else null;
            - `given_label`, `given_name`; `predicted_label`, `predicted_name`: the class other than the label with the
              largest summed probability, null if the history tells none. Names are those of `class_names`;
            - `label_score`; `is_label_issue`: the label is almost certainly wrong; `disagrees`: the averaged
              prediction is `predicted_label`;
            - its parts: `mean_prob_label`, `mean_prob_other`, `mean_prob_predicted`, `scored_visits`;
            - the other columns of `statistics`.

        Raises:
            ValueError: if k is under 1 or `by` is unknown.
        """
        if by not in SUSPICIONS or k < 1:
            raise ValueError(f"k must be at least 1 and by one of {', '.join(SUSPICIONS)}; got k={k}, by={by!r}.")
        scores = self.label_scores(split, loader)
        rows = rank_suspects(scores, by).slice(0, k)
        return _reports("suspects").SuspectTable(rows, scores, self, split, loader, images)

    def label_scores(self, split: str = "train", loader: int = 0) -> pa.Table:
        """The columns of `suspects` for every sample of a split, sorted by index; each part is read once."""
        samples, chosen = self.samples(split, loader), set(self.chosen_epochs(split))
        sums = ScoreSums(labels_of(samples))

        def summed() -> Iterator[PassRows]:
            for rows in self.visits(split, loader, measures=(*MEASURES, "best_other")):
                if rows.epoch in chosen:
                    sums.add(rows)
                yield rows

        statistics = sample_statistics(samples, summed())
        facts = self.run.data.get(f"{split}-{loader}", {})
        return add_scores(
            statistics,
            sums.scores(),
            class_names=self.class_names,
            paths=facts.get("ids_are") == "paths",
        )

    def _passes(self, split: str) -> dict[tuple[int, int], list[Path]]:
        passes: dict[tuple[int, int], list[Path]] = {}
        for key, path in self._parts.items():
            if key.split == split:
                passes.setdefault((key.epoch, key.pass_), []).append(path)
        if not passes:
            raise HistoryError(
                f"{self._folder / HISTORY_FOLDER} holds no split {split!r}; it holds"
                f" {', '.join(map(repr, self.splits))}. Ask for one of these, or let the recording callback"
                " record this split."
            )
        return passes

    def _targets(self, split: str, path: Path, rows: pa.Table) -> npt.NDArray[np.int32]:
        loaders, index = np.asarray(rows["loader"]), np.asarray(rows["index"])
        target = np.zeros(len(index), np.int32)
        for loader in np.unique(loaders).tolist():
            samples, mine = self.samples(split, loader), loaders == loader
            position = locate_samples(np.asarray(samples["index"]), index[mine], path)
            target[mine] = labels_of(samples)[position]
        return target


def _require(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ImportError(f"{name} is missing: pip install 'lightning-flip[report]'; to_arrow does without.") from error


def _reports(name: str) -> Any:
    """A module of reports, which shows what is read here; it imports this one."""
    return importlib.import_module(f"lightning_flip.reports.{name}")
