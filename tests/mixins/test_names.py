"""A mixin takes no name from the user's module: names are kept apart, or the class is refused in words."""

from __future__ import annotations

import abc
import copy
import inspect
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.loggers import CSVLogger
from torch import Tensor, nn

from lightning_flip import mixins
from lightning_flip.mixins import (
    EarlyLearningRegularization,
    FlippingErrorReduction,
    FocalDistillation,
    LabelSmoothing,
    LearningWithRetrospection,
    LossTerm,
    PairwiseLabelSmoothing,
    SelfAdaptiveTraining,
)
from lightning_flip.mixins._definition import MixinClass
from lightning_flip.models import MLP, Classifier
from lightning_flip.stores import write_soft_targets
from tests.mixins.helpers import LitNet, as_torch, inputs, labels, loader, quiet, shuffled_batches
from tests.oracles.retrospection import NumpyNet

CLASSES, WIDTH, HIDDEN = 3, 5, 7
METHODS = [
    getattr(mixins, name)
    for name in mixins.__all__
    if isinstance(getattr(mixins, name), MixinClass) and getattr(mixins, name) not in (LossTerm, mixins.BatchMixing)
]


def options_of(mixin: type) -> list[str]:
    """Every option of a mixin and its bases."""
    found = []
    for part in mixin.__mro__:
        init = vars(part).get("__init__")
        if init is not None and part.__module__.startswith("lightning_flip."):
            kinds = inspect.signature(init).parameters.values()
            found += [parameter.name for parameter in kinds if parameter.kind is inspect.Parameter.KEYWORD_ONLY]
    return found


def hooks_of(mixin: type) -> list[str]:
    """Every name that a mixin and its bases have in their classes, but for what Lightning declares."""
    names = {
        name
        for part in mixin.__mro__
        if part.__module__.startswith("lightning_flip.")
        for name in vars(part)
        if not name.startswith("__") and name != "_abc_impl" and not hasattr(LitNet, name)
    }
    return sorted(names)


def network() -> nn.Sequential:
    return as_torch(NumpyNet.random(WIDTH, HIDDEN, CLASSES, seed=0))


def needed(mixin: type, folder: Path) -> dict[str, Any]:
    """What a method cannot do without."""
    if mixin is mixins.SoftTargets:
        path = folder / "teacher.safetensors"
        rows = torch.softmax(torch.randn(24, CLASSES, generator=torch.Generator().manual_seed(4)), 1)
        write_soft_targets(path, rows.numpy(), target=labels(CLASSES))
        return {"targets": path}
    options: dict[str, Any] = {"reference": network()} if "reference" in options_of(mixin) else {}
    if mixin is SelfAdaptiveTraining:
        options["sat_warmup"] = 1
    if mixin is mixins.SnapshotDistillation:
        options["sd_cycles"] = 2
    return options


def weights_after_a_fit(model: Any) -> dict[str, Tensor]:
    torch.manual_seed(7)
    quiet().fit(model, loader(inputs(), labels(CLASSES), shuffled_batches()))
    return {name: weight.detach() for name, weight in model.state_dict().items()}


@pytest.mark.parametrize("mixin", METHODS, ids=lambda mixin: mixin.__name__)
@pytest.mark.filterwarnings("ignore")
def test_attributes_named_like_options_belong_to_the_module(mixin: Any, tmp_path: Path) -> None:
    names = options_of(mixin)

    class Own(LitNet):
        def __init__(self, net: nn.Module) -> None:
            super().__init__(net)
            for name in names:
                setattr(self, name, f"the user's {name}")

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            assert all(getattr(self, name) == f"the user's {name}" for name in names)
            return super().training_step(batch, batch_idx)

    own: Any = type("MixedOwn", (mixin, Own), {})
    plain: Any = type("MixedPlain", (mixin, LitNet), {})
    options = needed(mixin, tmp_path)
    expected = weights_after_a_fit(plain(network(), **options))
    found = weights_after_a_fit(own(network(), **options))
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], weight) for name, weight in expected.items())


