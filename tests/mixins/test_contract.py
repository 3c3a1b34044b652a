"""Wrong use: what is refused when a class is defined, when it is made, and in the first step; and what is not."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
import pytest
import pytorch_lightning
import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention
from torch import nn
from torch.utils.data import DataLoader

from lightning_flip.mixins import FlippingErrorReduction, LabelSmoothing, LearningWithRetrospection, LossTerm
from tests.mixins.helpers import (
    EPOCHS,
    LR,
    D,
    H,
    K,
    LitNet,
    Recorder,
    data,
    inputs,
    labels,
    network,
    quiet,
    shuffled_batches,
    train,
)
from tests.oracles.retrospection import FerOptions, NumpyNet, fer_loop


class Robust(FlippingErrorReduction, LitNet):
    """FER."""


def fer_losses() -> list[float]:
    net = NumpyNet.random(D, H, K, seed=0)
    return fer_loop(net, inputs(), labels(K), shuffled_batches(), FerOptions(total_epochs=EPOCHS), LR).step_losses


# -- at class definition -------------------------------------------------------------------------------


def test_a_mixin_right_of_the_module_shows_the_right_order() -> None:
    with pytest.raises(TypeError, match=r"Write: class Wrong\(FlippingErrorReduction, LitNet\)"):

        class Wrong(LitNet, FlippingErrorReduction):
            pass


def test_a_mixin_right_of_another_ones_module_is_seen_too() -> None:
    with pytest.raises(TypeError, match=r"LabelSmoothing stands right of LitNet"):

        class Wrong(LitNet, LabelSmoothing):
            pass

    class Fine(Robust, LabelSmoothing):
        """Python puts it between FER and the module."""

    assert Fine(network(), smoothing=0.2).mixin_options.smoothing == 0.2


def test_two_mixins_with_one_option_name_cannot_stand_together() -> None:
    class Other(LossTerm):
        def __init__(self, *args: Any, smoothing: int = 3, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)

    with pytest.raises(TypeError, match=r"the option 'smoothing' is .*LabelSmoothing's.* and .*Other's"):

        class Wrong(LabelSmoothing, Other, LitNet):
            pass


@pytest.mark.parametrize("keyword_only", [True, False])
def test_an_option_of_the_module_may_not_be_swallowed(keyword_only: bool) -> None:
    class Keyword(LitNet):
        def __init__(self, net: nn.Module, *, restrict: bool = False) -> None:
            super().__init__(net)

    class Positional(LitNet):
        def __init__(self, net: nn.Module, restrict: bool = False) -> None:
            super().__init__(net)

    module: Any = Keyword if keyword_only else Positional
    with pytest.raises(TypeError, match=r"the option 'restrict' is FlippingErrorReduction's and .*Rename it"):

        class Wrong(FlippingErrorReduction, module):
            pass


def test_an_option_of_the_base_may_not_be_swallowed_either() -> None:
    class Follows(LitNet):
        def __init__(self, net: nn.Module, loader: int = 0) -> None:
            super().__init__(net)

    with pytest.raises(TypeError, match="the option 'loader' is LossTerm's and Follows's"):

        class Wrong(LabelSmoothing, Follows):
            pass


def test_a_module_of_the_other_package_is_a_module() -> None:
    other: Any = pytorch_lightning.LightningModule

    class Theirs(FlippingErrorReduction, other):
        pass

    with pytest.raises(TypeError, match=r"FlippingErrorReduction stands right of LightningModule"):

        class Wrong(other, FlippingErrorReduction):
            pass


# -- at construction --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"fer_temperature": 0.0}, "fer_temperature must be greater than 0 and finite; got 0.0"),
        ({"fer_mu": -1.0}, "fer_mu must be greater than 0"),
        ({"fer_mu": float("nan")}, "fer_mu must be greater than 0"),
        ({"restrict": "wrong"}, "restrict must be one of 'correct', 'all'; got 'wrong'"),
        ({"initial": "ones"}, "initial must be one of 'zeros', 'copy'"),
        ({"confidence": "mean"}, "confidence must be one of 'label', 'predicted'"),
        ({"base_loss": "mse"}, 'base_loss must be "cross_entropy" or "any"'),
        ({"term_weight": float("inf")}, "term_weight must be finite"),
        ({"total_epochs": 0}, "total_epochs must be at least 1; got 0"),
    ],
)
def test_an_option_out_of_range_is_named(options: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        Robust(network(), **options)


@pytest.mark.parametrize(
    ("options", "named"), [({"lwr_temperature": -5.0}, "lwr_temperature"), ({"lwr_interval": 0}, "lwr_interval")]
)
def test_an_option_of_lwr_out_of_range_is_named(options: dict[str, Any], named: str) -> None:
    class Retrospective(LearningWithRetrospection, LitNet):
        """LWR."""

    with pytest.raises(ValueError, match=named):
        Retrospective(network(), **options)


# -- in the first step ------------------------------------------------------------------------------------


def test_manual_optimization_that_forgets_the_term_is_an_error() -> None:
    class ByHand(LitNet):
        automatic_optimization = False

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            optimizer: Any = self.optimizers()
            optimizer.zero_grad()
            self.manual_backward(F.cross_entropy(self(batch[0]), batch[1]))
            optimizer.step()

    class Forgets(FlippingErrorReduction, ByHand):
        """FER in front of it."""

    with pytest.raises(RuntimeError, match=r"self\.regularized\(loss\)"):
        train(Forgets(network()), data())


@pytest.mark.parametrize("method", [FlippingErrorReduction, LearningWithRetrospection])
def test_a_schedule_without_an_end_is_an_error(method: Any) -> None:
    class Endless(method, LitNet):
        """A method with a schedule."""

    with pytest.raises(ValueError, match=r"neither max_epochs nor max_steps\. Pass total_epochs="):
        quiet(max_epochs=-1).fit(Endless(network()), data())


def test_max_steps_of_several_optimizers_is_no_number_of_epochs() -> None:
    class TwoOptimizers(LitNet):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self.automatic_optimization = False

        def configure_optimizers(self) -> Any:
            return [torch.optim.SGD([weight], 0.1) for weight in list(self.parameters())[:2]]

        def training_step(self, batch: Any, batch_idx: int) -> None:
            loss = self.regularized(F.cross_entropy(self(batch[0]), batch[1]))
            self.manual_backward(loss)
            for optimizer in self.optimizers():
                optimizer.step()
                optimizer.zero_grad()

    class Twofold(FlippingErrorReduction, TwoOptimizers):
        """FER in front of it."""

    with pytest.raises(ValueError, match=r"counts the steps of 2 optimizers together\. Pass total_epochs="):
        quiet(max_epochs=-1, max_steps=8).fit(Twofold(network()), data())
    quiet(max_epochs=-1, max_steps=8).fit(Twofold(network(), total_epochs=2), data())


def test_an_unknown_storage_type_is_named() -> None:
    with pytest.raises(ValueError, match="table_dtype must be one of float16, bfloat16, float32, float64"):
        train(Robust(network(), table_dtype="int8"), data())


def test_logits_that_cannot_be_found_are_told_where_to_look() -> None:
    class SquaresThem(LitNet):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return (self.net(batch[0]) ** 2).mean()

    class Lost(FlippingErrorReduction, SquaresThem):
        """FER in front of it."""

    with pytest.raises(RuntimeError, match=r'no logits .*logits_from="net" \[8, 4\].*Name one of them'):
        train(Lost(network()), NoLabelsListed())


class NoLabelsListed(DataLoader):
    """Data whose classes nobody can count without reading them."""

    def __init__(self) -> None:
        whole = data().dataset
        super().__init__([whole[place] for place in range(len(whole))], batch_size=8)


def test_after_an_error_the_module_can_be_trained() -> None:
    class Stops(pl.Callback):
        def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
            raise ZeroDivisionError

    robust = Robust(network())
    with pytest.raises(ZeroDivisionError):
        quiet(callbacks=[Stops()]).fit(robust, data())
    robust.load_state_dict(LitNet(network()).state_dict())
    assert train(robust, data()).losses == pytest.approx(fer_losses(), abs=1e-10)


# -- what is allowed: tests/sweep/test_every_method.py has more ----------------------------------------------


class Own(pl.Callback):
    """A callback of the user's module."""


