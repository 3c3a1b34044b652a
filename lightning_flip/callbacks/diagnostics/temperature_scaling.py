"""Temperature scaling while a model trains, and what it does to calibration."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from lightning_flip._deprecate import renamed_keywords
from lightning_flip.callbacks.diagnostics.base import Arrays, Diagnostic, Key
from lightning_flip.callbacks.diagnostics.finding import Finding
from lightning_flip.callbacks.watcher import StatefulWatcher, is_fresh
from lightning_flip.functional.calibration import (
    LARGEST_TEMPERATURE,
    SMALLEST_TEMPERATURE,
    fit_temperature,
    refuse_probabilities,
)
from lightning_flip.reports.figures.reliability import Reliability, plot_reliability, reliability
from lightning_flip.steps import SampleStep
from lightning_flip.steps.options import check_whole

__all__ = ["TemperatureScaling", "read_temperature"]

_NOTICEABLE = 0.001  # of a calibration error; less is what some samples more or less would change, too


class TemperatureScaling(Diagnostic, StatefulWatcher):
    """Fits T of softmax(z / T) on the validation logits, and reports calibration before and after (Guo et al. 2017).

    After every validation pass of a fit T is fitted to the logits of all ranks, and logged with the expected
    calibration error of softmax(z) and softmax(z / T): ``val_temperature``, ``val_ece_unscaled``, ``val_ece_scaled``. T
    goes into the checkpoint; :func:`read_temperature` reads it there. A checkpoint that is saved some updates after the
    validation has the T of before, which is a warning when it is used. The number of right predictions stays, since T
    changes no argmax. Reliability of all bins goes into ``diagnostics/val_calibration.csv`` (``epoch, temperature, low,
    high, count, accuracy, confidence, gap``) and is drawn.

    ``trainer.test(ckpt_path=...)`` does not fit: it reports what the checkpoint's T does on data that it was not fitted
    on, which is the number to quote; on validation data the error after is that of a fit to these very samples.
    ``trainer.validate`` does the same if there is a T, and else fits one.

    T minimizes cross entropy, not the calibration error: if that got worse, there is a warning when training ends, or
    after a test.

    Args:
        n_bins: number of bins of the calibration error; the papers have 15 (PLS) and 10 (Filter-KD).
        val_loader: which validation loader to fit on, if there are several.
        every_n_epochs: at which epochs' validation passes.
        **kwargs: options of :class:`~lightning_flip.callbacks.Diagnostic`; a fit draws the reliability of its last
            validation pass.

    Attributes:
        temperature: the latest T; None before the first.

    Raises:
        ValueError: if an option is out of range; when training starts, if there is no such validation loader; after a
            pass, if probabilities came instead of logits.

    Example:
        >>> import tempfile
        >>> from torch.utils.data import DataLoader, TensorDataset
        >>> from lightning_flip.models import Classifier
        >>> z = 2.5 * torch.tensor([[1.0, 0.0]]).expand(100, 2)  # claims 92%
        >>> data = DataLoader(TensorDataset(z, (torch.arange(100) < 27).long()), batch_size=50)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     scaling = TemperatureScaling(dirpath=folder, figures=False)
        ...     trainer = pl.Trainer(
        ...         accelerator="cpu", logger=False, callbacks=[scaling],
        ...         enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False)
        ...     found = trainer.validate(Classifier(torch.nn.Identity(), num_classes=2), data, verbose=False)[0]
        >>> round(scaling.temperature, 2), round(found["val_ece_unscaled"], 2), round(found["val_ece_scaled"], 2)
        (2.51, 0.19, 0.0)
    """

    title = "calibration"
    logs = ("ece_unscaled", "temperature", "ece_scaled")
    draws_last = True
    loads_always = True

    @renamed_keywords(bins="n_bins")
    def __init__(self, *, n_bins: int = 15, val_loader: int = 0, every_n_epochs: int = 1, **kwargs: Any) -> None:
        super().__init__(train=False, val=True, passes="train", mode=None, every_n_epochs=every_n_epochs, **kwargs)
        check_whole(at_least=1, n_bins=n_bins)
        check_whole(val_loader=val_loader)
        if val_loader < 0:
            raise ValueError(f"val_loader must be a loader's position, counted from 0; got {val_loader}.")
        self.n_bins = n_bins
        self.val_loader = val_loader
        self.temperature: float | None = None
        self._fitted_at: int | None = None  # updates that the weights had had
        self._found: dict[str, float] = {}

    # -- hooks --------------------------------------------------------------------------------------------

    def begin(self, trainer: pl.Trainer) -> None:
        """Forget an earlier fit's temperature; a validation or test keeps it."""
        super().begin(trainer)
        if trainer.state.fn == TrainerFn.FITTING and is_fresh(trainer):
            self.temperature, self._found, self._fitted_at = None, {}, None

    def watch(self, trainer: pl.Trainer, split: str, loader: int, step: SampleStep) -> None:
        """Keep a step's logits; of several validation loaders one is followed."""
        if split == "test" or loader == self.val_loader:
            super().watch(trainer, split, loader, step)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Refuse a validation loader that is not there."""
        super().on_train_start(trainer, pl_module)
        loaders = len(trainer.num_val_batches)
        if self.fitting and loaders and self.val_loader >= loaders:
            raise ValueError(
                f"val_loader={self.val_loader}, and there are {loaders} validation loaders, counted from 0."
            )

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Warn if scaling made things worse, or there was nothing to fit it to."""
        super().on_train_end(trainer, pl_module)
        if not self.fitting:
            return
        if self.temperature is None:
            rank_zero_warn(
                "TemperatureScaling has fitted no temperature: no validation pass was due, or none with labels. It "
                "needs validation data, and every_n_epochs within the fit."
            )
        self._warn("val")

    def state(self) -> dict[str, Any]:
        """The temperature, the calibration errors before and after, and how many updates the weights had had."""
        return {"temperature": self.temperature, "fitted_at": self._fitted_at, **self._found}

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Warn if a checkpoint's temperature is older than its weights, and it is going to be used."""
        super().on_load_checkpoint(trainer, pl_module, checkpoint)
        state = checkpoint.get("callbacks", {}).get(self.state_key)
        if state is not None and trainer.state.fn != TrainerFn.FITTING:
            _warn_of_age(state, checkpoint)

    def load_state(self, trainer: pl.Trainer, state: dict[str, Any]) -> None:
        """Take over a checkpoint's temperature."""
        self._found = {name: value for name, value in state.items() if name.startswith("ece_")}
        self.temperature, self._fitted_at = state["temperature"], state["fitted_at"]

    # -- a pass -------------------------------------------------------------------------------------------

    def columns(self, step: SampleStep) -> Mapping[str, Tensor]:
        """Logits and labels."""
        return {"z": step.logits, "label": step.target}

    def describe(self, trainer: pl.Trainer, split: str, rows: Arrays) -> Finding:
        """The temperature, and reliability at 1 and at it."""
        logits, labels = torch.from_numpy(rows["z"]), torch.from_numpy(rows["label"])
        temperature = self.temperature
        if trainer.state.fn == TrainerFn.FITTING or (temperature is None and split == "val"):
            temperature = fit_temperature(logits, labels)
        else:
            refuse_probabilities(logits)
        found = [(1.0, "before", self._reliability(logits, labels, 1.0))]
        scalars = {"ece_unscaled": found[0][2].calibration_error}
        if temperature is not None:
            found.append((temperature, f"after, T = {temperature:.3g}", self._reliability(logits, labels, temperature)))
            scalars |= {"temperature": temperature, "ece_scaled": found[1][2].calibration_error}
        table: dict[str, list[Any]] = {}
        for value, _, part in found:
            for name, cells in {"temperature": [value] * self.n_bins, **part.table()}.items():
                table.setdefault(name, []).extend(cells)
        shown = {name: part for _, name, part in found}
        return Finding(table, shown, lambda: plot_reliability(shown), scalars)

    def concluded(self, key: Key, scalars: Mapping[str, float]) -> None:
        """Take over what the first rank fitted; a loader that is not followed gives nothing."""
        if not scalars:
            return
        self._found = {name: value for name, value in scalars.items() if name != "temperature"}
        self.temperature = scalars.get("temperature", self.temperature)
        trainer = self.trainer
        if self.fitting and trainer is not None:
            self._fitted_at = trainer.global_step
        else:
            self._warn(key[0])

    def _reliability(self, logits: Tensor, labels: Tensor, temperature: float) -> Reliability:
        confidence, pred = (logits.double() / temperature).softmax(dim=1).max(dim=1)
        return reliability(confidence.clamp(max=1.0).numpy(), (pred == labels).numpy(), n_bins=self.n_bins)

    def _warn(self, split: str) -> None:
        before, after = self._found.get("ece_unscaled"), self._found.get("ece_scaled")
        if before is not None and after is None:
            rank_zero_warn(
                f"TemperatureScaling: there is no temperature, so that only {split}_ece_unscaled is reported. Pass "
                "ckpt_path= of a fit that had this callback, or run trainer.validate before."
            )
        elif before is not None and after is not None and after > before + _NOTICEABLE:
            rank_zero_warn(
                f"TemperatureScaling: T = {self.temperature:.4g} raised the calibration error of the {split} data from "
                f"{before:.4f} to {after:.4f}. It minimizes cross entropy, which is another thing; leave the logits as "
                "they are, or fit T on more samples."
            )
        if self.temperature in (SMALLEST_TEMPERATURE, LARGEST_TEMPERATURE):
            rank_zero_warn(
                f"TemperatureScaling: T = {self.temperature:g} is where the search ends. Labels that are all predicted "
                "right have no best temperature above 0, logits that say nothing of the labels none below infinity: "
                "fit on samples that the model has not learned, and on more of them."
            )


