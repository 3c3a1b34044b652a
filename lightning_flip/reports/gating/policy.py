"""A gate's policy: limits, lists, and how they are decided, as a YAML file that is kept with the code."""

from __future__ import annotations

import dataclasses
import difflib
import functools
import importlib.resources
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal

from lightning_flip.reports.gating.lists import AllowedFlip, parse_day
from lightning_flip.reports.text import quote
from lightning_flip.stores.errors import PredictionError

__all__ = ["AMOUNTS", "Policy", "PolicyError", "parse_policy", "policy_schema", "read_policy"]

_LISTS = ("must_not_flip", "must_be_right")
_ADVICE = "; leave the key out, or give it a value"
#: Limits that are no shares, and may be over 1.
AMOUNTS = ("max_flip_cost", "max_brier_increase", "max_nll_increase")


class PolicyError(PredictionError):
    """A policy cannot be used.

    The message names the file, the line, the key, what was expected, what came, and the way out.
    """


@dataclasses.dataclass(frozen=True, kw_only=True)
class Policy:
    """What a gate decides and how; `read_policy` returns it.

    Attributes:
        block: limits that the verdict depends on, by their names as arguments of `gate`; rates in [0, 1].
        warn: limits that are reported and do not change the verdict.
        must_not_flip: path of a file of ids, as `read_ids` takes it; None for none.
        must_be_right: the same, for samples that the new model must get right.
        slices: columns whose values are judged one by one.
        top_k: the k of `max_top_k_flips`.
        min_support: groups with fewer samples are not judged.
        error: the chance of each wrong decision, between 0 and 0.5.
        population: `"sample"`, or `"fixed"` for a set of samples that is all there is.
        cluster: a column that tells which samples belong together; None for independent samples.
        design_effect: whether to estimate how alike the samples of a cluster are.
        looks: how many times the data are looked at.
        inconclusive: what an inconclusive verdict counts as: `"fail"`, `"warn"` or `"pass"`; None for none of these.
        allowed_flips: samples that may flip for a while, or the path of a CSV file of them.
        costs: path of a CSV file, as `read_costs` takes it; None for none.
        columns: the names of columns by their roles `id`, `target`, `pred` and `confidence`; in the old model's file
            and in the new one's.
        allow_partial: as in `join_predictions`, like the following.
        min_coverage: see there.
        drop_unlabelled: see there.
        shared_classes: see there.
        shared_argmax: see there.

    Example:
        >>> policy = Policy(block={"max_nfr": 0.01, "max_nfr_per_slice": 0.03}, slices=("site",), min_support=50)
        >>> print(policy.to_yaml())
        version: 1
        block:
          max_nfr: 1%
          max_nfr_per_slice: 3%
        slices:
        - site
        min_support: 50
        <BLANKLINE>
        >>> parse_policy(policy.to_yaml()) == policy
        True
    """

    block: Mapping[str, float] = dataclasses.field(default_factory=dict)
    warn: Mapping[str, float] = dataclasses.field(default_factory=dict)
    must_not_flip: str | None = None
    must_be_right: str | None = None
    slices: tuple[str, ...] = ()
    top_k: int = 5
    min_support: int = 0
    error: float = 0.05
    population: Literal["sample", "fixed"] = "sample"
    cluster: str | None = None
    design_effect: bool = False
    looks: int = 1
    inconclusive: Literal["fail", "warn", "pass"] | None = None
    allowed_flips: str | tuple[AllowedFlip, ...] = ()
    costs: str | None = None
    columns: Mapping[str, tuple[str, str]] = dataclasses.field(default_factory=dict)
    allow_partial: bool = False
    min_coverage: float = 0.0
    drop_unlabelled: bool = False
    shared_classes: bool = False
    shared_argmax: bool = False

    @property
    def files(self) -> list[str]:
        """The paths of the files that it names."""
        named = (self.must_not_flip, self.must_be_right, self.allowed_flips, self.costs)
        return [path for path in named if isinstance(path, str)]

    def replaced(self, given: Mapping[str, Any]) -> Policy:
        """The policy with other values of the keys that are given; of `block`, `warn` and `columns`, key by key.

        Example:
            >>> Policy(block={"max_nfr": 0.01, "max_churn": 0.1}).replaced({"block": {"max_nfr": 0.02}}).block
            {'max_nfr': 0.02, 'max_churn': 0.1}
        """
        merged = {key: {**getattr(self, key), **given.get(key, {})} for key in ("block", "warn", "columns")}
        return dataclasses.replace(self, **{**given, **merged})

    def to_yaml(self) -> str:
        """The policy as a file, without keys that have their default; needs PyYAML.

        Paths are written as they are: they hold as long as the file is in the current folder.
        """
        from lightning_flip.reports.gating._policy_yaml import dump_yaml

        block = {name: _written_limit(name, limit) for name, limit in self.block.items()}
        block |= {name: getattr(self, name) for name in _LISTS if getattr(self, name) is not None}
        content: dict[str, Any] = {"version": 1, **({"block": block} if block else {})}
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.name not in ("block", *_LISTS) and value != field.default and value not in ({}, ()):
                content[field.name] = _written(field.name, value)
        return dump_yaml(content)


