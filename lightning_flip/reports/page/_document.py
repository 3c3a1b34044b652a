"""A page as one file that needs nothing else, or as a folder for viewers that allow no inline content."""

from __future__ import annotations

import base64
import hashlib
import importlib.resources
import json
import os
from collections.abc import Mapping
from pathlib import Path

from lightning_flip.reports.page._markup import Safe, element
from lightning_flip.reports.page._parts import SPRITE_ID, Page, Sprite
from lightning_flip.stores.files import atomic_write, make_directory, write_text

__all__ = ["GENERATOR", "check_out", "is_folder_form", "page_json", "render_page", "write_page"]

GENERATOR = "lightning-flip report"
_INDEX, _CSS, _SCRIPT, _PICTURES = "index.html", "page.css", "page.js", "pictures.webp"
_POLICY = (
    "default-src 'none'; script-src {script}; style-src {style}; img-src {image}; base-uri 'none'; form-action 'none'"
)
_SMALL_TILE = 32  # pictures as small as these are enlarged without smoothing
_HEAD = 2000  # the generator's name is in the first bytes


def is_folder_form(out: str | os.PathLike[str]) -> bool:
    """Whether a report is written as a folder: an existing one, or a name that does not end in .html or .htm."""
    path = Path(out)
    return path.is_dir() or path.suffix.lower() not in (".html", ".htm")


def check_out(out: str | os.PathLike[str]) -> None:
    """Check that writing a report overwrites at most another report.

    Raises:
        FileExistsError: if `out` (for a folder: its index.html) is a file that is not a report.
    """
    files = [Path(out) / name for name in (_INDEX, _CSS, _SCRIPT, _PICTURES)] if is_folder_form(out) else [Path(out)]
    if Path(out).is_file() and is_folder_form(out):
        raise FileExistsError(f"{out} is a file without the ending .html. Name a file that ends in .html, or a folder.")
    there = [path for path in files if os.path.lexists(path)]
    if there and not _is_report(files[0]):
        raise FileExistsError(f"{there[0]} exists and is not a report of lightning-flip. Name another place.")


def write_page(page: Page, out: str | os.PathLike[str]) -> Path:
    """Write a page; returns the path of its HTML file. Existing files are replaced only if they are a report."""
    check_out(out)
    if not is_folder_form(out):
        return write_text(out, render_page(page))
    folder = Path(out)
    make_directory(folder)
    write_text(folder / _CSS, _asset(_CSS))
    write_text(folder / _SCRIPT, _asset(_SCRIPT))
    if page.sprite is not None:
        with atomic_write(folder / _PICTURES) as temporary:
            temporary.write_bytes(page.sprite.webp)
    return write_text(folder / _INDEX, render_page(page, inline=False))


def render_page(page: Page, *, inline: bool = True) -> str:
    """The HTML of a page: all in one, or with style, script and pictures in files beside it.

    The same page gives the same text. The script's data stay in the page, as a script cannot read files beside it.
    """
    try:
        import jinja2
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            'the HTML report needs jinja2. Install it with pip install "lightning-flip[report]".'
        ) from error
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(_asset), autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True,
        lstrip_blocks=True, keep_trailing_newline=True,
    )  # fmt: skip
    css, script = _asset(_CSS), _asset(_SCRIPT)
    policy = _POLICY.format(
        script=_hash(script) if inline else "'self'",
        style=_hash(css) if inline else "'self'",
        image="data:" if inline else "'self'",
    )
    return environment.get_template("page.html").render(
        page=page,
        generator=GENERATOR,
        policy=policy,
        inline=inline,
        css=Safe(css),
        script=Safe(script),
        css_file=_CSS,
        script_file=_SCRIPT,
        sprite="" if page.sprite is None else _sprite(page.sprite, inline),
        data=Safe(page_json(page_data(page))),
    )


def page_data(page: Page) -> dict[str, object]:
    """What the script reads: the data of each section by its id, and where pictures are."""
    data: dict[str, object] = {section.id: section.data for section in page.sections if section.data is not None}
    if page.sprite is not None:
        sprite = page.sprite
        data["sprite"] = {"tile": sprite.tile, "columns": sprite.columns, "place": dict(sprite.place)}
    return data


def page_json(data: Mapping[str, object]) -> str:
    r"""JSON that cannot end the element it is in.

    Example:
        >>> print(page_json({"name": "</script>"}))
        {"name":"\u003c/script>"}
    """
    text = json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    text = text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")
    return text.encode("utf-8", "backslashreplace").decode()


def _sprite(sprite: Sprite, inline: bool) -> Safe:
    """The pictures, once; the thumbnails show parts of them."""
    href = f"data:image/webp;base64,{base64.b64encode(sprite.webp).decode()}" if inline else _PICTURES
    width, height = sprite.tile * sprite.columns, sprite.tile * sprite.rows
    style = "pixelated" if sprite.tile <= _SMALL_TILE else None
    image = element("image", id=SPRITE_ID, href=href, width=width, height=height, class_=style)
    return element("svg", element("defs", image), class_="sprite", width=0, height=0, aria_hidden="true")


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _asset(name: str) -> str:
    return importlib.resources.files(__package__).joinpath("assets", name).read_text(encoding="utf-8")


def _is_report(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return f'content="{GENERATOR}"'.encode() in file.read(_HEAD)
    except OSError:
        return False