@pytest.mark.parametrize("mixin", METHODS, ids=lambda mixin: mixin.__name__)
def test_methods_named_like_hooks_are_refused_at_class_definition(mixin: Any) -> None:
    for name in [*hooks_of(mixin), "mixin_options", "_mixin"]:
        if name == "regularized":
            continue
        own = type("Own", (LitNet,), {name: lambda self: 1})
        with pytest.raises(TypeError, match=rf"Mixed: Own uses the name '{name}' .* Rename it in Own"):
            type("Mixed", (mixin, own), {})


def test_module_of_manual_optimization_may_have_a_regularized_for_itself() -> None:
    class Manual(LitNet):
        def __init__(self, net: nn.Module) -> None:
            super().__init__(net)
            self.automatic_optimization = False

        def regularized(self, loss: Tensor) -> Tensor:
            return loss

        def training_step(self, batch: Any, batch_idx: int) -> None:
            optimizer = self.optimizers()
            optimizer.zero_grad()
            self.manual_backward(self.regularized(super().training_step(batch, batch_idx)))
            optimizer.step()

    class Mixed(FlippingErrorReduction, Manual): ...

    alone, mixed = weights_after_a_fit(Manual(network())), weights_after_a_fit(Mixed(network()))
    automatic = weights_after_a_fit(type("Automatic", (FlippingErrorReduction, LitNet), {})(network()))
    assert all(torch.equal(mixed[name], weight) for name, weight in automatic.items())
    assert not all(torch.equal(mixed[name], weight) for name, weight in alone.items())


@pytest.mark.parametrize("term_weight", [0.0, 1.0])
def test_module_of_automatic_optimization_must_not_call_it(term_weight: float) -> None:
    class Penalized(LitNet):
        def regularized(self, loss: Tensor) -> Tensor:
            return loss + 0.1 * self.net[0].weight.square().sum()

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            return self.regularized(super().training_step(batch, batch_idx))

    class Mixed(LabelSmoothing, Penalized): ...

    with pytest.raises(RuntimeError, match=r"Mixed calls regularized\(\) itself, and trains with automatic optim"):
        weights_after_a_fit(Mixed(network(), term_weight=term_weight))


@pytest.mark.parametrize("left", [True, False])
@pytest.mark.parametrize("name", ["new_epoch", "require_labels", "observe", "_mixin"])
def test_plain_helper_classes_are_checked_as_modules_are(name: str, left: bool) -> None:
    helper = type("Helper", (), {name: lambda self: 1})
    with pytest.raises(TypeError, match=f"Mixed: Helper uses the name '{name}'"):
        type(
            "Mixed", (helper, FlippingErrorReduction, LitNet) if left else (FlippingErrorReduction, helper, LitNet), {}
        )


@pytest.mark.parametrize("left", [True, False])
def test_options_of_plain_helper_classes_are_checked(left: bool) -> None:
    class Helper:
        def __init__(self, *args: Any, average: int = 3, **options: Any) -> None:
            super().__init__(*args, **options)

    bases = (Helper, FlippingErrorReduction, LitNet) if left else (FlippingErrorReduction, Helper, LitNet)
    with pytest.raises(TypeError, match="the option 'average' is FlippingErrorReduction's and Helper's"):
        type("Mixed", bases, {})


@pytest.mark.parametrize("own", [lambda self: 1, lambda self, batch: 1, 3, property(lambda self: 1)])
def test_name_of_a_hook_in_the_combined_class_is_refused_unless_it_replaces_it(own: Any) -> None:
    with pytest.raises(TypeError, match="Mixed uses the name 'observe' for something of its own"):
        type("Mixed", (FlippingErrorReduction, LitNet), {"observe": own})
    type("Mixed", (FlippingErrorReduction, LitNet), {"observe": lambda self, step: None})


