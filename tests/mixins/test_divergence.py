"""A loss that runs away stops the run with advice: when, and when not."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_flip.mixins import FlippingErrorReduction, FocalDistillation, LossTerm
from lightning_flip.mixins._divergence import DivergenceWatch, advice_of
from tests.callbacks.helpers import run_ranks
from tests.mixins.helpers import LitNet, data, network, quiet
from tests.mixins.updates import Compatible, Focal, Naive, old_network

CLASSES, WIDTH, COUNT, BATCH = 50, 20, 64, 8


class Losses(pl.Callback):
    """Notes the loss of every step, and how long the run was."""

    def __init__(self) -> None:
        self.losses: list[float] = []

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.losses.append(float(outputs["loss"]))


def linear() -> nn.Linear:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Linear(WIDTH, CLASSES)


def points() -> DataLoader[Any]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(COUNT, WIDTH, generator=generator)
    return DataLoader(TensorDataset(x, torch.randint(CLASSES, (COUNT,), generator=generator)), batch_size=BATCH)


def fit(every: int, lr: float, max_epochs: int = 10, **options: Any) -> list[float]:
    noted = Losses()
    with torch.random.fork_rng():
        torch.manual_seed(2)
        old = nn.Linear(WIDTH, CLASSES)
    model = Focal(linear(), lr=lr, reference=old, focal_distance="logits", **options)
    quiet(callbacks=[noted], log_every_n_steps=every, max_epochs=max_epochs).fit(model, points())
    return noted.losses


# -- the sum over classes ----------------------------------------------------------------------------------


@pytest.mark.parametrize("every", [1, 4, 10])
def test_the_sum_over_classes_diverges_and_the_advice_names_both_ways_out(every: int) -> None:
    with pytest.raises(ValueError, match=r"Focal diverges: .*[Ll]ower the learning rate .*class_reduction=\"mean\""):
        fit(every, 1.0, class_reduction="sum")


def test_the_mean_over_classes_and_a_small_rate_do_not_diverge() -> None:
    for options in ({"lr": 1.0, "class_reduction": "mean"}, {"lr": 0.01, "class_reduction": "sum"}):
        losses = fit(4, **options)  # type: ignore[arg-type]
        assert len(losses) == 80
        assert losses[-1] < losses[0]


@pytest.mark.parametrize("every", [1, 4, 10])
def test_it_is_noticed_when_a_window_ends_and_not_before(every: int) -> None:
    """By hand: at the first window whose mean is over ten times the first loss."""
    whole = Losses()
    model = Focal(
        linear(), lr=1.0, reference=old_linear(), focal_distance="logits", class_reduction="sum", focal_beta=0.0
    )
    trainer = quiet(callbacks=[whole], log_every_n_steps=every)
    with pytest.raises(ValueError, match="more than 10 times what this fit began with"):
        trainer.fit(model, points())
    # The callback of the loss terms comes before this one or after it: the last step may not be noted.
    losses = whole.losses
    means = [sum(losses[i : i + every]) / every for i in range(0, len(losses) - every + 1, every)]
    assert all(mean <= 10 * losses[0] for mean in means[:-1])
    assert trainer.global_step % every == 0
    assert len(losses) in (trainer.global_step, trainer.global_step - 1)


def old_linear() -> nn.Linear:
    with torch.random.fork_rng():
        torch.manual_seed(2)
        return nn.Linear(WIDTH, CLASSES)


# -- losses that are not finite -----------------------------------------------------------------------------


class Poisoned(LitNet):
    """Its loss becomes what it is told to in one step, its logits stay in order."""

    at, value, logits = 3, math.nan, False

    def forward(self, x: Tensor) -> Any:
        z = self.net(x)
        return z * self.value if self.logits and self.global_step == self.at else z

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        loss = F.cross_entropy(self(batch[0]), batch[1])
        return loss + self.value if self.global_step == self.at else loss


class FocalPoisoned(FocalDistillation, Poisoned):
    """Focal distillation in front of it."""


@pytest.mark.parametrize("value", [math.nan, math.inf, 1e6])
@pytest.mark.parametrize("every", [1, 3, 4, 50])
def test_what_is_not_finite_is_noticed_at_the_epochs_end_at_the_latest(value: float, every: int) -> None:
    """The fourth of five batches is poisoned."""
    model = FocalPoisoned(network(), lr=0.0, reference=old_network(), base_loss="any")
    model.value = value
    trainer = quiet(log_every_n_steps=every)
    if math.isfinite(value) and every == 50:  # no window is ever whole
        trainer.fit(model, data())
        return
    problem = "not finite" if not math.isfinite(value) else "10 times"
    with pytest.raises(ValueError, match=rf"FocalPoisoned diverges: .*{problem}.*class_reduction="):
        trainer.fit(model, data())
    ends = {1: 4, 3: 6, 4: 4, 50: 20}[every]
    assert trainer.global_step == (ends if math.isfinite(value) else min(ends, 5))


def test_logits_that_are_not_finite_come_with_the_same_advice() -> None:
    """The attachment sees them first."""
    model = FocalPoisoned(network(), reference=old_network())
    model.logits = True
    with pytest.raises(ValueError, match=r"logits are not finite .*learning rate.*class_reduction=\"mean\""):
        quiet().fit(model, data())
    plain = type("Plain", (FlippingErrorReduction, Poisoned), {"logits": True})(network())
    with pytest.raises(ValueError, match="logits are not finite") as caught:
        quiet().fit(plain, data())
    assert "class_reduction" not in str(caught.value)


@pytest.mark.parametrize("kind", [Naive, Compatible])
def test_the_other_treatments_advise_the_learning_rate(kind: Any) -> None:
    with pytest.raises(ValueError, match=r"diverges: .*Lower the learning rate, or clip gradients\."):
        quiet(log_every_n_steps=5).fit(kind(network(), lr=1e3, reference=old_network()), data())


# -- when there is no alarm ---------------------------------------------------------------------------------


def test_fine_tuning_begins_low_and_may_rise() -> None:
    """The first loss counts as that of guessing at least."""
    watch = DivergenceWatch()
    watch.advice = "Stop."
    watch.add(torch.tensor(0.01), 10)
    assert watch.limit == pytest.approx(10 * math.log(10))
    watch = DivergenceWatch()
    watch.advice = "Stop."
    watch.add(torch.tensor(4.0), 10)
    assert watch.limit == 40.0


def test_a_loss_that_grows_by_its_schedule_is_only_asked_to_be_finite() -> None:
    class Both(FocalDistillation, FlippingErrorReduction, LitNet):
        """FER's weight grows."""

    assert advice_of(Both) == (FocalDistillation.divergence_advice, True)
    assert advice_of(Focal) == (FocalDistillation.divergence_advice, False)
    with pytest.warns(UserWarning, match="each soften the target"):
        quiet().fit(Both(network(), lr=0.0, reference=old_network(), fer_temperature=20.0), data())


