"""The base of the methods that mix the samples of a batch before the module sees them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

import lightning.pytorch as pl
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_unflatten

from lightning_flip.functional.losses import one_hot_targets
from lightning_flip.mixins._definition import owners_of, refuse_several
from lightning_flip.mixins._keyed_draws import keyed_seed
from lightning_flip.mixins.base import LossTerm
from lightning_flip.steps import SampleStep, find_target
from lightning_flip.steps.logits.capture import classifier_layer
from lightning_flip.steps.options import check_choices, check_paths
from lightning_flip.steps.targets import input_place, select, target_place, with_part

__all__ = ["BatchMixing"]


class BatchMixing(LossTerm):
    """Gives the module's ``training_step`` a batch whose inputs and targets are mixed; :meth:`mix_parts` mixes them.

    Mixed targets are distributions, float ``[B, K]``. ``F.cross_entropy`` takes them; whatever needs labels (callbacks
    on training data, methods that need each sample's right class) raises or warns. A module that cannot take them
    itself, such as one with a training accuracy or a binary loss, gets mixed inputs with the label of each pair's first
    sample: ``mixed_targets="labels"``. With ``term_weight=1`` the loss is then the same up to rounding, as the
    difference starts from the cross entropy of that label. Callbacks see those labels as well.

    Each rank mixes its own batch. Draws depend on the seed, the epoch, the batch and the rank alone; the global random
    state stays as it is. Validation, test and prediction do not change.

    Args:
        mixed_targets: "distributions" or "labels": the targets that the module gets with mixed batches.
        input_from: key, attribute or position of the inputs in the batch, if they are not in one of the usual
            places. All tensors in there are mixed; they must be floating point.
        classifier_from: dotted path of the layer whose outputs are the logits, an ``nn.Linear``; "" for the last one.

    Raises:
        AttributeError: if there is no such layer.
        TypeError: if it is not an ``nn.Linear``; at class definition, if two mixins would mix the same batch.
        ValueError: if a module with one logit would get distributions.
    """

    @classmethod
    def _define(cls) -> None:
        super()._define()
        mixers = [part.__name__ for part in owners_of(cls, "mix_parts", BatchMixing)]
        refuse_several(cls, mixers, "would both mix the same batch")

    def __init__(
        self,
        *args: Any,
        mixed_targets: Literal["distributions", "labels"] = "distributions",
        input_from: str | int | None = None,
        classifier_from: str = "",
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        if input_from is not None and (isinstance(input_from, bool) or not isinstance(input_from, (str, int))):
            raise TypeError(
                f"input_from must be a key, an attribute or a position of the batch, to which the mixture can be "
                f"written; got {input_from!r}."
            )
        self.mixin_options.take(
            **check_choices(mixed_targets=(mixed_targets, ("distributions", "labels"))),
            **check_paths('a layer, "" for the last nn.Linear', classifier_from=classifier_from),
            input_from=input_from,
        )
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
        """Whether a batch is mixed; every batch by default.

        Args:
            number: batches that the run trained on before this one, in all epochs; a resumed run keeps counting.
        """
        return True

    def mix_parts(self, parts: list[Tensor], target: Tensor, seed: int) -> tuple[list[Tensor], Tensor]:
        """Mix the samples of a batch.

        Args:
            parts: the input's tensors, float ``[B, ...]``, on the module's device.
            target: distributions ``[B, K]`` on the same device.
            seed: seed for all random draws.

        Returns:
            Mixed parts and mixed targets, of the same shapes.
        """
        return parts, target

    # -- what a method uses ---------------------------------------------------------------------------

    def mixed_layer(self) -> nn.Linear:
        """The classifier layer: the one that ``classifier_from`` names, or the last ``nn.Linear``."""
        layer = classifier_layer(self, self.mixin_options.classifier_from, "classifier_from", linear=True)
        assert isinstance(layer, nn.Linear)
        return layer

    def mixture(self, step: SampleStep) -> Tensor:
        """The running step's mixed targets ``[B, K]``, or its labels ``[B]`` if the batch was not mixed."""
        return step.target if self._mixin.mixture is None else self._mixin.mixture

    def require_unmixed(self, known: str) -> None:
        """Refuse a batch that was mixed.

        Args:
            known: what the method has per sample, for the error: "the file has soft targets".

        Raises:
            TypeError: if the batch was mixed.
        """
        super().require_unmixed(known)
        if self._mixin.mixture is not None:
            raise TypeError(
                f"{type(self).__name__}: {known} for each single sample, and {self._mixer().__name__} has mixed the "
                "samples of this batch. Leave one of the two out."
            )

    # -- the loop -------------------------------------------------------------------------------------

    def step_for_methods(self, step: SampleStep) -> SampleStep:
        """The step with the mixed targets, for the other methods of the class, whatever the module was given."""
        step = super().step_for_methods(step)
        return step if self._mixin.mixture is None or not step.has_labels else replace(step, target=self._mixin.mixture)

    def brings_distributions(self, step: SampleStep) -> bool:
        """Whether the targets were distributions before they were mixed."""
        return super().brings_distributions(step) if self._mixin.mixture is None else self._mixin.mixed_distributions

    def begin_fit(self, trainer: pl.Trainer) -> None:
        """Compare the module's loss again on the first mixed batch."""
        super().begin_fit(trainer)
        self._mixin.mixed_before = False

    def training_step(self, *args: Any, **kwargs: Any) -> Any:
        """The module's step on the mixed batch, with the term added to its loss."""
        attachment = self._term_loop.running()
        # `completed` is in Lightning's checkpoints. `ready` would count a batch twice that a failure interrupted.
        if attachment is None or not self.mixes(self.trainer.fit_loop.epoch_loop.batch_progress.total.completed):
            return super().training_step(*args, **kwargs)
        batch = args[0] if args else kwargs["batch"]
        batch = attachment.running.alter_batch(batch, self._mixin.source, self._mixed)
        if args:
            args = (batch, *args[1:])
        else:
            kwargs = {**kwargs, "batch": batch}
        if not self._mixin.mixed_before:  # the first comparison saw labels if the run's first batch was not mixed
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
        """A batch of the user's form, mixed."""
        options = self.mixin_options
        source = self._mixin.source
        at, target_at = input_place(batch, options.input_from), target_place(batch, source.target_from)
        inputs, target = select(batch, at, "input_from"), find_target(batch, source.target_from)
        leaves, form = tree_flatten(inputs)
        parts = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
        _check_parts(parts, at, len(target), type(self).__name__)
        _refuse_outside(self, target)
        distributions = one_hot_targets(target, self._mixin.mixed_classes, parts[0])
        seed = keyed_seed(self.trainer, self._mixer().__name__)
        mixed, distributions = self.mix_parts(parts, distributions.to(parts[0].device), seed)
        waiting = iter(mixed)
        leaves = [next(waiting) if isinstance(leaf, Tensor) else leaf for leaf in leaves]
        batch = with_part(batch, at, tree_unflatten(leaves, form))
        self._mixin.mixture, self._mixin.mixed_distributions = distributions, target.ndim == 2
        return batch if options.mixed_targets == "labels" else with_part(batch, target_at, distributions)

    def _mixer(self) -> type:
        return owners_of(type(self), "mix_parts", BatchMixing)[0]


def _refuse_outside(module: BatchMixing, target: Tensor) -> None:
    """Refuse labels that are not classes, such as a loss's ``ignore_index``: they cannot be mixed."""
    attachment, trainer, classes = module._term_loop.attachment, module.trainer, module._mixin.mixed_classes
    if target.ndim > 1 or attachment is None:
        return
    samples = attachment.running.loaded.samples(module._mixin.source)
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
                "float in the dataset, or pass input_from= to name the inputs."
            )