def test_second_regularized_of_a_step_is_refused() -> None:
    class Sam(LitNet):
        def __init__(self, net: nn.Module) -> None:
            super().__init__(net)
            self.automatic_optimization = False

        def training_step(self, batch: Any, batch_idx: int) -> None:
            (x, y), regularized = batch, self.regularized  # type: ignore[attr-defined]
            self.manual_backward(regularized(nn.functional.cross_entropy(self(x), y)))
            self.manual_backward(regularized(nn.functional.cross_entropy(self(x + 0.1), y)))

    class Mixed(LabelSmoothing, Sam): ...

    with pytest.raises(RuntimeError, match=r"called regularized\(\) a second time in one training_step"):
        weights_after_a_fit(Mixed(network()))


@pytest.mark.parametrize("mixin", METHODS, ids=lambda mixin: mixin.__name__)
def test_attributes_named_like_hooks_are_refused_when_they_are_set(mixin: Any, tmp_path: Path) -> None:
    options = needed(mixin, tmp_path)
    for name in [*hooks_of(mixin), "mixin_options", "_mixin"]:
        if isinstance(inspect.getattr_static(mixin, name, None), property):
            continue  # Python refuses to set it

        class Own(LitNet):
            def __init__(self, net: nn.Module, name: str = name) -> None:
                super().__init__(net)
                setattr(self, name, 1)

        with pytest.raises(TypeError, match=f"Mixed: Mixed uses the name '{name}'"):
            type("Mixed", (mixin, Own), {})(network(), **options)


def test_submodule_and_buffer_named_like_a_hook_are_refused() -> None:
    class Tabular(LitNet):
        def __init__(self, net: nn.Module) -> None:
            super().__init__(net)
            self.table = nn.Embedding(3, 2)

    class Buffered(LitNet):
        def __init__(self, net: nn.Module) -> None:
            super().__init__(net)
            self.register_buffer("smoothing_head", torch.zeros(1))

    with pytest.raises(TypeError, match="'table'"):
        type("Mixed", (FlippingErrorReduction, Tabular), {})(network())
    with pytest.raises(TypeError, match="'smoothing_head'"):
        type("Mixed", (PairwiseLabelSmoothing, Buffered), {})(network())


def test_name_that_is_taken_later_is_refused_when_a_fit_begins() -> None:
    class Late(LitNet):
        def setup(self, stage: str) -> None:
            self.visit = 1

    model: Any = type("Mixed", (FlippingErrorReduction, Late), {})(network())
    with pytest.raises(TypeError, match="'visit'"):
        weights_after_a_fit(model)


def test_user_class_left_of_the_mixins_may_override_hooks() -> None:
    class Quiet(FlippingErrorReduction, LitNet):
        def new_epoch(self, epoch: int) -> None:
            super().new_epoch(epoch)
            seen.append(epoch)

    seen: list[int] = []
    weights_after_a_fit(Quiet(network()))
    assert seen == [1, 2, 3, 4]


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
@pytest.mark.filterwarnings("ignore")
def test_stacked_methods_keep_their_own_tables(order: tuple[int, int]) -> None:
    """At learning rate 0 the table of each method is that of the method alone."""
    pair = (EarlyLearningRegularization, SelfAdaptiveTraining)

    def tables(*methods: Any) -> dict[str, Any]:
        model: Any = (
            type("Mixed", (*methods, LitNet), {})(network(), lr=0.0, sat_warmup=0)
            if (SelfAdaptiveTraining in methods)
            else type("Mixed", (*methods, LitNet), {})(network(), lr=0.0)
        )
        weights_after_a_fit(model)
        return {name: table.state_dict()["rows"] for name, table in model._term_loop.tables.items()}

    alone = {**tables(pair[0]), **tables(pair[1])}
    together = tables(*(pair[place] for place in order))
    assert together.keys() == alone.keys()
    for name, rows in alone.items():
        assert torch.equal(together[name], rows), name


def test_mixin_of_ones_own_must_not_hide_what_another_one_calls() -> None:
    class Mine(LossTerm):
        def _elr_visit(self) -> None: ...

    with pytest.raises(TypeError, match="Mine and EarlyLearningRegularization both define '_elr_visit'"):

        class Mixed(Mine, EarlyLearningRegularization, LitNet): ...


