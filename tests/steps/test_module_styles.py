"""Classifiers in every style in which people write them: rows, weights and mixins, without any option."""

from __future__ import annotations

import functools
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pytest
import pytorch_lightning
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from lightning_flip.callbacks import FlipTracker, PredictionHistory, PredictionWriter
from lightning_flip.mixins import FlippingErrorReduction, FocalDistillation
from lightning_flip.steps import StepSource
from lightning_flip.stores import HistoryError, read_history, read_predictions
from tests.steps import module_styles as styles
from tests.steps.helpers import QUIET

EPOCHS, BATCH = 2, 8
MEASURES = ("prob_label", "prob_pred", "logit_margin", "cross_entropy")
ERRORS = (AttributeError, RuntimeError, TypeError, ValueError)
UPSTREAM = re.compile(
    "LeafSpec|does not have many workers|The .grad attribute of a Tensor|`training_step` returned `None`"
)
# torch.compile looks for a gradient wherever a graph begins, and hides the warning in a way that no error knows.
pytestmark = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")

# -- the table -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Refused:
    """An error whose message matches; where it is optional, the right result is as good."""

    match: str
    error: type[Exception] | tuple[type[Exception], ...] = ERRORS
    optional: bool = False


WORKS = Refused("", ())
NOT_RUN = Refused("not run", ())
UNSUPPORTED = Refused("not supported")
MIXED = Refused("(?i)mix")
BOTH_HEADS = Refused(r"(?s)(?=.*\bleft\b)(?=.*\bright\b)")
NO_MODULE = Refused(r"(?i)reference|logits_from|module", optional=True)


def other_loss(word: str) -> Refused:
    """What a mixin says to a loss that is not mean cross entropy."""
    return Refused(f"(?i){word}", ValueError)


OTHER_LOSS = other_loss("cross.?entropy")


@dataclass(frozen=True)
class Style:
    """A module, its data, and what is expected of it.

    Attributes:
        module: its class.
        twin: a module of the same network and loss in plain words, which has the same weights after each training.
        data: gives its dataset.
        collate: makes its batches.
        kind: what it notes: "logits" or log-probabilities, "probs", "logit", "prob".
        exact: whether its weights are the same to the last bit with callbacks.
        callbacks: what callbacks do.
        fer: what FlippingErrorReduction does.
        focal: what FocalDistillation does; None: the same.
        says: what a warning says.
        may_say: what another warning may say.
        wrapped: makes what the Trainer is given.
    """

    module: type[Any]
    twin: type[Any] | None = styles.Plain
    data: Callable[..., Dataset[Any]] = styles.three_classes
    collate: Callable[..., Any] | None = None
    kind: str = "logits"
    exact: bool = True
    callbacks: Refused = WORKS
    fer: Refused = WORKS
    focal: Refused | None = None
    says: str | None = None
    may_say: str | None = None
    wrapped: Callable[[Any], Any] | None = None

    def __str__(self) -> str:
        return self.module.__name__

    @property
    def validates(self) -> bool:
        """Whether its module defines a validation step."""
        packages = (pl.LightningModule, pytorch_lightning.LightningModule)
        return all(self.module.validation_step is not package.validation_step for package in packages)


def mixing(*counts: int) -> str:
    """A warning about mixed rows with their number, or that of their steps."""
    return rf"(?is)(?=.*mix)(?=.*\b({'|'.join(map(str, counts))})\b)"


CONVERTED = "(?i)probabilit|logit"
NOTHING = "nothing was recorded"
BINARY: dict[str, Any] = {"twin": styles.PlainBinary, "data": styles.two_classes}
COMPILED: dict[str, Any] = {"exact": False}
REFUSED: dict[str, Any] = {"twin": None, "callbacks": UNSUPPORTED, "fer": UNSUPPORTED}

