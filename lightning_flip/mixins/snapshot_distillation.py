"""Snapshot distillation as a mixin."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

from lightning_flip.functional.cycles import cycle_of
from lightning_flip.functional.regularization import snapshot_distillation_loss
from lightning_flip.mixins._snapshot import earlier_logits, logits_part, weights_of
from lightning_flip.mixins.base import LossTerm, Reduced
from lightning_flip.models.cyclic_cosine import CyclicCosine
from lightning_flip.steps import SampleStep
from lightning_flip.steps.length import steps_per_epoch
from lightning_flip.steps.options import check_positive, check_whole
from lightning_flip.steps.outputs import Place
from lightning_flip.steps.reference import check_inputs

__all__ = ["SnapshotDistillation"]

STATE = "snapshot"


class SnapshotDistillation(LossTerm):
    """The network at the end of a cycle teaches the next cycle (Yang et al. 2019; SD).

    The run is C cycles of M / C epochs. The first one trains with CE; from then on the loss is
    (1 + 1/t) CE + H(softmax(z_teacher / t), p), where the teacher is a copy of the network at the end of the previous
    cycle, in eval mode, and sees the same batch. Our source is a third party's code; we have not seen the authors'.

    Use it with a learning rate that falls in every cycle and then restarts,
    :class:`~lightning_flip.models.CyclicCosine` with the same M and C; another M or C there is an error. Our source
    lowers it in every step, as ``CyclicCosine(steps_per_epoch=)`` does.

    The copy is in no ``parameters()``, ``state_dict()`` or optimizer, and no strategy synchronizes it. Checkpoints hold
    it, which makes them larger by one network, so a resumed run continues exactly. It needs whole weights on every
    rank, so neither FSDP nor DeepSpeed's stage 3.

    Args:
        sd_cycles: C >= 1; 1 is plain training. M is ``total_epochs``.
        sd_temperature: t > 0, of the teacher; the student has none.

    Raises:
        TypeError: if ``logits_from`` is a function.

    Example:
        >>> from lightning_flip.models import MLP, Classifier, CyclicCosine
        >>> class Snapshots(SnapshotDistillation, Classifier): ...
        >>> def cosine(optimizer):
        ...     return CyclicCosine(optimizer, total_epochs=40, cycles=4)
        >>> Snapshots(network=MLP(4, 3), lr_scheduler=cosine, num_classes=3).mixin_options.sd_cycles
        4
    """

    softens_target = True

    def __init__(self, *args: Any, sd_cycles: int = 4, sd_temperature: float = 3.0, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.mixin_options.take(
            **check_whole(at_least=1, sd_cycles=sd_cycles), **check_positive(sd_temperature=sd_temperature)
        )
        if callable(self._mixin.source.logits_from):
            raise TypeError(
                "logits_from is a function of the step's output, so the inputs of the logits are not known and a copy "
                "of the network cannot be given the same. Name a submodule."
            )

    def training_step(self, *args: Any, **kwargs: Any) -> Any:
        """The module's step, with the term added to its loss; a cycle's first step begins with the copy."""
        # Before the step's own forward, which updates running statistics; and inside DistributedDataParallel's, which
        # has made them equal on all ranks.
        if self._term_loop.running() is not None:
            self._take_snapshot()
        return super().training_step(*args, **kwargs)

    def method_loss(self, step: SampleStep, reduction: Reduced = "none") -> Tensor | None:
        """(1 + 1/t) CE + H(softmax(z_teacher / t), p) per sample; None in the first cycle."""
        options = self.mixin_options
        if options.sd_cycles > 1:
            check_inputs(step, "a copy of the network")
        state = self._term_loop.states.get(STATE)
        if state is None:
            return None
        attachment = self._term_loop.attachment
        assert attachment is not None
        with attachment.paused():
            copied = self.get_submodule(state.get("path", self._given_path))
            teacher = earlier_logits(copied, state["weights"], step, logits_part(self, step.choice))
        return snapshot_distillation_loss(
            step.logits, step.target, teacher, temperature=options.sd_temperature, reduction=reduction
        )

    def new_epoch(self, epoch: int) -> None:
        """Refuse a learning rate whose cycles are not the teacher's."""
        options = self.mixin_options
        _, total = self._term_loop.schedule()
        steps = steps_per_epoch(self.trainer.num_training_batches, self.trainer.accumulate_grad_batches)
        for config in self.trainer.lr_scheduler_configs:
            scheduler = config.scheduler
            if not isinstance(scheduler, CyclicCosine):
                continue
            stepped = (1 if config.interval == "epoch" else steps) / config.frequency
            if (scheduler.total_epochs, scheduler.cycles) != (total, options.sd_cycles) or (
                math.isfinite(stepped) and stepped != scheduler.steps_per_epoch
            ):
                raise ValueError(
                    f"the learning rate has {scheduler.cycles} cycles in {scheduler.total_epochs} epochs of "
                    f"{scheduler.steps_per_epoch} steps; the teacher changes in {options.sd_cycles} cycles in {total} "
                    f"epochs, in each of which the scheduler is stepped {stepped:g} times. Give CyclicCosine "
                    f"total_epochs={total}, cycles={options.sd_cycles} and steps_per_epoch={stepped:g}, or set "
                    "total_epochs= and sd_cycles= of the model."
                )

    def _take_snapshot(self) -> None:
        epoch, total = self._term_loop.schedule()
        cycle = cycle_of(epoch - 1, total, self.mixin_options.sd_cycles)
        taken = self._term_loop.states.get(STATE, {"cycle": 0})["cycle"]
        if cycle > taken:
            assert self._term_loop.attachment is not None
            choice = self._term_loop.attachment.choice(self._mixin.source)
            path = self._given_path if choice is None or choice.place is None else choice.place.path
            weights = weights_of(self.get_submodule(path))
            self._term_loop.states[STATE] = {"cycle": cycle, "weights": weights, "path": path}

    @property
    def _given_path(self) -> str:
        where = self._mixin.source.logits_from
        return Place.parse(where).path if isinstance(where, str) else ""
