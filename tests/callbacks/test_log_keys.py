"""Two callbacks never log one key, nor does one log what the module logs; prefix= is the way out."""

from __future__ import annotations

import copy
import pickle
import warnings
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import Tensor, nn
from torch.nn import functional

from lightning_flip.callbacks import (
    Diagnostic,
    Finding,
    FlipTracker,
    LogitGaps,
    NegativeFlipMonitor,
    NoiseAccuracy,
    TemperatureScaling,
    WinningScores,
    read_temperature,
)
from lightning_flip.callbacks.log_keys import LoggingWatcher
from lightning_flip.cli import training_cli
from tests.callbacks.helpers import Lookup, Memory, Watched, loader, make_trainer, points, run_ranks, some_logits
from tests.callbacks.noisy import noisy_loader
from tests.callbacks.test_flip_tracker import assert_logged, count_flips, labels_of
from tests.callbacks.test_logged_page import WandbLogger
from tests.callbacks.test_negative_flip_monitor import Old, old_logits, rates

OF_0_1 = {  # what FlipTracker() has logged since version 0.1
    f"val_{name}"
    for name in ("flipping_error", "relative_flipping_error", "flips_to_wrong", "flips_to_right", "churn", "coverage")
}


def fit(callbacks: list[Any], module: Any = None, *val: Any, train: Any = None, **options: Any) -> pl.Trainer:
    trainer = make_trainer(max_epochs=2, callbacks=callbacks, **options)
    loaders = val or (loader(7, seed=1),)
    trainer.fit(module or Watched(), loader(8) if train is None else train, list(loaders))
    return trainer


def keys_of(logger: Memory) -> set[str]:
    return {key for metrics in logger.logged for key in metrics} - {"epoch"}


def monitor(**options: Any) -> NegativeFlipMonitor:
    return NegativeFlipMonitor(Old(old_logits(8)), **options)


# -- one scheme ---------------------------------------------------------------------------------------


def test_a_callback_without_options_logs_the_keys_of_before() -> None:
    memory = Memory()
    trainer = fit([FlipTracker()], logger=memory)
    assert keys_of(memory) == OF_0_1
    assert trainer.progress_bar_metrics == {}
    memory = Memory()
    fit([FlipTracker(name="x")], logger=memory)  # the name is that of its state
    assert keys_of(memory) == OF_0_1


def test_a_prefix_is_put_in_front_as_it_is() -> None:
    memory, plain = Memory(), Memory()
    fit([FlipTracker(train=True, prefix="net/")], logger=memory)
    fit([FlipTracker(train=True)], logger=plain)
    assert keys_of(memory) == {f"net/{key}" for key in keys_of(plain)}
    assert [{f"net/{k}": v for k, v in row.items() if k != "epoch"} for row in plain.logged] == [
        {k: v for k, v in row.items() if k != "epoch"} for row in memory.logged
    ]


@pytest.mark.parametrize(
    "callback",
    [
        FlipTracker(prog_bar=True),
        monitor(prog_bar=True),
        WinningScores(prog_bar=True, figures=False),
        TemperatureScaling(prog_bar=True, figures=False),
    ],
    ids=lambda callback: type(callback).__name__,
)
@pytest.mark.filterwarnings("ignore:TemperatureScaling. T = ")
def test_the_progress_bar_shows_all_numbers_if_asked(callback: Any) -> None:
    trainer = fit([callback])
    assert set(trainer.progress_bar_metrics) == {f"val_{name}" for name in callback.logs}


def test_further_loaders_have_their_number_behind_the_split_in_every_callback() -> None:
    memory = Memory()
    callbacks = [FlipTracker(), monitor(), WinningScores(figures=False)]
    fit(callbacks, None, loader(7, seed=1), loader(5, seed=2), logger=memory)
    names = {name for callback in callbacks for name in callback.logs}
    assert keys_of(memory) == {f"val_{name}" for name in names} | {f"val_1_{name}" for name in names}


class SecondLoader(Watched):
    """Trains on the second of two loaders."""

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return super().training_step(batch[1], batch_idx)


def test_so_do_training_loaders() -> None:
    logger = WandbLogger()
    callbacks = [
        FlipTracker(train=True, val=False, loader=1),
        monitor(train=True, val=False, loader=1),
        NoiseAccuracy(loader=1),
        LogitGaps(loader=1, every_n_epochs=1),
    ]
    fit(callbacks, SecondLoader(), train=[loader(8), noisy_loader(8)], logger=logger)
    assert keys_of(logger) == {f"train_1_{name}" for callback in callbacks for name in callback.logs}
    assert set(logger.figures) == {"train_1_logit_gaps"}


