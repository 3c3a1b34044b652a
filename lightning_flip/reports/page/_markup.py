"""Elements of HTML and SVG with escaped text and attributes, without `style=`, which the content policy forbids."""

from __future__ import annotations

import html

__all__ = ["Safe", "element", "joined", "number"]


class Safe(str):
    """Markup that is escaped already: jinja2 and `element` take it as it is."""

    __slots__ = ()

    def __html__(self) -> str:
        return str(self)


def element(name: str, *children: object, **attributes: object) -> Safe:
    """An element; other children than `Safe` ones are escaped, None and False attributes are left out.

    `class_` becomes `class`, other underscores dashes; numbers have at most two decimals.

    Example:
        >>> element("rect", x=1.0, y=2.504, class_="bar", tabindex=None)
        '<rect x="1" y="2.5" class="bar"></rect>'
        >>> element("text", "<b>", Safe("&lt;"), aria_label='"')
        '<text aria-label="&quot;">&lt;b&gt;&lt;</text>'
    """
    written = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{_text(value)}"'
        for key, value in attributes.items()
        if value is not None and value is not False
    )
    return Safe(f"<{name}{written}>{joined(children)}</{name}>")


def joined(children: object) -> Safe:
    """Children in a row, each escaped unless it is `Safe`; nested lists are flattened."""
    if isinstance(children, Safe):
        return children
    if isinstance(children, (list, tuple)):
        return Safe("".join(joined(child) for child in children))
    return Safe("" if children is None else _text(children))


def number(value: float) -> str:
    """A number with at most two decimals, without trailing zeros.

    Example:
        >>> number(1.0), number(0.126), number(-0.001)
        ('1', '0.13', '0')
    """
    text = f"{value:.2f}".rstrip("0").rstrip(".")
    return "0" if text == "-0" else text


def _text(value: object) -> str:
    if value is True:
        return ""
    return number(value) if isinstance(value, float) else html.escape(str(value), quote=True)
