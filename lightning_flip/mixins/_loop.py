"""What a loss term needs from the Trainer: its attachment, its tables, and the hooks that keep them."""

from __future__ import annotations

import contextlib
import functools
import sys
import weakref
from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any, Protocol

import lightning.pytorch as pl
import torch
from lightning.fabric.utilities import move_data_to_device
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn

from lightning_flip.data.labels import kept_labels
from lightning_flip.mixins._counted import holds
from lightning_flip.mixins._definition import check_instance, methods_that, owners_of
from lightning_flip.mixins._divergence import DivergenceWatch, advice_of
from lightning_flip.mixins._options import schedule
from lightning_flip.mixins._stacking import warn_of_stack
from lightning_flip.steps import Attachment, SampleStep, attach
from lightning_flip.steps.checks import first_false
from lightning_flip.steps.hooks import restore_hooks, skip_unused_hooks
from lightning_flip.steps.identity import HeldData, LoaderData
from lightning_flip.steps.logits.remembered import known_state, restore
from lightning_flip.steps.state import STATE_VERSION, check_version
from lightning_flip.tables import SampleTable

__all__ = ["TermLoop", "add_loop", "with_loop"]

CHECKPOINT_KEY = "lightning_flip"


class Terms(Protocol):
    """What the loop needs of a LightningModule with loss terms."""

    mixin_options: Any
    _mixin: SimpleNamespace
    _trainer: pl.Trainer | None

    @property
    def trainer(self) -> pl.Trainer: ...

    def begin_fit(self, trainer: pl.Trainer) -> None: ...

    def end_fit(self) -> None: ...

    def storage_dtype(self, step: SampleStep) -> torch.dtype: ...


