"""The base of all mixins: it adds the difference between a method's loss and the cross entropy."""

from __future__ import annotations

import functools
import inspect
import math
import weakref
from collections.abc import Callable, Mapping, Sequence
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import lightning.pytorch as pl
import torch
from torch import Tensor

from lightning_flip.functional.losses import cross_entropy
from lightning_flip.mixins._base_loss import check_base_loss
from lightning_flip.mixins._counted import mean_over, with_any_label
from lightning_flip.mixins._definition import (
    check_corrections,
    check_definition,
    check_instance,
    methods_that,
    owners_of,
)
from lightning_flip.mixins._loop import TermLoop, add_loop, with_loop
from lightning_flip.mixins._options import (
    MixinOptions,
    accepted_arguments,
    check_table_dtype,
    group_hyperparameters,
    storage_dtype,
)
from lightning_flip.mixins._stacking import Stacked, warn_of_distributions
from lightning_flip.mixins._training_targets import training_targets
from lightning_flip.steps import SampleStep, StepSource
from lightning_flip.steps.options import check_flags, check_numbers, check_whole

if TYPE_CHECKING:
    _Module = pl.LightningModule
else:
    _Module = object

__all__ = ["LossTerm", "Reduced"]

#: The reductions with which ``method_loss`` may be called.
Reduced = Literal["none", "excess"]