def test_figures_have_the_prefix_and_files_the_name() -> None:
    logger = WandbLogger()
    fit([WinningScores(), WinningScores(prefix="b/"), WinningScores(prefix="c_", name="third")], logger=logger)
    assert set(logger.figures) == {"val_winning_scores", "b/val_winning_scores", "c_val_winning_scores"}
    assert keys_of(logger) == {f"{prefix}val_mean_winning_score" for prefix in ("", "b/", "c_")}
    assert {path.name for path in Path().rglob("diagnostics/*")} == {
        "val_winning_scores.csv",
        "val_winning_scores_b.csv",
        "val_winning_scores_third.csv",
    }


def test_options_of_another_kind_are_refused() -> None:
    with pytest.raises(TypeError, match=r"prefix must be text, which the keys begin with; got None"):
        FlipTracker(prefix=None)
    with pytest.raises(TypeError, match="prog_bar must be True or False; got 'yes'"):
        WinningScores(prog_bar="yes")


@pytest.mark.parametrize("kind", [FlipTracker, NegativeFlipMonitor, NoiseAccuracy, TemperatureScaling])
def test_they_are_options_on_the_command_line(kind: Any, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        training_cli(["fit", f"--trainer.callbacks.help=lightning_flip.callbacks.{kind.__name__}"])
    text = capsys.readouterr().out
    for name in ("prefix", "prog_bar", "name", "logits_from"):
        assert f".{name} " in text


# -- two callbacks ------------------------------------------------------------------------------------


class Table(nn.Module):
    """Gives the logits of a table."""

    def __init__(self, train: Tensor, val: Tensor) -> None:
        super().__init__()
        self.tables = {"train": train, "val": val}
        self.place = ("train", 0)

    def forward(self, x: Tensor) -> Tensor:
        split, row = self.place
        return self.tables[split][row, x[:, 0].long()]


class TwoHeads(pl.LightningModule):
    """Two networks on the same samples, each with a loss of its own."""

    def __init__(self, count: int, rounds: int = 3) -> None:
        super().__init__()
        self.a = Table(some_logits(rounds, count, 1), some_logits(rounds, count, 2))
        self.b = Table(some_logits(rounds, count, 3), some_logits(rounds, count, 4))
        self.free = nn.Parameter(torch.zeros(()))

    def losses(self, batch: Any, split: str) -> Tensor:
        for head in (self.a, self.b):
            head.place = split, self.trainer.current_epoch
        return functional.cross_entropy(self.a(batch[0]), batch[1]) + functional.cross_entropy(
            self.b(batch[0]) + self.free, batch[1]
        )

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return self.losses(batch, "train")

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.losses(batch, "val")

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def two_trackers() -> list[FlipTracker]:
    return [
        FlipTracker(train=True, logits_from="a"),
        FlipTracker(train=True, logits_from="b", prefix="b_"),
    ]


def assert_both_heads(memory: Memory, model: TwoHeads, count: int) -> None:
    for prefix, head in (("", model.a), ("b_", model.b)):
        assert_logged(memory, f"{prefix}train", count_flips(head.tables["train"], labels_of(count)))
        assert_logged(memory, f"{prefix}val", count_flips(head.tables["val"], labels_of(count, 1)))


def test_two_trackers_log_the_numbers_of_their_own_heads() -> None:
    model, memory = TwoHeads(11), Memory()
    make_trainer(logger=memory, callbacks=two_trackers()).fit(model, loader(11), loader(11, seed=1))
    assert_both_heads(memory, model, 11)


@pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists")
def test_a_resumed_run_goes_on_under_the_same_keys() -> None:
    model, memory = TwoHeads(11), Memory()
    save = ModelCheckpoint("saved", filename="{epoch}", save_top_k=-1)
    for epochs, ckpt in ((1, None), (3, "saved/epoch=0.ckpt")):
        trainer = make_trainer(max_epochs=epochs, logger=memory, callbacks=[*two_trackers(), save])
        trainer.fit(model, loader(11), loader(11, seed=1), ckpt_path=ckpt, weights_only=True)
    assert_both_heads(memory, model, 11)


def follow_two_heads(devices: int, folder: str) -> None:
    model, memory = TwoHeads(11), Memory()
    strategy = "ddp" if devices > 1 else "auto"
    trainer = make_trainer(logger=memory, callbacks=two_trackers(), devices=devices, strategy=strategy)
    trainer.fit(model, loader(11, 2), loader(11, 2, seed=1))
    torch.save(memory.logged, f"{folder}-{trainer.global_rank}.pt")


@pytest.mark.filterwarnings("ignore:Using .DistributedSampler. with the dataloaders")
def test_two_ranks_log_the_same() -> None:
    assert run_ranks(2, follow_two_heads, 2, "ranks") == [0, 0]
    memory = Memory()
    memory.logged = torch.load("ranks-0.pt")
    assert_both_heads(memory, TwoHeads(11), 11)


def refused(callbacks: list[Any], match: str, module: Any = None, **options: Any) -> None:
    """Refused at the start: no step is run, and nothing stays attached to the Trainer or module."""
    module = module or Watched()
    trainer = make_trainer(max_epochs=1, callbacks=callbacks, **options)
    strategy = dict(vars(trainer.strategy))
    with pytest.raises(ValueError, match=match):
        trainer.fit(module, noisy_loader(8), loader(7, seed=1))
    assert module.seen == []
    assert {name for name in vars(trainer.strategy) if name not in strategy} == set()
    assert all(callback.attachment is None for callback in callbacks if isinstance(callback, LoggingWatcher))


@pytest.mark.parametrize("order", [1, -1])
def test_two_that_would_log_one_key_are_refused_before_anything_runs(order: int) -> None:
    both = [FlipTracker(logits_from="net"), FlipTracker(train=True, name="second")][::order]
    one, other = (r"FlipTracker\(logits_from='net'\)", r"FlipTracker\(name='second'\)")[::order]
    refused(both, rf"{one} and {other} of one Trainer would both log 'val_flipping_error' and 5 more.*prefix=")


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: [NoiseAccuracy(), NoiseAccuracy(passes="eval", name="eval")], "train_accuracy_all_true' and"),
        (lambda: [monitor(), monitor(name="x")], "val_negative_flip_rate"),
        (lambda: [LogitGaps(), LogitGaps(name="x", dirpath="elsewhere")], "train_logit_gaps'. Give"),
        (lambda: [FlipTracker(prefix="a"), FlipTracker(prefix="a", name="x")], "'aval_flipping_error'"),
        (lambda: [LogitGaps(figures=False), LogitGaps(figures=False)], "the same files.*name=.*prefix="),
    ],
)
def test_so_are_two_of_any_class(make: Any, match: str) -> None:
    refused(make(), match)


