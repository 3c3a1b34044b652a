"""Pairwise label smoothing as a mixin."""

from __future__ import annotations

import zlib
from dataclasses import replace
from typing import Any, Literal

import lightning.pytorch as pl
import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn

from lightning_flip.functional.losses import cross_entropy, one_hot_targets
from lightning_flip.functional.pairwise import (
    learned_smoothing,
    pair_average,
    pairwise_label_smoothing_loss,
)
from lightning_flip.functional.smearing import label_smoothing_loss, smoothed_target
from lightning_flip.mixins._features import trained_features
from lightning_flip.mixins.batch_mixing import BatchMixing
from lightning_flip.steps import SampleStep
from lightning_flip.steps.options import check_choices, check_flags, check_fractions

__all__ = ["PairwiseLabelSmoothing", "SmoothingHead"]


class SmoothingHead(nn.Module):
    """W_t h + b_t: a layer like the classifier layer, whose outputs become the smoothing distribution.

    It has a bias b_t if the classifier layer has one. It is not an ``nn.Linear``, so the last one is still the
    classifier layer. Making it draws no random number from the run's generators: its initial weights depend on torch's
    seed and the classifier layer's weights.

    Args:
        classifier: the layer whose number of inputs, device and dtype it has.
        num_classes: number of outputs K.

    Example:
        >>> head = SmoothingHead(nn.Linear(8, 3), 3)
        >>> head(torch.zeros(2, 8)).shape
        torch.Size([2, 3])
    """

    bias: nn.Parameter | None

    def __init__(self, classifier: nn.Linear, num_classes: int) -> None:
        super().__init__()
        weight = classifier.weight.detach()
        key = 0 if weight.is_meta else zlib.crc32(weight.float().cpu().numpy().tobytes())
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(torch.initial_seed() ^ key)
            bias = classifier.bias is not None
            layer = nn.Linear(classifier.in_features, num_classes, bias=bias).to(classifier.weight)
        self.weight = layer.weight
        self.register_parameter("bias", layer.bias)

    def forward(self, features: Tensor) -> Tensor:
        """The outputs before the sigmoid ``[B, K]``, for features h ``[B, D]``."""
        return F.linear(features, self.weight, self.bias)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        """Heads of 0.1 always had a bias, which a model from there keeps."""
        if self.bias is None and f"{prefix}bias" in state_dict:
            self.bias = nn.Parameter(self.weight.detach().new_zeros(len(self.weight)))
        super()._load_from_state_dict(state_dict, prefix, *args)


