"""What a page is made of: sections, and the pictures of samples that they share."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from lightning_flip.reports.page._markup import Safe, element

__all__ = ["SPRITE_ID", "Page", "Section", "Sprite", "missing", "thumbnail"]

SPRITE_ID = "sprite"


@dataclasses.dataclass(frozen=True)
class Section:
    """A part of the page with a heading.

    Attributes:
        id: its anchor, a word.
        title: its heading.
        html: its content.
        note: a sentence below the heading.
        half: whether it shares its row with another half one, if the window is wide.
        data: what the script needs, as JSON; one section has a key of the page's data to itself: its id.
    """

    id: str
    title: str
    html: Safe
    note: str = ""
    half: bool = False
    data: Mapping[str, object] | None = None


@dataclasses.dataclass(frozen=True)
class Sprite:
    """Pictures of samples in one WebP file, row by row.

    Attributes:
        webp: the file's bytes.
        tile: width and height of a picture in pixels.
        columns: pictures per row.
        place: number of a sample's picture by the sample's index in its split.
        notes: what the page says about them, such as how many could not be read.
    """

    webp: bytes
    tile: int
    columns: int
    place: Mapping[int, int]
    notes: tuple[str, ...] = ()

    @property
    def rows(self) -> int:
        """How many rows of pictures the file has."""
        return -(-(max(self.place.values(), default=0) + 1) // self.columns)


@dataclasses.dataclass(frozen=True)
class Page:
    """A report before it is written.

    Attributes:
        title: its heading, and the title of the window.
        lead: the sentences that it begins with.
        tiles: names and values of the numbers below them.
        sections: in order.
        subtitle: a line below the heading.
        sprite: pictures of samples; None if there are none.
        warnings: what a reader must know before passing the file on, or before trusting a number.
    """

    title: str
    lead: Sequence[Safe]
    tiles: Sequence[tuple[str, str]]
    sections: Sequence[Section]
    subtitle: str = ""
    sprite: Sprite | None = None
    warnings: Sequence[str] = ()


def missing(reason: str) -> Safe:
    """A paragraph in the place of something that was not computed."""
    return element("p", element("strong", "Not computed."), " ", reason, class_="missing")


def thumbnail(sprite: Sprite | None, index: int, name: str, size: str = "thumb") -> Safe:
    """The picture of a sample, or an empty text; `size` is its class: "thumb" or "picture"."""
    place = None if sprite is None else sprite.place.get(index)
    if sprite is None or place is None:
        return Safe("")
    row, column = divmod(place, sprite.columns)
    return element(
        "svg",
        element("use", href=f"#{SPRITE_ID}", x=-column * sprite.tile, y=-row * sprite.tile),
        class_=size,
        viewBox=f"0 0 {sprite.tile} {sprite.tile}",
        role="img",
        aria_label=f"picture of sample {name}",
    )
