"""Which folder a run is recorded in, and what happens when it is taken away."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.loggers.logger import Logger

from lightning_flip.callbacks import (
    LearningPath,
    PredictionFilter,
    PredictionHistory,
    TransitionEstimator,
    WinningScores,
    ZigZag,
)
from lightning_flip.stores import (
    ClaimLostError,
    read_history,
    read_paths,
    read_run,
    read_soft_targets,
    read_transition,
    read_zigzag,
)
from lightning_flip.stores.claims import claim
from tests.callbacks.helpers import Memory, Watched, loader, make_trainer, run_ranks

pytestmark = [
    pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists"),
    pytest.mark.filterwarnings("ignore:.* parts newer than the checkpoint were set aside"),
]

DEFAULT = Path("prediction_history")


class Scored(Watched):
    """Logs what a filter compares."""

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        super().validation_step(batch, batch_idx, dataloader_idx)
        self.log("val_acc", 0.1 * self.current_epoch)


WRITERS: dict[str, Callable[..., pl.Callback]] = {
    "history": PredictionHistory,
    "paths": lambda dirpath=None, **options: LearningPath(range(9), dirpath=dirpath, **options),
    "zigzag": ZigZag,
    "soft targets": lambda dirpath=None, **options: PredictionFilter(dirpath=dirpath, **options),
    "diagnostic": lambda dirpath=None, **options: WinningScores(
        every_n_epochs=1, figures=False, dirpath=dirpath, **options
    ),
}
FILES = {
    "history": "history/train/epoch-0000-pass-0-rank-00000.parquet",
    "paths": "paths/history/visits/epoch-0000-pass-0-rank-00000.parquet",
    "zigzag": "zigzag.parquet",
    "soft targets": "soft_targets/filtered_last.safetensors",
    "diagnostic": "diagnostics/val_winning_scores.csv",
    "transition": "transition.npz",
}


def everything() -> list[pl.Callback]:
    return [*(make() for make in WRITERS.values()), TransitionEstimator()]


def fit(*callbacks: pl.Callback, ckpt: str | None = None, model: Any = None, **options: Any) -> pl.Trainer:
    trainer = make_trainer(callbacks=list(callbacks), **({"max_epochs": 2} | options))
    trainer.fit(model or Scored(), loader(9), loader(6, seed=1), ckpt_path=ckpt, weights_only=True)
    return trainer


def contents(folder: Any) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(Path(folder).rglob("*")) if path.is_file()}


def assert_all_in(folder: Path) -> None:
    """Everything that was written lies in one folder, under one id."""
    for file in FILES.values():
        assert (folder / file).exists(), file
    run = read_run(folder).run_id
    assert read_history(folder).run.run_id == run
    assert read_run(folder / "paths").run_id == run
    assert read_soft_targets(folder / FILES["soft targets"]).manifest["run"] == run
    assert read_zigzag(folder).num_rows == 9
    assert read_paths(folder).path.shape[1] == 9
    assert read_transition(folder / "transition.npz").shape == (3, 3)


# -- the default place -------------------------------------------------------------------------------------------------


def test_without_a_logger_every_run_is_a_version() -> None:
    for number in range(3):
        before = contents(DEFAULT)
        fit(*everything())
        assert_all_in(DEFAULT / f"version_{number}")
        assert {name: data for name, data in contents(DEFAULT).items() if name in before} == before
    assert sorted(path.name for path in DEFAULT.iterdir()) == [f"version_{number}" for number in range(3)]
    assert sorted(path.name for path in Path().iterdir()) == ["prediction_history"]


@pytest.mark.parametrize("order", [1, -1])
def test_the_first_run_has_the_loggers_own_folder(order: int) -> None:
    trainer = fit(*everything()[::order], logger=CSVLogger("logs"))
    assert_all_in(Path(trainer.log_dir))
    assert "version_1" not in {path.name for path in Path(trainer.log_dir).iterdir()}


class Shared(Memory):
    """A logger that keeps the files of all runs in one folder."""

    save_dir = "shared"


@pytest.mark.parametrize("make", [Shared, lambda: CSVLogger("logs", name="", version="")])
@pytest.mark.filterwarnings("ignore:Experiment logs directory .* exists")
def test_where_a_logger_shares_its_folder_a_second_run_is_a_version(make: Callable[[], Logger]) -> None:
    folder = Path(fit(*everything(), logger=make()).log_dir)
    assert_all_in(folder)
    own = {name: data for name, data in contents(folder).items() if not name.endswith(("metrics.csv", "hparams.yaml"))}
    for number in (1, 2):
        with pytest.warns(UserWarning, match=rf"holds another run.*recorded in .*version_{number}\..*dirpath="):
            fit(*everything(), logger=make())
        assert_all_in(folder / f"version_{number}")
    assert contents(folder).items() >= own.items()


def test_the_facts_of_all_recorders_are_kept() -> None:
    for callbacks in ([ZigZag(), PredictionHistory(info={"note": 7})], [PredictionHistory(info={"note": 7}), ZigZag()]):
        fit(*callbacks)
    for number in range(2):
        info = read_run(DEFAULT / f"version_{number}").info
        assert (info["note"], info["module"], info["max_epochs"], info["world_size"]) == (7, "Scored", 2, 1)


def test_a_fit_that_starts_anew_is_a_new_run_and_one_that_goes_on_is_not() -> None:
    callbacks, model = everything(), Scored()
    trainer = fit(*callbacks, model=model)
    run = read_run(DEFAULT / "version_0").run_id
    trainer.fit_loop.max_epochs = 3
    trainer.fit(model, loader(9), loader(6, seed=1))
    assert [path.name for path in DEFAULT.iterdir()] == ["version_0"]
    assert read_run(DEFAULT / "version_0").run_id == run
    assert read_history(DEFAULT / "version_0").passes("train") == [(0, 0), (1, 0), (2, 0)]
    fit(*callbacks)  # the same objects, another Trainer
    assert_all_in(DEFAULT / "version_1")
    assert read_run(DEFAULT / "version_1").run_id != run


def test_validation_and_test_stay_with_their_fit() -> None:
    scores = WinningScores(every_n_epochs=1, figures=False)
    trainer = fit(scores)
    trainer.test(dataloaders=loader(6, seed=1), verbose=False, model=WithTest())
    assert (DEFAULT / "version_0" / "diagnostics" / "test_winning_scores.csv").exists()


class WithTest(Scored):
    def test_step(self, batch: Any, batch_idx: int) -> None:
        self(batch[0])


# -- a given place -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("second", WRITERS)
@pytest.mark.parametrize("first", WRITERS)
def test_a_given_folder_with_any_other_run_is_refused(first: str, second: str) -> None:
    fit(WRITERS[first]("run"))
    before, model = contents("run"), Scored()
    with pytest.raises(FileExistsError, match="overwrite=True"):
        fit(WRITERS[second]("run"), model=model)
    assert [row for row in model.seen if row[0] == "train"] == []
    assert contents("run") == before


@pytest.mark.parametrize("second", [name for name in WRITERS if name != "diagnostic"])
@pytest.mark.parametrize("first", [name for name in WRITERS if name != "diagnostic"])
def test_overwrite_begins_afresh(first: str, second: str) -> None:
    fit(WRITERS[first]("run"))
    before = read_run("run").run_id
    fit(WRITERS[second]("run", overwrite=True))
    assert read_run("run").run_id != before
    assert [name for name, file in FILES.items() if Path("run", file).exists()] == [second]


def test_callbacks_with_one_given_folder_are_one_run() -> None:
    fit(*(make("run") for make in WRITERS.values()), TransitionEstimator("run/transition.npz"))
    assert_all_in(Path("run"))


def test_overwrite_of_one_does_not_remove_what_the_others_of_the_trainer_claimed() -> None:
    for _ in range(2):
        fit(
            *(make("run", overwrite=True) for make in WRITERS.values()),
            TransitionEstimator("run/transition.npz", overwrite=True),
        )
        assert_all_in(Path("run"))


@pytest.mark.parametrize("overwrite", [False, True])
def test_two_writers_of_one_part_are_refused(overwrite: bool) -> None:
    for first, second in (
        (PredictionHistory("run", overwrite=overwrite), PredictionHistory("run", name="b", overwrite=overwrite)),
        (PredictionHistory("run", val=False, overwrite=overwrite), PredictionHistory("run", train=False)),
    ):
        with pytest.raises(FileExistsError, match=r"already written by another PredictionHistory.*dirpath="):
            fit(first, second)
        assert not Path("run").exists()


# -- resumption --------------------------------------------------------------------------------------------------------


class Stop(pl.Callback):
    def __init__(self, epoch: int) -> None:
        self.epoch = epoch

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.current_epoch == self.epoch:
            raise RuntimeError("stopped")


def saver() -> ModelCheckpoint:
    return ModelCheckpoint("saved", filename="{epoch}", save_top_k=-1)


@pytest.mark.parametrize("logger", [False, True])
def test_a_resumed_run_goes_back_to_the_folder_that_its_checkpoint_names(logger: bool) -> None:
    def attempt(*more: pl.Callback, **options: Any) -> pl.Trainer:
        return fit(*everything(), saver(), *more, logger=CSVLogger("logs") if logger else False, **options)

    with pytest.raises(RuntimeError, match="stopped"):
        attempt(Stop(1))
    attempt(max_epochs=1)  # another run, whose folder would be the latest
    roots = sorted(path.parent for path in Path().rglob("run.json") if path.parent.name.startswith("version_"))
    assert len(roots) == 2
    other = {name: data for name, data in contents(roots[1]).items() if "metrics" not in name}
    attempt(ckpt="saved/epoch=0.ckpt")
    assert_all_in(roots[0])
    assert read_history(roots[0]).passes("train") == [(0, 0), (1, 0)]
    assert {name: data for name, data in contents(roots[1]).items() if "metrics" not in name} == other
    found = [path for path in Path().rglob("run.json") if path.parent.name.startswith("version_")]
    assert len(found) == 2


@pytest.mark.parametrize("new", WRITERS)
@pytest.mark.parametrize("old", WRITERS)
def test_a_new_callback_of_a_resumed_run_joins_the_others(old: str, new: str) -> None:
    if old == new:
        return
    fit(WRITERS[old](), saver(), max_epochs=1)
    fit(WRITERS[new](), WRITERS[old](), saver(), ckpt="saved/epoch=0.ckpt")
    assert [path.name for path in DEFAULT.iterdir()] == ["version_0"]
    parts = [path.parent.name for path in (DEFAULT / "version_0").rglob("*") if path.is_file()]
    assert len(set(parts)) > 1


def test_a_run_whose_folder_was_moved_with_its_root_goes_on_there() -> None:
    fit(*everything(), saver(), default_root_dir="old", max_epochs=1)
    fit(*everything(), default_root_dir="old", max_epochs=1)
    Path("old").rename("new")
    fit(*everything(), saver(), default_root_dir="new", ckpt="saved/epoch=0.ckpt")
    assert_all_in(Path("new/prediction_history/version_0"))
    assert read_history("new/prediction_history/version_0").passes("train") == [(0, 0), (1, 0)]
    assert len(list(Path("new/prediction_history").iterdir())) == 2


@pytest.mark.filterwarnings("ignore:Be aware that when using .ckpt_path.")
def test_a_history_that_the_checkpoint_does_not_know_is_not_set_aside() -> None:
    fit(PredictionHistory("run"), ZigZag("run"), saver(), max_epochs=1)
    before = contents("run/history")
    with pytest.raises(FileExistsError, match=r"no state of the callback.*dirpath="):
        fit(PredictionHistory("run", name="renamed"), ZigZag("run"), ckpt="saved/epoch=0.ckpt")
    assert contents("run/history") == before


# -- a folder that vanishes --------------------------------------------------------------------------------------------


class Meanwhile(pl.Callback):
    """Something happens in the second epoch."""

    def __init__(self, work: Callable[[], Any], error: bool = False) -> None:
        self.work, self.error = work, error

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if trainer.current_epoch == 1 and batch_idx == 1:
            self.work()
            if self.error:
                raise KeyError("the user's own")


@pytest.mark.parametrize("writer", WRITERS)
@pytest.mark.filterwarnings("ignore:.* could not save all it had seen")
def test_a_folder_that_vanishes_is_an_error_at_the_next_write(writer: str) -> None:
    with pytest.raises(ClaimLostError, match=r"run is gone.*Nothing was written.*dirpath="):
        fit(WRITERS[writer]("run"), Meanwhile(lambda: shutil.rmtree("run")))
    assert not Path("run").exists()


@pytest.mark.parametrize("writer", WRITERS)
@pytest.mark.filterwarnings("ignore:.* could not save all it had seen")
def test_a_folder_that_another_run_took_is_an_error_at_the_next_write(writer: str) -> None:
    def take() -> None:
        claim("run", overwrite=True)

    with pytest.raises(ClaimLostError, match="run now holds the run"):
        fit(WRITERS[writer]("run"), Meanwhile(take))
    left = [path for path in Path("run").rglob("*") if path.is_file() and path.suffix != ".csv"]
    assert left == [Path("run/run.json")]


@pytest.mark.parametrize("writer", WRITERS)
@pytest.mark.filterwarnings("ignore:.* could not save all it had seen")
def test_a_part_that_vanishes_is_no_half_store(writer: str) -> None:
    part = Path("run", FILES[writer].partition("/")[0])

    def remove() -> None:
        shutil.rmtree(part) if part.is_dir() else part.unlink()

    with pytest.raises(ClaimLostError, match=f"{part}.* is gone"):
        fit(WRITERS[writer]("run"), Meanwhile(remove))
    assert not part.exists()


@pytest.mark.parametrize("writer", WRITERS)
@pytest.mark.filterwarnings("ignore:.* could not save all it had seen:UserWarning")
def test_while_an_exception_is_in_flight_a_lost_folder_is_a_warning(writer: str) -> None:
    with pytest.raises(KeyError, match="the user's own"):
        fit(WRITERS[writer]("run"), Meanwhile(lambda: shutil.rmtree("run"), error=True))
    assert not Path("run").exists()


@pytest.mark.parametrize("writer", WRITERS)
def test_a_run_that_failed_before_it_recorded_anything_leaves_no_trace(writer: str) -> None:
    with pytest.raises(RuntimeError, match="stopped"):
        fit(WRITERS[writer]("run"), Stop(0), num_sanity_val_steps=0)
    assert not Path("run").exists()
    fit(WRITERS[writer]("run"))


def test_the_last_callback_gives_the_folder_up() -> None:
    """What an earlier one would give up, a later one still rescues into."""

    class Late(Stop):
        def on_train_batch_start(self, trainer: pl.Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
            if batch_idx == 2:
                raise RuntimeError("stopped")

    with pytest.raises(RuntimeError, match="stopped"):
        fit(ZigZag("run"), PredictionHistory("run"), Late(9), num_sanity_val_steps=0)
    assert read_history("run").to_arrow("train").num_rows == 8


# -- several ranks -----------------------------------------------------------------------------------------------------


def fit_two_ranks(folder: str) -> None:
    trainer = make_trainer(
        callbacks=everything(), max_epochs=1, devices=2, strategy="ddp", default_root_dir=folder, logger=False
    )
    trainer.fit(Scored(), loader(9), loader(6, seed=1))
    Path(f"chosen-{trainer.global_rank}.txt").write_text(str(trainer.callbacks[0].folder))


@pytest.mark.filterwarnings("ignore")
def test_rank_0_chooses_for_all() -> None:
    for number in range(2):
        assert run_ranks(2, fit_two_ranks, "root") == [0, 0]
        assert_all_in(Path(f"root/prediction_history/version_{number}"))
        chosen = {Path(f"chosen-{rank}.txt").read_text() for rank in range(2)}
        assert chosen == {str(Path(f"root/prediction_history/version_{number}").absolute())}
    assert torch.distributed.is_initialized() is False


RECORDERS = {
    "history": lambda: PredictionHistory("run"),
    "zig-zag": lambda: ZigZag("run"),
    "filter": lambda: PredictionFilter(dirpath="run"),
}


@pytest.mark.filterwarnings("ignore:Be aware that when using .ckpt_path.")
@pytest.mark.parametrize("name", RECORDERS)
def test_a_run_that_another_process_resumes_ends_at_its_next_write(name: str) -> None:
    """Both would write the same epochs."""
    make = RECORDERS[name]
    save = ModelCheckpoint("saved", filename="{epoch}", save_top_k=-1)
    make_trainer(callbacks=[make(), save], max_epochs=2).fit(Scored(), loader(8), loader(6, seed=1))

    class Resumes(pl.Callback):
        """Resumes the run while it runs, as another process would."""

        def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
            if trainer.current_epoch == 3:
                fit(make(), 3)

    def fit(*callbacks: Any) -> None:
        *own, epochs = callbacks
        trainer = make_trainer(callbacks=[*own], max_epochs=epochs)
        trainer.fit(Scored(), loader(8), loader(6, seed=1), ckpt_path="saved/epoch=1.ckpt", weights_only=True)

    with pytest.raises(ClaimLostError, match="another process has resumed"):
        fit(Resumes(), make(), 5)
