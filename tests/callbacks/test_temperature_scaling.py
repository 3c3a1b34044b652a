"""Temperature scaling in fits, validations and tests, against a search and a loop over bins."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_flip import TemperatureScaling, read_temperature
from lightning_flip.functional.calibration import SMALLEST_TEMPERATURE
from lightning_flip.models import Classifier
from tests.callbacks.helpers import CLASSES, Memory, Watched, loader, make_trainer
from tests.callbacks.noisy import table
from tests.oracles.calibration import best_temperature, calibration_error

N, BINS = 60, 10
OUT = Path("run/diagnostics")


def claims(count: int, factor: float, seed: int = 0) -> TensorDataset:
    """Logits that are a factor too large for their labels; a network that passes them on predicts them."""
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(count, CLASSES, generator=generator)
    labels = torch.multinomial(logits.softmax(dim=1), 1, generator=generator)[:, 0]
    return TensorDataset(factor * logits, labels)


def batches(data: TensorDataset, batch_size: int = 16, **options: Any) -> DataLoader[Any]:
    return DataLoader(data, batch_size=batch_size, **options)


class PassesOn(nn.Module):
    """Logits in, logits out; one weight that training may move, in eval mode without effect."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        return x + 0.0 * self.weight


def passes_on() -> Classifier:
    return Classifier(PassesOn(), num_classes=CLASSES)


def scaling(**options: Any) -> TemperatureScaling:
    return TemperatureScaling(**({"n_bins": BINS, "figures": False, "dirpath": "run"} | options))


def expected(data: TensorDataset) -> tuple[float, float, float]:
    """Temperature and calibration errors before and after, by the oracle."""
    logits, labels = (tensor.tolist() for tensor in data.tensors)
    temperature = best_temperature(logits, labels)
    scaled = [[z / temperature for z in row] for row in logits]
    return temperature, calibration_error(logits, labels, BINS), calibration_error(scaled, labels, BINS)


def test_a_fit_logs_what_the_oracle_finds_after_every_validation() -> None:
    data, logger, callback = claims(N, 2.5), Memory(), scaling()
    trainer = make_trainer(max_epochs=2, callbacks=[callback], logger=logger)
    trainer.fit(passes_on(), batches(claims(16, 1.0)), batches(data))
    temperature, before, after = expected(data)
    assert logger.values("val_temperature") == pytest.approx([temperature] * 2, rel=1e-4)
    assert logger.values("val_ece_unscaled") == pytest.approx([before] * 2, abs=1e-5)
    assert logger.values("val_ece_scaled") == pytest.approx([after] * 2, abs=1e-5)
    assert callback.temperature == pytest.approx(temperature, rel=1e-4)
    rows = table(OUT / "val_calibration.csv")
    assert len(rows) == 2 * 2 * BINS
    for epoch in (0, 1):
        for value, error in ((1.0, before), (callback.temperature, after)):
            bins = [row for row in rows if row["epoch"] == epoch and row["temperature"] == value]
            assert sum(row["count"] for row in bins) == N
            assert sum(row["count"] * (row["gap"] or 0.0) for row in bins) / N == pytest.approx(error, abs=1e-5)


def test_two_and_a_half_is_found_within_two_percent() -> None:
    """Every row comes with its labels in just the shares that its softmax says, before it is multiplied."""
    shares = torch.tensor([[7.0, 2.0, 1.0], [1.0, 5.0, 4.0], [3.0, 1.0, 6.0]])
    z = 2.5 * (shares / 10).log().repeat_interleave(10, dim=0)
    labels = torch.cat([torch.arange(3).repeat_interleave(row.long()) for row in shares])
    callback = scaling()
    make_trainer(callbacks=[callback]).validate(passes_on(), batches(TensorDataset(z, labels)), verbose=False)
    assert callback.temperature == pytest.approx(2.5, rel=0.02)
    assert callback.temperature == pytest.approx(2.5, rel=1e-5)


