"""Every metric under 2 and 3 ranks, in one process group for each world size."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from lightning_flip.metrics import (
    Churn,
    FlippingError,
    NegativeFlipImpact,
    NegativeFlipRate,
    PositiveFlipRate,
    RelativeFlippingError,
    RelativeNegativeFlipRate,
    TrustScore,
)
from tests.oracles.flips import EpochMemory, flip_rates

RATES = {
    "nfr": NegativeFlipRate,
    "pfr": PositiveFlipRate,
    "relative": RelativeNegativeFlipRate,
    "impact": NegativeFlipImpact,
    "trust": TrustScore,
    "churn": Churn,
}
SAMPLES, EPOCHS = 11, 4


def model_rows() -> np.ndarray:
    """Old prediction, new prediction and label of each sample."""
    return np.random.default_rng(5).integers(0, 3, (SAMPLES, 3))


def history() -> np.ndarray:
    return np.random.default_rng(6).random((EPOCHS, SAMPLES)) < 0.5


def shard(epoch: int, rank: int, world: int) -> np.ndarray:
    """A shuffle of this epoch's own, padded with repeats like a DistributedSampler."""
    order = np.random.default_rng(100 + epoch).permutation(SAMPLES)
    padded = np.concatenate((order, order[: -SAMPLES % world]))
    return padded[rank::world]


def rates_on_this_rank(rank: int, world: int) -> dict[str, float]:
    # Uneven on purpose: the last rank has no sample.
    ends = [SAMPLES] if world == 2 else [3, SAMPLES]
    mine = np.split(model_rows(), ends)[rank]
    old, new, target = torch.from_numpy(np.ascontiguousarray(mine.T))
    values = {}
    for name, metric_class in RATES.items():
        metric = metric_class()
        for rows in (slice(0, 2), slice(2, None)):
            if name == "churn":
                metric.update(new[rows], old[rows])
            else:
                metric.update(new[rows], target[rows], old[rows])
        values[name] = metric.compute().item()
    return values


def epochs_on_this_rank(rank: int, world: int) -> dict[str, list]:
    metrics = {
        "fe": FlippingError(SAMPLES),
        "rfe": RelativeFlippingError(SAMPLES),
        "fe each step": FlippingError(SAMPLES, dist_sync_on_step=True),
        "fe last epoch only": FlippingError(SAMPLES),
    }
    values: dict[str, list] = {name: [] for name in metrics}
    memory = []
    for epoch, row in enumerate(history()):
        index = torch.from_numpy(shard(epoch, rank, world))
        preds = torch.from_numpy(~row)[index].long()
        for name, metric in metrics.items():
            arguments = {"preds": preds, "target": torch.zeros_like(preds), "index": index}
            if name == "fe each step":
                values[name].append(metric(**arguments).item())
            else:
                metric.update(**arguments)
            if name in ("fe", "rfe") or (name == "fe last epoch only" and epoch == EPOCHS - 1):
                values[name].append(metric.compute().item())
        memory.append(metrics["fe"].state_dict()["ever_right"].tolist())
        for metric in metrics.values():
            metric.reset()
    return values | {"memory": memory}


def run_rank(rank: int, world: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=world)
    results = rates_on_this_rank(rank, world) | epochs_on_this_rank(rank, world)
    Path(folder, f"rank-{rank}.json").write_text(json.dumps(results))
    dist.destroy_process_group()


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
@pytest.mark.parametrize("world", [2, 3])
def test_every_rank_reports_what_one_process_would(world: int, tmp_path: Path) -> None:
    mp.start_processes(run_rank, args=(world, str(tmp_path)), nprocs=world, start_method="fork")
    ranks = [json.loads((tmp_path / f"rank-{rank}.json").read_text()) for rank in range(world)]
    rates = flip_rates(*model_rows().T)
    memory = EpochMemory()
    errors = [memory.epoch(range(SAMPLES), row.tolist()) for row in history()]
    assert errors[-1][0] > 0
    for result in ranks:
        assert {name: result[name] for name in RATES} == pytest.approx(rates, rel=1e-6)
        assert result["fe"] == pytest.approx([fe for fe, _ in errors])
        assert result["rfe"] == pytest.approx([rfe for _, rfe in errors])
        assert result["fe each step"] == pytest.approx([fe for fe, _ in errors])
        assert result["fe last epoch only"] == pytest.approx([errors[-1][0]])
        assert result["memory"] == np.maximum.accumulate(history(), axis=0).astype(int).tolist()