class LossTerm(Stacked, _Module):
    """Adds ``term_weight * mean(method loss - CE)`` to what ``training_step`` returns.

    With a module whose loss is mean cross entropy this is exactly the method's loss, and whatever else the
    module adds (weight decay terms, auxiliary heads) stays. A mixin stands left of the module::

        class Robust(FlippingErrorReduction, LitClassifier): ...

    A method is a subclass that defines :meth:`method_loss`, and :meth:`observe` and :meth:`new_epoch` if it
    keeps a table. Several methods can be combined in one class; their differences add up. The page "Stacking methods"
    explains which go together, and the class attributes of a method.

    Args:
        *args: passed on to the module.
        term_weight: weight of the difference; 0 switches the mixin off: training is then bit for bit that of
            the module alone.
        base_loss: "cross_entropy" compares the module's loss with mean cross entropy in the first step and
            stops if it is something else (class weights, smoothing, a sum); "any" adds the difference to
            whatever the module returns.
        logits_from: where the logits are, see :class:`~lightning_flip.steps.StepSource`; None finds them. A function of
            what ``training_step`` returned needs automatic optimization.
        target_from: key, attribute, position in the batch, or function of it, where the targets are not in
            one of the usual places.
        index_from: the same for sample ids that the batch carries itself (iterable datasets).
        loader: which training loader to follow, where there are several.
        outputs: what ``logits_from`` gives: "logits", "log_probs" or "probs"; None: what the loss says.
        labels: "may_change" if labels are corrected during training; otherwise a label that differs from the first
            one of its sample stops the run.
        allow_changed_data: start with empty tables on other data than those of the checkpoint, or of the epoch before,
            instead of refusing them. Data that have grown at their end are followed in any case.
        num_samples: number of samples, needed with ``index_from`` only.
        total_epochs: M of a schedule. None takes the smaller of the Trainer's ``max_epochs`` and ``max_steps`` over the
            steps of an epoch. So it is needed without both, and with ``max_steps`` if there are several optimizers or
            the number of batches in an epoch is not known.
        table_dtype: storage type of tables, "float16" halves them; None: that of the computation.
        **kwargs: passed on to the module.

    Raises:
        TypeError: at class definition, if a mixin stands right of the module, two of them correct for label noise, or
            two options share a name; when it is made, if an option is of the wrong kind.
        ValueError: if an option is out of range.

    Example:
        A method that pushes every probability of the label towards a half:

        >>> from lightning_flip.models import MLP, Classifier
        >>> class Hesitation(LossTerm):
        ...     def method_loss(self, step):
        ...         prob = step.logits.softmax(dim=1).gather(1, step.target[:, None])[:, 0]
        ...         return (prob - 0.5) ** 2
        >>> class Hesitant(Hesitation, Classifier): ...
        >>> Hesitant(network=MLP(4, 3), num_classes=3, term_weight=0.5).mixin_options.term_weight
        0.5
    """

    #: Whether the method moves the target away from the label; two such methods in one class warn.
    softens_target: ClassVar[bool] = False
    #: Whether the loss has something in the place of all or part of the cross entropy; two such methods warn.
    replaces_cross_entropy: ClassVar[bool] = False
    #: Whether the method corrects the loss for label noise; two such methods are an error at class definition.
    corrects_noise: ClassVar[bool] = False
    #: Whether the method looks samples up by position without observing them, as in a file of soft targets.
    finds_by_position: ClassVar[bool] = False
    #: What to change if the loss diverges. The loss of a method with advice is watched.
    divergence_advice: ClassVar[str] = ""

    @classmethod
    def _define(cls) -> None:
        super()._define()
        check_corrections(cls)
        check_definition(cls)
        # A class left of the mixins may define configure_callbacks without calling super().
        owner = next(part for part in cls.__mro__ if "configure_callbacks" in vars(part))
        if owner is not LossTerm:
            type.__setattr__(cls, "configure_callbacks", with_loop(vars(owner)["configure_callbacks"]))

    def __init__(
        self,
        *args: Any,
        term_weight: float = 1.0,
        base_loss: Literal["cross_entropy", "any"] = "cross_entropy",
        logits_from: str | Callable[[Any], Any] | None = None,
        target_from: str | int | Callable[[Any], Any] | None = None,
        index_from: str | int | Callable[[Any], Any] | None = None,
        loader: int | str | None = None,
        outputs: str | None = None,
        labels: Literal["fixed", "may_change"] | None = None,
        allow_changed_data: bool = False,
        num_samples: int | None = None,
        total_epochs: int | None = None,
        table_dtype: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        check_instance(self, made=False)
        check_numbers(term_weight=term_weight)
        check_flags(allow_changed_data=allow_changed_data)
        if base_loss not in ("cross_entropy", "any"):
            raise ValueError(f'base_loss must be "cross_entropy" or "any"; got {base_loss!r}.')
        if not math.isfinite(term_weight):
            raise ValueError(f"term_weight must be finite; got {term_weight}.")
        for name, count in (("num_samples", num_samples), ("total_epochs", total_epochs)):
            if count is not None:
                check_whole(**{name: count})
                if count < 1:
                    raise ValueError(f"{name} must be at least 1; got {count}.")
        check_table_dtype(table_dtype)
        source = StepSource(logits_from, target_from, index_from, loader, outputs=outputs, labels=labels)
        self.mixin_options = MixinOptions(
            term_weight=term_weight,
            base_loss=base_loss,
            allow_changed_data=allow_changed_data,
            num_samples=num_samples,
            total_epochs=total_epochs,
            table_dtype=table_dtype,
        )
        self._mixin = SimpleNamespace(
            loop=TermLoop(), source=source.completed_by(self), corrections=methods_that(type(self), "corrects_noise")
        )

    # -- what a method defines ------------------------------------------------------------------------

    def method_loss(self, step: SampleStep) -> Tensor | None:
        """The method's loss of every sample, with gradient into ``step.logits``.

        Args:
            step: the running step. Samples that the module's loss leaves out (``ignore_index``) are not ``valid`` in it
                and have some label; what is said of them does not count.

        A method with a parameter ``reduction`` is called with "excess" and may then return a scalar: the mean over the
        batch of its loss minus cross entropy, which often takes fewer operations.

        Returns:
            ``[B]``; None where the method adds nothing, which leaves the module's loss as it is to the last bit.
            The base itself is plain cross entropy.
        """
        return cross_entropy(step.logits, step.target, reduction="none")

    def soft_target(self, step: SampleStep) -> Tensor | None:
        """The target s of a method whose loss is the cross entropy H(s, p). For reports only; training does not use it.

        Args:
            step: the running step.

        Returns:
            Labels ``[B]`` or distributions ``[B, K]``; None where the loss is of another form.
        """
        return None

    def begin_fit(self, trainer: pl.Trainer) -> None:
        """Prepare a fit, once the module is on its device; overrides call ``super().begin_fit``.

        Args:
            trainer: the Trainer whose fit begins.
        """

    def end_fit(self) -> None:
        """Release what a fit needed; overrides call ``super().end_fit``."""

    def observe(self, step: SampleStep) -> None:
        """Store what later epochs need; called some steps later, for the rows of up to 64 steps at a time.

        Before the first loss of an epoch, before a checkpoint, and at the end of training all rows have been observed.

        Args:
            step: detached, in at least float32, without a DistributedSampler's padding; no index repeats.
        """

    def visit(self, step: SampleStep) -> None:
        """Store what later steps of the same epoch need; called once for every batch, after its first loss.

        Args:
            step: as for :meth:`observe`, but of the running step alone.
        """

    def new_epoch(self, epoch: int) -> None:
        """Make what the epoch before stored readable.

        Args:
            epoch: number of the epoch that begins, counted from 1.
        """

    # -- what a method uses ---------------------------------------------------------------------------

    def table(self, name: str, step: SampleStep, width: int) -> Any:
        """The method's table of a name, made at first use; it goes into checkpoints.

        Args:
            name: its name.
            step: the running step.
            width: number of columns.

        Returns:
            A :class:`~lightning_flip.tables.SampleTable`.
        """
        return self._term_loop.table(name, step, width)

    def storage_dtype(self, step: SampleStep) -> torch.dtype:
        """Storage type of this module's tables.

        Args:
            step: the running step.

        Returns:
            ``table_dtype``, or the type of the computation.
        """
        return storage_dtype(self.mixin_options.table_dtype, step.logits)

    def require_labels(self, step: SampleStep) -> None:
        """Refuse targets that are distributions, for methods that need class labels.

        Args:
            step: the running step.

        Raises:
            TypeError: if the targets are distributions.
        """
        if not step.has_labels:
            raise TypeError(
                f"{type(self).__name__} needs class labels, but the targets are distributions, float [B, K] (MixUp or "
                "CutMix). Train without mixing, or do the mixing in another run."
            )

    # -- the loop -------------------------------------------------------------------------------------

    @property
    def _term_loop(self) -> TermLoop:
        loop: TermLoop = self._mixin.loop
        return loop.bind(self, LossTerm)

    def keep_training_targets(self) -> None:
        """Keep the training targets of every step until the fit ends."""
        self._term_loop.keeps_targets = True

    @property
    def kept_training_targets(self) -> tuple[Tensor, Tensor] | None:
        """True classes and targets of the last step, both ``[B, K]``; None if the mixins took no part in it."""
        return self._term_loop.targets

    def configure_callbacks(self) -> Any:
        """The module's own callbacks and the one that runs the loss terms.

        Returns:
            A list of callbacks.
        """
        return add_loop(super().configure_callbacks(), self._term_loop)

    def training_step(self, *args: Any, **kwargs: Any) -> Any:
        """The module's step, with the term added to its loss.

        Args:
            *args: what Lightning passes.
            **kwargs: what Lightning passes.

        Returns:
            What the module's step returned, with another loss.
        """
        step: Callable[..., Any] = super().training_step
        args, kwargs = accepted_arguments(step, args, kwargs)
        output = step(*args, **kwargs)
        if not self.automatic_optimization:
            return output  # regularized() was called in there
        loop = self._term_loop
        if loop.attachment is not None:
            loop.attachment.running.note_output(output)
        loss = output.get("loss") if isinstance(output, Mapping) else output
        if loss is None:
            return output
        loop.adds = True
        try:
            loss = self.regularized(loss)
        finally:
            loop.adds = False
        return {**output, "loss": loss} if isinstance(output, Mapping) else loss

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def regularized(self, loss: Tensor) -> Tensor:
        """A loss with the term added; manual optimization calls this before the backward pass.

        Args:
            loss: the module's loss for the batch.

        Returns:
            The loss to be minimized.
        """
        options = self.mixin_options
        loop = self._term_loop
        if self.automatic_optimization and not loop.adds:
            raise RuntimeError(
                f"{type(self).__name__} calls regularized() itself, and trains with automatic optimization: the mixins "
                "then add their term to what training_step returns, and the call would add it twice. Remove the call; "
                "rename the method if it is one of your own, which the mixins' regularized() hides."
            )
        attachment = loop.running()
        if attachment is None:
            return loss
        if not attachment.running.note_loss(loss) and not self.automatic_optimization:
            raise RuntimeError(
                f"{type(self).__name__} called regularized() a second time in one training_step. The term is that of "
                "the first forward's logits, so that it would be counted twice and miss the second forward. Call it "
                "once, with the loss of the first forward; leave further losses, such as SAM's second one, as they are."
            )
        visits = loop.methods("visit")
        # Rows are checked when their block is read; what a method writes at once has to be checked at once.
        checked = bool(visits) or not loop.compared
        step = attachment.running.seen_through(self._mixin.source, checked=checked)
        if step is None:
            return loss
        loop.begin_step(self.trainer, step)
        counted = loop.counted(step)
        if counted is not None:
            step = with_any_label(step, counted)
        if not loop.compared and step.choice is not None and step.choice.edited:
            raise ValueError(
                f"{type(self).__name__}: training_step edits the logits in place between the forward and the loss, so "
                "that the loss is of other logits than the ones that are kept. Write logits = logits - 2 instead of "
                "logits -= 2."
            )
        if not loop.compared:
            plain = _plain(step) if counted is None else _plain(step)[counted]
            loop.compared = options.base_loss != "cross_entropy" or check_base_loss(
                loss, plain, step.logits.dtype, type(self).__name__, step.choice, labels=step.has_labels
            )
        given = self.step_for_methods(step)
        try:
            excess = _excess_of(self, step, given, counted)
        except (RuntimeError, IndexError):
            attachment.sample_step(self._mixin.source)  # says more about labels that are outside the classes
            raise
        if loop.keeps_targets and loop.added_for is not attachment.running.loaded:
            loop.targets = training_targets(self, step, given, owners_of(type(self), "method_loss", LossTerm))
        if self.brings_distributions(step):
            warn_of_distributions(self)
        if excess is not None:
            loss = loss + (excess if options.term_weight == 1 else options.term_weight * excess)
            if not self.automatic_optimization:
                loop.total = loss.detach()
        if loop.added_for is not attachment.running.loaded:  # a closure may run several times; a batch is one visit
            loop.added_for = attachment.running.loaded
            if visits:
                for part in step.observed.once():
                    for method in visits:
                        method(self, part)
            if loop.divergence.advice:  # of samples that are all left out, the mean is NaN
                total = loss.detach()
                loop.divergence.add(
                    total if counted is None else torch.where(counted.any(), total, 0.0), step.num_classes
                )
        return loss

    def save_hyperparameters(
        self, *args: Any, ignore: Sequence[str] | str | None = None, frame: Any = None, logger: bool = True
    ) -> None:
        """As LightningModule does, with the options of mixins in a group, ``hparams["mixin_options"]``.

        Args:
            *args: names to save, or one object with all hyperparameters; all of the constructor's by default.
            ignore: names to leave out.
            frame: the constructor's frame; the caller's by default.
            logger: whether they go to the logger.
        """
        current = inspect.currentframe()
        frame = frame or (None if current is None else current.f_back)
        before = dict(self.hparams)
        super().save_hyperparameters(*args, ignore=ignore, frame=frame, logger=logger)
        if all(isinstance(arg, str) for arg in args):
            group_hyperparameters(self, before)


def _excess_of(module: LossTerm, step: SampleStep, given: SampleStep, counted: Tensor | None) -> Tensor | None:
    """The mean over the samples that count of what all methods add to cross entropy; None if they add nothing."""
    found: list[Tensor | None] = []
    for method in module._term_loop.methods("method_loss"):
        if counted is None and _takes_reduction(method):
            found.append(method(module, given, reduction="excess"))
            continue
        losses = method(module, given)
        found.append(None if losses is None else mean_over(losses - _plain(given), counted))
    if given is not step:
        found.append(mean_over(_plain(given) - _plain(step), counted))
    excess = [mean for mean in found if mean is not None]
    return functools.reduce(torch.add, excess) if excess else None


def _plain(step: SampleStep) -> Tensor:
    """Cross entropy of every sample."""
    return cross_entropy(step.logits, step.target, reduction="none")


def _takes_reduction(method: Callable[..., Any]) -> bool:
    """Whether a ``method_loss`` has the parameter; looked up once for every function."""
    known = _REDUCES.get(method)
    if known is None:
        known = _REDUCES[method] = "reduction" in inspect.signature(method, follow_wrapped=False).parameters
    return known


_REDUCES: weakref.WeakKeyDictionary[Callable[..., Any], bool] = weakref.WeakKeyDictionary()
