"""Small pictures of samples, from a folder or from anything that gives a picture for an index, in one WebP file."""

from __future__ import annotations

import collections
import io
import os
import stat
import warnings
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from lightning_flip.reports.page._parts import Sprite
from lightning_flip.stores.errors import HistoryError

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["MOST_PICTURES", "PictureError", "folder_pictures", "make_sprite"]

#: How many pictures of the worst samples a report has.
MOST_PICTURES = 600
_COLUMNS = 30
_SMALL, _LARGE = 32, 48  # pixels of a tile
_PIXELS = 50_000_000  # of a picture; decoding takes four bytes for each
_TOO_LARGE = f"are larger than {_PIXELS // 1_000_000} million pixels and were not opened"
_CHANNELS = (1, 3, 4)
_PIXEL_ART = 16  # pictures up to this size are enlarged without smoothing, and kept without loss
# Pillow can read more, some of it with programs that run (EPS) and some as collections of other files.
_FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF", "JPEG2000", "ICO", "TGA")


class PictureError(Exception):
    """A sample has no picture; the message says why, in words that follow a number of pictures."""


def folder_pictures(root: str | os.PathLike[str], names: Mapping[int, str | None]) -> Callable[[int], Image]:
    """What gives the picture of a sample from a folder; for :func:`make_sprite`.

    Only regular files within the folder are opened: a name that leads out of it, also through a link, is refused.

    Args:
        root: the folder.
        names: path within the folder (or the whole path of a file in it) by the sample's index; None for none.

    Raises:
        NotADirectoryError: if `root` is not a folder.
    """
    if not os.path.isdir(root):
        raise NotADirectoryError(
            f"images must be a folder, got {os.fspath(root)!r}. Name the folder that has the files."
        )
    real_root = os.path.realpath(root)

    def open_picture(index: int) -> Image:
        name = names.get(index)
        if not name:
            raise PictureError("have no path")
        try:
            path = os.path.realpath(os.path.join(real_root, name))
            if os.path.commonpath([path, real_root]) != real_root:
                raise PictureError("lie outside the folder and were refused")
            if not stat.S_ISREG(os.stat(path).st_mode):
                raise PictureError("are not files")
        except (FileNotFoundError, NotADirectoryError):
            raise PictureError("were not found") from None
        except (OSError, ValueError):  # too long, null bytes, loops of links, other drives
            raise PictureError("have a name that no file can have") from None
        return _opened(Path(path))

    return open_picture


def _opened(path: Path) -> Image:
    """The upright picture of a file, which is closed then."""
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of damaged metadata
            with Image.open(path, formats=_FORMATS) as picture:
                _check_size(picture)
                picture.draft("RGB", (4 * _LARGE, 4 * _LARGE))  # a large JPEG is decoded at a fraction of its size
                return ImageOps.exif_transpose(picture).copy()
    except Image.DecompressionBombError:
        raise PictureError(_TOO_LARGE) from None
    except UnidentifiedImageError:
        raise PictureError("are not pictures, or damaged") from None


