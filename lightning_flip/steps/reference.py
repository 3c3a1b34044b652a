"""The old model that a new one is compared with while it trains."""

from __future__ import annotations

import contextlib
import copy
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from lightning.pytorch.plugins.precision import Precision
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor, nn

from lightning_flip.models.loading import ModelSource, is_lightning_class, load_model
from lightning_flip.steps.attachment import Attachment
from lightning_flip.steps.cached_logits import CACHED_SUFFIXES, CachedLogits
from lightning_flip.steps.outputs import Place, as_logits, kind_of_values, two_dimensional
from lightning_flip.steps.sample_step import SampleStep

__all__ = ["Reference", "check_inputs", "load_reference"]


class Reference:
    """A frozen model, or its logits as they were stored, beside the model that trains.

    It is not an ``nn.Module``, so that its weights are not among its owner's parameters, in a ``state_dict``, in an
    optimizer or in what DistributedDataParallel synchronizes. Copies of its owner (weight averaging) share it; spawned
    processes get their own. Use :func:`load_reference`.

    Args:
        source: a module that belongs to the reference alone, or stored logits.
        logits_from: the submodule whose inputs the steps hold, if the steps do not name it. A LightningModule with a
            submodule of this name is run there, any other model as a whole.
        compile: run the model through ``torch.compile``; a text names the backend.

    Example:
        >>> from lightning_flip.models import MLP
        >>> Reference(MLP(4, 3)).num_parameters
        17539
    """

    def __init__(
        self, source: nn.Module | CachedLogits, *, logits_from: str | None = None, compile: bool | str = False
    ) -> None:
        self.source = source
        self.logits_from = logits_from
        self._kind: str | None = None
        self._at = Place.parse(logits_from or "")
        self.compile = compile
        self._plugin: Precision | None = None
        self._device: torch.device | None = None
        self._run: Callable[..., Any] | None = None
        self._sent: nn.Module | CachedLogits | None = None

    def __deepcopy__(self, memo: dict[int, Any]) -> Reference:
        return self

    def __reduce__(self) -> Any:
        self._sent = self.source
        if self._device is not None and self._device.type != "cpu":
            self._sent = copy.deepcopy(self.source)
            self._sent.to(torch.device("cpu"))
        # Kept: a process that is being spawned maps its memory, and opens it only after this has been pickled.
        return _restored, (self._sent, self.logits_from, self.compile)

    @property
    def num_parameters(self) -> int | None:
        """Number of the model's parameters; None for stored logits."""
        if isinstance(self.source, CachedLogits):
            return None
        return sum(weight.numel() for weight in self.source.parameters())

    def prepare(self, trainer: pl.Trainer) -> None:
        """Put the model where the Trainer puts its own and into the same precision; once per fit is enough.

        Args:
            trainer: the running Trainer, whose strategy has its device.
        """
        self._place(trainer.strategy.root_device, trainer.precision_plugin)

    def release(self) -> None:
        """Release the device's memory; the next :meth:`prepare` starts again."""
        self._plugin = self._device = self._run = self._sent = None
        self.source.to(torch.device("cpu"))

    def logits(self, step: SampleStep, attachment: Attachment) -> Tensor:
        """The old model's logits for a step's samples, given the same (augmented) inputs as the new model.

        Runs in eval mode and without gradient; under autocast in the step's own. Draws no random numbers.

        Args:
            step: the running step as a whole or without its padding, which stands last; not one of the pieces of
                :meth:`SampleStep.once`.
            attachment: where the step came from; the forward here is none that it should catch.

        Returns:
            ``[B, K_old]`` for the rows of ``step``; stored logits in float32.

        Raises:
            RuntimeError: if the step does not hold the inputs of its forward.
            ValueError: if ``logits_from`` names a part that works on the new model's own features, the old model gives
                no logits or NaN, or the stored ones are of another dataset.
        """
        if isinstance(self.source, CachedLogits):
            return self.source.rows(step)
        args, kwargs = step.inputs
        check_inputs(step, "the reference")
        device = step.logits.device
        place = self._place_of(step)
        if place != self._at:
            self._at, self._run, self._kind = place, None, None
        if self._run is None or self._device != device:
            self._place(device, self._plugin)
        assert self._run is not None
        with attachment.paused(), torch.no_grad(), self._forward_context(device):
            output = self._run(*args, **kwargs)
        rows = len(step.index)
        logits = self._logits_in(output, step)
        if logits is None or logits.shape[0] < rows:
            got = f"the shape {list(output.shape)}" if isinstance(output, Tensor) else f"a {type(output).__name__}"
            raise ValueError(
                f"the reference {self._said()} must give logits [{rows}, K] for the inputs of the new model's "
                f"{place.path or 'forward'}; it gave {got}."
            )
        logits = logits[:rows]
        self._refuse_nan(logits, step, attachment)
        return logits

    def _refuse_nan(self, logits: Tensor, step: SampleStep, attachment: Attachment) -> None:
        """Refuse logits without a largest one; on a device with the next look at the flags of steps."""
        index, moment, times = step.index, attachment.running.moment, step.global_step
        if times is not None and len(times):  # it may be an earlier step than the running one
            moment = f"batch {step.batch} of epoch {step.epoch}, after {int(times[0])} optimizer steps"

        def error(row: int) -> Exception:
            return ValueError(
                f"the reference {self._said()} gave logits with NaN in them, infinity, or minus infinity for all "
                f"classes, first for sample {int(index[row])} in {moment}. It has no prediction there: look at its "
                "weights, its precision and the inputs."
            )

        if logits.device.type != "cpu":
            attachment.defer(logits.amax(dim=1).isfinite(), error)
            return
        wide = logits if logits.dtype in (torch.float32, torch.float64) else logits.float()
        largest = wide.numpy().max(axis=1)  # no operation of torch
        if not np.isfinite(largest).all():
            raise error(int((~np.isfinite(largest)).argmax()))

    def _place(self, device: torch.device, plugin: Precision | None) -> None:
        if self._run is not None and self._device == device and self._plugin is plugin:
            return
        self._plugin, self._device = plugin, device
        if isinstance(self.source, CachedLogits):
            self.source.to(device)
            return
        model = self.source
        if plugin is not None and type(plugin).convert_module is not Precision.convert_module:
            # What it rounds would be lost for a later fit in another precision.
            model = plugin.convert_module(copy.deepcopy(model))
        model = model.to(device).requires_grad_(False).eval()
        part = self._part(model)
        backend = "inductor" if self.compile is True else self.compile
        self._run = torch.compile(part, backend=backend) if backend else part

    def _part(self, model: nn.Module) -> nn.Module:
        if is_lightning_class(type(model)) and self._at.path:
            with contextlib.suppress(AttributeError):
                return model.get_submodule(self._at.path)
        return model

    def _place_of(self, step: SampleStep) -> Place:
        """Where the old model is run: where the new one gave its logits."""
        if step.choice is not None and step.choice.place is not None:
            return step.choice.place  # type: ignore[no-any-return]
        return Place.parse(self.logits_from or "")

    def _logits_in(self, output: Any, step: SampleStep) -> Tensor | None:
        """The logits in what the old model gave, of the new one's kind or of what the values look like."""
        tensor = self._at.tensor_of(output) if is_lightning_class(type(self.source)) else Place().tensor_of(output)
        columns = None if tensor is None else two_dimensional(tensor)
        if columns is None:
            return None
        if self._kind is None:
            own = "logits" if step.choice is None else step.choice.kind
            self._kind = kind_of_values(columns) or own
            if self._kind != "logits" and self._kind != own:
                rank_zero_info(f"lightning_flip: the reference {self._said()} gives {self._kind}, turned into logits.")
        return as_logits(columns, self._kind)

    def _forward_context(self, device: torch.device) -> contextlib.AbstractContextManager[None]:
        # Callbacks run outside of the context that the Trainer puts around a step.
        if self._plugin is None or torch.is_autocast_enabled(device.type):
            return contextlib.nullcontext()
        return self._plugin.forward_context()

    def _said(self) -> str:
        return type(self.source).__name__


