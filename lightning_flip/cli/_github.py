"""Annotations and the step summary of GitHub Actions."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Literal, NamedTuple

if TYPE_CHECKING:
    from lightning_flip.reports import GateResult

__all__ = ["Annotation", "add_to_summary", "error_annotation", "gate_annotations"]

Level = Literal["error", "warning", "notice"]
_LEVELS: dict[str, Level] = {"pass": "notice", "fail": "error", "inconclusive": "warning"}


class Annotation(NamedTuple):
    r"""A message that GitHub shows at the top of a run; as text, the workflow command for it, always one line.

    Example:
        >>> print(Annotation("error", "gate: 1, 2", "over 1%\n::error::planted\r\x1b[31m"))
        ::error title=gate%3A 1%2C 2::over 1%25%0A::error::planted [31m
    """

    level: Level
    title: str
    message: str

    def __str__(self) -> str:
        title = _escaped(self.title).replace(":", "%3A").replace(",", "%2C")
        return f"::{self.level} title={title}::{_escaped(self.message)}"


def gate_annotations(result: GateResult) -> list[Annotation]:
    """The verdict, then each limit that is not passed; GitHub shows the first ten of each level in a step."""
    from lightning_flip.reports.gating.output import gate_facts

    verdict = Annotation(_LEVELS[result.status], f"Update gate: {result.status}", "\n".join(gate_facts(result)))
    return [verdict] + [
        Annotation(
            _LEVELS[outcome.status] if outcome.tier == "block" else "warning",
            f"{outcome.name}: {outcome.status}",
            outcome.reason,
        )
        for outcome in sorted(result.outcomes, key=lambda outcome: outcome.tier)  # those that block first
        if outcome.status != "pass"
    ]


def error_annotation(problem: str) -> Annotation:
    """That there is no verdict, and why."""
    return Annotation("error", "Update gate: error", problem)


def add_to_summary(markdown: str) -> None:
    """Append to the summary of the step, the file that `GITHUB_STEP_SUMMARY` names; nothing without it."""
    path = os.environ.get("GITHUB_STEP_SUMMARY")
    if path:
        with open(path, "a", encoding="utf-8", errors="backslashreplace") as summary:
            summary.write(f"{markdown}\n")


def _escaped(text: str) -> str:
    from lightning_flip.reports.text import printable, without_commands

    lines = (printable(line) for line in text.replace("%", "%25").split("\n"))
    return without_commands("%0A".join(lines))
