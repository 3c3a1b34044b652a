"""The base of the mixins that compare a new model with an old one."""

from __future__ import annotations

import inspect
import operator
import os
import weakref
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import lightning.pytorch as pl
import torch
from torch import Tensor, nn

from lightning_flip.mixins._holder import SharedHolder
from lightning_flip.mixins.base import LossTerm
from lightning_flip.models.loading import is_lightning_class, load_model, options_called
from lightning_flip.steps import Attachment, SampleStep
from lightning_flip.steps.cached_logits import CachedLogits
from lightning_flip.steps.options import check_choices
from lightning_flip.steps.reference import Reference, load_reference

__all__ = ["ReferencedLoss"]

#: Options that stay out of hyperparameters: they may be models.
_SOURCES = ("reference", "reference_class", "reference_network")

_SOURCE_KINDS = (str, os.PathLike, nn.Module)

#: What the options of ``load_model`` are called here.
OPTION_NAMES = {"model_class": "reference_class", "network": "reference_network"}


@dataclass(eq=False)
class ReferenceSource(SharedHolder):
    """What the old model is made from, and the model during a fit.

    It is not an ``nn.Module``, so the old model is in no ``parameters()``, ``state_dict()`` or optimizer, and no
    strategy wraps or synchronizes it.
    """

    source: Any
    model_class: Any
    network: Any
    loaded: Reference | None = field(default=None, init=False)
    _step: weakref.ref[SampleStep] | None = field(default=None, init=False)  # weak: its graph ends with the step
    _answer: Tensor | None = field(default=None, init=False)

    def answer(self, step: SampleStep, attachment: Attachment) -> Tensor:
        """The loaded model's logits of a step ``[B, K_old]``: one forward for all methods of a class."""
        assert self.loaded is not None
        if self._answer is None or self._step is None or self._step() is not step:
            self._step, self._answer = weakref.ref(step), self.loaded.logits(step, attachment)
        return self._answer

    def release(self) -> None:
        """Release the loaded model."""
        self.loaded = self._step = self._answer = None