class PairwiseLabelSmoothing(BatchMixing):
    """Trains on averaged pairs whose targets are smoothed by a learned distribution (PLS).

    Every other batch of the run, beginning with its second one, consists of averages of two samples, x_ij = (x_i +
    x_j) / 2 with q = (e_yi + e_yj) / 2 and j a random permutation of the batch; the others are left as they are.
    Batches are counted over all epochs, and a resumed run keeps counting. The loss is (1 - w) H(q, p) + w H(u', p),
    where u' = softmax(sigmoid(W_t h + b_t)) comes from a second head on the features h that enter the classifier
    layer, with a bias b_t if that layer has one; gradient flows through u' into head and features.

    The head is ``smoothing_head``, a submodule: in the module's parameters, optimizer and checkpoint. The module's
    forward never runs it, so it costs nothing outside of training. A checkpoint with it loads into the plain module
    with ``strict=False``.

    Args:
        smoothing_weight: w in [0, 1); the paper uses 0.5 and tries 0.1 to 0.9 (Fig. 3). With
            ``smoothing_distribution="uniform"`` it is the paper's a, 0.1 to 0.3. With 0 there is no head.
        smoothing_distribution: "learned"; "uniform" for u' = 1 / K ("UD", Table 4); "none" for H(q, p) alone ("no
            learned distribution", Table 4).
        alternate: False averages pairs in every batch ("no original images", Table 4).

    Example:
        >>> from lightning_flip.models import MLP, Classifier
        >>> class Paired(PairwiseLabelSmoothing, Classifier): ...
        >>> model = Paired(network=MLP(4, 3), num_classes=3)
        >>> [tuple(weight.shape) for weight in model.smoothing_head.parameters()]
        [(3, 128), (3,)]
    """

    softens_target = True
    replaces_cross_entropy = True
    smoothing_head: SmoothingHead | None

    def __init__(
        self,
        *args: Any,
        smoothing_weight: float = 0.5,
        smoothing_distribution: Literal["learned", "uniform", "none"] = "learned",
        alternate: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.mixin_options.take(
            **check_fractions(smoothing_weight=smoothing_weight),
            **check_choices(smoothing_distribution=(smoothing_distribution, ("learned", "uniform", "none"))),
            **check_flags(alternate=alternate),
        )
        if not smoothing_weight:
            self.mixin_options.take(smoothing_distribution="none")
        self.smoothing_head = None
        if self.mixin_options.term_weight and self.mixin_options.smoothing_distribution == "learned":
            layer = self.mixed_layer()
            path = next(name for name, part in self.named_modules() if part is layer)
            self._mixin.source = replace(self._mixin.source, features_from=path)
            self.smoothing_head = SmoothingHead(layer, self._mixin.mixed_classes)

    def begin_fit(self, trainer: pl.Trainer) -> None:
        """Warn if no optimizer trains the head."""
        super().begin_fit(trainer)
        if self.smoothing_head is None:
            return
        groups = [group for optimizer in trainer.optimizers for group in optimizer.param_groups]
        optimized = {id(weight) for group in groups for weight in group["params"]}
        # A strategy that flattens parameters optimizes none of the module's own: then nothing is known.
        if not optimized.isdisjoint(map(id, self.parameters())) and id(self.smoothing_head.weight) not in optimized:
            rank_zero_warn(
                f"{type(self).__name__}: no optimizer has the parameters of smoothing_head, so the smoothing "
                "distribution is not learned. Give configure_optimizers self.parameters()."
            )

    def mixes(self, number: int) -> bool:
        """Whether the batch is averaged: every second one, or all."""
        return number % 2 == 1 or not self.mixin_options.alternate

    def mix_parts(self, parts: list[Tensor], target: Tensor, seed: int) -> tuple[list[Tensor], Tensor]:
        """Average every sample with its partner in a random permutation of the batch."""
        partner = torch.randperm(len(target), generator=torch.Generator().manual_seed(seed))
        partner = partner.to(target.device, non_blocking=True)
        return [pair_average(part, partner) for part in parts], pair_average(target, partner)

    def method_loss(self, step: SampleStep) -> Tensor | None:
        """(1 - w) H(q, p) + w H(u', p) per pair."""
        options = self.mixin_options
        q = self.mixture(step)
        if options.smoothing_distribution == "none":
            return None if q is step.target else cross_entropy(step.logits, q, reduction="none")
        if self.smoothing_head is None:
            return label_smoothing_loss(step.logits, q, smoothing=options.smoothing_weight, reduction="none")
        head_logits = self.smoothing_head(trained_features(self, step))
        return pairwise_label_smoothing_loss(
            step.logits, q, head_logits, smoothing_weight=options.smoothing_weight, reduction="none"
        )

    def soft_target(self, step: SampleStep) -> Tensor:
        """(1 - w) q + w u'."""
        options = self.mixin_options
        q, w = self.mixture(step), float(options.smoothing_weight)
        if options.smoothing_distribution == "none":
            return q
        if self.smoothing_head is None:
            return smoothed_target(q, step.num_classes, step.logits, smoothing=w)
        assert step.features is not None
        with torch.no_grad():
            learned = learned_smoothing(self.smoothing_head(step.features))
        return one_hot_targets(q, step.num_classes, learned) * (1 - w) + learned * w