STYLES = [
    # where the logits come from
    Style(styles.Plain),
    Style(styles.PlainBinary, **BINARY),
    Style(styles.ExplicitForward),
    Style(styles.ByNetwork),
    Style(styles.OtherForward),
    Style(styles.BackboneAndHead, focal=Refused("(?i)logits_from|input|feature")),
    Style(styles.CriterionAndMetric),
    Style(styles.FeaturesAndLogits),
    Style(styles.LogitsAndFeatures),
    Style(styles.UnderKey),
    Style(styles.UnderOtherKey),
    Style(styles.AsAttribute),
    Style(styles.LossInNetwork),
    Style(styles.LossInNetworkDict),
    Style(styles.TwoViews, styles.TwoViewsInForward, focal=NO_MODULE),
    Style(styles.TwoViewsInForward, None),
    Style(styles.Temperature, styles.TemperatureInForward, focal=NO_MODULE),
    Style(styles.TemperatureInForward, None),
    Style(styles.FunctionalHead, styles.FunctionalHeadInForward, focal=NO_MODULE),
    Style(styles.FunctionalHeadInForward, None),
    Style(styles.SampledRows),
    # kinds of output and of loss
    Style(styles.SoftmaxInNetwork, kind="probs", may_say=CONVERTED),
    Style(styles.LogSoftmaxInForward, kind="log_probs", may_say=CONVERTED),
    Style(styles.LogSoftmaxOutside),
    Style(styles.SigmoidColumn, kind="prob", may_say=CONVERTED, **BINARY),
    Style(styles.OneLogit, kind="logit", may_say=CONVERTED, **BINARY),
    Style(styles.OneLogitColumn, kind="logit", may_say=CONVERTED, **BINARY),
    Style(styles.LogSumExp),
    Style(styles.OneHotByHand),
    Style(styles.NoneThenMean),
    Style(styles.ClassWeights, None, fer=other_loss("weight")),
    Style(styles.ZeroHeadClassWeights, None, fer=other_loss("weight")),
    Style(styles.Smoothing, None, fer=other_loss("smooth")),
    Style(styles.Summed, None, fer=other_loss("sum")),
    Style(styles.Focal, None, fer=OTHER_LOSS),
    Style(styles.AddedL2, None, fer=OTHER_LOSS),
    Style(styles.OneHotBCE, None, fer=OTHER_LOSS),
    Style(styles.SmoothedBCE, None, fer=OTHER_LOSS),
    # several losses
    Style(styles.Decoder, None, fer=OTHER_LOSS),
    Style(styles.CoarseLabels, None, fer=OTHER_LOSS),
    Style(styles.TwoHeads, None, callbacks=BOTH_HEADS, fer=BOTH_HEADS),
    Style(styles.DeepSupervision, None, fer=OTHER_LOSS),
    # mixing inside the step
    Style(styles.MixUpPairs, None, says=mixing(5, 10, 40, 80), may_say=NOTHING, fer=MIXED),
    Style(styles.MixUpSoft, None, says=mixing(5, 10, 40, 80), may_say=NOTHING, fer=MIXED),
    Style(styles.MixUpSometimes, None, says=mixing(2, 4, 16, 32), fer=MIXED),
    Style(styles.MixUpSoftSometimes, None, says=mixing(3, 6, 24, 48), fer=MIXED),
    # edits in place: a mixin may refuse them, and must not be wrong
    Style(styles.EditedBefore, styles.EditedInForward, fer=Refused("", optional=True)),
    Style(styles.EditedAfter, fer=Refused("", optional=True)),
    # optimization
    Style(styles.Manual),
    Style(styles.TwoOptimizers, None),
    Style(styles.SAM, None),
    Style(styles.LBFGS, None),
    Style(styles.Checkpointed),
    # compiled
    Style(
        styles.CompiledLater,
        wrapped=functools.partial(torch.compile, backend="eager"),
        fer=Refused("(?i)compil", optional=True),
        focal=NOT_RUN,
        **COMPILED,
    ),
    Style(styles.CompiledNetwork, **COMPILED),
    Style(styles.CompiledInPlace, **COMPILED),
    Style(styles.CompiledMethod, focal=NOT_RUN, **COMPILED),
    # copies inside the step
    Style(styles.CopiesItself),
    Style(styles.SavesItself),
    # batches and labels
    Style(styles.TransferHook, data=styles.tens),
    Style(styles.MergedLabels, data=styles.six_classes, says="(?i)label|target"),
    Style(styles.GraphStyle, collate=styles.graphs),
    Style(styles.ThreeParts, data=styles.with_meta),
    Style(styles.SpeciesStyle, data=styles.Species),
    # what is not supported
    Style(styles.MultiLabel, data=styles.multi_hot, **REFUSED),
    Style(styles.FlatTokens, data=styles.token_labels, **REFUSED),
    Style(styles.Tokens, data=styles.token_labels, **REFUSED),
    Style(styles.Regression, data=styles.heights, **REFUSED),
    # validation
    Style(styles.ValidationAccuracy),
    Style(styles.ValidationLoss, focal=Refused("(?i)logits_from|input|feature")),
    # pytorch_lightning
    Style(styles.OtherPlain),
    Style(styles.OtherByNetwork),
    Style(styles.OtherLogSoftmax, kind="log_probs", may_say=CONVERTED),
    Style(styles.OtherUnderKey),
    Style(styles.OtherManual),
    Style(styles.OtherValidation),
    Style(styles.OtherSmoothing, None, fer=other_loss("smooth")),
]
TWINS = {
    module: Style(module, None, data=data)
    for module, data in (
        (styles.Plain, styles.three_classes),
        (styles.PlainBinary, styles.two_classes),
        (styles.EditedInForward, styles.three_classes),
        (styles.TwoViewsInForward, styles.three_classes),
        (styles.TemperatureInForward, styles.three_classes),
        (styles.FunctionalHeadInForward, styles.three_classes),
    )
}


