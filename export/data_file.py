"""The user's arrays from a .npy or .npz file; nothing in it is unpickled."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from .errors import BrokenModelError, UsageError


def read_arrays(path: Path) -> Any:
    """The array of a .npy file, or a dictionary of those of a .npz file.

    Raises:
        UsageError: there is no such file, or it is neither.
        BrokenModelError: the file is damaged, or holds Python objects.
    """
    if not path.is_file():
        raise UsageError(f"There is no data file {str(path)!r}; --data takes a .npy or .npz file.")
    if path.suffix not in (".npy", ".npz"):
        raise UsageError(
            f"The data file {str(path)!r} is neither .npy nor .npz; write it with numpy.save or numpy.savez."
        )
    try:
        loaded = np.load(path, allow_pickle=False)
        return {name: loaded[name] for name in loaded.files} if path.suffix == ".npz" else loaded
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, AttributeError) as error:
        raise BrokenModelError(
            f"The data file {str(path)!r} cannot be read as arrays of numbers ({error}); write it anew with numpy.save or "
            "numpy.savez."
        ) from error
