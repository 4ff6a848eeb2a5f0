"""A folder of images as the data of a check: which images, and how a model's input takes them.

What the model takes is not known yet when the folder is named. So the folder is looked through first, which tells a damaged
image before any long work, and the images are read once an input asks for them, a batch at a time.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from .errors import UsageError
from .layouts import TO_CHANNELS_FIRST
from .wording import quote, reason

Array = NDArray[Any]

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff"})

# As many as a check in float64 takes minutes for, and more than the ranges of int8 need.
LIMIT = 256

_CHANNELS = (1, 3, 4)


class Input(Protocol):
    """What a model or a file declares of an input; free axes are None or a name, the first axis counts examples."""

    @property
    def name(self) -> str: ...
    @property
    def shape(self) -> tuple[int | str | None, ...]: ...
    @property
    def dtype(self) -> Any: ...


class ImageFolder:
    """The images of a folder and of the folders in it, in the order of their paths; hidden ones and other files are not.

    Args:
        path: the folder.
        limit: how many images to take; of a folder with more, so many at even distances, so that each of the folders of a
            data set has its share. None takes all.

    Attributes:
        paths: the images taken.
        sizes: height and width of each, in pixels.
        found: how many images the folder has.

    Raises:
        UsageError: there is no such folder, it holds no image, or cannot be listed.
        BrokenModelError: an image is damaged, or decodes to more pixels than Pillow takes for honest.
    """

    def __init__(self, path: str | PathLike[str], limit: int | None = LIMIT) -> None:
        from .pictures import picture_size  # Pillow is loaded for images alone

        if limit is not None and limit < 1:
            raise UsageError(f"The limit of images must be 1 or more, or None; found {limit}.")
        self.path = Path(path)
        images = _images_in(self.path)
        self.found = len(images)
        taken = self.found if limit is None else min(limit, self.found)
        self.paths = tuple(images[index * self.found // taken] for index in range(taken))
        self.sizes = tuple(picture_size(each) for each in self.paths)

    def pictures(self, inputs: Sequence[Input], owner: str) -> Pictures:
        """The images as the one input of a model takes them.

        Args:
            inputs: all that the model or the file takes, in its own layout.
            owner: whose inputs they are, for the message: "the model".

        Raises:
            UsageError: there is another number of inputs, the input takes no images, or the images have several sizes where
                the input leaves the size free.
        """
        if len(inputs) != 1:
            raise UsageError(
                f"The folder {quote(str(self.path))} gives images for one input, but {owner} has {len(inputs)}: "
                f"{', '.join(quote(each.name) for each in inputs)}. Give an array for each, as .npz."
            )
        (single,) = inputs
        axis = self._channel_axis(single, owner)
        height, width = (size for position, size in enumerate(single.shape) if position not in (0, axis))
        return Pictures(
            paths=self.paths,
            height=self._common(0, height, single),
            width=self._common(1, width, single),
            channels=int(single.shape[axis] or 0),
            channels_first=axis == 1,
            dtype=_dtype(single),
        )

    def _channel_axis(self, single: Input, owner: str) -> int:
        """Where the input has 1, 3 or 4 channels: on its last axis, or on the first behind the batch."""
        shape = single.shape
        axes = [axis for axis in (3, 1) if len(shape) == 4 and shape[axis] in _CHANNELS]
        if len(axes) == 1:
            return axes[0]
        shown = ", ".join(str(size) if isinstance(size, int) else "any" for size in shape)
        why = (
            "where the channels may be first or last"
            if axes
            else "which has no axis of 1, 3 or 4 channels, last or first"
        )
        raise UsageError(
            f"The folder {quote(str(self.path))} gives images, but input {quote(single.name)} of {owner} takes ({shown}), "
            f"{why}. Give an array, as .npy."
        )

    def _common(self, which: int, fixed: int | str | None, single: Input) -> int:
        """The height (0) or width (1): the input's where that is fixed, else the images' own."""
        if isinstance(fixed, int):
            return fixed
        size = self.sizes[0][which]
        for path, other in zip(self.paths, self.sizes, strict=True):
            if other[which] != size:
                first, second = (f"{width} x {height}" for height, width in (self.sizes[0], other))
                raise UsageError(
                    f"The image {quote(str(self.paths[0]))} is {first} pixels and {quote(str(path))} is {second}, but input "
                    f"{quote(single.name)} leaves the size free, and one batch has one size. Bring the images to one size, "
                    "or fix the input's (kbn export: --input-shape)."
                )
        return size


@dataclass(frozen=True)
class Pictures:
    """The images for one input, as an array of which a slice is read when it is taken.

    Attributes:
        paths: one per example.
        height, width, channels: what each image is brought to.
        channels_first: whether a slice is (examples, channels, height, width), else the channels are last.
        dtype: of a slice; the numbers are 0 to 255.
    """

    paths: tuple[Path, ...]
    height: int
    width: int
    channels: int
    channels_first: bool
    dtype: np.dtype[Any]

    ndim = 4  # as an array of them all would have

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, examples: slice) -> Array:
        from .pictures import read_picture

        read = [read_picture(path, self.channels, self.height, self.width) for path in self.paths[examples]]
        stacked = np.stack(read).astype(self.dtype)
        return np.ascontiguousarray(stacked.transpose(TO_CHANNELS_FIRST)) if self.channels_first else stacked


def _images_in(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise UsageError(f"There is no folder of images {quote(str(folder))}.")
    found: list[Path] = []
    seen: set[str] = set()
    for parent, folders, files in os.walk(folder, onerror=_unlisted, followlinks=True):
        real = os.path.realpath(parent)
        # A link may lead back to a folder above it.
        folders[:] = [] if real in seen else sorted(name for name in folders if not name.startswith("."))
        files = [] if real in seen else files
        seen.add(real)
        found += [Path(parent, name) for name in files if _is_image(name)]
    if not found:
        raise UsageError(
            f"The folder {quote(str(folder))} holds no image: no file, in it or in a folder in it, ends in "
            f"{', '.join(sorted(SUFFIXES))}."
        )
    return sorted(found)


def _is_image(name: str) -> bool:
    return not name.startswith(".") and Path(name).suffix.lower() in SUFFIXES


def _unlisted(error: OSError) -> None:
    raise UsageError(f"The folder {quote(error.filename)} cannot be listed: {reason(error)}.") from error


def _dtype(single: Input) -> np.dtype[Any]:
    """float32 for every float, as all samples are; an integer that has the numbers 0 to 255."""
    name = str(single.dtype)
    if "float" in name:
        return np.dtype(np.float32)
    if name == "bool" or np.iinfo(name).max < 255:
        raise UsageError(
            f"Input {quote(single.name)} takes {name}, which has not all of the numbers 0 to 255 that images hold. Give an "
            "array, as .npy."
        )
    return np.dtype(name)
