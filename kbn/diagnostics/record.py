"""What a monitor recorded, and the one file that it is kept in: numpy alone, no model, no Keras.

The file is an .npz, which `numpy.load` opens, of at most so many samples as the monitor keeps. With S samples, P points, C
channels of all points side by side, and L levels:

    meta                json: version, points, batch_size, batches, spent
    steps, seconds      (S,), training steps taken, and the wall time since training began
    channels/NAME       (S, C), quantiles/SITE (S, P, L), points/NAME (S, P): see `probing.Sample`
    seen/NAME           (S, P): see `averages_seen`; NaN where a point has no averages

All but the means are float32; these are float64, since they may be large beside what they move by.
"""

from __future__ import annotations

import json
import os
import secrets
import zipfile
import zlib
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from kbn.diagnostics.moments import Floats
from kbn.diagnostics.points import Point
from kbn.diagnostics.showing import Showing

if TYPE_CHECKING:
    from kbn.diagnostics.probing import Sample

VERSION = 1
SEEN = ("updates", "weight", "effective")


class ShiftRecord(Showing):
    """The samples of a `ShiftMonitor`, oldest first, with the plots and the page.

    Attributes:
        points: what was watched, in the order of the calls: `points.Point`.
        batch_size, batches: examples in a batch of the probe, and how many batches it has.
        steps: training steps taken before each sample, (samples,).
        seconds: wall time since training began, (samples,).
        spent: seconds that the monitor took of it.
    """

    def __init__(self, points: Sequence[Point], batch_size: int, batches: int) -> None:
        self.points = tuple(points)
        self.batch_size, self.batches = batch_size, batches
        self.spent = 0.0
        self._rows: list[dict[str, Floats]] = []
        # Where the channels of each point lie among those of all.
        ends = np.cumsum([0, *(point.channels for point in self.points)])
        self.columns = [slice(start, end) for start, end in pairwise(ends)]

    @property
    def _shown(self) -> ShiftRecord:
        return self

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def steps(self) -> Any:
        return np.array([int(row["steps"]) for row in self._rows], np.int64)

    @property
    def seconds(self) -> Floats:
        return np.array([float(row["seconds"]) for row in self._rows])

    def values(self, name: str) -> Floats:
        """The array of this name, as the file has it ("channels/before/mean", ...), all samples: float64."""
        return np.stack([row[name] for row in self._rows]).astype(np.float64)

    def add(self, step: int, seconds: float, sample: Sample, seen: Floats) -> None:
        """One more sample; `seen` is (points, 3), in the order of `SEEN`."""
        row: dict[str, Any] = {"steps": np.int64(step), "seconds": np.float64(seconds)}
        with np.errstate(over="ignore"):  # of a training that has diverged
            for group, arrays in sample._asdict().items():
                for name, array in arrays.items():
                    row[f"{group}/{name}"] = array.astype(np.float64 if name.endswith("/mean") else np.float32)
        row |= {f"seen/{name}": column.astype(np.float32) for name, column in zip(SEEN, seen.T, strict=True)}
        self._rows.append(row)

    def latest(self, number: int) -> ShiftRecord:
        """A record of the newest samples, at most so many."""
        part = ShiftRecord(self.points, self.batch_size, self.batches)
        part._rows = self._rows[-number:]
        return part

    def thin(self) -> None:
        """Drops every second sample; the first and the newest stay."""
        newest = len(self._rows) - 1
        self._rows = [row for number, row in enumerate(self._rows) if number % 2 == 0 or number == newest]

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the file; what lies there is replaced in one step.

        Raises:
            ValueError: there is no sample, or the name does not end in .npz.
            OSError: it cannot be written.
        """
        path = checked_path(path)
        if not self._rows:
            raise ValueError("There is no sample to save: the monitor takes the first one when training begins.")
        meta = {
            "version": VERSION,
            "points": [point._asdict() for point in self.points],
            "batch_size": self.batch_size,
            "batches": self.batches,
            "spent": self.spent,
        }
        arrays: dict[str, Any] = {name: np.stack([row[name] for row in self._rows]) for name in self._rows[0]}
        temporary = path.with_name(f".kbn-{secrets.token_hex(4)}.npz")
        try:
            np.savez_compressed(temporary, meta=np.array(json.dumps(meta)), **arrays)
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> ShiftRecord:
        """The record in a file that `save`, or a monitor, wrote.

        Raises:
            ValueError: the file is no record, is damaged, or of a newer version.
            FileNotFoundError: there is none.
        """
        try:
            # Of a stream: numpy leaves a damaged file open that it opened itself.
            with open(path, "rb") as stream:
                arrays = _arrays(stream)
            meta = json.loads(str(arrays.pop("meta")))
            version = meta["version"]
            if version == VERSION:
                points = [Point(**{**each, "sites": tuple(each["sites"])}) for each in meta["points"]]
                record = cls(points, meta["batch_size"], meta["batches"])
                record.spent = meta["spent"]
                number = len(arrays["steps"])
                record._rows = [{name: array[row] for name, array in arrays.items()} for row in range(number)]
        except _NoRecordError as error:
            raise ValueError(f"{str(path)!r} is no record of a ShiftMonitor, or is damaged: {error}.") from None
        except (KeyError, TypeError, ValueError, EOFError, IndexError, zipfile.BadZipFile, zlib.error) as error:
            raise ValueError(
                f"{str(path)!r} is no record of a ShiftMonitor, or is damaged: what it holds cannot be read as samples."
            ) from error
        if version != VERSION:
            raise ValueError(
                f"{str(path)!r} is a record of version {version}; this kbn reads version {VERSION}. Install a newer kbn."
            )
        return record


class _NoRecordError(Exception):
    """With what a file is, instead of a record."""


def _arrays(stream: BinaryIO) -> dict[str, Any]:
    if not zipfile.is_zipfile(stream):
        raise _NoRecordError("it is no whole .npz file")
    stream.seek(0)
    with np.load(stream, allow_pickle=False) as file:
        if "meta" not in file.files:
            raise _NoRecordError("it is an .npz file without the array 'meta', which says what is in a record")
        return {name: file[name] for name in file.files}


def checked_path(path: str | os.PathLike[str]) -> Path:
    """The path of a record.

    Raises:
        ValueError: its name does not end in .npz, or its folder is not there.
    """
    path = Path(path)
    if path.suffix != ".npz":
        raise ValueError(f"A record is a file whose name ends in .npz. Received: path={str(path)!r}")
    if not path.parent.is_dir():
        raise ValueError(f"The folder of the record must be there. Received: path={str(path)!r}")
    return path