class ReferencedLoss(LossTerm):
    """Base of the methods that need an old model, the "reference".

    The reference is frozen, in eval mode and without gradient; it sees the same batch as the new model,
    augmentations included. It is loaded when a fit begins, so the new model's checkpoint also loads, validates
    and predicts without the old file. It is in no optimizer, checkpoint or hyperparameters.

    Args:
        reference: the old model: the path of a Lightning checkpoint, of a state_dict (with
            ``reference_network``), of cached logits by sample index (a Parquet file of ``PredictionWriter(logits=
            True)``, .npz or .npy; the augmentation then differs), "torchvision:NAME:WEIGHTS", or a module, which is
            copied as it is now.
        reference_class: class of the checkpoint's LightningModule, or its dotted path; by default the class
            right of the mixins.
        reference_network: the network that a state_dict belongs to, or its name in torchvision.
        reference_compile: whether the reference runs through ``torch.compile``; a string names the backend.
        old_classes: the new model's class for each of the old model's outputs, if the two differ.
        old_samples: what the method's loss is averaged over with ``old_classes``: the "batch", or its samples of old
            classes ("mean", as in the public code of PCT; on each rank and in each accumulated batch separately).

    Example:
        >>> from lightning_flip.mixins import FocalDistillation
        >>> from lightning_flip.models import MLP, Classifier
        >>> class Update(FocalDistillation, Classifier): ...
        >>> old, new = MLP(4, 3), MLP(4, 3, hidden=(64, 64))
        >>> model = Update(network=new, num_classes=3, reference=old)
        >>> sum(p.numel() for p in model.parameters()) == sum(p.numel() for p in new.parameters())
        True
        >>> dict(model.hparams)["num_classes"], "reference" in model.hparams
        (3, False)
    """

    divergence_advice = "Lower the learning rate, or clip gradients."

    def __init__(
        self,
        *args: Any,
        reference: str | Path | nn.Module | None = None,
        reference_class: type[pl.LightningModule] | str | None = None,
        reference_network: nn.Module | str | None = None,
        reference_compile: bool | str = False,
        old_classes: Sequence[int] | None = None,
        old_samples: Literal["batch", "mean"] = "batch",
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        for name, value, kinds, expected in (
            ("reference", reference, _SOURCE_KINDS, 'a module, a path, or "torchvision:NAME:WEIGHTS"'),
            ("reference_class", reference_class, (type, str), "a LightningModule class, or its import path"),
            ("reference_network", reference_network, (nn.Module, str), "a module, or its name in torchvision"),
            ("reference_compile", reference_compile, (bool, str), "True, False, or the name of a backend"),
        ):
            if value is not None and not isinstance(value, kinds):
                raise TypeError(f"{name} must be {expected}; got {value!r}.")
        try:
            classes = None if old_classes is None else tuple(operator.index(label) for label in old_classes)
        except TypeError:
            raise TypeError(
                "old_classes must be whole numbers, the new model's class of each of the reference's outputs; got "
                f"{old_classes!r}."
            ) from None
        if classes is not None and (len(set(classes)) != len(classes) or min(classes, default=0) < 0):
            raise ValueError(f"old_classes must be different classes, counted from 0; got {list(classes)}.")
        self.mixin_options.take(
            **check_choices(old_samples=(old_samples, ("batch", "mean"))),
            reference_compile=reference_compile,
            old_classes=classes,
        )
        # Copied now: it may be the network that is about to be trained, or restored from a checkpoint.
        source = load_model(reference) if isinstance(reference, nn.Module) else reference
        self._mixin.reference = ReferenceSource(source, reference_class, reference_network)

    def save_hyperparameters(
        self, *args: Any, ignore: Sequence[str] | str | None = None, frame: Any = None, logger: bool = True
    ) -> None:
        """Save hyperparameters as :class:`LossTerm` does, without the old model."""
        names = [arg for arg in args if not (isinstance(arg, str) and arg in _SOURCES)]
        if args and not names:
            return
        current = inspect.currentframe()
        frame = frame or (None if current is None else current.f_back)
        ignored = [ignore] if isinstance(ignore, str) else list(ignore or ())
        super().save_hyperparameters(*names, ignore=[*ignored, *_SOURCES], frame=frame, logger=logger)

    def end_fit(self) -> None:
        """Release the reference and its memory on the device."""
        super().end_fit()
        self._mixin.reference.release()

    # -- what a method uses ---------------------------------------------------------------------------

    def load_reference(self, trainer: pl.Trainer) -> Reference:
        """Load the reference onto the module's device, once per fit; call it in ``begin_fit``.

        Raises:
            ValueError: without ``reference``, or for a source that cannot be loaded.
        """
        loaded: Reference | None = self._mixin.reference.loaded
        if loaded is None:
            with options_called(**OPTION_NAMES):
                loaded = load_reference(
                    self._old_source(),
                    model_class=self._old_class(),
                    network=self._mixin.reference.network,
                    logits_from=self._mixin.source.logits_from,
                    compile=self.mixin_options.reference_compile,
                )
            loaded.prepare(trainer)
            self._mixin.reference.loaded = loaded
        return loaded

    def reference_logits(self, step: SampleStep) -> Tensor:
        """The reference's logits of the running step, ``[B, K_old]``, without gradient.

        Several methods of a class share one forward.

        Raises:
            TypeError: if the reference is a table of logits, and the batch was mixed.
        """
        attachment, loaded = self._term_loop.attachment, self._mixin.reference.loaded
        assert attachment is not None
        if loaded is not None and isinstance(loaded.source, CachedLogits):
            self.require_unmixed(f"{loaded.source.name} has logits")
        logits: Tensor = self._mixin.reference.answer(step, attachment)
        return logits

    def _old_source(self) -> Any:
        """The option ``reference``; an error without it."""
        if self._mixin.reference.source is None:
            raise ValueError(
                f"{type(self).__name__} compares the new model with an old one, and there is none. Pass reference=: "
                "the path of the old model's checkpoint, of its cached logits, or a module."
            )
        return self._mixin.reference.source

    def _old_class(self) -> Any:
        """``reference_class``, else the class right of the mixins."""
        if self._mixin.reference.model_class is not None:
            return self._mixin.reference.model_class
        modules = [part for part in type(self).__mro__ if is_lightning_class(part)]
        return next(part for part in modules if not issubclass(part, LossTerm))

    def old_class_indices(self, num_classes: int, outputs: int) -> Tensor | None:
        """``old_classes`` as the loss functions take it: int64 ``[K_old]`` on the CPU, or None without the option.

        Args:
            num_classes: K of the new model.
            outputs: K_old, the number of the old model's outputs.

        Raises:
            ValueError: if the numbers do not fit.
        """
        options = self.mixin_options
        if options.old_classes is None:
            if outputs != num_classes:
                raise ValueError(
                    f"the reference has {outputs} outputs, {type(self).__name__} has {num_classes}. Pass old_classes=, "
                    "the new model's class of each of the reference's outputs."
                )
            return None
        if len(options.old_classes) != outputs or max(options.old_classes) >= num_classes:
            raise ValueError(
                f"old_classes must name one of {num_classes} classes for each of the reference's {outputs} outputs; "
                f"got {list(options.old_classes)}."
            )
        return torch.tensor(options.old_classes)