def test_a_prefix_is_enough_to_have_two() -> None:
    trainer = fit(
        [
            FlipTracker(),
            FlipTracker(prefix="a_"),
            monitor(),
            monitor(prefix="b/"),
            NoiseAccuracy(),
            NoiseAccuracy(prefix="c_"),
            LogitGaps(),
            LogitGaps(prefix="d_"),
        ],
        train=noisy_loader(8),
    )
    assert {"val_churn", "a_val_churn", "val_error", "b/val_error"} <= set(trainer.callback_metrics)
    assert {"train_accuracy_all_true", "c_train_accuracy_all_true"} <= set(trainer.callback_metrics)


def test_trackers_of_other_splits_and_loaders_share_no_key() -> None:
    memory = Memory()
    fit([FlipTracker(), FlipTracker(train=True, val=False)], logger=memory)
    assert keys_of(memory) == OF_0_1 | {key.replace("val", "train") for key in OF_0_1}
    callbacks = [FlipTracker(train=True, val=False, loader=0, name="0"), FlipTracker(train=True, val=False, loader=1)]
    memory = Memory()
    fit(callbacks, SecondLoader(), train=[loader(8), loader(8)], logger=memory)
    assert "train_churn" in keys_of(memory)
    assert "train_1_churn" in keys_of(memory)


def test_a_validation_by_itself_asks_only_those_that_take_part() -> None:
    callbacks = [WinningScores(figures=False), WinningScores(figures=False, name="x")]
    with pytest.raises(ValueError, match="would both log 'val_mean_winning_score'"):
        make_trainer(callbacks=callbacks).validate(Watched(), loader(7, seed=1), verbose=False)


