"""The threshold of a recorded run, against plain numpy, and a run on data with wrong labels."""

from __future__ import annotations

from pathlib import Path

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from lightning_flip import Classifier, PredictionHistory, read_history
from lightning_flip.data import NoisyLabels, ThresholdSamples
from lightning_flip.models import MLP
from lightning_flip.reports.aum_threshold import aum_threshold
from lightning_flip.stores import HistoryError
from tests.reports.small_runs import record, some_logits


@pytest.mark.parametrize("percentile", [0, 50, 99, 100])
def test_flagged_are_those_below_the_percentile_of_the_threshold_samples(percentile: float, tmp_path: Path) -> None:
    label = np.arange(60) % 4
    logits = some_logits(60, 4)
    margin = np.empty((3, 60))
    for epoch, rows in enumerate(logits):
        for sample, row in enumerate(rows):
            margin[epoch, sample] = row[label[sample]] - max(np.delete(row, label[sample]))
    aum = margin.mean(axis=0)
    threshold = np.percentile(aum[label == 3], percentile)
    expected = [sample for sample in np.argsort(aum) if label[sample] != 3 and aum[sample] < threshold]
    found = aum_threshold(record(tmp_path / "run", logits, label, classes=4), percentile=percentile)
    assert found.threshold == pytest.approx(threshold, abs=1e-6)
    assert found.samples == 15
    assert found.flagged["index"].to_pylist() == expected


def test_the_label_may_be_another_than_the_last(tmp_path: Path) -> None:
    history = record(tmp_path / "run", some_logits(12, 3), np.arange(12) % 3)
    with pytest.raises(HistoryError, match="Pass threshold_class="):
        aum_threshold(history)
    found = aum_threshold(history, threshold_class=0)
    assert found.samples == 4
    assert 0 not in found.flagged["target"].to_pylist()


def test_a_run_without_threshold_samples_is_refused(tmp_path: Path) -> None:
    history = record(tmp_path / "run", some_logits(12, 4), np.arange(12) % 3, classes=4)
    with pytest.raises(HistoryError, match=r"no sample of split 'train', loader 0, with label 3.*ThresholdSamples"):
        aum_threshold(history)
    with pytest.raises(ValueError, match="percentile"):
        aum_threshold(history, percentile=101)


def test_wrong_labels_of_a_run_are_flagged(tmp_path: Path) -> None:
    centers = 3 * torch.eye(4)
    label = torch.arange(800) % 4
    inputs = centers[label] + torch.randn(800, 4, generator=torch.Generator().manual_seed(0))
    noisy = NoisyLabels(TensorDataset(inputs, label), rate=0.2, exact=True, seed=1)
    data = ThresholdSamples(noisy, 4)
    pl.seed_everything(0)
    trainer = pl.Trainer(
        max_epochs=5,
        accelerator="cpu",
        callbacks=[PredictionHistory(str(tmp_path / "run"))],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    model = Classifier(network=MLP(4, 5), num_classes=5)
    clean = TensorDataset(inputs, label)
    trainer.fit(model, DataLoader(data, batch_size=32, shuffle=True), DataLoader(clean, batch_size=800))
    found = aum_threshold(read_history(tmp_path / "run"))
    judged = ~data.is_threshold.numpy()
    wrong = set(np.flatnonzero(noisy.is_noisy.numpy() & judged).tolist())
    flagged = set(found.flagged["index"].to_pylist())
    assert found.samples == 160
    assert not flagged & set(np.flatnonzero(~judged).tolist())
    assert len(flagged & wrong) / len(wrong) > 0.8
    assert len(flagged & wrong) / len(flagged) > 0.5