def check_inputs(step: SampleStep, who: str) -> None:
    """Make sure that another network can be given what the network of a step was given.

    Args:
        step: the running step, which holds the inputs of the forward that gave its logits.
        who: the other network, for the error.

    Raises:
        RuntimeError: if the step does not hold the inputs of its forward.
        ValueError: if another part of the network made them.

    Example:
        >>> x = torch.ones(3, 1)
        >>> check_inputs(SampleStep(torch.arange(3), x, torch.zeros(3), inputs=((x,), {})), "the reference")
    """
    args, kwargs = step.inputs
    choice = step.choice
    if not args and not kwargs:
        made = choice is not None and choice.place is None
        cause = "the logits are made in the step and are the output of no module" if made else "they are not known"
        raise RuntimeError(
            f"{who} is to be given the inputs of the forward that gave the logits, and {cause}. Pass the batch to "
            "forward() and compute the logits there, or name a submodule that is given the batch: logits_from=."
        )
    if choice is not None and choice.made_by is not None:
        raise ValueError(
            f"the logits come from {str(choice.place)!r}, which is given what {choice.made_by!r} of the new model made "
            f"from the batch; {who} would be run on those features. Call both in one submodule or in forward(), and "
            "name that, if need be: logits_from=."
        )


def _restored(source: nn.Module | CachedLogits, logits_from: str | None, compile: bool | str) -> Reference:
    return Reference(source, logits_from=logits_from, compile=compile)


