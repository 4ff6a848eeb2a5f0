"""One picture from a file that nobody vouches for, as an array of bytes.

Pillow reads it, of six formats alone. Whatever is wrong with the file becomes one error that names it.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from .errors import BrokenModelError, UsageError
from .wording import quote, reason

# What Pillow may take a file for, whatever its suffix; its other readers are old, many, and seldom tested.
_FORMATS = ("PNG", "JPEG", "BMP", "GIF", "WEBP", "TIFF")

_MODES = {1: "L", 3: "RGB", 4: "RGBA"}  # by the number of channels


def picture_size(path: Path) -> tuple[int, int]:
    """Height and width in pixels as it is looked at, once the whole picture has been decoded.

    Raises:
        BrokenModelError: the file is no picture, damaged, or decodes to more pixels than Pillow takes for honest.
        UsageError: its pixels have no scale of their own.
    """
    with _upright(path) as image:
        return image.height, image.width


def read_picture(path: Path, channels: int, height: int, width: int) -> NDArray[np.uint8]:
    """The picture as (height, width, channels), 0 to 255: 1 channel is grey, 3 are RGB, 4 RGBA.

    The first frame, turned as its EXIF orientation says. A picture of another size is resized as a whole, as
    `keras.utils.load_img(..., interpolation="bilinear")` does. Where alpha is not wanted it is left out, as there.

    Raises:
        BrokenModelError, UsageError: as `picture_size`.
    """
    with _upright(path) as image:
        converted = image.convert(_MODES[channels])
        if converted.size != (width, height):
            converted = converted.resize((width, height), Image.Resampling.BILINEAR)
        return np.asarray(converted, np.uint8).reshape(height, width, channels)


@contextmanager
def _upright(path: Path) -> Iterator[Image.Image]:
    """The decoded picture in 8 bits a channel, its EXIF orientation applied."""
    if not path.is_file():  # a pipe, or a link to nothing
        raise BrokenModelError(f"The image {quote(str(path))} is not there, or no file. Take it out of the folder.")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about metadata and palettes, which change no pixel
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path, formats=_FORMATS) as image:
                image.load()
                yield _eight_bits(ImageOps.exif_transpose(image), path)
    except (UsageError, MemoryError):
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise BrokenModelError(
            f"The image {quote(str(path))} decodes to more pixels than Pillow takes for honest: {reason(error)}. Take it out "
            "of the folder, or make it smaller."
        ) from error
    except Exception as error:  # Pillow's readers raise whatever they come upon in a damaged file
        raise BrokenModelError(
            f"The image {quote(str(path))} cannot be read: {reason(error)}. It is damaged, or no "
            f"{', '.join(_FORMATS[:-1])} or {_FORMATS[-1]}; take it out of the folder, or write it anew."
        ) from error


def _eight_bits(image: Image.Image, path: Path) -> Image.Image:
    """The upper 8 of 16 bits of grey, as Pillow itself reads 16 bits of colour; its own conversion would clip them."""
    if image.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode in ("I", "F"):
        raise UsageError(
            f"The image {quote(str(path))} holds 32-bit numbers, of which nobody tells what is white. Scale it to 8 bits, or "
            "give arrays, as .npy."
        )
    return image
