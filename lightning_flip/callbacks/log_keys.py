"""The keys that callbacks log: one scheme for all of them, and no key twice."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, ClassVar

import lightning.pytorch as pl
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor

from lightning_flip.callbacks.watcher import StepWatcher
from lightning_flip.steps import SampleStep
from lightning_flip.steps.options import check_flags

__all__ = ["LoggingWatcher", "split_name"]

_SPLITS = {TrainerFn.FITTING: ("train", "val"), TrainerFn.VALIDATING: ("val",), TrainerFn.TESTING: ("test",)}


class LoggingWatcher(StepWatcher):
    """A watcher that logs numbers at the end of a pass, under keys that neither the module nor another callback logs.

    A key is the prefix, the split, the number of the loader unless it is the first, and a name:
    ``val_flipping_error``, ``val_1_flipping_error``, ``head_a/val_flipping_error``.

    Args:
        prefix: put in front of every key as it is, such as ``"head_a_"`` or ``"head_a/"``.
        prog_bar: also show the numbers in the progress bar.
        name: tells two callbacks of one class apart in a checkpoint, where their states are stored under it; None: the
            prefix, without an underscore or slash at its end.
        **options: see :class:`~lightning_flip.callbacks.watcher.StepWatcher`.

    Raises:
        TypeError: if ``prefix`` is not text, or ``prog_bar`` not a flag.
        ValueError: when a fit begins, if another callback logs one of the keys; if the module does, after the sanity
            check, at the first rows of training, or at the end of a pass.
    """

    #: Names of the numbers, for the checks before a pass ends. Other names are checked when they are logged.
    logs: ClassVar[tuple[str, ...]] = ()

    def __init__(self, *, prefix: str = "", prog_bar: bool = False, name: str | None, **options: Any) -> None:
        if not isinstance(prefix, str):
            raise TypeError(f"prefix must be text, which the keys begin with; got {prefix!r}.")
        check_flags(prog_bar=prog_bar)
        super().__init__(name=prefix.rstrip("/_-. ").replace("/", "_") if name is None else name, **options)
        self.prefix = prefix
        self.prog_bar = prog_bar
        self._logged: set[str] = set()  # in this run
        self._earlier: set[int] = set()  # Lightning's records of earlier runs
        self._compared = False  # with what training steps log

    def log_numbers(
        self, pl_module: pl.LightningModule, split: str, loader: int, numbers: Mapping[str, float | Tensor]
    ) -> None:
        """Log the numbers of a pass, in a hook of its end and on every rank.

        Args:
            pl_module: the module.
            split: "train", "val" or "test".
            loader: position of the loader.
            numbers: by name, the same on all ranks.

        Raises:
            ValueError: if the module or another callback logs one of the keys.
        """
        keyed = {self._key(split, loader, name): number for name, number in numbers.items()}
        self._refuse_taken(pl_module, keyed)
        self._logged.update(keyed)
        for key, number in keyed.items():
            # All ranks hold the same number: "max" hands it on exactly, a mean over three ranks might not. Lightning
            # stores the attribute and does not read it for numbers. It says whose entry this is, and makes Lightning
            # raise, rather than merge, if the same key is logged again in the same hook.
            pl_module.log(
                key,
                number,
                prog_bar=self.prog_bar,
                sync_dist=True,
                reduce_fx="max",
                add_dataloader_idx=False,
                metric_attribute=self._tag,
            )

    # -- hooks ----------------------------------------------------------------------------------------

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Refuse to log what another callback logs, and attach."""
        self._logged, self._compared = set(), False
        if self.attends(stage):
            self._earlier = {id(entry) for results in _collections(trainer) for entry in results.values()}
            self._refuse_twins(trainer, pl_module, stage)
        super().setup(trainer, pl_module, stage)

    def on_sanity_check_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Refuse to log what the module has logged in the sanity check."""
        if self.fitting:
            self._refuse_taken(pl_module, self._keys_of(self.logs, pl_module, TrainerFn.FITTING))

    def read(self, split: str, loader: int, step: SampleStep) -> None:
        """Compare keys with what the first training steps have logged, and take rows in."""
        trainer = self.trainer
        if split == "train" and not self._compared and trainer is not None:
            self._compared = True
            module = trainer.lightning_module
            self._refuse_taken(module, self._keys_of(self.logs, module, TrainerFn.FITTING))
        super().read(split, loader, step)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Warn of keys that others have logged over ours after the last pass."""
        super().on_train_end(trainer, pl_module)
        taken = dict(self._logged_by_others(pl_module))
        for key in sorted(self._logged & taken.keys()):
            self._tell(f"{self._label} logged {key!r}, which {taken[key]}: one number hides the other. {self._advice}")

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Add advice to the error that Lightning raises if a key is logged twice in one hook."""
        super().on_exception(trainer, pl_module, exception)
        with contextlib.suppress(Exception):
            twice = [key for key in self._logged if f"`self.log({key}, ...)` twice in" in str(exception)]
            for key in twice:
                exception.add_note(f"{self._label} logs {key!r} in this hook as well. {self._advice}")

    # -- parts ----------------------------------------------------------------------------------------

    @property
    def _label(self) -> str:
        """The callback, with the options that may tell it from another one of its class."""
        told = {"logits_from": self.given_source.logits_from, "prefix": self.prefix, "name": self.name}
        return f"{type(self).__name__}({', '.join(f'{option}={value!r}' for option, value in told.items() if value)})"

    @property
    def _tag(self) -> str:
        return f"{self._label} at {id(self)}"

    @property
    def _advice(self) -> str:
        return f'Give it a prefix=, such as {type(self).__name__}(prefix="flip_"), which is put in front of its keys.'

    def _key(self, split: str, loader: int, name: str) -> str:
        """The key of a number or figure."""
        return f"{self.prefix}{split_name(split, loader)}_{name}"

    def _keys(self, pl_module: pl.LightningModule, stage: str) -> list[str]:
        """The keys of a stage that are known beforehand, for first loaders; subclasses add those of figures."""
        return self._keys_of(self.logs, pl_module, stage)

    def _keys_of(self, names: Iterable[str], pl_module: pl.LightningModule, stage: str) -> list[str]:
        first = {"train": _number(self.given_source.completed_by(pl_module).loader)}
        splits = [split for split in _SPLITS.get(stage, ()) if (self.train if split == "train" else self.val)]  # type: ignore[call-overload]
        return [self._key(split, first.get(split, 0), name) for split in splits for name in names]

    @property
    def _train_loader(self) -> int:
        """Position of the training loader that is followed; 0 if it is named by a word."""
        return _number(self.source.loader)

    def _refuse_twins(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        mine = self._keys(pl_module, stage)
        for other in trainer.callbacks:  # type: ignore[attr-defined]
            if other is self or not isinstance(other, LoggingWatcher) or not other.attends(stage):
                continue
            theirs = set(other._keys(pl_module, stage))
            both = [key for key in mine if key in theirs]
            if both:
                more = f" and {len(both) - 1} more" if both[1:] else ""
                raise ValueError(
                    f"{self._label} and {other._label} of one Trainer would both log {both[0]!r}{more}. Give one of "
                    f'them a prefix=, such as {type(self).__name__}(prefix="second_"), which is put in front of its '
                    "keys."
                )

    def _refuse_taken(self, pl_module: pl.LightningModule, keys: Iterable[str]) -> None:
        taken = dict(self._logged_by_others(pl_module))
        for key in keys:
            if key in taken:
                raise ValueError(f"{self._label} would log {key!r}, which {taken[key]}. {self._advice}")

    def _logged_by_others(self, pl_module: pl.LightningModule) -> Iterator[tuple[str, str]]:
        """Keys that others have logged in this run, and who did."""
        for results in _collections(pl_module.trainer):
            for entry in results.values():
                meta = entry.meta
                if meta.metric_attribute == self._tag or (id(entry) in self._earlier and entry.has_reset):
                    continue
                hook = meta.fx.partition(".")[0]  # the number of a loader may follow
                if entry.is_tensor and meta.metric_attribute:
                    who = f"{meta.metric_attribute.rpartition(' at ')[0] or meta.metric_attribute} already logs"
                else:
                    other = "" if hook.endswith("_step") else " or another callback"
                    who = f"{type(pl_module).__name__}{other} already logs in {hook}"
                for on_step in (True, False):  # a mean may have a key for steps and one for epochs
                    for key in results._forked_name(entry, on_step):
                        yield key, who


def split_name(split: str, loader: int) -> str:
    """How the names of what is logged or written of a loader begin.

    Example:
        >>> split_name("val", 0), split_name("test", 2)
        ('val', 'test_2')
    """
    return split if loader == 0 else f"{split}_{loader}"


def _number(loader: int | str | None) -> int:
    return loader if isinstance(loader, int) else 0


def _collections(trainer: pl.Trainer) -> list[Any]:
    """Lightning's own records of what is logged in the running stage."""
    if trainer.state.fn == TrainerFn.FITTING:
        epochs = trainer.fit_loop.epoch_loop
        return [epochs._results, epochs.val_loop._results]
    return [trainer.validate_loop._results if trainer.state.fn == TrainerFn.VALIDATING else trainer.test_loop._results]
