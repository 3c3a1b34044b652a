"""Which labels have a lower margin than labels that are known to be wrong (AUM, Pleiss et al. 2020)."""

from __future__ import annotations

import dataclasses

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lightning_flip.stores import History, HistoryError

__all__ = ["AumThreshold", "aum_threshold"]


@dataclasses.dataclass(frozen=True)
class AumThreshold:
    """The threshold of a run, and the samples below it; `aum_threshold` makes it.

    Attributes:
        threshold: the percentile of the mean logit margins (`aum`) of the threshold samples.
        samples: the number of threshold samples that the run saw.
        flagged: the other samples whose `aum` is lower, the lowest first, with the columns of `History.statistics`.
    """

    threshold: float
    samples: int
    flagged: pa.Table


def aum_threshold(
    history: History,
    split: str = "train",
    loader: int = 0,
    *,
    threshold_class: int | None = None,
    percentile: float = 99.0,
) -> AumThreshold:
    """Flag the labels of a run that was trained on `lightning_flip.data.ThresholdSamples`.

    The threshold samples themselves are not judged. Their labels are all wrong, so that a label whose margin is as low
    as theirs is probably wrong, too.

    Args:
        history: the recorded run.
        split: which split.
        loader: which of its loaders.
        threshold_class: the label of the threshold samples; the last class of the run if left out.
        percentile: of the threshold samples' margins, in [0, 100]; 99 in the paper.

    Raises:
        ValueError: if `percentile` is not in [0, 100].
        HistoryError: if the number of classes is unknown and `threshold_class` is left out, or no sample of that label
            was seen.

    Example:
        >>> import tempfile
        >>> from lightning_flip.stores import read_history
        >>> from lightning_flip.stores.claims import claim
        >>> from lightning_flip.stores.history.parts import PartKey, write_part
        >>> from lightning_flip.stores.history.samples import write_samples
        >>> folder = tempfile.TemporaryDirectory()
        >>> _ = claim(folder.name, info={"num_classes": 3})
        >>> _ = write_samples(folder.name, {"split": "train", "index": range(5), "target": [0, 1, 0, 2, 2]})
        >>> _ = write_part(folder.name, PartKey("train", 0, 0, 0), {
        ...     "global_step": np.zeros(5, int), "index": np.arange(5), "pred": np.array([0, 1, 1, 0, 0]),
        ...     "best_other": np.array([1, 0, 1, 0, 0]), "prob_label": np.full(5, 0.5, "f4"),
        ...     "cross_entropy": np.ones(5, "f4"), "logit_margin": np.array([4, 1, -3, -2, -1], "f4")})
        >>> found = aum_threshold(read_history(folder.name))
        >>> round(found.threshold, 2), found.samples, found.flagged["index"].to_pylist()
        (-1.01, 2, [2])
        >>> folder.cleanup()
    """
    if not 0 <= percentile <= 100:
        raise ValueError(f"percentile must be in [0, 100], got {percentile}.")
    last = None if history.num_classes is None else history.num_classes - 1
    label = last if threshold_class is None else threshold_class
    if label is None:
        raise HistoryError(
            "The run does not tell its number of classes, and so not the label of its threshold samples. Pass"
            " threshold_class=."
        )
    statistics = history.statistics(split, loader)
    seen = statistics.filter(pc.is_valid(statistics["aum"]))
    marked = pc.equal(seen["target"], label)
    margins = np.asarray(seen.filter(marked)["aum"])
    if not len(margins):
        raise HistoryError(
            f"The run saw no sample of split {split!r}, loader {loader}, with label {label}, so that there is no"
            " threshold. Train on lightning_flip.data.ThresholdSamples with a network of one more output, or name the"
            " label of its threshold samples with threshold_class=."
        )
    threshold = float(np.percentile(margins, percentile))
    others = seen.filter(pc.invert(pc.fill_null(marked, False)))
    flagged = others.filter(pc.less(others["aum"], threshold))
    return AumThreshold(threshold, len(margins), flagged.sort_by([("aum", "ascending"), ("index", "ascending")]))
