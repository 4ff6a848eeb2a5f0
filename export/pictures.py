"""One picture from a file that nobody vouches for; whatever is wrong with it becomes one error that names the file."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from .errors import BrokenModelError, UsageError
from .pixels import NoScaleError, PictureError, TooManyPixelsError, as_array, decode
from .wording import quote, reason

# What Pillow may take a file for, whatever its suffix; its other readers are old, many, and seldom tested.
_FORMATS = ("PNG", "JPEG", "BMP", "GIF", "WEBP", "TIFF")


def picture_size(path: Path) -> tuple[int, int]:
    """Height and width in pixels as it is looked at, once the whole picture has been decoded.

    Raises:
        BrokenModelError: the file is no picture, damaged, or decodes to more pixels than Pillow takes for honest.
        UsageError: its pixels have no scale of their own.
    """
    image = _decoded(path)
    return image.height, image.width


def read_picture(path: Path, channels: int, height: int, width: int) -> NDArray[np.uint8]:
    """The picture as (height, width, channels), 0 to 255, as `pixels.as_array` makes it.

    Raises:
        BrokenModelError, UsageError: as `picture_size`.
    """
    return as_array(_decoded(path), channels, height, width)


def _decoded(path: Path) -> Image.Image:
    if not path.is_file():  # a pipe, or a link to nothing
        raise BrokenModelError(f"The image {quote(str(path))} is not there, or no file. Take it out of the folder.")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about metadata and palettes, which change no pixel
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            return decode(path, _FORMATS)
    except NoScaleError as error:
        raise UsageError(
            f"The image {quote(str(path))} cannot be taken: {error}. Scale it to 8 bits, or give arrays, as .npy."
        ) from error
    except TooManyPixelsError as error:
        raise BrokenModelError(
            f"The image {quote(str(path))} decodes to more pixels than Pillow takes for honest: {reason(error)}. Take it out "
            "of the folder, or make it smaller."
        ) from error
    except PictureError as error:
        raise BrokenModelError(
            f"The image {quote(str(path))} cannot be read: {reason(error.__cause__ or error)}. It is damaged, or no "
            f"{', '.join(_FORMATS[:-1])} or {_FORMATS[-1]}; take it out of the folder, or write it anew."
        ) from error