def read_policy(path: str | os.PathLike[str]) -> Policy:
    """Read a policy file.

    Args:
        path: a YAML file, as docs/update.md describes it. Paths in it are relative to its folder.

    Raises:
        PolicyError: if it is not YAML, has an unknown key or a key twice, or a value that its key cannot have.
        OSError: if it cannot be read.
        ModuleNotFoundError: if PyYAML or jsonschema is not installed.
    """
    try:
        text = Path(path).read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise PolicyError(f"{path} must be text in UTF-8, got {error.reason} at byte {error.start}.") from error
    return parse_policy(text, str(path), os.path.dirname(path))


def parse_policy(text: str, name: str = "the policy", folder: str = "") -> Policy:
    """Read the text of a policy file.

    Args:
        text: YAML.
        name: what errors call it.
        folder: what paths in it are relative to.

    Raises:
        PolicyError: see `read_policy`.
        ModuleNotFoundError: see `read_policy`.

    Example:
        >>> parse_policy("{version: 1, block: {max_nfr: 1%}, error: 0.1}").block
        {'max_nfr': 0.01}
        >>> parse_policy("{version: 1, block: {max_nrf: 1%}}")
        Traceback (most recent call last):
            ...
        lightning_flip.reports.gating.policy.PolicyError: the policy, line 1: block.max_nrf is an unknown key. Did you
        mean max_nfr?
    """
    try:
        from lightning_flip.reports.gating._policy_yaml import line_of, parse_yaml

        validator = _validator()
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"a policy needs {error.name}, which is not installed: pip install 'lightning-flip[gate]'.", name=error.name
        ) from error
    try:
        content, node = parse_yaml(text)
    except ValueError as error:
        raise PolicyError(f"{name} must be YAML; {error}.") from error
    problems = {(line_of(node, path), said) for error in validator.iter_errors(content) for path, said in _said(error)}
    if not problems:
        ids = [str(one["id"]) for one in _rows(content)]
        problems = {
            (line_of(node, ["allowed_flips", place]), f"allowed_flips names {quote(one)} twice; keep one of them.")
            for place, one in enumerate(ids)
            if one in ids[:place]
        }
    if problems:
        raise PolicyError("\n".join(f"{name}, line {line}: {said}" for line, said in sorted(problems)))
    return _policy(content, folder)


@functools.cache
def policy_schema() -> dict[str, Any]:
    """The JSON Schema of policy files (draft 2020-12), which editors can use as well."""
    source = importlib.resources.files(__package__).joinpath("policy.schema.json")
    schema: dict[str, Any] = json.loads(source.read_text(encoding="utf-8"))
    return schema


def _validator() -> Any:
    import jsonschema  # type: ignore[import-untyped]

    kind = jsonschema.Draft202012Validator
    # An id 7.0 would be a whole number, and lose its text.
    whole = kind.TYPE_CHECKER.redefine("integer", lambda _, value: type(value) is int)
    strict = jsonschema.validators.extend(kind, type_checker=whole)
    return strict(policy_schema(), format_checker=kind.FORMAT_CHECKER)


