"""The options that the page of deviations names are there, and have the values that it gives."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
from pathlib import Path

import pytest

PAGE = Path(__file__).resolve().parents[1] / "docs" / "deviations.md"
PACKAGES = ("callbacks", "data", "functional", "mixins", "models")


def parameters() -> dict[str, list[inspect.Parameter]]:
    """Every parameter of what is public."""
    found: dict[str, list[inspect.Parameter]] = {}
    for package in PACKAGES:
        module = importlib.import_module(f"lightning_flip.{package}")
        for name in module.__all__:
            public = getattr(module, name)
            for part in public.__mro__[:-1] if inspect.isclass(public) else [public]:
                if callable(part) and part.__module__.startswith("lightning_flip"):
                    for parameter in inspect.signature(part).parameters.values():
                        found.setdefault(parameter.name, []).append(parameter)
    return found


def named() -> list[tuple[str, str, str]]:
    """Method, option and what is written behind its equals sign, of every row's last column."""
    rows = [line.strip("| ").split(" | ") for line in PAGE.read_text().splitlines() if line.startswith("| ")]
    cells = [(row[0], code) for row in rows[1:] for code in re.findall(r"`([^`]+)`", row[-1])]
    options = r"\b([a-z_]+)=(\([^)]*\)|\"[^\"]*\"|[^,\s()]*)"
    return [(method, *option) for method, code in cells for option in re.findall(options, code)]


PARAMETERS = parameters()


def test_the_page_is_read() -> None:
    assert len(named()) > 20
    assert {"alpha_range", "old_samples", "lwr_unvisited", "steps_per_epoch"} < {option for _, option, _ in named()}


@pytest.mark.parametrize(("method", "option", "value"), [row for row in named() if row[1] != "by"])
def test_an_option_is_there_and_has_the_value_that_is_named(method: str, option: str, value: str) -> None:
    known = PARAMETERS[option]
    if not value:
        return
    choices = [str(parameter.annotation).replace("'", '"') for parameter in known]
    defaults = [parameter.default for parameter in known if parameter.default is not parameter.empty]
    assert ast.literal_eval(value) in defaults or (value.startswith('"') and any(value in part for part in choices))