class TermLoop(pl.Callback):
    """The callback through which a module's loss terms take part in the loop.

    A callback and not module hooks, because a user's class may override a hook without calling ``super``.
    It also keeps the terms' tables away from what copies modules (weight averaging, spawned processes).

    Copied or pickled it is a fresh loop without tables, which its module binds on first use.
    """

    def __init__(self) -> None:
        self._module: Callable[[], Terms | None] = _no_module
        self._base: type = object
        self.attachment: Attachment | None = None
        self._tables: dict[str, SampleTable] = {}
        self.states: dict[str, dict[str, Any]] = {}  # what methods keep beside tables: plain values and tensors
        self._data = HeldData()
        self._methods: dict[str, list[Callable[..., Any]]] = {}
        self.epoch = -1
        self.compared = False
        self.added_for: object = None
        self.divergence = DivergenceWatch()
        self.keeps_targets = False
        self._told: set[str] = set()
        self.adds = False  # whether the term is being added to what training_step has returned
        self._first = False  # whether the next step is the first of its fit
        self._may_ignore: bool | None = None  # whether the dataset lists labels that the loss leaves out
        self.ignoring = False  # whether samples that the loss leaves out are looked for in every step
        self.totals: list[tuple[int, int, torch.Tensor]] = []  # batch, epoch and loss of steps, to be checked
        self.total: torch.Tensor | None = None  # with manual optimization, the loss of the running step
        self.targets: tuple[torch.Tensor, torch.Tensor] | None = None
        self._loaded: dict[str, Any] = {}
        self.total_epochs: int | None = None  # M of a schedule, as the run began with it
        self._kept = False  # whether to warn if the Trainer's number of epochs differs

    def __reduce__(self) -> Any:
        return TermLoop, ()

    @property
    def state_key(self) -> str:
        """Name in a checkpoint."""
        return "LossTerm"

    @property
    def tables(self) -> dict[str, SampleTable]:
        """The tables of the terms, up to the last batch."""
        if self.attachment is not None:
            self.attachment.flush()
        return self._tables

    def bind(self, module: Terms, base: type) -> TermLoop:
        """Belong to a module. Returns the loop itself."""
        self._module, self._base = weakref.ref(module), base
        return self

    def _is_of(self, module: object) -> bool:
        return self._module() is module

    # -- hooks --------------------------------------------------------------------------------------

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Attach for fitting; a run from the first epoch begins with empty tables."""
        module = self._module()
        if stage != TrainerFn.FITTING or module is None or not self._is_of(pl_module):
            return  # a Trainer keeps the callbacks of a module that it trained before
        if module.mixin_options.term_weight == 0:
            return
        warn_of_stack(module)
        self._methods = {}
        self._kept = True
        skip_unused_hooks(self, trainer)
        module._mixin.source = module._mixin.source.completed_by(module)
        self.attachment = attach(trainer, pl_module, self, module._mixin.source, ("train",))
        self.compared, self._first = False, True
        self.ignoring, self.totals, self.total = module._mixin.source.ignore_index is not None, [], None
        if trainer.current_epoch == 0 and trainer.global_step == 0:
            self._tables, self.epoch, self._loaded, self.states = {}, -1, {}, {}
            self.total_epochs = None
            self._data = HeldData()
            self.divergence = DivergenceWatch()
        self.divergence.advice, self.divergence.finite_only = advice_of(type(module))
        self.attachment.advise(self.divergence.advice)

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Let the methods prepare the fit; the module is on its device by now."""
        module = self._module()
        if self.attachment is not None and module is not None:
            check_instance(module)  # setup hooks may have taken a name
            module.begin_fit(trainer)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Check that the data are those of the checkpoint."""
        self.begin_epoch(trainer.current_epoch)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Check that the term was added, and that the loss does not diverge."""
        if self.attachment is None:
            return
        self._keep_total(trainer, outputs, batch_idx)
        self.divergence.look_now_and_then(trainer, pl_module, self.attachment.flush)
        if outputs is None or self.added_for is self.attachment.running.loaded:
            return
        if pl_module.automatic_optimization and not outputs:
            return  # training_step returned None
        if pl_module.automatic_optimization:
            fix = "Its training_step must call super().training_step(...) (or move it into a class right of the mixin)."
        else:
            fix = "With manual optimization, call loss = self.regularized(loss) before self.manual_backward(loss)."
        raise RuntimeError(f"{type(pl_module).__name__} took a step without its mixins' loss. {fix}")

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Merge the ranks' rows, so that the checkpoints of the epoch's end hold all of them."""
        if self.attachment is not None:
            self.attachment.close_pass("train")
            self.attachment.check()
            self.divergence.look(trainer, pl_module, self.attachment.flush, whole=False)
            self._sync()

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Put the tables into the checkpoint: the loss reads them."""
        if not self._is_of(pl_module):
            return
        failed = sys.exc_info()[1] is not None
        if self.attachment is not None:
            failed = not self.attachment.may_communicate()
        try:
            self._save(checkpoint)
        except Exception as error:
            if not failed:
                raise
            # A checkpoint that another callback makes of a failed run is worth more than these tables.
            with contextlib.suppress(Exception):  # warnings may be errors
                rank_zero_warn(f"the tables of the loss are missing from the checkpoint: {error}")

    def _save(self, checkpoint: dict[str, Any]) -> None:
        if self.attachment is not None:
            self.attachment.flush()
        first_loss = self.divergence.first_loss
        kept = self._tables or self._loaded or self.states or first_loss is not None or self.ignoring
        if not kept:
            return
        # In an exception the other ranks may not come: a collective would wait for them for good.
        if self.attachment is not None and self.attachment.may_communicate():
            self._sync()
        partial = not all(table.merged for table in self._tables.values())
        tables = {**self._loaded, **{name: table.state_dict() for name, table in self._tables.items()}}
        checkpoint[CHECKPOINT_KEY] = {
            "version": STATE_VERSION,
            "tables": tables,
            "epoch": self.epoch,
            "total_epochs": self.total_epochs,
            "partial": partial,
            "data": self._data.state(),
        }
        module = self._module()
        found = None if module is None else known_state(module, module._mixin.source)
        if found is not None:
            checkpoint[CHECKPOINT_KEY]["logits"] = found
        if self.ignoring:
            checkpoint[CHECKPOINT_KEY]["ignoring"] = True
        if self.states:
            checkpoint[CHECKPOINT_KEY]["states"] = move_data_to_device(self.states, torch.device("cpu"))
        if first_loss is not None:
            checkpoint[CHECKPOINT_KEY]["first_loss"] = float(first_loss)

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Keep the tables of a checkpoint until their size is known."""
        if trainer.state.fn != TrainerFn.FITTING or CHECKPOINT_KEY not in checkpoint or self.attachment is None:
            return
        module, state = self._module(), checkpoint[CHECKPOINT_KEY]
        if module is None:
            return
        restore(pl_module, module._mixin.source, state.get("logits"))
        check_version(state, "LossTerm", trainer)
        self._data.load(state.get("data"))
        self.total_epochs = state.get("total_epochs")
        self._tables, self.epoch, self._loaded = {}, state["epoch"], dict(state["tables"])
        self.states = {name: dict(kept) for name, kept in state.get("states", {}).items()}
        self.divergence.first_loss = state.get("first_loss")
        self.ignoring |= state.get("ignoring", False)  # losses are computed as before, to the last bit
        if state["partial"] and trainer.world_size > 1:
            rank_zero_warn(
                "this checkpoint was written while an exception was in flight: the rows that other ranks wrote since "
                "the last merge are missing from the tables of the loss."
            )

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Detach; an error in here never takes the place of the one that is in flight."""
        with contextlib.suppress(Exception):
            if self.attachment is not None:
                self.attachment.flush()
        with contextlib.suppress(Exception):
            self._release()

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Detach."""
        self._release()

    # -- rows of steps --------------------------------------------------------------------------------

    takes_distributions = True
    every_step = False

    def wants(self, split: str) -> bool:
        """The rows of every training step: the methods' tables, and the check of the values that the loss saw."""
        return True

    def begin_epoch(self, epoch: int) -> None:
        """Check that the data have not changed; the epoch's first loss makes the tables readable."""
        module = self._module()
        self._may_ignore = None
        if self.attachment is not None and module is not None:
            for data in self.attachment.identify(module._mixin.source, "train"):
                self._compare(module, data)

    @property
    def holds_samples(self) -> bool:
        """Whether a method stores samples by their position; otherwise they may change."""
        module = self._module()
        if module is None:
            return False
        observes = bool(self.methods("observe") or self.methods("visit"))
        return observes or bool(methods_that(type(module), "finds_by_position"))

    @property
    def describes(self) -> bool:
        """Whether rows are read for more than their losses; most methods store what their step already has."""
        return bool(self.methods("observe"))

    @property
    def owner_name(self) -> str:
        """The name of the module's class, for errors."""
        return type(self._module()).__name__

    def _compare(self, module: Terms, data: LoaderData) -> None:
        if not self.holds_samples:
            return
        self._data.compare(
            type(module).__name__, data, self._restart if module.mixin_options.allow_changed_data else None
        )

    def _restart(self, split: str, loader: int) -> None:
        """Forget the tables, which are of other data."""
        self._tables, self._loaded, self.states = {}, {}, {}

    def skip(self, split: str) -> None:
        """Nothing: steps whose targets are distributions are observed, too."""

    def leaves_out(self, split: str, problem: str, *, sure: bool) -> bool:
        """Refuse steps whose loss had other targets; with ``base_loss="any"`` their rows are observed as they are.

        Returns False.
        """
        module = self._module()
        if module is None or module.mixin_options.base_loss == "any":
            return False
        if sure:
            raise ValueError(
                f"{type(module).__name__}: {problem}. The mixin adds mean(method loss - CE), with the batch's labels. "
                "Mix in the collate function, so that the batch has the mixed targets, or pass base_loss='any'."
            )
        if problem not in self._told:
            self._told.add(problem)
            rank_zero_warn(f"{type(module).__name__}: {problem}. The mixin's term was added as before.")
        return False

    def nothing_recorded(self, split: str, reason: str) -> None:
        """Refuse an epoch in which the loss had no part."""
        raise RuntimeError(
            f"nothing was recorded of a pass of {split} steps: {reason}, so that the mixins' loss had no part in it."
        )

    def declines(self, batch: object) -> bool:
        """Whether a step ended without its loss: one that returned None after a forward was no visit."""
        return self.added_for is not batch

    def read(self, split: str, loader: int, step: SampleStep) -> None:
        """Let the methods store what later epochs need."""
        module = self._module()
        if module is not None:
            if step.data is not None:
                self._compare(module, step.data)
            self._note_left_out(step)
            self._note_totals()
            observers = self.methods("observe")
            for part in step.pieces():
                for observe in observers:
                    observe(module, part)

    # -- samples and losses that do not count --------------------------------------------------------

    def counted(self, step: SampleStep) -> torch.Tensor | None:
        """Which samples of the running step the module's loss does not leave out (``ignore_index``).

        The labels of a fit's first step are always checked, which waits for a device once; those of later steps if
        they are on the host and the dataset does not list them. From the first label on that the loss leaves out, all
        are compared in every step; the rows of the steps before are read first, as there is none in them.

        Returns bool ``[B]``; None if all count, as far as the host knows.
        """
        ignored = None if step.choice is None else step.choice.ignored
        if ignored is None or not step.has_labels or self.attachment is None:
            return None
        if not self.ignoring:
            labels = step.target.cpu() if self._first else self._labels_to_look_at(step, ignored)
            self._first = False
            if labels is None or not len(labels) or not holds(labels, ignored):
                return None
            self.attachment.flush()
            self.ignoring = True
        counted: torch.Tensor = step.target != ignored
        return counted

    def _labels_to_look_at(self, step: SampleStep, ignored: int) -> torch.Tensor | None:
        """The step's labels on the host; None if none of them can be the ignored one, or a device alone has them."""
        attachment, module = self.attachment, self._module()
        assert attachment is not None
        assert module is not None
        source = module._mixin.source
        if step.choice is not None and not step.choice.loss_targets and source.labels != "may_change":
            if self._may_ignore is None:
                record = attachment.running.loaded.record(source)
                listed = None if record is None else kept_labels(record.dataset)
                self._may_ignore = listed is None or bool((listed == ignored).any())
            if not self._may_ignore:
                return None  # should one come nevertheless, the block tells
        return attachment.running.labels_on_host(step, source)

    def _note_left_out(self, step: SampleStep) -> None:
        """Raise an error for labels that the loss left out and the mixins counted, because they were not checked."""
        attachment, module = self.attachment, self._module()
        if self.ignoring or attachment is None or module is None or step.valid is None or not step.has_labels:
            return
        choice = attachment.choice(module._mixin.source)
        if choice is None or choice.ignored is None:
            return
        samples, label = step.samples, choice.ignored

        def error(row: int) -> Exception:
            return ValueError(
                f"{type(module).__name__}: the loss leaves out the label {label}, which sample "
                f"{'?' if samples is None else samples[row]} of epoch {step.epoch} first had. The dataset does not "
                "list it, or a device alone has the labels, so that the mixins counted the sample. Have them look in "
                f"every step: give the module the attribute flip_source = StepSource(ignore_index={label})."
            )

        self._tell(step.target != label, error)

    def _keep_total(self, trainer: pl.Trainer, outputs: Any, batch_idx: int) -> None:
        """Keep the loss with the added term, to be checked with the next block."""
        loss, self.total = self.total, None
        if loss is None and isinstance(outputs, Mapping):
            loss = outputs.get("loss")
        if isinstance(loss, torch.Tensor) and loss.numel() == 1 and not loss.requires_grad:
            self.totals.append((batch_idx, trainer.current_epoch, loss))

    def _note_totals(self) -> None:
        """Raise an error for infinite losses if the module's own is cross entropy, which is finite."""
        totals, self.totals = self.totals, []
        module = self._module()
        if not totals or module is None or self.attachment is None or module.mixin_options.base_loss != "cross_entropy":
            return

        def error(place: int) -> Exception:
            batch, epoch, _ = totals[place]
            return ValueError(
                f"{type(module).__name__}: the loss that its mixins add is infinite in batch {batch} of epoch {epoch}. "
                "If classes are masked (logits of minus infinity), its target has mass on one of them: label smoothing "
                "has it on all classes, a teacher, a partner or an average of earlier predictions where other classes "
                "were masked. Mask the same classes of a sample everywhere, or take a method whose target has mass on "
                "the label alone."
            )

        losses = [loss.float() if loss.ndim == 0 else loss.float().reshape(()) for *_, loss in totals]
        self._tell(~torch.stack(losses).isinf(), error)

    def _tell(self, good: torch.Tensor, error: Callable[[int], Exception]) -> None:
        """Raise the error of the first bad place: at once on the CPU, deferred on a device."""
        assert self.attachment is not None
        if good.device.type != "cpu":
            self.attachment.defer(good, error)
            return
        place = first_false(good)
        if place is not None:
            raise error(place)

    def running(self) -> Attachment | None:
        """The attachment, if the term is to be added to the running step."""
        module, attachment = self._module(), self.attachment
        if module is None or attachment is None or module.mixin_options.term_weight == 0:
            return None
        if not module.trainer.training:
            return None
        tuning = not any(callback is self for callback in getattr(module.trainer, "callbacks", ()))
        return None if tuning else attachment

    def schedule(self) -> tuple[int, int]:
        """k, counted from 1, and M of a schedule.

        Returns the running epoch and M: ``total_epochs`` if given, else the smaller of the Trainer's ``max_epochs`` and
        ``max_steps`` over the optimizer steps of an epoch. A resumed run keeps the M that it began with, as its earlier
        epochs were weighted by it.
        """
        module = self._module()
        assert module is not None
        trainer, given = module.trainer, module.mixin_options.total_epochs
        if given is None and self.total_epochs is not None:
            given = self.total_epochs
            with contextlib.suppress(ValueError):  # a Trainer without an end may continue such a run
                own = schedule(trainer, None)[1] if self._kept else given
                if own != given:
                    rank_zero_warn(
                        f"this run began with a schedule of M = {given} epochs and keeps it, though the Trainer now "
                        f"trains for {own}. Pass total_epochs= to change M."
                    )
        self._kept = False
        epoch, self.total_epochs = schedule(trainer, given)
        return epoch, self.total_epochs

    def methods(self, name: str) -> list[Callable[..., Any]]:
        """What each method of the module's class defines under a name of ``LossTerm``, looked up once per fit."""
        if name not in self._methods:
            module = self._module()
            owners = [] if module is None else owners_of(type(module), name, self._base)
            self._methods[name] = [vars(owner)[name] for owner in owners]
        return self._methods[name]

    # -- tables -------------------------------------------------------------------------------------

    def table(self, name: str, step: SampleStep, width: int) -> SampleTable:
        """A table of the terms, made at first use and filled from the checkpoint that was loaded."""
        module = self._module()
        assert module is not None
        num_samples = step.table_size(module.mixin_options.num_samples)
        if name not in self._tables:
            dtype = module.storage_dtype(step)
            needed = SampleTable.bytes_needed(num_samples, width, dtype)
            rank_zero_info(f"{name} table: {num_samples} samples x {width} x {dtype} = {needed / 1e6:.1f} MB")
            saved = self._loaded.get(name)
            rows = num_samples if saved is None else min(num_samples, len(saved["rows"]))  # the data may have grown
            try:
                table = SampleTable(rows, width, dtype=dtype, device=step.logits.device)
            except RuntimeError as error:
                raise MemoryError(
                    f"the {name} table of {num_samples} samples x {width} columns takes {needed / 1e9:.1f} GB and does "
                    f'not fit on {step.logits.device}. table_dtype="float16" halves it.'
                ) from error
            if saved is not None:
                table.load_state_dict(saved)
                del self._loaded[name]
            self._tables[name] = table
        table = self._tables[name]
        if table.width != width:
            raise ValueError(
                f"the {name} table has {table.width} columns, this step's logits have {width} classes. The number of "
                "classes cannot change within a run: check what logits_from names, or start a new run."
            )
        table.grow(num_samples)
        if table.device != step.logits.device:
            table.to(step.logits.device)
        return table

    def begin_step(self, trainer: pl.Trainer, step: SampleStep) -> None:
        """Notice a new epoch in its first step: the hooks of an epoch's end do not run after every resumption."""
        if self.epoch == trainer.current_epoch:
            return
        module = self._module()
        assert module is not None
        for name, state in list(self._loaded.items()):  # a table must be there before its rows can be committed
            self.table(name, step, state["rows"].shape[1])
        for new_epoch in self.methods("new_epoch"):
            new_epoch(module, trainer.current_epoch + 1)
        self.epoch = trainer.current_epoch

    def _sync(self) -> None:
        for name in sorted(self._tables):
            self._tables[name].sync()

    def _release(self) -> None:
        restore_hooks(self)
        if self.attachment is not None:
            self.attachment.release(self)
            module = self._module()
            if module is not None:
                module.end_fit()
        self.attachment = self.added_for = self.targets = None
        self.keeps_targets = False


def add_loop(callbacks: Any, loop: TermLoop) -> list[Any]:
    """The module's callbacks and its loop, unless the Trainer kept the loop from an earlier fit.

    The Trainer would announce an override although nothing changes.
    """
    listed = list(callbacks) if isinstance(callbacks, (list, tuple)) else [callbacks]
    module = loop._module()
    kept = [] if module is None or module._trainer is None else getattr(module.trainer, "callbacks", [])
    return listed if any(callback is loop for callback in [*listed, *kept]) else [*listed, loop]


def with_loop(configure: Callable[[Any], Any]) -> Callable[[Any], list[Any]]:
    """Wrap a class's own ``configure_callbacks`` so that it also returns the loop, even without calling ``super``."""

    @functools.wraps(configure)
    def configure_callbacks(self: Any) -> list[Any]:
        return add_loop(configure(self), self._term_loop)

    return configure_callbacks


def _no_module() -> None:
    return None
