"""What mixins share that mix the samples of a batch before the module sees them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

import lightning.pytorch as pl
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from lightning_flip.functional.losses import one_hot_targets
from lightning_flip.mixins._keyed_draws import keyed_seed
from lightning_flip.mixins._options import check_choices, owners_of
from lightning_flip.mixins.base import LossTerm
from lightning_flip.steps import SampleStep, find_target
from lightning_flip.steps.batch_parts import input_place, target_place, with_part
from lightning_flip.steps.features import classifier_layer
from lightning_flip.steps.options import check_paths
from lightning_flip.steps.targets import select

__all__ = ["BatchMixing"]


class BatchMixing(LossTerm):
    """Hands the module's ``training_step`` a batch whose inputs and targets are mixed; a method says how.

    Mixed targets are distributions, float ``[B, K]``. ``F.cross_entropy`` takes them; what only follows labels
    (callbacks on training data, methods that ask whether a sample was right) does not, and says so. A module that
    cannot take them itself, such as one with a training accuracy or a binary loss, gets mixed inputs with the label of
    each pair's first sample: ``mixed_targets="labels"``. With ``term_weight=1`` the loss is the same to rounding, for
    the difference that is added then begins at the cross entropy of that label. Callbacks see those labels as well.

    Each rank mixes its own batch. What is drawn follows from the seed, the epoch, the batch and the rank; the global
    random state is not touched. Validation, test and prediction are as they were.

    Args:
        *args: passed on to the module.
        mixed_targets: "distributions" or "labels", what the module is given on mixed batches.
        input_from: key, attribute or position of the inputs in the batch, where they are not in one of the usual
            places. All tensors in there are mixed; they must be floating point.
        classifier_from: dotted path of the layer whose outputs are the logits, an ``nn.Linear``; "" for the last one.
        **kwargs: options of :class:`LossTerm`, and the module's.

    Raises:
        AttributeError: if there is no such layer.
        TypeError: if it is no ``nn.Linear``; at class definition, if two mixins would mix the same batch.
        ValueError: if an option is out of range, or a module with one logit would get distributions.
    """

    @classmethod
    def _define(cls) -> None:
        super()._define()
        mixers = owners_of(cls, "mix_parts", BatchMixing)
        if len(mixers) > 1:
            raise TypeError(
                f"{cls.__name__}: {' and '.join(part.__name__ for part in mixers)} would both mix the same batch. "
                "Use one of them."
            )

    def __init__(
        self,
        *args: Any,
        mixed_targets: Literal["distributions", "labels"] = "distributions",
        input_from: str | int | None = None,
        classifier_from: str = "",
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        check_paths('a layer, "" for the last nn.Linear', classifier_from=classifier_from)
        if input_from is not None and (isinstance(input_from, bool) or not isinstance(input_from, (str, int))):
            raise TypeError(
                f"input_from must be a key, an attribute or a position of the batch, where what was mixed can be "
                f"written; got {input_from!r}."
            )
        check_choices(mixed_targets=(mixed_targets, ("distributions", "labels")))
        self.mixin_options.take(mixed_targets=mixed_targets, input_from=input_from, classifier_from=classifier_from)
        self._mixin.mixed_before = False
        self._mixin.mixture = None
        self._mixin.mixed_distributions = False
        if self.mixin_options.term_weight == 0:
            return
        outputs = self.mixed_layer().out_features
        if outputs == 1 and mixed_targets == "distributions":
            raise ValueError(
                f"{type(self).__name__}: the classifier layer has one output, and the loss of a module with one logit "
                'cannot take distributions [B, 2]. Pass mixed_targets="labels".'
            )
        self._mixin.mixed_classes = max(outputs, 2)  # one logit z counts as [0, z]

    # -- what a method defines ------------------------------------------------------------------------

    def mixes(self, number: int) -> bool:
        """Whether a batch is mixed.

        Args:
            number: of batches that the run has trained on before this one, in all epochs; a resumed run keeps counting.

        Returns:
            True for every batch, where a method says nothing else.
        """
        return True

    def mix_parts(self, parts: list[Tensor], target: Tensor, seed: int) -> tuple[list[Tensor], Tensor]:
        """Mix the samples of a batch; a method says how.

        Args:
            parts: the input's tensors, float ``[B, ...]``, on the module's device.
            target: distributions ``[B, K]`` on the same device.
            seed: seed of all that is drawn.

        Returns:
            Mixed parts and mixed targets, of the same shapes.
        """
        return parts, target

    # -- what a method uses ---------------------------------------------------------------------------

    def mixed_layer(self) -> nn.Linear:
        """The classifier layer.

        Returns:
            The layer that ``classifier_from`` names, or the last ``nn.Linear``.

        Raises:
            AttributeError: if there is no such layer.
            TypeError: if it is no ``nn.Linear``.
        """
        layer = classifier_layer(self, self.mixin_options.classifier_from, "classifier_from", linear=True)
        assert isinstance(layer, nn.Linear)
        return layer

    def mixture(self, step: SampleStep) -> Tensor:
        """The targets of the running step as the method has mixed them, whatever the module was given.

        Args:
            step: the running step.

        Returns:
            Distributions ``[B, K]``, or the step's labels ``[B]`` where the batch was not mixed.
        """
        return step.target if self._mixin.mixture is None else self._mixin.mixture

    def require_unmixed(self, known: str) -> None:
        """Refuse a batch that was mixed.

        Args:
            known: what the method has, for the error.

        Raises:
            TypeError: if it was.
        """
        super().require_unmixed(known)
        if self._mixin.mixture is not None:
            raise TypeError(
                f"{type(self).__name__}: {known} for each single sample, and {self._mixer().__name__} has mixed the "
                "samples of this batch. Leave out the one or the other."
            )

    # -- the loop -------------------------------------------------------------------------------------

    def step_for_methods(self, step: SampleStep) -> SampleStep:
        """The step with the mixture as target, which methods beside this one need, whatever the module was given."""
        step = super().step_for_methods(step)
        return step if self._mixin.mixture is None or not step.has_labels else replace(step, target=self._mixin.mixture)

    def brings_distributions(self, step: SampleStep) -> bool:
        """Whether they were distributions before they were mixed."""
        return super().brings_distributions(step) if self._mixin.mixture is None else self._mixin.mixed_distributions

    def begin_fit(self, trainer: pl.Trainer) -> None:
        """Have the module's loss compared again on its first mixed batch."""
        super().begin_fit(trainer)
        self._mixin.mixed_before = False

    def training_step(self, *args: Any, **kwargs: Any) -> Any:
        """The module's step on the mixed batch, with the term added to its loss.

        Args:
            *args: what Lightning passes.
            **kwargs: what Lightning passes.

        Returns:
            What the module's step returned, with another loss.
        """
        attachment = self._term_loop.running()
        # In Lightning's own checkpoints. Its `ready` would count a batch twice that a failure interrupted.
        if attachment is None or not self.mixes(self.trainer.fit_loop.epoch_loop.batch_progress.total.completed):
            return super().training_step(*args, **kwargs)
        batch = args[0] if args else kwargs["batch"]
        batch = attachment.running.alter_batch(batch, self._mixin.source, self._mixed)
        if args:
            args = (batch, *args[1:])
        else:
            kwargs = {**kwargs, "batch": batch}
        if not self._mixin.mixed_before:  # the first comparison saw labels, if the run began with a batch of originals
            self._mixin.mixed_before = True
            self._term_loop.compared = False
        try:
            return super().training_step(*args, **kwargs)
        except Exception as error:
            if self.mixin_options.mixed_targets == "distributions":
                error.add_note(
                    f"{type(self).__name__} gave training_step a mixed batch, whose targets are distributions, float "
                    '[B, K]. If the module cannot take them, pass mixed_targets="labels".'
                )
            raise
        finally:
            self._mixin.mixture = None

    def _mixed(self, batch: Any) -> Any:
        """A batch of the user's form with everything mixed."""
        options = self.mixin_options
        source = self._mixin.source
        at, target_at = input_place(batch, options.input_from), target_place(batch, source.target_from)
        inputs, target = select(batch, at, "input_from"), find_target(batch, source.target_from)
        parts: list[Tensor] = []
        tree_map(lambda leaf: parts.append(leaf) if isinstance(leaf, Tensor) else None, inputs)
        _check_parts(parts, at, len(target), type(self).__name__)
        _refuse_outside(self, target)
        distributions = one_hot_targets(target, self._mixin.mixed_classes, parts[0])
        seed = keyed_seed(self.trainer, self._mixer().__name__)
        mixed, distributions = self.mix_parts(parts, distributions.to(parts[0].device), seed)
        waiting = iter(mixed)
        batch = with_part(batch, at, tree_map(lambda leaf: next(waiting) if isinstance(leaf, Tensor) else leaf, inputs))
        self._mixin.mixture, self._mixin.mixed_distributions = distributions, target.ndim == 2
        return batch if options.mixed_targets == "labels" else with_part(batch, target_at, distributions)

    def _mixer(self) -> type:
        return owners_of(type(self), "mix_parts", BatchMixing)[0]