def read_temperature(checkpoint: str | Path, *, name: str = "") -> float:
    """Read the temperature that a checkpoint's weights go with.

    Args:
        checkpoint: path of a checkpoint of a fit with :class:`TemperatureScaling`.
        name: the callback's name, if it has one.

    Returns:
        T; divide the model's logits by it.

    Raises:
        KeyError: if the checkpoint holds none.
        ValueError: if it cannot be read safely.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder, "last.ckpt")
        ...     scaling = TemperatureScaling()
        ...     torch.save({"callbacks": {scaling.state_key: {"temperature": 2.5}}}, path)
        ...     read_temperature(path)
        2.5
    """
    try:
        content = torch.load(checkpoint, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"{checkpoint} holds more than tensors and plain values (such as hyperparameters of other types), which is "
            "not read here, for to read it may execute code. If you trust the file, load it with torch.load(..., "
            f"weights_only=False) and take ['callbacks'][{TemperatureScaling(name=name).state_key!r}]['temperature']."
        ) from error
    callbacks = content.get("callbacks", {})
    state = callbacks.get(TemperatureScaling(name=name).state_key, {})
    if state.get("temperature") is None:
        held = sorted(other for other in callbacks if other.startswith(TemperatureScaling.__name__))
        raise KeyError(
            f"{checkpoint} holds no temperature of a TemperatureScaling(name={name!r}); it holds {held or 'none'}. "
            "Train with this callback and validation data, or pass another name=."
        )
    _warn_of_age(state, content)
    return float(state["temperature"])


def _warn_of_age(state: dict[str, Any], checkpoint: dict[str, Any]) -> None:
    fitted, saved = state.get("fitted_at"), checkpoint.get("global_step")
    if state.get("temperature") is not None and fitted is not None and saved is not None and fitted != saved:
        rank_zero_warn(
            f"the temperature {state['temperature']:.4g} was fitted after {fitted} updates, and the weights of this "
            f"checkpoint have had {saved}: it is that of an earlier validation. Save checkpoints after validations, or "
            "fit one anew with trainer.validate and a fresh TemperatureScaling()."
        )
