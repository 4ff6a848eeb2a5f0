"""What people send by hand, an image or a `.npy` file, as the array that an input takes.

Images are turned as their EXIF orientation says, resized as a whole (bilinear) to a size that the model fixes, and brought
to the channels that it takes. Their values are 0 to 255, or scaled to another range.
"""

from __future__ import annotations

import io
import math
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .datatypes import BYTES
from .ports import FREE, Port
from .protocol import check_shape
from .refusal import RefusedError

Array = NDArray[Any]

# Of what the command reads of a folder without TIFF, whose decoder has a long history of faults; strangers send these.
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP")
LARGEST_IMAGE = 50_000_000  # pixels
_CHANNELS = (1, 3, 4)
_NPY = b"\x93NUMPY"
# numpy parses a header as Python does its source, which fails now and then in several threads at once (python/cpython#106905).
_PARSER = threading.Lock()


def parse_range(text: str | None) -> tuple[float, float]:
    """The numbers that black and white stand for, of text such as "0,1"; 0 and 255 where there is none."""
    if text is None:
        return 0.0, 255.0
    try:
        low, high = (float(part) for part in text.split(","))
    except ValueError:
        low = high = math.nan
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise RefusedError(400, "range must be two numbers, LOW,HIGH, such as 0,1 or -1,1.")
    return low, high


def read_input(content: bytes, port: Port, pixels: tuple[float, float]) -> Array:
    """The array for an input, of one example or, from `.npy`, of a batch.

    Raises:
        RefusedError: it is neither, or not of a size that the input takes (400), or too large an image (413).
    """
    array = _of_npy(content, port) if content.startswith(_NPY) else _of_image(content, port, pixels)
    check_shape(array.shape, port)
    return array


def image_axes(port: Port) -> tuple[int, int, int] | None:
    """The axes of height, width and channels, where the input takes images; channels are last, or first behind the batch."""
    axes = [axis for axis in (3, 1) if len(port.shape) == 4 and port.shape[axis] in _CHANNELS]
    if len(axes) != 1 or port.datatype in (BYTES, "BOOL") or port.shape[0] not in (FREE, 1):
        return None
    return (1, 2, 3) if axes[0] == 3 else (2, 3, 1)


def _of_npy(content: bytes, port: Port) -> Array:
    file = io.BytesIO(content)
    try:
        version = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        with _PARSER:
            shape, fortran, dtype = read(file)
    except Exception as error:  # whatever ast and struct make of hostile bytes
        raise RefusedError(400, f"Input {port.name!r}: the .npy file has no header that can be read.") from error
    data = content[file.tell() :]
    if dtype.hasobject or dtype.kind not in "fiub" or port.datatype == BYTES:
        raise RefusedError(400, f"Input {port.name!r} takes {port.datatype}, the .npy file holds {dtype}.")
    if len(data) != math.prod(shape) * dtype.itemsize:
        raise RefusedError(
            400, f"Input {port.name!r}: the .npy file holds {len(data)} bytes, which its header does not say."
        )
    try:
        array = np.frombuffer(data, dtype).reshape(shape, order="F" if fortran else "C")
    except (ValueError, TypeError) as error:  # negative, or more than numpy has
        raise RefusedError(400, f"Input {port.name!r}: the .npy file's shape is none that numpy has.") from error
    if len(shape) + 1 == len(port.shape) and port.shape[0] in (FREE, 1):
        array = array[np.newaxis]
    return _converted(array, port)


def _converted(array: Array, port: Port) -> Array:
    """The array in the input's dtype; of its numbers none is changed but for the rounding of floats."""
    with np.errstate(over="ignore", invalid="ignore"):
        converted = np.require(array.astype(port.dtype), requirements="C")
    if port.dtype.kind == "f":
        unchanged = array.dtype.kind != "f" or np.array_equal(np.isfinite(converted), np.isfinite(array))
    else:
        unchanged = bool(np.array_equal(converted, array)) and (port.dtype.kind == "b") == (array.dtype.kind == "b")
    if not unchanged:
        raise RefusedError(400, f"Input {port.name!r}: the .npy file has numbers that {port.datatype} cannot hold.")
    return converted


def _of_image(content: bytes, port: Port, pixels: tuple[float, float]) -> Array:
    from ..pixels import NoScaleError, PictureError, TooManyPixelsError, as_array, decode  # Pillow, by the first image

    axes = image_axes(port)
    if axes is None:
        raise RefusedError(
            400, f"Input {port.name!r} of shape {list(port.shape)} takes no image, but a .npy file, which this is not."
        )
    height, width, channels = (port.shape[axis] for axis in axes)
    try:
        image = decode(io.BytesIO(content), FORMATS, LARGEST_IMAGE)
        height, width = (image.height if height == FREE else height, image.width if width == FREE else width)
        array = as_array(image, channels, height, width)
    except MemoryError:
        raise RefusedError(503, "There is no memory for the image now.") from None
    except TooManyPixelsError:
        raise RefusedError(413, f"The image has more than {LARGEST_IMAGE} pixels.") from None
    except NoScaleError as error:
        raise RefusedError(400, f"The image cannot be taken: {error}; send a .npy file.") from None
    except PictureError as error:
        raise RefusedError(
            400,
            f"Input {port.name!r} takes an image or a .npy file; images may be {', '.join(FORMATS)}, and not damaged.",
        ) from error
    return _as_input(array, port, axes, pixels)


def _as_input(image: Array, port: Port, axes: Sequence[int], pixels: tuple[float, float]) -> Array:
    low, high = pixels
    scaled = image if pixels == (0.0, 255.0) else image * ((high - low) / 255) + low
    if port.dtype.kind != "f" and (pixels != (0.0, 255.0) or np.iinfo(port.dtype).max < 255):
        raise RefusedError(400, f"Input {port.name!r} takes {port.datatype}, which holds pixels as 0 to 255 only.")
    batch = scaled[np.newaxis]
    return np.ascontiguousarray(batch if axes[2] == 3 else batch.transpose(0, 3, 1, 2), port.dtype)
