"""One picture, of bytes that nobody vouches for, as an array: decoded, upright, of the size and the channels that are wanted.

Pillow decodes it, of the formats that are named alone. It may warn (of odd metadata, say); who calls settles what becomes of
that, since Python's warning filters belong to the whole process and not to a thread.
"""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

MODES = {1: "L", 3: "RGB", 4: "RGBA"}  # by the number of channels


class PictureError(Exception):
    """The bytes are no picture of the formats that were named, or a damaged one."""


class TooManyPixelsError(PictureError):
    """It unpacks to more pixels than are wanted, which a few kilobytes can do to any number."""


class NoScaleError(PictureError):
    """It holds 32-bit numbers, of which nobody tells what is white."""


def decode(source: Path | BinaryIO, formats: tuple[str, ...], most: int | None = None) -> Image.Image:
    """The first frame in 8 bits a channel, turned as its EXIF orientation says.

    Args:
        formats: what Pillow may take it for, by its names.
        most: pixels that it may have; None for what Pillow takes for honest.

    Raises:
        PictureError: or one of those derived from it.
        MemoryError: there is no room for the pixels.
    """
    try:
        with Image.open(source, formats=formats) as image:
            if most is not None and image.width * image.height > most:
                raise TooManyPixelsError(f"{image.width} x {image.height} pixels, the limit is {most}")
            image.load()
            return _eight_bits(ImageOps.exif_transpose(image))
    except (PictureError, MemoryError):
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise TooManyPixelsError(str(error)) from error
    except Exception as error:  # Pillow's readers raise whatever they come upon in a damaged file
        raise PictureError(f"{type(error).__name__}: {error}") from error


def as_array(image: Image.Image, channels: int, height: int, width: int) -> NDArray[np.uint8]:
    """The picture as (height, width, channels), 0 to 255: 1 channel is grey, 3 are RGB, 4 RGBA.

    A picture of another size is resized as a whole, as `keras.utils.load_img(..., interpolation="bilinear")` does. Where
    alpha is not wanted it is left out, as there.
    """
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")  # the same colours, without Pillow's advice to do so
    converted = image.convert(MODES[channels])
    if converted.size != (width, height):
        converted = converted.resize((width, height), Image.Resampling.BILINEAR)
    return np.asarray(converted, np.uint8).reshape(height, width, channels)


def _eight_bits(image: Image.Image) -> Image.Image:
    """The upper 8 of 16 bits of grey, as Pillow itself reads 16 bits of colour; its own conversion would clip them."""
    if image.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode in ("I", "F"):
        raise NoScaleError("it holds 32-bit numbers, of which nobody tells what is white")
    return image
