"""What happens to every pair of methods in one class, held to the tables of the page on stacking."""

from __future__ import annotations

import re
import warnings
from itertools import combinations_with_replacement, product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from lightning_flip.mixins import (
    ClassWiseSelfDistillation,
    FlippingErrorReduction,
    ForwardCorrection,
    LabelSmoothing,
    Mixup,
    NaivePositiveCongruent,
    PairwiseLabelSmoothing,
)
from lightning_flip.stores import write_soft_targets
from tests.mixins.helpers import K, LitNet, N, Recorder, data, inputs, quiet
from tests.mixins.methods import METHODS, every_method, made

PAGE = (Path(__file__).parents[2] / "docs" / "stacking.md").read_text(encoding="utf-8")
NAMES = sorted(method.__name__ for method in METHODS)
OUTCOMES = {"combine", "warn", "error at class definition", "error in the first mixed batch"}


# -- what the page says ---------------------------------------------------------------------------------------


def rows_under(heading: str) -> list[list[str]]:
    """The lines of the table under a heading, without its head."""
    section = re.search(rf"^## {heading}\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL)
    assert section is not None, heading
    lines = [line for line in section[1].splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def methods_in(cell: str) -> set[str]:
    return set(re.findall(r"`(\w+)`", cell))


def kinds() -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for kind, methods, *_ in rows_under("Kinds of methods"):
        found.setdefault(kind, set()).update(methods_in(methods))
    return found


def said_of_pairs() -> dict[frozenset[str], str]:
    """What the page says of each pair; a line that names a method goes before one that names its kind."""
    of_kind, levels = kinds(), [{}, {}]  # type: tuple[dict[str, set[str]], list[dict[frozenset[str], str]]]
    for one, other, outcome, why in rows_under("Which pairs go together"):
        assert outcome in OUTCOMES
        assert why
        sides = []
        for cell in (one, other):
            parts = [part.strip() for part in cell.split(",")]
            unknown = [part for part in parts if part not in of_kind and part.strip("`") not in NAMES]
            assert not unknown
            sides.append(methods_in(cell).union(*(of_kind[part] for part in parts if part in of_kind)))
        named = bool(methods_in(one) | methods_in(other))
        for pair in {frozenset(pair) for pair in product(*sides) if len(set(pair)) == 2}:
            assert pair not in levels[named], f"{set(pair)} stands in two lines"
            levels[named][pair] = outcome
    return levels[False] | levels[True]


SAID = said_of_pairs()


def test_every_method_is_of_one_kind_and_every_pair_in_the_table() -> None:
    listed = [name for methods in kinds().values() for name in sorted(methods)]
    assert sorted(listed) == NAMES
    assert set(SAID) == {frozenset(pair) for pair in combinations_with_replacement(NAMES, 2) if len(set(pair)) == 2}
    assert len(SAID) == 153
    assert set(SAID.values()) == OUTCOMES


def test_the_kinds_say_what_the_methods_say_of_themselves() -> None:
    by_name = {method.__name__: method for method in METHODS}
    for _, methods, softens, replaces in rows_under("Kinds of methods"):
        for name in methods_in(methods):
            says = [by_name[name].softens_target, by_name[name].replaces_cross_entropy]
            assert [softens, replaces] == ["yes" if value else "no" for value in says], name
    assert {name for name, method in by_name.items() if method.corrects_noise} == kinds()["**corrections**"]


# -- what happens ---------------------------------------------------------------------------------------------


def fitted(kind: Any, batches: Any, **options: Any) -> tuple[str, list[float]]:
    """Two epochs of two batches, which is enough for tables, cycles and paired batches to be in use."""
    recorder = Recorder()
    trainer = quiet(max_epochs=2, limit_train_batches=2, callbacks=[recorder])
    with warnings.catch_warnings(record=True) as caught:
        warnings.filterwarnings("always", message=r"Stack: .* (each|the batches bring) ")  # any other one is an error
        try:
            trainer.fit(made(kind, 0.1, **options), batches)
        except TypeError as error:
            refused = ("needs class labels, but the targets are distributions, float", "for each single sample, and")
            return "error" if any(text in str(error) for text in refused) else str(error), recorder.losses
    assert np.isfinite(recorder.losses).all()
    assert len(recorder.losses) == 4
    assert len(caught) <= 1
    return "warn" if caught else "combine", recorder.losses


def outcome_of(methods: tuple[Any, ...], **options: Any) -> tuple[str, list[float]]:
    try:
        kind = type("Stack", (*methods, LitNet), {})
    except TypeError:
        return "error at class definition", []
    outcome, losses = fitted(kind, data(), **options)
    if outcome == "error":
        assert len(losses) == (PairwiseLabelSmoothing in methods)  # the page says which batch is mixed first
        return "error in the first mixed batch", losses
    return outcome, losses


@every_method
def test_what_happens_to_each_pair_is_what_the_page_says(method: Any) -> None:
    """Each pair in one of its two orders."""
    first = METHODS.index(method) + 1
    for place, other in enumerate(METHODS[first:]):
        pair = (method, other) if place % 2 else (other, method)
        assert outcome_of(pair)[0] == SAID[frozenset((method.__name__, other.__name__))], other


@pytest.mark.parametrize("mixer", [Mixup, PairwiseLabelSmoothing])
def test_what_the_module_is_given_of_a_mixture_changes_nothing(mixer: Any) -> None:
    for other in METHODS:
        pair = frozenset((mixer.__name__, other.__name__))
        if len(pair) == 2:
            assert outcome_of((mixer, other), mixed_targets="labels")[0] == SAID[pair], other


@pytest.mark.parametrize(
    "methods",
    [
        (LabelSmoothing, FlippingErrorReduction),
        (Mixup, ForwardCorrection),
        (ClassWiseSelfDistillation, NaivePositiveCongruent),
    ],
)
def test_the_order_does_not_matter(methods: Any) -> None:
    one, other = outcome_of(methods), outcome_of(methods[::-1])
    assert one[0] == other[0]
    assert one[1] == pytest.approx(other[1], abs=1e-12)


@every_method
def test_batches_that_bring_distributions_are_what_the_page_says(method: Any) -> None:
    says = {"takes them as they are": "combine", "takes them, and warns": "warn", "error in the first": "error"}
    lines = [(methods_in(methods), said) for methods, said in rows_under("Batches that bring distributions")]
    (said,) = [said for methods, said in lines if method.__name__ in methods]
    q = torch.from_numpy(inputs(N, 4)[:, :K]).softmax(dim=1)
    batches = DataLoader(TensorDataset(torch.from_numpy(inputs()), q), batch_size=8)
    outcome = fitted(type("Stack", (method, LitNet), {}), batches)[0]
    assert outcome == next(value for begin, value in says.items() if said.startswith(begin))


# -- what the page shows --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["update", "denoised", "student"])
def test_the_stacks_that_it_shows_train_and_warn_of_nothing(name: str) -> None:
    program = "\n".join(re.findall(r"^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL))
    names: dict[str, Any] = {"__name__": "page"}
    exec(compile(program, "docs/stacking.md", "exec"), names)
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(12, 4, generator=generator), torch.arange(12) % 3
    write_soft_targets("teacher.safetensors", np.full((12, 3), 1 / 3), target=y.numpy(), overwrite=True)
    batches = DataLoader(TensorDataset(x, y), batch_size=4)
    before = [value.clone() for value in names[name].parameters()]
    quiet(max_epochs=2).fit(names[name], batches, batches)
    assert all(not one.equal(other) for one, other in zip(before, names[name].parameters(), strict=True))

    class Own(names["Halfway"], LitNet):  # type: ignore[misc]
        """The method that the page shows."""

    assert Own.softening_methods() == Own.replacing_methods() == ["Halfway"]
    assert fitted(Own, data())[0] == "combine"
