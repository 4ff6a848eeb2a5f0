"""The inputs of a check as files, each of which --data takes: NUMBER-ORIGIN.npz, in the order in which they are compared."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from os import PathLike
from pathlib import Path

import numpy as np

from .drawing import Sample
from .errors import UnsafeModelError, UsageError
from .writing import output_file

_ARGUMENTS = ("file", "allow_pickle")  # of numpy.savez, which an array cannot be called


def check_folder(folder: str | PathLike[str]) -> None:
    """Raises now what `saved` would raise first.

    Raises:
        UsageError: the folder holds something, is none, or cannot be made.
        UnsafeModelError: it is a symbolic link.
    """
    folder = Path(folder)
    if folder.is_symlink():
        raise UnsafeModelError(f"The folder {str(folder)!r} for the inputs is a symbolic link; give the folder itself.")
    try:
        if folder.exists() and any(folder.iterdir()):
            raise UsageError(f"The folder {str(folder)!r} for the inputs is not empty; give a new one.")
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise UsageError(f"The folder {str(folder)!r} for the inputs cannot be made: {error.strerror}.") from error


def saved(samples: Iterable[Sample], names: Sequence[str], folder: str | PathLike[str]) -> Iterator[Sample]:
    """Passes the samples on, each written to the folder first.

    Args:
        samples: what is compared.
        names: of the inputs, by which their arrays are called in the files; they are x0, x1, ... where a name has other
            signs than letters, digits and underscores.
        folder: an empty one, or one that is made.

    Raises:
        UsageError: as `check_folder`, or the disk is full.
    """
    check_folder(folder)
    plain = all(name.isidentifier() and name not in _ARGUMENTS for name in names)
    keys = names if plain else [f"x{index}" for index in range(len(names))]
    for number, sample in enumerate(samples, 1):
        path = Path(folder) / f"{number:03d}-{sample.origin.replace(' ', '-')}.npz"
        with output_file(path) as temporary:
            np.savez(temporary, allow_pickle=False, **dict(zip(keys, sample.arrays, strict=True)))
        yield sample