def test_methods_without_advice_are_not_watched() -> None:
    class Grows(LossTerm):
        def method_loss(self, step: Any) -> Tensor:
            return 1e4 * step.logits.new_ones(len(step.index)) * self.global_step

    class GrowsNet(Grows, LitNet):
        """No advice."""

    assert advice_of(GrowsNet)[0] == ""
    quiet(max_epochs=1).fit(GrowsNet(network(), lr=0.0), data())


# -- across runs and ranks -----------------------------------------------------------------------------------


def test_a_resumed_run_compares_with_the_first_start(tmp_path: Path) -> None:
    first = FocalPoisoned(network(), lr=0.0, reference=old_network(), base_loss="any")
    first.at = -1
    trainer = quiet(max_epochs=1)
    trainer.fit(first, data())
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    saved = torch.load(tmp_path / "a.ckpt", weights_only=True)["lightning_flip"]["first_loss"]
    assert saved == pytest.approx(float(first._term_loop.divergence.first_loss or 0))
    assert saved > math.log(4)
    resumed = FocalPoisoned(network(), lr=0.0, reference=old_network(), base_loss="any")
    resumed.at = 5  # the first step after the resumption: it must not be what the rest is compared with
    resumed.value = 1e3
    with pytest.raises(ValueError, match=rf"what this fit began with \({saved:.4g}\)"):
        quiet(max_epochs=2).fit(resumed, data(), ckpt_path=tmp_path / "a.ckpt", weights_only=True)


def test_a_second_fit_begins_anew() -> None:
    model = Focal(network(), lr=0.0, reference=old_network())
    quiet(max_epochs=1).fit(model, data())
    before = model._term_loop.divergence.first_loss
    for weight in model.parameters():
        weight.data.mul_(3)
    quiet(max_epochs=1).fit(model, data())
    assert model._term_loop.divergence.first_loss != before


def diverge_on_one_rank(folder: str) -> None:
    model = FocalPoisoned(network(), lr=0.0, reference=old_network(), base_loss="any")
    trainer = quiet(devices=2, strategy="ddp", log_every_n_steps=2, max_epochs=2, use_distributed_sampler=False)
    model.value = math.nan if int(__import__("os").environ["LOCAL_RANK"]) == 1 else 1.0
    try:
        trainer.fit(model, data())
    except ValueError as error:
        Path(folder, f"{trainer.global_rank}.txt").write_text(f"{trainer.global_step}: {error}", encoding="utf-8")


def test_all_ranks_stop_where_one_diverges(tmp_path: Path) -> None:
    assert run_ranks(2, diverge_on_one_rank, str(tmp_path)) == [0, 0]
    texts = [(tmp_path / f"{rank}.txt").read_text(encoding="utf-8") for rank in (0, 1)]
    assert texts[0] == texts[1]
    assert texts[0].startswith("4: FocalPoisoned diverges: the loss is not finite")
