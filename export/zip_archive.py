"""A `.keras` file as a zip archive: bounds on its members, checked before anything is unpacked.

Keras unpacks assets to disk and reads the other members whole. Refused are members that would land outside the folder
they are unpacked into, that are encrypted, links or present twice, and archives that unpack to far more than they are.
"""

import re
import stat
import zipfile
import zlib
from collections import Counter
from pathlib import Path

from .errors import BrokenModelError, UnsafeModelError
from .wording import one_line, quote

CONFIG = "config.json"
WEIGHTS = "model.weights.h5"

# Keras stores members uncompressed. Someone may have zipped a model again: weights hardly shrink, configurations do.
_LARGEST_RATIO = 20
_UNPACKED_ALLOWANCE = 64 * 2**20  # bytes that any archive may unpack to
_LARGEST_CONFIG = 64 * 2**20  # bytes of JSON; the largest of keras.applications has 1.5 MiB
_MOST_MEMBERS = 10_000
_BLOCK = 2**20  # bytes read at a time

_ENCRYPTED = 0x1  # flag bit 0, APPNOTE.TXT 4.4.4


def read_config(path: Path) -> bytes:
    """Check the archive at `path` and return its config.json.

    Raises BrokenModelError for an archive that is damaged or no Keras model, UnsafeModelError for one whose members
    escape, deceive or explode. Every member's checksum is verified: where it fails, Keras reads on with wrong weights.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            for member in members:
                _check_member(path, member)
            _check_together(path, members)
            _check_model(path, {member.filename for member in members})
            _check_sizes(path, archive)
            config = archive.read(CONFIG)
            damaged = _first_damaged(archive)
    except (zipfile.BadZipFile, EOFError, ValueError, NotImplementedError, OSError, zlib.error) as error:
        raise BrokenModelError(
            f"{path} begins like a .keras file (a zip archive), but is truncated or damaged: {one_line(str(error))}. Copy or "
            f"download it again, or save the model again."
        ) from error
    if damaged is not None:
        raise BrokenModelError(
            f"{path} is damaged: its member {quote(damaged)} does not match its checksum. Copy or download it again, or "
            f"save the model again."
        )
    return config


def _check_member(path: Path, member: zipfile.ZipInfo) -> None:
    name = member.orig_filename
    parts = re.split(r"[/\\]", name)
    where = f"{path} has a member {quote(name)}"
    advice = "Keras writes no such member: do not open this file unless you know who made it and why."
    # filename is what zipfile makes of orig_filename; they differ where a NUL byte cuts the name short.
    if name != member.filename or ".." in parts or parts[0] == "" or re.match(r"[A-Za-z]:", name) or "\\" in name:
        raise UnsafeModelError(f"{where}, which would be unpacked outside the folder it belongs to. {advice}")
    mode = member.external_attr >> 16
    if stat.S_IFMT(mode) not in (0, stat.S_IFREG, stat.S_IFDIR):
        raise UnsafeModelError(f"{where}, which is a link or a device rather than a file. {advice}")
    if member.flag_bits & _ENCRYPTED:
        raise UnsafeModelError(f"{where}, which is encrypted, so that nothing can be checked. {advice}")
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise UnsafeModelError(f"{where}, compressed by method {member.compress_type}. {advice}")


def _check_together(path: Path, members: list[zipfile.ZipInfo]) -> None:
    if len(members) > _MOST_MEMBERS:
        raise UnsafeModelError(f"{path} has {len(members)} members; no Keras model has more than {_MOST_MEMBERS}.")
    name, times = Counter(member.filename for member in members).most_common(1)[0] if members else ("", 0)
    if times > 1:
        raise UnsafeModelError(
            f"{path} has {times} members of the name {quote(name)}, so that what is checked may not be what is loaded. Save "
            f"the model again."
        )
    unpacked = sum(member.file_size for member in members)
    packed = path.stat().st_size
    if unpacked > _UNPACKED_ALLOWANCE + _LARGEST_RATIO * packed:
        largest = max(members, key=lambda member: member.file_size)
        raise UnsafeModelError(
            f"{path} has {packed} bytes and unpacks to {unpacked}, {largest.file_size} of them in "
            f"{quote(largest.filename)}: it would fill memory or disk. If it is a real model, save it again with Keras, "
            f"which does not compress."
        )


def _check_model(path: Path, names: set[str]) -> None:
    missing = [name for name in (CONFIG, WEIGHTS) if name not in names]
    if missing:
        found = ", ".join(map(quote, sorted(names)[:5])) or "nothing"
        raise BrokenModelError(
            f"{path} is a zip archive but not a Keras model: it holds no {' and no '.join(missing)} (but "
            f"{found}). Give a file written by model.save('name.keras')."
        )


def _check_sizes(path: Path, archive: zipfile.ZipFile) -> None:
    size = archive.getinfo(CONFIG).file_size
    if size > _LARGEST_CONFIG:
        raise UnsafeModelError(f"{path} has a {CONFIG} of {size} bytes; at most {_LARGEST_CONFIG} are read.")


def _first_damaged(archive: zipfile.ZipFile) -> str | None:
    """The first member whose bytes do not match its checksum."""
    for member in archive.infolist():
        try:
            with archive.open(member) as stream:
                while stream.read(_BLOCK):
                    pass
        except (zipfile.BadZipFile, zlib.error, EOFError):
            return member.filename
    return None