@pytest.mark.parametrize(
    ("option", "hint"),
    [
        ("fer_muu", r"Did you mean fer_mu= of FlippingErrorReduction\?"),
        ("term_wight", r"Did you mean term_weight= of LossTerm\?"),
        ("nett", r"Did you mean net= of LitNet\?"),
        ("zzz", r"It has .*fer_mu.*lr"),
    ],
)
def test_unknown_option_names_the_nearest(option: str, hint: str) -> None:
    mixed: Any = type("Mixed", (FlippingErrorReduction, LitNet), {})
    with pytest.raises(TypeError, match=rf"no option '{option}'\. {hint}"):
        mixed(network(), **{option: 1})


def test_error_of_something_that_a_constructor_calls_is_left_alone() -> None:
    class Own(LitNet):
        def __init__(self, net: nn.Module, lr: float = 0.1) -> None:
            super().__init__(net)
            nn.Linear(2, 2, lr=lr)  # type: ignore[call-arg]

    with pytest.raises(TypeError, match=r"Linear\.__init__"):
        type("Mixed", (FlippingErrorReduction, Own), {})(network(), lr=0.1)


def test_abstract_modules_and_signatures() -> None:
    class Base(LitNet, abc.ABC):
        @abc.abstractmethod
        def name(self) -> str: ...

    class Mixed(FlippingErrorReduction, Base): ...

    with pytest.raises(TypeError, match="abstract"):
        Mixed(network())  # type: ignore[abstract]
    assert inspect.signature(Mixed) == inspect.signature(FlippingErrorReduction)
    assert list(inspect.signature(Mixed).parameters)[:3] == ["args", "fer_temperature", "fer_mu"]


# -- hyperparameters ------------------------------------------------------------------------------------


class Saving(LitNet):
    def __init__(self, lr: float = 0.1) -> None:
        super().__init__(network(), lr)
        self.save_hyperparameters()


class Saved(FlippingErrorReduction, Saving): ...


def saved(folder: Path, **options: Any) -> tuple[Any, Path]:
    model, path = Saved(**options), folder / "model.ckpt"
    trainer = quiet(max_epochs=1, logger=CSVLogger(folder, name="", version="log"))
    trainer.fit(model, loader(inputs(), labels(CLASSES), shuffled_batches()))
    trainer.save_checkpoint(path)
    return model, path


def test_saved_hyperparameters_are_grouped(tmp_path: Path) -> None:
    model, path = saved(tmp_path, lr=0.2, fer_mu=0.5)
    stored = torch.load(path, weights_only=True)["hyper_parameters"]
    assert set(stored) == {"lr", "mixin_options"}
    assert stored["lr"] == 0.2
    assert stored["mixin_options"]["fer_mu"] == 0.5
    assert set(stored["mixin_options"]) == set(options_of(FlippingErrorReduction))
    assert dict(model.hparams_initial) == stored
    assert "mixin_options:" in (tmp_path / "log" / "hparams.yaml").read_text()


def test_grouped_hyperparameters_load(tmp_path: Path) -> None:
    _, path = saved(tmp_path, lr=0.2, fer_mu=0.5, restrict="all")
    loaded = Saved.load_from_checkpoint(path)
    assert (loaded.lr, loaded.mixin_options.fer_mu, loaded.mixin_options.restrict) == (0.2, 0.5, "all")
    again = Saved.load_from_checkpoint(path, fer_mu=1.0)  # the default, said aloud
    assert (again.mixin_options.fer_mu, again.mixin_options.restrict) == (1.0, "all")
    assert again.hparams["mixin_options"]["fer_mu"] == 1.0
    from_yaml = Saved.load_from_checkpoint(path, hparams_file=tmp_path / "log" / "hparams.yaml")
    assert from_yaml.mixin_options == loaded.mixin_options
    assert Saving.load_from_checkpoint(path).lr == 0.2  # the module without the mixin


