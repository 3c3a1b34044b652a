"""What mixins say where the loss that they add is not finite."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import torch

from lightning_flip.mixins._counted import with_any_label

if TYPE_CHECKING:
    from lightning_flip.mixins.base import LossTerm

__all__ = ["about_infinite"]


def about_infinite(module: LossTerm, moment: str, *, name: bool = True) -> str:
    """The words for a step in which what the methods add is not finite.

    Args:
        module: the module.
        moment: the step's batch and epoch.
        name: look for the first sample and the method, which is asked again: the step is the last one.

    Raises:
        ValueError: if its logits are not finite, which says more.
    """
    loop, found = module._term_loop, ""
    step = None if not name or loop.attachment is None else loop.attachment.sample_step(module._mixin.source)
    if step is not None:
        counted = loop.counted(step)
        step = step if counted is None else with_any_label(step, counted)
        with torch.no_grad(), contextlib.suppress(Exception):
            for method in loop.methods("method_loss"):
                losses = method(module, step)
                bad = [] if losses is None else (~losses.isfinite()).nonzero()[:, 0].tolist()
                if bad:
                    owner = method.__qualname__.partition(".")[0]
                    found = f", first for sample {int(step.index[bad[0]])}, by {owner}"
                    break
    return (
        f"{type(module).__name__}: the loss that its mixins add is not finite in {moment}{found}. If classes are "
        "masked (logits of minus infinity), its target has mass on one of them: label smoothing has it on all classes, "
        "a teacher, a partner or an average of earlier predictions where other classes were masked. Mask the same "
        "classes of a sample everywhere, or take a method whose target has mass on the label alone."
    )
