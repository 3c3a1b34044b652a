"""Snapshot distillation as a mixin."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

from lightning_flip.functional.cycles import cycle_of
from lightning_flip.functional.regularization import snapshot_distillation_loss
from lightning_flip.mixins._snapshot import answering_part, said_earlier, weights_of
from lightning_flip.mixins.base import LossTerm, Reduced
from lightning_flip.models.cyclic_cosine import CyclicCosine
from lightning_flip.steps import SampleStep
from lightning_flip.steps.length import steps_per_epoch
from lightning_flip.steps.options import check_numbers, check_whole
from lightning_flip.steps.outputs import Place
from lightning_flip.steps.reference import check_inputs

__all__ = ["SnapshotDistillation"]

STATE = "snapshot"


class SnapshotDistillation(LossTerm):
    """The network at the end of a cycle teaches the next cycle (Yang et al. 2019; SD).

    The run is C cycles of M / C epochs. The first one trains with CE; from then on the loss is
    (1 + 1/t) CE + H(softmax(z_teacher / t), p), where the teacher is a copy of the network as the cycle before left it,
    in eval mode, and sees the same batch. Our source is a third party's code; the authors' has not been seen.

    Use it with the learning rate that falls in every cycle and then begins again,
    :class:`~lightning_flip.models.CyclicCosine` with the same M and C; another M or C there is an error. Our source
    lowers it in every step, which ``CyclicCosine(steps_per_epoch=)`` does.

    The copy is in no ``parameters()``, ``state_dict()`` or optimizer, and no strategy synchronizes it. Checkpoints hold
    it, which makes them larger by one network, so that a resumed run goes on exactly. It needs whole weights on every
    rank: not FSDP, nor DeepSpeed's stage 3.

    Args:
        *args: passed on to the module.
        sd_cycles: C >= 1; 1 is plain training.
        sd_temperature: t > 0, of the teacher; the student has none.
        **kwargs: options of :class:`LossTerm` (``total_epochs`` is M), and the module's.

    Raises:
        TypeError: if ``logits_from`` is a function.
        ValueError: if an option is out of range.

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
        check_whole(sd_cycles=sd_cycles)
        check_numbers(sd_temperature=sd_temperature)
        if sd_cycles < 1:
            raise ValueError(f"sd_cycles must be at least 1; got {sd_cycles}.")
        if not 0 < sd_temperature < math.inf:
            raise ValueError(f"sd_temperature must be greater than 0 and finite; got {sd_temperature}.")
        if callable(self._mixin.source.logits_from):
            raise TypeError(
                "logits_from is a function of the step's output, so that the inputs of the logits are not known and a "
                "copy of the network cannot be given the same. Name a submodule."
            )
        self.mixin_options.take(sd_cycles=sd_cycles, sd_temperature=float(sd_temperature))

    def training_step(self, *args: Any, **kwargs: Any) -> Any:
        """The module's step; a cycle's first one begins with the copy.

        Args:
            *args: what Lightning passes.
            **kwargs: what Lightning passes.

        Returns:
            What the module's step returned, with another loss.
        """
        # Before the step's own forward, which moves running statistics; and inside of DistributedDataParallel's, which
        # has made these the same on all ranks.
        if self._term_loop.running() is not None:
            self._take_snapshot()
        return super().training_step(*args, **kwargs)

    def method_loss(self, step: SampleStep, reduction: Reduced = "none") -> Tensor | None:
        """(1 + 1/t) CE + H(softmax(z_teacher / t), p) of every sample; nothing in the first cycle."""
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
            teacher = said_earlier(copied, state["weights"], step, answering_part(self, step.choice))
        return snapshot_distillation_loss(
            step.logits, step.target, teacher, temperature=options.sd_temperature, reduction=reduction
        )

    def new_epoch(self, epoch: int) -> None:
        """Compare the learning rate's cycles with the teacher's."""
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
