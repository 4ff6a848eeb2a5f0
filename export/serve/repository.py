"""Which ONNX files are to be served under which names and versions.

FILE.onnx                       name FILE, version 1
DIR/FILE.onnx                   the same
DIR/NAME/VERSION/model.onnx     name NAME; versions are whole numbers, the highest is the one that is meant by NAME alone
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from ..errors import UsageError
from ..wording import quote

Place = tuple[str, str]  # name, version
Fingerprint = tuple[tuple[str, int, int, int], ...]

VERSION = re.compile(
    r"[1-9][0-9]{0,17}"
)  # what Triton, too, can hold: 64 bits; times such as 20240131120000 are in use
MODEL_FILE = "model.onnx"


def find(sources: Sequence[Path]) -> dict[Place, Path]:
    """The files by name and version.

    Raises:
        UsageError: a source does not exist or is no ONNX file, two would have one name, or there is no file at all.
    """
    found: dict[Place, Path] = {}
    for source in sources:
        for place, path in _of_folder(source) if source.is_dir() else [((source.stem, "1"), _checked(source))]:
            if place in found:
                raise UsageError(
                    f"{found[place]} and {path} would both be model {quote(place[0])}, version {place[1]}. Rename one, or put "
                    f"them into folders: NAME/VERSION/{MODEL_FILE}."
                )
            found[place] = path
    if not found:
        raise UsageError(
            f"There is no model in {', '.join(map(str, sources))}. Give .onnx files, or a folder of .onnx files or of "
            f"NAME/VERSION/{MODEL_FILE}."
        )
    return found


def fingerprint(path: Path, beside: Iterable[str] = ()) -> Fingerprint:
    """What changes when a file does, or the weights beside it: name, size, time in nanoseconds, inode; () where one is gone."""
    try:
        stats = [(name, (path.parent / name).stat()) for name in (path.name, *sorted(beside))]
    except OSError:
        return ()
    return tuple((name, stat.st_size, stat.st_mtime_ns, stat.st_ino) for name, stat in stats)


def _checked(path: Path) -> Path:
    if not path.exists():
        raise UsageError(f"There is no {str(path)!r}; check the path.")
    if path.suffix.lower() != ".onnx":
        raise UsageError(
            f"{str(path)!r} is no .onnx file. `kbn export MODEL {path.stem}.onnx` makes one of a Keras model."
        )
    return path


def _of_folder(folder: Path) -> Iterator[tuple[Place, Path]]:
    try:
        children = sorted(folder.iterdir())
        for child in children:
            if child.name.startswith("."):
                continue
            if child.is_file() and child.suffix.lower() == ".onnx":
                yield (child.stem, "1"), child
            elif child.is_dir():
                for version in sorted(child.iterdir()):
                    path = version / MODEL_FILE
                    if VERSION.fullmatch(version.name) and path.is_file():
                        yield (child.name, version.name), path
    except OSError as error:
        raise UsageError(f"The folder {str(folder)!r} cannot be read: {error.strerror}.") from None
