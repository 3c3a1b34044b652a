"""Labels that people chose, made safe for the places where tables show them."""

from __future__ import annotations

import html
import re

__all__ = ["escape_markdown", "printable"]

# An underscore inside a word (`fer_seed`) is not emphasis in Markdown, and is easier to read without a backslash.
_SPECIAL = re.compile(r"[\\`*\[\]|~$]|(?<![^\W_])_|_(?![^\W_])")
# "@name" would call that person to a pull request, and "#1" leave a trace in another one. No escape in Markdown or HTML
# stops that; a word joiner behind the sign does, which nobody sees.
_CALLS = re.compile(r"[@#](?=\w)")


def printable(label: str) -> str:
    r"""Replace line breaks and tabs by spaces, and drop what cannot be printed (such as terminal escapes).

    Returns one printable line.

    Example:
        >>> printable("two\nlines, \x1b[31mred")
        'two lines, [31mred'
    """
    return "".join(character for character in re.sub(r"\s", " ", label) if character.isprintable())


def escape_markdown(label: str) -> str:
    r"""Write text so that a cell of a Markdown table shows it as it is.

    Returns the text with Markdown's and HTML's marks escaped. It names no person and no issue.

    Example:
        >>> print(escape_markdown("a|b *c* d_e _f_ <i>"))
        a\|b \*c\* d_e \_f\_ &lt;i&gt;
    """
    quiet = _CALLS.sub(lambda match: match[0] + "\u2060", printable(label))
    return _SPECIAL.sub(lambda match: "\\" + match[0], html.escape(quiet, quote=False))