def _said(error: Any) -> Iterator[tuple[list[str | int], str]]:
    """Where an error of the schema is, and what it says: one or more for each unknown key."""
    path = list(error.absolute_path)
    if error.validator == "additionalProperties":
        for key in error.instance:
            if key not in error.schema["properties"]:
                yield [*path, key], f"{_name([*path, key])} is an unknown key. {_way_out(key, path)}"
        return
    expected = f"{_name(path) or 'the policy'} must be {error.schema['description']}"
    if error.validator == "required":
        missing = [key for key in error.schema["required"] if key not in error.instance]
        yield path, f"{expected}; {', '.join(missing)} {'is' if len(missing) == 1 else 'are'} missing."
    else:
        yield path, f"{expected}, got {_shown(error.instance)}{_ADVICE if path and error.instance is None else ''}."


def _way_out(key: str, path: Sequence[str | int]) -> str:
    top = policy_schema()["properties"]
    places = {"": list(top)} | {name: list(top[name]["properties"]) for name in ("block", "warn", "columns")}
    here = _name(path)
    elsewhere = [f"under {place}" if place else "at the top level" for place, keys in places.items() if key in keys]
    if elsewhere:
        return f"It belongs {' or '.join(elsewhere)}."
    known = places.get(here, ["id", "reason", "until"])
    everywhere = [known for keys in places.values() for known in keys]
    nearest = difflib.get_close_matches(key, known, n=1) or difflib.get_close_matches(key, everywhere, n=1)
    return f"Did you mean {nearest[0]}?" if nearest else f"Known keys are {', '.join(known)}."


def _name(path: Sequence[str | int]) -> str:
    """A path as text.

    Example:
        >>> _name(["columns", "id", 1])
        'columns.id[1]'
    """
    steps = (f"[{step}]" if isinstance(step, int) else f".{quote(step)}" for step in path)
    return "".join(steps).removeprefix(".")


def _shown(value: object) -> str:
    if isinstance(value, Mapping | list | tuple):
        return f"{'a mapping' if isinstance(value, Mapping) else 'a list'} of {len(value)}"
    if value is None:
        return "nothing"
    return str(value).lower() if isinstance(value, bool) else f"{value!r:.80}"


def _policy(content: Mapping[str, Any], folder: str) -> Policy:
    values: dict[str, Any] = {key: value for key, value in content.items() if key != "version"}
    values |= {key: values["block"][key] for key in _LISTS if key in values.get("block", {})}
    for tier in ("block", "warn"):
        values[tier] = {key: _number(value) for key, value in values.get(tier, {}).items() if key not in _LISTS}
    for key in ("error", "min_coverage"):
        if key in values:
            values[key] = _number(values[key])
    for key in (*_LISTS, "allowed_flips", "costs"):
        if isinstance(values.get(key), str):
            values[key] = os.path.join(folder, values[key])
    if isinstance(values.get("allowed_flips"), list):
        values["allowed_flips"] = tuple(
            AllowedFlip(str(one["id"]), one["reason"].strip(), parse_day(one["until"])) for one in _rows(content)
        )
    names = values.get("columns", {})
    values["columns"] = {key: (name, name) if isinstance(name, str) else tuple(name) for key, name in names.items()}
    return Policy(**values | {"slices": tuple(dict.fromkeys(values.get("slices", ())))})


def _rows(content: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The allowed flips that stand in the policy itself."""
    rows = content.get("allowed_flips")
    return rows if isinstance(rows, list) else []


def _number(value: float | str) -> float:
    if not isinstance(value, str):
        return float(value)
    # Decimal, since 0.7 / 100 in binary is not the number that 0.007 is.
    return float(Decimal(value.strip(" %\n")) / (100 if "%" in value else 1))


def _written_limit(name: str, limit: float) -> float | str:
    return limit if name in AMOUNTS else f"{(Decimal(repr(limit)) * 100).normalize():f}%"


def _written(key: str, value: Any) -> Any:
    if key == "warn":
        return {name: _written_limit(name, limit) for name, limit in value.items()}
    if key in ("error", "min_coverage"):
        return _written_limit(key, value)
    if key == "columns":
        return {role: old if old == new else [old, new] for role, (old, new) in value.items()}
    if key == "allowed_flips" and not isinstance(value, str):
        return [{"id": one.id, "reason": one.reason, "until": one.until.isoformat()} for one in value]
    return list(value) if isinstance(value, tuple) else value
