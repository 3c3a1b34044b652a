"""A dataset with wrong labels that remembers the right ones."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lightning_flip.data._label_files import read_labels
from lightning_flip.data._wrapped import WrappedDataset
from lightning_flip.data.labels import check_label, class_names, find_labels, with_label
from lightning_flip.functional.noise import NoisePreset, class_conditional_noise, preset_transition, symmetric_noise

__all__ = ["NoisyLabels"]


class NoisyLabels(WrappedDataset):
    """Hands out the samples of a map-style dataset with some of their labels replaced.

    All labels are drawn once, when the wrapper is made, so that they depend on the seed alone and not on the order
    of access, the epoch or the worker. The wrapped dataset is only read.

    The label is the field target, label, labels or y of a mapping or named tuple, and the second element of another
    tuple or of a list; it keeps its type. True labels come from the dataset's ``targets``, ``labels`` or
    ``tensors[1]`` (through Subset and ConcatDataset); if it has none of them, or has a ``target_transform``,
    from one pass over its samples. ``targets``, ``labels`` and ``tensors`` of the wrapper give the
    noisy labels; all other attributes are the wrapped dataset's.

    Exactly one of ``rate``, ``transition`` and ``file`` defines the noise; ``preset`` with its ``rate`` names a
    transition of the literature.

    Args:
        dataset: map-style dataset of ``N`` samples with integer labels.
        rate: probability in ``[0, 1]`` that a label changes: uniformly to another class (symmetric noise), or as
            ``preset`` says.
        transition: class-conditional noise: row-stochastic ``[K, K]``, ``transition[true, noisy]``.
        preset: class-conditional noise of the literature, at ``rate``: ``"cifar10_pairs"`` (truck -> automobile,
            bird -> airplane, deer -> horse, cat <-> dog) or ``"cifar100_superclass"`` (the next class of the
            superclass, circular).
        file: path of a file with ``N`` labels in the order of the dataset: ``.npy``, ``.npz``, ``.txt`` (one per line)
            or ``.csv`` (with a column name if there are several columns).
        num_classes: number of classes ``K``. Default: the size of ``transition``, the length of the dataset's
            ``classes``, or the largest label plus one.
        seed: seed of the noise; the global random state is not touched.
        exact: with ``rate``: replace exactly ``round(rate * N)`` labels.
        include_true_class: with ``rate``: redraw over all classes, as the FER paper does; the share of wrong labels
            is then ``rate * (1 - 1 / K)``.
        scan: read the true labels from the samples even if the dataset has an attribute for them.

    Attributes:
        true_targets: int64 ``[N]``.
        noisy_targets: int64 ``[N]``.
        is_noisy: bool ``[N]``, whether the two differ.

    Raises:
        TypeError: if the source of the noise is not exactly one, or a sample has no integer label.
        ValueError: if the rate, the matrix, or the labels of the file do not fit.

    Example:
        >>> from torch.utils.data import TensorDataset
        >>> clean = TensorDataset(torch.zeros(1000, 2), torch.arange(1000) % 10)
        >>> noisy = NoisyLabels(clean, rate=0.4, exact=True, seed=1)
        >>> int(noisy.is_noisy.sum()), noisy.true_target(12), len(noisy)
        (400, 2, 1000)
        >>> bool(noisy[12][1] == noisy.noisy_targets[12])
        True
    """

    def __init__(
        self,
        dataset: Any,
        *,
        rate: float | None = None,
        transition: Tensor | Sequence[Sequence[float]] | None = None,
        preset: NoisePreset | None = None,
        file: str | PathLike[str] | None = None,
        num_classes: int | None = None,
        seed: int = 0,
        exact: bool = False,
        include_true_class: bool = False,
        scan: bool = False,
    ) -> None:
        sources = {"rate": rate, "transition": transition, "file": file}
        given = [name for name, value in sources.items() if value is not None]
        if len(given) != 1:
            raise TypeError(f"give exactly one of rate, transition and file, got {' and '.join(given) or 'none'}.")
        if preset is not None:
            if rate is None:
                raise TypeError(f"preset={preset!r} needs rate=, got {given[0]}=; the preset is the transition.")
            transition, rate, given = preset_transition(preset, rate), None, ["preset"]
        if rate is None and (exact or include_true_class):
            raise TypeError(f"exact and include_true_class belong to rate=, got {given[0]}=; leave them out.")
        self.dataset = dataset
        self.true_targets = find_labels(dataset, scan=scan)
        generator = torch.Generator().manual_seed(seed)
        if rate is not None:
            self.noisy_targets = symmetric_noise(
                self.true_targets,
                rate,
                num_classes or self._count_classes(),
                include_true_class=include_true_class,
                exact=exact,
                generator=generator,
            )
        elif transition is not None:
            matrix = torch.as_tensor(transition, dtype=torch.float64)
            if num_classes is not None and len(matrix) != num_classes:
                raise ValueError(
                    f"{given[0]} has {len(matrix)} classes and num_classes is {num_classes}; they must agree."
                )
            self.noisy_targets = class_conditional_noise(self.true_targets, matrix, generator=generator)
        elif file is not None:
            self.noisy_targets = read_labels(Path(file), len(dataset), num_classes or self._declared_classes())

    @property
    def is_noisy(self) -> Tensor:
        """Whether noisy and true label differ: bool ``[N]``."""
        return self.noisy_targets != self.true_targets

    @property
    def targets(self) -> Tensor:
        """The noisy labels, under the name that torchvision's datasets use."""
        return self.noisy_targets

    @property
    def labels(self) -> Tensor:
        """The noisy labels, under another usual name."""
        return self.noisy_targets

    def true_target(self, index: int) -> int:
        """The label that a sample had before the noise."""
        return int(self.true_targets[index])

    def __getattr__(self, name: str) -> Any:
        if name == "tensors":  # the wrapped dataset's would give away the true labels
            inputs, _, *others = self.dataset.tensors
            return (inputs, self.noisy_targets, *others)
        return super().__getattr__(name)

    def _changed(self, sample: Any, index: int) -> Any:
        """The sample with its noisy label."""
        position = operator.index(index)
        check_label(sample, self.true_target(position), position)
        return with_label(sample, int(self.noisy_targets[position]))

    def _declared_classes(self) -> int | None:
        names = class_names(self.dataset)
        return None if names is None else len(names)

    def _count_classes(self) -> int:
        return self._declared_classes() or int(self.true_targets.max()) + 1