def test_a_test_reports_what_the_checkpoints_temperature_does_and_fits_none(tmp_path: Path) -> None:
    val, other = claims(N, 2.5), claims(N, 2.5, seed=7)
    trainer = make_trainer(max_epochs=1, callbacks=[scaling()])
    trainer.fit(passes_on(), batches(claims(16, 1.0)), batches(val))
    trainer.save_checkpoint("a.ckpt")
    temperature = expected(val)[0]
    assert read_temperature("a.ckpt") == pytest.approx(temperature, rel=1e-4)
    fresh = scaling(dirpath="test")
    (found,) = make_trainer(callbacks=[fresh]).test(passes_on(), batches(other), ckpt_path="a.ckpt", verbose=False)
    logits, labels = (tensor.tolist() for tensor in other.tensors)
    scaled = [[z / temperature for z in row] for row in logits]
    assert found["test_temperature"] == pytest.approx(temperature, rel=1e-4)
    assert found["test_temperature"] != pytest.approx(expected(other)[0], rel=1e-3)
    assert found["test_ece_unscaled"] == pytest.approx(calibration_error(logits, labels, BINS), abs=1e-5)
    assert found["test_ece_scaled"] == pytest.approx(calibration_error(scaled, labels, BINS), abs=1e-4)
    assert {row["temperature"] for row in table("test/diagnostics/test_calibration.csv")} == {1.0, fresh.temperature}


def test_a_validation_uses_a_temperature_that_is_there_and_fits_one_else() -> None:
    val, other = claims(N, 2.5), claims(N, 2.5, seed=7)
    trainer = make_trainer(max_epochs=1, callbacks=[scaling()])
    trainer.fit(passes_on(), batches(claims(16, 1.0)), batches(val))
    trainer.save_checkpoint("a.ckpt")
    (kept,) = make_trainer(callbacks=[scaling(dirpath="kept")]).validate(
        passes_on(), batches(other), ckpt_path="a.ckpt", verbose=False
    )
    assert kept["val_temperature"] == pytest.approx(expected(val)[0], rel=1e-4)
    (fitted,) = make_trainer(callbacks=[scaling(dirpath="fitted")]).validate(passes_on(), batches(other), verbose=False)
    assert fitted["val_temperature"] == pytest.approx(expected(other)[0], rel=1e-4)


def test_a_test_without_a_temperature_says_so() -> None:
    with pytest.warns(UserWarning, match=r"there is no temperature.*ckpt_path=.*trainer.validate"):
        (found,) = make_trainer(callbacks=[scaling()]).test(passes_on(), batches(claims(N, 2.5)), verbose=False)
    assert "test_ece_unscaled" in found
    assert "test_ece_scaled" not in found
    assert "test_temperature" not in found


def test_the_temperature_belongs_to_its_checkpoints_weights() -> None:
    """Each epoch's checkpoint has its own, and a resumed fit goes on."""

    class Grows(Classifier):
        def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
            x, y = batch
            super().validation_step(((1.0 + self.trainer.current_epoch) * x, y), batch_idx, dataloader_idx)

    checkpoints = pl.callbacks.ModelCheckpoint("ck", save_top_k=-1, filename="{epoch}")
    trainer = make_trainer(max_epochs=3, callbacks=[scaling(), checkpoints])
    trainer.fit(Grows(PassesOn(), num_classes=CLASSES), batches(claims(16, 1.0)), batches(claims(N, 1.0)))
    found = [read_temperature(f"ck/epoch={epoch}.ckpt") for epoch in range(3)]
    assert found == pytest.approx([found[0], 2 * found[0], 3 * found[0]], rel=1e-5)


def test_a_temperature_that_is_older_than_its_weights_is_said() -> None:
    checkpoints = pl.callbacks.ModelCheckpoint("ck", save_top_k=-1, filename="{epoch}", save_on_train_epoch_end=True)
    trainer = make_trainer(max_epochs=3, check_val_every_n_epoch=2, callbacks=[scaling(), checkpoints])
    trainer.fit(passes_on(), batches(claims(16, 1.0)), batches(claims(N, 2.5)))
    assert read_temperature("ck/epoch=1.ckpt") == pytest.approx(expected(claims(N, 2.5))[0], rel=1e-4)
    said = r"was fitted after 2 updates, and the weights of this checkpoint have had 3"
    with pytest.warns(UserWarning, match=said):
        read_temperature("ck/epoch=2.ckpt")
    again = make_trainer(callbacks=[scaling(dirpath="test"), pl.callbacks.ModelCheckpoint("ck", filename="{epoch}")])
    with pytest.warns(UserWarning, match=said):
        again.test(passes_on(), batches(claims(N, 2.5)), ckpt_path="ck/epoch=2.ckpt", verbose=False)


