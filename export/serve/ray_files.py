"""The model files on their way to the replicas: read where `kbn serve` runs, written down where a replica runs.

FILE.onnx, NAME/VERSION/model.onnx ──Collector──> Package, ... ──object store──> unpack ──> NAME/VERSION/model.onnx

A package is one version of one model: the ONNX file and the weights beside it, with a SHA-256 of each.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import BrokenModelError, KbnError, UsageError
from ..wording import quote
from .model import load
from .repository import MODEL_FILE, Fingerprint, Place, find, fingerprint

_FOLDER = "kbn-replica-"  # and the number of the process, and what no other has


@dataclass(frozen=True)
class Package:
    """One version of one model.

    Attributes:
        place: its name and version.
        sha256: of each file, by its path below the folder NAME/VERSION.
        contents: of each file, by the same, its path here, or its bytes, or what stands for them in an object store.
    """

    place: Place
    sha256: Mapping[str, str]
    contents: Mapping[str, Any]


class Collector:
    """The files of some sources, each looked into and loaded once before it is sent anywhere.

    Attributes:
        failures: why a file is not collected as it lies there, by its name and version.
    """

    def __init__(self, sources: Sequence[Path], threads: int) -> None:
        self._sources = sources
        self._threads = threads
        self._packages: dict[Place, Package] = {}
        self._marks: dict[Place, Fingerprint] = {}
        self._kept: dict[Place, Package] = {}
        self.failures: dict[Place, str] = {}

    def collect(self, strict: bool = True, retry: bool = False) -> list[Package]:
        """All files; those that changed since the last time are looked into again. What raises changes nothing.

        Args:
            strict: raise what the first file that fails raises; else what was kept of it stands.
            retry: look again into what failed and has not changed since.

        Raises:
            KbnError: as `repository.find` and `model.load` raise them.
        """
        packages: dict[Place, Package] = {}
        marks: dict[Place, Fingerprint] = {}
        failures: dict[Place, str] = {}
        for place, path in find(self._sources).items():
            package, failure = self._packages.get(place), self.failures.get(place)
            mark = fingerprint(path, _beside(package))
            if mark != self._marks.get(place) or (retry and failure is not None):
                try:
                    package, failure = _look_into(place, path, self._threads), None
                except KbnError as error:
                    if strict:
                        raise
                    package, failure = self._kept.get(place), str(error)
                before, mark = mark, fingerprint(path, _beside(package))
                if mark[:1] != before[:1]:  # exchanged meanwhile: the next look is to see a change
                    mark = before
            marks[place] = mark
            if package is not None:
                packages[place] = package
            if failure is not None:
                failures[place] = failure
        self._packages, self._marks, self.failures = packages, marks, failures
        return list(packages.values())

    def keep(self) -> None:
        """What was collected has been sent: it stands for those of its files that fail later."""
        self._kept = self._packages

    def look(self) -> dict[Place, Fingerprint]:
        """What changes when a file does; raises UsageError as `repository.find` does."""
        return {
            place: fingerprint(path, _beside(self._packages.get(place))) for place, path in find(self._sources).items()
        }

    def collected(self) -> dict[Place, Fingerprint]:
        """What `look` would have given when the files were collected."""
        return self._marks


def read(package: Package, name: str) -> NDArray[Any]:
    """The bytes of a file, as uint8; raises BrokenModelError where they are no longer those that were looked into."""
    path = package.contents[name]
    try:
        content: NDArray[Any] = np.fromfile(path, np.uint8)
    except OSError as error:
        raise BrokenModelError(f"{path} cannot be read: {error.strerror}. Copy it anew.") from None
    if _sha256(content) != package.sha256[name]:
        raise BrokenModelError(f"{path} was changed while it was being read. Serve it once it is whole.")
    return content


def replica_folder() -> tempfile.TemporaryDirectory[str]:
    """A folder for what this process unpacks; those of processes that were killed, which removed nothing, are removed."""
    for left in Path(tempfile.gettempdir()).glob(f"{_FOLDER}*-*"):
        number = left.name.removeprefix(_FOLDER).partition("-")[0]
        if number.isdecimal() and not _is_alive(int(number)):
            shutil.rmtree(left, ignore_errors=True)
    return tempfile.TemporaryDirectory(prefix=f"{_FOLDER}{os.getpid()}-")


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # somebody else's
        pass
    return True


def unpack(packages: Iterable[Package], folder: Path) -> None:
    """Makes a folder hold these models and no others; a file that is there as it should be is not touched."""
    wanted = {folder.joinpath(*package.place): package for package in packages}
    for old in folder.glob("*/*"):
        if old not in wanted:
            shutil.rmtree(old)
    for place, package in wanted.items():
        # The weights first: the model refers to them.
        for name in sorted(package.contents, key=lambda name: name == MODEL_FILE):
            path = place / name
            if path.is_file() and _sha256(np.fromfile(path, np.uint8)) == package.sha256[name]:
                continue
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary = path.with_name(f".kbn-{path.name}")
            temporary.write_bytes(memoryview(package.contents[name]))
            temporary.replace(path)
        for path in list(place.rglob("*")):  # weights that the model has no longer
            if path.is_file() and path.relative_to(place).as_posix() not in package.contents:
                path.unlink()


def _look_into(place: Place, path: Path, threads: int) -> Package:
    if place[0].startswith("."):
        raise UsageError(f"{path} would be model {quote(place[0])}; on Ray no name may begin with a dot. Rename it.")
    file = load(path, threads).file
    if MODEL_FILE in file.weights_sha256 and path.name != MODEL_FILE:
        raise UsageError(f"{path} has its weights in {MODEL_FILE}, which it is called itself on Ray. Rename them.")
    sha256 = {MODEL_FILE: file.sha256, **file.weights_sha256}
    return Package(place, sha256, {name: path if name == MODEL_FILE else path.parent / name for name in sha256})


def _beside(package: Package | None) -> list[str]:
    return [] if package is None else [name for name in package.sha256 if name != MODEL_FILE]


def _sha256(content: Any) -> str:
    return hashlib.sha256(memoryview(content)).hexdigest()