def test_flat_hyperparameters_of_older_checkpoints_load(tmp_path: Path) -> None:
    _, path = saved(tmp_path, lr=0.2)
    old = torch.load(path, weights_only=True)
    old["hyper_parameters"] = {"lr": 0.3, "fer_mu": 0.25, "average": False}
    torch.save(old, path)
    loaded = Saved.load_from_checkpoint(path)
    assert (loaded.lr, loaded.mixin_options.fer_mu, loaded.mixin_options.average) == (0.3, 0.25, False)
    assert loaded.hparams["mixin_options"]["fer_mu"] == 0.25


def test_chosen_and_ignored_hyperparameters() -> None:
    class Choosing(LitNet):
        def __init__(self, lr: float = 0.1) -> None:
            super().__init__(network(), lr)
            self.save_hyperparameters("lr", "fer_mu")

    class Ignoring(LitNet):
        def __init__(self, lr: float = 0.1) -> None:
            super().__init__(network(), lr)
            self.save_hyperparameters(ignore=["lr", "fer_mu"])

    chosen: Any = type("Mixed", (FlippingErrorReduction, Choosing), {})(fer_mu=0.5)
    assert dict(chosen.hparams) == {"lr": 0.1, "mixin_options": {"fer_mu": 0.5}}
    ignored: Any = type("Mixed", (FlippingErrorReduction, Ignoring), {})(fer_mu=0.5)
    assert set(ignored.hparams) == {"mixin_options"}
    assert "fer_mu" not in ignored.hparams["mixin_options"]


def test_object_of_hyperparameters_is_left_as_it_is() -> None:
    class Configured(LitNet):
        def __init__(self, config: dict[str, Any]) -> None:
            super().__init__(network())
            self.save_hyperparameters(config)

    model: Any = type("Mixed", (FlippingErrorReduction, Configured), {})({"fer_mu": "the user's", "average": 3})
    assert dict(model.hparams) == {"fer_mu": "the user's", "average": 3}


def test_hyperparameters_of_the_modules_own_stay_where_they_are() -> None:
    class Own(LitNet):
        def __init__(self, hidden: int = 3) -> None:
            super().__init__(network())
            self.save_hyperparameters({"confidence": 0.9, "average": 7})
            self.save_hyperparameters("hidden")

    class Whole(LitNet):
        def __init__(self, hidden: int = 3) -> None:
            super().__init__(network())
            self.save_hyperparameters({"average": 7})
            self.save_hyperparameters()

    assert dict(Own().hparams) == {"confidence": 0.9, "average": 7, "hidden": 3}
    mixed: Any = type("Mixed", (FlippingErrorReduction, Own), {})(fer_mu=0.5)
    assert dict(mixed.hparams) == dict(Own().hparams)
    whole: Any = type("Mixed", (FlippingErrorReduction, Whole), {})(fer_mu=0.5)
    assert (whole.hparams["average"], whole.hparams["hidden"]) == (7, 3)
    assert whole.hparams["mixin_options"]["average"] is True
    assert whole.hparams["mixin_options"]["fer_mu"] == 0.5


def test_old_model_is_in_no_hyperparameters() -> None:
    class Update(FocalDistillation, Saving): ...

    model = Update(reference=network(), focal_alpha=2.0)
    assert model.hparams["mixin_options"]["focal_alpha"] == 2.0
    assert "reference" not in model.hparams["mixin_options"]
    assert set(model.hparams) == {"lr", "mixin_options"}


def test_copies_have_options_of_their_own() -> None:
    class Mixed(LearningWithRetrospection, LabelSmoothing, Classifier): ...

    model = Mixed(network=MLP(4, 3), num_classes=3, smoothing=0.1)
    twin = copy.deepcopy(model)
    twin.mixin_options.take(smoothing=0.2)
    assert (model.mixin_options.smoothing, twin.mixin_options.smoothing) == (0.1, 0.2)
    assert twin._term_loop is not model._term_loop
