"""Tables as text, in Markdown, in a notebook and on a terminal, with names in them that cannot become markup."""

from __future__ import annotations

import base64
import dataclasses
import html
import itertools
import json
import re
import shutil
import textwrap
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

__all__ = [
    "PlainTable",
    "escape_markdown",
    "html_report",
    "json_text",
    "printable",
    "quote",
    "shorten",
    "squeezed",
    "terminal_text",
    "without_commands",
]

# An underscore inside a word (`fer_seed`) is not emphasis in Markdown, and is easier to read without a backslash.
_SPECIAL = re.compile(r"[\\`*\[\]|~$]|(?<![^\W_])_|_(?![^\W_])")
# "@name" would notify that person in a pull request, and "#1" leave a trace in another one. No escape in Markdown or
# HTML prevents that; an invisible word joiner behind the sign does.
_CALLS = re.compile(r"[@#](?=\w)")
# Runners of continuous integration search their log for commands: GitHub's for lines that start with "::" after any
# blanks, and anywhere in a line for "##[", as Azure's for "##vso[" and TeamCity for "##teamcity[".
_COMMAND_LINE = re.compile(r"(?:^|(?<=[\r\v\f\x1c-\x1e\x85\u2028\u2029]))(?=[^\S\r\n]*::)", re.MULTILINE)
_COMMAND = re.compile(r"#(?=#\w*\[)")
_LONGEST_QUOTE = 80
_UNUSUAL = re.compile(r"[^\n\x20-\x7e]")
# A column of words stays readable down to this width; numbers are never cut.
_NARROWEST_WORDS = 10
_NARROWEST_HEADER = 8
_NARROWEST_DRAWING = 20