def test_a_checkpoint_that_cannot_be_read_safely_is_told_so() -> None:
    class Kept(Classifier):
        def __init__(self, folder: Path) -> None:
            super().__init__(PassesOn(), num_classes=CLASSES)
            self.save_hyperparameters()
            self.hparams["folder"] = folder

    trainer = make_trainer(max_epochs=1, callbacks=[scaling()])
    trainer.fit(Kept(Path("here")), batches(claims(16, 1.0)), batches(claims(N, 2.5)))
    trainer.save_checkpoint("a.ckpt")
    with pytest.raises(ValueError, match=r"may execute code.*weights_only=False.*TemperatureScaling"):
        read_temperature("a.ckpt")


def test_a_validation_loader_that_is_not_there_is_refused() -> None:
    trainer = make_trainer(max_epochs=1, callbacks=[scaling(val_loader=3)])
    with pytest.raises(ValueError, match="val_loader=3, and there are 1 validation loaders"):
        trainer.fit(passes_on(), batches(claims(16, 1.0)), batches(claims(N, 2.5)))


def test_a_change_that_no_table_would_show_is_not_warned_of(recwarn: pytest.WarningsRecorder) -> None:
    data = claims(400, 1.0, seed=5)
    _, before, after = expected(data)
    assert 0 < after - before < 0.001
    make_trainer(max_epochs=1, callbacks=[scaling()]).fit(passes_on(), batches(claims(16, 1.0)), batches(data))
    assert not [warning for warning in recwarn if "raised the calibration error" in str(warning.message)]


def test_a_named_one_is_read_by_its_name_and_a_missing_one_is_told() -> None:
    trainer = make_trainer(max_epochs=1, callbacks=[scaling(name="of-val")])
    trainer.fit(passes_on(), batches(claims(16, 1.0)), batches(claims(N, 2.5)))
    trainer.save_checkpoint("a.ckpt")
    assert read_temperature("a.ckpt", name="of-val") > 1
    with pytest.raises(KeyError, match=r"no temperature.*of-val"):
        read_temperature("a.ckpt")
    make_trainer(max_epochs=1).fit(passes_on(), batches(claims(16, 1.0)), batches(claims(N, 2.5)))


def test_of_several_validation_loaders_one_is_fitted_on() -> None:
    one, two = claims(N, 2.5), claims(40, 5.0, seed=3)
    for place, data in enumerate((one, two)):
        callback = scaling(val_loader=place, dirpath=f"run{place}")
        trainer = make_trainer(max_epochs=1, callbacks=[callback])
        trainer.fit(passes_on(), batches(claims(16, 1.0)), [batches(one), batches(two)])
        assert callback.temperature == pytest.approx(expected(data)[0], rel=1e-4)


@pytest.mark.parametrize("world", [2, 3])
def test_ranks_fit_what_one_process_fits(world: int) -> None:
    """61 samples: a DistributedSampler repeats some, and they count once."""
    data = claims(61, 2.5)
    trainer = make_trainer(max_epochs=1, devices=world, strategy="ddp_fork", callbacks=[scaling(), Saves()])
    trainer.fit(passes_on(), batches(claims(16, 1.0)), batches(data, 4))
    for rank in range(world):
        found = torch.load(f"rank{rank}.pt", weights_only=True)
        assert found["temperature"] == pytest.approx(expected(data)[0], rel=1e-4)
        assert found["ece_scaled"] == pytest.approx(expected(data)[2], abs=1e-5)


class Saves(pl.Callback):
    """What every rank's callback holds in the end."""

    def on_fit_end(self, trainer: Any, pl_module: Any) -> None:
        torch.save(trainer.callbacks[0].state_dict(), f"rank{trainer.global_rank}.pt")


