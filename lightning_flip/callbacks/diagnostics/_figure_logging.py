"""Handing figures to whatever logger a Trainer has."""

from __future__ import annotations

import weakref
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lightning.pytorch as pl
import numpy as np
import numpy.typing as npt
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn

from lightning_flip.stores.files import atomic_write, make_directory

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["log_figure"]

_DOTS = 120  # per inch
_TOLD: weakref.WeakKeyDictionary[pl.Trainer, set[Path]] = weakref.WeakKeyDictionary()  # folders that were printed


def log_figure(trainer: pl.Trainer, name: str, figure: Figure, *, step: int, path: Path) -> list[str]:
    r"""Give a figure to every logger that takes figures; to a PNG file if none does.

    TensorBoard gets it under its name, Weights & Biases as an image, MLflow as an artifact ``figures/NAME-STEP.png``.
    Loggers are recognized by the names of their classes, so that none of those packages has to be installed, and those
    of ``pytorch_lightning`` and subclasses count as well. A logger that fails is warned of. The folder of files is
    printed once. Called on the first rank alone; returns names of loggers, or the file.

    Example:
        >>> import tempfile
        >>> from lightning_flip.reports.figures.canvas import new_figure
        >>> trainer = pl.Trainer(logger=False, accelerator="cpu", enable_progress_bar=False)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     took = log_figure(trainer, "gaps", new_figure(2, 2), step=0, path=Path(folder, "gaps.png"))
        ...     Path(took[0]).read_bytes()[:4]
        b'\x89PNG'
    """
    took = []
    for logger in trainer.loggers:
        kinds = {kind.__name__ for kind in type(logger).__mro__}
        for kind, give in _TAKERS.items():
            if kind not in kinds:
                continue
            try:
                give(logger, name, figure, step)
                took.append(kind)
            except Exception as error:  # a server that does not answer is not a reason to lose a training
                rank_zero_warn(f"{kind} did not take the figure {name!r} ({type(error).__name__}: {error}).")
    if not took:
        make_directory(path.absolute().parent)
        with atomic_write(path) as temporary:
            figure.savefig(temporary, format="png", dpi=_DOTS)
        if path.parent not in _TOLD.setdefault(trainer, set()):
            _TOLD[trainer].add(path.parent)
            rank_zero_info(f"No logger of this Trainer takes figures: they are PNG files in {path.parent}")
        took.append(str(path))
    return took


def _to_tensorboard(logger: Any, name: str, figure: Figure, step: int) -> None:
    logger.experiment.add_figure(name, figure, global_step=step)


def _to_wandb(logger: Any, name: str, figure: Figure, step: int) -> None:
    logger.log_image(key=name, images=[_pixels(figure)], step=step)


def _to_mlflow(logger: Any, name: str, figure: Figure, step: int) -> None:
    logger.experiment.log_figure(logger.run_id, figure, f"figures/{name}-{step}.png")


_TAKERS = {"TensorBoardLogger": _to_tensorboard, "WandbLogger": _to_wandb, "MLFlowLogger": _to_mlflow}


def _pixels(figure: Figure) -> npt.NDArray[np.uint8]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    canvas.draw()  # type: ignore[no-untyped-call]
    return np.asarray(canvas.buffer_rgba(), np.uint8).copy()  # type: ignore[no-untyped-call]
