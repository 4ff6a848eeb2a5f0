"""The report of a bench: per setting and file how long a run takes, and how far its numbers are from the first file's."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from .report import Headline, Report, Table
from .wording import one_line

Array = NDArray[Any]

SHAPES_DIFFER = "shapes differ"


@dataclass(frozen=True)
class Spread:
    """The quartiles of what was measured in each round: a quarter of the rounds lies below `low`, a quarter above `high`."""

    low: float
    median: float
    high: float

    @classmethod
    def of(cls, values: Array) -> Spread:
        return cls(*np.percentile(values, (25, 50, 75)).tolist())

    def to_dict(self) -> dict[str, float]:
        return {"median": self.median, "lower_quartile": self.low, "upper_quartile": self.high}


@dataclass(frozen=True)
class Difference:
    """How far one output of a file is from the first file's, in numbers:

        largest = max |y - y_first| / max |y_first|        over the places where both are finite

    Attributes:
        output: the output's name in the first file, or in this one where the first has no such output.
        largest: as above; None where there is no such number.
        remark: what cannot be put into that number, in words; else "".
    """

    output: str
    largest: float | None
    remark: str = ""

    @classmethod
    def between(cls, output: str, found: Any, first: Any) -> Difference:
        """Compares an output with the first file's; either is None where a file has fewer outputs."""
        if found is None or first is None or np.shape(found) != np.shape(first):
            return cls(output, None, SHAPES_DIFFER)
        if not all(isinstance(each, np.ndarray) and each.dtype.kind in "fiub" for each in (found, first)):
            return cls(output, None, "no numbers")  # strings, or the sequences and maps of ONNX-ML
        found, first = found.astype(np.float64), first.astype(np.float64)
        finite, finite_first = np.isfinite(found), np.isfinite(first)
        both = finite & finite_first
        remark = ""
        if not both.all():
            alike = np.array_equal(found[~both], first[~both], equal_nan=True)
            where = (
                "" if alike else " in the first" if finite.all() else " here" if finite_first.all() else ", elsewhere"
            )
            remark = f"NaN or infinity{where}"
        if not both.any() and both.size:
            return cls(output, None, remark)
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            departure = np.abs(found[both] - first[both]).max(initial=0.0)
            relative = float(departure / np.abs(first[both]).max(initial=0.0)) if departure else 0.0
        if not np.isfinite(relative):
            return cls(output, None, remark or "zero in the first alone")
        return cls(output, relative, remark)

    def __str__(self) -> str:
        number = "" if self.largest is None else f"{self.largest:.3g}"
        return ", ".join(part for part in (number, self.remark) if part)

    def to_dict(self) -> dict[str, Any]:
        return {"output": self.output, "largest": self.largest, "remark": self.remark}


@dataclass(frozen=True)
class Timing:
    """One file in one setting.

    Attributes:
        file: the name that the report gives it.
        milliseconds: the time of a run.
        ratio: that time over the first file's in the same round.
        differences: one for each output.
    """

    file: str
    milliseconds: Spread
    ratio: Spread
    differences: tuple[Difference, ...]

    @property
    def worst(self) -> Difference | None:
        """The difference to look at: one that is no mere number before all others, then the largest; None without outputs."""
        return max(self.differences, key=lambda each: (bool(each.remark), each.largest or 0.0), default=None)

    def to_dict(self) -> dict[str, Any]:
        return {
            "file": self.file,
            "milliseconds": self.milliseconds.to_dict(),
            "ratio_to_first": self.ratio.to_dict(),
            "differences": [difference.to_dict() for difference in self.differences],
        }