def of(styles_of: Sequence[Style]) -> Any:
    """Run a test for these styles."""
    return pytest.mark.parametrize("style", styles_of, ids=str)


# -- training ------------------------------------------------------------------------------------------


def made(module: type[Any], *, seed: int = 0, **options: Any) -> Any:
    """A module whose weights depend on the seed alone."""
    torch.manual_seed(seed)
    return module(**options)


def with_mixin(mixin: type[Any], module: type[Any]) -> type[Any]:
    """The class of both, in the styles' namespace, so that a module that saves itself finds it."""
    name = f"{mixin.__name__}{module.__name__}"
    vars(styles)[name] = type(name, (mixin, module), {"__module__": styles.__name__})
    return vars(styles)[name]


def loader(style: Style, *, seed: int = 0, shuffle: bool = True) -> DataLoader[Any]:
    """A loader with an order of its own, whatever else is drawn."""
    order = torch.Generator().manual_seed(seed)
    return DataLoader(style.data(seed), batch_size=BATCH, shuffle=shuffle, collate_fn=style.collate, generator=order)


def trainer_for(module: Any, *callbacks: Any, **options: Any) -> Any:
    """A quiet Trainer of the package that the module comes from."""
    package: Any = pytorch_lightning if isinstance(module, pytorch_lightning.LightningModule) else pl
    options = {**QUIET, "num_sanity_val_steps": 1, "max_epochs": EPOCHS, **options}
    return package.Trainer(callbacks=list(callbacks), **options)


def train(style: Style, *callbacks: Any, mixin: type[Any] | None = None, **options: Any) -> Any:
    """The style's module after training."""
    module_class = style.module if mixin is None else with_mixin(mixin, style.module)
    if mixin is FocalDistillation:
        options["reference"] = made(style.module, seed=1)
    module = made(module_class, **options)
    val = loader(style, seed=1, shuffle=False) if style.validates else None
    torch.manual_seed(2)
    trainer_for(module, *callbacks).fit(module if style.wrapped is None else style.wrapped(module), loader(style), val)
    return module


@functools.cache
def plain(style: Style) -> list[list[Tensor]]:
    """The weights after each epoch of training without anything of ours."""
    return train(style).after_epoch


@functools.cache
def twin_weights(module: type[Any], mixin: type[Any]) -> list[Tensor]:
    """The weights of a twin after training with a mixin."""
    return train(TWINS[module], mixin=mixin).after_epoch[-1]


def near(left: Sequence[Tensor], right: Sequence[Tensor], tolerance: float = 1e-4) -> bool:
    return all(torch.allclose(a, b, rtol=tolerance, atol=tolerance) for a, b in zip(left, right, strict=True))