def make_sprite(indices: Iterable[int], picture: Callable[[int], Any], most: int = MOST_PICTURES) -> Sprite | None:
    """Make one WebP file with the pictures of samples.

    Args:
        indices: of the samples, the most important first.
        picture: gives the picture for an index: a PIL image, or an array (or what numpy makes one of) [H, W],
            [H, W, C] or [C, H, W] of 1, 3 or 4 channels; integers in [0, 255] (16 bit: [0, 65535]), fractions in
            [0, 1], other ranges are stretched. Whatever error it raises means that there is none.
        most: how many samples to take.

    Returns:
        The file; None if there are no samples. Its notes say how many pictures are missing, and why.

    Raises:
        HistoryError: if not a single sample has a picture.
        ModuleNotFoundError: if Pillow is not installed.

    Example:
        >>> sprite = make_sprite([7, 9, 3], {7: np.eye(8), 9: np.ones((3, 8, 8))}.__getitem__)
        >>> sprite.tile, dict(sprite.place), sprite.notes
        (32, {7: 0, 9: 1}, ('1 of 3 pictures cannot be read (KeyError).',))
    """
    try:
        from PIL import Image
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            'thumbnails need Pillow. Install it with pip install "lightning-flip[report]", or leave the pictures out.'
        ) from error
    tiles: list[Image.Image] = []
    place: dict[int, int] = {}
    problems: collections.Counter[str] = collections.Counter()
    wanted = list(dict.fromkeys(indices))[:most]
    size, longest = 0, 0
    for index in wanted:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of damaged metadata, and of what a dataset has to say
                whole = _as_image(picture(index))
                size = size or (_SMALL if max(whole.size) <= _SMALL else _LARGE)
                tile = _fitted(whole, size)
        except PictureError as error:
            problems[str(error)] += 1
            continue
        except Exception as error:  # of the decoders, or of the user's dataset
            problems[f"cannot be read ({type(error).__name__})"] += 1
            continue
        longest = max(longest, *whole.size)
        place[index] = len(tiles)
        tiles.append(tile)
    notes = tuple(f"{count:,} of {len(wanted):,} pictures {problem}." for problem, count in problems.most_common())
    if not wanted:
        return None
    if not tiles:
        raise HistoryError(
            f"None of the pictures can be shown: {' '.join(notes)} Name the folder that the samples' paths start from,"
            " or leave the pictures out."
        )
    columns = min(_COLUMNS, len(tiles))
    rows = -(-len(tiles) // columns)
    sheet = Image.new("RGBA", (columns * size, rows * size), (0, 0, 0, 0))
    for number, tile in enumerate(tiles):
        sheet.paste(tile, (number % columns * size, number // columns * size))
    stream = io.BytesIO()
    sheet.save(stream, "WEBP", quality=75, method=4, lossless=longest <= _PIXEL_ART)
    return Sprite(stream.getvalue(), size, columns, place, notes)


def _fitted(whole: Image, size: int) -> Image:
    """A square tile with the whole picture in its middle, over white if it is transparent."""
    from PIL import Image, ImageOps

    if whole.mode.startswith("I") or whole.mode == "F":
        whole = Image.fromarray(_bytes_of(np.asarray(whole)))
    if whole.has_transparency_data:
        shown = whole.convert("RGBA")
        whole = Image.new("RGBA", shown.size, "white")
        whole.alpha_composite(shown)
    whole = whole.convert("RGB")
    smooth = max(whole.size) > _PIXEL_ART
    resample = Image.Resampling.LANCZOS if smooth else Image.Resampling.NEAREST
    fitted = ImageOps.contain(whole, (size, size), resample)
    tile = Image.new("RGBA", (size, size), (0, 0, 0, 0))
    tile.paste(fitted, ((size - fitted.width) // 2, (size - fitted.height) // 2))
    return tile


def _as_image(given: Any) -> Image:
    from PIL import Image

    if isinstance(given, Image.Image):
        _check_size(given)
        return given
    values = np.asarray(given)
    if values.ndim == 3 and values.shape[0] in _CHANNELS and values.shape[2] not in _CHANNELS:
        values = values.transpose(1, 2, 0)
    if values.ndim == 3 and values.shape[2] == 1:
        values = values[:, :, 0]
    if values.shape[2:] not in ((), (3,), (4,)) or values.ndim < 2 or not values.size:
        raise PictureError("are arrays, but not [H, W], [H, W, C] or [C, H, W] of 1, 3 or 4 channels")
    return Image.fromarray(_bytes_of(values))


def _check_size(picture: Image) -> None:
    if picture.width * picture.height > _PIXELS:
        raise PictureError(_TOO_LARGE)


def _bytes_of(values: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    """Pixels of any type as 8 bit."""
    if values.dtype == np.uint8:
        return values
    numbers = np.nan_to_num(values.astype(np.float64))
    low, high = float(numbers.min()), float(numbers.max())
    if values.dtype.kind in "fb":
        low, high = (0.0, 1.0) if low >= 0 and high <= 1 else (low, high)
    elif low >= 0:
        low, high = 0.0, 255.0 if high <= 255 else 65_535.0 if high <= 65_535 else high
    scaled = (numbers - low) * (255 / (high - low if high > low else 1.0))
    return scaled.round().clip(0, 255).astype(np.uint8)