@dataclasses.dataclass(frozen=True)
class PlainTable:
    r"""A table of text that is not escaped yet, as Markdown, as HTML or on a rich console.

    Attributes:
        title: what the table is about; may be empty.
        headers: header of each column.
        rows: the cells, row by row.
        words: positions of the columns that hold words; the others hold numbers.
        spare: positions of the columns that a narrow terminal leaves out, in that order.
        notes: lines below the table.
        drawn: positions of the columns whose characters are a drawing: a narrow terminal shows fewer of them.
    """

    title: str
    headers: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    words: tuple[int, ...] = (0,)
    spare: tuple[int, ...] = ()
    notes: tuple[str, ...] = ()
    drawn: tuple[int, ...] = ()

    def markdown(self) -> str:
        """Title, table and notes, without a last line break."""
        rule = [":---" if column in self.words else "---:" for column in range(len(self.headers))]
        head, *body = [f"| {' | '.join(map(escape_markdown, row))} |" for row in (self.headers, *self.rows)]
        title = [f"#### {escape_markdown(self.title)}"] if self.title else []
        table = "\n".join([head, f"|{'|'.join(rule)}|", *body])
        return "\n\n".join([*title, table, *map(escape_markdown, self.notes)])

    def html(self, pictures: Sequence[bytes] = ()) -> str:
        """Title, table and notes in HTML, without scripts; everything is escaped.

        Args:
            pictures: a PNG file for each row, in a column of its own; empty for none.

        Example:
            >>> print(PlainTable("", ("class", "flips"), (("<cat>", "3"),)).html())
            <table><thead>
            <tr><th style="text-align: left">class</th><th style="text-align: right">flips</th></tr>
            </thead><tbody>
            <tr><td style="text-align: left">&lt;cat&gt;</td><td style="text-align: right">3</td></tr>
            </tbody></table>
        """
        head = "".join(self._cell("th", column, header) for column, header in enumerate(self.headers))
        body = ["".join(self._cell("td", column, text) for column, text in enumerate(row)) for row in self.rows]
        if pictures:
            head = f"<th>image</th>{head}"
            body = [f"<td>{_picture(one)}</td>{row}" for one, row in zip(pictures, body, strict=True)]
        title = [f"<h4>{_html(self.title)}</h4>"] if self.title else []
        rows = [f"<tr>{row}</tr>" for row in (head, *body)]
        table = "\n".join(["<table><thead>", rows[0], "</thead><tbody>", *rows[1:], "</tbody></table>"])
        return "\n".join([*title, table, *(f"<p>{_html(note)}</p>" for note in self.notes)])

    def _repr_html_(self) -> str:
        return self.html()

    def _cell(self, tag: str, column: int, text: str) -> str:
        """A cell; a notebook would align all of them on the right."""
        side = "left" if column in self.words else "right"
        content = _html(text)
        if column in self.drawn and tag == "td":
            content = f'<code style="white-space: pre">{content}</code>'
        return f'<{tag} style="text-align: {side}">{content}</{tag}>'

    def print(self, console: Console) -> None:
        """Print title, table and notes; a note says which columns do not fit into the console."""
        from rich.text import Text

        if self.title:
            console.print(Text(self.title, style="bold"))
        shown = self._fitting(console.width)
        console.print(self._with_narrow_drawings(shown, console.width).rich(shown))
        missing = [header for column, header in enumerate(self.headers) if column not in shown]
        more = [f"Not shown in this width: {', '.join(missing)}."] if missing else []
        for note in (*self.notes, *more):
            console.print(Text(note, style="dim"))

    def rich(self, columns: Sequence[int] | None = None) -> Table:
        """The table (or some of its columns) for rich; headers and words take several lines, numbers stay whole."""
        from rich.box import SIMPLE
        from rich.table import Table
        from rich.text import Text  # a str would be read as markup

        shown = range(len(self.headers)) if columns is None else columns
        drawn = Table(box=SIMPLE, pad_edge=False, show_edge=False, padding=(0, 1, 0, 0))
        for column in shown:
            if column in self.drawn:
                drawn.add_column(Text(self.headers[column]), no_wrap=True)
            elif column in self.words:
                drawn.add_column(Text(self.headers[column]), overflow="fold")
            else:
                drawn.add_column(Text(_wrapped(self.headers[column])), justify="right", no_wrap=True)
        for row in self.rows:
            drawn.add_row(*(Text(printable(row[column])) for column in shown))
        return drawn

    def _fitting(self, width: int) -> list[int]:
        """The columns that fit."""
        needed = self._widths()
        for column in self.words:
            needed[column] = min(needed[column], _NARROWEST_WORDS)
        for column in self.drawn:
            needed[column] = min(self._widths()[column], _NARROWEST_DRAWING)
        for column in self.spare:
            if sum(needed.values()) + 2 * (len(needed) - 1) <= width:
                break
            del needed[column]
        return list(needed)

    def _widths(self) -> dict[int, int]:
        """The columns' widths without folding words."""
        from rich.cells import cell_len

        return {
            column: max(map(cell_len, [*_wrapped(header).split("\n"), *(row[column] for row in self.rows)]))
            for column, header in enumerate(self.headers)
        }

    def _with_narrow_drawings(self, shown: Sequence[int], width: int) -> PlainTable:
        """The table with drawings that fit into what the other columns leave."""
        widths = self._widths()
        for column in self.words:
            widths[column] = max(widths[column], len(self.headers[column]))
        taken = sum(widths[column] for column in shown if column not in self.drawn) + 2 * (len(shown) - 1)
        room = max(_NARROWEST_DRAWING, width - taken)
        rows = [
            tuple(squeezed(cell, room) if column in self.drawn else cell for column, cell in enumerate(row))
            for row in self.rows
        ]
        return dataclasses.replace(self, rows=tuple(rows))


def squeezed(drawing: str, longest: int) -> str:
    """A drawing in fewer characters: neighbors share the most frequent one of them; of equal ones the highest.

    Example:
        >>> squeezed("▁▁▁█▄▄██", 4), squeezed("▁█", 4)
        ('▁█▄█', '▁█')
    """
    if len(drawing) <= longest:
        return drawing
    ends = [round(place * len(drawing) / longest) for place in range(longest + 1)]
    groups = [drawing[start:stop] for start, stop in itertools.pairwise(ends)]
    return "".join(max((group.count(one), one) for one in set(group))[1] for group in groups)


def html_report(parts: Iterable[PlainTable | str], heading: str = "") -> str:
    """Tables and sentences in HTML, such as a notebook shows; everything is escaped.

    Example:
        >>> print(html_report(["2 < 3"], "Counts"))
        <h3>Counts</h3>
        <p>2 &lt; 3</p>
    """
    title = [f"<h3>{_html(heading)}</h3>"] if heading else []
    return "\n".join([*title, *(f"<p>{_html(part)}</p>" if isinstance(part, str) else part.html() for part in parts)])