def test_scaling_that_makes_it_worse_is_said_when_training_ends() -> None:
    """Half of the samples are claimed at 59% and all right, the others claimed at 55% and nearly all wrong."""
    z = torch.tensor([[0.59, 0.41]] * 20 + [[0.55, 0.45]] * 20).log()
    z = torch.cat([z, torch.full((40, 1), -20.0)], dim=1)
    data = TensorDataset(z, torch.tensor([0] * 21 + [1] * 19))
    _, before, after = expected(data)
    assert after > before + 0.05
    with pytest.warns(
        UserWarning, match=rf"raised the calibration error of the val data from {before:.4f} to {after:.4f}"
    ):
        make_trainer(max_epochs=1, callbacks=[scaling()]).fit(passes_on(), batches(claims(16, 1.0)), batches(data))


def test_a_bound_of_the_search_is_said() -> None:
    data = TensorDataset(2 * torch.eye(3).repeat(8, 1), torch.arange(3).repeat(8))
    callback = scaling()
    with pytest.warns(UserWarning, match=r"T = 0\.001 is where the search ends"):
        make_trainer(max_epochs=1, callbacks=[callback]).fit(passes_on(), batches(claims(16, 1.0)), batches(data))
    assert callback.temperature == SMALLEST_TEMPERATURE


def test_probabilities_are_refused_with_the_way_out() -> None:
    class Softmaxed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.logits = PassesOn()

        def forward(self, x: Tensor) -> Tensor:
            return self.logits(x).softmax(dim=1)

    data = claims(N, 2.5)
    model = Classifier(Softmaxed(), num_classes=CLASSES)
    with pytest.raises(ValueError, match=r"looks like probabilities.*logits_from="):
        make_trainer(callbacks=[scaling()]).validate(model, batches(data), verbose=False)
    with pytest.raises(ValueError, match="looks like probabilities"):
        make_trainer(callbacks=[scaling()]).test(model, batches(data), verbose=False)
    callback = scaling(logits_from="network.logits", overwrite=True)
    make_trainer(callbacks=[callback]).validate(model, batches(data), verbose=False)
    assert callback.temperature == pytest.approx(expected(data)[0], rel=1e-4)


def test_two_tests_in_one_folder_are_refused_and_the_first_table_stays() -> None:
    def test(**options: Any) -> None:
        with pytest.warns(UserWarning, match="there is no temperature"):
            make_trainer(callbacks=[scaling(**options)]).test(passes_on(), batches(claims(N, 2.5)), verbose=False)

    test()
    before = (OUT / "test_calibration.csv").read_text()
    with pytest.raises(FileExistsError, match=r"test_calibration\.csv"):
        make_trainer(callbacks=[scaling()]).test(passes_on(), batches(claims(N, 9.0)), verbose=False)
    assert (OUT / "test_calibration.csv").read_text() == before
    test(overwrite=True)


def test_a_second_fit_begins_without_the_first_ones_temperature() -> None:
    callback = scaling(overwrite=True)
    make_trainer(max_epochs=1, callbacks=[callback]).fit(passes_on(), batches(claims(16, 1.0)), batches(claims(N, 2.5)))
    first = callback.temperature
    trainer = make_trainer(max_epochs=1, callbacks=[callback], limit_val_batches=0)
    with pytest.warns(UserWarning, match="has fitted no temperature"):
        trainer.fit(passes_on(), batches(claims(16, 1.0)), batches(claims(N, 2.5)))
    assert first is not None
    assert callback.temperature is None


def test_the_sanity_check_is_no_pass() -> None:
    callback = scaling(every_n_epochs=5)
    trainer = make_trainer(max_epochs=1, num_sanity_val_steps=-1, callbacks=[callback])
    trainer.fit(Watched(), loader(8), loader(7, seed=1))
    rows = table(OUT / "val_calibration.csv")  # of the last pass alone, when training ends
    assert {row["epoch"] for row in rows} == {0}
    assert sum(row["count"] for row in rows if row["temperature"] == 1) == 7