@contextmanager
def saying(expected: str | None = None, may_say: str | None = None) -> Iterator[None]:
    """What is expected is said in a warning, the other thing may be, and nothing else is."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield
    said = [str(warning.message) for warning in caught if not UPSTREAM.search(str(warning.message))]
    assert expected is None or any(re.search(expected, text) for text in said), said
    known = [pattern for pattern in (expected, may_say) if pattern is not None]
    assert [text for text in said if not any(re.search(pattern, text) for pattern in known)] == []


@pytest.fixture(autouse=True)
def _fresh_compiler() -> Iterator[None]:
    """Compiled code of one style is not another's."""
    yield
    torch.compiler.reset()


# -- the oracle ----------------------------------------------------------------------------------------


def reading(said: Tensor, kind: str) -> np.ndarray[Any, Any]:
    """What a network said, as logits of at least two classes."""
    values = said.double().numpy()
    if kind == "probs":
        return np.log(values)
    if kind in ("logit", "prob"):
        column = values.reshape(-1, 1)
        column = np.log(column / (1 - column)) if kind == "prob" else column
        return np.concatenate([np.zeros_like(column), column], axis=1)
    return values


def expected_rows(seen: Sequence[styles.Note], kind: str) -> dict[tuple[str, int, int], list[float]]:
    """Of every (split, epoch, sample) the predicted class, the label and the measures, from a module's notes."""
    rows = {}
    for note in seen:
        for index, logits, label in zip(note.index, reading(note.said, kind), note.labels, strict=True):
            log_p = logits - np.logaddexp.reduce(logits)
            measures = [np.exp(log_p[label]), np.exp(log_p.max()), logits[label] - np.delete(logits, label).max()]
            assert (note.split, note.epoch, index) not in rows
            rows[note.split, note.epoch, index] = [logits.argmax(), label, *measures, -log_p[label]]
    return rows


def stored_rows(folder: Path) -> dict[tuple[str, int, int], list[float]]:
    """The same from a history; nothing where there is none."""
    try:
        table = read_history(folder).to_arrow()
    except HistoryError:
        return {}
    keys = zip(*(table[name].to_pylist() for name in ("split", "epoch", "index")), strict=True)
    values = zip(*(table[name].to_pylist() for name in ("pred", "target", *MEASURES)), strict=True)
    rows = dict(zip(keys, map(list, values), strict=True))
    assert len(rows) == table.num_rows
    return rows


def assert_recorded(folder: Path, module: Any, kind: str = "logits") -> None:
    """A history has what the module noted."""
    expected, stored = expected_rows(module.seen, kind), stored_rows(folder)
    assert stored.keys() == expected.keys()
    if stored:
        keys = sorted(stored)
        found, right = np.array([stored[key] for key in keys]), np.array([expected[key] for key in keys])
        np.testing.assert_array_equal(found[:, :2], right[:, :2])
        np.testing.assert_allclose(found[:, 2:], right[:, 2:], rtol=1e-3, atol=1e-4)


def assert_tracked(tracker: FlipTracker, module: Any, kind: str) -> None:
    """A tracker counted what the module noted."""
    rows = {key: row for key, row in expected_rows(module.seen, kind).items() if key[0] == "train"}
    if not rows:
        return
    statistics = tracker.statistics["train", 0]
    visits, right, last = torch.zeros(3, styles.COUNT, dtype=torch.int64)
    last -= 1
    for (_, _, index), (pred, label, *_) in sorted(rows.items()):
        visits[index] += 1
        right[index] += int(pred == label)
        last[index] = int(pred)
    assert torch.equal(statistics.visits, visits)
    assert torch.equal(statistics.times_right, right)
    assert torch.equal(statistics.last_pred, last)


# -- every style ---------------------------------------------------------------------------------------