class LargestLogit(Diagnostic):
    """A user's own, which does not say beforehand what it logs."""

    title = "largest_logit"

    def __init__(self, **options: Any) -> None:
        super().__init__(val=True, every_n_epochs=1, figures=False, **options)

    def columns(self, step: Any) -> dict[str, Tensor]:
        return {"largest": step.logits.amax(dim=1)}

    def describe(self, trainer: pl.Trainer, split: str, rows: Any) -> Finding:
        most = float(rows["largest"].max())
        return Finding({"largest": [most]}, most, scalars={"churn": most})


class Announced(LargestLogit):
    """Says so."""

    logs = ("churn",)


@pytest.mark.parametrize("order", [1, -1])
def test_who_takes_no_part_in_a_stage_is_not_compared(order: int) -> None:
    both = [FlipTracker(), Announced()][::order]
    refused(both, "would both log 'val_churn'. Give one")
    trainer = make_trainer(callbacks=both)
    assert "val_churn" in trainer.validate(Watched(), loader(7, seed=1), verbose=False)[0]


def test_a_key_that_was_not_announced_is_refused_when_it_is_logged() -> None:
    trainer = make_trainer(callbacks=[FlipTracker(), LargestLogit()])
    with pytest.raises(
        ValueError, match=r"LargestLogit\(\) would log 'val_churn', which FlipTracker\(\) already logs.*prefix="
    ):
        trainer.fit(Watched(), loader(8), loader(7, seed=1))
    memory = Memory()
    fit([FlipTracker(), LargestLogit(prefix="my_")], logger=memory)
    assert {"val_churn", "my_val_churn"} <= keys_of(memory)


class Leads(pl.Callback):
    """A user's callback that leads others, which the Trainer does not know."""

    def __init__(self, *led: pl.Callback) -> None:
        self.led = led

    def setup(self, *args: Any, **kwargs: Any) -> None:
        for one in self.led:
            one.setup(*args, **kwargs)

    def on_validation_batch_end(self, *args: Any) -> None:
        for one in self.led:
            one.on_validation_batch_end(*args)

    def on_validation_epoch_end(self, *args: Any) -> None:
        for one in self.led:
            one.on_validation_epoch_end(*args)

    def teardown(self, *args: Any, **kwargs: Any) -> None:
        for one in self.led:
            one.teardown(*args, **kwargs)


def test_two_alike_that_another_callback_leads_are_told_apart() -> None:
    with pytest.raises(
        ValueError, match=r"FlipTracker\(\) would log 'val_flipping_error', which FlipTracker\(\) already logs"
    ):
        fit([Leads(FlipTracker(), FlipTracker())])


# -- the module's own keys ----------------------------------------------------------------------------


class Logs(Watched):
    """Logs a key of its own in one hook."""

    def __init__(self, hook: str, key: str, value: float = 0.25, **options: Any) -> None:
        super().__init__()
        self.told = hook, key, value, options

    def tell(self, hook: str) -> None:
        mine, key, value, options = self.told
        if hook == mine:
            self.log(key, value, **options)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        self.tell("training_step")
        return super().training_step(batch, batch_idx)

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        self.tell("validation_step")
        super().validation_step(batch, batch_idx, dataloader_idx)

    def on_train_epoch_end(self) -> None:
        self.tell("on_train_epoch_end")

    def on_validation_epoch_start(self) -> None:
        self.tell("on_validation_epoch_start")

    def on_validation_epoch_end(self) -> None:
        super().on_validation_epoch_end()
        self.tell("on_validation_epoch_end")

    def on_train_batch_end(self, *args: Any) -> None:
        self.tell("on_train_batch_end")


TRAINING = [
    ("training_step", {}),
    ("training_step", {"on_step": False, "on_epoch": True}),
    ("training_step", {"on_step": True, "on_epoch": True}),
    ("training_step", {"logger": False, "prog_bar": True}),
    ("on_train_batch_end", {}),
]
VALIDATION = [
    ("validation_step", {}),
    ("validation_step", {"on_step": True}),
    ("on_validation_epoch_start", {}),
    ("on_validation_epoch_end", {}),
    ("on_validation_epoch_end", {"sync_dist": True, "reduce_fx": "max", "add_dataloader_idx": False}),
]


