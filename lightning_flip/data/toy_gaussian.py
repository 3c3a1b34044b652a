"""Gaussian classes whose true label distribution is known: the toy data of the Filter-KD paper."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.utils.data import Dataset

from lightning_flip.data.label_distributions import LabelDistributions
from lightning_flip.data.splits import SplitDataModule

__all__ = ["ToyGaussian", "ToyGaussianDataModule", "class_means", "true_distributions"]


class ToyGaussian(Dataset[tuple[Tensor, Tensor]]):
    """Samples ``(x, y)`` drawn from Gaussian classes, with p*(y | x) of every one (Filter-KD paper, appendix C).

    A label y is drawn uniformly over the K classes, then x ~ N(mean_y, sigma^2 I), so that
    p* = softmax(-||x - mean_k||^2 / (2 sigma^2)) (Eq. 6).

    Args:
        means: class means ``[K, D]``.
        num_samples: number of samples N.
        sigma: standard deviation of every feature.
        seed: seed of the draw; the global random state is not touched.

    Attributes:
        inputs: float32 ``[N, D]``.
        targets: int64 ``[N]``, the labels that were drawn.
        true_probs: p*, float32 ``[N, K]``, computed in float64.

    Raises:
        ValueError: if a size is below 1 (2 for K), or ``sigma`` is not positive.

    Example:
        >>> data = ToyGaussian(class_means(3, 30), num_samples=5)
        >>> x, y = data[0]
        >>> x.shape, len(data), round(float(data.true_distribution(0).sum()), 4)
        (torch.Size([30]), 5, 1.0)
    """

    def __init__(self, means: Tensor, num_samples: int, *, sigma: float = 2.0, seed: int = 0) -> None:
        if means.ndim != 2 or len(means) < 2 or means.shape[1] < 1:
            raise ValueError(f"means must be [K, D] of at least 2 classes, got shape {tuple(means.shape)}.")
        if num_samples < 1:
            raise ValueError(f"num_samples must be at least 1, got {num_samples}.")
        if not sigma > 0:
            raise ValueError(f"sigma must be greater than 0, got {sigma}.")
        generator = torch.Generator().manual_seed(seed)
        self.targets = torch.randint(len(means), (num_samples,), generator=generator)
        noise = torch.randn(num_samples, means.shape[1], generator=generator)
        self.inputs = means[self.targets].float() + sigma * noise
        self.true_probs = true_distributions(self.inputs, means, sigma)

    def true_distribution(self, index: int) -> Tensor:
        """The probabilities p* ``[K]`` of one sample, float32."""
        return self.true_probs[index]

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.inputs[index], self.targets[index]


class ToyGaussianDataModule(SplitDataModule):
    """The toy task of the Filter-KD paper: K = 3 Gaussian classes in 30 dimensions, 5% to train on, 5% to validate.

    Most samples go to the test split, which makes the test figures exact to about 0.1 percentage points.

    Args:
        delta: d; every entry of a class mean is drawn from {-d, 0, d}. Small is hard: the paper has 4, 2, 1, 0.5.
        num_samples: samples of all three splits together.
        train_share: share of them to train on.
        val_share: share of them to validate on; the rest is the test split.
        num_classes: K.
        num_features: D.
        sigma: standard deviation of every feature.
        supervision: what training batches hold: ``"labels"`` int64 ``[B]`` that were drawn, or ``"true"``, p* as
            float ``[B, K]`` (ground-truth training). Validation and test always have labels.
        batch_size: samples per training batch.
        eval_batch_size: samples per batch of the other loaders.
        seed: seed of the samples; each split draws from its own.
        means_seed: seed of the class means, separate so that other samples of the same task can be drawn.
        num_workers: worker processes of each loader.

    Attributes:
        means: class means, float32 ``[K, D]``.
        train_set, val_set, test_set: the splits, after ``setup``; a :class:`ToyGaussian` each, with p* as
            ``true_probs`` (with ``"true"``, the training split is a :class:`~lightning_flip.data.LabelDistributions`
            over one).

    Raises:
        ValueError: if an option is outside its range or a split would be empty.

    Example:
        >>> data = ToyGaussianDataModule(num_samples=1000)
        >>> data.setup()
        >>> len(data.train_set), len(data.val_set), len(data.test_set)
        (50, 50, 900)
        >>> x, y = next(iter(data.train_dataloader()))
        >>> x.shape, y.shape
        (torch.Size([32, 30]), torch.Size([32]))
    """

    def __init__(
        self,
        *,
        delta: float = 1.0,
        num_samples: int = 100_000,
        train_share: float = 0.05,
        val_share: float = 0.05,
        num_classes: int = 3,
        num_features: int = 30,
        sigma: float = 2.0,
        supervision: Literal["labels", "true"] = "labels",
        batch_size: int = 32,
        eval_batch_size: int = 5000,
        seed: int = 0,
        means_seed: int = 0,
        num_workers: int = 0,
    ) -> None:
        super().__init__()
        if supervision not in ("labels", "true"):
            raise ValueError(f"supervision must be 'labels' or 'true', got {supervision!r}.")
        sizes = [round(share * num_samples) for share in (train_share, val_share)]
        sizes.append(num_samples - sum(sizes))
        if min(train_share, val_share) <= 0 or min(sizes) < 1:
            raise ValueError(
                "train_share and val_share must be positive shares that leave samples for every split, got "
                f"{train_share} and {val_share} of num_samples={num_samples}: {sizes} to train, validate and test on."
            )
        self.save_hyperparameters()
        self.sizes: Sequence[int] = tuple(sizes)
        self.num_classes = num_classes
        self.num_features = num_features
        self.sigma = sigma
        self.supervision = supervision
        self.batch_size = batch_size
        self.eval_batch_size = eval_batch_size
        self.seed = seed
        self.num_workers = num_workers
        self.means = class_means(num_classes, num_features, delta=delta, seed=means_seed)

    def setup(self, stage: str | None = None) -> None:
        """Draw the three splits; every call draws the same ones."""
        drawn = [
            # Neighboring seeds would give the test split of one run to the training of another.
            ToyGaussian(self.means, size, sigma=self.sigma, seed=3 * self.seed + split)
            for split, size in enumerate(self.sizes)
        ]
        train, self.val_set, self.test_set = drawn
        true = self.supervision == "true"
        self.train_set = LabelDistributions(train, train.true_probs, as_target=True) if true else train


def class_means(num_classes: int, num_features: int, *, delta: float = 1.0, seed: int = 0) -> Tensor:
    """Draw class means ``[K, D]``, float32, every entry one of -d, 0 and d.

    Args:
        num_classes: K, at least 2.
        num_features: D.
        delta: d > 0.
        seed: seed of the draw; means of different d are multiples of each other.

    Raises:
        ValueError: if an argument is outside its range.

    Example:
        >>> class_means(3, 30).shape, sorted(set(class_means(3, 30, delta=2.0).flatten().tolist()))
        (torch.Size([3, 30]), [-2.0, 0.0, 2.0])
    """
    if num_classes < 2 or num_features < 1 or not delta > 0:
        raise ValueError(
            "class means need num_classes >= 2, num_features >= 1 and delta > 0, got "
            f"num_classes={num_classes}, num_features={num_features}, delta={delta}."
        )
    signs = torch.randint(-1, 2, (num_classes, num_features), generator=torch.Generator().manual_seed(seed))
    return delta * signs.float()


def true_distributions(inputs: Tensor, means: Tensor, sigma: float = 2.0) -> Tensor:
    """p*(y | x) of equally frequent Gaussian classes: softmax(-||x - mean_k||^2 / (2 sigma^2)) (Eq. 6).

    Args:
        inputs: ``[N, D]``.
        means: class means ``[K, D]``.
        sigma: standard deviation of every feature.

    Returns:
        Probabilities ``[N, K]``, float32, computed in float64.

    Example:
        >>> true_distributions(torch.zeros(1, 2), torch.tensor([[1.0, 0.0], [0.0, -1.0]]))
        tensor([[0.5000, 0.5000]])
    """
    inputs, means = inputs.double(), means.double()
    # ||x||^2 is the same for every class, so it is left out: [N, K] instead of [N, K, D].
    scores = inputs @ means.T - (means * means).sum(dim=1) / 2
    return (scores / sigma**2).softmax(dim=1).float()
