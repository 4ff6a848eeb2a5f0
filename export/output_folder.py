"""Output folders that are whole or not there: written under another name, and given their own in one step."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .errors import UnsafeModelError, UsageError
from .writing import flush, flush_folder, unwritten


@contextmanager
def output_folder(path: Path, inside: Path) -> Iterator[Path]:
    """Yields an empty temporary folder that takes the name `path` when the block ends without an exception, else is removed.

    Args:
        path: where nothing lies yet.
        inside: a folder above `path`; the temporary folder lies beside it if it can, so that who looks into it does not see it.

    Raises:
        UsageError: the folder cannot be written to, the disk is full, something appeared at `path` meanwhile, or the block
            raised any other OSError.
    """
    temporary = _stage(inside)
    try:
        yield temporary
        for each in [*temporary.rglob("*"), temporary]:
            (flush_folder if each.is_dir() else flush)(each)
        try:
            # Of a folder that is there, a rename takes the place only if it is empty.
            os.rename(temporary, path)
        except OSError as error:
            raise UsageError(f"The folder {path} cannot be made: {error.strerror}. Use another name.") from None
    except OSError as error:
        raise unwritten(error, path) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    flush_folder(path.parent)


def check_folder(path: Path) -> None:
    """Raise now, before long work begins, what could not be written later; `path` itself may be missing.

    Raises UsageError (exit code 2) where the folder above it is missing or not writable, or `path` is a file; UnsafeModelError
    (exit code 4) where it is a symbolic link.
    """
    if path.is_symlink():
        raise UnsafeModelError(
            f"The folder {path} is a symbolic link, to {os.readlink(path)}: writing there would change another folder. Give "
            "the path of the folder itself."
        )
    if path.exists() and not path.is_dir():
        raise UsageError(f"{path} is a file, and a folder is to be written there. Give another name.")
    if not path.parent.is_dir():
        raise UsageError(f"The folder {path.parent} does not exist. Create it (mkdir -p) or write elsewhere.")
    _stage(path if path.exists() else path.parent).rmdir()


def _stage(folder: Path) -> Path:
    """A new folder beside this one, or in it where that is another file system or cannot be written to."""
    error: OSError | None = None
    for place in (folder.absolute().parent, folder):
        temporary = place / f".kbn-{secrets.token_hex(8)}"
        try:
            if place.stat().st_dev == folder.stat().st_dev:
                temporary.mkdir()
                return temporary
        except OSError as found:
            error = found
    why = "" if error is None else f": {error.strerror}"
    raise UsageError(f"The folder {folder} cannot be written to{why}. Make it writable or write elsewhere.")
