"""Several trained models as one: the mean of their logits."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, NoReturn

import torch
from lightning import LightningModule
from torch import Tensor, nn

from lightning_flip.models.classifier import Classifier
from lightning_flip.models.loading import ModelSource, load_model, options_called

__all__ = ["EnsembleClassifier"]


class _MeanLogits(nn.Module):
    """The members, always in eval mode, since nothing here is trained."""

    def __init__(self, members: Sequence[nn.Module], num_classes: int) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)
        self.num_classes = num_classes
        self.train(False)

    def train(self, mode: bool = True) -> _MeanLogits:
        return super().train(False)

    def each(self, x: Any) -> list[Tensor]:
        outputs = [member(x) for member in self.members]
        for number, output in enumerate(outputs):
            if not isinstance(output, Tensor) or output.ndim != 2 or output.shape[1] != self.num_classes:
                raise ValueError(self._other_shapes(number, outputs))
        # A sum in half precision would lose the differences between members.
        return [output.to(torch.promote_types(output.dtype, torch.float32)) for output in outputs]

    def forward(self, x: Any) -> Tensor:
        total, *others = self.each(x)
        for output in others:
            total = total + output
        return total / len(self.members)

    def _other_shapes(self, number: int, outputs: list[Any]) -> str:
        shapes = [list(output.shape) if isinstance(output, Tensor) else type(output).__name__ for output in outputs]
        return (
            f"every member must give logits [B, {self.num_classes}], as num_classes={self.num_classes} "
            f"says; member {number} of {len(outputs)} does not. They gave {', '.join(map(str, shapes))}."
        )


class EnsembleClassifier(Classifier):
    """Averages the logits of models that were trained independently; it is evaluated, never trained.

    Logs what :class:`Classifier` logs in validation and tests. Its predictions can be written, and it can be the
    reference of a loss. Its members are frozen and always in eval mode. In a configuration::

        model:
          class_path: EnsembleClassifier
          init_args:
            members: [seed-0.ckpt, seed-1.ckpt, seed-2.ckpt]
            num_classes: 10

    A checkpoint of the ensemble has the members' weights. If all members were given as text, it keeps their paths, and
    ``load_from_checkpoint(path)`` needs those files; else give ``members=`` again.

    Args:
        members: modules that map inputs to logits ``[B, K]`` (copied), or anything else that
            :func:`~lightning_flip.models.load_model` takes.
        member_class: class of the members' checkpoints, or its import path; not needed for those that LightningCLI
            saved.
        member_network: the network of the members' files, for files that do not rebuild it.
        num_classes: number of classes ``K``.

    Raises:
        ValueError: if there is no member, or one cannot be loaded; and in the forward, if a member does not give
            ``[B, K]``.

    Example:
        >>> from lightning_flip.models import MLP
        >>> ensemble = EnsembleClassifier([MLP(4, 3), MLP(4, 3, hidden=(32,))], num_classes=3)
        >>> ensemble(torch.zeros(2, 4)).shape, ensemble.num_parameters
        (torch.Size([2, 3]), 17798)
    """

    def __init__(
        self,
        members: Sequence[nn.Module | str | os.PathLike[str]],
        *,
        member_class: type[LightningModule] | str | None = None,
        member_network: nn.Module | str | None = None,
        num_classes: int,
    ) -> None:
        if isinstance(members, (str, os.PathLike, nn.Module)):
            raise TypeError(
                f"members must be a list of models or paths, got one {type(members).__name__}: [{members}]."
            )
        if not members:
            raise ValueError("members must name at least one model, got none.")
        loaded = [_member(number, source, member_class, member_network) for number, source in enumerate(members)]
        super().__init__(_MeanLogits(loaded, num_classes), num_classes=num_classes)

    @property
    def num_parameters(self) -> int:
        """Number of parameters of all members together."""
        return sum(weight.numel() for weight in self.network.parameters())

    def member_logits(self, x: Any) -> Tensor:
        """Compute each member's own logits ``[M, B, K]``, in at least float32, for measures of their disagreement."""
        assert isinstance(self.network, _MeanLogits)
        return torch.stack(self.network.each(x))

    def setup(self, stage: str) -> None:
        """Raise a RuntimeError for ``stage="fit"``."""
        if stage == "fit":
            _refuse_training()

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Raise a RuntimeError: an ensemble is not trained."""
        _refuse_training()


def _refuse_training() -> NoReturn:
    raise RuntimeError(
        "the members of an EnsembleClassifier are trained independently, each with its own seed and its own run; the "
        "ensemble has nothing to train. Train the members, then validate, test or predict with the ensemble."
    )


def _member(
    number: int,
    source: ModelSource,
    member_class: type[LightningModule] | str | None,
    member_network: nn.Module | str | None,
) -> nn.Module:
    network = None if isinstance(source, nn.Module) else member_network
    try:
        with options_called(model_class="member_class", network="member_network"):
            return load_model(source, model_class=member_class, network=network)
    except ValueError as error:
        raise ValueError(f"member {number}: {error}") from error
