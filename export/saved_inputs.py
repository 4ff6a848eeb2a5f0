"""The inputs of a check as files, each of which --data takes: NUMBER-ORIGIN.npz, in the order in which they are compared."""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .drawing import Sample
from .errors import UnsafeModelError, UsageError
from .writing import output_file

_ARGUMENTS = ("file", "allow_pickle")  # of numpy.savez, which an array cannot be called


class SavedInputs:
    """A folder that takes the inputs of a check; it is made with the first of them.

    Args:
        folder: a new one, or an empty one.
        names: of the inputs, by which their arrays are called in the files; they are x0, x1, ... where a name has other
            signs than letters, digits and underscores.

    Raises:
        UsageError: the folder holds something, is none, or cannot be made.
        UnsafeModelError: it is a symbolic link.
    """

    def __init__(self, folder: str | PathLike[str], names: Sequence[str]) -> None:
        self._folder = Path(folder)
        check_inputs_folder(folder)
        plain = all(name.isidentifier() and name not in _ARGUMENTS for name in names)
        self._keys = names if plain else [f"x{index}" for index in range(len(names))]
        self._count = 0

    def save(self, sample: Sample, arrays: Sequence[NDArray[Any]] | None = None) -> None:
        """Writes a sample, whose arrays are laid out as --data has them; or these in the place of its own.

        Raises:
            UsageError: the disk is full, or the folder is gone.
        """
        self._count += 1
        self._folder.mkdir(exist_ok=True)
        path = self._folder / f"{self._count:03d}-{sample.origin.replace(' ', '-')}.npz"
        with output_file(path) as temporary:
            named = dict(zip(self._keys, arrays or sample.arrays, strict=True))
            np.savez(temporary, allow_pickle=False, **named)


def check_inputs_folder(folder: str | PathLike[str]) -> None:
    """Raises now what `SavedInputs` would raise, before long work; leaves nothing."""
    folder = Path(folder)
    if folder.is_symlink():
        raise UnsafeModelError(f"The folder {str(folder)!r} for the inputs is a symbolic link; give the folder itself.")
    try:
        if folder.exists():
            if any(folder.iterdir()):
                raise UsageError(f"The folder {str(folder)!r} for the inputs is not empty; give a new one.")
            return
        folder.mkdir()
        folder.rmdir()
    except OSError as error:
        raise UsageError(f"The folder {str(folder)!r} for the inputs cannot be made: {error.strerror}.") from error
