"""The files that a user names beside the model: arrays, of which nothing is unpickled, and Python with custom layers."""

from __future__ import annotations

import runpy
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from .errors import BrokenModelError, UsageError
from .wording import reason


def read_arrays(path: Path) -> Any:
    """The array of a .npy file, or a dictionary of those of a .npz file.

    Raises:
        UsageError: there is no such file, or it is neither.
        BrokenModelError: the file is damaged, or holds Python objects.
    """
    if not path.is_file():
        raise UsageError(
            f"There is no data file {str(path)!r}; --data takes a .npy or .npz file, or a folder of images."
        )
    if path.suffix not in (".npy", ".npz"):
        raise UsageError(
            f"The data file {str(path)!r} is neither .npy nor .npz; write it with numpy.save or numpy.savez. Of images, "
            "give the folder."
        )
    try:
        with path.open("rb") as stream:
            loaded = np.load(stream, allow_pickle=False)
            return {name: loaded[name] for name in loaded.files} if path.suffix == ".npz" else loaded
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, AttributeError) as error:
        # numpy takes what it does not know for a pickle, and advises to load that.
        why = "" if "pickle" in str(error) else f" ({error})"
        raise BrokenModelError(
            f"The data file {str(path)!r} cannot be read as arrays of numbers{why}: it is damaged, holds Python objects, or is "
            "of another kind. Write it anew with numpy.save or numpy.savez."
        ) from error


def read_objects(path: Path) -> dict[str, Any]:
    """The classes and functions that a Python file defines, by name. The file is run: it is the user's own.

    Raises:
        UsageError: there is no such file, or it fails.
    """
    if not path.is_file() or path.suffix != ".py":
        raise UsageError(
            f"There is no Python file {str(path)!r}; --custom-objects takes the .py file that defines them."
        )
    try:
        names = runpy.run_path(str(path))
    except Exception as error:  # the user's code, which may raise anything
        raise UsageError(f"The Python file {str(path)!r} fails: {reason(error)}.") from error
    return {name: value for name, value in names.items() if callable(value) and not name.startswith("_")}