@of([style for style in STYLES if style.callbacks is WORKS])
def test_callbacks_record_what_the_step_saw_and_change_nothing(style: Style, tmp_path: Path) -> None:
    tracker = FlipTracker(train=True)
    with saying(style.says, style.may_say):
        module = train(style, PredictionHistory(tmp_path), tracker)
    assert_recorded(tmp_path, module, style.kind)
    assert_tracked(tracker, module, style.kind)
    for with_callbacks, without in zip(module.after_epoch, plain(style), strict=True):
        assert near(with_callbacks, without)
        assert not style.exact or all(map(torch.equal, with_callbacks, without))
    assert style.wrapped is not None or "forward" not in vars(module)


@of([style for style in STYLES if style.callbacks is not WORKS])
def test_callbacks_refuse(style: Style, tmp_path: Path) -> None:
    with pytest.raises(style.callbacks.error, match=style.callbacks.match):
        train(style, PredictionHistory(tmp_path), FlipTracker(train=True))


@of([style for style in STYLES if style.twin is not None])
def test_a_twin_trains_alike(style: Style) -> None:
    assert near(plain(style)[-1], plain(TWINS[style.twin])[-1])


def assert_mixed_in(style: Style, mixin: type[Any], expected: Refused, **options: Any) -> Any:
    """A mixin works, or refuses in words; returns the module if it works."""
    if expected is not WORKS and not expected.optional:
        with pytest.raises(expected.error, match=expected.match):
            train(style, mixin=mixin, **options)
        return None
    refusal = None
    try:
        with saying(style.says, style.may_say):
            module = train(style, mixin=mixin, **options)
    except expected.error as error:
        refusal = str(error)
    if refusal is not None:
        assert re.search(expected.match, refusal)
        return None
    assert not near(module.after_epoch[-1], plain(style)[-1], 1e-6)
    if style.twin is not None:
        assert near(module.after_epoch[-1], twin_weights(style.twin, mixin), 1e-3)
    return module


@of(STYLES)
def test_flipping_error_reduction(style: Style) -> None:
    module = assert_mixed_in(style, FlippingErrorReduction, style.fer)
    if module is not None:
        assert near(module.after_epoch[0], plain(style)[0])


@of([style for style in STYLES if style.fer.error is ValueError])
def test_flipping_error_reduction_beside_any_loss(style: Style) -> None:
    module = assert_mixed_in(style, FlippingErrorReduction, WORKS, base_loss="any")
    assert near(module.after_epoch[0], plain(style)[0])


@of([style for style in STYLES if style.focal is not NOT_RUN])
def test_focal_distillation(style: Style) -> None:
    assert_mixed_in(style, FocalDistillation, style.fer if style.focal is None else style.focal)


# -- where the logits are, said --------------------------------------------------------------------------


def scores(output: Any) -> Any:
    """The scores among what a step returned."""
    return output["scores"]


def deep_scores(forward: Any) -> Any:
    """The scores in what the module's own forward returned."""
    return forward["deep"][1]["scores"]


SYNTAX: list[tuple[Style, Any]] = [
    (Style(styles.Plain), ""),
    (Style(styles.ByNetwork), "net"),
    (Style(styles.FeaturesAndLogits), "[1]"),
    (Style(styles.UnderOtherKey), "[out]"),
    (Style(styles.LossInNetwork), "net[1]"),
    (Style(styles.LossInNetworkDict), "net[logits]"),
    (Style(styles.CalledTwice), "net#2"),
    (Style(styles.TwoHeads), "left"),
    (Style(styles.ReturnsScores), scores),
    (Style(styles.DeepOutput), deep_scores),
]


@pytest.mark.parametrize(("style", "logits_from"), SYNTAX, ids=lambda value: getattr(value, "__name__", str(value)))
def test_a_callback_is_told_where_the_logits_are(style: Style, logits_from: Any, tmp_path: Path) -> None:
    with saying():
        module = train(style, PredictionHistory(tmp_path, logits_from=logits_from))
    assert_recorded(tmp_path, module)


@pytest.mark.parametrize("logits_from", ["net#3", "net[logits]", "nets", "[1]"])
def test_a_place_without_logits_is_named(logits_from: str, tmp_path: Path) -> None:
    with pytest.raises(ERRORS, match=re.escape(logits_from)):
        train(Style(styles.CalledTwice), PredictionHistory(tmp_path, logits_from=logits_from))


