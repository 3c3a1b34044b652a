"""The gate's decision as JSON, as JUnit XML, in Markdown and for a terminal."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Sequence
from typing import Any, NamedTuple
from xml.etree import ElementTree

from lightning_flip import __version__
from lightning_flip.reports.gating._limits import GroupOutcome, Status, worst_status
from lightning_flip.reports.gating._reasons import group_reason, percent, shown_limit
from lightning_flip.reports.gating._tables import MARKS, evidence, flips_sentence, limit_text, limits_table
from lightning_flip.reports.gating.decision import GateResult, LimitOutcome
from lightning_flip.reports.text import PlainTable, escape_markdown, json_text, printable, quote, shorten

__all__ = [
    "GATE_SCHEMA",
    "error_json",
    "error_junit",
    "error_markdown",
    "gate_facts",
    "gate_json",
    "gate_junit",
    "gate_markdown",
    "gate_text",
]

#: What the JSON says of its own form; `gate.schema.json` beside this file describes it.
GATE_SCHEMA = "lightning-flip/gate/2"
_UNUSUAL = re.compile("[^\t\n\r\x20-\x7e]")
# What a runner of continuous integration would take for a command, and a reference to the same character.
_COMMANDS = {r"^(\s*):(?=:)": r"\1&#58;", r"#(?=#\w*\[)": "&#35;"}
_ORDER: tuple[Status, ...] = ("fail", "inconclusive", "pass")
# A build server keeps every test of every build. With these the file has one or two megabytes at most.
_MOST_TESTS = 1000
_LONGEST_NAME = 200


def gate_json(result: GateResult) -> str:
    r"""Write the result as JSON: `GateResult.to_dict`, every group and id included.

    Returns:
        A JSON object over several lines, with a last line break: `schema` and `tool_version` first. It is valid
        against `gate.schema.json` of this folder. What cannot be printed is escaped.

    Example:
        >>> outcome = LimitOutcome("must_not_flip", "fail", "...", watched=2, already_wrong=0, flipped=("<7>",))
        >>> import json
        >>> json.loads(gate_json(GateResult((outcome,), 0.05, 100, 3)))["limits"][0]["flipped"]
        ['<7>']
    """
    return _json(result.to_dict())


def error_json(problem: str) -> str:
    """What `gate_json` writes where there is no verdict.

    Example:
        >>> print(error_json("old.csv does not exist."))
        {
          "schema": "lightning-flip/gate/2",
          "tool_version": "...",
          "status": "error",
          "exit_code": 2,
          "error": "old.csv does not exist."
        }
        <BLANKLINE>
    """
    return _json({"status": "error", "exit_code": 2, "error": problem})


def error_junit(problem: str) -> str:
    """What `gate_junit` writes where there is no verdict: one test that ended in an error."""
    root = ElementTree.Element("testsuites", name="lightning-flip gate")
    suite = ElementTree.SubElement(root, "testsuite", name="gate")
    test = ElementTree.SubElement(suite, "testcase", classname="gate", name="verdict", time="0")
    ElementTree.SubElement(test, "error", message=_legal(problem), type="error").text = _legal(problem)
    return _document(root, suite)


def error_markdown(problem: str) -> str:
    """What `gate_markdown` writes where there is no verdict."""
    return f"### ⛔ Update gate: error\n\nThere is no verdict: {escape_markdown(problem)}\n"


def gate_junit(result: GateResult) -> str:
    r"""Write the result as a JUnit XML report, which build servers show as tests.

    Each limit is a test suite. Limits over classes or slices have one test per group, others one test. A limit that
    fails is a `failure`, one that is inconclusive an `error`: the check could not be finished. One that only warns is
    `skipped` then. Of more than 1,000 groups in all, the worst are tests, and the test "other groups" has the worst
    status of the rest and counts them.

    Returns:
        An XML document that the JUnit schema of Jenkins (junit-10.xsd) accepts, encoded as UTF-8 when written.
        Characters that XML cannot hold, or that cannot be printed, are written as Python escapes such as `\x1b`.

    Example:
        >>> outcome = LimitOutcome("must_not_flip", "fail", "1 of 2 ...", watched=2, already_wrong=0, flipped=("<7>",))
        >>> print(gate_junit(GateResult((outcome,), 0.05, 100, 3)))
        <?xml version="1.0" encoding="UTF-8"?>
        <testsuites name="lightning-flip gate" tests="1" failures="1" errors="0" time="0">
          <testsuite name="must_not_flip" tests="1" failures="1" errors="0" skipped="0" time="0">
            <properties>
              <property name="tier" value="block" />
            </properties>
            <testcase classname="gate.must_not_flip" name="must_not_flip" time="0">
              <failure message="1 of 2 ..." type="fail">1 of 2 ...
        &lt;7&gt;</failure>
            </testcase>
            <system-out>old -&gt; new: 3 of 100 samples are negative flips (3%).</system-out>
          </testsuite>
        </testsuites>
    """
    root = ElementTree.Element("testsuites", name="lightning-flip gate")
    grouped = sum(len(outcome.groups) > 1 for outcome in result.outcomes)
    for number, outcome in enumerate(result.outcomes):
        suite = ElementTree.SubElement(root, "testsuite", name=outcome.name)
        _add_properties(suite, outcome)
        for test in _tests(outcome, _error(result), _MOST_TESTS // max(grouped, 1)):
            _add_test(suite, test, outcome.tier)
        _count_tests(suite)
        if number == 0:
            ElementTree.SubElement(suite, "system-out").text = _legal("\n".join(gate_facts(result)))
    return _document(root)


def gate_markdown(result: GateResult, *, title: str = "Update gate", most_groups: int = 20) -> str:
    r"""Write the result as Markdown for a pull request.

    Args:
        result: what `gate` returned.
        title: the heading.
        most_groups: how many classes or slices each limit's table has at most: those that fail first, then those that
            are undecided, then those closest to the limit.

    Returns:
        A heading, a table of the limits, and folded: tables of classes and slices, and which chances of error the
        decisions have, with a last line break. Names cannot
        become markup, links to people, or more columns.

    Example:
        >>> outcome = LimitOutcome("must_not_flip", "pass", "None of 2 ...", watched=2, already_wrong=0)
        >>> print(gate_markdown(GateResult((outcome,), 0.05, 100, 3, {}, "old.csv", "new.csv")))
        ### ✅ Update gate: pass
        <BLANKLINE>
        old.csv → new.csv: 3 of 100 samples are negative flips (3%).
        <BLANKLINE>
        | limit | at most | result | why |
        |:---|---:|:---|:---|
        | must_not_flip | - | ✅ pass | None of 2 ... |
        <BLANKLINE>
    """
    heading = f"{MARKS[result.status]} {escape_markdown(title)}: {result.status}"
    names = f"{escape_markdown(quote(result.old_name))} → {escape_markdown(quote(result.new_name))}"
    limits = limits_table(result.outcomes)
    facts = [f"{names}: {escape_markdown(_flips(result))}", *map(escape_markdown, _evidence(result))]
    parts = [f"### {heading}", *facts, limits.markdown()]
    parts += [
        _folded_groups(outcome, _error(result), most_groups) for outcome in result.outcomes if len(outcome.groups) > 1
    ]
    return "\n\n".join(filter(None, [*parts, _folded_levels(result.outcomes)])) + "\n"


def gate_text(result: GateResult, width: int = 100) -> str:
    """Write the result for a terminal.

    Args:
        result: what `gate` returned.
        width: columns that a line may have; words that are longer stay whole.

    Returns:
        Lines without colors, with a last line break; nothing in them moves the cursor.

    Example:
        >>> outcome = LimitOutcome("must_not_flip", "pass", "None of 2 ...", watched=2, already_wrong=0)
        >>> print(gate_text(GateResult((outcome,), 0.05, 100, 3, {}, "old.csv", "new.csv")))
        Update gate: PASS
        old.csv -> new.csv: 3 of 100 samples are negative flips (3%).
        <BLANKLINE>
        pass  must_not_flip
              None of 2 ...
        <BLANKLINE>
    """
    lines = [
        f"Update gate: {result.status.upper()}",
        *(line for text in gate_facts(result) for line in _wrap(text, width, "")),
        "",
    ]
    wide = max(len(outcome.status) for outcome in result.outcomes)
    for outcome in result.outcomes:
        side = "least" if outcome.name == "min_old_accuracy" else "most"
        most = "" if outcome.limit is None else f" (at {side} {limit_text(outcome)})"
        lines.append(f"{outcome.status:{wide}}  {outcome.name}{most}{', only warns' if outcome.tier == 'warn' else ''}")
        for text in (outcome.reason, outcome.level):
            lines += _wrap(printable(text), width, " " * (wide + 2))
    return "\n".join(lines) + "\n"


def gate_facts(result: GateResult) -> list[str]:
    """Which files were compared, how many samples flipped, and what the verdict rests on, in sentences."""
    return [f"{quote(result.old_name)} -> {quote(result.new_name)}: {_flips(result)}", *_evidence(result)]


class _Test(NamedTuple):
    """A test of a build server: its name, and the lines that are shown where it did not pass."""

    name: str
    status: Status
    reason: str
    more: Sequence[str] = ()


def _tests(outcome: LimitOutcome, error: float | None, most: int) -> list[_Test]:
    """The tests of a limit, at most about `most` of them."""
    if outcome.limit is None or outcome.measure is None or not outcome.groups:
        more = len(outcome.flipped) - _MOST_TESTS
        ids = [*outcome.flipped[:_MOST_TESTS], *([f"and {more:,} more ids"] if more > 0 else [])]
        return [_Test(outcome.name, outcome.status, outcome.reason, ids)]
    limit, measure, groups = outcome.limit, outcome.measure, list(outcome.groups)
    if len(groups) > most:
        groups.sort(key=_worst_first)
    tests = [_Test(group.title, group.status, group_reason(measure, group, limit, error)) for group in groups[:most]]
    if len(groups) > most:
        rest = groups[most:]
        reason = f"{_counted(rest)}: these {len(rest):,} groups are in the JSON report alone."
        tests.append(_Test("other groups", worst_status([group.status for group in rest]), reason))
    return tests


def _add_test(suite: ElementTree.Element, test: _Test, tier: str) -> None:
    name = _legal(shorten(test.name, _LONGEST_NAME) if len(test.name) > _LONGEST_NAME else test.name)
    case = ElementTree.SubElement(suite, "testcase", classname=f"gate.{suite.get('name')}", name=name, time="0")
    if test.status != "pass":
        tag = "skipped" if tier == "warn" else "failure" if test.status == "fail" else "error"
        problem = ElementTree.SubElement(case, tag, message=_legal(test.reason), type=test.status)
        problem.text = _legal("\n".join([test.reason, *test.more]))


def _add_properties(suite: ElementTree.Element, outcome: LimitOutcome) -> None:
    about = {"tier": outcome.tier, "limit": limit_text(outcome), "level": outcome.level}
    properties = ElementTree.SubElement(suite, "properties")
    for name, value in about.items():
        if value not in ("", "-"):
            ElementTree.SubElement(properties, "property", name=name, value=_legal(value))


def _document(root: ElementTree.Element, *suites: ElementTree.Element) -> str:
    """The XML with the numbers of tests at the root, and at suites that have none yet."""
    for element in (*suites, root):
        _count_tests(element)
    ElementTree.indent(root)
    text = ElementTree.tostring(root, encoding="unicode").replace("\r", "&#13;")
    for pattern, reference in _COMMANDS.items():
        text = re.sub(pattern, reference, text, flags=re.MULTILINE)
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{text}\n'


def _count_tests(element: ElementTree.Element) -> None:
    tags = {"tests": "testcase", "failures": "failure", "errors": "error"}
    if element.tag == "testsuite":  # the schema of Jenkins knows no skipped tests at the top
        tags["skipped"] = "skipped"
    for count, tag in tags.items():
        element.set(count, str(sum(1 for _ in element.iter(tag))))
    element.set("time", "0")


def _legal(text: str) -> str:
    """The text without what XML cannot write, and without what cannot be printed."""

    def escaped(match: re.Match[str]) -> str:
        return match[0] if match[0].isprintable() else match[0].encode("unicode_escape").decode("ascii")

    return _UNUSUAL.sub(escaped, text)


def _flips(result: GateResult) -> str:
    return flips_sentence(result.flips, result.samples, result.left_out)


def _evidence(result: GateResult) -> list[str]:
    return evidence(result.rates, result.samples, result.warnings)


def _json(content: dict[str, Any]) -> str:
    return json_text({"schema": GATE_SCHEMA, "tool_version": __version__, **content}) + "\n"


def _error(result: GateResult) -> float | None:
    """The chance of error of one look; None if the samples are all there are."""
    return None if result.policy.get("population") == "fixed" else result.error / int(result.policy.get("looks", 1))


def _worst_first(group: GroupOutcome) -> tuple[int, float]:
    return _ORDER.index(group.status), -group.upper


def _counted(groups: Sequence[GroupOutcome]) -> str:
    counts = {status: sum(group.status == status for group in groups) for status in _ORDER}
    return ", ".join(f"{count:,} {status}" for status, count in counts.items() if count)


def _wrap(text: str, width: int, indent: str) -> list[str]:
    return textwrap.wrap(
        text, width, initial_indent=indent, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    )


def _folded_groups(outcome: LimitOutcome, error: float | None, most_groups: int) -> str:
    groups = sorted(outcome.groups, key=_worst_first)
    bounds = [] if error is None else [f"true value (one-sided {percent(1 - error)} bounds)", "p (Holm)"]
    headers = ("group", "count", "among", "observed", *bounds, "result", "samples needed")
    more = len(groups) - most_groups
    table = PlainTable(
        "",
        headers,
        tuple(_group_row(outcome.measure or "nfr", group, bool(bounds)) for group in groups[:most_groups]),
        words=(0, headers.index("result")),
        notes=(f"{more:,} more are in the JSON report.",) if more > 0 else (),
    )
    return _folded(f"{outcome.name}: {_counted(groups)}", table.markdown())


def _group_row(measure: str, group: GroupOutcome, bounded: bool) -> tuple[str, ...]:
    low, high = (shown_limit(measure, bound, 3) for bound in (group.lower, group.upper))
    bounds = [f"{low} to {high}", "-" if group.p_value is None else f"{group.p_value:.2g}"]
    return (
        quote(group.title),
        f"{group.count:,}",
        f"{group.among:,}",
        "-" if group.estimate is None else shown_limit(measure, group.estimate, 3),
        *(bounds if bounded else []),
        f"{MARKS[group.status]} {group.status}",
        "-" if group.samples_needed is None else f"{group.samples_needed:,}",
    )


def _folded_levels(outcomes: Sequence[LimitOutcome]) -> str:
    lines = [f"- {outcome.name}: {escape_markdown(outcome.level)}" for outcome in outcomes if outcome.level]
    return _folded("Chances of a wrong decision", "\n".join(lines)) if lines else ""


def _folded(summary: str, content: str) -> str:
    return f"<details><summary>{summary}</summary>\n\n{content}\n\n</details>"
