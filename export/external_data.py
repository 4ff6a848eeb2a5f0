"""Weights that an ONNX file keeps in other files: inside its folder, in plain files, within their bounds.

A tensor names its file by `location`, a path that onnx and onnxruntime open beside the model, with `offset` and `length` in
bytes (onnx/docs/ExternalData.md). A file from a stranger may name any other (CVE-2022-25882, CVE-2024-27318, CVE-2025-51480,
CVE-2026-27489, CVE-2026-34445), so that its output would hold what was read there. onnxruntime even takes an address in the
memory of the process for a location of its own.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path, PurePosixPath, PureWindowsPath

import onnx

from .errors import BrokenModelError, UnsafeModelError
from .wording import quote

_MEMORY = "_ORT_MEM_ADDR_"  # what onnxruntime takes for the address of a tensor in its own memory
_KEYS = ("location", "offset", "length")
_ADVICE = (
    "Weights lie in plain files in the model's folder or below: do not open this file unless you know who made it."
)


def check_external(path: Path, tensor: onnx.TensorProto, size: int) -> None:
    """Check where the ONNX file at `path` says that the tensor, which takes `size` bytes, lies.

    Raises UnsafeModelError (exit code 4) for a location that is absolute, leads outside the model's folder or through a link,
    is no plain file, or has not the bytes it is said to have; BrokenModelError (exit code 4) where the file is missing or the
    entries cannot be read.
    """
    where = f"{path}: the weights of {quote(tensor.name)}"
    entries = [(entry.key, entry.value) for entry in tensor.external_data if entry.key in _KEYS]
    values = dict(entries)
    if len(entries) > len(values):
        raise UnsafeModelError(
            f"{where} are said twice to lie elsewhere, so that what is checked may not be what is read. {_ADVICE}"
        )
    if not values.get("location"):
        raise BrokenModelError(f"{where} are said to lie in another file, which is not named. Export the model again.")
    location = values["location"]
    there = _inside(path.absolute().parent, location, where)
    offset, length = (_number(values.get(key), key, where) for key in ("offset", "length"))
    start, present = offset or 0, there.st_size
    needed = size if length is None else max(size, length)
    if start + needed > present:
        raise UnsafeModelError(
            f"{where} are said to be {needed} bytes from byte {start} of {quote(location)}, which has {present}: it is cut "
            f"off, or made to be read beyond its end. Copy it again, or export the model again."
        )
    if length is not None and length != size:
        raise BrokenModelError(
            f"{where} take {size} bytes by their shape and type, but {length} in {quote(location)}. Export the model again."
        )


def _inside(folder: Path, location: str, where: str) -> os.stat_result:
    """What lies at the location, reached through folders alone."""
    parts = PurePosixPath(location).parts
    if "\0" in location or "\\" in location or _MEMORY in parts or PureWindowsPath(location).drive:
        raise UnsafeModelError(f"{where} are said to lie in {quote(location)}, which is no file name. {_ADVICE}")
    if PurePosixPath(location).is_absolute() or ".." in parts:
        raise UnsafeModelError(
            f"{where} are said to lie in {quote(location)}, outside the folder of the model. {_ADVICE}"
        )
    place = folder
    for part in parts:
        place = place / part
        try:
            found = os.lstat(place)
        except (FileNotFoundError, NotADirectoryError):
            raise BrokenModelError(
                f"{where} lie in the file {quote(location)} beside it, which is missing. Copy it there too, or export the "
                f"model again."
            ) from None
        except (OSError, ValueError) as error:  # a name that is too long, a folder that may not be searched
            raise BrokenModelError(
                f"{where} lie in {quote(location)}, which cannot be opened: {error}. Copy it there again."
            ) from None
        if stat.S_ISLNK(found.st_mode):
            raise UnsafeModelError(
                f"{where} are said to lie in {quote(location)}, which leads through the symbolic link {quote(part)}. Put the "
                f"file itself there if you trust whoever made it."
            )
    if not stat.S_ISREG(found.st_mode if parts else stat.S_IFDIR):
        raise UnsafeModelError(f"{where} are said to lie in {quote(location)}, which is no plain file. {_ADVICE}")
    return found


def _number(value: str | None, key: str, where: str) -> int | None:
    if value is None:
        return None
    if not (value.isascii() and value.isdigit() and len(value) < 20):  # bytes of a file take no more
        raise BrokenModelError(f"{where} have the {key} {quote(value)}, which is no number. Export the model again.")
    return int(value)
