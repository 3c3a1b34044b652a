"""Who reads the rows of steps, and when: a step copies them into a block, which is read as a whole."""

from __future__ import annotations

import contextlib
import functools
import weakref
from collections.abc import Callable, Collection, Iterator
from dataclasses import replace
from typing import Any, Protocol, cast

import lightning.pytorch as pl
import torch
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from torch import Tensor

from lightning_flip.steps._block import Block, Moment
from lightning_flip.steps._labels import Changed
from lightning_flip.steps._left_out import LeftOut, steps_left_out
from lightning_flip.steps._running_step import RunningStep
from lightning_flip.steps.checks import ValueChecks, first_false
from lightning_flip.steps.identity import (
    ChangedDataError,
    DataRegister,
    LoaderData,
    changed_labels,
)
from lightning_flip.steps.logits._finder import Found
from lightning_flip.steps.logits._step_capture import StepCapture
from lightning_flip.steps.logits.choice import Choice
from lightning_flip.steps.sample_step import SampleStep
from lightning_flip.steps.source import StepSource

__all__ = ["Reader", "Recorder", "is_tolerant"]

_STEP_NAMES = {"train": "training_step", "val": "validation_step", "test": "test_step"}


class Reader(Protocol):
    """A callback that is given rows, while it, or the callback of the user's own that leads it, is the Trainer's."""

    @property
    def takes_distributions(self) -> bool:
        """Whether it takes steps whose targets are distributions."""

    @property
    def every_step(self) -> bool:
        """Whether it needs what only the running step has, and so every step by itself."""

    def wants(self, split: str) -> bool:
        """Whether it reads this split in the epoch that begins."""

    def begin_epoch(self, epoch: int) -> None:
        """A training epoch begins; on every rank, before its first step, after all rows of the one before."""

    def read(self, split: str, loader: int, step: SampleStep) -> None:
        """Take rows in: detached, in at least float32, without padding."""

    def skip(self, split: str) -> None:
        """Called if steps have distributions as targets and the reader does not take them."""

    def leaves_out(self, split: str, problem: str, *, sure: bool) -> bool:
        """Called if losses of steps had, or may have had, other targets; False to get their rows nevertheless."""

    def nothing_recorded(self, split: str, reason: str) -> None:
        """Called if a pass has ended without a recorded row."""


class Tolerant(Reader, Protocol):
    """A reader whose errors must not stop training; no other reader has its source."""

    def hear_error(self, split: str, error: Exception) -> None:
        """Called with an error about its rows, which is then not raised; split is "" if it belongs to none."""


class Declining(Reader, Protocol):
    """A reader that may leave out a training step, such as one whose loss the step did not compute."""

    def declines(self, batch: object) -> bool:
        """Whether it leaves out the batch that has just run."""


class _Feed:
    """The blocks of one source, split and loader, and who reads them."""

    def __init__(self, source: StepSource, split: str, loader: int) -> None:
        self.source = source
        self.split = split
        self.loader = loader
        self.readers: list[Reader] = []  # of blocks
        self.watchers: list[Reader] = []  # of every step
        self.shown: tuple[SampleStep, Moment] | None = None  # until training is through with its batch
        self.declining: list[Declining] = []  # of the readers, those that may leave a step out
        self.describes = True  # whether a reader needs predictions, which the comparison then uses
        self.checks: ValueChecks | None = None  # of its own, if all who read it are tolerant
        self.blocks: dict[int, Block] = {}  # by the number of the targets' dimensions: pairs may alternate with images
        self.filling: Block | None = None
        self.kept: Tensor | None = None  # the logits of the running step as the network gave them
        self.copied = False  # whether they are in the block already
        self.steps = self.rows = 0  # of the running pass
        self.labelled: Tensor | None = None  # of rows some of which may not count: whether any does
        self.reason = ""  # why there are no rows
        self.choice: Choice | None = None  # how its logits were found last
        self.data: LoaderData | None = None
        self.tolerance = 1e-4  # of the comparison of losses
        self.looked_at = -1  # the epoch in which its loss was compared at once
        self.taken_for: Callable[[], object] = _nothing  # the batch whose rows were taken; it is not kept alive

    def catch(self, logits: Tensor) -> None:
        """Copy logits inside of the forward that gave them: afterwards a module may edit them in place."""
        if torch.compiler.is_compiling():
            return
        view = self.filling.view(logits) if self.filling is not None and self.readers else None
        self.copied = view is not None
        with torch.no_grad():
            self.kept = logits.clone() if view is None else view.copy_(logits)


