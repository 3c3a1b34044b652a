"""The last section of a page: the facts of a run, its settings, and what is missing."""

from __future__ import annotations

from collections.abc import Sequence

from lightning_flip.reports.page._facts import RunFacts
from lightning_flip.reports.page._markup import Safe, element
from lightning_flip.reports.page._parts import Section

__all__ = ["facts_section"]


def facts_section(runs: Sequence[tuple[str, RunFacts]]) -> Section:
    """The facts of each run; settings are folded, as there may be hundreds."""
    blocks = []
    for label, facts in runs:
        heading = element("h3", label) if len(runs) > 1 else ""
        rows = [Safe(element("dt", name) + element("dd", value)) for name, value in facts.rows]
        gaps = element("ul", [element("li", gap) for gap in facts.gaps], class_="gaps") if facts.gaps else ""
        blocks.append(element("div", heading, gaps, element("dl", rows, class_="facts"), _settings(facts)))
    title = "Facts of the run" if len(runs) == 1 else "Facts of the runs"
    note = "What is missing from the recording, where it came from, and its settings without known secrets."
    return Section("facts", title, element("div", blocks, class_="columns"), note)


def _settings(facts: RunFacts) -> list[Safe]:
    found = []
    for one in facts.configurations:
        if one.problem:
            found.append(element("p", f"{one.source}: {one.problem}.", class_="count"))
            continue
        rows = [element("tr", element("th", name, scope="row"), element("td", value)) for name, value in one.entries]
        table = element(
            "table",
            element("caption", f"Settings in {one.source}", class_="hushed"),
            element("thead", element("tr", element("th", "name", scope="col"), element("th", "value", scope="col"))),
            element("tbody", rows),
        )
        more = element("p", f"{one.left_out:,} more are left out.", class_="count") if one.left_out else ""
        title = f"{one.source} ({len(one.entries):,} settings)"
        found.append(element("details", element("summary", title), table, more))
    return found