@pytest.mark.parametrize(("hook", "options"), VALIDATION)
def test_a_validation_key_of_the_module_is_refused_before_training(hook: str, options: Any) -> None:
    module = Logs(hook, "val_error", **options)
    with pytest.raises(
        ValueError, match=rf"NegativeFlipMonitor\(\) would log 'val_error', which Logs.* already logs in {hook}"
    ):
        fit([monitor()], module)
    assert module.seen == []


@pytest.mark.parametrize(("hook", "options"), VALIDATION)
def test_without_a_sanity_check_it_is_refused_at_the_first_pass(hook: str, options: Any) -> None:
    memory, module = Memory(), Logs(hook, "val_error", **options)
    with pytest.raises((ValueError, MisconfigurationException)) as caught:
        fit([monitor()], module, num_sanity_val_steps=0, logger=memory)
    text = "\n".join([str(caught.value), *getattr(caught.value, "__notes__", [])])
    assert "NegativeFlipMonitor()" in text
    assert "'val_error'" in text
    assert 'NegativeFlipMonitor(prefix="flip_")' in text
    assert hook in text
    assert {row[2] for row in module.seen} == {0}  # epochs
    assert set(memory.values("val_error")) <= {0.25}  # the module's own


@pytest.mark.parametrize(("hook", "options"), TRAINING)
def test_a_training_key_of_the_module_is_refused_with_the_first_rows(hook: str, options: Any) -> None:
    module, tracker = Logs(hook, "train_churn", **options), FlipTracker(train=True)
    fit([tracker])  # an earlier fit of its own
    where = rf"FlipTracker\(\) would log 'train_churn', which Logs.* already logs in {hook}.*prefix="
    with pytest.raises(ValueError, match=where):
        fit([tracker], module, train=loader(8 * 80, 8), limit_val_batches=0)
    assert len(module.seen) <= 8 * 65  # a block


@pytest.mark.parametrize("key", ["train_churn_epoch", "train_churn_step"])
def test_both_keys_of_a_mean_over_steps_are_the_modules(key: str) -> None:
    class Late(FlipTracker):
        logs = (key.removeprefix("train_"),)

        def log_numbers(self, pl_module: Any, split: str, loader: int, numbers: Any) -> None:
            super().log_numbers(pl_module, split, loader, {self.logs[0]: 0.5})

    with pytest.raises(ValueError, match=rf"would log '{key}', which Logs already logs in training_step"):
        fit([Late(train=True, val=False)], Logs("training_step", "train_churn", on_step=True, on_epoch=True))


@pytest.mark.parametrize("key", ["train_churn", "val_churn"])
@pytest.mark.parametrize("callback", [False, True])
def test_a_key_of_the_epochs_end_is_refused(key: str, callback: bool) -> None:
    """The tracker's own hook ran before, and its validation pass, too."""

    class Other(pl.Callback):
        def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
            pl_module.log(key, 0.25)

    memory = Memory()
    module = Watched() if callback else Logs("on_train_epoch_end", key)
    with pytest.raises((ValueError, MisconfigurationException)) as caught:
        fit([FlipTracker(train=True), *([Other()] if callback else [])], module, logger=memory)
    text = "\n".join([str(caught.value), *getattr(caught.value, "__notes__", [])])
    assert "FlipTracker()" in text
    assert f"'{key}'" in text
    assert 'FlipTracker(prefix="flip_")' in text
    assert "on_train_epoch_end" in text


@pytest.mark.parametrize(("hook", "options"), [*TRAINING, *VALIDATION, ("on_train_epoch_end", {})])
@pytest.mark.parametrize("key", ["val_error", "train_error"])
def test_with_a_prefix_both_are_logged(hook: str, options: Any, key: str) -> None:
    plain, memory, module = Memory(), Memory(), Logs(hook, key, **options)
    alone = fit([monitor(train=True)], Watched(), logger=plain).callback_metrics
    trainer = fit([monitor(train=True, prefix="flip_")], module, logger=memory)
    if options.get("logger", True):
        assert set(memory.values(key) + memory.values(f"{key}_epoch")) == {0.25}
    for name in ("val_error", "train_error"):
        assert memory.values(f"flip_{name}") == plain.values(name) != []
        assert trainer.callback_metrics[f"flip_{name}"] == alone[name]