@dataclass(frozen=True)
class Setting:
    """All files, in turns, with so many threads and so large a batch.

    Attributes:
        threads: of each session, inside an operator.
        batch_size: examples per run.
        inputs: for each input of the first file its name, its dtype and the shape that was fed.
        timings: one for each file, in the order in which they were given.
    """

    threads: int
    batch_size: int
    inputs: tuple[tuple[str, str, tuple[int, ...]], ...]
    timings: tuple[Timing, ...]

    @property
    def title(self) -> str:
        return f"{self.threads} thread{'s' if self.threads > 1 else ''}, batch {self.batch_size}"

    def table(self, note: str) -> Table:
        columns = ("file", "median ms", "quartiles", "ratio to first", "ratio spread", "max difference")
        rows = []
        for number, timing in enumerate(self.timings):
            time, ratio = timing.milliseconds, timing.ratio
            # Against itself the first has nothing to show but what is not finite.
            worst = timing.worst.remark if timing.worst and not number else str(timing.worst or "")
            spread = f"{ratio.low:.3f} to {ratio.high:.3f}" if number else ""
            quartiles = f"{digits(time.low)} to {digits(time.high)}"
            rows.append((timing.file, digits(time.median), quartiles, f"{ratio.median:.3f}", spread, worst))
        fed = "; ".join(f"{one_line(name)} {dtype} {_shown(shape)}" for name, dtype, shape in self.inputs)
        notes = [f"Fed: {fed}." if fed else "The files take no input.", *([note] if note else [])]
        return Table(self.title, columns, rows, frozenset(columns[1:]), "\n".join(notes))

    def to_dict(self) -> dict[str, Any]:
        return {
            "threads": self.threads,
            "batch_size": self.batch_size,
            "inputs": [{"name": name, "dtype": dtype, "shape": list(shape)} for name, dtype, shape in self.inputs],
            "timings": [timing.to_dict() for timing in self.timings],
        }


@dataclass(frozen=True)
class Machine:
    """What the times depend on beside the files: the processor, its logical cores, the version of onnxruntime."""

    cpu: str
    cores: int
    onnxruntime: str

    @classmethod
    def here(cls, cpuinfo: Path = Path("/proc/cpuinfo")) -> Machine:
        lines = cpuinfo.read_text(errors="replace").splitlines() if cpuinfo.is_file() else []
        models = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
        cpu = next(models, "") or platform.processor() or platform.machine()
        return cls(one_line(cpu), os.cpu_count() or 1, onnxruntime.__version__)

    def __str__(self) -> str:
        return f"{self.cpu}, {self.cores} cores, onnxruntime {self.onnxruntime}"


@dataclass(frozen=True)
class BenchReport(Report):
    """What `kbn.export.bench` measured.

    Attributes:
        files: the path of each file, by the name that the report gives it; the first is the one that ratios refer to.
        settings: one for each number of threads and batch size.
        rounds: how often each file was timed in a setting, once per round.
        warm_up: how often it was run before that.
        seed: of the order within the rounds, and of the random inputs.
        size: of free dimensions other than the batch.
        own_data: whether the inputs were given rather than drawn.
        machine: where this was measured.
    """

    schema: ClassVar[str] = "kbn.bench/1"
    files: dict[str, Path]
    settings: tuple[Setting, ...]
    rounds: int
    warm_up: int
    seed: int
    size: int
    own_data: bool
    machine: Machine

    def headline(self) -> Headline:
        return Headline("Latency of " + ", ".join(self.files), lead=str(self.machine))

    def tables(self) -> list[Table]:
        rounds = f"{self.rounds} round{'s' if self.rounds > 1 else ''}"
        note = (
            f"{rounds}, in each of which every file runs once, in an order drawn anew; ratios are taken within a round.\n"
            "Max difference is to the first file's outputs, over their largest value.\n"
            f"{self.machine}."
        )
        return [setting.table(note if setting is self.settings[-1] else "") for setting in self.settings]

    def to_dict(self) -> dict[str, Any]:
        return {
            "schema": self.schema,
            "files": [{"file": name, "path": str(path)} for name, path in self.files.items()],
            "rounds": self.rounds,
            "warm_up": self.warm_up,
            "seed": self.seed,
            "size": self.size,
            "own_data": self.own_data,
            "machine": vars(self.machine).copy(),
            "settings": [setting.to_dict() for setting in self.settings],
        }


def names_of(paths: Sequence[Path]) -> list[str]:
    """A name for each file: its own, its path where names collide, with a number where the same path is given again."""
    own = [path.name for path in dict.fromkeys(paths)]
    named = [str(path) if own.count(path.name) > 1 else path.name for path in paths]
    return [
        f"{name} ({named[:index].count(name) + 1})" if name in named[:index] else name
        for index, name in enumerate(named)
    ]


def digits(number: float) -> str:
    """Three digits that count, more where the number is large."""
    return f"{number:#.3g}".rstrip(".") if number < 999.5 else f"{number:,.0f}"


def _shown(shape: Sequence[int]) -> str:
    return " x ".join(map(str, shape)) or "scalar"
