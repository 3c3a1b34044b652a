"""Labels that people chose, made safe for the places where tables show them."""

from __future__ import annotations

import html
import re

__all__ = ["escape_markdown", "printable"]

# An underscore inside a word (`fer_seed`) is no emphasis in Markdown, and is easier to read without a backslash.
_SPECIAL = re.compile(r"[\\`*\[\]|~$]|(?<![^\W_])_|_(?![^\W_])")


def printable(label: str) -> str:
    r"""Replace line breaks and tabs by spaces, and drop what cannot be printed (such as terminal escapes).

    Args:
        label: any text.

    Returns:
        One printable line.

    Example:
        >>> printable("two\nlines, \x1b[31mred")
        'two lines, [31mred'
    """
    return "".join(character for character in re.sub(r"\s", " ", label) if character.isprintable())


def escape_markdown(label: str) -> str:
    r"""Write text so that a cell of a Markdown table shows it as it is.

    Args:
        label: any text.

    Returns:
        The text with Markdown's and HTML's marks escaped.

    Example:
        >>> print(escape_markdown("a|b *c* d_e _f_ <i>"))
        a\|b \*c\* d_e \_f\_ &lt;i&gt;
    """
    return _SPECIAL.sub(lambda match: "\\" + match[0], html.escape(printable(label), quote=False))
