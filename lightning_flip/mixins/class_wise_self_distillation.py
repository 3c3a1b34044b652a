"""Class-wise self-distillation as a mixin."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from lightning_flip.data.pairs import SameClassPairs
from lightning_flip.functional.class_wise import class_wise_self_distillation_loss
from lightning_flip.mixins._holder import Holder
from lightning_flip.mixins._keyed_draws import keyed_randomness
from lightning_flip.mixins._snapshot import logits_of, logits_part
from lightning_flip.mixins.base import LossTerm, Reduced
from lightning_flip.steps import SampleStep
from lightning_flip.steps.options import check_not_negative, check_positive
from lightning_flip.steps.other_batch import inputs_of, load_samples
from lightning_flip.steps.reference import check_inputs

__all__ = ["ClassWiseSelfDistillation"]


@dataclass(eq=False)
class PairsOfDataset(Holder):
    """The pairs of the dataset that is trained on."""

    _dataset: Any = field(default=None, init=False)
    _pairs: SameClassPairs | None = field(default=None, init=False)

    def of(self, dataset: Any, ignored: int | None) -> SameClassPairs:
        """The pairs, whose labels are read once per dataset; samples with the ignored label have none."""
        if self._pairs is None or self._dataset is not dataset:
            self._dataset, self._pairs = dataset, SameClassPairs.of_dataset(dataset, ignore_index=ignored)
        return self._pairs

    def clear(self) -> None:
        """Forget the dataset."""
        self._dataset = self._pairs = None


class ClassWiseSelfDistillation(LossTerm):
    """Matches the prediction on a sample to that on another sample of its class (CS-KD, Yun et al. 2020).

    The loss is CE + w t^2 KL(softmax(z_partner / t) || softmax(z / t)). The partner is drawn from the class's samples
    in the training set, the sample itself included; the network runs on it in training mode and without gradient.

    The partners are loaded in the main process with the loader's dataset and collate function, and pass through the
    same precision, transfer hooks and device placement as every batch. The loader, its sampler and its workers stay as
    they are. The choice of partners and their augmentation depend on the seed, the epoch, the batch and the rank alone,
    whatever the number of workers, and leave the CPU's random state as it is. Loading costs twice as much: if it is
    the bottleneck, keep the data in memory.

    Every rank draws from the whole training set. The network's inputs must be parts of the batch: move what
    ``training_step`` computes from them into ``forward``.

    Args:
        class_wise_temperature: t > 0.
        class_wise_weight: w >= 0; its paper uses 3 for CUB. With 0 there is no partner.

    Raises:
        TypeError: if ``logits_from`` is a function: there is no submodule to run on the partners.

    Example:
        >>> from lightning_flip.models import MLP, Classifier
        >>> class Consistent(ClassWiseSelfDistillation, Classifier): ...
        >>> Consistent(network=MLP(4, 3), num_classes=3, class_wise_weight=3.0).mixin_options.class_wise_weight
        3.0
    """

    finds_by_position = True
    softens_target = True

    def __init__(
        self, *args: Any, class_wise_temperature: float = 4.0, class_wise_weight: float = 1.0, **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        self.mixin_options.take(
            **check_positive(class_wise_temperature=class_wise_temperature),
            **check_not_negative(class_wise_weight=class_wise_weight),
        )
        if callable(self._mixin.source.logits_from):
            raise TypeError(
                "logits_from is a function of the step's output, so there is no submodule to run on the partners. "
                "Pass the path of a submodule."
            )
        self._mixin.pairs = PairsOfDataset()

    def end_fit(self) -> None:
        """Release the dataset."""
        super().end_fit()
        self._mixin.pairs.clear()

    def method_loss(self, step: SampleStep, reduction: Reduced = "none") -> Tensor | None:
        """CE + w t^2 KL(softmax(z_partner / t) || softmax(z / t)) per sample."""
        options = self.mixin_options
        if not options.class_wise_weight:
            return None
        self.require_labels(step)
        return class_wise_self_distillation_loss(
            step.logits,
            step.target,
            self._partner_logits(step),
            temperature=options.class_wise_temperature,
            weight=options.class_wise_weight,
            reduction=reduction,
        )

    def _partner_logits(self, step: SampleStep) -> Tensor:
        attachment, source = self._term_loop.attachment, self._mixin.source
        assert attachment is not None
        record, positions = attachment.running.loaded.record(source), attachment.running.loaded.positions(source)
        if record is None or positions is None:
            raise TypeError(
                f"{type(self).__name__} draws partners from the training set by their position, and this loader has "
                "no positions: its dataset is iterable or has keys that are not integers, or it is not a torch "
                "DataLoader. Use a map-style dataset."
            )
        pairs = self._mixin.pairs.of(record.dataset, None if step.choice is None else step.choice.ignored)
        with keyed_randomness(self.trainer, ClassWiseSelfDistillation.__name__):
            other = attachment.running.transferred(load_samples(record, pairs.of_samples(positions)), source)
        check_inputs(step, "the network, once more,")
        args, kwargs = inputs_of(other, attachment.running.given(source), step.inputs)
        with attachment.paused(), torch.no_grad():
            logits = logits_of(logits_part(self, step.choice), step.choice, args, kwargs)
        if logits is None or logits.shape != step.logits.shape:
            got = "none" if logits is None else f"logits of shape {tuple(logits.shape)}"
            raise ValueError(
                f"the network gave {tuple(step.logits.shape)} for the samples and {got} for as many partners; expected "
                "the same. The collate function must neither drop nor add samples."
            )
        return logits