def test_keys_of_several_loaders_are_compared_with_their_suffix() -> None:
    """Lightning's ``val_error/dataloader_idx_0`` is not ``val_error``."""
    memory = Memory()
    loaders = loader(7, seed=1), loader(5, seed=2)
    fit([monitor()], Logs("validation_step", "val_error"), *loaders, logger=memory)
    assert {"val_error", "val_1_error", "val_error/dataloader_idx_0", "val_error/dataloader_idx_1"} <= keys_of(memory)
    with pytest.raises(ValueError, match="'val_1_error', which SecondOnly already logs in validation_step"):
        fit([monitor()], SecondOnly(), *loaders)
    with pytest.raises(ValueError, match="'val_error/dataloader_idx_1', which Logs already logs in validation_step"):
        fit([Suffixed()], Logs("validation_step", "val_error"), *loaders)


class SecondOnly(Watched):
    """Names the second loader's value as a callback does."""

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        super().validation_step(batch, batch_idx, dataloader_idx)
        if dataloader_idx == 1:
            self.log("val_1_error", 0.25, add_dataloader_idx=False)


class Suffixed(FlipTracker):
    """Would log what Lightning makes of a key in a second loader."""

    logs = ("error/dataloader_idx_1",)


def test_validation_and_test_by_themselves_are_looked_at_too() -> None:
    class Tested(Logs):
        def test_step(self, batch: Any, batch_idx: int) -> None:
            self(batch[0])
            self.log("test_mean_winning_score", 0.5)

    module = Tested("validation_step", "val_error")
    with pytest.raises(ValueError, match="'val_error', which Tested already logs in validation_step"):
        make_trainer(callbacks=[monitor()]).validate(module, loader(7, seed=1), verbose=False)
    with pytest.raises(ValueError, match="'test_mean_winning_score', which Tested already logs in test_step"):
        make_trainer(callbacks=[WinningScores(figures=False)]).test(module, loader(7, seed=1), verbose=False)


def fit_on_a_rank(hook: str) -> None:
    """Ends with the error on every rank, none of which waits for another one."""
    trainer = make_trainer(max_epochs=1, callbacks=[monitor(train=True)], devices=2, strategy="ddp")
    with pytest.raises(ValueError, match="prefix="):
        trainer.fit(Logs(hook, "train_error" if "train" in hook else "val_error"), loader(8, 2), loader(7, 2, seed=1))


@pytest.mark.parametrize("hook", ["training_step", "validation_step"])
def test_all_ranks_refuse(hook: str) -> None:
    assert run_ranks(2, fit_on_a_rank, hook) == [0, 0]


def test_what_an_earlier_fit_of_the_trainer_logged_does_not_count() -> None:
    """A notebook: the error is read, the module's key changed, and the same Trainer used again."""
    tracker = FlipTracker(train=True)
    trainer = make_trainer(max_epochs=2, callbacks=[tracker])
    data = loader(8), loader(7, seed=1)
    for hook, key in (("validation_step", "val_churn"), ("training_step", "train_churn")):
        with pytest.raises(ValueError, match="prefix="):
            trainer.fit(Logs(hook, key), *data)
    trainer.num_sanity_val_steps = 0
    trainer.fit(Logs("training_step", "another"), *data)
    assert "val_churn" in trainer.callback_metrics
    trainer.fit_loop.max_epochs = 3
    with pytest.raises(ValueError, match="'val_churn', which Logs already logs in validation_step"):
        trainer.fit(Logs("validation_step", "val_churn"), *data)


def test_in_pytorch_lightning_it_is_the_same() -> None:
    import pytorch_lightning

    class Theirs(pytorch_lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Linear(5, 3)

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            return functional.cross_entropy(self.net(batch[0]), batch[1])

        def validation_step(self, batch: Any, batch_idx: int) -> None:
            self.log("val_churn", functional.cross_entropy(self.net(batch[0]), batch[1]))

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=0.1)

    def trained(*callbacks: Any, **more: Any) -> Any:
        quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False} | more
        trainer = pytorch_lightning.Trainer(
            accelerator="cpu", max_epochs=1, callbacks=list(callbacks), enable_checkpointing=False, **quiet
        )
        trainer.fit(Theirs(), loader(8), loader(7, seed=1))
        return trainer

    for sanity in (0, 2):
        with pytest.raises(
            ValueError, match=r"FlipTracker\(\) would log 'val_churn', which Theirs already logs in validation_step"
        ):
            trained(FlipTracker(), num_sanity_val_steps=sanity)
    with pytest.raises(ValueError, match="would both log 'val_flipping_error'"):
        trained(FlipTracker(), FlipTracker(name="b"))
    assert {"val_churn", "a_val_churn"} <= set(trained(FlipTracker(prefix="a_")).callback_metrics)


