"""Pictures of samples, from whatever a dataset gives: arrays, tensors, Pillow images, alone or with a label."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["Picture", "picture_of", "png_of"]

Picture = npt.NDArray[np.uint8]
_CHANNELS = (1, 3, 4)
_PLAIN_MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr", "HSV")  # of Pillow, 8 bits or fewer


def picture_of(item: Any) -> Picture:
    """The picture in a dataset's item.

    Args:
        item: a picture, a tuple or list that has one (the first one counts), or a dict that does. A picture is a Pillow
            image, or an array or tensor [H, W], [C, H, W] or [H, W, C] with 1, 3 or 4 channels; where both fit, tensors
            are [C, H, W] and arrays [H, W, C]. Numbers in [0, 1], and whole numbers in [0, 255], are shown as they are;
            others, such as normalized ones, are spread over the picture's own range.

    Returns:
        uint8 [H, W] or [H, W, 3]; a fourth channel (opacity) is left out.

    Raises:
        TypeError: if there is no picture in the item.

    Example:
        >>> picture_of((np.array([[[0.0, 1.0]]]), 7)).tolist()
        [[0, 255]]
        >>> picture_of({"label": 1, "image": np.array([[-2.0, 2.0, 0.0]])}).tolist()
        [[0, 255, 128]]
    """
    found = _find(item)
    if found is None:
        raise TypeError(
            f"images must give a picture for each sample: a Pillow image, or an array or tensor [H, W], [C, H, W] or"
            f" [H, W, C] with 1, 3 or 4 channels, alone, first in a tuple, or in a dict; got {_described(item)}. Pass"
            " something indexable that gives such pictures."
        )
    return _as_bytes(found)


def png_of(picture: Picture, longest: int) -> bytes:
    """A picture as a PNG file, its longer side so many pixels long; enlarged pixels stay sharp.

    Raises:
        ModuleNotFoundError: without Pillow.
    """
    try:
        from PIL import Image
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "pictures need Pillow, which is not installed; run pip install 'lightning-flip[report]'."
        ) from error
    image = Image.fromarray(picture)
    factor = longest / max(image.size)
    size = max(1, round(image.width * factor)), max(1, round(image.height * factor))
    written = io.BytesIO()
    image.resize(size, Image.Resampling.NEAREST if factor > 1 else Image.Resampling.LANCZOS).save(written, "png")
    return written.getvalue()


def _find(item: Any) -> npt.NDArray[Any] | None:
    """The picture [H, W] or [H, W, 3] in an item, with the numbers that it has."""
    if isinstance(item, str | bytes):
        return None
    if isinstance(item, Mapping | tuple | list):
        parts = item.values() if isinstance(item, Mapping) else item
        return next((found for found in map(_find, parts) if found is not None), None)
    if hasattr(item, "convert") and hasattr(item, "mode"):
        item = item.convert("RGB") if item.mode in _PLAIN_MODES else item
    channels_first = hasattr(item, "detach")
    if channels_first:
        item = item.detach().cpu()
        item = item.float() if item.is_floating_point() else item  # numpy has no bfloat16
    array = np.asarray(item)
    if array.dtype.kind not in "buif" or not array.size:
        return None
    if array.ndim == 3:
        fits_first, fits_last = array.shape[0] in _CHANNELS, array.shape[2] in _CHANNELS
        if not fits_first and not fits_last:
            return None
        array = np.moveaxis(array, 0, 2) if fits_first and (channels_first or not fits_last) else array
        array = array[:, :, 0] if array.shape[2] == 1 else array[:, :, :3]
    return array if array.ndim in (2, 3) else None


def _as_bytes(picture: npt.NDArray[Any]) -> Picture:
    if picture.dtype == np.uint8:
        return np.ascontiguousarray(picture)
    values = np.where(np.isfinite(picture), picture, 0).astype(np.float64)
    low, high = float(values.min()), float(values.max())
    if picture.dtype.kind in "ui" and low >= 0 and high <= 255:
        low, high = 0.0, 255.0
    elif low >= 0 and high <= 1:
        low, high = 0.0, 1.0
    spread = (values - low) / (high - low) if high > low else np.full(values.shape, 0.5)
    return np.rint(255 * spread).astype(np.uint8)


def _described(item: Any) -> str:
    shape = getattr(item, "shape", None)
    if isinstance(item, tuple | list):
        return f"a {type(item).__name__} of {', '.join(map(_described, item[:4]))}"
    return f"a {type(item).__name__}" + ("" if shape is None else f" of the shape {list(shape)}")