def terminal_text(table: PlainTable) -> str:
    """A table as it is printed on this terminal, without colors; in Markdown if rich is not installed."""
    try:
        from rich.console import Console
    except ModuleNotFoundError:
        return table.markdown()
    console = Console(width=max(40, shutil.get_terminal_size().columns), color_system=None, force_jupyter=False)
    with console.capture() as captured:
        table.print(console)
    return "\n".join(line.rstrip() for line in captured.get().splitlines())


def printable(label: str) -> str:
    r"""One line: spaces for line breaks and tabs, and without what cannot be printed (such as terminal escapes).

    Example:
        >>> printable("two\nlines, \x1b[31mred")
        'two lines, [31mred'
    """
    return "".join(character for character in re.sub(r"\s", " ", label) if character.isprintable())


def escape_markdown(label: str) -> str:
    r"""Escape text for a cell of a Markdown table, so that it is shown as it is and links to no person and no issue.

    Example:
        >>> print(escape_markdown("a|b *c* d_e _f_ <i>"))
        a\|b \*c\* d_e \_f\_ &lt;i&gt;
    """
    quiet = _CALLS.sub(lambda match: match[0] + "\u2060", printable(label))
    escaped = _SPECIAL.sub(lambda match: "\\" + match[0], html.escape(quiet, quote=False))
    return f"\\{escaped.lstrip()}" if escaped.lstrip().startswith("::") else escaped


def without_commands(text: str) -> str:
    r"""Hide what a runner of continuous integration would take for a command: put an invisible word joiner into it.

    `json_text` and `escape_markdown` do the same with escapes of their formats, which change no value.

    Example:
        >>> without_commands("one\r ::error::two\nthree ##[error]four").replace("\u2060", "|")
        'one\r| ::error::two\nthree #|#[error]four'
    """
    return _COMMAND.sub("#\u2060", _COMMAND_LINE.sub("\u2060", text))


def json_text(value: object, indent: int | None = 2) -> str:
    r"""Write JSON, over several lines unless `indent` is None.

    What cannot be printed, such as a sign that turns text around, is escaped, and so is what a runner of continuous
    integration would take for a command.

    Example:
        >>> print(json_text(["é", "\u202e\x07"]))
        [
          "é",
          "\u202e\u0007"
        ]
    """
    text = json.dumps(value, indent=indent, ensure_ascii=False, allow_nan=False)
    text = _UNUSUAL.sub(lambda match: match[0] if match[0].isprintable() else json.dumps(match[0])[1:-1], text)
    return _COMMAND.sub(r"\\u0023", text)


def shorten(name: object, longest: int = 40) -> str:
    r"""A label, an id or a file's name for a cell: one line, never blank; of a long one the start and the end.

    Example:
        >>> shorten("two\nlines"), shorten(""), shorten("a name that is long", 14)
        ('two lines', "''", 'a nam .. long')
    """
    text = printable(str(name))
    if not text.strip():
        text = ascii(name)
    if len(text) <= longest:
        return text
    half = (longest - 4) // 2
    return f"{text[:half].rstrip()} .. {text[-half:].lstrip()}"


def quote(name: str) -> str:
    r"""A label or an id for a sentence: in quotes and escaped unless it is a plain word or path; a long one is cut.

    Example:
        >>> quote("cat"), quote("images/7.png"), quote("two\nlines")
        ('cat', 'images/7.png', "'two\\nlines'")
    """
    short = name if len(name) <= _LONGEST_QUOTE else f"{name[: _LONGEST_QUOTE - 3]}..."
    return short if re.fullmatch(r"[\w./=:+-]+", short) else repr(short)


def _html(text: str) -> str:
    return html.escape(printable(text))


def _picture(png: bytes) -> str:
    return f'<img alt="" src="data:image/png;base64,{base64.b64encode(png).decode("ascii")}">'


def _wrapped(header: str) -> str:
    width = max([_NARROWEST_HEADER, *map(len, header.split())])
    return textwrap.fill(printable(header), width)