def test_without_results_nothing_is_compared() -> None:
    """Barebones Trainers log nothing, whoever asks."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer = pl.Trainer(barebones=True, accelerator="cpu", max_epochs=1, callbacks=[FlipTracker(train=True)])
        trainer.fit(Watched(), loader(8), loader(7, seed=1))
    assert trainer.callback_metrics == {}


# -- names and states ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({}, ""),
        ({"prefix": "a_"}, "a"),
        ({"prefix": "runs/a/"}, "runs_a"),
        ({"prefix": "a_", "name": ""}, ""),
        ({"prefix": "a_", "name": "b"}, "b"),
        ({"name": "b"}, "b"),
    ],
)
def test_a_prefix_is_the_name_unless_there_is_one(options: dict[str, str], name: str) -> None:
    for make in (FlipTracker, monitor, WinningScores, TemperatureScaling):
        assert make(**options).name == name
    assert FlipTracker(**options).state_key == f"FlipTracker{{'train': False, 'val': True, 'name': {name!r}}}"


def test_a_prefix_may_be_added_to_a_run_that_is_resumed() -> None:
    fit([FlipTracker()]).save_checkpoint("a.ckpt")
    data = loader(8), loader(7, seed=1)
    kept = FlipTracker(prefix="flips_", name="")
    trainer = make_trainer(max_epochs=3, callbacks=[kept])
    trainer.fit(Watched(), *data, ckpt_path="a.ckpt", weights_only=True)
    assert kept.statistics["val", 0].visits.tolist() == [3] * 7
    renamed = FlipTracker(prefix="flips_")
    with pytest.warns(UserWarning, match="FlipTracker.*'name': ''"):  # Lightning's
        make_trainer(max_epochs=3, callbacks=[renamed]).fit(Watched(), *data, ckpt_path="a.ckpt", weights_only=True)
    assert renamed.statistics["val", 0].visits.tolist() == [1] * 7


@pytest.mark.filterwarnings("ignore:TemperatureScaling. T = ")
def test_a_temperature_is_read_by_the_name() -> None:
    fit([TemperatureScaling(figures=False, prefix="a/")]).save_checkpoint("a.ckpt")
    assert read_temperature("a.ckpt", name="a") > 0
    with pytest.raises(KeyError, match=r"'name.*'a.*pass another name="):
        read_temperature("a.ckpt")


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda one: pickle.loads(pickle.dumps(one))])
def test_a_copy_of_a_callback_that_has_logged_is_another_one(duplicate: Any) -> None:
    tracker = FlipTracker()
    fit([tracker])
    other = duplicate(tracker)
    other.name, other.prefix = "b", "b_"
    memory = Memory()
    fit([tracker, other], logger=memory)
    assert keys_of(memory) == OF_0_1 | {f"b_{key}" for key in OF_0_1}


# -- numbers ------------------------------------------------------------------------------------------


def test_the_monitor_logs_its_numbers_under_any_prefix() -> None:
    val, old, memory = some_logits(3, 8, 2), old_logits(8), Memory()
    module = Lookup(some_logits(3, 8), val)
    make_trainer(logger=memory, callbacks=[NegativeFlipMonitor(Old(old), prefix="x/")]).fit(
        module, loader(8), loader(8, seed=1)
    )
    labels = points(8, 1).tensors[1].numpy()
    expected = [rates(old.argmax(dim=1).numpy(), table.argmax(dim=1).numpy(), labels) for table in val]
    for place, name in enumerate(("negative_flip_rate", "relative_negative_flip_rate", "error")):
        assert memory.values(f"x/val_{name}") == pytest.approx([row[place] for row in expected])


class Last(Watched):
    def on_train_epoch_end(self) -> None:
        self.log("val_flipping_error", 77.0)


def test_a_key_that_is_logged_over_ours_after_the_last_pass_warns() -> None:
    with pytest.warns(UserWarning, match="logged 'val_flipping_error', which Last .* already logs in on_train"):
        make_trainer(callbacks=[FlipTracker()], max_epochs=1).fit(Last(), loader(6), loader(6, seed=1))