@pytest.mark.parametrize("where", ["left", "class", "module"])
@pytest.mark.parametrize("many", [True, False])
def test_the_modules_own_callbacks_and_ours_stand_side_by_side(where: str, many: bool) -> None:
    class Configures:
        def configure_callbacks(self) -> Any:
            return [Own()] if many else Own()

    class LitConfigures(Configures, LitNet):
        """The user's module names callbacks."""

    class InModule(FlippingErrorReduction, LitConfigures):
        """Right of the mixin."""

    class InClass(FlippingErrorReduction, LitNet):
        def configure_callbacks(self) -> Any:
            return [Own()] if many else Own()

    class Left(Configures, FlippingErrorReduction, LitNet):
        """In a class left of the mixin, which is not a mixin of ours."""

    kind: Any = {"left": Left, "class": InClass, "module": InModule}[where]
    recorder = Recorder()
    trainer: Any = quiet(callbacks=[recorder])
    trainer.fit(kind(network()), data())
    assert sum(isinstance(callback, Own) for callback in trainer.callbacks) == 1
    assert recorder.losses == pytest.approx(fer_losses(), abs=1e-10)


def test_a_trainer_may_go_on_with_another_module(tmp_path: Any) -> None:
    """The callback that a module brought stays in the Trainer when another one is trained with it."""
    trainer = quiet(max_epochs=1)
    robust, plain, twin = Robust(network()), LitNet(network()), LitNet(network())
    trainer.fit(robust, data())
    left = robust._term_loop.tables["behavior"].state_dict()
    trainer.fit_loop.max_epochs = 2
    trainer.fit(plain, data())
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    assert "lightning_flip" not in torch.load(tmp_path / "a.ckpt", weights_only=True)
    other = quiet(max_epochs=1)
    other.fit(LitNet(network()), data())
    other.fit_loop.max_epochs = 2
    other.fit(twin, data())
    for name, value in plain.state_dict().items():
        assert value.equal(twin.state_dict()[name])
    for name, tensor in robust._term_loop.tables["behavior"].state_dict().items():
        assert tensor.equal(left[name])


def test_a_subclass_that_replaces_a_methods_loss_replaces_it() -> None:
    class Mine(Robust):
        def method_loss(self, step: Any) -> torch.Tensor:
            return torch.zeros_like(step.logits[:, 0])

    assert train(Mine(network(), lr=0.0), data(), max_epochs=1).losses == pytest.approx([0.0] * 5, abs=1e-12)


def test_two_methods_that_soften_the_target_warn_once() -> None:
    class Both(LabelSmoothing, FlippingErrorReduction, LitNet):
        """Two mixins in one class."""

    with pytest.warns(UserWarning, match="LabelSmoothing, FlippingErrorReduction each soften the target"):
        quiet().fit(Both(network()), data())
    quiet().fit(Both(network()), data())  # a second warning would be an error