def saying_left(module: Any) -> Any:
    """Say on the instance that the left head counts."""
    module.flip_source = StepSource(logits_from="left")
    return module


SAID = [
    (Style(styles.SaysWhichHead), None),
    (Style(styles.TwoHeads, wrapped=saying_left), None),
    (Style(styles.SaysTheOtherHead, wrapped=saying_left), None),
    (Style(styles.SaysTheOtherHead), "left"),
]


@pytest.mark.parametrize(("style", "logits_from"), SAID, ids=["class", "instance", "instance over class", "option"])
def test_a_module_says_where_its_logits_are(style: Style, logits_from: str | None, tmp_path: Path) -> None:
    """The module is asked before the search; an option of the callback wins over it."""
    with saying():
        module = train(style, PredictionHistory(tmp_path, logits_from=logits_from))
    assert_recorded(tmp_path, module)


def test_a_module_tells_its_mixin_where_its_logits_are() -> None:
    said, other, option, overruled = (
        train(Style(module), mixin=FlippingErrorReduction, base_loss="any", **options).after_epoch[-1]
        for module, options in (
            (styles.SaysWhichHead, {}),
            (styles.SaysTheOtherHead, {}),
            (styles.TwoHeads, {"logits_from": "left"}),
            (styles.SaysTheOtherHead, {"logits_from": "left"}),
        )
    )
    assert near(said, option, 1e-6)
    assert near(overruled, option, 1e-6)
    assert not near(said, other)


# -- silence -------------------------------------------------------------------------------------------


def test_a_callback_says_that_nothing_was_recorded() -> None:
    with saying(NOTHING):
        train(Style(styles.Idle), FlipTracker(train=True))


def test_a_mixin_fails_where_nothing_was_recorded() -> None:
    with pytest.raises(ERRORS, match=NOTHING), saying():
        train(Style(styles.Idle), mixin=FlippingErrorReduction)


# -- prediction ----------------------------------------------------------------------------------------

PREDICTS = Style(styles.Predicts)


def assert_predicted(path: Path, module: Any) -> None:
    """A file has what the module's network says."""
    rows = read_predictions(path).rows
    x, y = styles.parts(1)
    with torch.no_grad():
        probs = styles.by_hand(module.net, x).softmax(dim=1)
    assert rows["index"].to_pylist() == list(range(styles.COUNT))
    assert rows["target"].to_pylist() == y.tolist()
    assert rows["pred"].to_pylist() == probs.argmax(dim=1).tolist()
    np.testing.assert_allclose(rows["confidence"].to_numpy(), probs.amax(dim=1).numpy(), rtol=1e-4)
    np.testing.assert_allclose(rows["prob_label"].to_numpy(), probs.gather(1, y[:, None])[:, 0].numpy(), rtol=1e-4)


def predict(module: Any, path: Path, **options: Any) -> None:
    """Write a module's predictions on held-out data."""
    writer = PredictionWriter(path)
    trainer_for(module, writer).predict(module, loader(PREDICTS, seed=1, shuffle=False), **options)


def test_prediction_takes_what_training_took(tmp_path: Path) -> None:
    module = train(PREDICTS, PredictionHistory(tmp_path / "run"))
    predict(module, tmp_path / "new.parquet")
    assert_predicted(tmp_path / "new.parquet", module)


@pytest.mark.filterwarnings("ignore:Be aware that when using .ckpt_path., callbacks used to create")
def test_prediction_takes_what_the_checkpoint_says(tmp_path: Path) -> None:
    trained = train(PREDICTS, PredictionHistory(tmp_path / "run"))
    trained.trainer.save_checkpoint(tmp_path / "last.ckpt")
    module = made(styles.Predicts, seed=1)
    predict(module, tmp_path / "new.parquet", ckpt_path=tmp_path / "last.ckpt")
    assert near(list(module.parameters()), list(trained.parameters()))
    assert_predicted(tmp_path / "new.parquet", module)


def test_prediction_does_not_guess(tmp_path: Path) -> None:
    with pytest.raises(ERRORS, match=r"logits_from.*\bnet\b"):
        predict(made(styles.Predicts), tmp_path / "new.parquet")
