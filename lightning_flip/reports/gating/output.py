"""The gate's decision as JSON, as JUnit XML, in Markdown and for a terminal."""

from __future__ import annotations

import re
import textwrap
from xml.etree import ElementTree

from lightning_flip.reports.gating._reasons import group_reason, percent
from lightning_flip.reports.gating._tables import MARKS, evidence, flips_sentence, limit_text, limits_table
from lightning_flip.reports.gating.decision import GateResult, LimitOutcome
from lightning_flip.reports.text import PlainTable, escape_markdown, json_text, printable, quote

__all__ = ["error_json", "error_junit", "error_markdown", "gate_json", "gate_junit", "gate_markdown", "gate_text"]

_UNUSUAL = re.compile("[^\t\n\r\x20-\x7e]")
_ORDER = ("fail", "inconclusive", "pass")


def gate_json(result: GateResult) -> str:
    r"""Write the result as JSON: `GateResult.to_dict`, every group and id included.

    Returns:
        A JSON object over several lines, with a last line break. What cannot be printed is escaped.

    Example:
        >>> outcome = LimitOutcome("must_not_flip", "fail", "...", watched=2, already_wrong=0, flipped=("<7>",))
        >>> import json
        >>> json.loads(gate_json(GateResult((outcome,), 0.05, 100, 3)))["limits"][0]["flipped"]
        ['<7>']
    """
    return json_text(result.to_dict()) + "\n"


def error_json(problem: str) -> str:
    """What `gate_json` writes where there is no verdict.

    Example:
        >>> print(error_json("old.csv does not exist."))
        {
          "status": "error",
          "exit_code": 2,
          "error": "old.csv does not exist."
        }
        <BLANKLINE>
    """
    return json_text({"status": "error", "exit_code": 2, "error": problem}) + "\n"


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

    Each limit is a test suite. `max_nfr` and `must_not_flip` are one test each; limits over classes or slices have one
    test per group. A limit that fails is a `failure`, one that is inconclusive an `error`: the check could not be
    finished.

    Returns:
        A well-formed XML document, encoded as UTF-8 when written. Characters that XML cannot hold, or that cannot be
        printed, are written as Python escapes such as `\x1b`.

    Example:
        >>> outcome = LimitOutcome("must_not_flip", "fail", "1 of 2 ...", watched=2, already_wrong=0, flipped=("<7>",))
        >>> print(gate_junit(GateResult((outcome,), 0.05, 100, 3)))
        <?xml version="1.0" encoding="UTF-8"?>
        <testsuites name="lightning-flip gate" tests="1" failures="1" errors="0" time="0">
          <testsuite name="must_not_flip" tests="1" failures="1" errors="0" time="0">
            <testcase classname="gate.must_not_flip" name="must_not_flip" time="0">
              <failure message="1 of 2 ..." type="fail">1 of 2 ...
        &lt;7&gt;</failure>
            </testcase>
          </testsuite>
        </testsuites>
    """
    root = ElementTree.Element("testsuites", name="lightning-flip gate")
    for number, outcome in enumerate(result.outcomes):
        suite = ElementTree.SubElement(root, "testsuite", name=outcome.name)
        for name, status, reason, details in _tests(outcome, result.error):
            test = ElementTree.SubElement(
                suite, "testcase", classname=f"gate.{outcome.name}", name=_legal(name), time="0"
            )
            if status == "pass":
                continue
            problem = ElementTree.SubElement(test, "failure" if status == "fail" else "error")
            problem.set("message", _legal(reason))
            problem.set("type", status)
            problem.text = _legal("\n".join([reason, *details]))
        _count_tests(suite)
        if number == 0 and _evidence(result):
            ElementTree.SubElement(suite, "system-out").text = _legal("\n".join([_flips(result), *_evidence(result)]))
    return _document(root)


def gate_markdown(result: GateResult, *, title: str = "Update gate", most_groups: int = 20) -> str:
    r"""Write the result as Markdown for a pull request.

    Args:
        result: what `gate` returned.
        title: the heading.
        most_groups: how many classes or slices each limit's table has at most: those that fail first, then those that
            are undecided, then those closest to the limit.

    Returns:
        A heading, a table of the limits, and folded tables of classes and slices, with a last line break. Names cannot
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
        _folded_groups(outcome, result.error, most_groups) for outcome in result.outcomes if len(outcome.groups) > 1
    ]
    return "\n\n".join(parts) + "\n"


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
        *_wrap(f"{quote(result.old_name)} -> {quote(result.new_name)}: {_flips(result)}", width, ""),
        *(line for text in _evidence(result) for line in _wrap(text, width, "")),
        "",
    ]
    wide = max(len(outcome.status) for outcome in result.outcomes)
    for outcome in result.outcomes:
        side = "least" if outcome.name == "min_old_accuracy" else "most"
        most = "" if outcome.limit is None else f" (at {side} {limit_text(outcome)})"
        lines.append(f"{outcome.status:{wide}}  {outcome.name}{most}")
        lines += _wrap(printable(outcome.reason), width, " " * (wide + 2))
    return "\n".join(lines) + "\n"


def _tests(outcome: LimitOutcome, error: float) -> list[tuple[str, str, str, list[str]]]:
    """Name, status, reason and further lines of each test of a limit."""
    if outcome.limit is None or outcome.measure is None:
        return [(outcome.name, outcome.status, outcome.reason, list(outcome.flipped))]
    limit, measure = outcome.limit, outcome.measure
    return [(group.title, group.status, group_reason(measure, group, limit, error), []) for group in outcome.groups]


def _document(root: ElementTree.Element, *suites: ElementTree.Element) -> str:
    """The XML with the numbers of tests at the root, and at suites that have none yet."""
    for element in (*suites, root):
        _count_tests(element)
    ElementTree.indent(root)
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{ElementTree.tostring(root, encoding="unicode")}\n'


def _count_tests(element: ElementTree.Element) -> None:
    for count, tag in {"tests": "testcase", "failures": "failure", "errors": "error"}.items():
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


def _wrap(text: str, width: int, indent: str) -> list[str]:
    return textwrap.wrap(
        text, width, initial_indent=indent, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    )


def _folded_groups(outcome: LimitOutcome, error: float, most_groups: int) -> str:
    groups = sorted(outcome.groups, key=lambda group: (_ORDER.index(group.status), -group.upper))
    counts = {status: sum(group.status == status for group in groups) for status in _ORDER}
    summary = ", ".join(f"{count:,} {status}" for status, count in counts.items() if count)
    bounds = f"true rate (one-sided {percent(1 - error)} bounds)"
    rows = (
        (
            quote(group.title),
            f"{group.count:,}",
            f"{group.among:,}",
            "-" if group.estimate is None else percent(group.estimate),
            f"{percent(group.lower)} to {percent(group.upper)}",
            f"{MARKS[group.status]} {group.status}",
            "-" if group.samples_needed is None else f"{group.samples_needed:,}",
        )
        for group in groups[:most_groups]
    )
    more = len(groups) - most_groups
    table = PlainTable(
        "",
        ("group", "flips", "samples", "rate", bounds, "result", "samples needed"),
        tuple(rows),
        words=(0, 5),
        notes=(f"{more:,} more are in the JSON report.",) if more > 0 else (),
    )
    return f"<details><summary>{outcome.name}: {summary}</summary>\n\n{table.markdown()}\n\n</details>"
