"""YAML of policies: text stays text unless it is plainly a number or a switch, and no key is lost.

YAML 1.1, which PyYAML reads, turns `no` into false, `007` into 7, `1:30` into 90 and `2027-03-31` into a date. Here
only `true`, `false`, `null`, and numbers as JSON writes them are anything but text.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import yaml  # type: ignore[import-untyped]

__all__ = ["dump_yaml", "line_of", "parse_yaml"]

_PLAIN = {
    "null": (r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    "bool": (r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    "int": (r"-?(0|[1-9][0-9]{0,17})", list("-0123456789")),
    "float": (r"-?(?=\.?[0-9])(0|[1-9][0-9]*)?(\.[0-9]+)?([eE][-+]?[0-9]+)?", list("-.0123456789")),
}


class _Loader(yaml.SafeLoader):  # type: ignore[misc]
    yaml_implicit_resolvers: dict[str, Any] = {}

    def compose_node(self, parent: Any, index: Any) -> Any:
        """Refuse aliases, which repeat a part and can make a small file huge."""
        if self.check_event(yaml.AliasEvent):
            raise yaml.MarkedYAMLError(problem="an alias (*) is not allowed", problem_mark=self.peek_event().start_mark)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[str, Any]:
        """Take keys as text, and refuse one that occurs twice, of which PyYAML would keep the last."""
        found: dict[str, Any] = {}
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise yaml.MarkedYAMLError(problem="a key is not text", problem_mark=key.start_mark)
            if key.value in found:
                raise yaml.MarkedYAMLError(problem=f"the key {key.value!r} occurs twice", problem_mark=key.start_mark)
            found[key.value] = self.construct_object(value, deep=True)
        return found


class _Dumper(yaml.SafeDumper):  # type: ignore[misc]
    """Quotes text that YAML 1.1 or `_Loader` would take for something else."""


def _represent_text(dumper: Any, text: str) -> Any:
    # Only double quotes escape every character that is not printed, such as a line break of Unicode.
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=None if text.isprintable() else '"')


_Dumper.add_representer(str, _represent_text)
for _tag, (_pattern, _first) in _PLAIN.items():
    for _class in (_Loader, _Dumper):
        _class.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(f"^(?:{_pattern})$"), _first)


def parse_yaml(text: str) -> tuple[Any, Any]:
    """The content, and the nodes that tell its lines.

    Raises:
        ValueError: if it is not YAML, or a key occurs twice, or a part is an alias; with the line.
    """
    try:
        loader = _Loader(text)
        try:
            node = loader.get_single_node()
            return (None if node is None else loader.construct_document(node)), node
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise ValueError(f"line {mark.line + 1}: {error.problem or error.context}") from error
    except yaml.YAMLError as error:
        raise ValueError(" ".join(str(error).split())) from error
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def line_of(node: Any, path: Sequence[str | int]) -> int:
    """The line of the value at a path of keys and positions, or of its key."""
    line = 0 if node is None else int(node.start_mark.line)
    for step in path:
        if isinstance(node, yaml.MappingNode):
            pairs = [(key, value) for key, value in node.value if key.value == str(step)]
            if not pairs:
                break
            line, node = pairs[0][0].start_mark.line, pairs[0][1]
        else:
            node = node.value[step]
            line = node.start_mark.line
    return line + 1


def dump_yaml(content: Mapping[str, Any]) -> str:
    """A mapping as YAML that `parse_yaml` reads back, in its order."""
    return str(yaml.dump(dict(content), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=10**6))