def _refuse_outside(module: BatchMixing, target: Tensor) -> None:
    """Refuse labels that are not classes, such as those that a loss leaves out, with which nothing can be mixed."""
    attachment, trainer, classes = module._term_loop.attachment, module.trainer, module._mixin.mixed_classes
    if target.ndim > 1 or attachment is None:
        return
    samples = attachment.running.arrival.samples(module._mixin.source)
    moment = f"batch {trainer.fit_loop.batch_idx} of epoch {trainer.current_epoch}"

    def error(row: int) -> Exception:
        name = samples[row] if row < len(samples) else "of the padding"
        return ValueError(
            f"{module._mixer().__name__} mixes labels, and that of sample {name} in {moment} is {int(target[row])}; "
            f"expected one in [0, {classes}). Take samples without a label out of the training data (Subset)."
        )

    if target.device.type != "cpu":
        attachment.defer((target >= 0) & (target < classes), error)
    elif len(target) and not 0 <= target.numpy().min() <= target.numpy().max() < classes:
        raise error(next(row for row, label in enumerate(target.tolist()) if not 0 <= label < classes))


def _check_parts(parts: list[Tensor], at: str | int, rows: int, name: str) -> None:
    if not parts:
        raise TypeError(f"{name} found no tensor to mix at {at!r} in the batch. Pass input_from= to name the inputs.")
    for part in parts:
        if not part.is_floating_point() or part.ndim == 0 or part.shape[0] != rows:
            raise TypeError(
                f"{name} mixes inputs as weighted sums of samples, and the batch has {part.dtype} of shape "
                f"{tuple(part.shape)} at {at!r}; expected floating point of shape [{rows}, ...]. Convert images to "
                "float in the dataset, or pass input_from= to name what is to be mixed."
            )