class Recorder:
    """Fills and empties the blocks of one Trainer."""

    def __init__(
        self,
        trainer: pl.Trainer,
        running: RunningStep,
        captures: StepCapture,
        checks: ValueChecks,
        register: DataRegister,
        may_raise: Callable[[], bool],
    ) -> None:
        self._trainer = weakref.ref(trainer)
        self._running = running
        self._captures = captures
        self._checks = checks
        self._register = register
        self._may_raise = may_raise
        self._owners: list[tuple[Any, StepSource, Collection[str]]] = []
        self._feeds: dict[tuple[StepSource, str, int], _Feed] = {}
        self._training: list[_Feed] = []  # those with a reader in the running epoch
        self._callbacks: Any = None
        self._listed = 0  # how many they are
        self._home = trainer.callbacks  # type: ignore[attr-defined]  # tuning puts another list in its place
        self._seen: set[int] = set()  # owners that were in a list; others are led by a callback of the user's own
        self._present: list[tuple[Any, StepSource, Collection[str]]] = []  # owners that are the Trainer's callbacks now
        self._loaded: object = None
        self._epoch = -1
        self._moment = Moment(0, -1, -1, -1)
        self._trains = False  # whether the captures copy for training steps
        self._announced: set[str] = set()

    def add(self, owner: Any, source: StepSource, reads: Collection[str]) -> None:
        """Give a callback the rows of some splits."""
        if reads:
            self._owners.append((owner, source, reads))
            self._callbacks = None  # to be read again

    def remove(self, owner: Any) -> None:
        """Forget a callback."""
        self._owners = [entry for entry in self._owners if entry[0] is not owner]
        self._callbacks = None

    def source_of(self, owner: Any) -> StepSource | None:
        """Where a callback takes its rows from; None if it is given none."""
        return next((source for other, source, _ in self._owners if other is owner), None)

    def mute(self, owner: Any, splits: Collection[str]) -> bool:
        """Stop giving a tolerant callback the rows of some splits. Returns whether it still gets others."""
        for place, (other, source, reads) in enumerate(self._owners):
            if other is owner:
                self._owners[place] = (owner, source, [split for split in reads if split not in splits])
        self._owners = [entry for entry in self._owners if entry[2]]
        for key, feed in list(self._feeds.items()):
            if feed.split in splits and owner in feed.readers:
                del self._feeds[key]  # no other owner has this source
                self._training = [other for other in self._training if other is not feed]
        if self._trains:
            self._captures.copy_to([(feed.source, self._catching(feed)) for feed in self._training])
        self._callbacks = None
        return any(entry[0] is owner for entry in self._owners)

    # -- steps ----------------------------------------------------------------------------------------

    def begin_training_step(self) -> bool:
        """Get ready for a training step; False if it is not recorded, as the later evaluations of a closure."""
        trainer, loaded = self._trainer(), self._running.loaded
        if trainer is None or loaded is self._loaded:
            return False
        callbacks: Any = trainer.callbacks  # type: ignore[attr-defined]
        if callbacks is not self._callbacks or len(callbacks) != self._listed:
            self._look_for_owners(trainer)
        if not self._present:
            return False  # tuning runs steps without callbacks
        self._loaded = loaded
        if trainer.current_epoch != self._epoch:
            self._begin_epoch(trainer.current_epoch)
        feeds = self._training
        if not self._trains:
            self.close_pass("val")
            self._captures.copy_to([(feed.source, self._catching(feed)) for feed in feeds])
            self._trains = True
        if not feeds:
            return False
        for feed in list(feeds):
            feed.kept, feed.copied = None, False
            if feed.shown is not None:
                self._show(feed)
            if feed.filling is not None and feed.filling.full:
                self._read(feed, feed.filling)
        progress: Any = trainer.fit_loop.epoch_loop.batch_progress
        self._moment = Moment(0, progress.current.ready - 1, trainer.global_step, progress.total.processed)
        return True

    def _catching(self, feed: _Feed) -> Callable[[Tensor], None]:
        """What copies the logits of a feed inside of the forward."""
        if feed.checks is None:
            return feed.catch

        def catch(logits: Tensor) -> None:
            try:
                feed.catch(logits)
            except Exception as error:  # such as of memory
                self._tell(feed, error)

        return catch

    def begin_evaluation_step(self) -> None:
        """Read what training left: nothing of an earlier moment may be missing while validation looks at it."""
        if self._trains:
            self._captures.copy_to([])
            self._trains = False
            self.flush()

    def end_training_step(self) -> None:
        """Add the rows of a training step."""
        with torch.no_grad():
            for feed in list(self._training):
                try:
                    self._take(feed, self._moment, self._epoch, feed.kept)
                except Exception as error:
                    self._tell(feed, error)
                feed.kept = None  # the block has a copy

    def take(self, source: StepSource, split: str, loader: int) -> None:
        """Add the rows of a validation or test step, once for all readers."""
        trainer = self._trainer()
        if trainer is None:
            return
        feed = self._feeds.get((source, split, loader))
        if feed is None:
            feed = self._feeds[source, split, loader] = _Feed(source, split, loader)
            owners = [owner for owner, its, reads in self._owners if its == source and split in reads]
            self._give(feed, [owner for owner in owners if owner.wants(split)])
        if feed.taken_for() is self._running.loaded:
            return
        feed.taken_for = weakref.ref(self._running.loaded)
        moment = Moment(0, self._running.batch_number, trainer.global_step, -1)
        try:
            self._take(feed, moment, trainer.current_epoch, self._captures.kept(source))
        except Exception as error:
            self._tell(feed, error)

    @staticmethod
    def _tell(feed: _Feed, error: Exception) -> None:
        """Report an error in the rows of a feed to its readers if all are tolerant; otherwise raise it."""
        if feed.checks is None:
            raise error
        for reader in list(feed.readers):
            cast(Tolerant, reader).hear_error(feed.split, error)

    def _take(self, feed: _Feed, moment: Moment, epoch: int, kept: Tensor | None) -> None:
        running, source = self._running, feed.source
        feed.steps += 1
        caught = running.find(source)
        if caught is None:
            feed.reason = f"the steps returned None, and {running.nothing_found(source)}"
            return
        found, target = caught
        assert target is not None  # data to predict are not recorded
        kept = found.kept if kept is None else kept
        logits = found.logits.detach() if kept is None else kept
        readers = feed.readers if target.ndim == 1 else self._who_take_distributions(feed)
        if feed.declining and self._is_declined(feed, logits, moment, epoch):
            return
        samples, loss = running.loaded.samples(source), None
        choice = feed.choice = found.choice
        if choice is not None and choice.call is not None:
            moment, loss = self._checked(feed, found, target, moment, len(samples))
        if samples and readers:
            block = feed.filling
            data, dataset = feed.data, running.loaded.dataset(source)
            if data is None or data.dataset is not dataset:
                data = self._data_of(feed)
            if block is None or not (feed.copied and block.fits(target, data, epoch)):
                block = self._place(feed, logits, target, data, epoch)
            moment = moment._replace(rows=len(samples))
            block.add(target, samples, moment, loss)
        elif readers:  # of padding alone: other ranks have rows, and all have to join in what follows a pass
            nothing = self._alone(feed, logits, moment, epoch)
            if nothing is not None:
                feed.rows += 1  # padding alone is not an error
                self._hand_out(feed, nothing, readers)
        if feed.watchers:
            alone = self._alone(feed, logits.clone() if feed.copied else logits, moment, epoch)
            feed.shown = None if alone is None else (alone, moment)
            self._show(feed)

    @staticmethod
    def _who_take_distributions(feed: _Feed) -> list[Reader]:
        """The readers of a step whose targets are distributions; the others are told to skip it."""
        for reader in (*feed.readers, *feed.watchers):
            if not reader.takes_distributions:
                reader.skip(feed.split)
                feed.rows += 1  # the reader has warned
        return [reader for reader in feed.readers if reader.takes_distributions]

    def _is_declined(self, feed: _Feed, logits: Tensor, moment: Moment, epoch: int) -> bool:
        """Whether a reader leaves the step out, which the others are then given by itself."""
        for term in feed.declining:
            if not term.declines(self._running.loaded):
                continue
            for earlier in list(feed.blocks.values()):
                self._read(feed, earlier)
            alone = self._alone(feed, logits, moment, epoch)
            if alone is not None:
                feed.rows += len(alone.index)
                others = [reader for reader in feed.readers if reader is not term]
                self._hand_out(feed, alone, [*others, *feed.watchers])
            return True
        return False

    def _checked(
        self, feed: _Feed, found: Found, target: Tensor, moment: Moment, rows: int
    ) -> tuple[Moment, Tensor | None]:
        """Whether the loss of a step had the followed targets, or the loss that tells it when a block is read."""
        choice, loss = found.choice, self._running.loss
        assert choice is not None
        if not found.followed:
            self._captures.watch_losses(feed.source)
            return moment._replace(followed=False, moved=found.moved), None
        moment = moment._replace(looked=found.looked or feed.split != "train")
        if not choice.equal or loss is None or loss.numel() != 1:
            return moment, None
        feed.tolerance = choice.tolerance(found.logits.dtype, loss.dtype, labels=target.ndim == 1)
        begins = found.looked and feed.looked_at != self._epoch  # losses change where epochs begin
        if not (begins or feed.watchers) and rows == len(target):  # the rows of a block have no padding
            return moment._replace(compared=True), loss
        feed.looked_at = self._epoch if found.looked else feed.looked_at
        if not choice.gives(loss, found.logits if found.kept is None else found.kept, target):
            self._captures.watch_losses(feed.source)
            moment = moment._replace(followed=found.looked)  # then it is another loss of the same targets
        return moment, None

    def _data_of(self, feed: _Feed) -> LoaderData:
        """The data of the running step's loader."""
        dataset, data = self._running.loaded.dataset(feed.source), feed.data
        if data is None or data.dataset is not dataset:
            data = feed.data = self._register.of(feed.source, feed.split, feed.loader, dataset)
        return data

    def _place(self, feed: _Feed, logits: Tensor, target: Tensor, data: LoaderData, epoch: int) -> Block:
        """The block for a step whose logits are not in one yet, and a copy of them in it."""
        if feed.copied:
            logits = logits.clone()  # they are in a block for other targets, which may be emptied now
        block = feed.blocks.get(target.ndim)
        view = block.view(logits) if block is not None and block.fits(target, data, epoch) else None
        if block is not None and (view is None or block.full):
            self._read(feed, block)
            view = block.view(logits) if block.fits(target, data, epoch) else None
        if block is None or view is None:
            block = feed.blocks[target.ndim] = Block(logits, target, data, epoch)
            self._announce(feed, block)
            view = block.view(logits)
            assert view is not None
        for other in feed.blocks.values():
            if other is not block:
                self._read(feed, other)  # readers get all rows in the order of their visits
        feed.filling = block
        view.copy_(logits)
        return block

    def _alone(self, feed: _Feed, logits: Tensor, moment: Moment, epoch: int) -> SampleStep | None:
        """The running step by itself, as readers see rows."""
        step = self._running.seen_through(feed.source)
        samples = self._running.loaded.samples(feed.source)
        if step is None:
            return None
        with _plainly():
            rows = replace(step, logits=logits).observed
        times = torch.full((len(samples),), moment.global_step)
        data = self._data_of(feed)
        return replace(rows, epoch=epoch, batch=moment.batch, global_step=times, samples=samples, data=data)

    def _show(self, feed: _Feed) -> None:
        """Give the last step to the readers of every step, if training has finished its batch."""
        if feed.shown is None or self._under_way(feed.shown[1]):
            return
        (step, moment), feed.shown = feed.shown, None
        left_out = LeftOut([] if moment.followed else [0], not moment.moved)
        with _plainly():
            if step.has_labels:
                where = functools.partial(_name_row, step, [moment._replace(rows=len(step.index))])
                deferred = step.logits.device.type != "cpu"
                _, _, error = self._hold_labels(feed, step, step.valid, where, deferred=deferred)
                if error is not None:
                    raise error
            for reader in feed.watchers:
                if step.has_labels or reader.takes_distributions:
                    self._give_to(reader, feed, step, [moment._replace(rows=len(step.index))], left_out)

    @staticmethod
    def _hand_out(feed: _Feed, step: SampleStep, readers: list[Reader]) -> None:
        with _plainly():
            for reader in readers:
                if step.has_labels or reader.takes_distributions:
                    reader.read(feed.split, feed.loader, step)

    # -- epochs and readers -----------------------------------------------------------------------------

    def close_pass(self, split: str) -> None:
        """Tell the readers of a finished pass if nothing was recorded."""
        self.flush()
        for feed in self._feeds.values():
            if feed.split != split:
                continue
            steps, rows, labelled, reason = feed.steps, feed.rows, feed.labelled, feed.reason
            feed.steps, feed.rows, feed.labelled, feed.reason = 0, 0, None, ""
            readers = [*feed.readers, *feed.watchers]
            if not reason and labelled is not None and not (rows or labelled):
                ignored = None if feed.choice is None else feed.choice.ignored
                reason = f"every sample has the label {ignored}, which the loss leaves out"
                readers = [reader for reader in readers if reader not in feed.declining]  # it is the module's own loss
            if steps and not rows and reason:
                for reader in readers:
                    reader.nothing_recorded(split, f"{reason} ({steps} of them ran)")

    def _begin_epoch(self, epoch: int) -> None:
        self.close_pass("train")
        self._epoch = epoch
        for feed in self._feeds.values():
            feed.data = None  # the dataset may have changed in place
        for owner, _, reads in self._present:
            if "train" in reads:
                owner.begin_epoch(epoch)
        self._arrange()

    def _look_for_owners(self, trainer: pl.Trainer) -> None:
        self._callbacks = trainer.callbacks  # type: ignore[attr-defined]
        listed = {id(callback) for callback in self._callbacks}
        self._listed = len(self._callbacks)
        led = self._callbacks is self._home
        self._seen |= listed
        self._present = [
            entry for entry in self._owners if id(entry[0]) in listed or (led and id(entry[0]) not in self._seen)
        ]
        if self._present:
            self.flush()  # callbacks that were taken off get what they saw
            self._feeds = {key: feed for key, feed in self._feeds.items() if feed.split == "train"}
            self._arrange()

    def _arrange(self) -> None:
        """Decide who reads training steps in this epoch."""
        readers: dict[StepSource, list[Any]] = {}
        for owner, source, reads in self._present:
            if "train" in reads and owner.wants("train"):
                readers.setdefault(source, []).append(owner)
        self._training = []
        for source, owners in readers.items():
            loader = source.loader if isinstance(source.loader, int) else 0
            feed = self._feeds.setdefault((source, "train", loader), _Feed(source, "train", loader))
            self._give(feed, owners)
            self._training.append(feed)
        self._trains = False

    @staticmethod
    def _give(feed: _Feed, owners: list[Any]) -> None:
        if not owners or not all(is_tolerant(owner) for owner in owners):
            feed.checks = None
        elif feed.checks is None:
            feed.checks = ValueChecks()
        feed.readers = [owner for owner in owners if not owner.every_step]
        feed.watchers = [owner for owner in owners if owner.every_step]
        feed.declining = [owner for owner in owners if hasattr(owner, "declines")]
        feed.describes = any(getattr(owner, "describes", True) for owner in feed.readers)

    def _announce(self, feed: _Feed, block: Block) -> None:
        if feed.split not in self._announced:
            self._announced.add(feed.split)
            steps = "one step" if block.capacity == 1 else f"{block.capacity} steps"
            rank_zero_info(
                f"lightning_flip: predictions of {feed.split} steps are read {steps} at a time, from a buffer of "
                f"{block.nbytes / 1e6:.1f} MB"
            )

    # -- reading ----------------------------------------------------------------------------------------

    def flush(self) -> None:
        """Read all rows that are waiting, but for those of a batch that is still under way."""
        errors = [error for feed in list(self._feeds.values()) for error in self._read_all(feed)]
        if errors:
            raise errors[0]

    def _read_all(self, feed: _Feed) -> Iterator[Exception]:
        for block in list(feed.blocks.values()):
            try:
                self._read(feed, block)
            except Exception as error:
                yield error
        try:
            self._show(feed)
        except Exception as error:
            yield error

    def check(self) -> None:
        """Read the flags of the feeds that have their own."""
        for feed in list(self._feeds.values()):
            if feed.checks is not None:
                try:
                    feed.checks.read()
                except Exception as error:
                    self._tell(feed, error)

    def _read(self, feed: _Feed, block: Block) -> None:
        try:
            self._read_block(feed, block)
        except Exception as error:
            self._tell(feed, error)

    def _read_block(self, feed: _Feed, block: Block) -> None:
        errors: list[Exception] = []
        if feed.copied and block is feed.filling and feed.kept is not None:
            # The running step's logits are in rows that are counted in when it ends; emptied, the block moves on.
            feed.kept, feed.copied = feed.kept.clone(), False
        with _plainly():
            drained = block.drain(keep_last=bool(block.moments) and self._under_way(block.moments[-1]))
            if drained is None:
                return
            step, moments, losses = drained
            step = self._within(feed, step)
            where = functools.partial(_name_row, step, moments)
            deferred = step.logits.device.type != "cpu"
            valid, bad, problem = (feed.checks or self._checks).look(
                step.logits,
                step.target,
                _STEP_NAMES[feed.split],
                where,
                deferred=deferred,
                ignored=None if feed.choice is None else feed.choice.ignored,
            )
            if bad is not None:
                errors.append(ValueError(problem))
            elif step.has_labels:
                valid, bad, changed_error = self._hold_labels(feed, step, valid, where, deferred=deferred)
                errors.extend([changed_error] if changed_error is not None else [])
            shown = step if valid is None else replace(step, valid=valid)
            shown = shown if bad is None else shown.until(bad)
            left_out, changed = LeftOut([], True), False
            if bad is None:
                if feed.describes and shown.has_labels:
                    _ = shown.predictions
                left_out, changed = steps_left_out(feed.choice, shown, moments, losses, feed.tolerance)
            if changed:
                self._captures.watch_losses(feed.source)
            for reader in feed.readers if len(shown.index) else ():
                if shown.has_labels or reader.takes_distributions:
                    try:
                        self._give_to(reader, feed, shown, moments, left_out)
                    except Exception as error:  # the others get their rows all the same
                        errors.append(error)
        if not errors:
            return
        if self._may_raise() or feed.checks is not None:
            for further in errors[1:]:
                errors[0].add_note(f"Then {type(further).__name__}: {further}")
            raise errors[0]
        for problem_found in errors:  # another exception is in flight, and it is the one that counts
            rank_zero_warn(f"{type(problem_found).__name__} while the last rows were read: {problem_found}")

    def _within(self, feed: _Feed, step: SampleStep) -> SampleStep:
        """The rows of a block, whose dataset may have grown since it was begun."""
        if step.num_samples is None or step.largest_index is None or step.largest_index < step.num_samples:
            return step
        data = feed.data = self._register.of(feed.source, feed.split, feed.loader, step.dataset)
        if data.num_samples is not None and step.largest_index >= data.num_samples and data.labels is not None:
            data.labels.go_by_number()  # the sampler draws from more than the dataset says that there is
        return replace(step, data=data, num_samples=data.num_samples)

    def _hold_labels(
        self, feed: _Feed, step: SampleStep, valid: Tensor | None, where: Callable[[int], str], *, deferred: bool
    ) -> tuple[Tensor | None, int | None, Exception | None]:
        """Compare the labels with those of before; which rows are valid, the first that is not, and its error."""
        labels = None if step.data is None else step.data.labels
        readers = [*feed.readers, *feed.watchers]
        if labels is None or not any(getattr(reader, "holds_samples", True) for reader in readers):
            return valid, None, None
        names = ", ".join(dict.fromkeys(getattr(reader, "owner_name", type(reader).__name__) for reader in readers))
        usual = feed.source.target_from is None and (feed.choice is None or not feed.choice.target)
        for found in labels.compare(step.index, step.target, valid, listed=usual):

            def error(row: int, found: Changed = found) -> Exception:
                text = changed_labels(found, step, row, feed.split, feed.loader, where(row))
                return ChangedDataError(f"{names}: {text}")

            if deferred:
                (feed.checks or self._checks).defer(found.same, error)
                valid = found.same if valid is None else valid & found.same
            elif not found.same.all():
                bad = first_false(found.same)
                assert bad is not None
                return valid, bad, error(bad)
        return valid, None, None

    def _give_to(self, reader: Reader, feed: _Feed, step: SampleStep, moments: list[Moment], left_out: LeftOut) -> None:
        """Give a reader rows, without those of steps that are not followed."""
        if left_out.positions:
            problem = left_out.problem(len(moments), step.epoch)
            if reader.leaves_out(feed.split, problem, sure=left_out.sure):
                feed.reason = problem
                places = left_out.rows_of_others(moments)
                if not len(places):
                    return
                step = step.rows_at(places)
        if step.valid is None:
            feed.rows += len(step.index)
        else:  # the device is read when the pass has ended
            feed.labelled = step.valid.any() if feed.labelled is None else feed.labelled | step.valid.any()
        reader.read(feed.split, feed.loader, step)

    def _under_way(self, last: Moment) -> bool:
        """Whether training has not finished the batch of a step: a run that is resumed now trains it again."""
        trainer = self._trainer()
        if trainer is None:
            return False
        progress: Any = trainer.fit_loop.epoch_loop.batch_progress
        return bool(progress.total.processed == last.processed)


def is_tolerant(owner: object) -> bool:
    """Whether errors about a callback's rows are reported to it instead of being raised."""
    return hasattr(owner, "hear_error")


def _nothing() -> None:
    return None


@contextlib.contextmanager
def _plainly() -> Iterator[None]:
    """A context for tensors that outlive a step and a validation: no graph, and no inference tensors."""
    with torch.inference_mode(False), torch.no_grad():
        yield


def _name_row(step: SampleStep, moments: list[Moment], row: int) -> str:
    assert step.samples is not None
    left = row
    for moment in moments:
        if left < moment.rows:
            break
        left -= moment.rows
    return (
        f"sample {step.samples[row]} in batch {moment.batch} of epoch {step.epoch}, after {moment.global_step} "
        "optimizer steps"
    )
