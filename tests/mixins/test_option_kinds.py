"""An option of the wrong kind is refused by its name when the module is made, whichever method's it is."""

from __future__ import annotations

import inspect
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lightning_flip.mixins import LossTerm, ReferencedLoss
from lightning_flip.steps import StepSource
from lightning_flip.steps.options import check_numbers, check_whole
from tests.mixins.helpers import LitNet, network
from tests.mixins.methods import METHODS, before
from tests.mixins.updates import old_network

NAN, INF = float("nan"), float("inf")
WRONG: dict[str, list[Any]] = {
    "float": ["0.5", None, [0.5], True, 1j, NAN, INF, torch.ones(2)],
    "int": ["3", None, [3], True, NAN, INF, 1.5, 2.0, -1],
    "bool": ["false", None, 0, [True]],
    "Literal": ["no such", None, 3, ["all"]],
}
WRONG_ENDS = [None, 0.5, "ab", (1.0,), (1.0, 0.5, 0.1), (1.0, "0.1"), (True, 0.1), (NAN, 0.1), (1.0, INF), (-0.1, 1.0)]
# What no annotation says.
WRONG_FOR: dict[str, list[Any]] = {
    "alpha_range": WRONG_ENDS,
    "beta_range": WRONG_ENDS,
    "classifier_from": [None, 3, ["net"]],
    "features_from": [None, 3, ["net"]],
    "index_from": [1.5, ["id"], True],
    "input_from": [1.5, ["x"], True, len],
    "kd_transition": ["estimat", Path("T.txt"), 0.5, [0.5], [["a"]], [[NAN, 1.0], [0.0, 1.0]]],
    "loader": [1.5, ["a"], len, True],
    "logits_from": [3, ["net"]],
    "outputs": [3, "prob", ["logits"]],
    "old_classes": ["01", 3, [0.5, 1.5], ["0"], [None], [0, 0], [-1]],
    "reference": [3, 0.5, ["old.ckpt"]],
    "reference_class": [3, [LitNet], network()],
    "reference_compile": [3, ["inductor"]],
    "reference_network": [3, ["resnet18"]],
    "table_dtype": ["int8", 16, torch.int8],
    "target_from": [1.5, ["y"], True],
    "targets": [3, ["a.safetensors"]],
    "transition": ["estimat", Path("T.txt"), 0.5, [0.5], [["a"]], [[NAN, 1.0], [0.0, 1.0]]],
}
NO_LIMITS = {"term_weight"}  # a negative one is somebody's own business


def options() -> list[tuple[Any, str, str]]:
    """Every option of every method once, with a method that has it and its annotation."""
    found: dict[tuple[str, str], tuple[Any, str, str]] = {}
    for method in METHODS:
        for part in method.__mro__:
            if issubclass(part, LossTerm) and "__init__" in vars(part):
                for parameter in inspect.signature(vars(part)["__init__"]).parameters.values():
                    if parameter.kind is inspect.Parameter.KEYWORD_ONLY:
                        annotation = str(parameter.annotation)
                        found.setdefault((part.__name__, parameter.name), (method, parameter.name, annotation))
    return list(found.values())


def wrong_values(name: str, annotation: str) -> list[Any]:
    if name in WRONG_FOR:
        return WRONG_FOR[name]
    kind = annotation.removesuffix(" | None").partition("[")[0]
    return [value for value in WRONG[kind] if value is not None or not annotation.endswith("| None")]


CASES = [
    pytest.param(method, name, value, id=f"{method.__name__}-{name}-{value!r:.20}")
    for method, name, annotation in options()
    for value in wrong_values(name, annotation)
]


@pytest.mark.parametrize(("method", "name", "value"), CASES)
def test_it_is_named_with_what_was_expected_and_what_came(method: Any, name: str, value: Any) -> None:
    given = {name: value}
    if issubclass(method, ReferencedLoss):
        given.setdefault("reference", old_network())
    with pytest.raises(
        (TypeError, ValueError), match=rf"(?s)^{name} (must be|holds .*expected).*(got |could not convert)"
    ):
        before(method, LitNet)(network(), **given)


def test_the_sweep_is_over_all_of_them() -> None:
    assert {"term_weight", "smoothing", "sd_cycles", "average", "restrict", "reference", "mixed_targets"} <= {
        name for _, name, _ in options()
    }
    assert len(CASES) > 250


def test_numbers_of_other_libraries_are_numbers() -> None:
    check_numbers(a=np.float32(0.5), b=np.float64(0.5), c=torch.tensor(0.5), d=np.int64(1), e=Fraction(1, 2))
    check_whole(a=np.int64(2), b=np.uint8(2))


def test_whole_numbers_of_other_libraries_are_whole() -> None:
    for method, name, annotation in options():
        if annotation in ("int", "int | None"):
            before(method, LitNet)(network(), **{name: np.int64(2)})
    for listed in (np.arange(4), torch.arange(4), range(4)):
        method = next(method for method in METHODS if method.__name__ == "FocalDistillation")
        model = before(method, LitNet)(network(), reference=old_network(), old_classes=listed)
        assert model.mixin_options.old_classes == (0, 1, 2, 3)


def test_a_source_of_a_callback_is_checked_as_well() -> None:
    assert StepSource(logits_from=len, target_from=1, index_from="id", loader="a", features_from="") is not None
    with pytest.raises(TypeError, match="features_from must be the path of a layer; got 3"):
        StepSource(features_from=3)  # type: ignore[arg-type]