def load_reference(
    source: ModelSource | Reference,
    *,
    model_class: type[pl.LightningModule] | str | None = None,
    network: nn.Module | str | None = None,
    logits_from: str | Callable[[Any], Any] | None = None,
    compile: bool | str = False,
) -> Reference:
    """Load the old model that a new one is compared with.

    **Stored logits** cost no forward and no second network, but belong to one view of each sample: if the new model
    trains with augmentation, the old one did not see the same picture, which the paper's method assumes.

    Args:
        source: everything that :func:`~lightning_flip.models.load_model` takes; or logits stored by sample index: a
            Parquet file of ``PredictionWriter(logits=True)`` over the training data, ``.npz`` with ``logits [N, K]``
            and optionally ``index [N]``, or ``.npy`` with the logits of sample 0 to N - 1.
        model_class: class of a Lightning checkpoint, or its import path.
        network: the network of a file of weights, or its torchvision name.
        logits_from: the new model's own option: which submodule's inputs there will be.
        compile: run the model through ``torch.compile``; a text names the backend.

    Returns:
        The reference, on the CPU.

    Raises:
        FileNotFoundError: if there is no such file.
        TypeError: if ``logits_from`` is a function: the inputs that belong to its logits are not known.
        ValueError: if the source cannot be loaded.

    Example:
        >>> import tempfile
        >>> import numpy as np
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     np.save(f"{folder}/old.npy", np.zeros((100, 3), np.float16))
        ...     load_reference(f"{folder}/old.npy").source.num_classes
        3
    """
    if isinstance(source, Reference):
        return source
    if isinstance(source, (str, os.PathLike)) and Path(source).suffix in CACHED_SUFFIXES:
        return Reference(CachedLogits.read(source))
    if callable(logits_from):
        raise TypeError(
            "logits_from is a function of the step's output, so that the inputs of the logits are not known and the "
            "reference cannot be given the same. Name a submodule, or give stored logits as the reference."
        )
    model = load_model(source, model_class=model_class, network=network)
    return Reference(model, logits_from=logits_from, compile=compile)
